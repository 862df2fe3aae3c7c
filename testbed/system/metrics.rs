//! Readers of `/metrics` that take their time, while the configuration has so many stages that an answer is longer than what the
//! kernel keeps for a socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::system::common::{Running, said, until};
use crate::system::control::{Asked, resident};

/// Stages of each of two paths.
const STAGES: usize = 500;
const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: faultwire\r\n\r\n";
/// Clients of each kind, at each of the two sockets.
const CLIENTS: usize = 8;

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Where metrics are served.
#[derive(Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Place {
    /// Not blocking, if it is for a client that does not care.
    fn connect(&self, blocks: bool) -> Box<dyn Stream> {
        let patience = Some(Duration::from_mins(1));
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_nonblocking(!blocks).unwrap();
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nonblocking(!blocks).unwrap();
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
        }
    }

    /// A whole answer, to a client that reads it at once.
    fn read(&self) -> String {
        let mut stream = self.connect(true);
        let request = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = format!("content-length: {}", body.len());
        assert!(head.lines().any(|line| line.to_lowercase() == length), "{head}");
        assert_eq!(body.matches("\nfaultwire_stage_seen_packets_total{").count(), 2 * STAGES);
        body.to_owned()
    }

    /// Asks again and again and never reads: as often as the answers find room, and then until requests find none.
    fn ask_without_reading(&self) -> Box<dyn Stream> {
        let mut stream = self.connect(false);
        let requests = REQUEST.repeat(20);
        let mut rest = requests.as_bytes();
        while let Ok(count @ 1..) = stream.write(rest) {
            rest = &rest[count..];
        }
        stream
    }
}

/// The sockets that a process has open.
fn sockets(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // A descriptor may have been closed since it was listed.
    let is_socket =
        |path: PathBuf| std::fs::read_link(path).is_ok_and(|of| of.to_string_lossy().starts_with("socket:"));
    open.filter(|entry| is_socket(entry.as_ref().unwrap().path())).count()
}

/// Clients that ask and never read, those that send a request byte by byte, and those that never end it cost nobody else an answer and
/// no packet; what is kept for them is bounded, and goes with them.
#[test]
fn slow_readers_of_metrics_stop_nobody_and_leave_nothing() {
    let stages = "[[path.stage]]\ntype = \"loss\"\nprobability = \"0%\"\n".repeat(STAGES);
    let paths = [("left", "right"), ("right", "left")]
        .map(|(from, to)| format!("[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\n{stages}"));
    let mut asked = Asked::start(&paths.concat(), &["--metrics", "127.0.0.1:0"]);
    let line = asked.running.hears("metrics at http://");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let places = [Place::Unix(asked.socket()), Place::Tcp(address)];
    let pid = asked.running.child.id();
    let answer = places.iter().map(|place| place.read().len()).max().unwrap();
    assert!(answer > 1 << 20, "{answer}");
    // The first two connections may still be among them: fewer than one for each round.
    let (before, alone) = (sockets(pid), resident(pid));
    for round in 1..=6 {
        let mut readers = Vec::new();
        let mut half = Vec::new();
        for place in &places {
            for client in 0..CLIENTS {
                readers.push(place.ask_without_reading());
                let mut stream = place.connect(false);
                stream.write_all(&REQUEST.as_bytes()[..client * 5]).unwrap();
                half.push((stream, client * 5));
            }
        }
        let ping = ["ping", "-q", "-c", "50", "-i", "0.002", "-W", "60", "10.88.2.2"];
        let ping = Running::inside(&asked.running.left, &ping).output().unwrap();
        assert!(said(&ping).contains(" 50 received"), "{}", said(&ping));
        for place in &places {
            // A byte more of each that is not whole, but never the last.
            for (stream, sent) in half.iter_mut().filter(|(_, sent)| *sent + 1 < REQUEST.len()) {
                // It may have been closed for its slowness.
                if stream.write_all(&REQUEST.as_bytes()[*sent..=*sent]).is_ok() {
                    *sent += 1;
                }
            }
            let text = place.read();
            let seen = format!("stage=\"loss\",type=\"loss\"}} {}", 50 * round);
            assert!(text.contains(&seen), "the first stage has not seen {seen}");
        }
        assert_eq!(asked.get("/v1/counters")["conserved"], true);
        // What is answered but not read, and twice as much for what is being made and what is free but not given back: less than what
        // these rounds leave if each reader leaves its answer.
        let most = (3 * readers.len() * answer) as u64;
        let memory = resident(pid);
        assert!(memory < alone + most, "{} MiB, {} MiB alone", memory >> 20, alone >> 20);
        if round == 1 {
            // Those that never end their requests are closed.
            for (stream, _) in &mut half {
                until("it is closed", || match stream.read(&mut [0; 1024]) {
                    Ok(0) => true,
                    Ok(_) => false,
                    Err(error) => error.kind() != ErrorKind::WouldBlock,
                });
            }
        }
        drop((readers, half));
        until("all connections are closed", || sockets(pid) <= before);
    }
    let summary = asked.running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
}
