//! Whether any packet can meet a selection.
//!
//! A selection is split into conjunctions of conditions (a tableau). The conditions of a conjunction concern the
//! protocol and the ports, the addresses, the DSCP and the ECN field. Prefixes and ranges divide the addresses and
//! the ports into pieces within which every condition has one answer. So it is enough to test the first member of
//! each piece.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::pipeline::params::Select;
use crate::pipeline::wire::protocol;

/// Protocols whose ports are known.
pub(super) const WITH_PORTS: [u8; 4] = [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::UDP_LITE];
/// A protocol that conditions do not name (RFC 3692: for experiments). If a condition names it, another one is used.
const OTHER: [u8; 2] = [253, 254];
/// Maximum number of conjunctions that are examined; a selection with more counts as possible.
const MOST_TRIES: u32 = 1_000;
/// Maximum number of pieces of the ports, and of the addresses; a conjunction with more counts as possible.
const MOST_PIECES: usize = 32;

/// Whether some packet matches `select`. If the selection is too large to decide this, it counts as possible.
pub(in crate::config) fn is_possible(select: &Select) -> bool {
    Search { tries: MOST_TRIES }.any(vec![(select, true)], &Facts::default())
}

/// Which end of a packet a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

impl End {
    /// Whether `takes` holds for the end, or one of the ends, of a packet.
    fn holds<T: Copy>(self, source: T, destination: T, takes: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Source => takes(source),
            Self::Destination => takes(destination),
            Self::Either => takes(source) || takes(destination),
        }
    }
}

/// A range of ports, both ends included.
type Range = (u16, u16);

