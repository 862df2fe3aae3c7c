//! The flows of one worker: what gives each wire packet its index, and where per-flow state lives.
//!
//! A flow is one direction of a 5-tuple that came in by one port. The table has a fixed number of entries in sets of
//! eight; when a set is full, the flow of it that was silent longest is forgotten (and counted): memory is bounded
//! whatever hostile traffic does. A forgotten flow that comes back starts anew at index 0.

use crate::pipeline::wire::FlowKey;

const WAYS: usize = 8;

/// A flow as packets carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowRef {
    /// What draws depend on: a hash of the 5-tuple.
    pub hash: u64,
    /// Place in the table: index for per-flow state.
    pub slot: u32,
    /// Which tenant of that place.
    pub generation: u32,
}

/// Where a flow goes, cached from the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Index of the next wire packet.
    pub next_index: u64,
    /// Decision of the router for this flow.
    pub path: u32,
    used: u32,
    generation: u32,
    key: FlowKey,
    port: u16,
}

/// Flow table of one worker.
#[derive(Debug)]
pub struct FlowTable {
    hashes: Vec<[u64; WAYS]>,
    entries: Vec<Option<FlowEntry>>,
    mask: usize,
    clock: u32,
    generation: u32,
    evicted: u64,
}

impl FlowTable {
    /// A table of at least `capacity` flows (rounded up to a power of two, at least 8).
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Self {
            hashes: vec![[0; WAYS]; sets],
            entries: vec![None; sets * WAYS],
            mask: sets - 1,
            clock: 0,
            generation: 0,
            evicted: 0,
        }
    }

    /// Number of entries.
    pub const fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Flows forgotten because their set was full.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The flow `key` that comes in by `port`; `route` decides where a new one goes.
    ///
    /// # Panics
    /// Never: what is found or placed is there.
    #[inline]
    pub fn find(
        &mut self,
        hash: u64,
        port: u16,
        key: &FlowKey,
        route: impl FnOnce() -> u32,
    ) -> (FlowRef, &mut FlowEntry) {
        self.clock = self.clock.wrapping_add(1);
        let set = (hash >> 8) as usize & self.mask;
        let found = (0..WAYS).find(|&way| {
            self.hashes[set][way] == hash
                && self.entries[set * WAYS + way]
                    .as_ref()
                    .is_some_and(|entry| entry.port == port && entry.key == *key)
        });
        let slot = found.map_or_else(|| self.place(set, hash, port, key, route()), |way| set * WAYS + way);
        let entry = self.entries[slot].as_mut().expect("found or placed");
        entry.used = self.clock;
        (FlowRef { hash, slot: slot as u32, generation: entry.generation }, entry)
    }

    #[cold]
    fn place(&mut self, set: usize, hash: u64, port: u16, key: &FlowKey, path: u32) -> usize {
        let ways = &self.entries[set * WAYS..(set + 1) * WAYS];
        let age = |entry: &Option<FlowEntry>| {
            entry.map_or(u64::from(u32::MAX) + 1, |e| self.clock.wrapping_sub(e.used).into())
        };
        let way = (0..WAYS).max_by_key(|&way| age(&ways[way])).unwrap_or(0);
        let slot = set * WAYS + way;
        self.evicted += u64::from(self.entries[slot].is_some());
        self.generation = self.generation.wrapping_add(1);
        self.hashes[set][way] = hash;
        self.entries[slot] = Some(FlowEntry {
            next_index: 0,
            path,
            used: self.clock,
            generation: self.generation,
            key: *key,
            port,
        });
        slot
    }
}

/// One value per flow, reset when the place gets another tenant.
#[derive(Debug, Clone)]
pub struct PerFlow<T> {
    values: Vec<(u32, T)>,
}

impl<T: Clone + Default> PerFlow<T> {
    /// Values for a table of `capacity` entries, as [`FlowTable::capacity`] says.
    pub fn new(capacity: usize) -> Self {
        Self { values: vec![(0, T::default()); capacity] }
    }

    /// The value of a flow; fresh if the flow is.
    #[inline]
    pub fn of(&mut self, flow: FlowRef) -> &mut T {
        let slot = flow.slot as usize % self.values.len();
        let (generation, value) = &mut self.values[slot];
        if *generation != flow.generation {
            *generation = flow.generation;
            *value = T::default();
        }
        value
    }
}
