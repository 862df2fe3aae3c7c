//! Probabilities with memory: each packet is more likely to be treated like the one before.

use crate::pipeline::params::Correlated;
use crate::pipeline::random::rng::{Chance, Draw, Stream};
use crate::pipeline::units::Probability;

/// What a flow remembers of the last packet: whether it was hit.
pub(in crate::pipeline) type Memory = Option<bool>;

/// A two-state Markov chain with the requested marginal probability.
///
/// P(hit | previous hit) = p + ρ(1 − p), P(hit | previous not) = p(1 − ρ). The stationary probability is p and the lag-1
/// correlation ρ. tc-netem's own formula loses the marginal: its 10 % with 25 % correlation hits 1.8 %.
#[derive(Debug)]
pub(in crate::pipeline) struct CorrelatedChance {
    marginal: Chance,
    /// After a miss and after a hit; none without correlation.
    after: Option<[Chance; 2]>,
}

impl CorrelatedChance {
    /// The draw of [`Self::hit`] for packet `index`, if it does not depend on the packet before.
    pub(in crate::pipeline) fn drawn(&self, stream: Stream, index: u64) -> Option<Draw> {
        (!self.has_memory()).then(|| self.marginal.draw(stream, index))
    }

    pub(in crate::pipeline) fn new(params: Correlated) -> Self {
        let (p, rho) = (params.probability, params.correlation);
        let after_hit = lean(p, rho);
        // p(1 − ρ) = p − pρ.
        let after_miss = Probability::from_bits(p.bits() - scale(p.bits(), rho.bits()));
        let after = (rho > Probability::ZERO && p > Probability::ZERO)
            .then(|| [Chance::new(after_miss), Chance::new(after_hit)]);
        Self { marginal: Chance::new(p), after }
    }

    /// Whether a decision depends on the one before.
    pub(in crate::pipeline) const fn has_memory(&self) -> bool {
        self.after.is_some()
    }

    /// The probability without memory.
    pub(in crate::pipeline) const fn marginal(&self) -> &Chance {
        &self.marginal
    }

    /// The run of packets that get the same answer, without memory.
    #[inline]
    pub(in crate::pipeline) fn run(&self, stream: Stream, first: u64, count: u32) -> (u32, bool) {
        self.marginal.run(stream, first, count)
    }

    /// Decides about one packet and remembers it.
    #[inline]
    pub(in crate::pipeline) fn hit(&self, stream: Stream, index: u64, memory: &mut Memory) -> bool {
        let chance = match (&self.after, *memory) {
            (Some(after), Some(before)) => &after[usize::from(before)],
            _ => &self.marginal,
        };
        let hit = chance.hit(stream, index);
        *memory = Some(hit);
        hit
    }
}

/// p + ρ(1 − p), in fractions of 2^64 where all ones is certainty.
fn lean(p: Probability, rho: Probability) -> Probability {
    Probability::from_bits(p.bits().saturating_add(scale(!p.bits(), rho.bits())))
}

/// a·b / 2^64, where `b` of all ones is one.
fn scale(a: u64, b: u64) -> u64 {
    if b == u64::MAX { a } else { ((u128::from(a) * u128::from(b)) >> 64) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::random::rng::StageKey;

    /// The share of hits after a hit, after a miss, and in all; 6 standard deviations, counted in the packets that the
    /// share is of. For the marginal the variance is that of the chain: (1 + ρ)/(1 − ρ) times the independent one.
    #[test]
    fn marginal_and_conditional_rates_are_as_asked() {
        for (p, rho) in [(0.1, 0.25), (0.1, 0.5), (0.3, 0.9), (0.01, 0.25), (0.5, 0.0)] {
            let params = Correlated {
                probability: Probability::new(p).unwrap(),
                correlation: Probability::new(rho).unwrap(),
            };
            let chance = CorrelatedChance::new(params);
            let stream = StageKey::new(1, "correlated").stream(1, 0);
            let (n, mut memory) = (400_000_u64, None);
            let hits: Vec<bool> = (0..n).map(|index| chance.hit(stream, index, &mut memory)).collect();
            let close = |share: f64, expected: f64, n: f64, spread: f64| {
                let bound = 6.0 * (expected * (1.0 - expected) * spread / n).sqrt();
                assert!(
                    (share - expected).abs() <= bound,
                    "p {p}, rho {rho}: {share}, not {expected} ± {bound}"
                );
            };
            let of = |wanted: bool| hits.windows(2).filter(move |pair| pair[0] == wanted);
            for (before, expected) in [(true, p + rho * (1.0 - p)), (false, p * (1.0 - rho))] {
                let all = of(before).count() as f64;
                close(of(before).filter(|pair| pair[1]).count() as f64 / all, expected, all, 1.0);
            }
            let marginal = hits.iter().filter(|&&hit| hit).count() as f64 / n as f64;
            close(marginal, p, n as f64, (1.0 + rho) / (1.0 - rho));
        }
    }

    #[test]
    fn the_ends_are_exact() {
        let chance = |p: f64, rho: f64| {
            CorrelatedChance::new(Correlated {
                probability: Probability::new(p).unwrap(),
                correlation: Probability::new(rho).unwrap(),
            })
        };
        let stream = StageKey::new(1, "ends").stream(1, 0);
        let mut memory = None;
        assert!((0..1000).all(|index| chance(1.0, 0.5).hit(stream, index, &mut memory)));
        memory = None;
        assert!(!(0..1000).any(|index| chance(0.0, 0.5).hit(stream, index, &mut memory)));
        // Full correlation: the first decides for all.
        memory = None;
        let chance = chance(0.5, 1.0);
        let first = chance.hit(stream, 0, &mut memory);
        assert!((1..1000).all(|index| chance.hit(stream, index, &mut memory) == first));
    }
}
