//! `faultwire toxiproxy`: its API, request by request, and what toxics do to connections of this host's own kernel.

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

/// A server, and an upstream that gives back what it gets.
pub(crate) struct Server {
    child: Child,
    api: SocketAddr,
    upstream: SocketAddr,
    _said: BufReader<std::process::ChildStderr>,
}

/// What was answered.
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
                    // A client may leave as it likes.
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

    /// What must be answered by this status.
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
            // One that is closed meanwhile is none.
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

/// A resolver that hears every question and answers none, and the lines of a shell by which a program asks it.
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

/// Sends so many bytes and reads as many back; how long that took.
fn echo(stream: &TcpStream, bytes: usize) -> std::io::Result<Duration> {
    let start = now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| (&mut &*stream).write_all(&vec![b'x'; bytes]));
        (&mut &*stream).read_exact(&mut vec![0; bytes])?;
        sender.join().unwrap()
    })?;
    Ok(start.elapsed())
}

/// How many bytes come until the end, and the error if that is one.
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
    // In this order: each sees what those before have done.
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
    // An address that is taken.
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
    // All addresses are those of both families, as Go has it.
    let all: SocketAddr = made["proxies"][1]["listen"].as_str().unwrap().parse().unwrap();
    assert!(all.ip().is_unspecified());
    echo(&connect(SocketAddr::from(([127, 0, 0, 1], all.port()))), 10).unwrap();
    // Another upstream is another proxy.
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
fn latency_comes_and_goes_on_an_open_connection() {
    let server = Server::start(&[]);
    let stream = connect(server.proxy("a"));
    echo(&stream, 10).unwrap();
    server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 1000 } }));
    server.toxic("a", &json!({ "type": "latency", "stream": "upstream", "attributes": { "latency": 500 } }));
    assert!(echo(&stream, 10).unwrap() >= 1500 * MS);
    // A new connection waits no more than that: its opening is not delayed. With it there would be 3 s.
    let start = now();
    echo(
        &connect(
            server.must(200, "GET", "/proxies/a", &Value::Null).json()["listen"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        ),
        10,
    )
    .unwrap();
    assert!((1500 * MS..2900 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    server.must(
        200,
        "PATCH",
        "/proxies/a/toxics/latency_downstream",
        &json!({ "attributes": { "latency": 60_000 } }),
    );
    // What a toxic holds leaves when it goes.
    let held = std::thread::scope(|scope| {
        let held = scope.spawn(|| echo(&stream, 10).unwrap());
        (&mut &stream).flush().unwrap();
        let listed = || server.must(200, "GET", "/metrics", &Value::Null).body;
        // Three exchanges of 10 bytes before, and this one.
        crate::system::common::until("the answer is under way", || {
            listed().contains("received_bytes_total{direction=\"downstream\"")
                && listed().lines().any(|line| {
                    line.starts_with("toxiproxy_proxy_received_bytes_total{direction=\"downstream\"")
                        && line.ends_with(" 40")
                })
        });
        server.reset();
        held.join().unwrap()
    });
    assert!((500 * MS..30_000 * MS).contains(&held), "{held:?}");
    assert!(echo(&stream, 10).unwrap() < 500 * MS);
}

#[test]
fn bandwidth_is_that_of_the_data() {
    let server = Server::start(&[]);
    let stream = connect(server.proxy("a"));
    server.toxic("a", &json!({ "type": "bandwidth", "attributes": { "rate": 200 } }));
    // 400,000 bytes at 200,000 bytes a second. The last segment's share of the time counts; what is sent twice costs more.
    let took = echo(&stream, 400_000).unwrap();
    assert!((1990 * MS..6000 * MS).contains(&took), "{took:?}");
    // Nothing at all passes at 0, and nothing is lost.
    server.must(
        200,
        "POST",
        "/proxies/a/toxics/bandwidth_downstream",
        &json!({ "attributes": { "rate": 0 } }),
    );
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 1000).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn connections_end_as_the_toxics_say() {
    let server = Server::start(&[]);
    let listen = server.proxy("a");
    let reset = Some(ErrorKind::ConnectionReset);
    for (toxic, bytes, ending, least, most) in [
        (json!({ "type": "reset_peer" }), 0, reset, 0, 20_000),
        (
            json!({ "type": "reset_peer", "stream": "upstream", "attributes": { "timeout": 400 } }),
            0,
            reset,
            400,
            20_000,
        ),
        (json!({ "type": "timeout", "attributes": { "timeout": 300 } }), 0, reset, 300, 20_000),
        (
            json!({ "type": "timeout", "stream": "upstream", "attributes": { "timeout": 300 } }),
            0,
            reset,
            300,
            20_000,
        ),
        (json!({ "type": "limit_data", "attributes": { "bytes": 12_345 } }), 12_345, None, 0, 20_000),
        (
            json!({ "type": "limit_data", "stream": "upstream", "attributes": { "bytes": 0 } }),
            0,
            None,
            0,
            20_000,
        ),
    ] {
        for is_open_before in [false, true] {
            let before = is_open_before.then(|| connect(listen));
            if let Some(stream) = &before {
                echo(stream, 1).unwrap();
            }
            server.toxic("a", &toxic);
            let stream = before.unwrap_or_else(|| connect(listen));
            let start = now();
            // A limit may end the connection while it is still being written to.
            let _ = (&stream).write_all(&vec![0; 50_000]);
            assert_eq!(rest(&stream), (bytes, ending), "{toxic} {is_open_before}");
            assert!((least * MS..most * MS).contains(&start.elapsed()), "{toxic}: {:?}", start.elapsed());
            server.reset();
        }
    }
    // Silence that ends with the toxic; TCP sends again what was lost.
    let stream = connect(listen);
    server.toxic("a", &json!({ "type": "timeout" }));
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 1000).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).read_exact(&mut [0; 1000]).unwrap();
    // The end comes later than the data.
    server.toxic("a", &json!({ "type": "slow_close", "attributes": { "delay": 2000 } }));
    assert!(echo(&stream, 10).unwrap() < 2000 * MS);
    let start = now();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&stream), (0, None));
    assert!(start.elapsed() >= 2000 * MS);
}

