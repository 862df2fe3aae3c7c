//! Extra copies.
//!
//! Model: with probability `p`, a wire packet is followed at once by `copies` identical copies. Later stages draw
//! separately for the copies.
//! Never drops, delays or alters a packet.
//! Differs from tc-netem: a copy continues behind this stage; it does not pass the earlier stages again.

use std::fmt;

use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::{Chance, StageKey};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// See [`ImpairmentParams::Duplicate`](crate::pipeline::impair::ImpairmentParams::Duplicate).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DuplicateParams {
    /// Probability for each wire packet, independently.
    pub probability: Probability,
    /// Extra copies of a packet that is hit, at least 1.
    pub copies: u32,
}

impl fmt::Display for DuplicateParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = if self.copies == 1 { "once" } else { &format!("{} times", self.copies) };
        write!(f, "duplicate {} of wire packets {copies}", self.probability)
    }
}

impl Blueprint for DuplicateParams {
    type Stage = Duplicate;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Duplicate::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }

    fn extra_packets(&self) -> f64 {
        self.probability.as_f64() * f64::from(self.copies)
    }
}

/// Copies wire packets.
#[derive(Debug)]
pub struct Duplicate {
    chance: Chance,
    copies: u32,
    key: StageKey,
}

impl Duplicate {
    /// A duplication with the draws of `setting`.
    pub fn new(params: DuplicateParams, setting: &Setting) -> Self {
        Self { chance: Chance::new(params.probability), copies: params.copies, key: setting.key }
    }
}

impl Stage for Duplicate {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        match self.chance.run(packet.stream(self.key), packet.index, limit) {
            (count, false) => Verdict::new(count, Action::PASS),
            // One by one, so that each copy follows its own original.
            (_, true) => Verdict::new(1, Action::TAKE),
        }
    }

    fn take(&mut self, packet: &mut Packet, (): (), _now: Instant, out: &mut Outlet<'_>) {
        let mut previous = packet.take(out.pool);
        for number in 1..=self.copies {
            let copy = out.copy(&previous, self.key.salt(number));
            out.forward(std::mem::replace(&mut previous, copy));
        }
        out.forward(previous);
    }

    fn quiet(&self, ahead: &Ahead) -> Quiet {
        ahead.next_hit(&self.chance, self.key)
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for DuplicateParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::probability;
        (probability(), 1..4_u32).prop_map(|(probability, copies)| Self { probability, copies }).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::units::Probability;

    #[test]
    fn copies_follow_their_original_and_are_the_same() {
        let params = DuplicateParams { probability: Probability::ONE, copies: 2 };
        let mut run = Run::new(vec![stage(ImpairmentParams::Duplicate(params))]);
        run.feed(Instant::ZERO, &Spec::tcp(2000).train(1000).frame());
        let wires: Vec<_> = run.wires().into_iter().map(|wire| wire.bytes).collect();
        assert_eq!(wires.len(), 6);
        assert!(
            wires[..3].iter().all(|wire| *wire == wires[0])
                && wires[3..].iter().all(|wire| *wire == wires[3])
        );
        assert_ne!(wires[0], wires[3]);
        assert_eq!(run.stage(0).created.packets, 4);
    }

    /// Five standard deviations of a binomial count.
    #[test]
    fn the_share_of_copies_is_p() {
        let (n, p) = (20_000_u32, 0.1);
        let params = DuplicateParams { probability: Probability::new(p).unwrap(), copies: 1 };
        let mut run = Run::new(vec![stage(ImpairmentParams::Duplicate(params))]);
        let frame = Spec::udp(1).frame();
        (0..n).for_each(|_| run.feed(Instant::ZERO, &frame));
        let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
        let copies = run.stage(0).created.packets as f64;
        assert!((copies - f64::from(n) * p).abs() <= 5.0 * sigma, "{copies}");
    }
}
