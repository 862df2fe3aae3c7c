//! A link that is down by a schedule.
//!
//! Model: the link is down in `[start + k(down + up), start + k(down + up) + down)` for k = 0, 1, ...; only once if
//! there is no `up`. Packets that come while it is down are dropped, or wait and all leave when it is up again. Times
//! count from the start of the run.
//! Never reorders, copies or alters a packet.
//! Differs from tc-netem: netem has no such schedule; there `loss 100%` has to be switched on and off from outside.

use std::fmt;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};

/// See [`ImpairmentParams::Blackout`](crate::pipeline::impair::ImpairmentParams::Blackout). The link is down in `[start + k*period, start + k*period + down)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlackoutParams {
    /// First time the link goes down, since the start of the run.
    pub start: Duration,
    /// How long it stays down.
    pub down: Duration,
    /// How long it stays up between; `None`: it happens once.
    pub up: Option<Duration>,
    /// Packets that come while the link is down wait until it is up again, instead of being dropped.
    pub hold: bool,
}

impl fmt::Display for BlackoutParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hold = if self.hold { ", holding what comes" } else { "" };
        write!(f, "blackout from {} for {}{hold}", self.start, self.down)?;
        self.up.map_or(Ok(()), |up| write!(f, ", again after {up} up"))
    }
}

impl Blueprint for BlackoutParams {
    type Stage = Blackout;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        Blackout::new(*self)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

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

    /// When the link is up again, if it is down at `now`.
    fn up_again(&self, now: Instant) -> Option<Instant> {
        let (start, down) = (self.params.start.as_nanos(), self.params.down.as_nanos());
        let since = now.as_nanos().checked_sub(start)?;
        let into = match self.params.up {
            Some(up) => since % down.saturating_add(up.as_nanos()).max(1),
            None => since,
        };
        (into < down).then(|| now + Duration::from_nanos(down - into))
    }
}

impl Stage for Blackout {
    type Plan = ();

    #[inline]
    fn decide(&mut self, _packet: &Packet, limit: u32, now: Instant) -> Verdict {
        let action = match self.up_again(now) {
            None => Action::PASS,
            Some(up) if self.params.hold => Action::hold(up),
            Some(_) => Action::drop(Reason::Blackout),
        };
        Verdict::new(limit, action)
    }

    /// If the link goes down only once, nothing happens any more after that.
    fn quiet(&self, ahead: &Ahead) -> Quiet {
        let end = self.params.start.as_nanos().saturating_add(self.params.down.as_nanos());
        let is_over = self.params.up.is_none() && ahead.now.as_nanos() >= end;
        if is_over { Quiet::FOREVER } else { Quiet::NO_MORE }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for BlackoutParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::duration;
        (duration(), duration(), prop::option::of(duration()), any::<bool>())
            .prop_map(|(start, down, up, hold)| Self { start, down, up, hold })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};

    /// Of these times in milliseconds, those at which a packet passes.
    fn passes(start: u64, down: u64, up: Option<u64>, at: &[u64]) -> Vec<u64> {
        let [start, down] = [start, down].map(Duration::from_millis);
        let params = BlackoutParams { start, down, up: up.map(Duration::from_millis), hold: false };
        let mut run = Run::new(vec![stage(ImpairmentParams::Blackout(params))]);
        for &at in at {
            run.feed(Instant::ZERO + Duration::from_millis(at), &Spec::tcp(1).frame());
        }
        assert_eq!(run.dropped(Reason::Blackout) as usize, at.len() - run.times().len());
        run.times().iter().map(|time| time / 1_000_000).collect()
    }

    #[test]
    fn the_link_is_down_from_its_first_instant_to_before_its_last() {
        assert_eq!(passes(10, 5, None, &[0, 9, 10, 14, 15, 25, 1000]), [0, 9, 15, 25, 1000]);
        assert_eq!(passes(0, 5, None, &[0, 4, 5]), [5]);
    }

    #[test]
    fn what_is_held_leaves_at_once_when_the_link_is_up() {
        let [start, down, up] = [10, 5, 20].map(Duration::from_millis);
        let params = BlackoutParams { start, down, up: Some(up), hold: true };
        let mut run = Run::new(vec![stage(ImpairmentParams::Blackout(params))]);
        for at in [9, 10, 12, 14, 15, 36] {
            run.feed(Instant::ZERO + Duration::from_millis(at), &Spec::tcp(1).frame());
        }
        run.finish();
        let times: Vec<u64> = run.times().iter().map(|time| time / 1_000_000).collect();
        assert_eq!(times, [9, 15, 15, 15, 15, 40]);
    }

    /// A packet that comes out of a delay at the very time at which the link is up finds those waiting that came before it.
    #[test]
    fn what_comes_as_the_link_comes_up_overtakes_nobody() {
        let ms = Duration::from_millis;
        let delay = crate::config::spec::parse("delay 10ms").unwrap().stages.remove(0);
        let params = BlackoutParams { start: ms(10), down: ms(10), up: None, hold: true };
        let mut run = Run::new(vec![delay, stage(ImpairmentParams::Blackout(params))]);
        for number in 0..=10 {
            run.feed(
                Instant::ZERO + ms(u64::from(number)),
                &Spec { sequence: number, ..Spec::tcp(1) }.frame(),
            );
        }
        run.finish();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[24..28].try_into().unwrap());
        let order: Vec<u32> = run.wires().iter().map(|wire| number(&wire.bytes)).collect();
        assert_eq!(order, (0..=10).collect::<Vec<_>>());
        assert_eq!(run.times(), [20_000_000; 11]);
    }

    #[test]
    fn the_schedule_repeats() {
        assert_eq!(passes(10, 5, Some(20), &[9, 10, 15, 34, 35, 39, 40, 60, 64, 65]), [9, 15, 34, 40, 65]);
        assert_eq!(passes(10, 5, Some(0), &[9, 10, 14, 15, 1_000_000]), [9]);
        assert_eq!(passes(10, 0, Some(0), &[9, 10, 14]), [9, 10, 14]);
    }

    #[test]
    fn an_endless_blackout_ends_never() {
        let params = BlackoutParams {
            start: Duration::ZERO,
            down: Duration::from_nanos(u64::MAX),
            up: Some(Duration::from_nanos(u64::MAX)),
            hold: false,
        };
        assert!(Blackout::new(params).up_again(Instant::from_nanos(u64::MAX / 2)).is_some());
    }

    #[test]
    fn a_train_is_dropped_whole() {
        let params =
            BlackoutParams { start: Duration::ZERO, down: Duration::from_millis(1), up: None, hold: false };
        let mut run = Run::new(vec![stage(ImpairmentParams::Blackout(params))]);
        run.feed(Instant::ZERO, &Spec::tcp(5000).train(1000).frame());
        assert_eq!((run.dropped(Reason::Blackout), run.stage(0).drops.total().bytes), (5, 5200));
    }
}
