//! `faultwire toxiproxy`: its API, request by request, and what toxics do to connections of this host's own kernel.

mod scarce;
mod toxics;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use faultwire::lab::clock::now;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::system::common::{Scratch, faultwire, said, send};

/// A server, and an upstream that echoes.
pub(crate) struct Server {
    child: Child,
    api: SocketAddr,
    upstream: SocketAddr,
    _said: BufReader<std::process::ChildStderr>,
}

/// The answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_by("", options)
    }

    /// As [`Self::start`], with these lines of a shell before it.
    fn start_by(before: &str, options: &[&str]) -> Self {
        let (mut child, upstream) = Self::begin(before, options);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let api = line.split("http://").nth(1).and_then(|rest| rest.split(',').next()).map(str::parse);
        let Some(Ok(api)) = api else { panic!("it did not start: {line}") };
        Self { child, api, upstream, _said: stderr }
    }

    /// The program, and where its upstream is.
    fn begin(before: &str, options: &[&str]) -> (Child, SocketAddr) {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = echo.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in echo.incoming() {
                std::thread::spawn(move || {
                    let mut client = client.unwrap();
                    client.set_nodelay(true).unwrap();
                    // A client may close at any time.
                    let _ = std::io::copy(&mut client.try_clone().unwrap(), &mut client);
                });
            }
        });
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{before}\nexec \"$0\" \"$@\"")]).arg(faultwire().get_program());
        command.args(["toxiproxy", "--listen", "localhost:0", "--seed", "7"]).args(options);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        (child, upstream)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(method, path, "", body)
    }

    /// The answer to a request, which must have this status.
    fn must(&self, status: u16, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.ask(method, path, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        answer
    }

    /// A proxy of the upstream; where it listens.
    fn proxy(&self, name: &str) -> SocketAddr {
        let body = json!({ "name": name, "listen": "127.0.0.1:0", "upstream": self.upstream.to_string() });
        self.must(201, "POST", "/proxies", &body).json()["listen"].as_str().unwrap().parse().unwrap()
    }

    /// The namespaces that it holds.
    fn namespaces(&self) -> Vec<File> {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let links = fds.map(|fd| fd.unwrap().path());
        let is_netns = |path: &PathBuf| {
            // A file that was closed meanwhile does not count.
            std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("net:["))
        };
        links.filter(is_netns).map(|path| File::open(path).unwrap()).collect()
    }

    fn toxic(&self, proxy: &str, toxic: &Value) {
        self.must(200, "POST", &format!("/proxies/{proxy}/toxics"), toxic);
    }

    fn reset(&self) {
        self.must(204, "POST", "/reset", &Value::Null);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A resolver that never answers, and the shell lines that make a program use it.
fn silent_resolver() -> (UdpSocket, Scratch, String) {
    let socket =
        (1..=254).find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 53, 53, last), 53)).ok()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap().ip();
    let file = Scratch::file(&format!("nameserver {address}\noptions timeout:30\n"));
    let lines = format!(
        "[ -n \"$ALONE\" ] || ALONE=1 exec unshare --mount sh -ec 'mount --bind {} /etc/resolv.conf; exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        file.path()
    );
    (socket, file, lines)
}

/// Returns once a question has come.
fn is_asked(resolver: &UdpSocket) {
    resolver.recv(&mut [0; 512]).unwrap();
}

/// The devices of a namespace, but for the loopback device.
fn devices(netns: &File) -> Vec<String> {
    std::thread::scope(|scope| {
        let look = || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
            names.filter(|name| name != "lo").collect()
        };
        scope.spawn(look).join().unwrap()
    })
}

fn connect(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends this number of bytes and reads them back; returns the time.
fn echo(stream: &TcpStream, bytes: usize) -> std::io::Result<Duration> {
    let start = now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| (&mut &*stream).write_all(&vec![b'x'; bytes]));
        (&mut &*stream).read_exact(&mut vec![0; bytes])?;
        sender.join().unwrap()
    })?;
    Ok(start.elapsed())
}

