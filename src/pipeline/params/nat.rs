//! Parameters of address translation.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::pipeline::time::Duration;

/// One translator: which ports it stands between, and how it translates.
#[derive(Debug, Clone, PartialEq)]
pub struct NatParams {
    /// Its name in reports; its draws depend on it.
    pub name: String,
    /// How.
    pub kind: NatKind,
}

/// The kinds of translators.
#[derive(Debug, Clone, PartialEq)]
pub enum NatKind {
    /// Addresses and ports, with a table (NAPT44 of RFC 3022; the same for IPv6).
    Napt(Box<NaptParams>),
    /// IPv6 prefixes, without a table (RFC 6296).
    Prefix(PrefixParams),
}

/// See [`NatKind::Prefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixParams {
    /// The prefix inside, with zeros behind it.
    pub inside: Ipv6Addr,
    /// The prefix outside, with zeros behind it.
    pub outside: Ipv6Addr,
    /// Bits of both, at most 64.
    pub length: u8,
}

/// See [`NatKind::Napt`].
#[derive(Debug, Clone, PartialEq)]
pub struct NaptParams {
    /// Addresses that the outside sees, at least one and at most 256. A host inside keeps to one of its family ("paired",
    /// RFC 4787 section 4.1); a family without any is not translated.
    pub addresses: Vec<IpAddr>,
    /// Ports of TCP and UDP that may be given out, not empty. Identifiers of ICMP echoes are not bound by it.
    pub ports: RangeInclusive<u16>,
    /// Which of them is taken.
    pub allocation: PortAllocation,
    /// Which packets from inside have the same port outside (RFC 4787 section 4.1).
    pub mapping: Dependence,
    /// Which packets from outside may come in (RFC 4787 section 5).
    pub filtering: Dependence,
    /// Whether hosts inside reach each other by their outside addresses (RFC 4787 section 6).
    pub hairpin: bool,
    /// Sessions that it remembers, at least 1; more are refused.
    pub table_size: usize,
    /// How long without a packet it remembers them.
    pub timeouts: NatTimeouts,
    /// Whether packets from outside count for that (RFC 4787 section 4.3).
    pub inbound_refresh: bool,
    /// What becomes of the TCP timestamps.
    pub clock: NatClock,
    /// What becomes of TCP segments without a session that begin no connection.
    pub mid_stream: MidStream,
    /// Ports outside that lead to a host inside.
    pub forwards: Vec<Forward>,
    /// When it forgets everything and gives out other ports.
    pub rebind: Option<Rebind>,
}

/// Which port a new mapping gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortAllocation {
    /// The one inside if it is free, else one at random, of the same parity if possible (RFC 4787 section 4.2).
    #[default]
    Preserve,
    /// One at random.
    Random,
    /// The smallest that is free.
    Smallest,
}

/// On what of the remote endpoint something depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dependence {
    /// On nothing.
    Independent,
    /// On its address.
    Address,
    /// On its address and port.
    #[default]
    AddressAndPort,
}

/// Silence after which a session is forgotten. All longer than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatTimeouts {
    /// UDP.
    pub udp: Duration,
    /// ICMP echoes.
    pub icmp: Duration,
    /// TCP before both sides' SYNs were seen.
    pub tcp_opening: Duration,
    /// TCP after that.
    pub tcp_established: Duration,
    /// TCP after both sides' FINs.
    pub tcp_closing: Duration,
    /// TCP after a RST.
    pub tcp_reset: Duration,
}

/// RFC 4787 REQ-5, RFC 5508 REQ-1, RFC 5382 REQ-5; for a RST, which it leaves open, as Linux.
impl Default for NatTimeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            tcp_opening: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7_440),
            tcp_closing: Duration::from_secs(240),
            tcp_reset: Duration::from_secs(10),
        }
    }
}

/// TCP timestamps behind a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatClock {
    /// They stay what each host made them: for a peer that takes them for one host's, they jump.
    #[default]
    Pass,
    /// Every connection begins at the translator's own clock, of one tick a millisecond, and goes on at its host's pace.
    One,
}

/// TCP segments that belong to no session and begin no connection (no SYN, or one with ACK): those of a connection that was
/// forgotten, or that is older than the translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MidStream {
    /// They open a session like a SYN (Linux with `nf_conntrack_tcp_loose=1`).
    #[default]
    Open,
    /// They are dropped in silence.
    Drop,
    /// They are dropped, and the sender inside is answered by RST. What comes from outside is dropped in silence.
    Reset,
}

/// A port outside that leads to a host inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Index in [`NaptParams::addresses`].
    pub address: usize,
    /// Outside.
    pub port: u16,
    /// Inside, of the same family.
    pub to: (IpAddr, u16),
}

/// When a translator forgets everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebind {
    /// For the first time, since the start of the run.
    pub at: Duration,
    /// Again and again after that, longer than zero.
    pub every: Option<Duration>,
}

/// The place of a translator in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatPlace {
    /// Index of the translator.
    pub nat: u16,
    /// From inside to outside: the source is translated. Otherwise the destination.
    pub outward: bool,
}

impl NatPlace {
    /// What configuration files call it where they list the stages of a path.
    pub const TYPE: &str = "nat";
}

impl fmt::Display for NatPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.outward {
            "nat: the source becomes an address outside"
        } else {
            "nat: the destination becomes the host inside"
        })
    }
}
