//! Loss by a list of numbers.

/// A set of numbers from 1 on, as ranges that do not touch each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers {
    /// First and last of each, rising.
    ranges: Vec<(u64, u64)>,
}

/// Why a range cannot follow the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoNumbers {
    /// Packets are counted from 1.
    #[error("is 0: packets are counted from 1")]
    Zero,
    /// It ends before it begins.
    #[error("ends before it begins")]
    Reversed,
    /// It is not behind the one before it, which ends with this number.
    #[error("is not above {0}, which stands before it")]
    NotRising(u64),
}

impl Numbers {
    /// Adds `first` to `last`.
    ///
    /// # Errors
    /// If the range is empty, contains 0, or does not lie above the numbers so far.
    pub fn push(&mut self, first: u64, last: u64) -> Result<(), NoNumbers> {
        if first == 0 {
            return Err(NoNumbers::Zero);
        }
        if last < first {
            return Err(NoNumbers::Reversed);
        }
        match self.ranges.last_mut() {
            Some((_, before)) if first <= *before => return Err(NoNumbers::NotRising(*before)),
            Some((_, before)) if first == *before + 1 => *before = last,
            _ => self.ranges.push((first, last)),
        }
        Ok(())
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.ranges
            .iter()
            .fold(0, |sum: u64, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The first, and the last.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.ranges.first()?.0, self.ranges.last()?.1))
    }

    /// How many numbers from `next` on, `limit` at most, are all in the set or all not, and whether they are.
    #[inline]
    pub fn run(&self, next: u64, limit: u32) -> (u32, bool) {
        let at = self.ranges.partition_point(|range| range.1 < next);
        let within = |numbers: u64| numbers.min(limit.into()) as u32;
        match self.ranges.get(at) {
            None => (limit, false),
            Some(&(first, _)) if next < first => (within(first - next), false),
            Some(&(_, last)) => (within((last - next).saturating_add(1)), true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ranges: &[(u64, u64)]) -> Numbers {
        let mut numbers = Numbers::default();
        for &(first, last) in ranges {
            numbers.push(first, last).unwrap();
        }
        numbers
    }

    #[test]
    fn a_run_ends_where_the_next_number_fares_otherwise() {
        let list = numbers(&[(2, 2), (5, 9), (10, 12), (u64::MAX, u64::MAX)]);
        assert_eq!((list.count(), list.bounds()), (10, Some((2, u64::MAX))));
        let runs = [1, 2, 3, 5, 8, 12, 13].map(|next| list.run(next, 6));
        let expected = [(1, false), (1, true), (2, false), (6, true), (5, true), (1, true), (6, false)];
        assert_eq!(runs, expected);
        assert_eq!(list.run(u64::MAX, 1), (1, true));
        assert_eq!(Numbers::default().run(1, 9), (9, false));
        assert_eq!(numbers(&[(1, u64::MAX)]).run(1, 9), (9, true));
    }

    #[test]
    fn what_does_not_rise_is_refused() {
        let refused = |first, last| numbers(&[(5, 9)]).push(first, last).unwrap_err();
        assert_eq!(refused(0, 3), NoNumbers::Zero);
        assert_eq!(refused(12, 11), NoNumbers::Reversed);
        assert_eq!((refused(9, 9), refused(3, 4)), (NoNumbers::NotRising(9), NoNumbers::NotRising(9)));
    }
}
