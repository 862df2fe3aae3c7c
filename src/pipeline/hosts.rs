//! What a stage remembers about each host, shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number and a time for each of a bounded set of hosts, written by all workers.
///
/// The number and the time are written one after the other: a worker that reads in between sees the new number with
/// the old time. The error is the time between two FINs of one host.
#[derive(Debug)]
pub struct Hosts(Box<[[Host; Self::WAYS]]>);

/// One place; key 0 is empty.
#[derive(Debug, Default)]
struct Host {
    key: AtomicU64,
    number: AtomicU64,
    at: AtomicU64,
}

impl Default for Hosts {
    fn default() -> Self {
        Self((0..Self::CAPACITY / Self::WAYS).map(|_| std::array::from_fn(|_| Host::default())).collect())
    }
}

impl Hosts {
    /// The largest number of hosts that are remembered.
    pub const CAPACITY: usize = 4_096;
    const WAYS: usize = 8;

    /// Spreads keys (the output function of `SplitMix64`).
    pub const fn mix(key: u64) -> u64 {
        let key = (key ^ (key >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let key = (key ^ (key >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        key ^ (key >> 31)
    }

    fn set(&self, key: u64) -> &[Host; Self::WAYS] {
        &self.0[Self::mix(key) as usize % self.0.len()]
    }

    /// Number and time of the host `key`, which is not 0.
    pub fn find(&self, key: u64) -> Option<(u32, u64)> {
        let host = self.set(key).iter().find(|host| host.key.load(Ordering::Acquire) == key)?;
        Some((host.number.load(Ordering::Acquire) as u32, host.at.load(Ordering::Acquire)))
    }

    /// Remembers `number` and the time `at` for the host `key`, which is not 0. If its set is full, the host that was
    /// silent longest is forgotten.
    pub fn put(&self, key: u64, number: u32, at: u64) {
        let set = self.set(key);
        let known = set.iter().find(|host| host.key.load(Ordering::Acquire) == key);
        let place = known.unwrap_or_else(|| {
            let age = |host: &&Host| {
                let empty = host.key.load(Ordering::Acquire) == 0;
                (!empty, host.at.load(Ordering::Acquire))
            };
            let oldest = set.iter().min_by_key(age).unwrap_or(&set[0]);
            // No other worker may find an entry while it is being written.
            oldest.key.store(0, Ordering::Release);
            oldest
        });
        place.number.store(number.into(), Ordering::Release);
        place.at.store(at, Ordering::Release);
        place.key.store(key, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_forgets_the_host_that_was_silent_longest() {
        let hosts = Hosts::default();
        let place = |key: u64| std::ptr::from_ref(hosts.set(key));
        let mut same: Vec<u64> = (1..200_000).filter(|&key| place(key) == place(1)).take(9).collect();
        let last = same.pop().unwrap();
        for (at, &key) in same.iter().enumerate() {
            hosts.put(key, key as u32, 10 + at as u64);
        }
        hosts.put(same[0], 77, 100);
        hosts.put(last, 99, 101);
        assert_eq!(hosts.find(same[0]), Some((77, 100)));
        assert_eq!(hosts.find(same[1]), None);
        assert_eq!(hosts.find(last), Some((99, 101)));
        assert_eq!(hosts.find(same[7]), Some((same[7] as u32, 17)));
    }
}
