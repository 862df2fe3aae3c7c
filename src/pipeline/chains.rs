//! A hash index over the places of a table: bounded, without allocation, exact.

/// No place.
const NONE: u32 = u32::MAX;

/// The bits of a link that hold the place. The other bits are a part of the hash, so that a walk rarely loads an
/// entry that it does not look for: the entry is in another cache line.
const PLACE_BITS: u32 = 25;
const PLACE: u32 = (1 << PLACE_BITS) - 1;

/// The largest number of places.
const MOST: usize = PLACE as usize;

/// Finds places by a hash of their entries; the owner compares the entries themselves.
#[derive(Debug)]
pub(in crate::pipeline) struct Chains {
    heads: Vec<u32>,
    next: Vec<u32>,
    /// The place before each place in its chain; empty if entries are removed by walking from the head.
    before: Vec<u32>,
}

/// A link to `place`.
const fn link(hash: u64, place: u32) -> u32 {
    ((hash >> (32 + PLACE_BITS)) as u32) << PLACE_BITS | place
}

impl Chains {
    /// An index for places 0 to `capacity` - 1, each in it at most once.
    ///
    /// # Panics
    /// If there are more than 2^25 - 1.
    pub(in crate::pipeline) fn new(capacity: usize) -> Self {
        assert!(capacity <= MOST, "places have 25 bits");
        Self {
            heads: vec![NONE; capacity.next_power_of_two()],
            next: vec![NONE; capacity],
            before: Vec::new(),
        }
    }

    /// The same for keys that many places share: removing a place does not need to walk along the others.
    pub(in crate::pipeline) fn shared(capacity: usize) -> Self {
        Self { before: vec![NONE; capacity], ..Self::new(capacity) }
    }

    /// Forgets all.
    pub(in crate::pipeline) fn clear(&mut self) {
        self.heads.fill(NONE);
    }

    #[inline]
    fn head(&self, hash: u64) -> usize {
        (hash >> 8) as usize & (self.heads.len() - 1)
    }

    /// The first place with this `hash` for which `is` returns true.
    #[inline]
    pub(in crate::pipeline) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.heads[self.head(hash)];
        while at != NONE {
            let place = at & PLACE;
            if at == link(hash, place) && is(place) {
                return Some(place);
            }
            at = self.next[place as usize];
        }
        None
    }

    /// Adds `place`, which must not be there.
    pub(in crate::pipeline) fn insert(&mut self, hash: u64, place: u32) {
        let head = self.head(hash);
        let after = std::mem::replace(&mut self.heads[head], link(hash, place));
        self.next[place as usize] = after;
        if !self.before.is_empty() {
            self.before[place as usize] = NONE;
            self.set_before(after, place);
        }
    }

    /// Removes `place`, which was inserted with this hash.
    pub(in crate::pipeline) fn remove(&mut self, hash: u64, place: u32) {
        let (head, gone) = (self.head(hash), link(hash, place));
        let after = self.next[place as usize];
        if self.heads[head] == gone {
            self.heads[head] = after;
            self.set_before(after, NONE);
            return;
        }
        if let Some(&before) = self.before.get(place as usize) {
            self.next[before as usize] = after;
            self.set_before(after, before);
            return;
        }
        let mut at = self.heads[head];
        while at != NONE {
            let next = &mut self.next[(at & PLACE) as usize];
            if *next == gone {
                *next = after;
                return;
            }
            at = *next;
        }
    }

    fn set_before(&mut self, link: u32, before: u32) {
        if link != NONE && !self.before.is_empty() {
            self.before[(link & PLACE) as usize] = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a set does it, with hashes that collide.
        #[test]
        fn holds_what_was_inserted_and_not_removed(
            shared: bool, steps in proptest::collection::vec((0..16_u32, 0..4_u64), 0..200),
        ) {
            let mut chains = if shared { Chains::shared(16) } else { Chains::new(16) };
            let mut model: BTreeSet<(u32, u64)> = BTreeSet::new();
            for (place, hash) in steps {
                let hash = hash << 8;
                let known = model.iter().find(|known| known.0 == place).copied();
                if let Some((_, old)) = known {
                    chains.remove(old, place);
                    model.remove(&(place, old));
                } else {
                    chains.insert(hash, place);
                    model.insert((place, hash));
                }
                for place in 0..16 {
                    for hash in (0..4_u64).map(|hash| hash << 8) {
                        let found = chains.find(hash, |found| found == place).is_some();
                        prop_assert_eq!(found, model.contains(&(place, hash)));
                    }
                }
            }
        }
    }
}
