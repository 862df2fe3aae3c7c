//! Quantities with their units: probabilities and rates.

/// A probability as a fixed-point fraction of 2^64; `u64::MAX` is certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Probability(u64);

impl Probability {
    /// Never.
    pub const ZERO: Self = Self(0);
    /// Always.
    pub const ONE: Self = Self(u64::MAX);

    /// The probability nearest to `p`, if 0 ≤ p ≤ 1.
    pub fn new(p: f64) -> Option<Self> {
        // 2^64 as f64 is exact; the cast saturates, so 1.0 becomes certainty.
        (0.0..=1.0).contains(&p).then_some(Self((p * 18_446_744_073_709_551_616.0) as u64))
    }

    /// The binary digits after the point, first digit in the highest bit.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// As a fraction.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 18_446_744_073_709_551_616.0
    }
}

/// A data rate in bits per second, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(std::num::NonZeroU64);

impl Rate {
    /// `bits` per second, unless that is zero.
    pub fn from_bits_per_sec(bits: u64) -> Option<Self> {
        std::num::NonZeroU64::new(bits).map(Self)
    }

    /// Bits per second.
    pub const fn bits_per_sec(self) -> u64 {
        self.0.get()
    }
}
