//! The priority of the thread that writes whole packets: the threads that forward go first.
//!
//! To write whole packets takes more time than to forward them. On a machine without enough cores, a capture that lacks packets (which are
//! counted) is better than packets that are delayed.

use std::time::{Duration, Instant};

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// What the thread that writes whole packets adds to its nice value. The scheduler then gives it a third of the weight of a worker.
const NICE: i32 = 5;
/// Bytes of packets that are passed on before other threads may run.
const TURN: usize = 64 << 10;
/// Other threads that run for longer than this are no workers: they compute. Beside them this thread gets little time, so it passes on
/// more bytes before it lets them run again.
const LONG: Duration = Duration::from_millis(1);
/// See [`LONG`].
const LONG_TURN: usize = 1 << 20;

/// Gives this thread a lower priority than the workers'.
#[expect(unsafe_code, reason = "neither nice(2) nor sched_setscheduler(2) has a wrapper in nix")]
pub(super) fn lower() {
    let batch = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls take numbers, and a structure that lives until they return. They change the calling thread: on Linux each
    // thread has its own priority. If a call fails, the thread keeps the priority that it has.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch);
        // The user may have given the process another nice value than 0.
        libc::nice(NICE);
    }
}

/// Lets other threads run after each [`TURN`]. Otherwise a worker on the same core can wait until the time slice of this thread ends, which
/// takes some milliseconds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Bytes since other threads could run.
    bytes: usize,
    /// Length of the last turn of other threads.
    others: Duration,
}

impl Turns {
    /// Says that so many bytes have been passed on.
    #[expect(
        clippy::disallowed_methods,
        reason = "no packet depends on it: it is how long other threads ran"
    )]
    pub(super) fn after(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= self.due() {
            let start = Instant::now();
            std::thread::yield_now();
            *self = Self { bytes: 0, others: start.elapsed() };
        }
    }

    /// Bytes until other threads may run again.
    fn due(&self) -> usize {
        if self.others > LONG { LONG_TURN } else { TURN }
    }
}

/// The rests of the thread while packets are missing. A capture that lacks packets anyway must not cost the traffic half of its speed.
#[derive(Debug, Default)]
pub(super) struct Rests {
    /// Lost records, at the last call.
    lost: u64,
    /// CPU time of the thread, at the last call.
    ran: Duration,
}

impl Rests {
    /// The length of a rest for the calling thread, if `lost` records are lost by now: as long as it has computed since the last call,
    /// or zero if no record was lost since then.
    pub(super) fn after(&mut self, lost: u64) -> Duration {
        let ran = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        self.next(lost, ran)
    }

    fn next(&mut self, lost: u64, ran: Duration) -> Duration {
        let rest = if lost > self.lost { ran.saturating_sub(self.ran) } else { Duration::ZERO };
        *self = Self { lost, ran };
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever nice value the process has.
    #[test]
    #[expect(unsafe_code, reason = "neither nice(2) nor getpriority(2) has a wrapper in nix")]
    fn the_thread_of_a_capture_is_nicer_than_the_workers() {
        // SAFETY: the calls take numbers, and are about the calling thread.
        let nicer = |by| unsafe { libc::nice(by) };
        // SAFETY: as above.
        let own = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let thread = std::thread::spawn(move || {
            nicer(3);
            let of_workers = own();
            lower();
            (of_workers, own())
        });
        let (of_workers, of_capture) = thread.join().unwrap();
        assert_eq!(of_capture, (of_workers + NICE).min(19));
    }

    #[test]
    fn others_run_less_often_if_they_compute() {
        let mut turns = Turns::default();
        turns.after(TURN - 1);
        assert_eq!(turns.bytes, TURN - 1);
        turns.after(1);
        assert_eq!(turns.bytes, 0);
        turns = Turns { bytes: 0, others: 2 * LONG };
        turns.after(LONG_TURN - 1);
        assert_eq!(turns.bytes, LONG_TURN - 1);
        turns.after(1);
        assert_eq!(turns.bytes, 0);
    }

    #[test]
    fn the_thread_rests_while_records_are_lost() {
        let mut rests = Rests::default();
        let ms = Duration::from_millis;
        let calls = [(0, 5), (3, 9), (3, 20), (4, 21), (4, 30)];
        let found = calls.map(|(lost, ran)| rests.next(lost, ms(ran)));
        assert_eq!(found, [0, 4, 0, 1, 0].map(ms));
        assert!(Rests::default().after(1) > Duration::ZERO, "the CPU time of this thread is read");
    }
}
