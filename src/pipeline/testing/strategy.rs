//! Values that the parameters of several stages are drawn from.

use proptest::prelude::*;
use proptest::sample::select;

use crate::pipeline::params::Correlated;
use crate::pipeline::random::distribution::Table;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// Never, always, rarely, or any.
pub(crate) fn probability() -> impl Strategy<Value = Probability> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..0.02, 0.0..=1.0].prop_map(|p| Probability::new(p).unwrap())
}

pub(crate) fn correlated() -> impl Strategy<Value = Correlated> {
    (probability(), prop_oneof![Just(Probability::ZERO), probability()])
        .prop_map(|(probability, correlation)| Correlated { probability, correlation })
}

/// Times on a coarse grid are often equal: of what arrives, what is held, and what changes.
pub(crate) const GRID: u64 = 1_000_000;

pub(crate) fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        1 => Just(0),
        1 => 0..10_000_u64,
        1 => 0..50_000_000_u64,
        3 => (0..12_u64).prop_map(|ticks| ticks * GRID),
    ]
    .prop_map(Duration::from_nanos)
}

/// A skew shape.
pub(crate) static TABLE: std::sync::LazyLock<std::sync::Arc<Table>> =
    std::sync::LazyLock::new(|| Table::pareto().into());

pub(crate) fn rate() -> impl Strategy<Value = Rate> {
    // At the last ones a packet of 50 bytes takes a tick of the grid, or half of one.
    prop_oneof![10_000..10_000_000_u64, 10_000_000..10_000_000_000_u64, select(vec![400_000_u64, 800_000])]
        .prop_map(|bits| Rate::from_bits_per_sec(bits).unwrap())
}
