//! Random delays around a mean.

use crate::pipeline::params::{DelayParams, Distribution};
use crate::pipeline::random::distribution::Table;
use crate::pipeline::time::Duration;

impl DelayParams {
    /// The delay for the uniform random number `word`. Never negative: if a wide jitter would give a negative delay,
    /// there is no delay.
    /// the arrival becomes no delay.
    #[inline]
    pub fn draw(&self, word: u64) -> Duration {
        // A delay that keeps the order wanders: it needs a continuous function of `word`.
        draw(&self.distribution, self.delay, self.jitter, !self.reorder, word)
    }
}

/// The time around `mean` for the uniform random number `word`, never negative. If it `is_smooth`, the function is
/// continuous in `word`; otherwise a table's entries are used as they are.
/// `word` that does not jump; else a table's entries are taken as they are.
#[inline]
pub(crate) fn draw(
    shape: &Distribution,
    mean: Duration,
    spread: Duration,
    is_smooth: bool,
    word: u64,
) -> Duration {
    if spread.is_zero() {
        return mean;
    }
    let (mean, spread) = (mean.as_nanos(), spread.as_nanos());
    let nanos = match shape {
        Distribution::Uniform => {
            let offset = (u128::from(word) * (2 * u128::from(spread) + 1)) >> 64;
            (u128::from(mean) + offset).saturating_sub(u128::from(spread)) as u64
        }
        Distribution::Table(table) => {
            let offset = if is_smooth {
                table.quantile(word, spread as i64)
            } else {
                Table::scaled(table.entry(word), spread as i64)
            };
            (mean as i64).saturating_add(offset).max(0) as u64
        }
        Distribution::Normal => (mean as f64 + standard_normal(word) * spread as f64).max(0.0) as u64,
    };
    Duration::from_nanos(nanos)
}

/// The quantile of the standard normal distribution at (word + 1/2) / 2^64.
pub(super) fn standard_normal(word: u64) -> f64 {
    normal_quantile((word as f64 + 0.5) / 18_446_744_073_709_551_616.0)
}

/// Inverse of the standard normal distribution function.
///
/// Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution" (Applied Statistics 37, 1988), PPND7:
/// about seven figures.
#[expect(clippy::unreadable_literal, reason = "as printed in the paper")]
pub(crate) fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
            / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0);
    }
    // Not the standard library's logarithm: its last bit may differ between machines.
    let r = (-libm::log(p.min(1.0 - p).max(f64::MIN_POSITIVE))).sqrt();
    let tail = if r <= 5.0 {
        let r = r - 1.6;
        (((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777)
            / ((0.12021132975 * r + 0.73700164250) * r + 1.0)
    } else {
        let r = r - 5.0;
        (((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150)
            / ((0.012258202635 * r + 0.24197894225) * r + 1.0)
    };
    tail.copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(distribution: Distribution) -> DelayParams {
        DelayParams {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            distribution,
            reorder: false,
            half_life: None,
        }
    }

    #[test]
    fn uniform_jitter_spans_mean_plus_minus_jitter() {
        let delay = delay(Distribution::Uniform);
        assert_eq!(delay.draw(0), Duration::from_millis(8));
        assert_eq!(delay.draw(u64::MAX), Duration::from_millis(12));
        assert_eq!(delay.draw(1 << 63), Duration::from_millis(10));
    }

    /// Quantiles from any printed table of the normal distribution.
    #[test]
    fn normal_jitter_has_the_quantiles_of_the_normal() {
        for (p, z) in [
            (0.5, 0.0),
            (0.841_344_746, 1.0),
            (0.977_249_868, 2.0),
            (0.001_349_898, -3.0),
            (0.025, -1.959_963_985),
        ] {
            let word = (p * 18_446_744_073_709_551_616.0) as u64;
            assert!((standard_normal(word) - z).abs() < 1e-5, "{p}: {} and not {z}", standard_normal(word));
        }
        for (p, z) in [(1e-12, -7.034_483_825), (1e-15, -7.941_345_326), (1e-18, -8.757_290_349)] {
            assert!((normal_quantile(p) - z).abs() < 1e-5, "{p}: {} and not {z}", normal_quantile(p));
        }
        // Half a step from 0, which has none.
        assert!((standard_normal(0) + 9.155_293_773).abs() < 1e-5, "{}", standard_normal(0));
        let delay = delay(Distribution::Normal);
        assert!(delay.draw(0) == Duration::ZERO && delay.draw(u64::MAX) > Duration::from_millis(20));
    }

    /// Kolmogorov and Smirnov: the largest distance between the share of draws up to a value and the distribution's.
    /// It exceeds 2.7 / sqrt(n) once in a million (Smirnov's limit, 2 exp(-2 · 2.7^2)).
    fn assert_distributed(distribution: &Distribution, cumulative: impl Fn(i64) -> (f64, f64)) {
        for reorder in [false, true] {
            assert_draws(
                &DelayParams { delay: Duration::from_millis(100), reorder, ..delay(distribution.clone()) },
                &cumulative,
            );
        }
    }

    fn assert_draws(delay: &DelayParams, cumulative: impl Fn(i64) -> (f64, f64)) {
        let stream = crate::pipeline::random::rng::StageKey::new(5, "jitter").stream(1, 0);
        let n = 200_000_u64;
        let mut draws: Vec<i64> =
            (0..n).map(|index| delay.draw(stream.word(index, 0)).as_nanos() as i64 - 100_000_000).collect();
        draws.sort_unstable();
        let bound = 2.7 / (n as f64).sqrt();
        for (index, value) in draws.iter().enumerate().step_by(97) {
            // With steps in the distribution the share lies between its values before and at the step.
            let share = (index as f64 + 0.5) / n as f64;
            let (below, at) = cumulative(*value);
            assert!(
                share > below - bound && share < at + bound,
                "{delay:?}: {share} at {value}: {below} {at}"
            );
        }
    }

    static SHAPES: std::sync::LazyLock<[Table; 3]> =
        std::sync::LazyLock::new(|| [Table::normal(), Table::pareto(), Table::paretonormal()]);

    #[test]
    fn draws_are_distributed_as_asked() {
        let both = |p: f64| (p, p);
        assert_distributed(&Distribution::Uniform, |value| {
            both(((value as f64 + 2e6) / 4e6).clamp(0.0, 1.0))
        });
        // The distribution function by the quantile function, which has its own test: bisection.
        assert_distributed(&Distribution::Normal, |value| {
            let (mut low, mut high) = (1e-12, 1.0 - 1e-12);
            for _ in 0..60 {
                let middle = f64::midpoint(low, high);
                if normal_quantile(middle) * 2e6 < value as f64 { low = middle } else { high = middle }
            }
            both(low)
        });
        for table in SHAPES.iter() {
            let scaled: Vec<i64> =
                table.entries().iter().map(|&entry| Table::scaled(entry, 2_000_000)).collect();
            let share = |count: usize| count as f64 / scaled.len() as f64;
            assert_distributed(&Distribution::Table(table.clone().into()), |value| {
                let below = scaled.partition_point(|&entry| entry < value);
                (share(below), share(scaled.partition_point(|&entry| entry <= value)))
            });
        }
    }
}
