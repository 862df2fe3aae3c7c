//! PIE, RFC 8033: a drop probability at the tail that follows the queue's delay.
//!
//! The delay is measured at every update as the time that the head of the queue has waited (RFC 8033, 4.3 allows
//! this). Updates that have become due are done when the next event happens: between two events nothing else changes.

use crate::pipeline::impair::bottleneck::Fate;
use crate::pipeline::params::PieParams;
use crate::pipeline::time::{Duration, Instant};

/// Queues of no more than two packets of this many bytes drop nothing (RFC 8033, 4.1).
const MEAN_PACKET: u64 = 1_000;
/// Gains of the controller in 1/s (RFC 8033, 4.2).
const ALPHA: f64 = 0.125;
const BETA: f64 = 1.25;
/// Above this probability packets are dropped even if they could be marked (RFC 8033, 5.1).
const MARK_BELOW: f64 = 0.1;

/// State of one queue.
#[derive(Debug)]
pub(super) struct Pie {
    params: PieParams,
    probability: f64,
    /// Sum of the probabilities since the last drop: keeps drops from clustering (RFC 8033, 5.4).
    accumulated: f64,
    delay: Duration,
    old_delay: Duration,
    burst: Duration,
    next_update: Instant,
}

impl Pie {
    pub(super) const fn new(params: PieParams) -> Self {
        Self {
            params,
            probability: 0.0,
            accumulated: 0.0,
            delay: Duration::ZERO,
            old_delay: Duration::ZERO,
            burst: params.burst,
            next_update: Instant::ZERO,
        }
    }

    /// Makes the updates due at or before `now`; `head` is when the head of the queue came, if there is one.
    pub(super) fn catch_up(&mut self, head: Option<Instant>, now: Instant) {
        while self.next_update <= now {
            let delay = head.map_or(Duration::ZERO, |head| self.next_update.since(head));
            if self.rests() && delay.is_zero() {
                // Nothing changes any more until the next event.
                self.burst = self.params.burst;
                let period = self.params.update.as_nanos();
                let missed = now.since(self.next_update).as_nanos() / period;
                self.next_update += Duration::from_nanos(missed.saturating_add(1).saturating_mul(period));
                return;
            }
            self.update(delay);
            self.next_update += self.params.update;
        }
    }

    fn rests(&self) -> bool {
        self.probability == 0.0 && self.delay.is_zero() && self.old_delay.is_zero()
    }

    /// RFC 8033, 4.2.
    fn update(&mut self, delay: Duration) {
        self.old_delay = self.delay;
        self.delay = delay;
        let target = self.params.target.as_secs_f64();
        let (new, old) = (self.delay.as_secs_f64(), self.old_delay.as_secs_f64());
        let mut step = ALPHA * (new - target) + BETA * (new - old);
        step /= match self.probability {
            p if p < 0.000_001 => 2_048.0,
            p if p < 0.000_01 => 512.0,
            p if p < 0.000_1 => 128.0,
            p if p < 0.001 => 32.0,
            p if p < 0.01 => 8.0,
            p if p < 0.1 => 2.0,
            _ => 1.0,
        };
        if self.probability >= 0.1 {
            step = step.min(0.02);
        }
        self.probability += step;
        if self.delay.is_zero() && self.old_delay.is_zero() {
            self.probability *= 0.98;
        }
        // Otherwise the rest of a decay would be halved for hours.
        self.probability = if self.probability < 1e-9 { 0.0 } else { self.probability.min(1.0) };
        self.burst =
            Duration::from_nanos(self.burst.as_nanos().saturating_sub(self.params.update.as_nanos()));
        let half = self.params.target.as_nanos() / 2;
        if self.probability == 0.0 && self.delay.as_nanos() < half && self.old_delay.as_nanos() < half {
            self.burst = self.params.burst;
        }
    }

