//! Which flow a packet belongs to: one direction of a 5-tuple.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Layout, Version, array, be16, ipv4, ipv6, protocol};

/// One direction of a 5-tuple, for exact comparison.
///
/// Ports are 0 in every fragment (the first one too, so that all fragments of a datagram are one flow), for protocols
/// without ports, and where the transport header is malformed. An ICMP echo request or reply has its identifier as
/// source port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// IPv4 in the first four bytes, the rest zero.
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    version: Version,
}

/// An address of whatever version, as keys hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host([u8; 16]);

impl Host {
    /// No address.
    pub const NONE: Self = Self([0; 16]);

    /// The bytes on the wire.
    #[inline]
    pub fn bytes(&self, version: Version) -> &[u8] {
        match version {
            Version::V4 => &self.0[..4],
            Version::V6 => &self.0,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(widen(address.octets())),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

impl FlowKey {
    /// A flow by its parts; source and destination are of one version.
    pub fn of(protocol: u8, version: Version, source: (Host, u16), destination: (Host, u16)) -> Self {
        Self {
            source: source.0.0,
            destination: destination.0.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol,
            version,
        }
    }

    /// The flow of a packet.
    ///
    /// # Panics
    /// If `packet` is not the one the layout was parsed from, but shorter.
    #[inline]
    pub fn new(packet: &[u8], layout: Layout) -> Self {
        let (source_port, destination_port) = ports(packet, layout);
        let (source, destination) = match layout.version() {
            Version::V4 => {
                (widen(array(packet, ipv4::field::SOURCE)), widen(array(packet, ipv4::field::DESTINATION)))
            }
            Version::V6 => (array(packet, ipv6::field::SOURCE), array(packet, ipv6::field::DESTINATION)),
        };
        let (protocol, version) = (layout.flow_protocol(), layout.version());
        Self { source, destination, source_port, destination_port, protocol, version }
    }

    /// The same connection, seen from the other side.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// The flow of the answers to this one: as [`Self::reversed`], but an echo's identifier stays where it is.
    #[inline]
    #[must_use]
    pub const fn answers(self) -> Self {
        let back = self.reversed();
        match self.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                Self { source_port: self.source_port, destination_port: self.destination_port, ..back }
            }
            _ => back,
        }
    }

    /// The same flow from another source.
    #[inline]
    #[must_use]
    pub fn from(self, source: Host, port: u16) -> Self {
        Self { source: source.0, source_port: port, ..self }
    }

    /// The same flow to another destination.
    #[inline]
    #[must_use]
    pub fn to(self, destination: Host, port: u16) -> Self {
        Self { destination: destination.0, destination_port: port, ..self }
    }

    /// Whether both go to one endpoint, by one protocol.
    #[inline]
    pub fn has_end_of(&self, other: &Self) -> bool {
        self.destination == other.destination
            && self.destination_port == other.destination_port
            && (self.protocol, self.version) == (other.protocol, other.version)
    }

    /// The source as [`Self::from`] takes it.
    #[inline]
    pub const fn source_host(&self) -> Host {
        Host(self.source)
    }

    /// The destination as [`Self::to`] takes it.
    #[inline]
    pub const fn destination_host(&self) -> Host {
        Host(self.destination)
    }

    /// IP version.
    #[inline]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        address(&self.source, self.version)
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        address(&self.destination, self.version)
    }

    /// Source port, ICMP echo identifier, or 0.
    pub const fn source_port(&self) -> u16 {
        self.source_port
    }

    /// Destination port, or 0.
    pub const fn destination_port(&self) -> u16 {
        self.destination_port
    }

    /// Protocol of the transport; in IPv6 fragments, what the Fragment header names.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The same as [`flow_hash`] of any packet of the flow.
    #[inline]
    pub fn hash(&self) -> u64 {
        let tail = tail(self.source_port, self.destination_port, self.protocol, self.version);
        match self.version {
            Version::V4 => {
                let [a, b] =
                    [self.source, self.destination].map(|a| u64::from(u32::from_le_bytes(array(&a, 0))));
                mix4(a | b << 32, tail)
            }
            Version::V6 => mix6(words(&self.source, 0), words(&self.destination, 0), tail),
        }
    }
}

