//! A random number that wanders smoothly: for jitter that keeps the order of packets.
//!
//! Independent delays let packets that follow each other closely overtake; holding those back to their predecessors would
//! keep the order, but lengthen the mean. So the delay is a process in time: at each moment distributed as asked, and so
//! slow that it hardly ever falls faster than time goes on. A process of the first order (Ornstein and Uhlenbeck's) is too
//! rough: however slow, near packets would overtake. This one is of the second order, a critically damped oscillator
//! driven by noise (autocorrelation (1 + λt) exp(-λt), Matérn's with smoothness 3/2), so that it has a speed: for a spread
//! σ that is σλ, and with 1/λ = 5σ the delay falls as fast as time only at five standard deviations of the speed.

use crate::pipeline::jitter::normal_quantile;
use crate::pipeline::time::{Duration, Instant};

/// The correlation time in units of the jitter's spread.
const SLOWNESS: f64 = 5.0;
/// λt at which (1 + λt) exp(-λt) is a half.
const HALF: f64 = 1.678_346_990_016_661;

/// Speed of the process in 1/s: from its half-life, or from the jitter that it serves.
pub(super) fn speed(jitter: Duration, half_life: Option<Duration>) -> f64 {
    match half_life {
        Some(half_life) => HALF / half_life.as_secs_f64().max(1e-9),
        None => 1.0 / (SLOWNESS * jitter.as_secs_f64().max(1e-9)),
    }
}

/// Where a flow's process stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wander {
    /// Position and its change per second; normally distributed with spreads 1 and λ.
    position: f64,
    change: f64,
    /// When that was; none before the first packet.
    at: Option<Instant>,
}

impl Wander {
    /// Moves on to `now` by two uniform words; the position as a uniform number, 2^64 for one.
    pub(super) fn uniform(&mut self, speed: f64, now: Instant, words: [u64; 2]) -> u64 {
        let [one, two] = words.map(normal);
        match self.at.map(|at| now.since(at).as_secs_f64()) {
            None => (self.position, self.change) = (one, speed * two),
            Some(passed) => self.advance(speed, passed, one, two),
        }
        self.at = Some(now);
        // Saturates at both ends.
        (cumulative(self.position) * 18_446_744_073_709_551_616.0) as u64
    }

    /// The exact step of the process over `passed` seconds.
    fn advance(&mut self, speed: f64, passed: f64, one: f64, two: f64) {
        let a = speed * passed;
        let e = libm::exp(-a);
        let position = e * ((1.0 + a) * self.position + passed * self.change);
        let change = e * ((1.0 - a) * self.change - speed * a * self.position);
        // Covariance of the noise: what is missing to the stationary one.
        let e2 = e * e;
        let first = (1.0 - e2 * ((1.0 + a) * (1.0 + a) + a * a)).max(0.0);
        let both = 2.0 * e2 * speed * a * a;
        let second = (speed * speed * (1.0 - e2 * (a * a + (1.0 - a) * (1.0 - a)))).max(0.0);
        let spread = first.sqrt();
        let shared = if spread > 0.0 { both / spread } else { 0.0 };
        self.position = position + spread * one;
        self.change = change + shared * one + (second - shared * shared).max(0.0).sqrt() * two;
    }
}

/// The quantile of the normal distribution that `word` stands for.
fn normal(word: u64) -> f64 {
    normal_quantile((word as f64 + 0.5) / 18_446_744_073_709_551_616.0)
}

/// The normal distribution function.
fn cumulative(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::rng::StageKey;

    /// The process every `spacing` microseconds for a jitter of 10 ms.
    fn path(spacing: u64, n: u64) -> Vec<f64> {
        let stream = StageKey::new(9, "wander").stream(1, 0);
        let speed = speed(Duration::from_millis(10), None);
        let mut wander = Wander::default();
        let at = |index: u64| Instant::ZERO + Duration::from_micros(spacing * index);
        let step = |index: u64| {
            let words = [stream.word(index, 0), stream.word(index, 1)];
            wander.uniform(speed, at(index), words) as f64 / 18_446_744_073_709_551_616.0
        };
        (0..n).map(step).collect()
    }

    /// Looked at once in ten correlation times (500 ms) its positions are as good as independent: Kolmogorov's bound.
    #[test]
    fn at_each_moment_it_is_distributed_as_asked() {
        let n = 20_000_u64;
        let mut positions = path(500_000, n);
        positions.sort_by(f64::total_cmp);
        let gap = |(index, position): (usize, &f64)| (position - (index as f64 + 0.5) / n as f64).abs();
        let worst = positions.iter().enumerate().map(gap).fold(0.0, f64::max);
        assert!(worst < 2.7 / (n as f64).sqrt(), "{worst}");
    }

    /// The correlation of positions 50 ms apart (λt = 1) is that of the process: 2/e of normal numbers, which is
    /// 6/π · asin(ρ/2) of their ranks. Over 4,000 correlation times, within 6 standard deviations of about 1/sqrt(4000/2).
    #[test]
    fn its_memory_is_that_of_the_formula() {
        let positions = path(10_000, 20_000);
        let pairs = positions.iter().zip(&positions[5..]);
        let product = pairs.map(|(one, two)| (one - 0.5) * (two - 0.5)).sum::<f64>() / (20_000.0 - 5.0);
        let correlation = product * 12.0;
        let normal: f64 = 2.0 / std::f64::consts::E;
        let expected = 6.0 / std::f64::consts::PI * (normal / 2.0).asin();
        assert!((correlation - expected).abs() < 6.0 / 2_000.0_f64.sqrt(), "{correlation}, not {expected}");
    }

    /// However near packets are, a uniform jitter of ±10 ms falls slower than time goes on.
    #[test]
    fn it_hardly_ever_falls_faster_than_time() {
        for spacing in [1, 10, 100, 1_000, 10_000] {
            let n = 200_000;
            let positions = path(spacing, n);
            let overtakes = |pair: &&[f64]| (pair[0] - pair[1]) * 20_000.0 > spacing as f64;
            let count = positions.windows(2).filter(overtakes).count();
            assert!(count < 20, "{count} of {n} at {spacing} us");
        }
    }

    #[test]
    fn no_time_changes_nothing_and_a_long_one_is_no_trouble() {
        let mut wander = Wander::default();
        let first = wander.uniform(20.0, Instant::ZERO, [1 << 63, 1 << 62]);
        assert_eq!(wander.uniform(20.0, Instant::ZERO, [7, 8]), first);
        wander.uniform(20.0, Instant::FAR, [u64::MAX, 0]);
        assert!(wander.position.is_finite() && wander.change.is_finite());
    }

    #[test]
    fn a_half_life_is_one() {
        let speed = speed(Duration::from_millis(1), Some(Duration::from_secs(2)));
        let at = 2.0 * speed;
        assert!(((1.0 + at) * (-at).exp() - 0.5).abs() < 1e-9);
    }
}
