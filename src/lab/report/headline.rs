//! A packet in one line, in the format of tcpdump, from its first bytes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pipeline::wire::serial;
use crate::pipeline::wire::tcp::flag::{ACK, FIN, RST, SYN};

/// Sender and receiver of a packet, ports 0 where there are none.
pub type Flow = (IpAddr, u16, IpAddr, u16);

/// The content of the line, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headline {
    /// Sender and receiver.
    pub flow: Flow,
    /// What it is.
    pub body: Body,
}

/// See [`Headline::body`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment, or a train of them.
    Tcp {
        /// Bits as on the wire.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Bytes of payload, all segments of a train together.
        length: u32,
        /// MSS option.
        mss: Option<u16>,
        /// First SACK block.
        sack: Option<(u32, u32)>,
        /// `TSval` of the timestamps option.
        timestamp: Option<u32>,
    },
    /// A UDP datagram, or a train: bytes of payload.
    Udp(u32),
    /// ICMP or ICMPv6: type, code, the 32 bits after the checksum.
    Icmp(bool, u8, u8, u32),
    /// A fragment: offset in bytes, bytes of payload, whether more follow.
    Fragment(u32, u32, bool),
    /// Any other protocol.
    Other(u8, u32),
}

impl Headline {
    /// Reads the beginning of an IP packet of `length` bytes; `None` if even its addresses are not there.
    pub fn read(bytes: &[u8], length: u32) -> Option<Self> {
        let (source, destination, protocol, header, fragment) = match bytes.first()? >> 4 {
            4 => ipv4(bytes)?,
            6 => ipv6(bytes)?,
            _ => return None,
        };
        let rest = bytes.get(header..).unwrap_or_default();
        let length = length.saturating_sub(header as u32);
        let (ports, body) = match (fragment, protocol) {
            (Some((offset, more)), _) => ((0, 0), Body::Fragment(offset, length, more)),
            (None, 6) => tcp(rest, length).unwrap_or(((0, 0), Body::Other(6, length))),
            (None, 17) => (ports(rest).unwrap_or_default(), Body::Udp(length.saturating_sub(8))),
            (None, 1 | 58) if rest.len() >= 8 => {
                ((0, 0), Body::Icmp(protocol == 58, rest[0], rest[1], word(rest, 4).unwrap_or(0)))
            }
            _ => ((0, 0), Body::Other(protocol, length)),
        };
        Some(Self { flow: (source, ports.0, destination, ports.1), body })
    }

    /// True for frequent kinds: TCP data and acknowledgements, and datagrams.
    pub fn is_plain(&self) -> bool {
        match self.body {
            Body::Tcp { flags, sack, .. } => flags & (SYN | FIN | RST) == 0 && sack.is_none(),
            Body::Udp(_) => true,
            _ => false,
        }
    }
}

impl Headline {
    /// The line without what differs between packets of the same kind: the client's port, the number of an echo. `None`: the
    /// line as it is.
    pub fn class(&self) -> Option<String> {
        match self.body {
            Body::Udp(length) => Some(format!("UDP {length} {}", self.flow.1.min(self.flow.3))),
            Body::Icmp(v6, kind @ (0 | 8 | 128 | 129), code, _) => Some(format!("{v6} {kind} {code}")),
            _ => None,
        }
    }
}

type Network = (IpAddr, IpAddr, u8, usize, Option<(u32, bool)>);

fn ipv4(bytes: &[u8]) -> Option<Network> {
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(word(bytes, at)?)));
    let fragment = half(bytes, 6)?;
    let (offset, more) = (u32::from(fragment & 0x1FFF) * 8, fragment & 0x2000 != 0);
    let fragment = (offset > 0 || more).then_some((offset, more));
    Some((address(12)?, address(16)?, *bytes.get(9)?, usize::from(bytes[0] & 15) * 4, fragment))
}

/// Extension headers other than a fragment's are named by their number.
fn ipv6(bytes: &[u8]) -> Option<Network> {
    let address = |at: usize| {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (source, destination, next) = (address(8)?, address(24)?, *bytes.get(6)?);
    if next != 44 {
        return Some((source, destination, next, 40, None));
    }
    let field = half(bytes, 42)?;
    let fragment = Some((u32::from(field & 0xFFF8), field & 1 != 0));
    Some((source, destination, *bytes.get(40)?, 48, fragment))
}

fn tcp(rest: &[u8], length: u32) -> Option<((u16, u16), Body)> {
    let header = usize::from(*rest.get(12)? >> 4) * 4;
    let options = rest.get(20..header.max(20).min(rest.len())).unwrap_or_default();
    let body = Body::Tcp {
        flags: *rest.get(13)?,
        seq: word(rest, 4)?,
        ack: word(rest, 8)?,
        length: length.saturating_sub(header as u32),
        mss: option(options, 2).and_then(|value| half(value, 0)),
        sack: option(options, 5).and_then(|value| Some((word(value, 0)?, word(value, 4)?))),
        timestamp: option(options, 8).and_then(|value| word(value, 0)),
    };
    Some((ports(rest)?, body))
}

/// The value of the first option of this kind (RFC 9293 section 3.2).
fn option(mut options: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            found => {
                let size = usize::from(*options.get(1)?).max(2);
                let value = options.get(2..size)?;
                if found == kind {
                    return Some(value);
                }
                options = &options[size..];
            }
        }
    }
}

