//! The priority of the thread that writes whole packets: the threads that forward go first.
//!
//! To write whole packets takes more time than to forward them. On a machine without enough cores, a capture that lacks packets (which are
//! counted) is better than packets that are delayed.

use std::time::{Duration, Instant};

use nix::libc;

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
}
