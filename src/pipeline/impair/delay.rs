//! Propagation delay: a line without a limit.
//!
//! Model: each wire packet leaves `delay` after it came, exactly; with jitter, after a random time around it. Order
//! within a flow is kept unless `reorder` is asked for: the delay of a flow wanders ([`crate::pipeline::wander`]), at each
//! moment distributed as asked; the rare packet that would still overtake its predecessor leaves with it, and is counted.
//! Never drops, copies or alters a packet.
//! Differs from tc-netem: jitter does not reorder by default, and nothing here is absorbed by a rate limit.

use crate::pipeline::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::DelayParams;
use crate::pipeline::rng::StageKey;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;
use crate::pipeline::wander::{Pace, Wander};

/// Holds each wire packet for its delay.
#[derive(Debug)]
pub struct Delay {
    params: DelayParams,
    key: StageKey,
    /// Where order has to be kept.
    flows: Option<PerFlow<Flow>>,
    /// Of the wandering delay.
    pace: Pace,
    clamped: u64,
}

/// What a flow remembers whose order is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    wander: Wander,
    /// Departure of the last packet.
    last: Instant,
}

impl Delay {
    /// A delay with the draws of `setting`.
    pub fn new(params: DelayParams, setting: &Setting) -> Self {
        let keeps_order = !params.jitter.is_zero() && !params.reorder;
        Self {
            params,
            key: setting.key,
            flows: keeps_order.then(|| PerFlow::new(setting.flows)),
            pace: Pace::new(&params, Probability::ZERO),
            clamped: 0,
        }
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
        let stream = packet.stream(self.key);
        let first = stream.word(packet.index, 0);
        let Some(flows) = &mut self.flows else {
            return Verdict::new(1, Action::Hold(now + self.params.draw(first)));
        };
        let flow = flows.of(packet.flow);
        let words = [first, stream.word(packet.index, 1)];
        let due = now + self.params.draw(flow.wander.uniform(self.pace, now, words));
        self.clamped += u64::from(due < flow.last);
        flow.last = flow.last.max(due);
        Verdict::new(1, Action::Hold(flow.last))
    }

    fn clamped(&self) -> u64 {
        self.clamped
    }
}
