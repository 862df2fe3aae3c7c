//! Sets of free ports, searched by words.

use std::ops::RangeInclusive;

/// Ports of one parity: half of all there are.
const HALF: usize = 1 << 15;
const WORDS: usize = HALF / 64;
const SUMMARIES: usize = WORDS / 64;

/// A set of ports.
#[derive(Debug, Clone)]
pub(super) struct Free {
    /// The even ones, the odd ones.
    halves: [Bits; 2],
}

/// A set of numbers below [`HALF`].
#[derive(Debug, Clone)]
struct Bits {
    words: Box<[u64; WORDS]>,
    /// A bit for each word that is not zero.
    summary: [u64; SUMMARIES],
}

impl Free {
    pub(super) fn new(range: &RangeInclusive<u16>) -> Self {
        let empty = Bits { words: Box::new([0; WORDS]), summary: [0; SUMMARIES] };
        let mut free = Self { halves: [empty.clone(), empty] };
        free.reset(range);
        free
    }

    /// These are free, and no others.
    pub(super) fn reset(&mut self, range: &RangeInclusive<u16>) {
        for half in &mut self.halves {
            half.words.fill(0);
            half.summary.fill(0);
        }
        for port in range.clone() {
            self.give(port);
        }
    }

    const fn half(port: u16) -> usize {
        (port & 1) as usize
    }

    pub(super) fn has(&self, port: u16) -> bool {
        self.halves[Self::half(port)].has(port >> 1)
    }

    pub(super) fn give(&mut self, port: u16) {
        self.halves[Self::half(port)].set(port >> 1);
    }

    pub(super) fn take(&mut self, port: u16) {
        self.halves[Self::half(port)].clear(port >> 1);
    }

    /// The first from `start` on, going round.
    pub(super) fn next(&self, start: u16) -> Option<u16> {
        let found = [self.next_of(start, 0), self.next_of(start, 1)];
        found.into_iter().flatten().min_by_key(|port| port.wrapping_sub(start))
    }

    /// The first of the parity of `like` from `start` on, going round.
    pub(super) fn next_alike(&self, start: u16, like: u16) -> Option<u16> {
        self.next_of(start, like & 1)
    }

    fn next_of(&self, start: u16, parity: u16) -> Option<u16> {
        // The first number of this parity that is not below `start`; after the last one comes the first.
        let from = (start >> 1) + (start & 1 & !parity);
        let found = self.halves[usize::from(parity)].next(usize::from(from) % HALF)?;
        Some(found << 1 | parity)
    }
}

impl Bits {
    fn has(&self, at: u16) -> bool {
        self.words[usize::from(at) / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, at: u16) {
        let word = usize::from(at) / 64;
        self.words[word] |= 1 << (at % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }

    fn clear(&mut self, at: u16) {
        let word = usize::from(at) / 64;
        self.words[word] &= !(1 << (at % 64));
        if self.words[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
    }

    /// The first from `start` on, going round; at most [`SUMMARIES`] + 2 words are looked at.
    fn next(&self, start: usize) -> Option<u16> {
        let here = self.words[start / 64] & u64::MAX << (start % 64);
        let first_of = |word: usize, bits: u64| (word * 64) as u16 + bits.trailing_zeros() as u16;
        if here != 0 {
            return Some(first_of(start / 64, here));
        }
        let after = (start / 64 + 1) % WORDS;
        let mut mask = u64::MAX << (after % 64);
        for step in 0..=SUMMARIES {
            let at = (after / 64 + step) % SUMMARIES;
            let words = self.summary[at] & mask;
            if words != 0 {
                let word = at * 64 + words.trailing_zeros() as usize;
                return Some(first_of(word, self.words[word]));
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few places, at the edges of words and of everything, so that they are met again.
    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0..6_u16, 60..70_u16, 126..132_u16, 8_190..8_196_u16, 65_530..=65_535_u16, any::<u16>()]
    }

    proptest! {
        /// As a sorted set finds it.
        #[test]
        fn the_next_is_the_next_of_a_set(given in proptest::collection::vec((port(), any::<bool>()), 0..60), start in port(), like: u16) {
            let mut free = Free::new(&(40_000..=40_010));
            let mut model: BTreeSet<u16> = (40_000..=40_010).collect();
            for (port, take) in given {
                if take {
                    free.take(port);
                    model.remove(&port);
                } else {
                    free.give(port);
                    model.insert(port);
                }
                prop_assert_eq!(free.has(port), model.contains(&port));
            }
            let next = |is: &dyn Fn(&u16) -> bool| {
                model.range(start..).chain(model.range(..start)).copied().find(|port| is(port))
            };
            prop_assert_eq!(free.next(start), next(&|_| true));
            prop_assert_eq!(free.next_alike(start, like), next(&|port| port % 2 == like % 2));
        }
    }
}
