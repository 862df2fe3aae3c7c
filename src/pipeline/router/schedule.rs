//! The events that wait for their time: a hierarchical timing wheel with exact order.
//!
//! Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987): insertion and removal cost the same
//! however many events wait. A wheel alone would round to its tick, so the entries of the current tick go through a
//! small heap. Entries leave in order of their due time to the nanosecond. If this is equal, they leave in order of
//! their rank; if this is equal too, in order of insertion.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pipeline::time::Instant;

/// A tick is 2^12 ns: about 4 us.
const TICK_BITS: u32 = 12;
const LEVEL_BITS: u32 = 8;
const SLOTS: usize = 1 << LEVEL_BITS;
/// 7 levels of 8 bits and the 12 bits of a tick cover all of 64 bits of time.
const LEVELS: usize = 7;
const NONE: u32 = u32::MAX;
/// Bits for an entry's order among those due at the same time; its rank is in the bits above them.
const SEQUENCE_BITS: u32 = 48;

/// Values ordered by due time.
#[derive(Debug)]
pub struct Schedule<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    length: usize,
    /// Everything due in this tick or before is in `current`.
    tick: u64,
    current: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    sequence: u64,
    levels: Box<[Level; LEVELS]>,
}

#[derive(Debug)]
struct Node<T> {
    due: Instant,
    next: u32,
    rank: u16,
    value: Option<T>,
}

#[derive(Debug)]
struct Level {
    occupied: [u64; SLOTS / 64],
    /// First and last node of each slot.
    slots: [(u32, u32); SLOTS],
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Schedule<T> {
    /// An empty schedule at time zero.
    pub fn new() -> Self {
        let level = || Level { occupied: [0; SLOTS / 64], slots: [(NONE, NONE); SLOTS] };
        Self {
            nodes: Vec::new(),
            free: NONE,
            length: 0,
            tick: 0,
            current: BinaryHeap::new(),
            sequence: 0,
            levels: Box::new(std::array::from_fn(|_| level())),
        }
    }

    /// How many values wait.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// True if nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds `value`, due at `due` (which may be in the past). Of the values that are due at the same time, the one
    /// with the lowest `rank` leaves first.
    pub fn insert(&mut self, due: Instant, rank: u16, value: T) {
        let id = self.take_node(due, rank, value);
        self.length += 1;
        self.place(id, due);
    }

    /// Removes and returns the first value due at or before `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, T)> {
        if self.length == 0 {
            return None;
        }
        loop {
            if let Some(&Reverse((due, _, id))) = self.current.peek() {
                if due > now {
                    return None;
                }
                self.current.pop();
                self.length -= 1;
                return Some((due, self.give_node(id)));
            }
            if !self.advance(now.as_nanos() >> TICK_BITS) {
                return None;
            }
        }
    }

    /// When to call `pop_due` next: a time before which it has nothing to return. The first value may be due a little
    /// later (by up to a tick, or a turn of the wheel).
    pub fn next_due(&self) -> Option<Instant> {
        if let Some(&Reverse((due, ..))) = self.current.peek() {
            return Some(due);
        }
        (0..LEVELS).find_map(|level| {
            let slot = self.levels[level].next_after(self.position(level))?;
            Some(Instant::from_nanos(self.start_of(level, slot) << TICK_BITS))
        })
    }

    /// Passes every waiting value with its due time and rank to `each`, which may change it in place; in no
    /// particular order. An entry that is due within the current tick keeps its order.
    pub fn change(&mut self, mut each: impl FnMut(Instant, &mut u16, &mut T)) {
        for node in &mut self.nodes {
            if let Some(value) = &mut node.value {
                each(node.due, &mut node.rank, value);
            }
        }
    }

