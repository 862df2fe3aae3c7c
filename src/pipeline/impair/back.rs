//! The other direction of a stage that works in both.
//!
//! Such a stage lives in one path and has a slot of this kind at the end of the opposite one, where it sees what comes back.
//! Both directions of a connection belong to one worker, so the two slots are one worker's.

use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Where the stage lives; the router asks it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// Index of its path.
    pub path: u16,
    /// Its index in there.
    pub stage: u16,
}

impl Stage for Back {
    fn decide(&mut self, _packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, Action::Pass)
    }
}
