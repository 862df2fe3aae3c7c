//! A link that sends one packet after the other: when each has left.
//!
//! A virtual clock, shared by all workers, says when the link is free; see `link`. The owner of the link keeps its clock, which
//! begins at 0.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::link::turn::{Turn, carried_at, spend, work};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;

/// When a packet was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// How long it had to wait for those before it.
    pub wait: Duration,
    /// When its last bit has been sent, rounded up.
    pub end: Instant,
}

/// How long a packet that comes at `now` would wait for the link of this clock.
pub fn wait(clock: &AtomicU64, now: Instant) -> Duration {
    let free = clock.load(Ordering::Acquire);
    Duration::from_nanos(free.saturating_sub(now.as_nanos()))
}

/// A link of a rate.
#[derive(Debug)]
pub struct Serialiser {
    rate: Rate,
    /// The work that rounding has carried over.
    carried: u64,
}

impl Serialiser {
    /// A link that is free at time zero.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, carried: 0 }
    }

    /// Sends `bytes` at the first time from `now` on that the link is free.
    pub fn send(&mut self, clock: &AtomicU64, bytes: u64, now: Instant) -> Slot {
        let arrival = now.as_nanos();
        let turn = |free| Turn::new(self.rate, free, self.carried, arrival, bytes);
        let take = |free| Some(turn(free).end);
        let free = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).unwrap_or(arrival);
        let turn = turn(free);
        self.carried = turn.carried;
        Slot { wait: Duration::from_nanos(turn.start - arrival), end: turn.left() }
    }

    /// Takes as many of `count` packets of `bytes` each as there are tokens for at `now`, and says how many: none, if
    /// there are not enough for one. The bucket holds `burst` bytes and fills at the rate; this is its virtual clock
    /// (GCRA, ITU-T I.371), which says when it is full again.
    pub fn draw(&mut self, clock: &AtomicU64, bytes: u64, count: u32, burst: u64, now: Instant) -> u32 {
        let arrival = now.as_nanos();
        let empty = arrival.saturating_add(spend(self.rate, work(burst)).0);
        let each = work(bytes);
        let mut taken = (0, self.carried);
        let take = |full: u64| {
            let start = full.max(arrival);
            let carried = u128::from(carried_at(full, self.carried, arrival));
            // The largest number of packets whose time, rounded down, ends at `empty` or before.
            let room = (u128::from(empty.checked_sub(start)?) + 1) * u128::from(self.rate.bits_per_sec());
            let fit = (room - 1).saturating_sub(carried).checked_div(each).unwrap_or(u128::MAX);
            let fit = fit.min(count.into());
            let (time, carried) = spend(self.rate, fit * each + carried);
            taken = (fit as u32, carried);
            (fit > 0).then(|| start.saturating_add(time))
        };
        match clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => {
                self.carried = taken.1;
                taken.0
            }
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// One of the workers that have a link.
    struct Worker {
        link: Serialiser,
        clock: Arc<AtomicU64>,
    }

    impl Worker {
        fn wait(&self, now: Instant) -> Duration {
            wait(&self.clock, now)
        }

        fn send(&mut self, bytes: u64, now: Instant) -> Slot {
            self.link.send(&self.clock, bytes, now)
        }

        fn draw(&mut self, bytes: u64, count: u32, burst: u64, now: Instant) -> u32 {
            self.link.draw(&self.clock, bytes, count, burst, now)
        }
    }

    fn link(bits: u64) -> Worker {
        Worker { link: Serialiser::new(Rate::from_bits_per_sec(bits).unwrap()), clock: Arc::default() }
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

    /// Packets of 40 bytes take 3.2 ns at 100 Gbit/s: the fifth of a nanosecond must not get lost.
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
        let clock = Arc::default();
        let rate = Rate::from_bits_per_sec(999_999_937).unwrap();
        let work = || {
            let mut link = Worker { link: Serialiser::new(rate), clock: Arc::clone(&clock) };
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

    /// The rate is the same a thousand days or five hundred years after the start of the run.
    #[test]
    fn the_rate_is_exact_however_late_it_is() {
        for years in [0, 1, 2, 3, 30, 500] {
            let start = Instant::from_nanos(years * 365 * 86_400 * 1_000_000_000);
            let (mut queue, mut bucket) = (link(1_000_000), link(1_000_000));
            // Idle since the start of the run, the link starts with the first packet.
            let ends: Vec<u64> =
                (0..1_000).map(|_| queue.send(1_250, start).end.since(start).as_nanos()).collect();
            let expected: Vec<u64> = (1..=1_000).map(|number| number * 10_000_000).collect();
            assert_eq!(ends, expected, "after {years} years");
            assert_eq!(queue.wait(start), Duration::from_secs(10));
            let drawn = |bucket: &mut Worker, at| bucket.draw(100, 1_000, 1_000, at);
            assert_eq!(drawn(&mut bucket, start), 10, "after {years} years");
            assert_eq!(drawn(&mut bucket, start + Duration::from_millis(4)), 5);
        }
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
