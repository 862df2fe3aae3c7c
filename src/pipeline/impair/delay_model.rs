//! Propagation delay by a timetable.
//!
//! Model: the delay of a wire packet depends on the time at which it came. When the delay falls, packets of a flow
//! keep their order unless `reorder` is set: a packet that would overtake its predecessor leaves together with it,
//! and is counted.
//! Never drops, copies or alters a packet.

use std::fmt;
use std::sync::Arc;

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::Timetable;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};

/// See [`crate::pipeline::params::ImpairmentParams::DelayModel`].
#[derive(Debug, Clone, PartialEq)]
pub struct DelayModelParams {
    /// The delay at each time.
    pub delays: Arc<Timetable<Duration>>,
    /// Packets of a flow overtake when the delay falls. Default: no, they leave with their predecessor.
    pub reorder: bool,
}

impl fmt::Display for DelayModelParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.reorder { "order not kept" } else { "order kept" };
        write!(f, "delay {}, {order}", self.delays.summary(Duration::to_string))
    }
}

impl Blueprint for DelayModelParams {
    type Stage = DelayModel;

    fn build(&self, setting: &Setting) -> Self::Stage {
        DelayModel::new(self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Holds each wire packet for the delay of its time of arrival.
#[derive(Debug)]
pub struct DelayModel {
    delays: Arc<Timetable<Duration>>,
    /// Departure of each flow's last packet, where order has to be kept.
    last: Option<PerFlow<Instant>>,
    clamped: u64,
}

impl DelayModel {
    /// A delay whose time is counted from the start of the run.
    pub fn new(params: &DelayModelParams, setting: &Setting) -> Self {
        let last = (!params.reorder).then(|| PerFlow::new(setting.flows));
        Self { delays: Arc::clone(&params.delays), last, clamped: 0 }
    }
}

impl Stage for DelayModel {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        let mut due = now + *self.delays.at(now);
        if let Some(flows) = &mut self.last {
            let last = flows.of(packet.flow);
            self.clamped += if due < *last { u64::from(limit) } else { 0 };
            due = due.max(*last);
            *last = due;
        }
        Verdict::new(limit, Action::hold(due))
    }

    fn clamped(&self) -> u64 {
        self.clamped
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for DelayModelParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::duration;
        let part = (1..20_000_000_u64, duration());
        (prop::collection::vec(part, 1..4), any::<bool>(), any::<bool>())
            .prop_map(|(parts, repeats, reorder)| {
                let parts =
                    parts.into_iter().map(|(time, delay)| (Duration::from_nanos(time), delay)).collect();
                let delays = Arc::new(Timetable::new(parts, repeats).expect("parts that last"));
                Self { delays, reorder }
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

    /// 30 ms for the first 10 ms, then 5 ms: packets at 0, 9, 10 and 40 ms, of which the third is a train of two.
    #[test]
    fn the_delay_is_that_of_the_arrival() {
        let ms = Duration::from_millis;
        for (reorder, expected, clamped) in
            [(false, [30, 39, 39, 39, 45], 2), (true, [15, 15, 30, 39, 45], 0)]
        {
            let delays = Timetable::new(vec![(ms(10), ms(30)), (ms(10), ms(5))], false).unwrap();
            let params = DelayModelParams { delays: Arc::new(delays), reorder };
            let mut run = Run::new(vec![stage(ImpairmentParams::DelayModel(params))]);
            run.feed(Instant::ZERO, &Spec::tcp(10).frame());
            run.feed(Instant::ZERO + ms(9), &Spec::tcp(10).frame());
            run.feed(Instant::ZERO + ms(10), &Spec::tcp(200).train(100).frame());
            run.feed(Instant::ZERO + ms(40), &Spec::tcp(10).frame());
            run.finish();
            let times: Vec<u64> = run.times().iter().map(|time| time / 1_000_000).collect();
            assert_eq!(times, expected, "reorder {reorder}");
            assert_eq!(run.router.paths()[0].seats[0].occupant.stage().unwrap().clamped(), clamped);
        }
    }
}
