//! Histograms of how long packets took: log-linear, so that times from nanoseconds to an hour have the same relative precision.
//!
//! A worker records into plain numbers of its own: no lock, no atomic, and no allocation but when a longer time than ever before
//! comes. A report takes a copy of the part that is in use.

/// Times that differ by less than 2^6 = 64 ns are not distinguished.
const UNIT_BITS: u32 = 6;
/// Each power of two has 2^5 buckets: a bucket is at most 1/32 of its times wide.
const SUB_BITS: u32 = 5;
/// Longer times, above 73 minutes, are counted in this bucket; the longest time itself is kept exactly.
const LONGEST_UNIT: u64 = (1 << 36) - 1;
/// Buckets that are added at once.
const GROWTH: usize = 64;

/// The bucket of a time in nanoseconds. A bucket has the times above the end of the one before it up to its own [`end`].
#[inline]
fn bucket(nanos: u64) -> usize {
    let unit = (nanos.saturating_sub(1) >> UNIT_BITS).min(LONGEST_UNIT);
    let shift = (unit | 1).ilog2().saturating_sub(SUB_BITS);
    ((shift as usize) << SUB_BITS) + (unit >> shift) as usize
}

/// The longest time of a bucket, in nanoseconds.
fn end(bucket: usize) -> u64 {
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    ((bucket - (shift << SUB_BITS) + 1) as u64) << (shift + UNIT_BITS as usize)
}

/// The histogram that a worker writes.
#[derive(Debug)]
pub(super) struct Times {
    counts: Vec<u64>,
    /// The sum of all times, in nanoseconds.
    sum: u128,
    least: u64,
    most: u64,
}

impl Times {
    const fn new() -> Self {
        Self { counts: Vec::new(), sum: 0, least: u64::MAX, most: 0 }
    }

    /// Counts a time in nanoseconds so many times.
    #[inline]
    pub(super) fn record(&mut self, nanos: u64, times: u32) {
        let bucket = bucket(nanos);
        if bucket >= self.counts.len() {
            self.grow(bucket);
        }
        self.counts[bucket] += u64::from(times);
        self.sum += u128::from(nanos) * u128::from(times);
        self.least = self.least.min(nanos);
        self.most = self.most.max(nanos);
    }

    #[cold]
    fn grow(&mut self, bucket: usize) {
        self.counts.resize((bucket + 1).next_multiple_of(GROWTH), 0);
    }

    /// A copy of the counts.
    fn spread(&self) -> Spread {
        if self.least > self.most {
            return Spread::default();
        }
        let (first, last) = (bucket(self.least), bucket(self.most));
        let counts = self.counts[first..=last].to_vec();
        Spread { first, counts, sum: self.sum, least: self.least, most: self.most }
    }
}

/// How long the packets of one path took.
#[derive(Debug)]
pub(super) struct PathTimes {
    /// From the arrival of a packet until it left.
    pub(super) delay: Times,
    /// From the due time of a packet that waited until it left.
    pub(super) lateness: Times,
}

/// The times of a worker's paths.
#[derive(Debug, Default)]
pub(super) struct AllTimes(Vec<Option<Box<PathTimes>>>);

impl AllTimes {
    /// The times of a path.
    #[inline]
    pub(super) fn of(&mut self, path: u16) -> &mut PathTimes {
        let at = usize::from(path);
        if self.0.get(at).is_none_or(Option::is_none) {
            self.add(at);
        }
        self.0[at].as_mut().expect("it is there, or was just added")
    }

    /// Adds the times of a path, with its first packet.
    #[cold]
    fn add(&mut self, at: usize) {
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(Box::new(PathTimes { delay: Times::new(), lateness: Times::new() }));
    }

    /// Copies of a path's delay and lateness.
    pub(super) fn spreads(&self, path: usize) -> [Spread; 2] {
        let times = self.0.get(path).and_then(Option::as_deref);
        times.map_or_else(Default::default, |times| [times.delay.spread(), times.lateness.spread()])
    }
}

/// A distribution of times: a histogram to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Number of the first bucket.
    first: usize,
    /// Empty if nothing was counted.
    counts: Vec<u64>,
    sum: u128,
    least: u64,
    most: u64,
}

