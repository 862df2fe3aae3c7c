//! Health checks of a client whose TCP no present kernel has: each connection is built packet by packet and ended by a RST; the
//! case chooses the position, timestamp and sequence number of the RST.
//!
//! Linux 3.18 to 4.9 sent a `TSval` of 0 in the RST of a socket that was closed with `SO_LINGER` 0.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::lab::clock::{Deadline, Pace};
use crate::lab::traffic::facts;
use crate::lab::traffic::raw::{MSS, Segment, Wire, stamp};
use crate::lab::value::Facts;
use crate::pipeline::wire::tcp::flag::{ACK, RST, SYN};

/// Port of the first probe; each takes the next.
const FIRST_PORT: u16 = 20_000;
/// `TSval` of the first SYN, and how far the clock goes on from probe to probe.
const CLOCK: (u32, u32) = (1_000_000, 10_000);
/// How far behind an "older" timestamp is, and how far outside of the window a stale sequence number.
const BEHIND: u32 = 500_000;

/// A series of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How many, one after the other.
    pub count: u16,
    /// From the start of one to that of the next.
    pub interval: Duration,
    /// Address of the probes: of no host, so that no kernel answers for them, but behind the port of this host.
    pub source: Ipv4Addr,
    /// Where the RST comes.
    pub place: Place,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its sequence number is outside of the window.
    pub stale: bool,
    /// Waits so long for a SYN-ACK.
    pub timeout: Duration,
}

/// Where the RST comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It overtakes the last ACK of the handshake.
    BeforeAck,
    /// After it, as it was sent.
    AfterAck,
}

impl Place {
    /// By the names of case files.
    pub const NAMES: [(&str, Self); 2] = [("before-ack", Self::BeforeAck), ("after-ack", Self::AfterAck)];
}

/// The timestamp option of the RST, compared with that of the SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamp {
    /// `TSval` 0.
    Zero,
    /// Smaller.
    Older,
    /// The same.
    Equal,
    /// Larger.
    Newer,
    /// No options.
    Absent,
    /// Four NOPs.
    NopOnly,
}

impl Timestamp {
    /// By the names of case files.
    pub const NAMES: [(&str, Self); 6] = [
        ("zero", Self::Zero),
        ("older", Self::Older),
        ("equal", Self::Equal),
        ("newer", Self::Newer),
        ("absent", Self::Absent),
        ("nop-only", Self::NopOnly),
    ];

    /// By which case files call it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn options(self, syn: u32, echo: u32) -> Vec<u8> {
        match self {
            Self::Zero => stamp(0, echo),
            Self::Older => stamp(syn.wrapping_sub(BEHIND), echo),
            Self::Equal => stamp(syn, echo),
            Self::Newer => stamp(syn.wrapping_add(2), echo),
            Self::Absent => Vec::new(),
            Self::NopOnly => vec![1; 4],
        }
    }
}

/// What the probes heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Probed {
    /// Probes sent.
    pub attempts: u64,
    /// SYN-ACKs that came in time.
    pub answered: u64,
}

impl Probed {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        let silent = self.attempts - self.answered;
        facts([
            ("attempts", self.attempts.into()),
            ("answered", self.answered.into()),
            ("timeouts", silent.into()),
        ])
    }
}

impl Probe {
    /// Sends all probes to `server`, from the namespace of the calling thread.
    ///
    /// # Errors
    /// No raw sockets, or no route to the server.
    pub fn run(&self, server: SocketAddrV4) -> io::Result<Probed> {
        let wire = Wire::open(self.source, server)?;
        let pace = Pace::start(self.interval);
        let mut probed = Probed::default();
        for number in 0..self.count {
            pace.wait(number.into());
            probed.attempts += 1;
            probed.answered += u64::from(self.probe(&wire, number)?);
        }
        Ok(probed)
    }

    /// One connection; false if nothing answered the SYN.
    fn probe(&self, wire: &Wire, number: u16) -> io::Result<bool> {
        let port = FIRST_PORT.wrapping_add(number);
        let clock = CLOCK.0 + CLOCK.1 * u32::from(number);
        let seq = 0x0100_0000_u32.wrapping_mul(u32::from(number) + 1);
        let send = |flags, seq, ack, options: &[u8]| {
            wire.send(port, &Segment { flags, seq, ack, options, payload: &[] })
        };
        send(SYN, seq, 0, &[&MSS[..], &stamp(clock, 0)].concat())?;
        let deadline = Deadline::after(self.timeout);
        let answer = loop {
            match wire.receive(port, deadline)? {
                Some(heard) if heard.flags & (SYN | ACK) == SYN | ACK => break heard,
                Some(_) => {}
                None => return Ok(false),
            }
        };
        let (seq, ack, echo) = (seq.wrapping_add(1), answer.seq.wrapping_add(1), answer.timestamp);
        let rst_seq = if self.stale { seq.wrapping_sub(BEHIND) } else { seq };
        let rst = || send(RST | ACK, rst_seq, ack, &self.timestamp.options(clock, echo));
        let last = || send(ACK, seq, ack, &stamp(clock + 1, echo));
        match self.place {
            Place::BeforeAck => rst().and_then(|()| last())?,
            Place::AfterAck => last().and_then(|()| rst())?,
        }
        Ok(true)
    }
}
