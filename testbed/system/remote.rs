//! The interface over TCP: which requests are accepted, and what hostile clients cost.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::system::common::{Running, Scratch, config, output, said, tool, unique};
use crate::system::control::resident;

const PATHS: &str = r#"
[[path]]
from = "left"
to = "right"
[[path.stage]]
type = "delay"
delay = "1ms"
[[path]]
from = "right"
to = "left"
"#;

struct Remote {
    running: Running,
    socket: PathBuf,
    address: SocketAddr,
    token: String,
}

/// The file beside a socket with its token.
fn token_of(socket: &Path) -> PathBuf {
    format!("{}.token", socket.display()).into()
}

impl Remote {
    fn start() -> Self {
        let name = unique();
        let (left, right) = (format!("{name}l"), format!("{name}r"));
        let socket = std::env::temp_dir().join(format!("{name}.sock"));
        let file = Scratch::file(&config(&left, &right, "seed = 5", PATHS));
        // Port 0 is a free one, of the loopback address.
        let options = ["--control", socket.to_str().unwrap(), "--control-listen", "0"];
        let mut running = Running::with(file, [left, right], &options);
        let said = running.hears("control at");
        let address = said.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        let token = std::fs::read_to_string(token_of(&socket)).unwrap().trim().to_owned();
        Self { running, socket, address, token }
    }

    /// The complete answer to a request with this head and body.
    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        // The request may be refused before it is written completely.
        let _ = stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn with_token(&self, request: &str, more: &str) -> String {
        self.ask(&format!("{request} HTTP/1.1\r\nAuthorization: Bearer {}{more}", self.token), b"")
    }

    fn ping(&self) {
        let ping = Running::inside(&self.running.left, &["ping", "-q", "-c5", "-i0.01", "10.88.2.2"])
            .output()
            .unwrap();
        assert!(said(&ping).contains(" 0% packet loss"), "{}", said(&ping));
    }
}

/// The token opens everything; without it, with one that is wrong by a character and to a browser nothing is open.
#[test]
fn only_the_token_opens_the_interface() {
    let remote = Remote::start();
    assert!(remote.address.ip().is_loopback());
    let file = token_of(&remote.socket);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let authorization = format!("Authorization: Bearer {}", remote.token);
    let url = format!("http://{}/v1/paths/left%3Eright/stages/delay", remote.address);
    let curl = ["-sSf", "-X", "PATCH", "-H", &authorization, "-d", r#"{"set":{"delay":"2ms"}}"#, &url];
    let changed = tool("curl").args(curl).output().unwrap();
    assert!(changed.status.success(), "{}", said(&changed));
    let mut wrong = remote.token.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == '0' { '1' } else { '0' });
    for resource in ["/v1/state", "/metrics", "/v1/openapi.json", "/nothing"] {
        let right = remote.with_token(&format!("GET {resource}"), "");
        assert!(
            right.starts_with(if resource == "/nothing" { "HTTP/1.1 404" } else { "HTTP/1.1 200" }),
            "{right}"
        );
        for (answer, status, field) in [
            (remote.ask(&format!("GET {resource} HTTP/1.1"), b""), "401", "Authorization"),
            (
                remote.ask(&format!("GET {resource} HTTP/1.1\r\nAuthorization: Bearer {wrong}"), b""),
                "401",
                "Authorization",
            ),
            (remote.with_token(&format!("GET {resource}"), "\r\nOrigin: http://evil"), "403", "Origin"),
            (
                remote.with_token(&format!("GET {resource}"), "\r\nUser-Agent: Mozilla/5.0"),
                "403",
                "User-Agent",
            ),
        ] {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{resource}: {answer}");
            assert!(answer.contains(&format!("\"field\":\"{field}\"")), "{resource}: {answer}");
        }
    }
    let Remote { running, socket, .. } = remote;
    let _ = running.stop(Signal::SIGINT);
    assert!(!socket.exists() && !file.exists());
}

