//! Which packets a stage looks at.
//!
//! The wire packets of a train share addresses and ports, but the last one is shorter and carries FIN and PSH, and
//! the first one carries CWR. So a selection answers for a run of wire packets, as stages do. The gate tells the
//! selection what was sent before.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pipeline::aim::segments::{self, View};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{FragmentSelect, Opened, QuicSelect, Segment, Segments, Select};
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{FlowKey, protocol, quic};

/// Largest number of datagrams of a train that are inspected at once: the kernel makes no longer trains.
const MOST_DATAGRAMS: u32 = 128;

/// What a selection, or a gate, says about the first wire packets of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// How many of them get the same answer.
    pub count: u32,
    /// Whether the stage acts on them.
    pub acts: bool,
}

impl Claim {
    /// A claim about `count` wire packets.
    pub const fn new(count: u32, acts: bool) -> Self {
        Self { count, acts }
    }
}

impl Select {
    /// True if every packet is selected.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// How many wire packets at the front of `packet`, at most `limit`, get the same answer, and whether they are
    /// selected.
    #[inline]
    pub fn run(&self, packet: &Packet, limit: u32) -> Claim {
        if !self.takes_packet(packet) {
            return Claim::new(limit, false);
        }
        if !self.looks_at_wires() {
            return Claim::new(limit, true);
        }
        if let Some(quic) = &self.quic {
            return self.run_quic(quic, packet, limit);
        }
        let last = packet.wires() - 1;
        let first = self.takes_wire(packet, 0);
        // The first, all in the middle, and the last.
        let mut count = 1;
        if limit > 1 && last > 1 && self.takes_wire(packet, 1) == first {
            count = last.min(limit);
        } else if last > 1 {
            return Claim::new(1, first);
        }
        if count == last && limit > last && self.takes_wire(packet, last) == first {
            count += 1;
        }
        Claim::new(count, first)
    }

    /// [`Self::run`] for a selection that [`Self::remembers`]; `view` is what is known of the packet if it is TCP.
    pub fn run_behind(&self, packet: &Packet, limit: u32, view: Option<&View>) -> Claim {
        let Some(view) = view.filter(|_| self.takes_packet(packet)) else { return Claim::new(limit, false) };
        let takes = |i| {
            let kinds = segments::kinds(packet, i);
            let aimed = self.transmission.is_none_or(|aim| view.carries(i, aim));
            let opened = self.opened.is_none_or(|opened| view.opened() == opened);
            aimed && opened && self.takes_kinds(packet, i, || kinds.or(view.remembered(i, kinds)))
        };
        let first = takes(0);
        let marks = view.marks().into_iter().chain([packet.wires() - 1]);
        let changes = |&at: &u32| (1..limit).contains(&at) && takes(at) != first;
        Claim::new(marks.filter(changes).min().unwrap_or(limit), first)
    }

    /// The datagrams of a train have only their headers in common, so each is inspected.
    fn run_quic(&self, quic: &QuicSelect, packet: &Packet, limit: u32) -> Claim {
        let takes = |i| self.takes_wire(packet, i) && quic.takes(wire_bytes(packet, i));
        let limit = limit.min(MOST_DATAGRAMS);
        let first = takes(0);
        Claim::new((1..limit).find(|&i| takes(i) != first).unwrap_or(limit), first)
    }

    /// Whether the selection depends on what was sent before.
    pub const fn remembers(&self) -> bool {
        self.segments.meets(Segments::REMEMBERED) || self.transmission.is_some() || self.opened.is_some()
    }

    const fn looks_at_wires(&self) -> bool {
        self.tcp_flags_set | self.tcp_flags_unset != 0
            || self.ip_length.is_some()
            || self.payload_length.is_some()
            || !self.segments.is_empty()
            || self.quic.is_some()
    }

