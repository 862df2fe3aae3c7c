//! A link that sends one packet after the other: when each has left.
//!
//! A virtual clock, shared by all workers, says when the link is free. It counts 1/256 ns; what rounding cuts off one
//! packet is added to the next of the same worker, so that the rate is exact over a run however short a packet's time is.

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
    /// What was cut off so far, in parts divided by the rate; less than one part.
    remainder: u64,
}

impl Serialiser {
    /// A link that is free at time zero. `shared.clock` is its own.
    pub const fn new(rate: Rate, shared: Shared) -> Self {
        Self { rate, shared, remainder: 0 }
    }

    /// How long a packet that comes at `now` would wait.
    pub fn wait(&self, now: Instant) -> Duration {
        let free = self.shared.clock.load(Ordering::Acquire);
        Duration::from_nanos(free.saturating_sub(parts(now)) / PARTS)
    }

    /// Sends `bytes` at the first time from `now` on that the link is free.
    pub fn send(&mut self, bytes: u64, now: Instant) -> Slot {
        let arrival = parts(now);
        let (time, remainder) = self.time(work(bytes) + u128::from(self.remainder));
        self.remainder = remainder;
        let take = |free: u64| Some(free.max(arrival).saturating_add(time));
        let clock = &self.shared.clock;
        let before = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).unwrap_or(arrival);
        let start = before.max(arrival);
        Slot {
            wait: Duration::from_nanos((start - arrival) / PARTS),
            end: Instant::from_nanos(start.saturating_add(time).div_ceil(PARTS)),
        }
    }

    /// Takes as many of `count` packets of `bytes` each as there are tokens for at `now`, and says how many: none, if
    /// there are not enough for one. The bucket holds `burst` bytes and fills at the rate; this is its virtual clock
    /// (GCRA, ITU-T I.371), which says when it is full again.
    pub fn draw(&mut self, bytes: u64, count: u32, burst: u64, now: Instant) -> u32 {
        let arrival = parts(now);
        let empty = arrival.saturating_add(self.time(work(burst)).0);
        let (each, carried) = (work(bytes), u128::from(self.remainder));
        let mut taken = (0, self.remainder);
        let take = |full: u64| {
            let start = full.max(arrival);
            // The most packets whose time, rounded down, ends at `empty` or before.
            let room = u128::from(empty.checked_sub(start)? + 1) * u128::from(self.rate.bits_per_sec());
            let fit = (room - 1).saturating_sub(carried).checked_div(each).unwrap_or(u128::MAX);
            let fit = fit.min(count.into());
            let (time, remainder) = self.time(fit * each + carried);
            taken = (fit as u32, remainder);
            (fit > 0).then(|| start.saturating_add(time))
        };
        match self.shared.clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => {
                self.remainder = taken.1;
                taken.0
            }
            Err(_) => 0,
        }
    }

    /// Time on the wire in parts, and what is left of it.
    fn time(&self, work: u128) -> (u64, u64) {
        let rate = u128::from(self.rate.bits_per_sec());
        (u64::try_from(work / rate).unwrap_or(u64::MAX), (work % rate) as u64)
    }
}

/// Since the start of the run.
const fn parts(at: Instant) -> u64 {
    at.as_nanos().saturating_mul(PARTS)
}

