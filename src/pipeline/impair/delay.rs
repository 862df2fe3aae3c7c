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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;

    /// How long each of 1,000 packets waits that come every millisecond, and how many were held back to keep the order.
    fn waits(reorder: bool) -> (Vec<u64>, u64) {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        let params =
            DelayParams { delay, jitter, distribution: Distribution::Uniform, reorder, half_life: None };
        let mut run = Run::new(vec![stage(ImpairmentParams::Delay(params))]);
        let came = |id: u16| 1_000_000_000 + u64::from(id) * 1_000_000;
        for id in 0..1_000 {
            run.feed(Instant::from_nanos(came(id)), &Spec { id, ..Spec::udp(9) }.frame());
        }
        run.finish();
        let id = |bytes: &[u8]| u16::from_be_bytes([bytes[4], bytes[5]]);
        let waits = run.wires().iter().map(|wire| wire.at.as_nanos() - came(id(&wire.bytes))).collect();
        (waits, run.router.paths()[0].seats[0].occupant.stage().unwrap().clamped())
    }

    #[test]
    fn each_packet_waits_for_the_delay_within_its_jitter() {
        for reorder in [false, true] {
            let (waits, clamped) = waits(reorder);
            assert_eq!(waits.len(), 1_000);
            assert!(waits.iter().all(|wait| (10_000_000..=30_000_000).contains(wait)), "{waits:?}");
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(most - least > 15_000_000, "{least} to {most}");
            // A delay that wanders hardly ever falls by a millisecond in a millisecond: 1 in 10^5.
            assert!(clamped < 5, "{clamped}");
        }
    }

    /// A delay that falls faster than time is held back, and that is counted.
    #[test]
    fn what_is_held_back_is_counted() {
        let half_life = Some(Duration::from_micros(10));
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        let params =
            DelayParams { delay, jitter, distribution: Distribution::Uniform, reorder: false, half_life };
        let mut run = Run::new(vec![stage(ImpairmentParams::Delay(params))]);
        for id in 0..1_000 {
            run.feed(Instant::from_nanos(1_000_000 * u64::from(id)), &Spec { id, ..Spec::udp(9) }.frame());
        }
        run.finish();
        // Who is held back leaves together with a packet before it.
        let together = run.times().windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        let clamped = run.router.paths()[0].seats[0].occupant.stage().unwrap().clamped();
        assert!(together > 500, "{together}");
        assert_eq!(clamped, together);
    }
}
