//! A TCP client that sends one HTTP/1.1 request and reads the answer.

use std::io::{self, Read, Write};
use std::mem::offset_of;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::getsockopt;

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::pattern::{self, Sum};
use crate::lab::traffic::{client, facts, sockopt};
use crate::lab::value::{Facts, Value};

/// Parameters of a GET request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Bytes of the whole request, at least [`SMALLEST`].
    pub size: u32,
    /// From the call to the last byte of the answer, connecting included.
    pub timeout: Duration,
    /// Its own port; `None`: any.
    pub source_port: Option<u16>,
    /// Closes only after the server did, so that it is the server that keeps the connection in TIME-WAIT.
    pub await_close: bool,
}

impl Request {
    /// `size` bytes within `timeout`, from any port, closed as soon as the answer is complete.
    pub const fn new(size: u32, timeout: Duration) -> Self {
        Self { size, timeout, source_port: None, await_close: false }
    }
}

/// Bytes of the smallest request that this client can send.
pub const SMALLEST: u32 = 41;

/// The result of a request.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// The kernel's words, if it was an error.
    pub error: String,
    /// From the SYN to the accepted connection; `None` if there was none.
    pub connected: Option<Duration>,
    /// From the call to the end.
    pub took: Duration,
    /// Bytes of the answer, header included.
    pub bytes: u64,
    /// Sum of the answer's content.
    pub sum: Sum,
    /// The content is complete and every byte is that of the built-in server's pattern.
    pub identical: bool,
    /// Bytes that the request had in one packet, by the header sizes of this connection.
    pub packet: u64,
    /// The connection as the kernel saw it just before it was closed.
    pub tcp: Option<TcpFacts>,
}

/// `TCP_INFO` of one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpFacts {
    /// Largest payload it sends now, in bytes, options not counted in.
    pub mss: u64,
    /// Path MTU in bytes.
    pub pmtu: u64,
    /// Segments sent again, SYNs included.
    pub retransmits: u64,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u64,
    /// Timestamps were negotiated: each segment carries 12 bytes of options.
    pub timestamps: bool,
    /// Name of the congestion control.
    pub congestion_control: String,
}

impl TcpFacts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `socket` is not TCP.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let info = getsockopt(socket, sockopt::TcpInfo)?;
        let word = |offset: usize| u64::from(info[offset / 4]);
        let options = info[1].to_ne_bytes()[offset_of!(libc::tcp_info, tcpi_options) - 4];
        let algorithm = getsockopt(socket, nix::sys::socket::sockopt::TcpCongestion)?;
        Ok(Self {
            congestion_control: algorithm.to_string_lossy().trim_end_matches('\0').to_owned(),
            mss: word(offset_of!(libc::tcp_info, tcpi_snd_mss)),
            pmtu: word(offset_of!(libc::tcp_info, tcpi_pmtu)),
            retransmits: word(offset_of!(libc::tcp_info, tcpi_total_retrans)),
            rtt_us: word(offset_of!(libc::tcp_info, tcpi_rtt)),
            timestamps: options & 1 != 0,
        })
    }

    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        facts([
            ("mss", self.mss.into()),
            ("pmtu", self.pmtu.into()),
            ("retransmits", self.retransmits.into()),
            ("rtt_ms", Value::Number(self.rtt_us as f64 / 1e3)),
            ("congestion_control", self.congestion_control.clone().into()),
        ])
    }
}

impl Request {
    /// Connects to `server`, sends, reads to the end or the deadline, closes.
    pub fn send(&self, server: SocketAddr) -> Answer {
        let mut answer = Answer {
            outcome: Outcome::Ok,
            error: String::new(),
            connected: None,
            took: Duration::ZERO,
            bytes: 0,
            sum: Sum::default(),
            identical: false,
            packet: 0,
            tcp: None,
        };
        let start = clock::now();
        if let Err(error) = self.exchange(server, &mut answer) {
            answer.outcome = Outcome::of(&error);
            answer.error = error.to_string();
        }
        answer.took = clock::now().duration_since(start);
        answer
    }

    fn exchange(&self, server: SocketAddr, answer: &mut Answer) -> io::Result<()> {
        let deadline = Deadline::after(self.timeout);
        let start = clock::now();
        let mut stream = client::open(server, self.source_port, self.timeout)?;
        answer.connected = Some(clock::now().duration_since(start));
        stream.set_nodelay(true)?;
        let tcp = TcpFacts::of(&stream)?;
        let ip_header = if server.is_ipv4() { 20 } else { 40 };
        answer.packet = ip_header + 20 + if tcp.timestamps { 12 } else { 0 } + u64::from(self.size);
        let mut result = talk(&mut stream, &text(self.size), deadline, answer);
        if self.await_close && result.is_ok() {
            result = end(&mut stream, deadline);
        }
        answer.tcp = TcpFacts::of(&stream).ok();
        result
    }
}

/// A request of exactly `size` bytes.
fn text(size: u32) -> String {
    let fill = "f".repeat(size.saturating_sub(SMALLEST) as usize);
    format!("GET / HTTP/1.1\r\nHost: s\r\nUser-Agent: {fill}\r\n\r\n")
}