/// Time that `bytes` take at one bit a second, in parts.
const fn work(bytes: u64) -> u128 {
    bytes as u128 * (8 * PARTS as u128 * 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link(bits: u64) -> Serialiser {
        Serialiser::new(Rate::from_bits_per_sec(bits).unwrap(), Shared::default())
    }

    #[test]
    fn packets_follow_each_other_without_a_gap() {
        let mut link = link(12_000_000);
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
        let mut bucket = link(8_000);
        // 1,000 bytes a second, a burst of 300.
        let mut taken = |at: u64| bucket.draw(100, 100, 300, Instant::from_nanos(at));
        assert_eq!(taken(0), 3);
        assert_eq!(taken(99_999_999), 0);
        assert_eq!(taken(100_000_000), 1);
        assert_eq!(taken(350_000_000), 2);
        assert_eq!(taken(10_000_000_000), 3);
    }

    /// Packets of 40 bytes take 819.2 parts at 100 Gbit/s: the fifth of a part must not get lost.
    #[test]
    fn the_rate_over_a_run_is_exact() {
        for bits in [1_000, 56_000, 999_999_937, 3_000_000_001, 100_000_000_000] {
            for bytes in [40, 1001, 1500] {
                let mut link = link(bits);
                let end = (0..100_000).map(|_| link.send(bytes, Instant::ZERO).end).max().unwrap();
                let exact = (100_000 * u128::from(bytes) * 8 * 1_000_000_000).div_ceil(bits.into());
                assert_eq!(u128::from(end.as_nanos()), exact, "{bits} bit/s, {bytes} bytes");
            }
        }
    }

    /// A bucket that is emptied again and again for a second gives a second's bytes and the burst, within a packet.
    #[test]
    fn a_bucket_gives_no_more_and_no_less_than_the_rate() {
        for bits in [1_000_000, 999_999_937, 100_000_000_000_u64] {
            let mut bucket = link(bits);
            // Refilled in part only between two turns, even at the highest rate.
            let (burst, step) = (100_000, 5_003);
            let drawn: u64 = (0..=1_000_000_000 / step)
                .map(|turn| {
                    u64::from(bucket.draw(40, u32::MAX, burst, Instant::from_nanos(turn * step))) * 40
                })
                .sum();
            let allowed = bits / 8 + burst;
            assert!(
                (allowed - bits / 8 * step / 1_000_000_000 - 80..=allowed).contains(&drawn),
                "{drawn} of {allowed}"
            );
        }
    }

    /// Four workers at once: no two packets get the same time on the wire, and all together take exactly their own, but for
    /// the part of a nanosecond that each worker still carries.
    #[test]
    fn workers_that_race_share_the_rate_exactly() {
        let shared = Shared::default();
        let rate = Rate::from_bits_per_sec(999_999_937).unwrap();
        let work = || {
            let mut link = Serialiser::new(rate, Shared::clone(&shared));
            (0..20_000).map(|_| link.send(1_500, Instant::ZERO).end.as_nanos()).collect::<Vec<_>>()
        };
        let mut ends: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        ends.sort_unstable();
        let exact = (80_000 * 1_500 * 8 * 1_000_000_000_u128).div_ceil(999_999_937) as u64;
        let last = *ends.last().unwrap();
        assert!((exact - 1..=exact).contains(&last), "{last}, not {exact}");
        // 12,000.0008 ns each.
        assert!(ends.windows(2).all(|pair| (11_999..=12_002).contains(&(pair[1] - pair[0]))));
    }

    #[test]
    fn without_end_in_sight_the_clock_stops_at_the_end_of_time() {
        let mut link = link(1);
        for _ in 0..1_000 {
            link.send(65_535, Instant::FAR);
        }
        assert_eq!(link.draw(1, 1, 65_535, Instant::ZERO), 0);
    }

    proptest! {
        /// Asked for many packets at once, the bucket gives as many as asked for one by one, and goes on the same.
        #[test]
        fn a_run_is_drawn_as_its_packets(
            bits in 1_000..200_000_000_000_u64, burst in 0..50_000_u64,
            draws in proptest::collection::vec((0..2_000_u64, 1..60_u32, 0..1_000_000_u64), 1..40),
        ) {
            let (mut run, mut single) = (link(bits), link(bits));
            let mut now = Instant::ZERO;
            for (bytes, count, gap) in draws {
                now += Duration::from_nanos(gap);
                let one_by_one = (0..count).filter(|_| single.draw(bytes, 1, burst, now) == 1).count();
                prop_assert_eq!(run.draw(bytes, count, burst, now) as usize, one_by_one);
                prop_assert_eq!(run.wait(now), single.wait(now));
            }
        }
    }
}