#[test]
fn a_slicer_makes_small_pieces_with_pauses() {
    let server = Server::start(&[]);
    let mut stream = connect(server.proxy("a"));
    let slicer = json!({ "average_size": 100, "size_variation": 50, "delay": 5000 });
    server.toxic("a", &json!({ "type": "slicer", "attributes": slicer }));
    stream.write_all(&[7; 3000]).unwrap();
    let start = now();
    let (mut sizes, mut buffer) = (Vec::new(), [0; 4000]);
    while sizes.iter().sum::<usize>() < 3000 {
        sizes.push(stream.read(&mut buffer).unwrap());
    }
    // At most 150 bytes each: 20 pieces or more, 19 pauses. A reader that is late finds several at once.
    assert!(start.elapsed() >= 19 * 5 * MS, "{:?}", start.elapsed());
    assert!(sizes.iter().filter(|size| **size <= 150).count() >= 5, "{sizes:?}");
    // A pause ends with its slicer.
    let slicer = json!({ "attributes": { "delay": 3_600_000_000_u64 } });
    server.must(200, "PATCH", "/proxies/a/toxics/slicer_downstream", &slicer);
    stream.write_all(&[7; 3000]).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut buffer[..3000]).unwrap();
}

/// What a toxic holds is let go when that toxic goes, not when another one comes or goes.
#[test]
fn a_change_of_one_toxic_leaves_what_others_hold() {
    let server = Server::start(&[]);
    let mut stream = connect(server.proxy("a"));
    echo(&stream, 10).unwrap();
    server.toxic("a", &json!({ "type": "bandwidth", "attributes": { "rate": 0 } }));
    stream.write_all(&[0; 1000]).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    let nothing = |mut stream: &TcpStream| stream.read(&mut [0; 10]).unwrap_err().kind();
    assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
    for direction in ["upstream", "downstream"] {
        server.toxic("a", &json!({ "type": "latency", "name": direction, "stream": direction, "attributes": { "latency": 1 } }));
        assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
        server.must(204, "DELETE", &format!("/proxies/a/toxics/{direction}"), &Value::Null);
        assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
    }
    server.must(204, "DELETE", "/proxies/a/toxics/bandwidth_downstream", &Value::Null);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn toxicity_hits_the_same_share_for_the_same_seed() {
    let hit = || {
        let server = Server::start(&[]);
        let listen = server.proxy("a");
        server.toxic("a", &json!({ "type": "reset_peer", "toxicity": 0.5 }));
        let hit = |_| echo(&connect(listen), 10).is_err();
        (0..60).map(hit).collect::<Vec<bool>>()
    };
    let first = hit();
    // 60 draws of a half: mean 30, deviation 3.9.
    let count = first.iter().filter(|hit| **hit).count();
    assert!((15..=45).contains(&count), "{count}");
    assert_eq!(first, hit());
}

#[test]
fn faults_are_those_of_packets() {
    let server = Server::start(&[]);
    let listen = server.proxy("a");
    // A path MTU that nobody tells: small segments pass, full ones never do.
    server.toxic("a", &json!({ "type": "faults", "name": "hole", "attributes": { "spec": "mtu 1000" } }));
    let stream = connect(listen);
    echo(&stream, 100).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 50_000).unwrap_err().kind(), ErrorKind::WouldBlock);
    // With the ICMP error the kernel learns the MTU, and everything passes.
    server.reset();
    server.toxic("a", &json!({ "type": "faults", "attributes": { "spec": "mtu 1000 icmp" } }));
    echo(&connect(listen), 200_000).unwrap();
    // TCP repairs losses.
    server.toxic(
        "a",
        &json!({ "type": "packet_loss", "attributes": { "loss_rate": 0.02, "correlation": 0.1 } }),
    );
    echo(&connect(listen), 500_000).unwrap();
    let wrong = server.must(
        400,
        "POST",
        "/proxies/a/toxics",
        &json!({ "type": "faults", "name": "x", "attributes": { "spec": "lost 1%" } }),
    );
    assert!(wrong.body.contains("loss"), "{}", wrong.body);
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

