//! The flows of one worker: what gives each wire packet its index, and where per-flow state lives.
//!
//! A flow is one direction of a 5-tuple that came in by one port. The table holds exactly as many flows as it was
//! made for: flows are found by hash chains, so a flow never loses its place while places are free. When the table is
//! full, a new flow replaces the least recently used of the next eight flows in turn. Replaced flows are counted. So
//! hostile traffic cannot make the table grow. If a forgotten flow comes back, it starts again at index 0.

use crate::pipeline::chains::Chains;
use crate::pipeline::router::Route;
use crate::pipeline::wire::FlowKey;
use crate::pipeline::wire::serial::is_before;

/// How many flows are compared when one has to go: the least recently used of them is replaced.
const CANDIDATES: usize = 8;

/// A flow as packets carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowRef {
    /// The identity on which random draws depend: see [`crate::pipeline::aim::identity`].
    pub identity: u64,
    /// Place in the table: index for per-flow state.
    pub slot: u32,
    /// Number of this use of the place: tells the flow from earlier flows at the same place.
    pub generation: u32,
}

/// The identity of a flow for random draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Name {
    /// The identity of this direction of the connection.
    pub identity: u64,
    /// One more than the sequence number of the SYN that opened the connection; 0: unknown.
    pub opened: u32,
}

/// A flow, as reports show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowSeen {
    /// Sender and receiver.
    pub key: FlowKey,
    /// The port by which its packets come in.
    pub port: u16,
    /// The identity on which random draws depend.
    pub identity: u64,
    /// Wire packets since the flow entered the table.
    pub packets: u64,
}

/// A flow of the table.
#[derive(Debug, Clone, Copy)]
struct FlowEntry {
    next_index: u64,
    identity: u64,
    route: Route,
    used: u32,
    generation: u32,
    opened: u32,
    key: FlowKey,
    port: u16,
    /// See [`FlowTable::keep`].
    is_kept: bool,
}

/// Flow table of one worker.
#[derive(Debug)]
pub struct FlowTable {
    chains: Chains,
    entries: Vec<FlowEntry>,
    capacity: usize,
    /// The first of the next candidates for eviction.
    hand: usize,
    clock: u32,
    generation: u32,
    evicted: u64,
}

impl FlowTable {
    /// The capacity of a table that is asked to hold `flows` flows.
    pub fn capacity_for(flows: usize) -> usize {
        flows.max(CANDIDATES)
    }

    /// A table of `capacity` flows, at least 8.
    pub fn new(capacity: usize) -> Self {
        let capacity = Self::capacity_for(capacity);
        Self {
            chains: Chains::new(capacity),
            entries: Vec::with_capacity(capacity),
            capacity,
            hand: 0,
            clock: 0,
            generation: 0,
            evicted: 0,
        }
    }

    /// Number of flows that fit.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Flows forgotten because the table was full.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Lists flows from place `from` on, as many as `out` has room for. Returns true if there are more.
    pub fn list(&self, from: usize, out: &mut Vec<FlowSeen>) -> bool {
        let room = out.capacity() - out.len();
        let seen = |entry: &FlowEntry| FlowSeen {
            key: entry.key,
            port: entry.port,
            identity: entry.identity,
            packets: entry.next_index,
        };
        out.extend(self.entries.iter().skip(from).take(room).map(seen));
        from.saturating_add(room) < self.entries.len()
    }

    /// The place of the flow `key` (whose hash is `hash`) that came in by `port`.
    #[inline]
    pub fn find(&self, hash: u64, port: u16, key: &FlowKey) -> Option<u32> {
        self.chains.find(hash, |place| {
            let entry = &self.entries[place as usize];
            entry.port == port && entry.key == *key
        })
    }

    /// Counts `wires` more packets of the flow at `place`. Returns the flow, the index of the first of these packets,
    /// and the decision about the flow's route.
    #[inline]
    pub fn advance(&mut self, place: u32, wires: u32) -> (FlowRef, u64, Route) {
        self.clock = self.clock.wrapping_add(1);
        let entry = &mut self.entries[place as usize];
        entry.used = self.clock;
        let index = entry.next_index;
        entry.next_index += u64::from(wires);
        (FlowRef { identity: entry.identity, slot: place, generation: entry.generation }, index, entry.route)
    }

    /// The key of `flow` and the index of its next packet; `None` if another flow has taken its place.
    pub(in crate::pipeline) fn ahead(&self, flow: FlowRef) -> Option<(&FlowKey, u64)> {
        let entry = self.entries.get(flow.slot as usize)?;
        (entry.generation == flow.generation).then_some((&entry.key, entry.next_index))
    }

    /// Counts `count` packets of the known flow `flow` that passed without being shown to the router.
    pub(in crate::pipeline) fn pass(&mut self, flow: FlowRef, count: u64) {
        self.entries[flow.slot as usize].next_index += count;
    }

    /// Says whether the kernel carries packets of `flow` past the router, which the table cannot see. If so, other
    /// flows are forgotten first.
    pub(in crate::pipeline) fn keep(&mut self, flow: FlowRef, is_kept: bool) {
        if let Some(entry) = self.entries.get_mut(flow.slot as usize)
            && entry.generation == flow.generation
        {
            entry.is_kept = is_kept;
        }
    }

    /// The decision about the route of the flow at `place`.
    pub(in crate::pipeline) fn route(&self, place: u32) -> Route {
        self.entries[place as usize].route
    }

