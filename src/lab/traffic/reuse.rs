//! A client that has the address of another client, and possibly the port of that client's connection, which the server still
//! keeps in TIME-WAIT. A NAPT does this to clients with independent clocks.
//!
//! Both clients are built packet by packet, so that the case can choose their clocks and sequence numbers. The second client
//! behaves as a socket in SYN-SENT: it answers an ACK of the old connection with a RST (RFC 9293 section 3.10.7.3), and sends
//! its SYN again after a second.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::facts;
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::raw::{MSS, Segment, Wire, stamp, unanswered};
use crate::lab::value::Facts;
use crate::pipeline::wire::tcp::flag::{ACK, RST, SYN};

/// The first client's clock and its initial sequence number.
const FIRST: (u32, u32) = (1_000_000, 500_000_000);
/// How far the second client's are behind or ahead.
const APART: u32 = 400_000;
/// Until a SYN is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// A connection that the server closes first, and another one of the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reuse {
    /// Address of both clients: of no host, so that no kernel answers for them, but behind the port of this host.
    pub source: Ipv4Addr,
    /// Port of the first client.
    pub source_port: u16,
    /// Port of the second client.
    pub second_port: u16,
    /// The second client's clock, compared with the first one's.
    pub clock: Clock,
    /// The second client's initial sequence number is above what the first one sent, not below.
    pub ahead: bool,
    /// Of the second connection.
    pub timeout: Duration,
}

/// See [`Reuse::clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Behind.
    Older,
    /// Ahead.
    Newer,
    /// It uses no timestamps.
    Absent,
}

impl Clock {
    /// By the names of case files.
    pub const NAMES: [(&str, Self); 3] =
        [("older", Self::Older), ("newer", Self::Newer), ("absent", Self::Absent)];

    /// By which case files call it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, clock)| *clock == self).map_or("", |(name, _)| name)
    }

    fn options(self) -> Vec<u8> {
        let stamped = |value| [&MSS[..], &stamp(value, 0)].concat();
        match self {
            Self::Older => stamped(FIRST.0 - APART),
            Self::Newer => stamped(FIRST.0 + APART),
            Self::Absent => MSS.to_vec(),
        }
    }
}

/// What the second client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reused {
    /// Whether it got its connection.
    pub outcome: Outcome,
    /// From its first SYN to the SYN-ACK, or to the end.
    pub took: Duration,
    /// SYNs it sent.
    pub syns: u64,
    /// ACKs of the old connection that it got instead of a SYN-ACK.
    pub stray_acks: u64,
}

impl Reused {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        facts([
            ("outcome", self.outcome.into()),
            ("connect_ms", self.took.into()),
            ("syns", self.syns.into()),
            ("stray_acks", self.stray_acks.into()),
        ])
    }
}

impl Reuse {
    /// Plays both clients, from the namespace of the calling thread.
    ///
    /// # Errors
    /// No raw sockets, no route to the server, or the first connection does not come about.
    pub fn run(&self, server: SocketAddrV4) -> io::Result<Reused> {
        let wire = Wire::open(self.source, server)?;
        let next =
            wire.request(self.source_port, FIRST, Deadline::after(self.timeout))?.ok_or_else(unanswered)?;
        let seq = if self.ahead { next.wrapping_add(APART) } else { FIRST.1.wrapping_sub(APART) };
        let start = clock::now();
        let mut seen = Reused { outcome: Outcome::Timeout, took: Duration::ZERO, syns: 0, stray_acks: 0 };
        let whole = Deadline::after(self.timeout);
        while let Some(left) = whole.left() {
            self.say(&wire, SYN, seq, &self.clock.options())?;
            seen.syns += 1;
            let turn = Deadline::after(RETRY.min(left));
            if self.second(&wire, seq, turn, &mut seen)? {
                break;
            }
        }
        seen.took = clock::now().duration_since(start);
        Ok(seen)
    }

    /// Until `turn`, what comes of a SYN; true if it was the end.
    fn second(&self, wire: &Wire, seq: u32, turn: Deadline, seen: &mut Reused) -> io::Result<bool> {
        while let Some(heard) = wire.receive(self.second_port, turn)? {
            let ours = heard.ack == seq.wrapping_add(1);
            match (heard.flags & (SYN | RST | ACK), ours) {
                (flags, true) if flags == SYN | ACK => {
                    seen.outcome = Outcome::Ok;
                    // Nothing more is wanted of it.
                    self.say(wire, RST, heard.ack, &[])?;
                    return Ok(true);
                }
                (flags, true) if flags & RST != 0 => {
                    seen.outcome = Outcome::Refused;
                    return Ok(true);
                }
                (ACK, false) => {
                    seen.stray_acks += 1;
                    self.say(wire, RST, heard.ack, &[])?;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// A segment of the second client, who acknowledges nothing.
    fn say(&self, wire: &Wire, flags: u8, seq: u32, options: &[u8]) -> io::Result<()> {
        wire.send(self.second_port, &Segment { flags, seq, ack: 0, options, payload: &[] })
    }
}
