//! The flow cache as the kernel's programs see it: which flows they let pass, and how many packets.
//!
//! A table of flows of all directions (two of an attachment, one for each veth port), in sets of [`WAYS`]. An entry is [`WORDS`]
//! words of 64 bits: the flow's key, a state that the programs change by atomic operations, and how much may pass (`struct flow`
//! of `wire.c`). The programs only look entries up; the worker assigns entries to flows and frees them.
//!
//! The state has, from its lowest bit: 36 bits of wire packets that have passed since the entry was opened, 12 bits that
//! number the openings, and 16 bits of detours: packets or trains of the flow that were sent to faultwire and that it has not
//! acknowledged. While the detours are not zero, all packets of the flow are detoured, so that no packet overtakes those that
//! wait in the TAP. The worker closes an entry by adding a detour for which there is no packet. The programs stop counting well below the
//! maximum of 16 bits, so that this never makes the count 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf::memory::Memory;
use crate::pipeline::wire::{FlowKey, Version};

/// Entries of a set.
pub(crate) const WAYS: usize = 8;
/// Words of an entry.
pub(super) const WORDS: usize = 8;
/// Words between the counts of frames that came back, one for each direction.
pub(super) const RETURNED_WORDS: usize = 8;

/// Words of a flow's key in an entry.
const KEY: usize = 5;
const STATE: usize = 5;
const BYTES: usize = 6;
const ROOM: usize = 7;

const PASSED_BITS: u32 = 36;
const OPENING_BITS: u32 = 12;
/// More than the longest packet of IPv6 without the option for jumbograms (65,575 bytes).
const LONGEST_BITS: u32 = 17;
const DEVICE_BITS: u32 = 11;
const ROOM_SHIFT: u32 = LONGEST_BITS + DEVICE_BITS;
/// One detour.
const DETOUR: u64 = 1 << (PASSED_BITS + OPENING_BITS);
/// The highest index of a device by which a flow can leave.
pub(crate) const DEVICE_MAX: u32 = (1 << DEVICE_BITS) - 1;
/// The maximum number of packets that may pass between two openings.
const MOST: u64 = 1 << (PASSED_BITS - 1);

/// The table of the flows of an attachment or of veth ports, and the number of frames written by faultwire that have passed the hooks.
#[derive(Debug, Clone)]
pub struct FlowTable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    flows: Memory,
    returned: Memory,
    /// For each entry, one more than the last sequence number of TCP data. Present if data that is sent again is
    /// detoured.
    ends: Option<Memory>,
    sets: usize,
    seed: u64,
}

/// The parts of a state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    /// Wire packets that have passed since the entry was opened.
    pub(crate) const fn passed(self) -> u64 {
        self.0 & ((1 << PASSED_BITS) - 1)
    }

    /// Detours that were not acknowledged.
    pub(crate) const fn detours(self) -> u64 {
        self.0 / DETOUR
    }

    /// The state of the next opening, with nothing passed.
    const fn next(self, detours: u64) -> Self {
        let opening = ((self.0 >> PASSED_BITS) + 1) & ((1 << OPENING_BITS) - 1);
        Self((detours * DETOUR) | (opening << PASSED_BITS))
    }
}

/// The words of a key as the programs compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyWords([u64; KEY]);

impl KeyWords {
    /// The words for a flow that the hook of `direction` sees.
    pub(crate) fn of(key: &FlowKey, direction: usize) -> Self {
        let (version, mut words) = (key.version(), [0; KEY]);
        for (at, host) in [(0, key.source_host()), (2, key.destination_host())] {
            let mut bytes = [0; 16];
            let address = host.bytes(version);
            bytes[..address.len()].copy_from_slice(address);
            let word = |from: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[from + byte]));
            (words[at], words[at + 1]) = (word(0), word(8));
        }
        let ports =
            u64::from(key.source_port().swap_bytes()) | u64::from(key.destination_port().swap_bytes()) << 16;
        let version: u64 = if version == Version::V4 { 4 } else { 6 };
        words[4] = ports | u64::from(key.protocol()) << 32 | version << 40 | (direction as u64) << 48;
        Self(words)
    }

    /// The same hash as in `find_flow` of `wire.c`.
    fn hash(self, seed: u64) -> u64 {
        let fold = |hash: u64, word: u64| {
            let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ hash >> 32
        };
        self.0.into_iter().fold(seed, fold)
    }
}

impl FlowTable {
    /// A table of `sets` sets (a power of two) in these maps.
    pub(super) fn new(flows: Memory, returned: Memory, ends: Option<Memory>, sets: usize, seed: u64) -> Self {
        Self(Arc::new(Shared { flows, returned, ends, sets, seed }))
    }

