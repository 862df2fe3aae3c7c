//! CoDel, RFC 8289: drops at the head of the queue once packets have waited too long for too long.
//!
//! The RFC's `dequeue` takes packets in a loop. Here, the caller asks about one head of the queue after the other, so
//! the position in that loop is kept in `next`.

use crate::pipeline::params::CoDelParams;
use crate::pipeline::time::{Duration, Instant};

/// What the RFC's loop does with the next head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Begin.
    Begin,
    /// The dropping state was just entered by a drop; this head is sent.
    AfterEntry,
    /// A packet was just dropped in the dropping state.
    AfterDrop,
}

/// State of one queue.
#[derive(Debug)]
pub(super) struct CoDel {
    params: CoDelParams,
    /// When the queue's delay will have been above the target for an interval.
    first_above: Option<Instant>,
    drop_next: Instant,
    count: u32,
    last_count: u32,
    dropping: bool,
    next: Next,
    /// The largest packet so far, in bytes: a queue of up to this size is not dropped from, whatever its delay.
    largest: u64,
}

impl CoDel {
    pub(super) const fn new(params: CoDelParams) -> Self {
        Self {
            params,
            first_above: None,
            drop_next: Instant::ZERO,
            count: 0,
            last_count: 0,
            dropping: false,
            next: Next::Begin,
            largest: 0,
        }
    }

    /// The queue was empty when a head was wanted.
    pub(super) fn empty(&mut self) {
        self.first_above = None;
        if self.next != Next::AfterEntry {
            self.dropping = false;
        }
        self.next = Next::Begin;
    }

    /// Whether the head, of `bytes`, which has waited `sojourn`, is to be dropped (or marked, if `marks`) at `now`;
    /// `behind` are the bytes behind it.
    pub(super) fn hits(
        &mut self,
        sojourn: Duration,
        bytes: u64,
        behind: u64,
        marks: bool,
        now: Instant,
    ) -> bool {
        self.largest = self.largest.max(bytes);
        let may_drop = self.may_drop(sojourn, behind, now);
        match std::mem::replace(&mut self.next, Next::Begin) {
            Next::AfterEntry => return false,
            Next::AfterDrop if may_drop => self.drop_next = self.law(self.drop_next),
            Next::AfterDrop => self.dropping = false,
            Next::Begin if self.dropping => self.dropping = may_drop,
            Next::Begin if may_drop => {
                self.enter(now);
                self.next = if marks { Next::Begin } else { Next::AfterEntry };
                return true;
            }
            Next::Begin => {}
        }
        if !self.dropping || now < self.drop_next {
            return false;
        }
        self.count += 1;
        if marks {
            self.drop_next = self.law(self.drop_next);
        } else {
            self.next = Next::AfterDrop;
        }
        true
    }

    /// RFC 8289, 5.3 `dodequeue`: waits have been above the target for an interval.
    fn may_drop(&mut self, sojourn: Duration, behind: u64, now: Instant) -> bool {
        if sojourn < self.params.target || behind <= self.largest {
            self.first_above = None;
            return false;
        }
        now >= *self.first_above.get_or_insert(now + self.params.interval)
    }

    /// RFC 8289, 5.3: enters the dropping state, at the rate of the last time if that was not long ago.
    fn enter(&mut self, now: Instant) {
        self.dropping = true;
        let delta = self.count - self.last_count;
        let recent = now.since(self.drop_next).as_nanos() < 16 * self.params.interval.as_nanos();
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.drop_next = self.law(now);
        self.last_count = self.count;
    }

    /// The control law: the interval over the square root of the number of drops.
    fn law(&self, from: Instant) -> Instant {
        let nanos = self.params.interval.as_nanos() as f64 / f64::from(self.count).sqrt();
        from + Duration::from_nanos(nanos as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn codel() -> CoDel {
        let (target, interval) = (Duration::from_millis(5), Duration::from_millis(100));
        CoDel::new(CoDelParams { target, interval, ecn: false })
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MS)
    }

    /// A head a millisecond that has always waited `sojourn` ms, in front of a long queue; when one was dropped.
    fn drops(codel: &mut CoDel, sojourn: u64, from: u64, until: u64, marks: bool) -> Vec<u64> {
        let mut drops = Vec::new();
        for ms in from..until {
            // After a drop the next head is asked for at once.
            while codel.hits(Duration::from_millis(sojourn), 1500, 90_000, marks, at(ms)) {
                drops.push(ms);
                if marks {
                    break;
                }
            }
        }
        drops
    }

    /// The first drop is an interval after the wait went above the target; then the gaps are 100, 100/√2, 100/√3 ... ms.
    #[test]
    fn drops_come_faster_by_the_inverse_square_root() {
        // By hand: 100, 200, 270.7, 328.4, 378.4, 423.1, 464.0, 501.8, each at the next millisecond.
        let expected = [100, 200, 271, 329, 379, 424, 464, 502];
        assert_eq!(drops(&mut codel(), 6, 0, 503, false), expected);
        assert_eq!(drops(&mut codel(), 6, 0, 503, true), expected, "marks come as drops would");
    }

    #[test]
    fn below_the_target_or_with_a_short_queue_nothing_is_dropped() {
        let mut codel = codel();
        assert!(drops(&mut codel, 4, 0, 1_000, false).is_empty());
        for ms in 0..1_000 {
            assert!(
                !codel.hits(Duration::from_millis(50), 1500, 1500, false, at(ms)),
                "one more packet waits"
            );
        }
    }

    #[test]
    fn one_short_wait_ends_the_dropping() {
        let mut codel = codel();
        assert_eq!(drops(&mut codel, 6, 0, 150, false), [100]);
        assert!(drops(&mut codel, 1, 150, 151, false).is_empty());
        assert_eq!(drops(&mut codel, 6, 151, 252, false), [251]);
    }

    /// It comes back soon at the rate it had: 8 drops, so that of 7 more than at its last entry.
    #[test]
    fn the_rate_is_remembered_for_a_while() {
        let mut codel = codel();
        assert_eq!(drops(&mut codel, 6, 0, 503, false).len(), 8);
        drops(&mut codel, 1, 503, 504, false);
        // Enters at 604 with a count of 7: the next after 100/√7 = 37.8 ms.
        assert_eq!(drops(&mut codel, 6, 504, 643, false), [604, 642]);
        drops(&mut codel, 1, 643, 644, false);
        assert_eq!(drops(&mut codel, 6, 10_000, 10_201, false), [10_100, 10_200], "and forgotten later");
    }
}