/// While a change waits for a name, other proxies are served, shown and changed, and the end is heard.
#[test]
fn nothing_waits_for_a_resolver_that_is_silent() {
    let (resolver, _file, lines) = silent_resolver();
    let server = Server::start_by(&lines, &[]);
    let listen = server.proxy("a");
    let slow = json!({ "name": "slow", "listen": "name.invalid:0", "upstream": "x:1" }).to_string();
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| {
            let mut stream = TcpStream::connect(server.api).unwrap();
            let length = slow.len();
            write!(stream, "POST /proxies HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{slow}")
                .unwrap();
            // It ends without an answer.
            stream.read_to_end(&mut Vec::new())
        });
        is_asked(&resolver);
        let all = server.must(200, "GET", "/proxies", &Value::Null).json();
        assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["a"]);
        server.must(200, "GET", "/metrics", &Value::Null);
        server.must(404, "GET", "/proxies/slow", &Value::Null);
        server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 1 } }));
        server.proxy("b");
        server.must(204, "DELETE", "/proxies/b", &Value::Null);
        echo(&connect(listen), 10).unwrap();
        send(&server.child, Signal::SIGTERM);
        let _ = creation.join().unwrap();
    });
    let mut server = server;
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// Connections that are given up while the resolver is silent leave room for changes.
#[test]
fn lookups_that_nobody_waits_for_keep_their_number() {
    let (resolver, _file, lines) = silent_resolver();
    let server = Server::start_by(&lines, &[]);
    let steady = server.proxy("steady");
    let named = json!({ "name": "named", "listen": "127.0.0.1:0", "upstream": "name.invalid:1" });
    let listen = server.must(201, "POST", "/proxies", &named).json()["listen"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let clients: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&listen).unwrap()).collect();
        is_asked(&resolver);
        server.must(200, "POST", "/proxies/named", &json!({ "enabled": false }));
        server.must(200, "POST", "/proxies/named", &json!({ "enabled": true }));
        drop(clients);
    }
    server.toxic("steady", &json!({ "type": "latency", "attributes": { "latency": 1 } }));
    echo(&connect(steady), 10).unwrap();
}

#[test]
fn the_end_is_heard_while_the_first_proxies_are_made() {
    let (resolver, _resolv, lines) = silent_resolver();
    let file = Scratch::file(r#"[{"name": "a", "listen": "name.invalid:0", "upstream": "x:1"}]"#);
    let (mut child, _) = Server::begin(&lines, &["--config", file.path()]);
    is_asked(&resolver);
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Connections for which there are no file descriptors wait, and are served when others have ended.
#[test]
fn connections_wait_where_files_are_scarce() {
    let server = Server::start_by("ulimit -n 232", &[]);
    let listen = server.proxy("a");
    // 40 descriptors are left for a proxy of 17 and connections of 4.
    let mut open: Vec<TcpStream> = (0..5).map(|_| connect(listen)).collect();
    for stream in &open {
        echo(stream, 10).unwrap();
    }
    let late = connect(listen);
    late.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&late, 10).unwrap_err().kind(), ErrorKind::WouldBlock);
    let other = json!({ "name": "b", "listen": "127.0.0.1:0", "upstream": "x:1" });
    let refused = server.must(500, "POST", "/proxies", &other);
    assert!(refused.body.contains("too many open files"), "{}", refused.body);
    server.must(200, "GET", "/proxies/a", &Value::Null);
    drop(open.pop());
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    (&late).read_exact(&mut [0; 10]).unwrap();
    drop(open);
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
