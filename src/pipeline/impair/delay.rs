//! Propagation delay: a line without a limit.
//!
//! Model: each wire packet leaves exactly `delay` after it came; with jitter, after a random time around `delay`.
//! Order within a flow is kept unless `reorder` is set: the delay of a flow then wanders
//! ([`crate::pipeline::random::wander`]) and has the requested distribution at each moment. A packet that would still
//! overtake its predecessor, which is rare, leaves together with it and is counted.
//! Never drops, copies or alters a packet.
//! Differs from tc-netem: jitter does not reorder by default, and a rate limit does not absorb the delay.

use std::fmt;

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::Distribution;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::random::wander::{Pace, Wander};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Duration;
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// See [`ImpairmentParams::Delay`](crate::pipeline::impair::ImpairmentParams::Delay).
#[derive(Debug, Clone, PartialEq)]
pub struct DelayParams {
    /// Mean of the delay.
    pub delay: Duration,
    /// Half-width (uniform) or standard deviation (normal) around it; zero means a fixed delay.
    pub jitter: Duration,
    /// Shape of the jitter.
    pub distribution: Distribution,
    /// Jitter may reorder packets of one flow: each packet has its own draw. Default: no; then the delay wanders.
    pub reorder: bool,
    /// The time in which the wandering delay forgets half of its deviation; `None`: as long as the jitter requires to
    /// keep the order.
    pub half_life: Option<Duration>,
}

impl fmt::Display for DelayParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.jitter.is_zero() {
            return write!(f, "delay {}", self.delay);
        }
        let shape = match &self.distribution {
            Distribution::Uniform => "uniform",
            Distribution::Normal => "normal",
            Distribution::Table(table) => table.name(),
        };
        let order = if self.reorder { "order not kept" } else { "order kept" };
        write!(f, "delay {} ± {} ({shape}), {order}", self.delay, self.jitter)
    }
}

impl Blueprint for DelayParams {
    type Stage = Delay;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Delay::new(self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Holds each wire packet for its delay.
#[derive(Debug)]
pub struct Delay {
    params: DelayParams,
    key: StageKey,
    /// State of flows whose order has to be kept.
    flows: Option<PerFlow<Flow>>,
    /// How fast the delay wanders.
    pace: Pace,
    clamped: u64,
}

/// What is remembered of a flow whose order is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    wander: Wander,
    /// Departure of the last packet.
    last: Instant,
}

impl Delay {
    /// A delay with the draws of `setting`.
    pub fn new(params: &DelayParams, setting: &Setting) -> Self {
        let keeps_order = !params.jitter.is_zero() && !params.reorder;
        Self {
            params: params.clone(),
            key: setting.key,
            flows: keeps_order.then(|| PerFlow::new(setting.flows)),
            pace: Pace::new(params, Probability::ZERO),
            clamped: 0,
        }
    }
}

impl Stage for Delay {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        if self.params.jitter.is_zero() {
            let action = if self.params.delay.is_zero() {
                Action::PASS
            } else {
                Action::hold(now + self.params.delay)
            };
            return Verdict::new(limit, action);
        }
        let stream = packet.stream(self.key);
        let first = stream.word(packet.index, 0);
        let Some(flows) = &mut self.flows else {
            return Verdict::new(1, Action::hold(now + self.params.draw(first)));
        };
        let flow = flows.of(packet.flow);
        let words = [first, stream.word(packet.index, 1)];
        let due = now + self.params.draw(flow.wander.uniform(self.pace, now, words));
        self.clamped += u64::from(due < flow.last);
        flow.last = flow.last.max(due);
        Verdict::new(1, Action::hold(flow.last))
    }

    fn clamped(&self) -> u64 {
        self.clamped
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for DelayParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{TABLE, duration};
        let distribution = prop::sample::select(vec![
            Distribution::Uniform,
            Distribution::Normal,
            Distribution::Table(std::sync::Arc::clone(&TABLE)),
        ]);
        (duration(), duration(), distribution, any::<bool>())
            .prop_map(|(delay, jitter, distribution, reorder)| Self {
                delay,
                jitter,
                distribution,
                reorder,
                half_life: None,
            })
            .boxed()
    }

    fn tame(self) -> Option<Self> {
        Some(Self { reorder: false, ..self })
    }
}
