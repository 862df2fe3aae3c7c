//! Packets for tests, built, cut and checked with etherparse: nothing here shares code with the packet core.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, TcpHeader,
    UdpHeader,
};

use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::pool::HEADROOM;
use crate::pipeline::wire::Malformed;

pub(crate) use crate::pipeline::wire::tcp::flag::{ACK, CWR, FIN, PSH};

/// What stands between IP header and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    Nothing,
    /// An IPv4 option (router alert) or an IPv6 Destination Options header.
    Options,
    /// The packet comes in fragments of this payload, a multiple of 8.
    Fragments(usize),
}

/// What a packet or train shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of the packet by itself")]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    /// From 10.0.2.2 to 10.0.1.2, ports exchanged: what the other side sends.
    pub(crate) back: bool,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// TCP flags as on the wire.
    pub(crate) flags: u8,
    /// TCP options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    /// IPv4 identification.
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) payload: Vec<u8>,
    /// Payload of each wire packet; 0 makes one wire packet of all.
    pub(crate) segment: u16,
    /// Leave the checksum to the device, as the kernel does for what it sends itself.
    pub(crate) partial: bool,
    pub(crate) extra: Extra,
}

impl Spec {
    /// A TCP segment over IPv4 from 10.0.1.2 to 10.0.2.2 with `payload` bytes that count up.
    pub(crate) fn tcp(payload: usize) -> Self {
        Self {
            v6: false,
            udp: false,
            back: false,
            source_port: 40_000,
            destination_port: 443,
            sequence: 1,
            acknowledgement: 1,
            flags: ACK,
            options: Vec::new(),
            traffic_class: 0,
            hop_limit: 64,
            id: 1,
            dont_fragment: true,
            payload: (0..payload).map(|at| at as u8).collect(),
            segment: 0,
            partial: false,
            extra: Extra::Nothing,
        }
    }

    /// The same over UDP.
    pub(crate) fn udp(payload: usize) -> Self {
        Self { udp: true, ..Self::tcp(payload) }
    }

    /// Over IPv6, from `fd00:1::2` to `fd00:2::2`.
    pub(crate) fn v6(self) -> Self {
        Self { v6: true, ..self }
    }

    /// As a train of segments of this payload, its checksum left to the device.
    pub(crate) fn train(self, segment: u16) -> Self {
        Self { segment, partial: true, ..self }
    }

    /// The other way.
    pub(crate) fn back(self) -> Self {
        Self { back: true, ..self }
    }

    /// From this port: another flow.
    pub(crate) fn with_source_port(self, source_port: u16) -> Self {
        Self { source_port, ..self }
    }

