//! A link that sends one packet after the other: when each has left.
//!
//! A virtual clock, shared by all workers, says when the link is free. It counts 1/256 ns, so that rounding adds up to
//! less than one part in a million of any transmission of a nanosecond or more.

use std::sync::atomic::Ordering;

use crate::pipeline::shared::Shared;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;

/// Parts of a nanosecond that the clock counts.
const PARTS: u64 = 256;

/// When a packet was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// How long it had to wait for those before it.
    pub wait: Duration,
    /// When its last bit has left, rounded up.
    pub end: Instant,
}

/// A link of a rate.
#[derive(Debug)]
pub struct Serialiser {
    rate: Rate,
    shared: Shared,
}

impl Serialiser {
    /// A link that is free at time zero. `shared.clock` is its own.
    pub const fn new(rate: Rate, shared: Shared) -> Self {
        Self { rate, shared }
    }

    /// How long a packet that comes at `now` would wait.
    pub fn wait(&self, now: Instant) -> Duration {
        let free = self.shared.clock.load(Ordering::Acquire);
        Duration::from_nanos(free.saturating_sub(now.as_nanos() * PARTS) / PARTS)
    }

    /// Sends `bytes` at the first time from `now` on that the link is free.
    pub fn send(&self, bytes: u64, now: Instant) -> Slot {
        let arrival = now.as_nanos() * PARTS;
        let time = self.time(bytes);
        let take = |free: u64| Some(free.max(arrival) + time);
        let clock = &self.shared.clock;
        let before = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).unwrap_or(arrival);
        let start = before.max(arrival);
        Slot {
            wait: Duration::from_nanos((start - arrival) / PARTS),
            end: Instant::from_nanos((start + time).div_ceil(PARTS)),
        }
    }

    /// Takes `bytes` out of a bucket that is full after `burst` of silence and drains at the rate; false, and nothing
    /// taken, if they are not in it at `now`. This is the virtual clock of a token bucket (GCRA, ITU-T I.371).
    pub fn draw(&self, bytes: u64, burst: u64, now: Instant) -> bool {
        let arrival = now.as_nanos() * PARTS;
        let full = arrival + self.time(burst);
        let take = |empty_at: u64| {
            let after = empty_at.max(arrival) + self.time(bytes);
            (after <= full).then_some(after)
        };
        self.shared.clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// Time on the wire, in parts.
    fn time(&self, bytes: u64) -> u64 {
        let bits = u128::from(bytes) * 8 * u128::from(PARTS) * 1_000_000_000;
        (bits / u128::from(self.rate.bits_per_sec())).min(u128::from(u64::MAX >> 2)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(bits: u64) -> Serialiser {
        Serialiser::new(Rate::from_bits_per_sec(bits).unwrap(), Shared::default())
    }

    #[test]
    fn packets_follow_each_other_without_a_gap() {
        let link = link(12_000_000);
        let now = Instant::from_nanos(5);
        assert_eq!(link.send(1500, now), Slot { wait: Duration::ZERO, end: Instant::from_nanos(1_000_005) });
        let second = Slot { wait: Duration::from_millis(1), end: Instant::from_nanos(2_000_005) };
        assert_eq!(link.send(1500, now), second);
        assert_eq!(link.wait(now), Duration::from_millis(2));
        let later = Instant::from_nanos(10_000_000);
        assert_eq!(link.send(1500, later).end, Instant::from_nanos(11_000_000));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_the_rate() {
        let bucket = link(8_000);
        // 1,000 bytes a second, a burst of 300.
        let taken = |at: u64| (0..100).filter(|_| bucket.draw(100, 300, Instant::from_nanos(at))).count();
        assert_eq!(taken(0), 3);
        assert_eq!(taken(99_999_999), 0);
        assert_eq!(taken(100_000_000), 1);
        assert_eq!(taken(350_000_000), 2);
        assert_eq!(taken(10_000_000_000), 3);
    }

    /// Rounding does not add up, from a modem to 100 Gbit/s.
    #[test]
    fn the_rate_over_a_run_is_exact() {
        for bits in [1_000, 56_000, 999_999_937, 3_000_000_001, 100_000_000_000] {
            let link = link(bits);
            let end = (0..10_000).map(|_| link.send(1001, Instant::ZERO).end).max().unwrap();
            let exact = 10_000.0 * 1001.0 * 8.0 / bits as f64 * 1e9;
            let error = (end.as_nanos() as f64 / exact - 1.0).abs();
            assert!(error < 1e-4, "{bits} bit/s: off by {error}");
        }
    }
}
