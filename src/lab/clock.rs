//! The clock of the lab: traffic on real sockets happens in real time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab drives real sockets; this is its one look at the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since the first call in this process: one scale for senders and receivers in all its namespaces.
pub fn nanos() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(now);
    u64::try_from(now().duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// Waits for a span of time: to pace a sender, or between polls if there is no event to wait for.
#[expect(
    clippy::disallowed_methods,
    reason = "the span is what is waited for; nothing is synchronised by it"
)]
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// A steady pace: turn n is due n intervals after the start, however late earlier turns were.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    start: Instant,
    interval: Duration,
}

impl Pace {
    /// Turn 0 is due now.
    pub fn start(interval: Duration) -> Self {
        Self { start: now(), interval }
    }

    /// Waits until `turn` is due; not at all if it is late.
    pub fn wait(self, turn: u64) {
        let early = self.due(turn).saturating_sub(now().duration_since(self.start));
        if !early.is_zero() {
            pause(early);
        }
    }

    /// When `turn` is due, after the start; limited to the largest duration.
    fn due(self, turn: u64) -> Duration {
        let nanos = self.interval.as_nanos().saturating_mul(u128::from(turn));
        let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        u64::try_from(seconds).map_or(Duration::MAX, |seconds| Duration::new(seconds, rest as u32))
    }
}

/// A moment by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(now() + span)
    }

    /// The remaining time; `None` once it has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_turn_is_due_before_an_earlier_one() {
        let pace = Pace::start(Duration::from_micros(200));
        assert_eq!(pace.due(3), Duration::from_micros(600));
        // More turns than fit into 32 bits, and more time than fits into anything.
        assert_eq!(pace.due(1 << 33), Duration::from_micros(200 << 33));
        let slow = Pace::start(Duration::from_hours(24 * 365 * 500));
        assert_eq!(slow.due(1), slow.interval);
        assert!(slow.due(1 << 40) > slow.due(1 << 30));
        assert_eq!(Pace::start(Duration::MAX).due(u64::MAX), Duration::MAX);
    }
}
