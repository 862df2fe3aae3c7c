//! The ordinal of a connection among those to its service: counters that the workers of a router share.
//!
//! A bounded table of atomic counters, one for each service, which is only touched when a connection is new. The
//! order of arrival decides: if two workers see two connections at the same moment, the worker that reaches the
//! counter first has the earlier one. Nothing is ever forgotten: if the eight places for a service's hash are taken,
//! the service shares the counter of another service.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::time::{Duration, Instant};

/// If two connections to one service follow each other within less than this time, their order may differ in the next
/// run.
pub const CLOSE: Duration = Duration::from_millis(1);

/// The counters.
#[derive(Debug)]
pub struct Ordinals(Box<[[Counter; Self::WAYS]]>);

/// One service's counter; key 0 is empty.
#[derive(Debug, Default)]
struct Counter {
    key: AtomicU64,
    next: AtomicU64,
    /// When the last number was given out, in nanoseconds.
    last: AtomicU64,
}

/// The number of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordinal {
    /// How many connections the counter had before this one.
    pub number: u64,
    /// The connection before it came less than [`CLOSE`] earlier.
    pub is_close: bool,
    /// The counter is shared with another service, because the table is full.
    pub is_shared: bool,
}

impl Default for Ordinals {
    fn default() -> Self {
        Self((0..Self::SERVICES / Self::WAYS).map(|_| std::array::from_fn(|_| Counter::default())).collect())
    }
}

impl Ordinals {
    /// The largest number of services with a counter of their own.
    pub const SERVICES: usize = 8_192;
    const WAYS: usize = 8;

    /// The next number of the service `key`, a hash.
    pub fn next(&self, key: u64, now: Instant) -> Ordinal {
        let key = key.max(1);
        let set = &self.0[key as usize % self.0.len()];
        // If another worker takes the place in the meantime, the place has that worker's key.
        let is_mine = |counter: &&Counter| {
            let taken = counter.key.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire);
            taken.map_or_else(|holder| holder == key, |_| true)
        };
        let own = set.iter().find(is_mine);
        let counter = own.unwrap_or(&set[(key >> 32) as usize % Self::WAYS]);
        let number = counter.next.fetch_add(1, Ordering::AcqRel);
        let before = counter.last.swap(now.as_nanos(), Ordering::AcqRel);
        let is_close = number > 0 && now.as_nanos().abs_diff(before) < CLOSE.as_nanos();
        Ordinal { number, is_close, is_shared: own.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn number(ordinals: &Ordinals, key: u64) -> u64 {
        ordinals.next(key, Instant::ZERO).number
    }

    #[test]
    fn each_service_counts_for_itself() {
        let ordinals = Ordinals::default();
        let numbers = [7, 7, 9, 7, 9, 0, 0].map(|key| number(&ordinals, key));
        assert_eq!(numbers, [0, 1, 0, 2, 1, 0, 1]);
    }

    /// Two workers that race get different numbers, with none left out.
    #[test]
    fn no_number_is_given_twice() {
        let ordinals = Ordinals::default();
        let mut seen = BTreeSet::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).map(|_| number(&ordinals, 5)).collect::<Vec<_>>()))
                .collect();
            for worker in workers {
                seen.extend(worker.join().unwrap());
            }
        });
        assert!(seen.into_iter().eq(0..40_000));
    }

    #[test]
    fn a_service_without_room_shares_a_counter_and_says_so() {
        let ordinals = Ordinals::default();
        let step = (Ordinals::SERVICES / Ordinals::WAYS) as u64;
        let same_set = |n: u64| 1 + n * step;
        for service in 0..Ordinals::WAYS as u64 {
            assert_eq!(ordinals.next(same_set(service), Instant::ZERO).number, 0);
        }
        let beyond = ordinals.next(same_set(8), Instant::ZERO);
        assert_eq!((beyond.number, beyond.is_shared), (1, true));
        assert!(!ordinals.next(same_set(7), Instant::ZERO).is_shared);
    }

    #[test]
    fn connections_in_quick_succession_are_told() {
        let ordinals = Ordinals::default();
        let close = |nanos| ordinals.next(3, Instant::from_nanos(nanos)).is_close;
        assert_eq!([0, 999_999, 1_999_999, 2_999_998].map(close), [false, true, false, true]);
    }
}
