//! One TCP bulk transfer.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::request::TcpFacts;
use crate::lab::traffic::serve::{Tally, sink_facts};
use crate::lab::traffic::{facts, pattern};
use crate::lab::value::{Facts, Value};

/// A transfer that ends with `bytes` or `duration`, whichever is first, and at the latest with `timeout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// How many bytes; `None`: no limit.
    pub bytes: Option<u64>,
    /// How long; `None`: no limit. Set if `bytes` is not.
    pub duration: Option<Duration>,
    /// From the call until the receiver has acknowledged the end.
    pub timeout: Duration,
}

/// The sender's side of a transfer.
#[derive(Debug)]
pub struct Sent {
    /// How it ended; `Ok` means that the receiver has taken everything.
    pub outcome: Outcome,
    /// The kernel's words, if it was an error.
    pub error: String,
    /// Bytes handed to the kernel.
    pub bytes: u64,
    /// From the call to the end.
    pub took: Duration,
    /// The connection as the kernel saw it at the end.
    pub tcp: Option<TcpFacts>,
}

impl Stream {
    /// Sends to a sink at `server`.
    pub fn send(&self, server: SocketAddr) -> Sent {
        let start = clock::now();
        let mut sent =
            Sent { outcome: Outcome::Ok, error: String::new(), bytes: 0, took: Duration::ZERO, tcp: None };
        if let Err(error) = self.transfer(server, &mut sent) {
            sent.outcome = Outcome::of(&error);
            sent.error = error.to_string();
        }
        sent.took = clock::now().duration_since(start);
        sent
    }

    fn transfer(&self, server: SocketAddr, sent: &mut Sent) -> io::Result<()> {
        let deadline = Deadline::after(self.timeout);
        let mut stream = TcpStream::connect_timeout(&server, self.timeout)?;
        let result = self.pour(&mut stream, deadline, sent);
        sent.tcp = TcpFacts::of(&stream).ok();
        result
    }

    fn pour(&self, stream: &mut TcpStream, deadline: Deadline, sent: &mut Sent) -> io::Result<()> {
        const PIECE: usize = 1 << 18;
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let end = self.duration.map(Deadline::after);
        // The pattern depends on the low 32 bits of the offset alone; pieces are made as they are sent.
        while sent.bytes < self.bytes.unwrap_or(u64::MAX) && end.is_none_or(|end| end.left().is_some()) {
            let size = (self.bytes.unwrap_or(u64::MAX) - sent.bytes).min(PIECE as u64) as usize;
            stream.set_write_timeout(Some(deadline.left().ok_or_else(late)?))?;
            sent.bytes += stream.write(&pattern::bytes(sent.bytes, size))? as u64;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        // The sink closes when it has read the end: then all has arrived.
        stream.set_read_timeout(Some(deadline.left().ok_or_else(late)?))?;
        io::copy(stream, &mut io::sink()).map(drop)
    }
}

/// Summary of both sides under the names of case files.
pub fn summary(sent: &Sent, received: &Tally) -> Facts {
    let rate = received.bytes_read as f64 * 8.0 / sent.took.as_secs_f64().max(1e-9) / 1e6;
    let mut all = facts([
        ("outcome", sent.outcome.into()),
        ("error", sent.error.clone().into()),
        ("sent", sent.bytes.into()),
        ("took_ms", sent.took.into()),
        ("mean_mbit_per_s", Value::Number(rate)),
        ("complete", (sent.bytes == received.bytes_read).into()),
    ]);
    all.extend(sink_facts(received));
    all.extend(sent.tcp.iter().flat_map(TcpFacts::facts));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::serve::{Serve, Service};
    use std::net::Ipv4Addr;

    #[test]
    fn all_bytes_arrive_and_are_those_of_the_pattern() {
        let sink = Serve { port: 0, service: Service::Sink, backlog: 1, workers: None }.start().unwrap();
        let stream = Stream { bytes: Some(3_000_001), duration: None, timeout: Duration::from_secs(10) };
        let sent = stream.send(SocketAddr::from((Ipv4Addr::LOCALHOST, sink.address().port())));
        let received = sink.stop();
        assert_eq!((sent.outcome, sent.bytes, received.bytes_read), (Outcome::Ok, 3_000_001, 3_000_001));
        assert!(!received.damaged && received.rate() > 0.0);
    }
}
