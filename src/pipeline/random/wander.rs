//! A random number that wanders smoothly: for jitter that keeps the order of packets.
//!
//! Independent delays let packets that follow each other closely overtake. Holding those back until their predecessors have
//! left would keep the order, but lengthen the mean. So the delay is a process in time: at each moment it is distributed as
//! asked, and it is so slow that it hardly ever falls faster than time goes on. A process of the first order (Ornstein and
//! Uhlenbeck's) is too rough: however slow, near packets would overtake. This one is of the second order, a critically damped
//! oscillator driven by noise (autocorrelation (1 + λt) exp(-λt), Matérn's with smoothness 3/2), so that it has a speed. For a
//! normal delay with spread σ the spread of the speed is σλ, and with 1/λ = 5σ the delay falls as fast as time only at five
//! standard deviations of the speed. In the tail of a heavy-tailed distribution a small step of the process is a long step of
//! the delay. There the process is slower: so slow that a fall faster than time has a probability of at most 1 in 100,000.
//!
//! A correlation from packet to packet, if one is asked for, is a lower bound: between two packets the process moves on by no
//! more than what leaves that correlation, however far apart they are. That only makes it slower, so the order is kept.

use crate::pipeline::params::{DelayParams, Distribution};
use crate::pipeline::random::jitter::standard_normal;
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// The shortest correlation time, in units of the jitter.
const SLOWNESS: f64 = 5.0;
/// The longest: for tables with jumps, which no slowness makes smooth.
const SLOWEST: f64 = 100.0;
/// Probability, at any moment, that the delay falls faster than time passes.
const FALLS: f64 = 1e-5;
/// Steps of the bisections below: the result is as exact as 1 in 2^30 of the interval.
const STEPS: u32 = 30;
/// λt at which (1 + λt) exp(-λt) is a half.
const HALF: f64 = 1.678_346_990_016_661;

/// How fast a process changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// In 1/s.
    speed: f64,
    /// The longest time, in seconds, by which it advances between two packets.
    most: f64,
}

impl Pace {
    /// The pace for the half-life if there is one, otherwise as slow as the jitter requires. Neighbours have a
    /// correlation of at least `least`.
    pub(crate) fn new(delay: &DelayParams, least: Probability) -> Self {
        let speed = match delay.half_life {
            Some(half_life) => HALF / half_life.as_secs_f64().max(1e-9),
            None => 1.0 / (slowness(&delay.distribution) * delay.jitter.as_secs_f64().max(1e-9)),
        };
        let most = if least == Probability::ZERO {
            f64::INFINITY
        } else {
            bisect(0.0, 100.0, |a| remains(a) < least.as_f64()) / speed
        };
        Self { speed, most }
    }

    /// The correlation of the process at two packets `apart` seconds from each other. For a normal jitter it is that of the
    /// delays; for other shapes theirs is slightly smaller.
    pub(crate) fn correlation(self, apart: f64) -> f64 {
        remains(self.speed * apart.min(self.most))
    }

    /// After how many seconds the correlation is a half, if no correlation is requested.
    pub(crate) fn half_life(self) -> f64 {
        HALF / self.speed
    }
}

/// The autocorrelation after `a` correlation times.
fn remains(a: f64) -> f64 {
    (1.0 + a) * libm::exp(-a)
}

/// The value from which on `holds` is true, between the two.
fn bisect(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

/// The correlation time for a jitter of one second. The speed of the process is normal and independent of its position, so
/// the probability of a fall faster than time is a mean over the slopes of the shape.
fn slowness(distribution: &Distribution) -> f64 {
    let Distribution::Table(table) = distribution else { return SLOWNESS };
    // What is flatter than this falls less often than 1 in 10^11 at the least slowness.
    let slopes: Vec<f64> = table.slopes().filter(|slope| SLOWNESS / slope < 6.7).collect();
    let count = table.entries().len() as f64;
    let falls = |slowness: f64| slopes.iter().map(|slope| cumulative(-slowness / slope)).sum::<f64>() / count;
    if falls(SLOWNESS) <= FALLS {
        SLOWNESS
    } else {
        bisect(SLOWNESS, SLOWEST, |slowness| falls(slowness) <= FALLS)
    }
}

/// The state of a flow's process.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::pipeline) struct Wander {
    /// Position and its change per second; normally distributed with spreads 1 and λ.
    position: f64,
    change: f64,
    /// The time of this state; none before the first packet.
    at: Option<Instant>,
}