    /// As a device would hand it over: one frame, or one for each fragment.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        match self.extra {
            Extra::Fragments(size) => {
                let whole = Self { partial: false, segment: 0, ..self.clone() }.frame();
                in_fragments(&whole.bytes, size).into_iter().map(Frame::plain).collect()
            }
            _ => vec![self.frame()],
        }
    }

    /// As a device would hand it over, not in fragments.
    pub(crate) fn frame(&self) -> Frame {
        let transport = if self.udp { self.udp_header() } else { self.tcp_header() };
        let mut bytes = self.ip_header(transport.len() + self.payload.len());
        let start = bytes.len();
        bytes.extend_from_slice(&transport);
        bytes.extend_from_slice(&self.payload);
        let offset = if self.udp { 6 } else { 16 };
        if self.partial {
            let sum = !Cover::of(&bytes).expect("built here").pseudo.ones_complement().to_be();
            bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        } else {
            fix_checksums(&mut bytes);
        }
        let segment = if self.payload.len() > usize::from(self.segment) { self.segment } else { 0 };
        let partial = self.partial.then_some((start as u16, offset as u16));
        Frame { bytes, offload: Offload { segment, partial } }
    }

    fn tcp_header(&self) -> Vec<u8> {
        let (source_port, destination_port) = self.ports();
        let mut header = TcpHeader::new(source_port, destination_port, self.sequence, 65_000);
        header.acknowledgment_number = self.acknowledgement;
        header.set_options_raw(&self.options).expect("options fit");
        let mut bytes = header.to_bytes().to_vec();
        bytes[13] = self.flags;
        bytes
    }

    fn ports(&self) -> (u16, u16) {
        let ports = (self.source_port, self.destination_port);
        if self.back { (ports.1, ports.0) } else { ports }
    }

    fn udp_header(&self) -> Vec<u8> {
        let (source_port, destination_port) = self.ports();
        let length = (8 + self.payload.len()) as u16;
        UdpHeader { source_port, destination_port, length, checksum: 0 }.to_bytes().to_vec()
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        let protocol = if self.udp { IpNumber::UDP } else { IpNumber::TCP };
        let with_options = self.extra == Extra::Options;
        let (from, to) = if self.back { (2, 1) } else { (1, 2) };
        if self.v6 {
            // Padding to 8 bytes (RFC 8200 section 4.2).
            let options = [protocol.0, 0, 1, 4, 0, 0, 0, 0];
            let options = if with_options { &options[..] } else { &[] };
            let address = |net| [0xfd, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: (options.len() + payload) as u16,
                next_header: if with_options { IpNumber::IPV6_DESTINATION_OPTIONS } else { protocol },
                hop_limit: self.hop_limit,
                source: address(from),
                destination: address(to),
            };
            return [&header.to_bytes()[..], options].concat();
        }
        let mut header =
            Ipv4Header::new(payload as u16, self.hop_limit, protocol, [10, 0, from, 2], [10, 0, to, 2])
                .expect("it fits");
        header.identification = self.id;
        header.dont_fragment = self.dont_fragment;
        if with_options {
            header.options = [148, 4, 0, 0].into();
            header.set_payload_len(payload).expect("it fits");
        }
        let mut bytes = header.to_bytes().to_vec();
        bytes[1] = self.traffic_class;
        fix_header_checksum(&mut bytes);
        bytes
    }
}

/// Bytes as they cross a TUN device, with what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
}

