//! A firewall that drops fragments.
//!
//! Model: every fragment of a datagram but the first is dropped, since it has no transport header to filter by.
//! Parameters: none. IPv4 and IPv6 alike; an IPv6 "atomic fragment" (RFC 6946) is a whole datagram and passes.
//! Never delays, reorders, copies or alters a packet.
//! Differs from iptables' `-f`: with iptables, conntrack (if loaded) reassembles fragments before any rule sees them.

use std::fmt;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// See [`crate::pipeline::params::ImpairmentParams::FragmentFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentFilterParams;

impl fmt::Display for FragmentFilterParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fragment-filter: drop every fragment but the first")
    }
}

impl Blueprint for FragmentFilterParams {
    type Stage = FragmentFilter;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        FragmentFilter
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Drops later fragments.
#[derive(Debug)]
pub struct FragmentFilter;

impl Stage for FragmentFilter {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let action =
            if packet.layout.is_later_fragment() { Action::drop(Reason::Fragment) } else { Action::PASS };
        Verdict::new(limit, action)
    }

    /// Fragments are always shown.
    fn quiet(&self, _ahead: &Ahead) -> Quiet {
        Quiet::FOREVER
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for FragmentFilterParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        Just(Self).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::{ImpairmentParams, MtuAction, MtuParams};
    use crate::pipeline::testing::frame::in_fragments;
    use crate::pipeline::testing::{Frame, Run, Spec, stage};

    #[test]
    fn only_the_first_fragment_of_an_ipv4_datagram_passes() {
        let small = MtuParams { mtu: 500, overhead: 0, action: MtuAction::Fragment };
        let mut run = Run::new(vec![
            stage(ImpairmentParams::Mtu(small)),
            stage(ImpairmentParams::FragmentFilter(FragmentFilterParams)),
        ]);
        run.feed(Instant::ZERO, &Spec { dont_fragment: false, ..Spec::udp(1400) }.frame());
        let left: Vec<_> = run.wires().iter().map(|wire| (wire.bytes[6] & 0x3f, wire.bytes[7])).collect();
        // "More fragments" is set and the offset is zero.
        assert_eq!((left, run.dropped(Reason::Fragment)), (vec![(0x20, 0)], 2));
    }

    #[test]
    fn only_the_first_fragment_of_an_ipv6_datagram_passes() {
        let mut run = Run::new(vec![stage(ImpairmentParams::FragmentFilter(FragmentFilterParams))]);
        let whole = Spec::udp(1400).v6().frame().bytes;
        let fragments = in_fragments(&whole, 600);
        for bytes in &fragments {
            run.feed(Instant::ZERO, &Frame::plain(bytes.clone()));
        }
        assert_eq!((fragments.len(), run.wires().len(), run.dropped(Reason::Fragment)), (3, 1, 2));
        assert_eq!(run.wires()[0].bytes[8..], fragments[0][8..]);
    }

    #[test]
    fn what_is_no_fragment_passes() {
        let mut run = Run::new(vec![stage(ImpairmentParams::FragmentFilter(FragmentFilterParams))]);
        run.feed(Instant::ZERO, &Spec::tcp(5000).train(1000).frame());
        // An atomic fragment (RFC 6946) is a whole datagram.
        run.feed(
            Instant::ZERO,
            &Frame::plain(in_fragments(&Spec::udp(100).v6().frame().bytes, 600)[0].clone()),
        );
        assert_eq!((run.wires().len(), run.frames().len()), (6, 2));
    }
}
