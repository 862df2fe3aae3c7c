//! The place of a translator in a path. The router owns the translator, and the path gives it a seat of its own kind
//! (`path::Occupant`), so the stage that is built here is never called.

use std::fmt;

use crate::pipeline::impair::{Blueprint, Directions, Place, Setting};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::NatPlace;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

impl fmt::Display for NatPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.outward {
            "nat: the source becomes an address outside"
        } else {
            "nat: the destination becomes the host inside"
        })
    }
}

impl Blueprint for NatPlace {
    type Stage = Self;

    fn build(&self, _setting: &Setting) -> Self {
        *self
    }

    /// The translator has a seat in each of the two paths.
    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

impl Stage for NatPlace {
    type Plan = ();

    fn decide(&mut self, _packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, Action::PASS)
    }
}

/// Its laws are with the translators.
#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for NatPlace {
    const STANDS_ALONE: bool = false;

    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        Just(Self { nat: 0, outward: true }).boxed()
    }
}