impl Frame {
    /// Bytes without any offload.
    pub(crate) fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }

    /// What the packet core makes of it.
    pub(crate) fn parse(&self) -> Result<Packet, Malformed> {
        let buffer = [vec![0; HEADROOM], self.bytes.clone()].concat();
        let parsed = Packet::parse(buffer.into_boxed_slice(), self.bytes.len(), self.offload, 0);
        parsed.map_err(|(_, malformed)| malformed)
    }

    /// The packets that a NIC would put on the wire: cut as Linux's software GSO cuts (sequence numbers and IP
    /// identification count up, FIN and PSH only on the last, CWR only on the first), checksums finished.
    ///
    /// # Panics
    /// If the frame is no train of TCP or UDP, or the checksum it left to the device does not hold the pseudo-header sum.
    pub(crate) fn wires(&self) -> Vec<Vec<u8>> {
        if self.offload.segment == 0 {
            return vec![self.completed()];
        }
        let cover = Cover::of(&self.bytes).expect("a train is TCP or UDP");
        let (partial_start, offset) = self.offload.partial.expect("a train's checksum is left to the device");
        let (start, at) = (cover.start, cover.start + usize::from(offset));
        assert_eq!(
            (usize::from(partial_start), offset),
            (start, if cover.protocol == IpNumber::UDP { 6 } else { 16 })
        );
        let carried = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        let expected = !cover.pseudo.ones_complement().to_be();
        assert_eq!(carried % 0xffff, expected % 0xffff, "pseudo-header sum of a train");
        let header = match cover.protocol {
            IpNumber::UDP => start + 8,
            _ => start + usize::from(self.bytes[start + 12] >> 4) * 4,
        };
        let payloads: Vec<&[u8]> = self.bytes[header..].chunks(self.offload.segment.into()).collect();
        let wire =
            |(i, payload): (usize, &&[u8])| self.wire(header, start, i, payload, i + 1 == payloads.len());
        payloads.iter().enumerate().map(wire).collect()
    }

    fn wire(&self, header: usize, start: usize, i: usize, payload: &[u8], last: bool) -> Vec<u8> {
        let mut bytes = self.bytes[..header].to_vec();
        bytes.extend_from_slice(payload);
        let length = bytes.len();
        if bytes[0] >> 4 == 4 {
            bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            let id = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(i as u16);
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        }
        if self.offload.partial.is_some_and(|(_, offset)| offset == 6) {
            bytes[start + 4..start + 6].copy_from_slice(&((length - start) as u16).to_be_bytes());
        } else {
            let sequence = bytes[start + 4..start + 8].try_into().expect("four bytes");
            let sequence =
                u32::from_be_bytes(sequence).wrapping_add(i as u32 * u32::from(self.offload.segment));
            bytes[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            let kept = if last { 0xff } else { !(FIN | PSH) } & if i == 0 { 0xff } else { !CWR };
            bytes[start + 13] &= kept;
        }
        fix_checksums(&mut bytes);
        bytes
    }

    /// As the kernel finishes a checksum: whatever the field holds is part of the sum.
    fn completed(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some((start, offset)) = self.offload.partial {
            let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
            let sum = Sum16BitWords::new().add_slice(&bytes[start..]);
            let sum = if offset == 6 { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
            bytes[at..at + 2].copy_from_slice(&sum.to_be().to_be_bytes());
        }
        bytes
    }
}

/// What a transport checksum covers.
struct Cover {
    protocol: IpNumber,
    start: usize,
    end: usize,
    /// Offset of the checksum in the transport header.
    offset: usize,
    pseudo: Sum16BitWords,
}

impl Cover {
    /// `None` for what has no transport checksum, and for fragments.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (ip, payload) = IpHeaders::from_slice(bytes).ok()?;
        let protocol = payload.ip_number;
        let offset = match protocol {
            IpNumber::TCP => 16,
            IpNumber::UDP => 6,
            IpNumber::ICMP | IpNumber::IPV6_ICMP => 2,
            _ => return None,
        };
        if payload.fragmented || payload.payload.len() < offset + 2 {
            return None;
        }
        let start = payload.payload.as_ptr() as usize - bytes.as_ptr() as usize;
        let length = payload.payload.len() as u32;
        let mut sum = Sum16BitWords::new();
        let pseudo = match ip {
            IpHeaders::Ipv4(..) if protocol == IpNumber::ICMP => sum,
            IpHeaders::Ipv4(ip, _) => sum
                .add_4bytes(ip.source)
                .add_4bytes(ip.destination)
                .add_2bytes([0, protocol.0])
                .add_4bytes(length.to_be_bytes()),
            IpHeaders::Ipv6(ip, _) => sum
                .add_16bytes(ip.source)
                .add_16bytes(ip.destination)
                .add_2bytes([0, protocol.0])
                .add_4bytes(length.to_be_bytes()),
        };
        Some(Self { protocol, start, end: start + length as usize, offset, pseudo })
    }
}

fn fix_header_checksum(bytes: &mut [u8]) {
    if let Ok((header, _)) = Ipv4Header::from_slice(bytes) {
        bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    }
}

/// Computes all checksums anew.
pub(crate) fn fix_checksums(bytes: &mut [u8]) {
    fix_header_checksum(bytes);
    let Some(cover) = Cover::of(bytes) else { return };
    let at = cover.start + cover.offset;
    bytes[at..at + 2].copy_from_slice(&[0, 0]);
    let sum = cover.pseudo.add_slice(&bytes[cover.start..cover.end]);
    let udp = cover.protocol == IpNumber::UDP;
    let sum = if udp { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
    bytes[at..at + 2].copy_from_slice(&sum.to_be().to_be_bytes());
}

/// Cuts a packet without options or extension headers into fragments of `size` payload bytes, a multiple of 8 (RFC 791
/// section 3.2, RFC 8200 section 4.5). An IPv6 packet that fits becomes one "atomic" fragment (RFC 6946).
pub(crate) fn in_fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let header_length = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let payload = &packet[header_length..];
    let last = payload.len().saturating_sub(1) / size;
    let fragment = |(number, part): (usize, &[u8])| {
        let offset = IpFragOffset::try_new((number * size / 8) as u16).expect("it fits");
        let more = number < last;
        let header = if header_length == 20 {
            v4_fragment_header(packet, offset, more, part.len())
        } else {
            v6_fragment_header(packet, offset, more, part.len())
        };
        [&header, part].concat()
    };
    payload.chunks(size).enumerate().map(fragment).collect()
}