/// The server refuses a request and closes before it has read all of it; the reason still arrives.
#[test]
fn a_request_that_is_refused_early_hears_why() {
    let remote = Remote::start();
    let address = remote.address.to_string();
    let large = Scratch::file(&format!("# {}\n", "x".repeat(4 << 20)));
    let other = Scratch::file(&"0".repeat(64));
    std::fs::set_permissions(other.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let token = token_of(&remote.socket);
    for (token, words) in [(token.to_str().unwrap(), "body"), (other.path(), "token")] {
        let asked = ["ctl", "--control", &address, "--token-file", token, "apply", large.path()];
        let refused = output(&asked);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}

/// `ctl` and `top` work with an address as with a socket, if they have the token.
#[test]
fn ctl_asks_and_changes_over_tcp() {
    let remote = Remote::start();
    let (address, token) = (remote.address.to_string(), token_of(&remote.socket));
    let token = token.to_str().unwrap();
    let ctl =
        |words: &[&str]| output(&[&["ctl", "--control", &address, "--token-file", token], words].concat());
    let did = |words: &[&str]| {
        let done = ctl(words);
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    did(&["set", "left>right/delay", "delay=3ms"]);
    assert!(did(&["show"]).contains("delay 3ms"), "{}", did(&["show"]));
    let mut watch = tool(env!("CARGO_BIN_EXE_faultwire"));
    watch.args(["ctl", "--control", &address, "--token-file", token, "watch", "--kinds", "marked"]);
    let mut watching = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening"));
    did(&["mark", "over TCP"]);
    assert!(lines.next().unwrap().unwrap().contains("over TCP"));
    watching.kill().unwrap();
    watching.wait().unwrap();
    let frame = output(&["top", "--once", "--interval", "1ms", "--control", &address, "--token-file", token]);
    assert!(frame.status.success() && said(&frame).contains("left"), "{}", said(&frame));
    assert_eq!(ctl(&["rm", "nothing"]).status.code(), Some(2));
    let wrong = Scratch::file("0123456789abcdef\n");
    std::fs::set_permissions(wrong.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (options, code, why) in [
        (&["--control", &address][..], 2, "--token-file"),
        (&["--token-file", token], 2, "HOST:PORT"),
        (&["--control", &address, "--token-file", "/nowhere"], 1, "no such file"),
        (&["--control", &address, "--token-file", wrong.path()], 2, "show the token"),
    ] {
        let refused = output(&[&["ctl"], options, &["show"]].concat());
        assert_eq!(refused.status.code(), Some(code), "{}", said(&refused));
        assert!(said(&refused).contains(why), "{}", said(&refused));
    }
}

/// A token file of the user is used and kept. It is refused if others may read it, or without a listener.
#[test]
fn a_token_has_a_file_that_is_its_owners() {
    let name = unique();
    let path = std::env::temp_dir().join(format!("{name}.token"));
    let path = path.to_str().unwrap();
    std::fs::write(path, "0123456789abcdef\n").unwrap();
    let exec =
        |options: &[&str]| output(&[&["exec", "--control", "none"], options, &["--", "true"]].concat());
    let open = exec(&["--control-listen", "0", "--control-token", path]);
    assert_eq!(open.status.code(), Some(125), "{}", said(&open));
    assert!(said(&open).contains("chmod it to 0600"), "{}", said(&open));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let used = exec(&["--control-listen", "0", "--control-token", path]);
    assert!(used.status.success() && said(&used).contains("control at http://127.0.0.1:"), "{}", said(&used));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "0123456789abcdef\n");
    std::fs::remove_file(path).unwrap();
    for (options, code) in [(&["--control-token", path][..], 2), (&["--control-listen", "0"], 125)] {
        let refused = exec(options);
        assert_eq!(refused.status.code(), Some(code), "{}", said(&refused));
        assert!(said(&refused).contains("--control-"), "{}", said(&refused));
    }
}

/// Bodies without end, requests that never end and a thousand connections cost neither memory nor packets, nor the next request.
#[test]
fn hostile_clients_cost_nothing() {
    let remote = Remote::start();
    let put = format!("PUT /v1/paths HTTP/1.1\r\nAuthorization: Bearer {}", remote.token);
    let body = vec![b' '; 300 << 10];
    let large = remote.ask(&format!("{put}\r\nContent-Length: {}", body.len()), &body);
    assert!(large.starts_with("HTTP/1.1 413 ") && large.contains("\"field\":\"body\""), "{large}");
    // Without the token, the server does not wait for a body.
    let unknown = remote.ask("PUT /v1/paths HTTP/1.1\r\nContent-Length: 1000000000", b"{");
    assert!(unknown.starts_with("HTTP/1.1 401 "), "{unknown}");
    // A request that stops in the middle of its body or head is aborted.
    let half = |head: &str| {
        let mut stream = TcpStream::connect(remote.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut slow_body = half(&format!("{put}\r\nContent-Length: 100\r\n\r\n{{"));
    let mut slow_head = half("GET /v1/sta");
    // Of a thousand connections some are served, some wait, and the kernel refuses none on the loopback device.
    let many: Vec<TcpStream> = (0..1_000)
        .map_while(|_| TcpStream::connect_timeout(&remote.address, Duration::from_millis(100)).ok())
        .collect();
    assert!(many.len() >= 64, "{}", many.len());
    remote.ping();
    // The Unix socket has its own connection slots.
    let client = faultwire::control::Client::at(&remote.socket);
    assert_eq!(client.get("/v1/state").unwrap()["conserved"], true);
    assert!(resident(remote.running.child.id()) < 100 << 20);
    drop(many);
    let mut answer = String::new();
    slow_body.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let _ = slow_head.read_to_string(&mut answer);
    assert!(remote.with_token("GET /v1/state", "").starts_with("HTTP/1.1 200 "));
}
