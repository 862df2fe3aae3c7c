//! Packets that leave out of order.
//!
//! Model, *overtake* (as netem): packets wait `delay`; every `gap`-th packet of a flow leaves at once with
//! probability `p` and so overtakes those that wait. *Displace*: a packet that is hit is put behind the next `by`
//! packets of its flow, and leaves after `timeout` if they do not come.
//! Never drops, copies or alters a packet.
//! Differs from tc-netem: the gap counts per flow; netem has no displacement.

use std::fmt;

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::link::shelf::Shelf;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::{Chance, StageKey};
use crate::pipeline::stage::{Action, Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Probability;

/// See [`ImpairmentParams::Reorder`](crate::pipeline::impair::ImpairmentParams::Reorder).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReorderParams {
    /// As netem: packets wait `delay`, but each `gap`-th leaves at once with the given probability, and so overtakes
    /// them.
    Overtake {
        /// Probability that a candidate leaves at once.
        probability: Probability,
        /// Every gap-th packet is a candidate, at least 1.
        gap: u32,
        /// Delay of all others.
        delay: Duration,
    },
    /// A packet that is hit is put behind the next `by` packets of its flow.
    Displace {
        /// Probability for each wire packet, independently.
        probability: Probability,
        /// How many packets pass it, at least 1.
        by: u32,
        /// It leaves at the latest this long after it came.
        timeout: Duration,
    },
}

impl fmt::Display for ReorderParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Overtake { probability, gap, delay } => {
                let gap = if gap == 1 { String::new() } else { format!("one in {gap} with ") };
                write!(f, "reorder: {gap}{probability} leave at once, all others after {delay}")
            }
            Self::Displace { probability, by, timeout } => write!(
                f,
                "reorder: {probability} are put behind the next {by} of their flow, at most {timeout} late"
            ),
        }
    }
}

impl Blueprint for ReorderParams {
    type Stage = Reorder;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Reorder::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Either kind of reordering.
#[derive(Debug)]
pub enum Reorder {
    /// See [`ReorderParams::Overtake`].
    Overtake(Overtake),
    /// See [`ReorderParams::Displace`].
    Displace(Displace),
}

/// Packets that do not wait.
#[derive(Debug)]
pub struct Overtake {
    chance: Chance,
    gap: u32,
    delay: Duration,
    key: StageKey,
    /// Packets of the flow that were delayed since one overtook.
    waited: PerFlow<u32>,
}

/// Packets that wait for others.
#[derive(Debug)]
pub struct Displace {
    chance: Chance,
    by: u32,
    key: StageKey,
    /// Each with the number of packets that still have to pass it.
    waiting: Shelf<u32>,
}

/// What a packet does that a displacement has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It waits for others.
    Waits,
    /// It passes those of its flow that wait.
    Passes,
}

impl Reorder {
    /// A reordering with the draws of `setting`.
    pub fn new(params: ReorderParams, setting: &Setting) -> Self {
        let key = setting.key;
        match params {
            ReorderParams::Overtake { probability, gap, delay } => {
                let waited = PerFlow::new(setting.flows);
                Self::Overtake(Overtake { chance: Chance::new(probability), gap, delay, key, waited })
            }
            ReorderParams::Displace { probability, by, timeout } => {
                let chance = Chance::new(probability);
                Self::Displace(Displace { chance, by, key, waiting: Shelf::new(timeout) })
            }
        }
    }
}

impl Stage for Reorder {
    type Plan = Move;

    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<Move> {
        match self {
            Self::Overtake(overtake) => overtake.decide(packet, now),
            Self::Displace(displace) => displace.decide(packet, limit),
        }
    }

    fn take(&mut self, packet: &mut Packet, plan: Move, now: Instant, out: &mut Outlet<'_>) {
        if let Self::Displace(displace) = self {
            displace.take(packet, plan, now, out);
        }
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        if let Self::Displace(displace) = self {
            displace.waiting.wake(now, out);
        }
    }

    fn relinquish(&mut self) -> Option<Kept> {
        match self {
            Self::Overtake(_) => None,
            Self::Displace(displace) => displace.waiting.relinquish(),
        }
    }
}

impl Overtake {
    fn decide(&mut self, packet: &Packet, now: Instant) -> Verdict<Move> {
        let waited = self.waited.of(packet.flow);
        let is_candidate = *waited + 1 >= self.gap;
        if is_candidate && self.chance.hit(packet.stream(self.key), packet.index) {
            *waited = 0;
            return Verdict::new(1, Action::PASS);
        }
        *waited = waited.saturating_add(1);
        Verdict::new(1, Action::hold(now + self.delay))
    }
}

impl Displace {
    fn decide(&self, packet: &Packet, limit: u32) -> Verdict<Move> {
        let (count, hit) = self.chance.run(packet.stream(self.key), packet.index, limit);
        match hit {
            true if !self.waiting.is_full() => Verdict::new(1, Action::Take(Move::Waits)),
            _ if self.waiting.has(packet.flow) => Verdict::new(1, Action::Take(Move::Passes)),
            _ => Verdict::new(count, Action::PASS),
        }
    }

