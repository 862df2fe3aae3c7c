//! Which packets a stage looks at.
//!
//! The wire packets of a train share addresses and ports, but the last is shorter and carries FIN and PSH, and the first
//! CWR; so a selection answers for a run of wire packets, as stages do.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pipeline::packet::Packet;
use crate::pipeline::params::{FragmentSelect, Select};

impl Select {
    /// True if every packet is selected.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// How many wire packets at the front of `packet`, `limit` at most, are alike selected, and whether they are.
    #[inline]
    pub fn run(&self, packet: &Packet, limit: u32) -> (u32, bool) {
        if !self.takes_packet(packet) {
            return (limit, false);
        }
        if !self.looks_at_wires() {
            return (limit, true);
        }
        let last = packet.wires() - 1;
        let first = self.takes_wire(packet, 0);
        // The first, all in the middle, and the last.
        let mut count = 1;
        if limit > 1 && last > 1 && self.takes_wire(packet, 1) == first {
            count = last.min(limit);
        } else if last > 1 {
            return (1, first);
        }
        if count == last && limit > last && self.takes_wire(packet, last) == first {
            count += 1;
        }
        (count, first)
    }

    const fn looks_at_wires(&self) -> bool {
        self.tcp_flags_set | self.tcp_flags_unset != 0
            || self.ip_length.is_some()
            || self.payload_length.is_some()
    }

    /// What all wire packets have in common.
    fn takes_packet(&self, packet: &Packet) -> bool {
        any_or(&self.protocols, |&protocol| protocol == packet.protocol())
            && prefix_or_any(&self.source, || packet.source())
            && prefix_or_any(&self.destination, || packet.destination())
            && self.takes_ports(packet)
            && self.fragment.is_none_or(|wanted| takes_fragment(wanted, packet))
            && any_or(&self.dscp, |&dscp| dscp == packet.traffic_class() >> 2)
            && any_or(&self.ecn, |&ecn| ecn == packet.traffic_class() & 3)
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

    /// What wire packets differ in.
    fn takes_wire(&self, packet: &Packet, i: u32) -> bool {
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
    }
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
