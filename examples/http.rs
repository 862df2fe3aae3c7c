//! An HTTP client against an HTTP server under faults: what an integration test with `faultwire::hosts` looks like.
//!
//! The client of this example has a timeout and tries again. The test shows that it survives a link that loses packets, and
//! that it gives up in time when the link is dead. Needs root (or `unshare -Urnm`): `cargo run --example http`.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use faultwire::counters::Reason;
use faultwire::faults::Faults;
use faultwire::hosts::Lab;

const BODY: usize = 100_000;

/// Answers every connection's one request, until the process ends.
fn serve(listener: &TcpListener) -> io::Result<()> {
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        // The request ends with an empty line.
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\nConnection: close\r\n\r\n")?;
        stream.write_all(&vec![b'x'; BODY])?;
    }
    Ok(())
}

/// The client under test: the length of the body, or why there is none after three attempts.
fn get(server: SocketAddr, timeout: Duration) -> io::Result<usize> {
    let attempt = || {
        let mut stream = TcpStream::connect_timeout(&server, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let head = head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(answer.len() - head - 4)
    };
    attempt().or_else(|_| attempt()).or_else(|_: io::Error| attempt())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut lab = Lab::start(&["client", "server"], 1)?;
    let address = SocketAddr::new(lab.host("server").address(), 80);
    let listener = lab.host("server").run(|| TcpListener::bind(address))??;
    std::thread::spawn(move || serve(&listener));

    // A bad link: slow, small, and every fiftieth packet of the answer is lost.
    let bad: Faults = "delay 5ms loss 2%".parse()?;
    lab.set_faults("client", "server", &Faults::new().delay(Duration::from_millis(5)))?;
    lab.set_faults("server", "client", &bad)?;
    let length = lab.host("client").run(|| get(address, Duration::from_secs(10)))??;
    assert_eq!(length, BODY);
    let lost: u64 =
        lab.stages("server", "client")?.iter().map(|(_, stage)| stage.drops.of(Reason::Loss).packets).sum();
    assert!(lost > 0, "the link lost nothing");

    // A dead link: the client gives up.
    lab.set_faults("client", "server", &Faults::new().loss(1.0))?;
    let error = lab.host("client").run(|| get(address, Duration::from_millis(200)))?;
    assert_eq!(error.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));

    // And recovers.
    lab.set_faults("client", "server", &Faults::new())?;
    assert_eq!(lab.host("client").run(|| get(address, Duration::from_secs(10)))??, BODY);
    Ok(())
}
