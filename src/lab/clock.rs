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

/// Waits for a span of time itself: the pace of a sender, or the step of a poll where no event exists to wait for.
#[expect(
    clippy::disallowed_methods,
    reason = "the span is what is waited for; nothing is synchronised by it"
)]
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// A moment by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(now() + span)
    }

    /// What is left; `None` once it has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}