    /// Everything that waits, in no particular order.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.current.clear();
        for level in self.levels.iter_mut() {
            level.occupied = [0; SLOTS / 64];
            level.slots = [(NONE, NONE); SLOTS];
        }
        self.length = 0;
        self.free = NONE;
        self.nodes.drain(..).filter_map(|node| node.value)
    }

    /// Bytes that each waiting value costs beside its own.
    pub const fn overhead() -> usize {
        size_of::<Node<T>>()
    }

    fn take_node(&mut self, due: Instant, rank: u16, value: T) -> u32 {
        let node = Node { due, next: NONE, rank, value: Some(value) };
        if self.free == NONE {
            if self.nodes.len() == self.nodes.capacity() {
                // Doubling the memory would leave up to half of it unused.
                self.nodes.reserve_exact((self.nodes.len() / 8).max(1024));
            }
            self.nodes.push(node);
            return (self.nodes.len() - 1) as u32;
        }
        let id = self.free;
        self.free = std::mem::replace(&mut self.nodes[id as usize], node).next;
        id
    }

    fn give_node(&mut self, id: u32) -> T {
        let node = &mut self.nodes[id as usize];
        node.next = std::mem::replace(&mut self.free, id);
        node.value.take().expect("a queued node holds a value")
    }

    /// Slot of level `level` in which the current tick lies.
    const fn position(&self, level: usize) -> usize {
        (self.tick >> (LEVEL_BITS * level as u32)) as usize & (SLOTS - 1)
    }

    /// First tick of a slot, later than the current one, in the current turn of its level.
    const fn start_of(&self, level: usize, slot: usize) -> u64 {
        let shift = LEVEL_BITS * level as u32;
        (self.tick >> shift & !(SLOTS as u64 - 1) | slot as u64) << shift
    }

    fn place(&mut self, id: u32, due: Instant) {
        let tick = due.as_nanos() >> TICK_BITS;
        if tick <= self.tick {
            let rank = u64::from(self.nodes[id as usize].rank);
            self.current.push(Reverse((due, rank << SEQUENCE_BITS | self.sequence, id)));
            self.sequence = (self.sequence + 1) & ((1 << SEQUENCE_BITS) - 1);
            return;
        }
        let level = ((tick ^ self.tick).ilog2() / LEVEL_BITS) as usize;
        let slot = (tick >> (LEVEL_BITS * level as u32)) as usize & (SLOTS - 1);
        let (first, last) = &mut self.levels[level].slots[slot];
        self.nodes[id as usize].next = NONE;
        if *last == NONE {
            *first = id;
        } else {
            self.nodes[*last as usize].next = id;
        }
        *last = id;
        self.levels[level].occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Advances to the next slot that holds something, not past tick `limit`, and spreads its entries; false if there
    /// is none.
    fn advance(&mut self, limit: u64) -> bool {
        for level in 0..LEVELS {
            let Some(slot) = self.levels[level].next_after(self.position(level)) else { continue };
            let start = self.start_of(level, slot);
            if start > limit {
                break;
            }
            self.tick = start;
            let mut id = self.levels[level].take(slot);
            while id != NONE {
                let Node { due, next, .. } = self.nodes[id as usize];
                self.place(id, due);
                id = next;
            }
            return true;
        }
        self.tick = self.tick.max(limit);
        false
    }
}

impl Level {
    fn next_after(&self, position: usize) -> Option<usize> {
        let (mut word, bit) = (position / 64, position % 64);
        // Two shifts: a single shift by 64 would overflow.
        let mut bits = self.occupied[word] & (u64::MAX << bit << 1);
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.occupied.get(word)?;
        }
    }

    fn take(&mut self, slot: usize) -> u32 {
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        std::mem::replace(&mut self.slots[slot], (NONE, NONE)).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::time::Duration;
    use proptest::prelude::*;

    #[test]
    fn equal_times_leave_in_order_of_arrival() {
        let mut schedule = Schedule::new();
        let due = Instant::from_nanos(123_456_789_012);
        for value in 0..100 {
            schedule.insert(due, 0, value);
            // Time goes on meanwhile, so that the entries start on different levels of the wheel.
            assert_eq!(schedule.pop_due(Instant::from_nanos(value * 1_000_000_000)), None);
        }
        let order: Vec<u64> = std::iter::from_fn(|| schedule.pop_due(due)).map(|(_, value)| value).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    proptest! {
        /// Against a sorted list, with time going on in between: same values, same order, never early.
        #[test]
        fn agrees_with_a_sorted_list(steps in proptest::collection::vec((0..40_u32, any::<u64>(), 0..30_u32, any::<u64>(), 0..3_u16), 1..200)) {
            let mut schedule = Schedule::new();
            let mut oracle: Vec<(Instant, u16, usize)> = Vec::new();
            let mut now = Instant::ZERO;
            for (value, &(delay_bits, delay, step_bits, step, rank)) in steps.iter().enumerate() {
                // Every third time is on a coarse grid, where times are often equal.
                let grid = if value % 3 == 0 { !0xffff } else { !0 };
                let due = Instant::from_nanos((now.as_nanos() + (delay & ((1 << delay_bits) - 1))) & grid).max(now);
                schedule.insert(due, rank, value);
                oracle.push((due, rank, value));
                now += Duration::from_nanos(step & ((1 << step_bits) - 1));
                oracle.sort();
                while let Some((due, value)) = schedule.pop_due(now) {
                    let (first, _, expected) = oracle.remove(0);
                    prop_assert_eq!((first, expected), (due, value));
                    prop_assert!(due <= now);
                }
                prop_assert!(oracle.first().is_none_or(|first| first.0 > now));
                prop_assert_eq!(schedule.len(), oracle.len());
                prop_assert_eq!(schedule.next_due().is_some(), !oracle.is_empty());
                if let (Some(at), Some(first)) = (schedule.next_due(), oracle.first()) {
                    prop_assert!(at <= first.0);
                }
            }
            while let Some(at) = schedule.next_due() {
                if let Some(next) = schedule.pop_due(at) {
                    let (first, _, expected) = oracle.remove(0);
                    prop_assert_eq!((first, expected), next);
                }
            }
            prop_assert!(oracle.is_empty());
        }
    }
}