impl Spread {
    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all times, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / 1e9
    }

    /// The longest time, in nanoseconds; 0 if there is none.
    pub const fn max(&self) -> u64 {
        self.most
    }

    /// The time that this share (0 to 1) of all times does not exceed, in nanoseconds and exact to 1/64; 0 if there
    /// are no times.
    pub fn quantile(&self, part: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a count is no larger than it, and not negative"
        )]
        let wanted = ((self.count() as f64 * part).ceil() as u64).max(1);
        if wanted >= self.count() {
            return self.most;
        }
        let mut before = 0;
        let reaches = |count: &u64| {
            before += count;
            before >= wanted
        };
        self.counts.iter().position(reaches).map_or(0, |at| {
            let bucket = self.first + at;
            let start = bucket.checked_sub(1).map_or(0, end);
            u64::midpoint(start, end(bucket)).clamp(self.least, self.most)
        })
    }

    /// How many times are not longer than 2^`bits` ns, for `bits` of at least 6.
    pub fn count_to(&self, bits: u32) -> u64 {
        let buckets = bucket(1 << bits) + 1;
        self.counts.iter().take(buckets.saturating_sub(self.first)).sum()
    }

    /// Adds what another worker counted.
    pub(super) fn add(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            *self = other.clone();
            return;
        }
        let first = self.first.min(other.first);
        let last = (self.first + self.counts.len()).max(other.first + other.counts.len());
        let mut counts = vec![0; last - first];
        for spread in [&*self, other] {
            let own = counts[spread.first - first..].iter_mut().zip(&spread.counts);
            own.for_each(|(sum, count)| *sum += count);
        }
        self.sum += other.sum;
        (self.first, self.counts) = (first, counts);
        (self.least, self.most) = (self.least.min(other.least), self.most.max(other.most));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(times: &[u64]) -> Spread {
        let mut all = Times::new();
        for nanos in times {
            all.record(*nanos, 1);
        }
        all.spread()
    }

    /// Each time is in one bucket, buckets follow each other without a gap, and none is wider than a 32nd of its times.
    #[test]
    fn buckets_have_no_gap_and_the_same_precision() {
        assert_eq!([0, 1, 64, 65, 128].map(bucket), [0, 0, 0, 1, 1]);
        let last = bucket(u64::MAX);
        assert!(last < 1_024);
        for at in 0..last {
            assert_eq!((bucket(end(at)), bucket(end(at) + 1)), (at, at + 1), "{at}");
            let start = at.checked_sub(1).map_or(0, end);
            let width = end(at) - start;
            assert!(width == 64 || 32 * width <= start, "{at}: {start} to {}", end(at));
        }
    }

    #[test]
    fn nothing_has_no_times() {
        let none = of(&[]);
        assert_eq!((none.count(), none.max(), none.quantile(0.5), none.count_to(35)), (0, 0, 0, 0));
        let mut sum = none.clone();
        sum.add(&none);
        assert_eq!(sum, none);
    }

    #[test]
    fn a_train_counts_as_its_wire_packets_and_the_longest_time_is_exact() {
        let mut times = Times::new();
        times.record(50_000_123, 44);
        times.record(u64::MAX, 1);
        let spread = times.spread();
        assert_eq!((spread.count(), spread.max()), (45, u64::MAX));
        assert_eq!(spread.quantile(1.0), u64::MAX);
        // Nothing shorter came.
        assert!((50_000_123..50_900_000).contains(&spread.quantile(0.5)));
        assert_eq!([25, 26, 63].map(|bits| spread.count_to(bits)), [0, 44, 45]);
    }

    proptest! {
        /// Against all times, sorted.
        #[test]
        fn quantiles_are_exact_to_a_64th(
            mut times in proptest::collection::vec(0..4_000_000_000_000_u64, 1..200), part in 0.0..=1.0_f64,
        ) {
            let told = of(&times).quantile(part);
            times.sort_unstable();
            let place = ((times.len() as f64 * part).ceil() as usize).max(1) - 1;
            let exact = times[place];
            prop_assert!(told.abs_diff(exact) <= 32 + exact / 64, "{} for {}", told, exact);
        }

        /// Whichever worker counted what.
        #[test]
        fn sums_are_as_if_one_had_counted(
            mine in proptest::collection::vec(0..4_000_000_000_u64, 0..50),
            theirs in proptest::collection::vec(0..4_000_000_000_u64, 0..50),
        ) {
            let mut sum = of(&mine);
            sum.add(&of(&theirs));
            prop_assert_eq!(&sum, &of(&[&mine[..], &theirs].concat()));
        }

        #[test]
        fn counts_to_a_bound_are_exact(times in proptest::collection::vec(0..1_u64 << 40, 0..50), bits in 6..36_u32) {
            let exact = times.iter().filter(|nanos| **nanos <= 1 << bits).count() as u64;
            prop_assert_eq!(of(&times).count_to(bits), exact);
        }
    }
}