impl Wander {
    /// Advances to `now` by two uniform words; returns the position as a uniform number, where 2^64 stands for one.
    pub(in crate::pipeline) fn uniform(&mut self, pace: Pace, now: Instant, words: [u64; 2]) -> u64 {
        let speed = pace.speed;
        let [one, two] = words.map(standard_normal);
        match self.at.map(|at| now.since(at).as_secs_f64()) {
            None => (self.position, self.change) = (one, speed * two),
            Some(passed) => self.advance(speed, passed.min(pace.most), one, two),
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

/// The normal distribution function.
fn cumulative(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::random::distribution::Table;
    use crate::pipeline::random::rng::StageKey;
    use crate::pipeline::time::Duration;

    static SHAPES: std::sync::LazyLock<[Table; 3]> =
        std::sync::LazyLock::new(|| [Table::normal(), Table::pareto(), Table::paretonormal()]);

    fn jitter(distribution: Distribution) -> DelayParams {
        let (delay, jitter) = (Duration::from_millis(100), Duration::from_millis(10));
        DelayParams { delay, jitter, distribution, reorder: false, half_life: None }
    }

    fn rho(correlation: f64) -> Probability {
        Probability::new(correlation).unwrap()
    }

    /// The process every `spacing` microseconds, as words.
    fn words(pace: Pace, spacing: u64, n: u64) -> Vec<u64> {
        let stream = StageKey::new(9, "wander").stream(1, 0);
        let mut wander = Wander::default();
        let at = |index: u64| Instant::ZERO + Duration::from_micros(spacing * index);
        let step =
            |index: u64| wander.uniform(pace, at(index), [stream.word(index, 0), stream.word(index, 1)]);
        (0..n).map(step).collect()
    }

    /// The process for a uniform jitter of 10 ms, as numbers from 0 to 1.
    fn path(spacing: u64, n: u64) -> Vec<f64> {
        let pace = Pace::new(&jitter(Distribution::Uniform), Probability::ZERO);
        words(pace, spacing, n).into_iter().map(|word| word as f64 / 18_446_744_073_709_551_616.0).collect()
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

    /// Correlation of neighbours of a series, and how many of them are as good as independent for it.
    fn neighbours(series: &[f64], lag: usize) -> f64 {
        let n = series.len() as f64;
        let mean = series.iter().sum::<f64>() / n;
        let variance = series.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let product: f64 =
            series.iter().zip(&series[lag..]).map(|(one, two)| (one - mean) * (two - mean)).sum();
        product / (n - lag as f64) / variance
    }

    /// Normal delays 50 ms apart (λt = 1) are as alike as the formula says, 2/e. Over 4,000 correlation times, within 6
    /// standard deviations of about 1/sqrt(4000/2).
    #[test]
    fn its_memory_is_that_of_the_formula() {
        let delay = jitter(Distribution::Normal);
        let pace = Pace::new(&delay, Probability::ZERO);
        let delays: Vec<f64> =
            words(pace, 10_000, 20_000).into_iter().map(|word| delay.draw(word).as_secs_f64()).collect();
        let (seen, expected) = (neighbours(&delays, 5), pace.correlation(0.05));
        assert!((expected - 2.0 / std::f64::consts::E).abs() < 1e-9, "{expected}");
        assert!((seen - expected).abs() < 6.0 / 2_000.0_f64.sqrt(), "{seen}, not {expected}");
    }

    /// What the correlation of other shapes is beside the formula, which is that of normal delays: never more, and at most
    /// 0.1 less (pareto's). Pairs at 1/λ · {0.2, 1, 2} from independent flows: the error of a correlation is at most
    /// about 3/sqrt(n) for a shape with Pareto's tail.
    #[test]
    fn other_shapes_are_alike_by_slightly_less() {
        let n = 20_000_u64;
        let tables = SHAPES.iter().map(|table| Distribution::Table(table.clone().into()));
        for distribution in [Distribution::Uniform].into_iter().chain(tables) {
            let delay = jitter(distribution.clone());
            let pace = Pace::new(&delay, Probability::ZERO);
            for times in [0.2, 1.0, 2.0] {
                let apart = Duration::from_nanos((times / pace.speed * 1e9) as u64);
                let pair = |flow| {
                    let stream = StageKey::new(9, "wander").stream(flow, 0);
                    let mut wander = Wander::default();
                    [Instant::ZERO, Instant::ZERO + apart].map(|now| {
                        let index = u64::from(now != Instant::ZERO);
                        let words = [stream.word(index, 0), stream.word(index, 1)];
                        delay.draw(wander.uniform(pace, now, words)).as_secs_f64()
                    })
                };
                let pairs: Vec<[f64; 2]> = (0..n).map(pair).collect();
                let mean = |of: &dyn Fn(&[f64; 2]) -> f64| pairs.iter().map(of).sum::<f64>() / n as f64;
                let [one, two] = [mean(&|pair| pair[0]), mean(&|pair| pair[1])];
                let both = mean(&|pair| (pair[0] - one) * (pair[1] - two));
                let spreads = mean(&|pair| (pair[0] - one).powi(2)) * mean(&|pair| (pair[1] - two).powi(2));
                let (seen, expected) = (both / spreads.sqrt(), remains(times));
                let error = 3.0 / (n as f64).sqrt();
                assert!(
                    seen < expected + error && seen > expected - 0.1 - error,
                    "{distribution:?}: {seen}, {expected}"
                );
            }
        }
    }

    /// A correlation that is asked for is there from packet to packet, however far apart they are; mean and spread stay. The
    /// packets are a second apart, 20 correlation times. The variance of a mean of neighbours that are alike by ρ is larger by
    /// at most 2(1 + ρ)/(1 - ρ), as of an oscillator.
    #[test]
    fn a_correlation_is_the_least_there_is() {
        let delay = jitter(Distribution::Normal);
        for asked in [0.25, 0.5, 0.9] {
            let n = 100_000;
            let delays: Vec<f64> = words(Pace::new(&delay, rho(asked)), 1_000_000, n)
                .into_iter()
                .map(|word| delay.draw(word).as_nanos() as f64 / 1e6)
                .collect();
            let alike = (n as f64 * (1.0 - asked) / (1.0 + asked) / 2.0).sqrt();
            let mean = delays.iter().sum::<f64>() / n as f64;
            let spread = (delays.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
            assert!((mean - 100.0).abs() < 6.0 * 10.0 / alike, "{asked}: mean {mean}");
            assert!((spread - 10.0).abs() < 6.0 * 10.0 / alike, "{asked}: spread {spread}");
            let seen = neighbours(&delays, 1);
            assert!((seen - asked).abs() < 6.0 / alike, "{seen}, not {asked}");
        }
        // Where packets follow closely they are more alike anyway.
        let near = |correlation| Pace::new(&delay, rho(correlation)).correlation(0.001);
        assert!((near(0.25) - near(0.0)).abs() < 1e-12 && near(0.25) > 0.999);
        assert!((Pace::new(&delay, rho(1.0)).correlation(1.0) - 1.0).abs() < 1e-9);
    }

    /// However near packets are, and whatever the shape, the delay falls faster than time goes on in at most 1 of 10,000
    /// steps. Each pair is of a flow of its own, so that the pairs are independent: the count is Poisson's with a mean of at
    /// most 1 (1 in 100,000), and exceeds 10 once in 10^8.
    #[test]
    fn it_hardly_ever_falls_faster_than_time() {
        let n = 100_000;
        let tables = SHAPES.iter().map(|table| Distribution::Table(table.clone().into()));
        for distribution in [Distribution::Uniform, Distribution::Normal].into_iter().chain(tables) {
            let delay = jitter(distribution.clone());
            for (correlation, spacing) in [(0.0, 1), (0.0, 100), (0.0, 10_000), (0.25, 1_000)] {
                let pace = Pace::new(&delay, rho(correlation));
                let overtakes = |flow: &u64| {
                    let stream = StageKey::new(9, "wander").stream(*flow, 0);
                    let mut wander = Wander::default();
                    let mut at = |micros: u64, index: u64| {
                        let words = [stream.word(index, 0), stream.word(index, 1)];
                        let now = Instant::ZERO + Duration::from_micros(micros);
                        delay.draw(wander.uniform(pace, now, words)).as_nanos()
                    };
                    let (first, second) = (at(0, 0), at(spacing, 1));
                    first.saturating_sub(second) > spacing * 1_000
                };
                let count = (0..n).filter(overtakes).count();
                assert!(count <= 10, "{distribution:?}: {count} of {n} at {spacing} us");
            }
        }
    }

    /// A table of two values jumps, however slow the process is: the slowest is bounded.
    #[test]
    fn a_table_that_jumps_is_as_slow_as_allowed() {
        let steps = format!("{}{}", "-8192 ".repeat(512), "8192 ".repeat(512));
        let table = Table::parse("steps", &steps).unwrap().into();
        let half_life = Pace::new(&jitter(Distribution::Table(table)), Probability::ZERO).half_life();
        assert!((half_life - HALF * SLOWEST * 0.01).abs() < 1e-6, "{half_life}");
    }

    #[test]
    fn no_time_changes_nothing_and_a_long_one_is_no_trouble() {
        let pace = Pace { speed: 20.0, most: f64::INFINITY };
        let mut wander = Wander::default();
        let first = wander.uniform(pace, Instant::ZERO, [1 << 63, 1 << 62]);
        assert_eq!(wander.uniform(pace, Instant::ZERO, [7, 8]), first);
        wander.uniform(pace, Instant::FAR, [u64::MAX, 0]);
        assert!(wander.position.is_finite() && wander.change.is_finite());
    }

    #[test]
    fn a_half_life_is_one() {
        let delay = DelayParams { half_life: Some(Duration::from_secs(2)), ..jitter(Distribution::Uniform) };
        let pace = Pace::new(&delay, Probability::ZERO);
        assert!((pace.correlation(2.0) - 0.5).abs() < 1e-9 && (pace.half_life() - 2.0).abs() < 1e-9);
    }

    /// The law of position and change, independent with spreads 1 and λ, is that of the next moment too: for a step
    /// x' = A x + B z with normal z, A P A^T + B B^T = P.
    #[test]
    fn a_step_leaves_the_law_as_it_is() {
        let speed = 3.0;
        for passed in [0.001, 0.1, 0.3, 0.4, 1.0, 5.0] {
            let step = |position: f64, change: f64, one: f64, two: f64| {
                let mut wander = Wander { position, change, at: None };
                wander.advance(speed, passed, one, two);
                [wander.position, wander.change]
            };
            // Columns: of a position, of a change of λ, of the noise.
            let columns = [
                step(1.0, 0.0, 0.0, 0.0),
                step(0.0, speed, 0.0, 0.0),
                step(0.0, 0.0, 1.0, 0.0),
                step(0.0, 0.0, 0.0, 1.0),
            ];
            let covariance =
                |i: usize, j: usize| columns.iter().map(|column| column[i] * column[j]).sum::<f64>();
            for (found, expected) in
                [(covariance(0, 0), 1.0), (covariance(0, 1), 0.0), (covariance(1, 1), speed * speed)]
            {
                assert!((found - expected).abs() < 1e-9, "{passed}: {found} and not {expected}");
            }
        }
    }
}
