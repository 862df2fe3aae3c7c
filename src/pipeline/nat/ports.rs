//! Which port outside a new mapping gets.
//!
//! Free ports are bits, with a summary above them: choosing takes about ten steps, however few are left.

use std::ops::RangeInclusive;

use crate::pipeline::nat::free::Free;
use crate::pipeline::params::PortAllocation;
use crate::pipeline::wire::protocol;

/// Number spaces that are independent of each other: TCP, UDP, ICMP.
const SPACES: usize = 3;

/// Every identifier of an echo may be given out.
const IDENTIFIERS: RangeInclusive<u16> = 0..=u16::MAX;

/// The free ports of all addresses, and which to try first.
#[derive(Debug, Default)]
pub(super) struct Ports {
    first: u16,
    last: u16,
    policy: PortAllocation,
    /// By address and number space.
    free: Vec<[Free; SPACES]>,
}

const fn space(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        _ => 2,
    }
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>, policy: PortAllocation, addresses: usize) -> Self {
        let free = [Free::new(&range), Free::new(&range), Free::new(&IDENTIFIERS)];
        let (first, last) = range.into_inner();
        Self { first, last, policy, free: vec![free; addresses] }
    }

    fn range(&self, protocol: u8) -> RangeInclusive<u16> {
        if space(protocol) < 2 { self.first..=self.last } else { IDENTIFIERS }
    }

    /// Whether a new mapping should keep this port, if it is free.
    pub(super) fn keeps(&self, protocol: u8, wanted: u16) -> bool {
        self.policy == PortAllocation::Preserve && self.range(protocol).contains(&wanted)
    }

    /// A free port of the address; `None` if all are taken. `wanted` is the one inside, `None` if it may not be kept; `draw`
    /// is random. Not yet taken.
    pub(super) fn choose(&self, protocol: u8, address: usize, wanted: Option<u16>, draw: u64) -> Option<u16> {
        let free = &self.free[address][space(protocol)];
        let range = self.range(protocol);
        if self.policy == PortAllocation::Smallest {
            return free.next(*range.start());
        }
        let count = u64::from(*range.end() - *range.start()) + 1;
        let start = *range.start() + (draw % count) as u16;
        let Some(wanted) = wanted.filter(|_| self.policy == PortAllocation::Preserve) else {
            return free.next(start);
        };
        if free.has(wanted) {
            return Some(wanted);
        }
        free.next_alike(start, wanted).or_else(|| free.next(start))
    }

    /// Marks a port as taken: a chosen one, or that of a forward.
    pub(super) fn take(&mut self, protocol: u8, address: usize, port: u16) {
        self.free[address][space(protocol)].take(port);
    }

    /// Marks a port as free, if it may be given out.
    pub(super) fn give(&mut self, protocol: u8, address: usize, port: u16) {
        if self.range(protocol).contains(&port) {
            self.free[address][space(protocol)].give(port);
        }
    }

    /// All are free again.
    pub(super) fn clear(&mut self) {
        let range = self.first..=self.last;
        for [tcp, udp, icmp] in &mut self.free {
            tcp.reset(&range);
            udp.reset(&range);
            icmp.reset(&IDENTIFIERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const UDP: u8 = protocol::UDP;

    /// What is given out, one after the other, for hosts that want these ports.
    fn given(policy: PortAllocation, range: RangeInclusive<u16>, wanted: &[u16]) -> Vec<Option<u16>> {
        let mut ports = Ports::new(range, policy, 1);
        let mut taken = BTreeSet::new();
        let give = |(draw, &wanted): (usize, &u16)| {
            let port = ports.choose(UDP, 0, Some(wanted), draw as u64 * 7919)?;
            assert!(taken.insert(port));
            ports.take(UDP, 0, port);
            Some(port)
        };
        wanted.iter().enumerate().map(give).collect()
    }

    #[test]
    fn a_free_port_is_kept_and_else_its_parity() {
        let range = 1_000..=1_005;
        let got = given(PortAllocation::Preserve, range, &[1_001, 1_001, 1_001, 1_001, 80, 1_004, 7]);
        let odd: BTreeSet<_> = got[..3].iter().map(|port| port.unwrap()).collect();
        assert_eq!((got[0], odd), (Some(1_001), BTreeSet::from([1_001, 1_003, 1_005])));
        // No odd one is left; what is left goes until there is none.
        assert!(got[3..6].iter().all(|port| port.unwrap() % 2 == 0), "{got:?}");
        assert_eq!(got[6], None);
    }

    #[test]
    fn the_smallest_free_port_comes_first_and_comes_back() {
        assert_eq!(given(PortAllocation::Smallest, 5..=7, &[9; 4]), [Some(5), Some(6), Some(7), None]);
        let mut ports = Ports::new(5..=7, PortAllocation::Smallest, 1);
        for port in 5..=7 {
            ports.take(UDP, 0, port);
        }
        ports.give(UDP, 0, 6);
        // One of a forward, which may not be given out.
        ports.give(UDP, 0, 4);
        assert_eq!(ports.choose(UDP, 0, None, 0), Some(6));
        // Another space has ports of its own.
        assert_eq!(ports.choose(protocol::TCP, 0, None, 0), Some(5));
        assert_eq!(ports.choose(protocol::ICMP, 0, None, 0), Some(0));
    }

    #[test]
    fn a_random_port_is_not_the_wanted_one_but_by_chance() {
        let wanted: Vec<u16> = (2_000..2_100).collect();
        let got = given(PortAllocation::Random, 1_024..=u16::MAX, &wanted);
        let kept = got.iter().zip(&wanted).filter(|(got, wanted)| **got == Some(**wanted)).count();
        assert!(kept <= 2, "{kept} of 100, with 64,512 to choose from");
        assert!(got.iter().all(|port| port.unwrap() >= 1_024));
    }
}
