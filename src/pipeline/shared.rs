//! What the copies of one stage on different workers must share: a few atomic numbers.
//!
//! Everything else a worker writes is its own. Stages use these only where one path is one thing by nature: the clock of
//! a rate limit, a count over the whole path.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A cache line or two of shared state; each stage uses the numbers it needs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Numbers {
    /// Selected packets so far and firings of a trigger that counts over the path.
    pub counts: AtomicU64,
    /// The time that a stage has reached, in a unit of its own.
    pub clock: AtomicU64,
    /// Packets that wait.
    pub packets: AtomicU64,
    /// Bytes that wait.
    pub bytes: AtomicU64,
}

/// Shared by all copies of one stage.
pub type Shared = Arc<Numbers>;