fn talk(stream: &mut TcpStream, request: &str, deadline: Deadline, answer: &mut Answer) -> io::Result<()> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    stream.set_write_timeout(Some(deadline.left().ok_or_else(late)?))?;
    stream.write_all(request.as_bytes())?;
    let mut content = Content::default();
    let mut buffer = [0; 16_384];
    loop {
        stream.set_read_timeout(Some(deadline.left().ok_or_else(late)?))?;
        let size = stream.read(&mut buffer)?;
        answer.bytes += size as u64;
        content.take(&buffer[..size]);
        answer.sum = content.sum;
        if content.complete() || size == 0 {
            break;
        }
    }
    if !content.complete() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the server closed before the end of its answer",
        ));
    }
    answer.identical = !content.damaged;
    Ok(())
}

/// Reads on until the server has closed.
fn end(stream: &mut TcpStream, deadline: Deadline) -> io::Result<()> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    loop {
        stream.set_read_timeout(Some(deadline.left().ok_or_else(late)?))?;
        if stream.read(&mut [0; 1_024])? == 0 {
            return Ok(());
        }
    }
}

/// The answer as it grows.
#[derive(Default)]
struct Content {
    header: Vec<u8>,
    /// Announced length and what there is of it, once the header is complete.
    body: Option<(u64, u64)>,
    sum: Sum,
    damaged: bool,
}

impl Content {
    fn complete(&self) -> bool {
        self.body.is_some_and(|(announced, had)| had >= announced)
    }

    fn take(&mut self, data: &[u8]) {
        if let Some((_, had)) = &mut self.body {
            self.sum.update(data);
            self.damaged |= !pattern::matches(*had, data);
            *had += data.len() as u64;
            return;
        }
        self.header.extend_from_slice(data);
        let Some(end) = self.header.windows(4).position(|end| end == b"\r\n\r\n") else { return };
        let rest = self.header.split_off(end + 4);
        self.body = Some((announced_length(&self.header), 0));
        self.take(&rest);
    }
}

/// What `Content-Length` says; without one the content ends with the connection, which is never complete.
fn announced_length(header: &[u8]) -> u64 {
    String::from_utf8_lossy(header)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// Summary of answers to the same request, the last one in detail.
pub fn summary(answers: &[Answer]) -> Facts {
    let ok = answers.iter().filter(|answer| answer.outcome == Outcome::Ok).count() as u64;
    let attempts = answers.len() as u64;
    let slowest = answers.iter().map(|answer| answer.took).max().unwrap_or_default();
    let mut all = facts([
        ("attempts", attempts.into()),
        ("succeeded", ok.into()),
        ("failed", (attempts - ok).into()),
        ("failed_share", crate::lab::traffic::share(attempts - ok, attempts)),
        ("slowest_ms", slowest.into()),
        ("identical", answers.iter().all(|answer| answer.identical).into()),
        ("connected", (answers.iter().filter(|answer| answer.connected.is_some()).count() as u64).into()),
    ]);
    let Some(last) = answers.last() else { return all };
    all.extend(facts([
        ("outcome", last.outcome.into()),
        ("error", last.error.clone().into()),
        ("took_ms", last.took.into()),
        ("bytes", last.bytes.into()),
        ("sum", last.sum.hex().into()),
        ("request_packet", last.packet.into()),
    ]));
    all.extend(last.connected.map(|span| ("connect_ms".to_owned(), span.into())));
    all.extend(last.tcp.iter().flat_map(TcpFacts::facts));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::serve::{Serve, Service};
    use std::net::{Ipv4Addr, TcpListener};

    const SECOND: Duration = Duration::from_secs(1);

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn serve(segments: &[u32]) -> crate::lab::traffic::serve::Server {
        Serve { port: 0, service: Service::Http(segments.to_vec()), backlog: 16, workers: None }
            .start()
            .unwrap()
    }

    #[test]
    fn a_request_has_the_size_asked_for() {
        for size in [SMALLEST, 75, 1_460] {
            assert_eq!(text(size).len(), size as usize);
        }
    }

    #[test]
    fn an_answer_in_segments_arrives_whole_and_both_ends_count_it() {
        let server = serve(&[1_388, 1_388, 500]);
        let answer = Request::new(75, SECOND).send(loopback(server.address().port()));
        assert_eq!(answer.outcome, Outcome::Ok, "{}", answer.error);
        assert_eq!(answer.bytes, 1_388 + 1_388 + 500);
        assert!(answer.identical);
        assert!(answer.tcp.unwrap().timestamps);
        assert_eq!(answer.packet, 20 + 32 + 75);
        let tally = server.stop();
        assert_eq!((tally.accepted, tally.requests, tally.bytes_read), (1, 1, 75));
        assert_eq!(tally.bytes_written, 3_276);
    }

    #[test]
    fn nobody_listening_is_refused_and_silence_is_a_timeout() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(Request::new(75, SECOND).send(closed).outcome, Outcome::Refused);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let brief = Request::new(75, Duration::from_millis(20));
        let answer = brief.send(silent.local_addr().unwrap());
        assert_eq!(answer.outcome, Outcome::Timeout);
        assert!(answer.connected.is_some());
    }

    #[test]
    fn a_server_that_stops_early_leaves_an_incomplete_answer() {
        let mut content = Content::default();
        content.take(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r");
        content.take(b"\nab");
        assert!(!content.complete());
        content.take(b"c");
        assert!(content.complete() && content.damaged);
    }
}
