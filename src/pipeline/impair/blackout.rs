//! A link that is down by a schedule.
//!
//! Model: down in `[start + k(down + up), start + k(down + up) + down)` for k = 0, 1, ...; once only without `up`. What
//! comes while it is down is dropped. Times count from the start of the run.
//! Never delays, reorders, copies or alters a packet.
//! Differs from tc-netem: there is no such thing there; `loss 100%` has to be switched on and off from outside.

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
            Some(up) => since % down.saturating_add(up.as_nanos()).max(1) < down,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;

    /// Of these times in milliseconds, those at which a packet passes.
    fn passes(start: u64, down: u64, up: Option<u64>, at: &[u64]) -> Vec<u64> {
        let [start, down] = [start, down].map(Duration::from_millis);
        let params = BlackoutParams { start, down, up: up.map(Duration::from_millis) };
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
        };
        assert!(Blackout::new(params).is_down(Instant::from_nanos(u64::MAX / 2)));
    }

    #[test]
    fn a_train_is_dropped_whole() {
        let params = BlackoutParams { start: Duration::ZERO, down: Duration::from_millis(1), up: None };
        let mut run = Run::new(vec![stage(ImpairmentParams::Blackout(params))]);
        run.feed(Instant::ZERO, &Spec::tcp(5000).train(1000).frame());
        assert_eq!((run.dropped(Reason::Blackout), run.stage(0).drops.total().bytes), (5, 5200));
    }
}
