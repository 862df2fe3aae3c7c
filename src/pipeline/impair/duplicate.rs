//! Extra copies.
//!
//! Model: each wire packet is followed at once, with probability `p`, by `copies` identical copies. Copies have draws of
//! their own in the stages behind.
//! Never drops, delays or alters a packet.
//! Differs from tc-netem: the copies go on from here; they do not pass the stages before a second time.

use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::DuplicateParams;
use crate::pipeline::rng::{Chance, StageKey};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

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
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        match self.chance.run(packet.stream(self.key), packet.index, limit) {
            (count, false) => Verdict::new(count, Action::Pass),
            // One by one, so that each copy follows its own original.
            (_, true) => Verdict::new(1, Action::Take),
        }
    }

    fn take(&mut self, packet: &mut Packet, _now: Instant, out: &mut Outlet<'_>) {
        let mut previous = packet.take(out.pool);
        for number in 1..=self.copies {
            let copy = previous.copy(out.pool, self.key.salt(number));
            out.created(&copy);
            out.forward(std::mem::replace(&mut previous, copy));
        }
        out.forward(previous);
    }
}