/// A 64-bit hash of the flow of a packet: equal for equal [`FlowKey`]s on every machine, different for the two
/// directions of a connection, and good in all bits (for tables and as the flow part of a random draw).
///
/// Addresses and a word of ports, protocol and version are multiplied pairwise into 128 bits, whose halves are folded
/// together (the wyhash construction). It is no defence against addresses chosen to collide.
///
/// # Panics
/// If `packet` is not the one the layout was parsed from, but shorter.
#[inline]
pub fn flow_hash(packet: &[u8], layout: Layout) -> u64 {
    let (source, destination) = ports(packet, layout);
    let tail = tail(source, destination, layout.flow_protocol(), layout.version());
    match layout.version() {
        Version::V4 => mix4(u64::from_le_bytes(array(packet, ipv4::field::SOURCE)), tail),
        Version::V6 => {
            mix6(words(packet, ipv6::field::SOURCE), words(packet, ipv6::field::DESTINATION), tail)
        }
    }
}

/// Ports as a flow counts them.
#[inline]
fn ports(packet: &[u8], layout: Layout) -> (u16, u16) {
    if layout.is_fragment() {
        return (0, 0);
    }
    match layout.ports(packet) {
        Some(ports) => ports,
        None => (echo_id(packet, layout).unwrap_or(0), 0),
    }
}

/// Identifier of an ICMP or ICMPv6 echo request or reply.
#[inline]
fn echo_id(packet: &[u8], layout: Layout) -> Option<u16> {
    let at = layout.transport_offset();
    let echo = match layout.protocol() {
        _ if layout.is_transport_malformed() => false,
        protocol::ICMP => matches!(packet[at], 0 | 8),
        protocol::ICMPV6 => matches!(packet[at], 128 | 129),
        _ => false,
    };
    echo.then(|| be16(packet, at + 4))
}

fn widen(address: [u8; 4]) -> [u8; 16] {
    let mut wide = [0; 16];
    wide[..4].copy_from_slice(&address);
    wide
}

fn address(bytes: &[u8; 16], version: Version) -> IpAddr {
    match version {
        Version::V4 => Ipv4Addr::from(array::<4>(bytes, 0)).into(),
        Version::V6 => Ipv6Addr::from(*bytes).into(),
    }
}

/// Sixteen bytes as two words, the same on every machine.
#[inline]
fn words(bytes: &[u8], at: usize) -> [u64; 2] {
    [u64::from_le_bytes(array(bytes, at)), u64::from_le_bytes(array(bytes, at + 8))]
}

#[inline]
const fn tail(source: u16, destination: u16, protocol: u8, version: Version) -> u64 {
    source as u64 | (destination as u64) << 16 | (protocol as u64) << 32 | (version as u64) << 40
}

/// Odd constants without pattern: the digits of pi.
const PI: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

#[inline]
const fn multiply(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline]
const fn mix4(addresses: u64, tail: u64) -> u64 {
    multiply(multiply(addresses ^ PI[0], tail ^ PI[1]) ^ PI[2], tail ^ PI[3])
}

