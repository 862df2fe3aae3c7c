//! A link that is down by a schedule.
//!
//! Model: down in `[start + k(down + up), start + k(down + up) + down)` for k = 0, 1, ...; once only without `up`. What
//! comes while it is down is dropped. Times count from the start of the run.
//! Never delays, reorders, copies or alters a packet.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::BlackoutParams;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Drops everything at times.
#[derive(Debug)]
pub struct Blackout {
    params: BlackoutParams,
}

impl Blackout {
    /// The schedule of `params`.
    pub const fn new(params: BlackoutParams) -> Self {
        Self { params }
    }

    fn is_down(&self, now: Instant) -> bool {
        let (start, down) = (self.params.start.as_nanos(), self.params.down.as_nanos());
        let Some(since) = now.as_nanos().checked_sub(start) else { return false };
        match self.params.up {
            Some(up) => since % (down + up.as_nanos()).max(1) < down,
            None => since < down,
        }
    }
}

impl Stage for Blackout {
    #[inline]
    fn decide(&mut self, _packet: &Packet, limit: u32, now: Instant) -> Verdict {
        Verdict::new(limit, if self.is_down(now) { Action::Drop(Reason::Blackout) } else { Action::Pass })
    }
}
