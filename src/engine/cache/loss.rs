//! Lost packets: those that did not fit into a queue of the kernel.

use crate::pipeline::time::{Duration, Instant};

/// A packet that is missing for this long is lost.
const LOST: Duration = Duration::from_millis(20);

/// The smallest number of packets that were missing since a moment, and that moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    least: u64,
    since: Instant,
}

impl Default for Loss {
    fn default() -> Self {
        Self { least: u64::MAX, since: Instant::ZERO }
    }
}

impl Loss {
    /// Takes the number that is missing now, and returns how many of these are lost. If any are, the measurement starts again.
    pub(super) fn so_far(&mut self, missing: u64, now: Instant) -> u64 {
        if missing < self.least {
            *self = Self { least: missing, since: now };
        }
        if now.since(self.since) < LOST {
            return 0;
        }
        std::mem::take(self).least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_all_the_time_is_lost() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut loss = Loss::default();
        // Two are lost at the start; the others are only late.
        for (ms, missing, lost) in [
            (100, 5, 0),
            (101, 2, 0),
            (110, 9, 0),
            (120, 3, 0),
            (121, 4, 2),
            (122, 2, 0),
            (130, 0, 0),
            (150, 1, 0),
        ] {
            assert_eq!(loss.so_far(missing, at(ms)), lost, "at {ms} ms");
        }
    }
}