/// The number of bytes until the end of the stream, and the error, if it ends with one.
fn rest(mut stream: &TcpStream) -> (usize, Option<ErrorKind>) {
    let (mut all, mut buffer) = (0, vec![0; 65_536]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(read) => all += read,
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

const MS: Duration = Duration::from_millis(1);

/// How long a client waits before it gives up: far longer than any toxic here.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn each_request_is_answered_as_toxiproxy_does() {
    let server = Server::start(&[]);
    let toxic = r#"{"attributes":{"latency":5,"jitter":0},"name":"latency_downstream","type":"latency","stream":"downstream","toxicity":1.0}"#;
    let updated = toxic.replace("\"jitter\":0", "\"jitter\":2").replace("1.0}", "0.5}");
    let off = r#"{"name":"a","listen":"127.0.0.1:0","upstream":"127.0.0.1:9","enabled":false,"toxics":[]}"#;
    let with = off.replace("[]", &format!("[{toxic}]"));
    let error = |text: &str, status: u16| format!("{{\"error\":\"{text}\",\"status\":{status}}}\n");
    let no_proxy = error("proxy not found", 404);
    let no_toxic = error("toxic not found", 404);
    let (proxies, a, toxics) = ("/proxies", "/proxies/a", "/proxies/a/toxics");
    let one = "/proxies/a/toxics/latency_downstream";
    // In this order: each step builds on the steps before it.
    let table: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", proxies, "", 200, "{}"),
        ("POST", proxies, "", 400, &error("bad request body: EOF", 400)),
        ("POST", proxies, "{}", 400, &error("missing required field: name", 400)),
        ("POST", proxies, r#"{"name": "a"}"#, 400, &error("missing required field: upstream", 400)),
        (
            "POST",
            proxies,
            r#"{"name": 1}"#,
            400,
            &error("bad request body: name has to be a string, not the number 1", 400),
        ),
        (
            "POST",
            proxies,
            r#"{"name": "a", "upstream": "127.0.0.1:9", "listen": "127.0.0.1:0", "enabled": false}"#,
            201,
            off,
        ),
        ("POST", proxies, r#"{"Name": "a", "UPSTREAM": "x"}"#, 409, &error("proxy already exists", 409)),
        ("GET", a, "", 200, off),
        ("GET", proxies, "", 200, &format!("{{\"a\":{off}}}")),
        ("GET", "/proxies/b", "", 404, &no_proxy),
        ("POST", "/proxies/b", "{}", 404, &no_proxy),
        ("DELETE", "/proxies/b", "", 404, &no_proxy),
        ("GET", "/proxies/b/toxics", "", 404, &no_proxy),
        ("POST", "/proxies/b/toxics", "{}", 404, &no_proxy),
        ("GET", toxics, "", 200, "[]"),
        ("POST", toxics, "{", 400, ""),
        ("POST", toxics, "{}", 400, &error("invalid toxic type", 400)),
        (
            "POST",
            toxics,
            r#"{"type": "latency", "stream": "x"}"#,
            400,
            &error("stream was invalid, can be either upstream or downstream", 400),
        ),
        ("POST", toxics, r#"{"type": "latency", "attributes": {"latency": 5}, "enabled": true}"#, 200, toxic),
        ("POST", toxics, r#"{"type": "latency"}"#, 409, &error("toxic already exists", 409)),
        ("GET", toxics, "", 200, &format!("[{toxic}]")),
        ("GET", one, "", 200, toxic),
        ("GET", a, "", 200, &with),
        ("GET", "/proxies/a/toxics/b", "", 404, &no_toxic),
        ("POST", "/proxies/a/toxics/b", "{}", 404, &no_toxic),
        ("DELETE", "/proxies/a/toxics/b", "", 404, &no_toxic),
        ("PATCH", one, r#"{"attributes": {"jitter": 2}, "name": "b", "toxicity": 0.5}"#, 200, &updated),
        ("POST", one, r#"{"attributes": {"jitter": 0}, "toxicity": 1}"#, 200, toxic),
        ("DELETE", one, "", 204, ""),
        ("PATCH", a, r#"{"upstream": "127.0.0.1:7"}"#, 200, &off.replace(":9", ":7")),
        ("POST", a, r#"{"upstream": "127.0.0.1:9", "enabled": null}"#, 200, off),
        ("POST", a, r#"{"enabled": "no"}"#, 400, ""),
        ("DELETE", a, "", 204, ""),
        ("GET", proxies, "", 200, "{}"),
        ("POST", "/reset", "", 204, ""),
        ("GET", "/version", "", 200, "{\"version\": \"2.12.0\"}\n"),
        ("GET", "/", "", 404, "404 page not found\n"),
        ("PUT", proxies, "", 405, ""),
        (
            "POST",
            proxies,
            r#"{"name": "c", "upstream": "x:1", "listen": "127.0.0.1:x"}"#,
            500,
            &error("address 127.0.0.1:x: invalid port", 500),
        ),
        ("GET", proxies, "", 200, "{}"),
    ];
    for (method, path, body, status, expected) in table {
        let answer = server.ask(method, path, body);
        assert_eq!(answer.status, *status, "{method} {path} {body}: {}", answer.body);
        assert!(answer.head.contains("\nx-toxiproxy-request-id: "), "{}", answer.head);
        if !expected.is_empty() {
            assert_eq!(answer.body, *expected, "{method} {path} {body}");
        }
        if *status >= 400 && *status != 405 {
            assert!(answer.head.contains("\ncontent-type: text/plain; charset=utf-8"), "{}", answer.head);
        }
    }
    let browser = server.send("GET", "/version", "User-Agent: Mozilla/5.0 (X11)\r\n", "");
    assert_eq!((browser.status, browser.body.as_str()), (403, "User agent not allowed\n"));
    // An address that is in use.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = holder.local_addr().unwrap();
    let taken = server.must(
        500,
        "POST",
        "/proxies",
        &json!({ "name": "d", "upstream": "x:1", "listen": busy.to_string() }),
    );
    assert!(taken.body.contains("address already in use"), "{}", taken.body);
    drop(holder);
}

#[test]
fn populate_leaves_what_is_the_same_alone() {
    let file = Scratch::file(
        r#"[{"name": "given", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9", "enabled": false}]"#,
    );
    let server = Server::start(&["--config", file.path()]);
    assert_eq!(server.must(200, "GET", "/proxies/given", &Value::Null).json()["enabled"], false);
    let listen = server.proxy("a");
    let open = connect(listen);
    echo(&open, 10).unwrap();
    server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 1 } }));
    let same = json!({ "name": "a", "listen": listen.to_string(), "upstream": server.upstream.to_string() });
    let new = json!({ "name": "b", "listen": "0.0.0.0:0", "upstream": server.upstream.to_string() });
    let made = server.must(201, "POST", "/populate", &json!([same, new])).json();
    assert_eq!(made["proxies"][0]["toxics"][0]["name"], "latency_downstream");
    assert_eq!(made["proxies"].as_array().unwrap().len(), 2);
    echo(&open, 10).unwrap();
    // An unspecified address listens on both families, as in Go.
    let all: SocketAddr = made["proxies"][1]["listen"].as_str().unwrap().parse().unwrap();
    assert!(all.ip().is_unspecified());
    echo(&connect(SocketAddr::from(([127, 0, 0, 1], all.port()))), 10).unwrap();
    // A proxy with another upstream is replaced.
    let other = json!({ "name": "a", "listen": listen.to_string(), "upstream": "127.0.0.1:9" });
    let made = server.must(201, "POST", "/populate", &json!([other])).json();
    assert_eq!(made["proxies"][0]["toxics"], json!([]));
    assert_eq!(rest(&open).0, 0);
    let wrong = server.must(400, "POST", "/populate", &json!([{ "name": "x" }])).json();
    let expected =
        json!({ "error": "missing required field: upstream at proxy 1", "status": 400, "proxies": null });
    assert_eq!(wrong, expected);
    let half = server.must(500, "POST", "/populate", &json!([{ "name": "x", "upstream": "y:1", "enabled": false }, { "name": "y", "upstream": "y:1", "listen": "z" }]));
    assert_eq!(half.json()["proxies"][0]["name"], "x");
    assert_eq!(half.json()["status"], 500);
}

#[test]
fn a_proxy_that_is_disabled_closes_everything() {
    let server = Server::start(&[]);
    let listen = server.proxy("a");
    let open = connect(listen);
    echo(&open, 10).unwrap();
    server.must(200, "POST", "/proxies/a", &json!({ "enabled": false }));
    assert_eq!(rest(&open).0, 0);
    assert_eq!(TcpStream::connect(listen).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.reset();
    echo(&connect(listen), 10).unwrap();
    // An upstream that refuses: the connection is closed.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    server.must(200, "PATCH", "/proxies/a", &json!({ "upstream": closed.to_string() }));
    assert_eq!(rest(&connect(listen)).0, 0);
    server.must(204, "DELETE", "/proxies/a", &Value::Null);
    assert_eq!(TcpStream::connect(listen).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn nothing_stays_however_it_ends() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut server = Server::start(&[]);
        let listen = server.proxy("a");
        server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 60_000 } }));
        let open = connect(listen);
        (&open).write_all(&[0; 1000]).unwrap();
        let links = server.namespaces();
        assert_eq!(links.iter().flat_map(devices).collect::<BTreeSet<_>>().len(), 2, "near and far");
        send(&server.child, signal);
        let status = server.child.wait().unwrap();
        assert_eq!(status.code(), (signal == Signal::SIGTERM).then_some(0));
        assert_eq!(rest(&open).0, 0);
        TcpListener::bind(listen).unwrap();
        assert_eq!(links.iter().flat_map(devices).collect::<Vec<_>>(), [""; 0]);
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let output = faultwire().args(["toxiproxy", "--listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("Address already in use"), "{}", said(&output));
    let file = Scratch::file(r#"[{"name": "a"}]"#);
    let output =
        faultwire().args(["toxiproxy", "--listen", "127.0.0.1:0", "--config", file.path()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("missing required field: upstream at proxy 1"), "{}", said(&output));
    let output = faultwire().args(["toxiproxy", "--config", "/nowhere.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