    /// Whether the fields match that all wire packets have in common.
    fn takes_packet(&self, packet: &Packet) -> bool {
        any_or(&self.protocols, |&protocol| protocol == packet.protocol())
            && prefix_or_any(&self.source, || packet.source())
            && prefix_or_any(&self.destination, || packet.destination())
            && self.takes_ports(packet)
            && self.fragment.is_none_or(|wanted| takes_fragment(wanted, packet))
            && any_or(&self.dscp, |&dscp| dscp == packet.traffic_class() >> 2)
            && any_or(&self.ecn, |&ecn| ecn == packet.traffic_class() & 3)
            && (self.quic.is_none() || packet.is_udp() && !packet.layout.is_fragment())
            && (self.addresses.is_empty()
                || prefix_or_any(&self.addresses, || packet.source())
                || prefix_or_any(&self.addresses, || packet.destination()))
            && !self.except.iter().any(|except| except.takes_packet(packet))
    }

    fn takes_ports(&self, packet: &Packet) -> bool {
        if self.source_ports.is_empty() && self.destination_ports.is_empty() && self.ports.is_empty() {
            return true;
        }
        let Some((source, destination)) = packet.ports() else { return false };
        let within = |port: u16| move |&(first, last): &(u16, u16)| (first..=last).contains(&port);
        any_or(&self.source_ports, within(source))
            && any_or(&self.destination_ports, within(destination))
            && any_or(&self.ports, |range| within(source)(range) || within(destination)(range))
    }

    /// Whether the fields match in which wire packets differ.
    fn takes_wire(&self, packet: &Packet, i: u32) -> bool {
        self.takes_kinds(packet, i, || segments::kinds(packet, i))
    }

    /// The same, given the kinds of wire packet `i`.
    fn takes_kinds(&self, packet: &Packet, i: u32, kinds: impl FnOnce() -> Segments) -> bool {
        let within = |range: Option<(u32, u32)>, value: u32| {
            range.is_none_or(|(low, high)| (low..=high).contains(&value))
        };
        let flags_wanted = self.tcp_flags_set | self.tcp_flags_unset != 0;
        let flags_fit = || {
            let flags = packet.wire_flags(i);
            flags.is_some_and(|flags| {
                flags & self.tcp_flags_set == self.tcp_flags_set && flags & self.tcp_flags_unset == 0
            })
        };
        within(self.ip_length, packet.wire_length(i))
            && within(self.payload_length, packet.wire_payload(i))
            && (!flags_wanted || flags_fit())
            && (self.segments.is_empty() || self.segments.meets(kinds()))
    }
}

/// Which plain packets ([`crate::pipeline::router::quiet`]) of a flow a selection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfFlow {
    /// None of them.
    No,
    /// Some; this depends on the packet.
    Some,
    /// All of them.
    All,
}

impl Select {
    /// Which plain packets of the flow `key` are selected, if its connection was `opened` at that time; `None`: not
    /// known.
    pub fn of_flow(&self, key: &FlowKey, opened: Option<Opened>) -> OfFlow {
        const SHOWN: u8 = flag::SYN | flag::FIN | flag::RST;
        let is_tcp = key.protocol() == protocol::TCP;
        let plain = Segments::NONE
            .with(Segment::Data)
            .with(Segment::PureAck)
            .with(Segment::Sack)
            .or(Segments::REMEMBERED);
        let asks_tcp = self.tcp_flags_set | self.tcp_flags_unset != 0
            || self.transmission.is_some()
            || self.opened.is_some()
            || !self.segments.is_empty();
        let is_possible = (is_tcp || !asks_tcp)
            && self.tcp_flags_set & SHOWN == 0
            && (self.segments.is_empty() || self.segments.meets(plain))
            && self.opened.is_none_or(|wanted| opened.is_none_or(|opened| opened == wanted));
        let depends =
            self.looks_at_wires() || self.transmission.is_some() || self.opened.is_some() && opened.is_none();
        match self.of_key(key) {
            _ if !is_possible => OfFlow::No,
            OfFlow::All if depends => OfFlow::Some,
            of_key => of_key,
        }
    }