    /// RFC 8033, 4.1: decides about a packet that arrives while `waiting` bytes wait; `draw` is uniform in [0, 1).
    pub(super) fn arrival(&mut self, waiting: u64, can_mark: bool, draw: f64) -> Fate {
        if !self.burst.is_zero() {
            return Fate::Go;
        }
        if self.probability == 0.0 {
            self.accumulated = 0.0;
        }
        self.accumulated += self.probability;
        let calm = self.old_delay.as_nanos() < self.params.target.as_nanos() / 2 && self.probability < 0.2;
        if calm || waiting <= 2 * MEAN_PACKET || self.accumulated < 0.85 {
            return Fate::Go;
        }
        if self.accumulated < 8.5 && draw >= self.probability {
            return Fate::Go;
        }
        self.accumulated = 0.0;
        if can_mark && self.params.ecn && self.probability < MARK_BELOW { Fate::Mark } else { Fate::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pie() -> Pie {
        let (target, update) = (Duration::from_millis(15), Duration::from_millis(15));
        Pie::new(PieParams { target, update, burst: Duration::from_millis(150), ecn: true })
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// By hand: a delay of 35 ms after 15: (0.125 × 0.02 + 1.25 × 0.02) / 2048 at first.
    #[test]
    fn the_probability_follows_the_formula() {
        let mut pie = pie();
        pie.update(Duration::from_millis(15));
        let first = 1.25 * 0.015 / 2_048.0;
        assert!((pie.probability - first).abs() < 1e-15, "{}", pie.probability);
        pie.update(Duration::from_millis(35));
        let second = first + 0.0275 / 512.0;
        assert!((pie.probability - second).abs() < 1e-15, "{}", pie.probability);
        pie.probability = 0.5;
        pie.update(Duration::from_millis(535));
        assert!((pie.probability - 0.52).abs() < 1e-12, "one step is at most 2 %");
    }

    #[test]
    fn an_empty_queue_lets_the_probability_decay_and_a_burst_pass_again() {
        let mut pie = pie();
        (pie.probability, pie.burst) = (0.3, Duration::ZERO);
        pie.catch_up(None, at(0));
        pie.catch_up(None, at(15));
        let expected = (0.3 - ALPHA * 0.015) * 0.98;
        let expected = (expected - ALPHA * 0.015) * 0.98;
        assert!((pie.probability - expected).abs() < 1e-12, "{}", pie.probability);
        pie.catch_up(None, at(10_000_000));
        assert_eq!((pie.probability, pie.burst), (0.0, Duration::from_millis(150)));
        assert!(pie.next_update > at(10_000_000) && pie.next_update <= at(10_000_015));
    }

    #[test]
    fn a_burst_after_rest_passes_for_its_time() {
        let mut pie = pie();
        // A head that came at 0 and stays: the delay grows with time.
        let burst_over = (0..1_000).find(|ms| {
            pie.catch_up(Some(at(0)), at(*ms));
            pie.burst.is_zero()
        });
        assert_eq!(burst_over, Some(150));
        (pie.probability, pie.accumulated) = (1.0, 0.0);
        assert_eq!(pie.arrival(100_000, true, 0.5), Fate::Drop);
        assert_eq!(pie.arrival(2_000, true, 0.5), Fate::Go, "a short queue drops nothing");
    }

    /// At a steady probability p the share of drops is near p, and gaps lie between 0.85 / p and 8.5 / p.
    #[test]
    fn drops_are_spread() {
        let mut pie = pie();
        (pie.probability, pie.burst, pie.old_delay) = (0.05, Duration::ZERO, Duration::from_millis(20));
        let stream = crate::pipeline::random::rng::StageKey::new(1, "pie").stream(1, 0);
        let mut drops = Vec::new();
        for index in 0..100_000_u64 {
            if pie.arrival(100_000, false, stream.unit(index, 0)) == Fate::Drop {
                drops.push(index);
            }
        }
        let gaps: Vec<_> = drops.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|&gap| (17..=170).contains(&gap)), "{:?}", gaps.iter().max());
        // 16 packets never hit, then geometric with p: 16 + 20 on average; a standard deviation of 20 over n gaps.
        let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
        assert!((mean - 36.0).abs() < 5.0 * 20.0 / (gaps.len() as f64).sqrt(), "{mean}");
        pie.arrival(100_000, true, 0.0);
        pie.accumulated = 9.0;
        assert_eq!(
            pie.arrival(100_000, true, 0.99),
            Fate::Mark,
            "at most 8.5 / p apart, and marked where it can be"
        );
    }

    /// RFC 8033, 4.2: the step is scaled down while the probability is low.
    #[test]
    fn steps_are_scaled_by_the_probability() {
        for (probability, divisor) in [
            (0.000_000_5, 2_048.0),
            (0.000_001, 512.0),
            (0.000_005, 512.0),
            (0.000_01, 128.0),
            (0.000_05, 128.0),
            (0.000_1, 32.0),
            (0.000_5, 32.0),
            (0.001, 8.0),
            (0.005, 8.0),
            (0.01, 2.0),
            (0.05, 2.0),
            (0.1, 1.0),
        ] {
            let mut pie = pie();
            let delay = Duration::from_millis(20);
            (pie.probability, pie.delay) = (probability, delay);
            pie.update(delay);
            let expected = probability + ALPHA * 0.005 / divisor;
            assert!((pie.probability - expected).abs() < 1e-12, "{probability}: {}", pie.probability);
        }
    }

    /// Half of the target is 7.5 ms.
    #[test]
    fn a_burst_passes_again_only_after_two_short_delays() {
        for (old, new, again) in [
            (7_400, 7_400, true),
            (7_400, 7_600, false),
            (7_600, 7_400, false),
            (0, 7_400, false),
            (7_400, 0, true),
        ] {
            let mut pie = pie();
            (pie.delay, pie.burst) = (Duration::from_micros(old), Duration::ZERO);
            pie.update(Duration::from_micros(new));
            // A delay that jumps up from 0 raises the probability.
            let burst = if again { Duration::from_millis(150) } else { Duration::ZERO };
            assert_eq!(pie.burst, burst, "{old} {new}");
        }
    }

    /// RFC 8033, 4.1: below half of the target nothing is dropped at a probability below 0.2.
    #[test]
    fn a_calm_queue_drops_nothing() {
        for (old, probability, fate) in [
            (7, 0.1, Fate::Go),
            (7, 0.19, Fate::Go),
            (7, 0.2, Fate::Drop),
            (7, 0.3, Fate::Drop),
            (8, 0.1, Fate::Drop),
        ] {
            let mut pie = pie();
            (pie.probability, pie.accumulated, pie.burst) = (probability, 9.0, Duration::ZERO);
            pie.old_delay = Duration::from_millis(old);
            assert_eq!(pie.arrival(100_000, false, 0.5), fate, "{old} {probability}");
        }
    }
}
