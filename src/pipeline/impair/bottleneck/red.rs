//! RED: Floyd and Jacobson, "Random Early Detection Gateways for Congestion Avoidance" (1993), with the gentle slope
//! that Floyd added in 2000.

use crate::pipeline::impair::bottleneck::Fate;
use crate::pipeline::params::RedParams;
use crate::pipeline::time::{Duration, Instant};

/// State of one queue.
#[derive(Debug)]
pub(super) struct Red {
    params: RedParams,
    /// Time in which the link sends 1,000 bytes.
    typical: Duration,
    mean: f64,
    /// Packets since the last one that was hit; `None` while the mean queue is below `min`.
    count: Option<u32>,
    idle_since: Option<Instant>,
}

impl Red {
    pub(super) const fn new(params: RedParams, typical: Duration) -> Self {
        Self { params, typical, mean: 0.0, count: None, idle_since: Some(Instant::ZERO) }
    }

    /// The queue has become empty.
    pub(super) fn empty(&mut self, now: Instant) {
        self.idle_since.get_or_insert(now);
    }

    /// Decides about a packet of `bytes` that comes at `now` while `waiting` others wait; `draw` is uniform in [0,
    /// 1).
    pub(super) fn arrival(
        &mut self,
        waiting: u64,
        bytes: u64,
        can_mark: bool,
        draw: f64,
        now: Instant,
    ) -> Fate {
        match self.idle_since.take() {
            // The mean decays as if the idle link had sent packets like this one. Their number may be a fraction: a
            // dropped packet begins a new idle time, and rounding would lose the old one, forever if packets follow
            // closely.
            Some(since) => {
                let each = self.typical.as_nanos().max(1) as f64 * bytes.max(1) as f64 / 1_000.0;
                let missed = now.since(since).as_nanos() as f64 / each;
                self.mean *= libm::pow(1.0 - self.params.weight, missed);
            }
            None => self.mean += self.params.weight * (waiting as f64 - self.mean),
        }
        let base = self.base_probability();
        if base <= 0.0 {
            self.count = None;
            return Fate::Go;
        }
        let count = self.count.map_or(0, |count| count + 1);
        self.count = Some(count);
        let spread = 1.0 - f64::from(count) * base;
        let hit = base >= 1.0 || spread <= 0.0 || draw < base / spread;
        if !hit {
            return Fate::Go;
        }
        self.count = Some(0);
        if can_mark && self.params.ecn && base < 1.0 { Fate::Mark } else { Fate::Drop }
    }

    /// Zero below `min`, up to the probability at `max`, up to one at twice that.
    fn base_probability(&self) -> f64 {
        let RedParams { min, max, .. } = self.params;
        let top = self.params.probability.as_f64();
        match self.mean {
            mean if mean < min => 0.0,
            mean if mean < max => top * (mean - min) / (max - min),
            mean if mean < 2.0 * max => top + (1.0 - top) * (mean - max) / max,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::units::Probability;

    fn red(weight: f64) -> Red {
        let probability = Probability::new(0.1).unwrap();
        let params = RedParams { min: 5.0, max: 15.0, probability, weight, ecn: true };
        let mut red = Red::new(params, Duration::from_millis(1));
        red.idle_since = None;
        red
    }

    #[test]
    fn the_probability_is_that_of_the_paper() {
        let mut red = red(1.0);
        for (mean, p) in
            [(0.0, 0.0), (4.9, 0.0), (10.0, 0.05), (15.0, 0.1), (22.5, 0.55), (30.0, 1.0), (90.0, 1.0)]
        {
            red.mean = mean;
            assert!((red.base_probability() - p).abs() < 1e-12, "{mean}: {}", red.base_probability());
        }
    }

    #[test]
    fn the_mean_is_weighted_and_decays_while_idle() {
        let mut red = red(0.25);
        for expected in [2.0, 3.5, 4.625] {
            red.arrival(8, 1_000, false, 0.99, Instant::ZERO);
            assert!((red.mean - expected).abs() < 1e-12, "{}", red.mean);
        }
        red.empty(Instant::ZERO + Duration::from_millis(10));
        red.empty(Instant::ZERO + Duration::from_millis(99));
        red.arrival(0, 1_000, false, 0.99, Instant::ZERO + Duration::from_millis(12));
        assert!((red.mean - 4.625 * 0.75 * 0.75).abs() < 1e-12, "{}", red.mean);
        // Half the size, half the time: 5 ms are 10 packets, however many of them come.
        let before = red.mean;
        for number in 0..50 {
            red.empty(Instant::ZERO + Duration::from_micros(20_000 + 100 * number));
            red.arrival(0, 500, false, 0.99, Instant::ZERO + Duration::from_micros(20_100 + 100 * number));
        }
        assert!((red.mean - before * 0.75_f64.powi(10)).abs() < 1e-12, "{}", red.mean);
    }

    /// From hit to hit it is 1 to 1/p - 1 packets, each as likely (the paper's section 7, by its algorithm).
    #[test]
    fn gaps_between_hits_are_uniform() {
        let mut red = red(1.0);
        let stream = crate::pipeline::random::rng::StageKey::new(1, "red").stream(1, 0);
        let mut gaps = [0_u32; 21];
        let mut last = None;
        for index in 0..40_000_u64 {
            if red.arrival(10, 1_000, false, stream.unit(index, 0), Instant::ZERO) == Fate::Drop {
                if let Some(last) = last {
                    gaps[(index - last) as usize] += 1;
                }
                last = Some(index);
            }
        }
        let hits: u32 = gaps.iter().sum();
        let expected = f64::from(hits) / 19.0;
        let chi: f64 = gaps[1..20].iter().map(|&gap| (f64::from(gap) - expected).powi(2) / expected).sum();
        // Chi square of 18 degrees of freedom exceeds 60 once in a million.
        assert!(gaps[0] + gaps[20] == 0 && chi < 60.0, "{gaps:?}: {chi}");
        assert_eq!(
            red.arrival(100, 1_000, true, 0.99, Instant::ZERO),
            Fate::Drop,
            "a full queue marks nothing"
        );
    }
}