fn v4_fragment_header(packet: &[u8], offset: IpFragOffset, more: bool, length: usize) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(packet).expect("IPv4");
    header.fragment_offset = offset;
    header.more_fragments = more;
    header.dont_fragment = false;
    header.set_payload_len(length).expect("it fits");
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

fn v6_fragment_header(packet: &[u8], offset: IpFragOffset, more: bool, length: usize) -> Vec<u8> {
    let (mut header, _) = Ipv6Header::from_slice(packet).expect("IPv6");
    let extension = Ipv6FragmentHeader::new(header.next_header, offset, more, 77);
    header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
    header.set_payload_length(8 + length).expect("it fits");
    [&header.to_bytes()[..], &extension.to_bytes()[..]].concat()
}

/// What is wrong with the lengths or checksums of a packet on the wire, if anything.
pub(crate) fn flaw(bytes: &[u8]) -> Option<String> {
    let (ip, payload) = match IpHeaders::from_slice(bytes) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    let (claimed, sum_fits) = match &ip {
        IpHeaders::Ipv4(ip, _) => {
            (usize::from(ip.total_len), ip.header_checksum == ip.calc_header_checksum())
        }
        IpHeaders::Ipv6(ip, _) => (40 + usize::from(ip.payload_length), true),
    };
    if claimed != bytes.len() {
        return Some(format!("says {claimed} bytes and has {}", bytes.len()));
    }
    if !sum_fits {
        return Some("IPv4 header checksum".to_owned());
    }
    if payload.fragmented {
        return None;
    }
    if let Err(error) = etherparse::SlicedPacket::from_ip(bytes) {
        return Some(error.to_string());
    }
    let segment = payload.payload;
    if payload.ip_number == IpNumber::UDP
        && usize::from(u16::from_be_bytes([segment[4], segment[5]])) != segment.len()
    {
        return Some("UDP length".to_owned());
    }
    let cover = Cover::of(bytes)?;
    let none = cover.protocol == IpNumber::UDP && bytes[0] >> 4 == 4 && segment[6..8] == [0, 0];
    let adds_up = cover.pseudo.add_slice(segment).ones_complement() == 0;
    (!none && !adds_up).then(|| format!("transport checksum of protocol {}", cover.protocol.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_packets_have_no_flaw_and_broken_ones_have() {
        for spec in [Spec::tcp(10), Spec::udp(11), Spec::tcp(0).v6(), Spec::udp(3).v6()] {
            let mut bytes = spec.frame().bytes;
            assert_eq!(flaw(&bytes), None, "{spec:?}");
            let mut partial = Spec { partial: true, ..spec }.frame();
            assert_eq!(partial.wires(), std::slice::from_ref(&bytes));
            partial.offload = Offload::default();
            assert!(flaw(&partial.bytes).is_some());
            *bytes.last_mut().unwrap() ^= 1;
            assert!(flaw(&bytes).is_some());
            bytes.pop();
            assert!(flaw(&bytes).is_some());
        }
    }

    #[test]
    fn a_train_is_cut_as_linux_cuts_it() {
        let spec =
            Spec { flags: ACK | FIN | PSH | CWR, id: 0xffff, sequence: u32::MAX, ..Spec::tcp(25).train(10) };
        let wires = spec.frame().wires();
        let field =
            |at: usize| wires.iter().map(|w| u16::from_be_bytes([w[at], w[at + 1]])).collect::<Vec<_>>();
        assert_eq!(wires.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50, 45]);
        assert_eq!(field(4), [0xffff, 0, 1]);
        assert_eq!(field(26), [0xffff, 9, 19]);
        assert_eq!(wires.iter().map(|w| w[33]).collect::<Vec<_>>(), [ACK | CWR, ACK, ACK | FIN | PSH]);
        assert!(wires.iter().all(|wire| flaw(wire).is_none()));
        assert!(Spec::udp(25).v6().train(10).frame().wires().iter().all(|wire| flaw(wire).is_none()));
    }
}