    /// The number of entries.
    pub(crate) fn entries(&self) -> usize {
        self.0.sets * WAYS
    }

    /// The number of frames written by faultwire that have passed the hook of a direction.
    pub(crate) fn returned(&self, direction: usize) -> u64 {
        self.0.returned[direction * RETURNED_WORDS].load(Ordering::Acquire)
    }

    /// The first entry of the set of a key.
    pub(crate) fn set(&self, key: KeyWords) -> usize {
        (key.hash(self.0.seed) as u32 as usize & (self.0.sets - 1)) * WAYS
    }

    /// Whether TCP data that is sent again is detoured to faultwire.
    pub(crate) fn follows(&self) -> bool {
        self.0.ends.is_some()
    }

    /// One more than the last sequence number of TCP data that passed by the entry; `None` if this is not tracked.
    pub(crate) fn end(&self, entry: usize) -> Option<u32> {
        self.0.ends.as_ref().map(|ends| ends[entry].load(Ordering::Acquire) as u32)
    }

    /// Tells the programs where the data ends that did not pass by a closed entry, before the entry is opened.
    pub(crate) fn set_end(&self, entry: usize, end: u32) {
        if let Some(ends) = &self.0.ends {
            ends[entry].store(end.into(), Ordering::Release);
        }
    }

