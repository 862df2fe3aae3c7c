//! The only reader of the monotonic clock.

use std::time::Instant as SystemInstant;

use crate::pipeline::time::Instant;

/// Time since the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: SystemInstant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Self {
        Self { start: SystemInstant::now() }
    }

    /// Now.
    #[inline]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> Instant {
        Instant::ZERO + SystemInstant::now().duration_since(self.start).into()
    }
}