    /// The same, by the fields that the wire packets of a train have in common.
    fn of_key(&self, key: &FlowKey) -> OfFlow {
        let is_possible = self.takes_key(key)
            && self.fragment.is_none_or(|wanted| wanted == FragmentSelect::None)
            && (self.quic.is_none() || key.protocol() == protocol::UDP);
        let excepts = self.except.iter().map(|except| except.of_key(key));
        let excepts = excepts.fold(OfFlow::No, |sum, except| match (sum, except) {
            (OfFlow::All, _) | (_, OfFlow::All) => OfFlow::All,
            (OfFlow::Some, _) | (_, OfFlow::Some) => OfFlow::Some,
            _ => OfFlow::No,
        });
        if !is_possible || excepts == OfFlow::All {
            return OfFlow::No;
        }
        let depends = !self.dscp.is_empty() || !self.ecn.is_empty() || excepts == OfFlow::Some;
        if depends { OfFlow::Some } else { OfFlow::All }
    }

    /// Whether the fields match that all plain packets of a flow have in common.
    fn takes_key(&self, key: &FlowKey) -> bool {
        let (source, destination) = (key.source_port(), key.destination_port());
        let within = |port: u16| move |&(first, last): &(u16, u16)| (first..=last).contains(&port);
        let asks_ports =
            !(self.source_ports.is_empty() && self.destination_ports.is_empty() && self.ports.is_empty());
        let has_ports =
            matches!(key.protocol(), protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP);
        any_or(&self.protocols, |&protocol| protocol == key.protocol())
            && prefix_or_any(&self.source, || key.source())
            && prefix_or_any(&self.destination, || key.destination())
            && (self.addresses.is_empty()
                || prefix_or_any(&self.addresses, || key.source())
                || prefix_or_any(&self.addresses, || key.destination()))
            && (!asks_ports || has_ports)
            && any_or(&self.source_ports, within(source))
            && any_or(&self.destination_ports, within(destination))
            && any_or(&self.ports, |range| within(source)(range) || within(destination)(range))
    }
}

impl QuicSelect {
    /// Whether any QUIC packet in a datagram is wanted.
    fn takes(&self, datagram: &[u8]) -> bool {
        quic::packets(datagram).any(|quic| {
            (self.packets == 0 || quic.packet.is_some_and(|packet| self.packets & packet as u8 != 0))
                && any_or(&self.destinations, |beginning| quic.destination.starts_with(beginning))
        })
    }
}

/// The payload of wire packet `i`.
fn wire_bytes(packet: &Packet, i: u32) -> &[u8] {
    let start = packet.header_length() + (i * u32::from(packet.segment())) as usize;
    &packet.bytes()[start..start + packet.wire_payload(i) as usize]
}

fn any_or<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

fn prefix_or_any(wanted: &[IpNet], address: impl Fn() -> IpAddr) -> bool {
    wanted.is_empty() || {
        let address = address();
        wanted.iter().any(|prefix| prefix.contains(&address))
    }
}

