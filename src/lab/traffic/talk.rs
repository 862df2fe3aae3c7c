//! A TCP connection that sends, is silent for a time, and sends again. Idle timeouts of translators and firewalls break it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::request::TcpFacts;
use crate::lab::traffic::{facts, pattern};
use crate::lab::value::Facts;

/// One connection to a server that sends everything back (`serve` with `echo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Talk {
    /// Messages, one after the other, at least 1.
    pub count: u32,
    /// Bytes of each message, at least 1.
    pub size: u32,
    /// From the answer to a message until the next message.
    pub silence: Duration,
    /// Seconds of silence after which the kernel sends a keepalive, and from one keepalive to the next; `None`: none.
    pub keepalive: Option<u32>,
    /// Of connecting, and of each message with its answer.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Talked {
    /// How it ended: `Ok` if every message was answered.
    pub outcome: Outcome,
    /// The kernel's words, if it was an error.
    pub error: String,
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that were answered whole and unchanged.
    pub answered: u64,
    /// The connection as the kernel saw it just before it was closed.
    pub tcp: Option<TcpFacts>,
}

impl Talk {
    /// Connects to `server`, says all there is to say, and closes.
    pub fn run(&self, server: SocketAddr) -> Talked {
        let mut talked =
            Talked { outcome: Outcome::Ok, error: String::new(), sent: 0, answered: 0, tcp: None };
        if let Err(error) = self.converse(server, &mut talked) {
            talked.outcome = Outcome::of(&error);
            talked.error = error.to_string();
        }
        talked
    }

    fn converse(&self, server: SocketAddr, talked: &mut Talked) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&server, self.timeout)?;
        stream.set_nodelay(true)?;
        if let Some(seconds) = self.keepalive {
            setsockopt(&stream, sockopt::TcpKeepIdle, &seconds)?;
            setsockopt(&stream, sockopt::TcpKeepInterval, &seconds)?;
            setsockopt(&stream, sockopt::KeepAlive, &true)?;
        }
        let result = self.messages(&mut stream, talked);
        talked.tcp = TcpFacts::of(&stream).ok();
        result
    }

    fn messages(&self, stream: &mut TcpStream, talked: &mut Talked) -> io::Result<()> {
        for number in 0..u64::from(self.count) {
            if number > 0 {
                clock::pause(self.silence);
            }
            let message = pattern::bytes(number * u64::from(self.size), self.size as usize);
            let deadline = Deadline::after(self.timeout);
            talked.sent += 1;
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            stream.set_write_timeout(Some(deadline.left().ok_or_else(late)?))?;
            stream.write_all(&message)?;
            if hear(stream, message.len(), deadline)? != message {
                return Err(io::Error::other("the answer is not what was sent"));
            }
            talked.answered += 1;
        }
        Ok(())
    }
}

/// Reads `length` bytes.
fn hear(stream: &mut TcpStream, length: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let mut answer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        stream.set_read_timeout(Some(deadline.left().ok_or_else(late)?))?;
        match stream.read(&mut answer[filled..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed")),
            size => filled += size,
        }
    }
    Ok(answer)
}

impl Talked {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        let mut all = facts([
            ("outcome", self.outcome.into()),
            ("error", self.error.clone().into()),
            ("sent", self.sent.into()),
            ("answered", self.answered.into()),
        ]);
        all.extend(self.tcp.iter().flat_map(TcpFacts::facts));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::serve::{Serve, Service};
    use std::net::{Ipv4Addr, TcpListener};

    fn talk(count: u32, timeout: Duration) -> Talk {
        Talk { count, size: 20_000, silence: Duration::from_millis(1), keepalive: Some(1), timeout }
    }

    #[test]
    fn every_message_is_answered_by_an_echo() {
        let server = Serve { port: 0, service: Service::Echo, backlog: 1, workers: None }.start().unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, server.address().port()));
        let talked = talk(3, Duration::from_secs(20)).run(to);
        assert_eq!((talked.outcome, talked.sent, talked.answered), (Outcome::Ok, 3, 3), "{}", talked.error);
        let tally = server.stop();
        assert_eq!((tally.accepted, tally.bytes_read, tally.bytes_written), (1, 60_000, 60_000));
    }

    #[test]
    fn who_gets_no_answer_or_another_one_says_so() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let talked = talk(2, Duration::from_millis(20)).run(silent.local_addr().unwrap());
        assert_eq!((talked.outcome, talked.sent, talked.answered), (Outcome::Timeout, 1, 0));
        let web = Serve { port: 0, service: Service::Http(vec![200]), backlog: 1, workers: None };
        let web = web.start().unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, web.address().port()));
        assert_eq!(talk(1, Duration::from_millis(20)).run(to).answered, 0);
    }
}
