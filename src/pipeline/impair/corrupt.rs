//! Damaged bits.
//!
//! Model: in each wire packet that is hit, with probability `p`, `bits` different bits of the area flip. The transport
//! checksum is completed before, so that the receiver sees damage as damage; with `fix_checksum` all checksums are made
//! right afterwards, and the damage reaches the application.
//! One flipped bit always breaks a checksum that covers it. Two or more can cancel out (two flips of opposite direction
//! in the same bit of two words), and a UDP datagram over IPv4 without a checksum (zero) hides any damage.
//! Never drops, delays or copies a packet.
//! Differs from tc-netem: which bits flip is a function of the seed too, and the area can be chosen.

use crate::pipeline::damage::damage;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{CorruptArea, CorruptParams};
use crate::pipeline::rng::{Chance, StageKey};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Flips bits.
#[derive(Debug)]
pub struct Corrupt {
    chance: Chance,
    params: CorruptParams,
    key: StageKey,
}

impl Corrupt {
    /// A corruption with the draws of `setting`.
    pub fn new(params: CorruptParams, setting: &Setting) -> Self {
        Self { chance: Chance::new(params.probability), params, key: setting.key }
    }
}

impl Stage for Corrupt {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        match self.chance.run(packet.stream(self.key), packet.index, limit) {
            (count, false) => Verdict::new(count, Action::Pass),
            (_, true) if self.params.area == CorruptArea::Payload && packet.payload_length() == 0 => {
                Verdict::new(1, Action::Pass)
            }
            (_, true) => Verdict::new(1, Action::Rewrite),
        }
    }

    fn rewrite(&mut self, packet: &mut Packet, _now: Instant) -> bool {
        let stream = packet.stream(self.key.part(1));
        damage(packet, self.params.area, self.params.bits, self.params.fix_checksum, stream)
    }
}
