//! When each session may have expired, so that expired ones are found without looking at all sessions.
//!
//! A session is in a slot of the ring of its timeout, by the time at which it expires if it is not used before. When
//! the slot's time has passed, the table checks each session of the slot once: it has expired, or it was used and is
//! put into another slot. Using a session costs nothing here.

use crate::pipeline::nat::session::{CLASSES, Tick};

const NONE: u32 = u32::MAX;

/// Slots of a ring. A timeout spans at most half of them.
const SLOTS: u32 = 256;

/// Slots of one timeout.
#[derive(Debug)]
struct Ring {
    /// A slot is 2^shift ticks.
    shift: u32,
    /// Start of the first slot that has not been emptied.
    at: Tick,
    heads: [u32; SLOTS as usize],
}

/// The place of a session among those of its slot.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
    class: u8,
    slot: u8,
}

/// Sessions by when they may expire.
#[derive(Debug)]
pub(super) struct Expiry {
    rings: [Ring; CLASSES],
    links: Vec<Link>,
    /// Sessions whose slot's time has passed; they are to be checked.
    ripe: u32,
}

impl Ring {
    const fn new(timeout: u32) -> Self {
        let mut shift = 0;
        while ((SLOTS / 2 - 1) as u64) << shift < timeout as u64 {
            shift += 1;
        }
        Self { shift, at: Tick::ZERO, heads: [NONE; SLOTS as usize] }
    }

    const fn slot(&self, at: Tick) -> usize {
        (at.0 >> self.shift & (SLOTS - 1)) as usize
    }

    /// Ticks by which the end of the first slot has passed; negative if it has not.
    const fn behind(&self, now: Tick) -> i32 {
        now.since(self.at).wrapping_sub(1 << self.shift).cast_signed()
    }

    /// Takes the first slot if its time has passed: its first session, or [`NONE`].
    fn pass(&mut self, now: Tick) -> Option<u32> {
        let behind = self.behind(now);
        if behind < 0 {
            return None;
        }
        // After a long silence every slot is taken once only.
        if behind as u32 >> self.shift >= SLOTS {
            self.at = Tick((now.0 >> self.shift).wrapping_sub(SLOTS) << self.shift);
        }
        let slot = self.slot(self.at);
        self.at = Tick(self.at.0.wrapping_add(1 << self.shift));
        Some(std::mem::replace(&mut self.heads[slot], NONE))
    }
}

impl Expiry {
    /// For `sessions` places, and these timeouts in ticks.
    pub(super) fn new(sessions: usize, timeouts: [u32; CLASSES]) -> Self {
        Self {
            rings: timeouts.map(Ring::new),
            links: vec![Link { before: NONE, after: NONE, class: 0, slot: 0 }; sessions],
            ripe: NONE,
        }
    }

    /// Adds a session that expires at `due` if nothing happens.
    pub(super) fn insert(&mut self, place: u32, class: usize, due: Tick) {
        let ring = &mut self.rings[class];
        let slot = ring.slot(due);
        let after = std::mem::replace(&mut ring.heads[slot], place);
        self.links[place as usize] = Link { before: NONE, after, class: class as u8, slot: slot as u8 };
        if after != NONE {
            self.links[after as usize].before = place;
        }
    }

    /// Removes a session that was inserted.
    pub(super) fn remove(&mut self, place: u32) {
        let Link { before, after, class, slot } = self.links[place as usize];
        if after != NONE {
            self.links[after as usize].before = before;
        }
        let head = &mut self.rings[usize::from(class)].heads[usize::from(slot)];
        if before != NONE {
            self.links[before as usize].after = after;
        } else if *head == place {
            *head = after;
        } else {
            self.ripe = after;
        }
    }

    /// Returns a session that may have expired, which the caller must remove or insert again. Takes one from `steps`
    /// for it, and one for each slot that had a session. Empty slots are free: after a silence there are many of
    /// them, at most all slots of all rings, and each is passed once.
    /// each slot in which there was one. Empty slots are free: after a silence there are many of them, at most all slots of
    /// all rings, and each is passed once.
    pub(super) fn next(&mut self, now: Tick, steps: &mut u32) -> Option<u32> {
        while self.ripe == NONE && *steps > 0 {
            self.ripe = self.rings.iter_mut().find_map(|ring| ring.pass(now))?;
            *steps -= u32::from(self.ripe != NONE);
        }
        if self.ripe == NONE || *steps == 0 {
            return None;
        }
        *steps -= 1;
        Some(self.ripe)
    }

    /// Ticks until [`Self::next`] has a session to check; 0 if it has one now.
    pub(super) fn wait(&self, now: Tick) -> u32 {
        if self.ripe != NONE {
            return 0;
        }
        let wait = |ring: &Ring| if ring.behind(now) < 0 { ring.behind(now).unsigned_abs() } else { 0 };
        self.rings.iter().map(wait).min().unwrap_or(0)
    }

    /// The first session of the slot of ring `class` whose time is now. This session or later ones of the slot
    /// ([`Self::after`]) may have expired.
    /// [`Self::after`] says.
    pub(super) fn now(&self, class: usize, now: Tick) -> Option<u32> {
        let ring = &self.rings[class];
        Some(ring.heads[ring.slot(now)]).filter(|place| *place != NONE)
    }

    /// The next session in the same slot.
    pub(super) fn after(&self, place: u32) -> Option<u32> {
        Some(self.links[place as usize].after).filter(|after| *after != NONE)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        for ring in &mut self.rings {
            ring.heads.fill(NONE);
        }
        self.ripe = NONE;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const PLACES: u32 = 32;

    proptest! {
        /// What has expired is offered at the latest one slot after, and nothing is lost or offered twice, also where ticks
        /// wrap and after long silence.
        #[test]
        fn nothing_stays_longer_than_a_slot(
            start: u32, timeouts in proptest::array::uniform6(1..5_000_u32),
            steps in proptest::collection::vec((0..PLACES, 0..CLASSES, 0..10_u32, prop_oneof![0..50_u32, 0..20_000_u32]), 1..200),
        ) {
            let mut expiry = Expiry::new(PLACES as usize, timeouts);
            let mut model: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
            let mut now = start;
            // Time does not jump by half the circle.
            for at in [start / 3, start / 3 * 2, start] {
                prop_assert_eq!(expiry.next(Tick(at), &mut 10_000), None);
            }
            for (place, class, part, wait) in steps {
                now = now.wrapping_add(wait);
                let mut budget = 10_000;
                while let Some(place) = expiry.next(Tick(now), &mut budget) {
                    let (class, due) = model[&place];
                    expiry.remove(place);
                    if now.wrapping_sub(due).cast_signed() < 0 {
                        expiry.insert(place, class, Tick(due));
                    } else {
                        model.remove(&place);
                    }
                }
                prop_assert!(budget > 0 && expiry.wait(Tick(now)) > 0);
                for (class, due) in model.values() {
                    let late = now.wrapping_sub(*due).cast_signed();
                    prop_assert!(late < timeouts[*class].div_ceil(63) as i32 + 1, "{late} of {}", timeouts[*class]);
                }
                if model.remove(&place).is_some() {
                    expiry.remove(place);
                } else {
                    let due = now.wrapping_add(timeouts[class] * part / 10 + 1);
                    expiry.insert(place, class, Tick(due));
                    model.insert(place, (class, due));
                }
            }
        }
    }
}