#[inline]
const fn mix6(source: [u64; 2], destination: [u64; 2], tail: u64) -> u64 {
    let from = multiply(source[0] ^ PI[0], source[1] ^ PI[1]);
    let to = multiply(destination[0] ^ PI[2], destination[1] ^ PI[3]);
    multiply(multiply(from ^ tail ^ PI[1], to ^ PI[0]) ^ PI[2], tail ^ PI[3])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    fn key(bytes: &[u8]) -> FlowKey {
        FlowKey::new(bytes, Layout::parse(bytes).unwrap().0)
    }

    #[test]
    fn a_key_is_small() {
        assert!(size_of::<FlowKey>() <= 40);
    }

    #[test]
    fn key_of_captured_packets() {
        let syn = key(samples::SYN_V4);
        assert_eq!((syn.source_port(), syn.destination_port()), samples::SYN_V4_PORTS);
        assert_eq!(syn.protocol(), 6);
        assert_eq!(syn.source(), "10.77.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(syn.reversed().source(), "10.77.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(syn.reversed().reversed(), syn);
        let syn = key(samples::SYN_V6);
        assert_eq!(syn.destination(), "fd77::2".parse::<IpAddr>().unwrap());
        assert_eq!((syn.source_port(), syn.destination_port()), samples::SYN_V6_PORTS);
    }

    #[test]
    fn fragments_of_a_datagram_are_one_flow() {
        for (first, later) in [
            (samples::FRAGMENT_V4_FIRST_HEAD, samples::FRAGMENT_V4_LATER),
            (samples::FRAGMENT_V6_FIRST_HEAD, samples::FRAGMENT_V6_LATER),
        ] {
            assert_eq!(key(&samples::padded(first)), key(later));
        }
        // Destination options in front of the transport are in the first fragment only.
        let first = [(44, vec![0, 0, 0, 1, 0, 0, 0, 1]), (60, samples::options_header(0))];
        let first = samples::v6_with_headers(&first, 17, &[0; 16]);
        let later = samples::v6_with_headers(&[(44, vec![0, 0, 0, 24, 0, 0, 0, 1])], 60, &[0; 16]);
        assert_eq!(key(&first), key(&later));
    }

    #[test]
    fn echo_is_told_apart_by_its_identifier() {
        let ping = key(samples::PING_V4);
        assert_eq!((ping.source_port(), ping.destination_port()), (samples::PING_V4_ID, 0));
        let ping = key(samples::PING_V6);
        assert_eq!((ping.source_port(), ping.destination_port()), (samples::PING_V6_ID, 0));
        assert_eq!(key(samples::UNREACHABLE_V4).source_port(), 0);
    }

    /// Written out once: a saved seed must give the same verdicts on every machine and in every release.
    #[test]
    fn hash_is_pinned() {
        assert_eq!(key(samples::SYN_V4).hash(), samples::SYN_V4_HASH);
        assert_eq!(key(samples::SYN_V6).hash(), samples::SYN_V6_HASH);
    }

    /// Flipping one input bit flips each output bit about half of the time.
    #[test]
    fn hash_avalanches() {
        for (sample, inputs) in [(samples::SYN_V4, 12 * 8..24 * 8), (samples::SYN_V6, 8 * 8..44 * 8)] {
            let mut flips = [0_u32; 64];
            let mut trials = 0;
            for round in 0..64_u32 {
                let mut bytes = sample.to_vec();
                let at = inputs.start / 8;
                bytes[at..at + 4].copy_from_slice(&round.wrapping_mul(0x9e37_79b9).to_be_bytes());
                let before = key(&bytes).hash();
                for bit in inputs.clone() {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    let change = before ^ key(&bytes).hash();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    trials += 1;
                    for (out, count) in flips.iter_mut().enumerate() {
                        *count += (change >> out & 1) as u32;
                    }
                }
            }
            for (out, &count) in flips.iter().enumerate() {
                let share = f64::from(count) / f64::from(trials);
                assert!((0.45..0.55).contains(&share), "output bit {out}: {share}");
            }
        }
    }

    /// 65,536 neighbouring flows: 2^32 pairs, of which one in 2^64 collides by chance.
    #[test]
    fn neighbours_do_not_collide_and_fill_a_table_evenly() {
        let mut bytes = samples::SYN_V4.to_vec();
        let mut seen = HashSet::new();
        let mut slots = [0_u32; 256];
        for host in 0..=255_u8 {
            for port in 0..=255_u8 {
                bytes[19] = host;
                bytes[21] = port;
                let hash = key(&bytes).hash();
                assert!(seen.insert(hash));
                slots[(hash & 255) as usize] += 1;
            }
        }
        // 256 per slot, standard deviation 16: six of them.
        assert!(slots.iter().all(|count| (160..=352).contains(count)), "{slots:?}");
    }

    proptest! {
        #[test]
        fn hash_of_packet_equals_hash_of_key(v4 in samples::hostile(4), v6 in samples::hostile(6)) {
            for bytes in [v4, v6] {
                if let Ok((layout, _)) = Layout::parse(&bytes) {
                    let key = FlowKey::new(&bytes, layout);
                    prop_assert_eq!(flow_hash(&bytes, layout), key.hash());
                    if key != key.reversed() {
                        prop_assert_ne!(key.hash(), key.reversed().hash());
                    }
                }
            }
        }
    }
}
