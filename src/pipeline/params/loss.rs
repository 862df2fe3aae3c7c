//! Models of loss.

use crate::pipeline::params::Correlated;
use crate::pipeline::units::Probability;

/// How netem's line loses packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossModel {
    /// Each with a probability, perhaps correlated.
    Random(Correlated),
    /// A Markov chain of four states.
    State(StateLoss),
    /// Gilbert and Elliott's two states.
    GilbertElliott(GilbertElliott),
}

impl Default for LossModel {
    fn default() -> Self {
        Self::Random(Correlated::default())
    }
}

/// Transitions of netem's `loss state`: 1 received in a gap, 2 received in a burst, 3 lost in a burst, 4 lost in a gap.
///
/// `p13 + p14` and `p31 + p32` are at most 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLoss {
    /// A burst begins, by a loss.
    pub p13: Probability,
    /// A burst ends.
    pub p31: Probability,
    /// Within a burst, from lost to received.
    pub p32: Probability,
    /// Within a burst, from received to lost.
    pub p23: Probability,
    /// A loss outside of bursts.
    pub p14: Probability,
}

impl StateLoss {
    /// The share of packets for which the chain is in each of its states, in the order of [`StateLoss`] (received in a gap,
    /// received in a burst, lost in a burst, lost in a gap), in the long run: the balance of the chain (Salsano et al.,
    /// "Definition of a general and intuitive loss model for packet networks", 2009), begun in a gap.
    pub fn shares(&self) -> [f64; 4] {
        let [p13, p31, p32, p23, p14] =
            [self.p13, self.p31, self.p32, self.p23, self.p14].map(Probability::as_f64);
        if p13 == 0.0 {
            return [1.0 / (1.0 + p14), 0.0, 0.0, p14 / (1.0 + p14)];
        }
        // State 2 is never left.
        if p32 > 0.0 && p23 == 0.0 {
            return [0.0, 1.0, 0.0, 0.0];
        }
        // Once in a burst, never out of it again.
        if p31 == 0.0 {
            return match p32 {
                0.0 => [0.0, 0.0, 1.0, 0.0],
                _ => [0.0, p32 / (p23 + p32), p23 / (p23 + p32), 0.0],
            };
        }
        let third = p13 / p31;
        let second = if p32 > 0.0 { third * p32 / p23 } else { 0.0 };
        [1.0, second, third, p14].map(|share| share / (1.0 + third + second + p14))
    }

    /// The share of packets that is lost in the long run.
    pub fn loss_rate(&self) -> f64 {
        let [.., third, fourth] = self.shares();
        third + fourth
    }

    /// Mean number of losses in a row within a burst; infinite if it never ends.
    pub fn mean_run(&self) -> f64 {
        1.0 / (self.p31.as_f64() + self.p32.as_f64()).min(1.0)
    }
}

/// Gilbert and Elliott's chain, by netem's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GilbertElliott {
    /// From good to bad.
    pub p: Probability,
    /// From bad to good.
    pub r: Probability,
    /// Loss while bad: netem's 1-h.
    pub bad: Probability,
    /// Loss while good: netem's 1-k.
    pub good: Probability,
}

impl GilbertElliott {
    /// The share of packets for which it is bad in the long run.
    pub fn bad_share(&self) -> f64 {
        let (p, r) = (self.p.as_f64(), self.r.as_f64());
        // What never turns bad is good.
        if p == 0.0 { 0.0 } else { p / (p + r) }
    }

    /// The share of packets that is lost.
    pub fn loss_rate(&self) -> f64 {
        let share = self.bad_share();
        share * self.bad.as_f64() + (1.0 - share) * self.good.as_f64()
    }

    /// Mean number of packets in a row for which it is bad; infinite if that never ends.
    pub fn mean_bad(&self) -> f64 {
        1.0 / self.r.as_f64()
    }
}