/// Conditions that must all hold (`true`) or not hold.
#[derive(Debug, Clone, Default)]
struct Facts<'a> {
    protocols: Vec<(&'a [u8], bool)>,
    ports: Vec<(End, &'a [Range], bool)>,
    addresses: Vec<(End, &'a [IpNet], bool)>,
    dscp: Vec<(&'a [u8], bool)>,
    ecn: Vec<(&'a [u8], bool)>,
}

struct Search {
    tries: u32,
}

impl Search {
    /// Whether a packet meets `facts` and `goals`; each is a selection that must match or must not match.
    fn any(&mut self, mut goals: Vec<(&Select, bool)>, facts: &Facts<'_>) -> bool {
        self.tries = self.tries.saturating_sub(1);
        if self.tries == 0 {
            return true;
        }
        if !facts.are_possible() {
            return false;
        }
        let Some((select, wanted)) = goals.pop() else { return true };
        if wanted {
            let mut facts = facts.clone();
            facts.add(select, |_| true);
            goals.extend(select.except.iter().map(|except| (except, false)));
            return self.any(goals, &facts);
        }
        // One of its conditions must be false, or one of its exceptions must match the packet.
        if has_more(select) && self.any(goals.clone(), facts) {
            return true;
        }
        let count = Facts::default().add(select, |_| false);
        let broken = (0..count).any(|number| {
            let mut facts = facts.clone();
            facts.add_one(select, number);
            self.any(goals.clone(), &facts)
        });
        broken
            || select.except.iter().any(|except| {
                let mut goals = goals.clone();
                goals.push((except, true));
                self.any(goals, facts)
            })
    }
}

/// Whether the selection has conditions that are not examined here, so that a packet may fail them.
fn has_more(select: &Select) -> bool {
    let known = Select {
        protocols: select.protocols.clone(),
        source: select.source.clone(),
        destination: select.destination.clone(),
        addresses: select.addresses.clone(),
        source_ports: select.source_ports.clone(),
        destination_ports: select.destination_ports.clone(),
        ports: select.ports.clone(),
        dscp: select.dscp.clone(),
        ecn: select.ecn.clone(),
        except: select.except.clone(),
        ..Select::default()
    };
    known != *select
}

impl<'a> Facts<'a> {
    /// Adds those conditions of `select` whose number `wants` accepts, unchanged; returns how many conditions it has.
    fn add(&mut self, select: &'a Select, wants: impl Fn(usize) -> bool) -> usize {
        self.visit(select, wants, true)
    }

    /// Adds the negation of condition number `number` of `select`.
    fn add_one(&mut self, select: &'a Select, number: usize) {
        self.visit(select, |other| other == number, false);
    }

    fn visit(&mut self, select: &'a Select, wants: impl Fn(usize) -> bool, holds: bool) -> usize {
        let mut number = 0;
        let mut next = |is_there: bool| {
            let is_wanted = is_there && wants(number);
            number += usize::from(is_there);
            is_wanted
        };
        for (of, list) in [
            (&mut self.protocols, &select.protocols),
            (&mut self.dscp, &select.dscp),
            (&mut self.ecn, &select.ecn),
        ] {
            if next(!list.is_empty()) {
                of.push((list, holds));
            }
        }
        for (end, list) in [
            (End::Source, &select.source_ports),
            (End::Destination, &select.destination_ports),
            (End::Either, &select.ports),
        ] {
            if next(!list.is_empty()) {
                self.ports.push((end, list, holds));
            }
        }
        for (end, list) in [
            (End::Source, &select.source),
            (End::Destination, &select.destination),
            (End::Either, &select.addresses),
        ] {
            if next(!list.is_empty()) {
                self.addresses.push((end, list, holds));
            }
        }
        // Conditions that only TCP or UDP packets can meet. A packet of another protocol fails them; this is covered
        // by `has_more`.
        if holds && (select.remembers() || select.tcp_flags_set | select.tcp_flags_unset != 0) {
            self.protocols.push((&[protocol::TCP], true));
        }
        if holds && select.quic.is_some() {
            self.protocols.push((&[protocol::UDP], true));
        }
        number
    }

    fn are_possible(&self) -> bool {
        let fits = |facts: &[(&[u8], bool)], value: u8| {
            facts.iter().all(|(list, holds)| list.contains(&value) == *holds)
        };
        (0..64).any(|dscp| fits(&self.dscp, dscp))
            && (0..4).any(|ecn| fits(&self.ecn, ecn))
            && self.protocol_and_ports(fits)
            && self.both_addresses()
    }

    fn protocol_and_ports(&self, fits: impl Fn(&[(&[u8], bool)], u8) -> bool) -> bool {
        let named = self.protocols.iter().flat_map(|(list, _)| list.iter().copied());
        let portless = self.ports.iter().all(|(_, _, holds)| !holds);
        named
            .chain(WITH_PORTS)
            .chain(OTHER)
            .filter(|&protocol| fits(&self.protocols, protocol))
            // Fragments have no ports, whatever their protocol.
            .any(|protocol| portless || WITH_PORTS.contains(&protocol) && self.both_ports())
    }

    fn both_ports(&self) -> bool {
        let ranges = self.ports.iter().flat_map(|(_, ranges, _)| ranges.iter());
        let mut starts: Vec<u16> = ranges
            .flat_map(|&(first, last)| [Some(first), last.checked_add(1)])
            .flatten()
            .chain([0])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let takes = |source, destination| {
            self.ports.iter().all(|(end, ranges, holds)| {
                let within = |port| ranges.iter().any(|&(first, last)| (first..=last).contains(&port));
                end.holds(source, destination, within) == *holds
            })
        };
        starts.len() > MOST_PIECES
            || starts.iter().any(|&source| starts.iter().any(|&destination| takes(source, destination)))
    }

    fn both_addresses(&self) -> bool {
        let prefixes = self.addresses.iter().flat_map(|(_, prefixes, _)| prefixes.iter());
        let mut starts: Vec<IpAddr> = prefixes
            .flat_map(|prefix| [Some(prefix.network()), following(prefix.broadcast())])
            .flatten()
            .chain([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let takes = |source: &IpAddr, destination: &IpAddr| {
            source.is_ipv4() == destination.is_ipv4()
                && self.addresses.iter().all(|(end, prefixes, holds)| {
                    let within = |address: &IpAddr| prefixes.iter().any(|prefix| prefix.contains(address));
                    end.holds(source, destination, within) == *holds
                })
        };
        starts.len() > MOST_PIECES
            || starts.iter().any(|source| starts.iter().any(|destination| takes(source, destination)))
    }
}

/// The next address after `address`, if there is one.
fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::params::{DropParams, ImpairmentParams, StageParams};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Instant;

    /// A small world: every packet of it is one of these, so that trying all of them is an answer.
    fn packets() -> Vec<Spec> {
        [Spec::udp(10), Spec::tcp(10)].into_iter().flat_map(|spec| [spec.clone(), spec.v6()]).collect()
    }

    /// Lists of conditions over that world (ports 40000 and 443), nested.
    fn selects() -> impl Strategy<Value = Select> {
        let protocols = prop::collection::vec(prop::sample::select(vec![6_u8, 17, 1]), 0..3);
        let range = prop::sample::select(vec![(0_u16, 442_u16), (443, 443), (444, 39_999), (40_000, 40_000)]);
        let ranges = || prop::collection::vec(range.clone(), 0..2);
        let net = prop::sample::select(vec!["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/8", "192.0.2.0/24"]);
        let nets = || prop::collection::vec(net.clone().prop_map(|text| text.parse().unwrap()), 0..2);
        let leaf = (protocols, ranges(), ranges(), ranges(), nets(), nets(), nets()).prop_map(
            |(protocols, source_ports, destination_ports, ports, source, destination, addresses)| Select {
                protocols,
                source,
                destination,
                source_ports,
                destination_ports,
                ports,
                addresses,
                ..Select::default()
            },
        );
        leaf.prop_recursive(3, 12, 3, |inner| {
            (inner.clone(), prop::collection::vec(inner, 0..3))
                .prop_map(|(select, except)| Select { except, ..select })
        })
    }

    fn is_met(select: &Select, spec: &Spec) -> bool {
        let drop = stage(ImpairmentParams::Drop(DropParams));
        let mut run = Run::new(vec![StageParams { select: select.clone(), ..drop }]);
        run.feed(Instant::ZERO, &spec.frame());
        run.wires().is_empty()
    }

    proptest! {
        /// What a packet meets is never called impossible.
        #[test]
        fn whatever_takes_a_packet_is_possible(select in selects()) {
            if packets().iter().any(|spec| is_met(&select, spec)) {
                prop_assert!(is_possible(&select), "{select:?}");
            }
        }

        /// What is called possible is possible: taking the opposite of a selection leaves no packet out.
        #[test]
        fn a_selection_and_its_opposite_share_nothing(select in selects()) {
            let opposite = Select { except: vec![select.clone()], ..Select::default() };
            // "not S, and not (not S)": no packet.
            let both = Select { except: vec![select.clone(), opposite.clone()], ..Select::default() };
            prop_assert!(!is_possible(&both), "{select:?}");
            prop_assert!(is_possible(&select) || is_possible(&opposite), "{select:?}");
        }
    }
}