fn takes_fragment(wanted: FragmentSelect, packet: &Packet) -> bool {
    let (fragment, later) = (packet.layout.is_fragment(), packet.layout.is_later_fragment());
    match wanted {
        FragmentSelect::None => !fragment,
        FragmentSelect::Any => fragment,
        FragmentSelect::First => fragment && !later,
        FragmentSelect::Later => later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::{ImpairmentParams, Opened, StageParams, Transmission, Trigger};
    use crate::pipeline::testing::frame::Extra;
    use crate::pipeline::testing::{Frame, Run, Spec, stage};
    use crate::pipeline::time::Instant;
    use crate::pipeline::wire::quic::QuicPacket;

    /// Length of the datagrams below.
    const LENGTH: usize = 24;

    /// Handshake packet and Initial to a connection ID, short header to one, and no QUIC.
    fn handshake(id: u8) -> Vec<u8> {
        datagram(&[0xe0, 0, 0, 0, 1, 2, id, id, 0, 4, 9, 9, 9, 9])
    }

    fn initial(id: u8) -> Vec<u8> {
        datagram(&[0xc0, 0, 0, 0, 1, 2, id, id, 0, 0, 2, 9, 9])
    }

    fn short(id: u8) -> Vec<u8> {
        datagram(&[0x40, id, id, 9, 9])
    }

    fn noise() -> Vec<u8> {
        datagram(&[0x12, 0x34])
    }

    fn datagram(bytes: &[u8]) -> Vec<u8> {
        let mut datagram = bytes.to_vec();
        datagram.resize(LENGTH, 0);
        datagram
    }

    fn wanted(packets: &[QuicPacket], destinations: &[&[u8]]) -> Select {
        let packets = packets.iter().fold(0, |bits, &packet| bits | packet as u8);
        let destinations = destinations.iter().map(|id| id.to_vec()).collect();
        Select { quic: Some(QuicSelect { packets, destinations }), ..Select::default() }
    }

    /// Which of these datagrams pass a stage that drops what is selected, in a train and one by one.
    fn left(select: &Select, trigger: &Trigger, datagrams: &[Vec<u8>]) -> Vec<usize> {
        let frames = |train: bool| {
            let mut payload = datagrams.concat();
            if train {
                return vec![Spec { payload, ..Spec::udp(0) }.train(LENGTH as u16).v6().frame()];
            }
            payload.clear();
            datagrams.iter().map(|one| Spec { payload: one.clone(), ..Spec::udp(0) }.v6().frame()).collect()
        };
        let [alone, train] = [false, true].map(|train| {
            let aim = StageParams {
                select: select.clone(),
                trigger: trigger.clone(),
                ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
            };
            let mut run = Run::new(vec![aim]);
            for frame in frames(train) {
                run.feed(Instant::ZERO, &frame);
            }
            run.wires().iter().map(|wire| wire.bytes[48..].to_vec()).collect::<Vec<_>>()
        });
        assert_eq!(alone, train);
        let mut left = alone.into_iter().peekable();
        (0..datagrams.len()).filter(|&i| left.next_if_eq(&datagrams[i]).is_some()).collect()
    }

    #[test]
    fn each_datagram_of_a_train_is_looked_into() {
        let all = [initial(1), noise(), handshake(1), short(1), initial(2), initial(3)];
        let (always, first_two) = (Trigger::default(), Trigger { first: Some(2), ..Trigger::default() });
        let initials = wanted(&[QuicPacket::Initial], &[]);
        assert_eq!(left(&initials, &always, &all), [1, 2, 3]);
        assert_eq!(left(&initials, &first_two, &all), [1, 2, 3, 5]);
        let both = wanted(&[QuicPacket::Handshake, QuicPacket::Short], &[]);
        assert_eq!(left(&both, &always, &all), [0, 1, 4, 5]);
        assert_eq!(left(&wanted(&[QuicPacket::Retry], &[]), &always, &all), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn connection_ids_are_known_by_how_they_begin() {
        let all = [initial(1), short(1), initial(2), short(2), noise(), handshake(3)];
        let always = Trigger::default();
        assert_eq!(left(&wanted(&[], &[&[1]]), &always, &all), [2, 3, 4, 5]);
        assert_eq!(left(&wanted(&[], &[&[2, 2], &[3]]), &always, &all), [0, 1, 4]);
        // Longer than the one that a long header tells; a short header does not tell.
        assert_eq!(left(&wanted(&[], &[&[1, 1, 9]]), &always, &all), [0, 2, 3, 4, 5]);
        assert_eq!(left(&wanted(&[QuicPacket::Initial], &[&[2]]), &always, &all), [0, 1, 3, 4, 5]);
        // Type and ID must be those of one packet.
        let mut coalesced = initial(1);
        coalesced.truncate(13);
        coalesced.extend(&handshake(2)[..11]);
        let all = [coalesced];
        assert_eq!(left(&wanted(&[QuicPacket::Handshake], &[&[2]]), &always, &all), [0_usize; 0]);
        assert_eq!(left(&wanted(&[QuicPacket::Handshake], &[&[1]]), &always, &all), [0]);
    }

    #[test]
    fn a_fragment_and_what_is_not_udp_is_no_quic() {
        let aim = || StageParams {
            select: wanted(&[QuicPacket::Initial], &[]),
            ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
        };
        let payload = initial(1);
        let fragments = Spec { payload, extra: Extra::Fragments(16), ..Spec::udp(0) };
        for spec in [fragments.clone(), Spec { udp: false, extra: Extra::Nothing, ..fragments.clone() }] {
            let mut run = Run::new(vec![aim()]);
            for frame in spec.frames() {
                run.feed(Instant::ZERO, &frame);
            }
            assert_eq!(run.wires().len(), spec.frames().len());
        }
        let mut run = Run::new(vec![aim()]);
        run.feed(Instant::ZERO, &Spec { extra: Extra::Options, ..fragments }.frame());
        assert_eq!(run.wires().len(), 0, "IP options change nothing");
    }

    /// How many wire packets at the front fare alike: what each fares is asked one by one.
    #[test]
    fn a_run_reaches_up_to_the_first_wire_packet_that_differs() {
        // The last wire packet is shorter, as long, or the only one; PSH is only on the last, CWR only on the first.
        let flags = flag::ACK | flag::PSH | flag::CWR;
        let trains = [95, 100, 195, 200, 295, 300, 395, 400]
            .map(|payload| Spec { flags, ..Spec::tcp(payload) }.train(100).frame().parse().unwrap());
        let selects = [
            Select { payload_length: Some((100, 100)), ..Select::default() },
            Select { ip_length: Some((0, 139)), ..Select::default() },
            Select { tcp_flags_set: flag::PSH, ..Select::default() },
            Select { tcp_flags_unset: flag::CWR, ..Select::default() },
            Select { tcp_flags_set: flag::ACK, tcp_flags_unset: flag::PSH, ..Select::default() },
            Select { segments: Segments::NONE.with(Segment::Data), ..Select::default() },
        ];
        for (packet, select) in
            trains.iter().flat_map(|packet| selects.iter().map(move |select| (packet, select)))
        {
            let takes = |i: u32| {
                let within = |range: Option<(u32, u32)>, value| {
                    range.is_none_or(|(low, high)| (low..=high).contains(&value))
                };
                let (is_first, is_last) = (i == 0, i + 1 == packet.wires());
                let has = |flag| match flag {
                    flag::PSH => is_last,
                    flag::CWR => is_first,
                    flag => flag == 0 || flag == flag::ACK,
                };
                within(select.payload_length, packet.wire_payload(i))
                    && within(select.ip_length, packet.wire_length(i))
                    && has(select.tcp_flags_set)
                    && (select.tcp_flags_unset == 0 || !has(select.tcp_flags_unset))
            };
            for limit in 1..=packet.wires() {
                let count = (1..limit).find(|&i| takes(i) != takes(0)).unwrap_or(limit);
                let claim = Claim::new(count, takes(0));
                assert_eq!(select.run(packet, limit), claim, "{select:?}, {} wires, {limit}", packet.wires());
            }
        }
    }

    #[test]
    fn traffic_classes_are_dscp_and_ecn() {
        let packet = Spec { traffic_class: 46 << 2 | 1, ..Spec::tcp(0) }.frame().parse().unwrap();
        let takes = |dscp: &[u8], ecn: &[u8]| {
            Select { dscp: dscp.to_vec(), ecn: ecn.to_vec(), ..Select::default() }.run(&packet, 1).acts
        };
        assert!(takes(&[46], &[]) && takes(&[], &[1]) && takes(&[0, 46], &[1, 2]));
        assert!(!takes(&[45], &[]) && !takes(&[], &[2]) && !takes(&[46], &[3]) && !takes(&[0], &[1]));
    }

    /// What is known of a flow before its packets come.
    #[test]
    fn a_flow_is_selected_as_its_packets_are() {
        let key = |spec: Spec| {
            let packet = spec.frame().parse().unwrap();
            FlowKey::new(packet.bytes(), packet.layout)
        };
        let (tcp, udp) = (key(Spec::tcp(9)), key(Spec::udp(9)));
        let echo = Frame::plain(crate::pipeline::wire::samples::PING_V4.to_vec()).parse().unwrap();
        let icmp = FlowKey::new(echo.bytes(), echo.layout);
        let any = Select::default;
        let segments = |segment| Select { segments: Segments::NONE.with(segment), ..any() };
        let except = |select| Select { except: vec![select], ..any() };
        let opened = Select { opened: Some(Opened::After), ..any() };
        let transmission = Some(Transmission { of: 1, again: false });
        let quic = Some(QuicSelect::default());
        for (select, of_tcp, of_udp, of_icmp) in [
            (any(), OfFlow::All, OfFlow::All, OfFlow::All),
            (Select { protocols: vec![1], ..any() }, OfFlow::No, OfFlow::No, OfFlow::All),
            (Select { ports: vec![(443, 443)], ..any() }, OfFlow::All, OfFlow::All, OfFlow::No),
            (Select { source_ports: vec![(443, 443)], ..any() }, OfFlow::No, OfFlow::No, OfFlow::No),
            (Select { dscp: vec![1], ..any() }, OfFlow::Some, OfFlow::Some, OfFlow::Some),
            (Select { ecn: vec![1], ..any() }, OfFlow::Some, OfFlow::Some, OfFlow::Some),
            (Select { fragment: Some(FragmentSelect::None), ..any() }, OfFlow::All, OfFlow::All, OfFlow::All),
            (Select { fragment: Some(FragmentSelect::Any), ..any() }, OfFlow::No, OfFlow::No, OfFlow::No),
            (Select { ip_length: Some((0, 99)), ..any() }, OfFlow::Some, OfFlow::Some, OfFlow::Some),
            (Select { tcp_flags_set: flag::ACK, ..any() }, OfFlow::Some, OfFlow::No, OfFlow::No),
            (Select { tcp_flags_unset: flag::SYN, ..any() }, OfFlow::Some, OfFlow::No, OfFlow::No),
            // Plain packets have none of these.
            (Select { tcp_flags_set: flag::SYN, ..any() }, OfFlow::No, OfFlow::No, OfFlow::No),
            (Select { tcp_flags_set: flag::FIN, ..any() }, OfFlow::No, OfFlow::No, OfFlow::No),
            (Select { tcp_flags_set: flag::RST, ..any() }, OfFlow::No, OfFlow::No, OfFlow::No),
            (segments(Segment::Data), OfFlow::Some, OfFlow::No, OfFlow::No),
            (segments(Segment::NewData), OfFlow::Some, OfFlow::No, OfFlow::No),
            (segments(Segment::Syn), OfFlow::No, OfFlow::No, OfFlow::No),
            (Select { transmission, ..any() }, OfFlow::Some, OfFlow::No, OfFlow::No),
            (opened.clone(), OfFlow::Some, OfFlow::No, OfFlow::No),
            (Select { quic, ..any() }, OfFlow::No, OfFlow::Some, OfFlow::No),
            (except(Select { protocols: vec![6], ..any() }), OfFlow::No, OfFlow::All, OfFlow::All),
            (except(Select { dscp: vec![1], ..any() }), OfFlow::Some, OfFlow::Some, OfFlow::Some),
        ] {
            let found = [&tcp, &udp, &icmp].map(|key| select.of_flow(key, None));
            assert_eq!(found, [of_tcp, of_udp, of_icmp], "{select:?}");
        }
        assert_eq!(opened.of_flow(&tcp, Some(Opened::After)), OfFlow::All);
        assert_eq!(opened.of_flow(&tcp, Some(Opened::Before)), OfFlow::No);
    }

    #[test]
    fn fragments_are_told_apart() {
        let fragments = Spec { extra: Extra::Fragments(64), ..Spec::udp(200) }.frames();
        let (first, later, whole) = (&fragments[0], &fragments[1], &Spec::udp(9).frame());
        for (fragment, expected) in [
            (FragmentSelect::None, [true, false, false]),
            (FragmentSelect::Any, [false, true, true]),
            (FragmentSelect::First, [false, true, false]),
            (FragmentSelect::Later, [false, false, true]),
        ] {
            let select = Select { fragment: Some(fragment), ..Select::default() };
            let takes = [whole, first, later].map(|frame| select.run(&frame.parse().unwrap(), 1).acts);
            assert_eq!(takes, expected, "{fragment:?}");
        }
    }
}