    /// An entry.
    pub(crate) fn entry(&self, number: usize) -> Entry<'_> {
        Entry(&self.0.flows[number * WORDS..][..WORDS])
    }
}

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a>(&'a [AtomicU64]);

impl Entry<'_> {
    pub(crate) fn state(self) -> State {
        State(self.0[STATE].load(Ordering::Acquire))
    }

    /// Bytes of the IP packets that have ever passed.
    pub(crate) fn bytes(self) -> u64 {
        self.0[BYTES].load(Ordering::Acquire)
    }

    /// Closes the entry: all packets of the flow are detoured from now on.
    pub(crate) fn close(self) {
        self.0[STATE].fetch_add(DETOUR, Ordering::AcqRel);
    }

    /// Acknowledges detours of a closed entry, no more than it has.
    pub(crate) fn acknowledge(self, detours: u64) {
        self.0[STATE].fetch_sub(detours * DETOUR, Ordering::AcqRel);
    }

    /// Gives the entry, which is closed or has never been open, to a flow; it is closed then.
    pub(crate) fn give(self, key: KeyWords) {
        // A program reads the state, then the key, then changes the state. If it has read the state before this, the change fails;
        // otherwise it finds another key, since the entry is opened only after the key is whole.
        let change = |state| Some(State(state).next(1).0);
        // The closure never declines.
        let _ = self.0[STATE].fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        for (word, of_key) in self.0.iter().zip(key.0) {
            word.store(of_key, Ordering::Release);
        }
    }

    /// Lets the next `room` wire packets of up to `longest` bytes pass, out of the device with the index `device` (of veth ports),
    /// if the state of the closed entry is still `state`.
    pub(crate) fn open(self, state: State, room: u64, longest: u32, device: u32) -> bool {
        let longest = u64::from(longest).min((1 << LONGEST_BITS) - 1);
        let device = u64::from(device.min(DEVICE_MAX)) << LONGEST_BITS;
        self.0[ROOM].store(room.min(MOST) << ROOM_SHIFT | device | longest, Ordering::Release);
        let next = state.next(0).0;
        self.0[STATE].compare_exchange(state.0, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
use crate::pipeline::wire::serial::is_before;

/// What the programs read of a packet.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) key: KeyWords,
    pub(crate) amount: crate::pipeline::counters::Amount,
    /// Length of the longest wire packet of the train.
    pub(crate) longest: u64,
    /// Whether the cache may let it pass, if its flow is open.
    pub(crate) is_plain: bool,
    /// Sequence number and length of its TCP data.
    pub(crate) sequence: u32,
    pub(crate) data: u32,
}

/// The programs, rewritten for tests.
#[cfg(test)]
impl FlowTable {
    /// A table that no program sees.
    pub(crate) fn in_memory(sets: usize, follows: bool) -> Self {
        let flows = Memory::anonymous(sets * WAYS * WORDS);
        let ends = follows.then(|| Memory::anonymous(sets * WAYS));
        Self::new(flows, Memory::anonymous(2 * RETURNED_WORDS), ends, sets, 7)
    }

    /// The same as `passes` of `wire.c`.
    pub(crate) fn pass(&self, sight: Sight) -> bool {
        let Sight { key, amount, longest, is_plain, sequence, data } = sight;
        let set = self.set(key);
        let is_of = |entry: &Entry<'_>| {
            entry.0.iter().zip(key.0).all(|(word, of_key)| word.load(Ordering::Relaxed) == of_key)
        };
        let Some(number) = (set..set + WAYS).find(|number| is_of(&self.entry(*number))) else {
            return false;
        };
        let (entry, end) = (self.entry(number), self.end(number).filter(|_| data > 0));
        let is_again = end.is_some_and(|end| is_before(sequence, end));
        let passes = entry.pass(amount.packets, longest, is_plain && !is_again);
        let until = sequence.wrapping_add(data);
        if passes && end.is_some_and(|end| is_before(end, until)) {
            self.set_end(number, until);
        }
        entry.0[BYTES].fetch_add(if passes { amount.bytes } else { 0 }, Ordering::Relaxed);
        passes
    }

    /// Frames pass a hook.
    pub(crate) fn come_back(&self, direction: usize, frames: u64) {
        self.0.returned[direction * RETURNED_WORDS].fetch_add(frames, Ordering::Relaxed);
    }
}

/// As in `wire.c`.
#[cfg(test)]
const MOST_DETOURS: u64 = 0xff00;

#[cfg(test)]
impl Entry<'_> {
    /// As `pass` of `wire.c`: the wire packets pass, or the flow has one more detour.
    fn pass(self, wires: u64, longest: u64, is_plain: bool) -> bool {
        let (state, room) = (self.0[STATE].load(Ordering::Relaxed), self.0[ROOM].load(Ordering::Relaxed));
        let passes = is_plain
            && state < DETOUR
            && longest <= room & ((1 << LONGEST_BITS) - 1)
            && State(state).passed() + wires <= room >> ROOM_SHIFT;
        if passes || state / DETOUR < MOST_DETOURS {
            self.0[STATE].fetch_add(if passes { wires } else { DETOUR }, Ordering::Relaxed);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_state_do_not_touch() {
        let state = State(3 * DETOUR + (((1 << OPENING_BITS) - 1) << PASSED_BITS) + 77);
        assert_eq!((state.detours(), state.passed()), (3, 77));
        assert_eq!(state.next(2), State(2 * DETOUR), "the openings begin again");
        assert_eq!(State(0).next(0).detours(), 0);
    }

    /// A packet that comes between the look at the state and the opening keeps the entry closed.
    #[test]
    fn an_entry_opens_only_if_nothing_was_detoured_meanwhile() {
        let words: [AtomicU64; WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
        let entry = Entry(&words);
        let key = KeyWords([1, 2, 3, 4, 5]);
        entry.give(key);
        assert_eq!(words[..KEY].iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>(), key.0);
        let before = entry.state();
        assert_eq!(before.detours(), 1);
        assert!(!entry.pass(1, 100, true), "closed");
        assert!(!entry.open(before, 10, 1_500, DEVICE_MAX));
        entry.acknowledge(1);
        assert!(entry.open(entry.state(), 10, 1_500, DEVICE_MAX));
        assert!(entry.pass(7, 1_500, true) && entry.pass(3, 40, true));
        entry.close();
        assert_eq!((entry.state().detours(), entry.state().passed()), (1, 10));
        assert!(!entry.pass(1, 40, true));
    }

    /// A flood that the worker does not read stays closed, also when the worker closes the entry in the middle of it.
    #[test]
    fn the_count_of_detours_never_begins_again() {
        let words: [AtomicU64; WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
        let entry = Entry(&words);
        entry.give(KeyWords([9; KEY]));
        assert!(entry.open(entry.state(), 10, 1_500, DEVICE_MAX));
        for packet in 0..200_000 {
            assert!(!entry.pass(11, 1_500, true), "{packet}");
        }
        entry.close();
        assert!(!entry.pass(1, 40, true));
        assert!(entry.state().detours() > 0xff00);
    }

    #[test]
    fn no_more_passes_than_there_is_room_for_and_nothing_longer() {
        for (room, wires, length, passes) in [
            (10, 10, 1_500, true),
            (10, 11, 1_500, false),
            (10, 1, 1_501, false),
            (0, 1, 40, false),
            (u64::MAX, 1 << 20, 1_500, true),
        ] {
            let words: [AtomicU64; WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
            let entry = Entry(&words);
            entry.give(KeyWords([9; KEY]));
            assert!(entry.open(entry.state(), room, 1_500, DEVICE_MAX));
            assert_eq!(entry.pass(wires, length, true), passes, "{room} {wires} {length}");
        }
        let words: [AtomicU64; WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
        let entry = Entry(&words);
        entry.give(KeyWords([9; KEY]));
        assert!(entry.open(entry.state(), u64::MAX, u32::MAX, DEVICE_MAX));
        assert!(entry.pass(1, (1 << LONGEST_BITS) - 1, true), "longer than any packet");
    }
}
