//! How long a worker sleeps before the next packet is due.
//!
//! A sleep ends late: the timer fires, the processor leaves its idle state, the scheduler finds the thread. That is 5 us
//! on some machines and 60 us on others, so it is measured instead of assumed: the worker sleeps that much less, and
//! spends the rest looking for packets without sleeping.

use crate::pipeline::time::{Duration, Instant};

/// Lateness above this is caused by the scheduler (another thread had the processor), and spinning would not help.
const MOST: u64 = 100_000;
/// A new measurement weighs one part in this.
const WEIGHT: u64 = 16;
/// The lateness that is assumed before any sleep was measured.
const AT_FIRST: u64 = 20_000;

/// The measured lateness of a worker's sleeps, and the time to sleep that follows from it.
#[derive(Debug)]
pub(super) struct Patience {
    /// Mean lateness of the last sleeps, in nanoseconds.
    late: u64,
    /// Mean distance from that mean, in nanoseconds.
    spread: u64,
    /// When the current sleep should end.
    until: Option<Instant>,
}

impl Patience {
    pub(super) const fn new() -> Self {
        Self { late: AT_FIRST, spread: AT_FIRST / 4, until: None }
    }

    /// How long to sleep at `now` so as to be awake at `due`; zero if there is no time for a sleep.
    pub(super) fn sleep(&mut self, now: Instant, due: Instant) -> Duration {
        let margin = (self.late + self.spread).min(MOST);
        let left = due.since(now).as_nanos();
        if left <= margin {
            self.until = None;
            return Duration::ZERO;
        }
        let sleep = Duration::from_nanos(left - margin);
        self.until = Some(now + sleep);
        sleep
    }

    /// The sleep ended by itself, at `now`.
    pub(super) fn woke(&mut self, now: Instant) {
        let Some(until) = self.until.take() else { return };
        let late = now.since(until).as_nanos().min(MOST);
        self.spread = mean(self.spread, late.abs_diff(self.late));
        self.late = mean(self.late, late);
    }
}

fn mean(old: u64, new: u64) -> u64 {
    (old * (WEIGHT - 1) + new) / WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// Sleeps that all end `late` microseconds after they should.
    fn practised(late: u64) -> Patience {
        let mut patience = Patience::new();
        for round in 0..500 {
            let (now, due) = (at(round * 10_000), at(round * 10_000 + 5_000));
            let sleep = patience.sleep(now, due);
            patience.woke(now + sleep + Duration::from_micros(late));
        }
        patience
    }

    #[test]
    fn a_sleep_ends_before_the_due_time_by_as_much_as_sleeps_were_late() {
        for late in [0, 3, 40, 90] {
            let awake = practised(late).sleep(at(0), at(1_000)).as_nanos() + late * 1_000;
            assert!(
                (999_000..=1_000_000).contains(&awake),
                "awake {awake} ns after the start for sleeps {late} us late"
            );
        }
    }

    #[test]
    fn one_long_absence_does_not_make_it_spin_for_ever() {
        let mut patience = practised(5);
        let sleep = patience.sleep(at(0), at(1_000));
        patience.woke(at(0) + sleep + Duration::from_millis(50));
        let spin = 1_000_000 - patience.sleep(at(0), at(1_000)).as_nanos();
        assert!(spin < 25_000, "spins {spin} ns");
    }

    #[test]
    fn never_spins_longer_than_the_most() {
        assert_eq!(practised(3_000).sleep(at(0), at(1_000)).as_nanos(), 1_000_000 - MOST);
    }

    #[test]
    fn a_packet_due_now_or_soon_is_not_slept_for() {
        assert!(practised(40).sleep(at(0), at(30)).is_zero());
        assert!(practised(40).sleep(at(30), at(0)).is_zero());
    }
}