    /// The name of the flow at `place`.
    pub(in crate::pipeline) fn name(&self, place: u32) -> Name {
        let entry = &self.entries[place as usize];
        Name { identity: entry.identity, opened: entry.opened }
    }

    /// The name of the flow `key`, by whatever port it comes in. If there are several, the one used last. With
    /// `opened`, only the flow of the connection that this SYN opened.
    pub(in crate::pipeline) fn name_of(&self, key: &FlowKey, opened: Option<u32>) -> Option<Name> {
        let mut last: Option<&FlowEntry> = None;
        self.chains.find(key.hash(), |place| {
            let entry = &self.entries[place as usize];
            let age = |entry: &FlowEntry| self.clock.wrapping_sub(entry.used);
            if entry.key == *key
                && opened.is_none_or(|opened| opened == entry.opened)
                && last.is_none_or(|last| age(entry) < age(last))
            {
                last = Some(entry);
            }
            false
        });
        last.map(|entry| Name { identity: entry.identity, opened: entry.opened })
    }

    /// Every flow `key`, by whatever port it comes in, now belongs to a new connection and is called `name`.
    pub(in crate::pipeline) fn rename_all(&mut self, key: &FlowKey, name: Name) {
        let (entries, generation) = (&mut self.entries, &mut self.generation);
        self.chains.find(key.hash(), |place| {
            let entry = &mut entries[place as usize];
            if entry.key == *key {
                *generation = generation.wrapping_add(1);
                entry.begin(*generation, name);
            }
            false
        });
    }

    /// The flow at `place` now belongs to a new connection and is called `name`.
    pub(in crate::pipeline) fn rename(&mut self, place: u32, name: Name) {
        self.generation = self.generation.wrapping_add(1);
        self.entries[place as usize].begin(self.generation, name);
    }

    /// Adds the flow `key`, which is not in the table, and returns its place.
    pub fn insert(&mut self, hash: u64, port: u16, key: &FlowKey, route: Route, name: Name) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let Name { identity, opened } = name;
        let (used, generation) = (self.clock, self.generation);
        let entry = FlowEntry {
            next_index: 0,
            identity,
            route,
            used,
            generation,
            opened,
            key: *key,
            port,
            is_kept: false,
        };
        let place = if self.entries.len() < self.capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let place = self.make_room();
            self.entries[place] = entry;
            place
        };
        self.chains.insert(hash, place as u32);
        place as u32
    }

    /// Forgets one flow of the full table and returns its place.
    fn make_room(&mut self) -> usize {
        let window = (0..CANDIDATES).map(|step| (self.hand + step) % self.capacity);
        let age = |place: &usize| {
            let entry = &self.entries[*place];
            (!entry.is_kept, self.clock.wrapping_sub(entry.used))
        };
        let place = window.max_by_key(age).unwrap_or(self.hand);
        self.hand = (self.hand + CANDIDATES) % self.capacity;
        self.chains.remove(self.entries[place].key.hash(), place as u32);
        self.evicted += 1;
        place
    }
}

impl FlowEntry {
    const fn begin(&mut self, generation: u32, name: Name) {
        self.next_index = 0;
        self.generation = generation;
        self.identity = name.identity;
        self.opened = name.opened;
    }
}

/// One value per flow. It is reset when another flow takes the place in the table.
#[derive(Debug, Clone)]
pub struct PerFlow<T> {
    values: Vec<(u32, T)>,
}

impl<T: Clone + Default> PerFlow<T> {
    /// Values for a table of `capacity` entries, as [`FlowTable::capacity`] says.
    pub fn new(capacity: usize) -> Self {
        Self { values: vec![(0, T::default()); capacity] }
    }

    /// The value of a flow; a fresh one if the flow is new.
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

    /// The value of a flow, a fresh one if the flow is new; `None` if a later flow has taken the place in the table.
    #[inline]
    pub fn of_latest(&mut self, flow: FlowRef) -> Option<&mut T> {
        let (generation, _) = &self.values[flow.slot as usize % self.values.len()];
        (!is_before(flow.generation, *generation)).then(|| self.of(flow))
    }

    /// A copy of the value of a flow. The stored value stays, even if it is of an earlier flow at this place: packets
    /// of that flow may still be on their way to this stage.
    pub fn peek(&self, flow: FlowRef) -> T {
        let (generation, value) = &self.values[flow.slot as usize % self.values.len()];
        if *generation == flow.generation { value.clone() } else { T::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ahead_for_a_new_tenant_leaves_what_the_former_one_has() {
        let of = |generation| FlowRef { identity: 7, slot: 3, generation };
        let mut counts = PerFlow::<u32>::new(8);
        *counts.of(of(1)) = 5;
        assert_eq!((counts.peek(of(1)), counts.peek(of(2))), (5, 0));
        assert_eq!(*counts.of(of(1)), 5);
        assert_eq!(*counts.of(of(2)), 0);
        assert_eq!(counts.peek(of(1)), 0);
    }

    #[test]
    fn a_late_packet_of_a_former_tenant_leaves_what_the_new_one_has() {
        let of = |generation| FlowRef { identity: 7, slot: 3, generation };
        let mut counts = PerFlow::<u32>::new(8);
        *counts.of_latest(of(1)).unwrap() = 5;
        *counts.of_latest(of(2)).unwrap() += 6;
        assert_eq!(counts.of_latest(of(1)), None);
        assert_eq!(counts.of_latest(of(2)), Some(&mut 6));
    }
}