fn ports(rest: &[u8]) -> Option<(u16, u16)> {
    Some((half(rest, 0)?, half(rest, 2)?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Writes lines with sequence numbers relative to each connection's first, and connections by number.
#[derive(Debug, Default)]
pub struct Writer {
    /// Initial sequence number of each direction.
    start: HashMap<Flow, u32>,
    /// Number of each connection, by either direction.
    numbers: HashMap<Flow, usize>,
    /// Newest timestamp of each direction. Current hosts give each connection its own clock.
    newest: HashMap<Flow, u32>,
}

impl Writer {
    /// Registers a packet that has no line, or no line yet. Returns the number of its connection, counted from 1 in
    /// the order of the first packets. The newest timestamp is only updated by packets with a line, since a stage may
    /// still rewrite this one.
    pub fn meet(&mut self, packet: &Headline) -> usize {
        if let Body::Tcp { seq, .. } = packet.body {
            self.start.entry(packet.flow).or_insert(seq);
        }
        self.number(packet.flow)
    }

    fn number(&mut self, flow: Flow) -> usize {
        let back = (flow.2, flow.3, flow.0, flow.1);
        if let Some(&number) = self.numbers.get(&flow).or_else(|| self.numbers.get(&back)) {
            return number;
        }
        let number = self.numbers.len() + 1;
        self.numbers.insert(flow, number);
        number
    }

    /// How far the timestamp is behind the newest one of the same flow, which PAWS checks (RFC 7323).
    fn behind(&mut self, flow: Flow, timestamp: u32) -> Option<u32> {
        let newest = self.newest.entry(flow).or_insert(timestamp);
        let behind = serial::distance(timestamp, *newest);
        if behind <= 0 {
            *newest = timestamp;
        }
        u32::try_from(behind).ok().filter(|&behind| behind > 0)
    }

    /// The line, without addresses. A timestamp is shown where it goes backwards.
    pub fn line(&mut self, packet: &Headline) -> String {
        match packet.body {
            Body::Tcp { flags, seq, ack, length, mss, sack, timestamp } => {
                let first = *self.start.entry(packet.flow).or_insert(seq);
                let back = (packet.flow.2, packet.flow.3, packet.flow.0, packet.flow.1);
                let peer = self.start.get(&back).copied().unwrap_or(ack);
                let from = seq.wrapping_sub(first);
                let mut line = format!("Flags [{}], seq {from}", letters(flags));
                if length > 0 {
                    let _ = write!(line, ":{}", from.wrapping_add(length));
                }
                if flags & ACK != 0 {
                    let _ = write!(line, ", ack {}", ack.wrapping_sub(peer));
                }
                if let Some((left, right)) = sack {
                    let _ =
                        write!(line, ", sack {{{}:{}}}", left.wrapping_sub(peer), right.wrapping_sub(peer));
                }
                if let Some(mss) = mss {
                    let _ = write!(line, ", mss {mss}");
                }
                match timestamp.map(|value| (value, self.behind(packet.flow, value))) {
                    Some((0, Some(_))) => line.push_str(", TSval 0"),
                    Some((_, Some(behind))) => {
                        let _ = write!(line, ", TSval {behind} behind");
                    }
                    _ => {}
                }
                let _ = write!(line, ", length {length}");
                line
            }
            Body::Udp(length) => format!("UDP {} > {}, length {length}", packet.flow.1, packet.flow.3),
            Body::Icmp(v6, kind, code, rest) => icmp(v6, kind, code, rest),
            Body::Fragment(offset, length, more) => {
                format!("fragment {offset}:{}{}", offset + length, if more { "+" } else { "" })
            }
            Body::Other(protocol, length) => format!("protocol {protocol}, length {length}"),
        }
    }
}

/// As tcpdump: the dot is ACK.
fn letters(flags: u8) -> String {
    let names = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (8, 'P'), (32, 'U'), (64, 'E'), (128, 'W'), (ACK, '.')];
    let set: String = names.iter().filter(|(bit, _)| flags & bit != 0).map(|&(_, letter)| letter).collect();
    if set.is_empty() { "none".to_owned() } else { set }
}

fn icmp(v6: bool, kind: u8, code: u8, rest: u32) -> String {
    let number = rest & 0xFFFF;
    let what = match (v6, kind, code) {
        (false, 8, _) | (true, 128, _) => format!("echo request, seq {number}"),
        (false, 0, _) | (true, 129, _) => format!("echo reply, seq {number}"),
        (false, 3, 4) => format!("fragmentation needed, mtu {number}"),
        (true, 2, _) => format!("packet too big, mtu {rest}"),
        (false, 3, 3) | (true, 1, 4) => "port unreachable".to_owned(),
        (false, 3, 0) | (true, 1, 0) => "net unreachable".to_owned(),
        (false, 3, 1) | (true, 1, 3) => "host unreachable".to_owned(),
        (false, 11, _) | (true, 3, _) => "time exceeded".to_owned(),
        _ => format!("type {kind}, code {code}"),
    };
    format!("{} {what}", if v6 { "ICMPv6" } else { "ICMP" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpOptionElement};

    fn read(bytes: &[u8]) -> Headline {
        Headline::read(&bytes[..bytes.len().min(100)], bytes.len() as u32).unwrap()
    }

    #[test]
    fn a_handshake_reads_as_tcpdump_writes_it() {
        let mut syn = Vec::new();
        PacketBuilder::ipv4([10, 77, 1, 2], [10, 77, 2, 2], 64)
            .tcp(40_000, 80, 1_000, 64_240)
            .syn()
            .options(&[TcpOptionElement::Noop, TcpOptionElement::MaximumSegmentSize(1_460)])
            .unwrap()
            .write(&mut syn, &[])
            .unwrap();
        let mut answer = Vec::new();
        PacketBuilder::ipv4([10, 77, 2, 2], [10, 77, 1, 2], 64)
            .tcp(80, 40_000, 7_000, 65_160)
            .syn()
            .ack(1_001)
            .write(&mut answer, &[])
            .unwrap();
        let mut request = Vec::new();
        PacketBuilder::ipv4([10, 77, 1, 2], [10, 77, 2, 2], 64)
            .tcp(40_000, 80, 1_001, 502)
            .psh()
            .ack(7_001)
            .write(&mut request, &[7; 175])
            .unwrap();
        let mut writer = Writer::default();
        assert_eq!(writer.line(&read(&syn)), "Flags [S], seq 0, mss 1460, length 0");
        assert_eq!(writer.line(&read(&answer)), "Flags [S.], seq 0, ack 1, length 0");
        assert_eq!(writer.line(&read(&request)), "Flags [P.], seq 1:176, ack 1, length 175");
        assert_eq!(writer.number(read(&answer).flow), writer.number(read(&syn).flow));
        assert!(read(&request).is_plain() && !read(&syn).is_plain());
    }

    #[test]
    fn a_timestamp_is_shown_where_it_goes_backwards() {
        let segment = |timestamp: u32| {
            let mut bytes = Vec::new();
            PacketBuilder::ipv4([10, 77, 1, 2], [10, 77, 2, 2], 64)
                .tcp(40_000, 80, 1_000, 64_240)
                .rst()
                .options(&[TcpOptionElement::Timestamp(timestamp, 0)])
                .unwrap()
                .write(&mut bytes, &[])
                .unwrap();
            bytes
        };
        let mut writer = Writer::default();
        let mut line = |timestamp| writer.line(&read(&segment(timestamp)));
        let plain = "Flags [R], seq 0, length 0";
        assert_eq!(line(u32::MAX - 1), plain);
        assert_eq!(line(3), plain, "it has wrapped around");
        assert_eq!(line(1), "Flags [R], seq 0, TSval 2 behind, length 0");
        assert_eq!(line(0), "Flags [R], seq 0, TSval 0, length 0");
        assert_eq!(line(3), plain);
    }

    #[test]
    fn a_packet_without_a_line_has_no_say_in_which_timestamp_is_the_newest() {
        let body = |timestamp| Body::Tcp {
            flags: SYN,
            seq: 7,
            ack: 0,
            length: 0,
            mss: None,
            sack: None,
            timestamp: Some(timestamp),
        };
        let flow = (IpAddr::from([10, 0, 0, 1]), 1, IpAddr::from([10, 0, 0, 2]), 80);
        let headline = |timestamp| Headline { flow, body: body(timestamp) };
        let mut writer = Writer::default();
        assert_eq!(writer.meet(&headline(9_000)), 1);
        assert_eq!(writer.line(&headline(5)), "Flags [S], seq 0, length 0");
    }

    #[test]
    fn datagrams_and_icmp_of_both_families_are_named() {
        let mut udp = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(5, 6).write(&mut udp, &[0; 12]).unwrap();
        let mut too_big = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: 1_400 })
            .write(&mut too_big, &[0; 48])
            .unwrap();
        let mut writer = Writer::default();
        assert_eq!(writer.line(&read(&udp)), "UDP 5 > 6, length 12");
        assert_eq!(writer.line(&read(&too_big)), "ICMPv6 packet too big, mtu 1400");
    }

    #[test]
    fn no_length_of_any_packet_makes_it_panic() {
        let mut whole = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 64).tcp(1, 2, 3, 4).write(&mut whole, &[9; 40]).unwrap();
        for first in 0..=255 {
            for end in 0..whole.len() {
                let mut cut = whole[..end].to_vec();
                for at in [0, 6, 9, 32] {
                    if let Some(byte) = cut.get_mut(at) {
                        *byte = first;
                    }
                }
                let _ = Headline::read(&cut, end as u32);
            }
        }
    }
}