    fn take(&mut self, packet: &mut Packet, plan: Move, now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        match plan {
            Move::Waits => self.waiting.put(packet, self.by, now, out),
            Move::Passes => {
                let flow = packet.flow;
                out.forward(packet);
                self.waiting.release(flow, out, |missing| {
                    *missing -= 1;
                    *missing == 0
                });
            }
        }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for ReorderParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{duration, probability};
        prop_oneof![
            (probability(), 1..5_u32, duration()).prop_map(|(probability, gap, delay)| Self::Overtake {
                probability,
                gap,
                delay
            }),
            (probability(), 1..5_u32, duration()).prop_map(|(probability, by, timeout)| Self::Displace {
                probability,
                by,
                timeout
            }),
        ]
        .boxed()
    }

    fn tame(self) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::{ImpairmentParams, Trigger};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::units::Probability;

    /// Order in which packets numbered from 0, a millisecond apart, leave, and when in milliseconds.
    fn order(params: ReorderParams, trigger: Trigger, count: u32) -> Vec<(u32, u64)> {
        let stage =
            crate::pipeline::params::StageParams { trigger, ..stage(ImpairmentParams::Reorder(params)) };
        let mut run = Run::new(vec![stage]);
        for number in 0..count {
            let at = Instant::ZERO + Duration::from_millis(number.into());
            run.feed(at, &Spec { sequence: number, ..Spec::tcp(1) }.frame());
        }
        run.finish();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[24..28].try_into().unwrap());
        run.wires().iter().map(|wire| (number(&wire.bytes), wire.at.as_nanos() / 1_000_000)).collect()
    }

    #[test]
    fn every_gap_th_packet_overtakes_those_that_wait() {
        let delay = Duration::from_millis(10);
        let params = ReorderParams::Overtake { probability: Probability::ONE, gap: 3, delay };
        let order = order(params, Trigger::default(), 6);
        assert_eq!(order, [(2, 2), (5, 5), (0, 10), (1, 11), (3, 13), (4, 14)]);
    }

    /// With a trigger the packets behind are not selected, and so do not count as passing this stage: the probability
    /// alone decides here, drawn so that only some are hit.
    #[test]
    fn a_displaced_packet_lets_as_many_pass_as_asked() {
        let timeout = Duration::from_secs(1);
        let params = ReorderParams::Displace { probability: Probability::new(0.1).unwrap(), by: 2, timeout };
        let order = order(params, Trigger::default(), 200);
        let numbers: Vec<u32> = order.iter().map(|(number, _)| *number).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert!(sorted == (0..200).collect::<Vec<_>>() && numbers != sorted, "{numbers:?}");
        let overtakers = |place: usize| {
            let number = numbers[place];
            numbers[..place].iter().copied().filter(move |&earlier| earlier > number)
        };
        let displaced: Vec<u32> = (0..200)
            .filter(|&place| overtakers(place).next().is_some())
            .map(|place| numbers[place])
            .collect();
        for place in (0..200).filter(|&place| displaced.contains(&numbers[place]) && numbers[place] < 190) {
            // Those that were put behind themselves do not count among the two that pass.
            let passed = overtakers(place).filter(|number| !displaced.contains(number)).count();
            assert_eq!(passed, 2, "{} of {numbers:?}", numbers[place]);
        }
    }

    /// What waits in the schedule is bounded by what is kept, not by what has been kept within the timeout; and every
    /// packet still leaves at its own timeout.
    #[test]
    fn packets_that_have_passed_leave_no_wake_ups_behind() {
        let timeout = Duration::from_secs(3_600);
        let params = ReorderParams::Displace { probability: Probability::new(0.5).unwrap(), by: 5, timeout };
        let mut run = Run::new(vec![stage(ImpairmentParams::Reorder(params))]);
        let at = |number: u32| Instant::ZERO + Duration::from_micros(number.into());
        for number in 0..10_000 {
            run.feed(at(number), &Spec { sequence: number, ..Spec::tcp(1) }.frame());
            assert!(run.router.scheduled() <= 1, "{} wait", run.router.scheduled());
        }
        let kept = run.router.held().packets as usize;
        assert!(kept > 0);
        run.finish();
        let left = run.times();
        assert_eq!(left.len(), 10_000);
        assert!(left[10_000 - kept..].iter().all(|&left| left >= timeout.as_nanos()), "{left:?}");
    }

    #[test]
    fn a_displaced_packet_that_nothing_follows_leaves_at_its_timeout() {
        let timeout = Duration::from_millis(50);
        let params = ReorderParams::Displace { probability: Probability::ONE, by: 2, timeout };
        assert_eq!(order(params, Trigger::default(), 1), [(0, 50)]);
    }
}
