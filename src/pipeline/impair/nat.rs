//! Where a translator stands in a path; the router, whose it is, asks it there.

use crate::pipeline::packet::Packet;
use crate::pipeline::params::NatPlace;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

impl Stage for NatPlace {
    fn decide(&mut self, _packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, Action::Pass)
    }
}
