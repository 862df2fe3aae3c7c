//! Propagation delay: a line without a limit.
//!
//! Model: each wire packet leaves `delay` after it came, exactly; with jitter, after a random time around it. Order
//! within a flow is kept unless `reorder` is asked for: a packet that would overtake its predecessor leaves together
//! with it, which lengthens the mean where jitter is wide against the spacing of packets.
//! Never drops, copies or alters a packet.
//! Differs from tc-netem: jitter does not reorder by default, and nothing here is absorbed by a rate limit.

use crate::pipeline::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::DelayParams;
use crate::pipeline::rng::StageKey;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Holds each wire packet for its delay.
#[derive(Debug)]
pub struct Delay {
    params: DelayParams,
    key: StageKey,
    /// Departure of the last packet of each flow, where order has to be kept.
    last: Option<PerFlow<Instant>>,
}

impl Delay {
    /// A delay with the draws of `setting`.
    pub fn new(params: DelayParams, setting: &Setting) -> Self {
        let keeps_order = !params.jitter.is_zero() && !params.reorder;
        Self { params, key: setting.key, last: keeps_order.then(|| PerFlow::new(setting.flows)) }
    }
}

impl Stage for Delay {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        if self.params.jitter.is_zero() {
            let action = if self.params.delay.is_zero() {
                Action::Pass
            } else {
                Action::Hold(now + self.params.delay)
            };
            return Verdict::new(limit, action);
        }
        let mut due = now + self.params.draw(packet.stream(self.key).word(packet.index, 0));
        if let Some(last) = &mut self.last {
            let last = last.of(packet.flow);
            due = due.max(*last);
            *last = due;
        }
        Verdict::new(1, Action::Hold(due))
    }
}
