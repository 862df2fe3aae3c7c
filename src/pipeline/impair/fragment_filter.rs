//! A firewall that does not like fragments.
//!
//! Model: every fragment but the first of a datagram is dropped, since it has no transport header to judge it by.
//! Never delays, reorders, copies or alters a packet.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Drops later fragments.
#[derive(Debug)]
pub struct FragmentFilter;

impl Stage for FragmentFilter {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let action =
            if packet.layout.is_later_fragment() { Action::Drop(Reason::Fragment) } else { Action::Pass };
        Verdict::new(limit, action)
    }
}
