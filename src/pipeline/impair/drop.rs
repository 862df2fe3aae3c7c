//! Drops every packet that its match and trigger select.
//!
//! Model: every wire packet that the stage's match and trigger select is dropped; without either, everything is.
//! Parameters: none. It draws nothing: for a chance see `loss`, or the trigger's `probability`.
//! Never delays, reorders, copies or alters a packet.

use std::fmt;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// See [`crate::pipeline::params::ImpairmentParams::Drop`]: match and trigger say everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropParams;

impl fmt::Display for DropParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("drop")
    }
}

impl Blueprint for DropParams {
    type Stage = Discard;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        Discard
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Drops every packet.
#[derive(Debug)]
pub struct Discard;

impl Stage for Discard {
    type Plan = ();

    #[inline]
    fn decide(&mut self, _packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, Action::drop(Reason::Drop))
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for DropParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        Just(Self).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::{ImpairmentParams, StageParams, Trigger};
    use crate::pipeline::testing::{Run, Spec, stage};

    #[test]
    fn what_is_aimed_at_is_dropped_and_nothing_else() {
        let trigger = Trigger { nth: vec![2, 5], ..Trigger::default() };
        let mut run = Run::new(vec![StageParams { trigger, ..stage(ImpairmentParams::Drop(DropParams)) }]);
        run.feed(Instant::ZERO, &Spec { sequence: 0, ..Spec::tcp(5_000) }.train(1_000).frame());
        let sequences: Vec<u8> = run.wires().iter().map(|wire| wire.bytes[26]).collect();
        // 0, 2000 and 3000: the second byte from the right of the sequence number is 0, 7 and 11.
        assert_eq!((sequences, run.dropped(Reason::Drop)), (vec![0, 7, 11], 2));
    }

    #[test]
    fn without_an_aim_everything_is_dropped() {
        let mut run = Run::new(vec![stage(ImpairmentParams::Drop(DropParams))]);
        run.feed(Instant::ZERO, &Spec::udp(10).v6().frame());
        assert_eq!((run.wires().len(), run.stage(0).drops.of(Reason::Drop).packets), (0, 1));
    }
}
