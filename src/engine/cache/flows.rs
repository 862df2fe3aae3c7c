//! The flows of one attachment: which have an entry in the table, which are open, and what has passed.

use std::collections::VecDeque;
use std::ops::Range;

use crate::bpf::flows::{Entry, FlowTable, KeyWords, WAYS};
use crate::engine::cache::loss::Loss;
use crate::engine::cache::seen::Seen;
use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::counters::Amount;
use crate::pipeline::router::Router;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{FlowKey, protocol};

/// A flow is opened only if at least this many wire packets may pass.
const LEAST: u64 = 32;
/// Flows that are tried at one time, so that new packets need not wait for long.
const BATCH: usize = 64;
/// Detours that are acknowledged at once while a flow stays closed, because their count has 16 bits.
const ACKNOWLEDGED: u64 = 1 << 12;
/// Places of [`FlowCache::asked`]; the core is asked more often about flows that share a place.
const ASKED: usize = 1 << 14;

/// The index from which on the core is asked about a flow without an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    flow: FlowRef,
    next: u64,
}

/// A flow that has an entry.
#[derive(Debug)]
struct Member {
    direction: usize,
    entry: usize,
    key: FlowKey,
    flow: FlowRef,
    is_open: bool,
    /// The part of the entry's wire packets (since the opening) and bytes that the core has been told.
    told: Amount,
    /// Packets or trains that were read but not acknowledged.
    read: u64,
    /// It is in [`FlowCache::closed`].
    is_waiting: bool,
    /// Detours that have not been read.
    unread: Loss,
    /// The number that had passed when a new flow last wanted this place.
    looked: u64,
}

/// How far the opening of flows has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Settled {
    /// No flow waits to be opened.
    Whole,
    /// Flows wait for packets that are on their way.
    NotYet,
    /// There are more flows than one turn may take.
    InPart,
}

/// Which member a packet belongs to, and whether the hook has counted it as a detour of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Arrived(pub(super) Option<usize>);

/// The flows of an attachment that pass in the kernel.
#[derive(Debug)]
pub(super) struct FlowCache {
    table: FlowTable,
    /// The path of each direction: what the target sends, and what it receives.
    paths: [u16; 2],
    members: Vec<Member>,
    /// For each entry its member's number plus one; 0 if it has none.
    places: Vec<usize>,
    /// Members that may be opened when the queues are empty.
    closed: VecDeque<usize>,
    /// After a pause, the members from here on are put among them little by little.
    reopened: usize,
    /// For each direction, frames that were written and have not passed the hook.
    missing: [Loss; 2],
    /// For each direction, written frames that are lost.
    lost: [u64; 2],
    asked: Vec<Asked>,
    /// While set, no flow is opened.
    is_paused: bool,
}

impl FlowCache {
    pub(super) fn new(table: FlowTable, paths: [u16; 2]) -> Self {
        let entries = table.entries();
        Self {
            table,
            paths,
            // Address space only: memory comes with the first use.
            members: Vec::with_capacity(entries),
            places: vec![0; entries],
            closed: VecDeque::with_capacity(entries),
            reopened: usize::MAX,
            missing: [Loss::default(); 2],
            lost: [0; 2],
            asked: vec![Asked::default(); ASKED],
            is_paused: false,
        }
    }

    fn find(&self, direction: usize, key: &FlowKey) -> Option<usize> {
        let set = self.table.set(KeyWords::of(key, direction));
        let ways = &self.places[set..set + WAYS];
        let mut members = ways.iter().filter(|&&place| place > 0).map(|&place| place - 1);
        members.find(|&number| {
            let member = &self.members[number];
            member.key == *key && member.direction == direction
        })
    }

    /// A packet of `direction` was read; it is about to be injected. The core learns what passed before it.
    pub(super) fn arrived(
        &mut self,
        direction: usize,
        packet: &[u8],
        router: &mut Router,
        now: Instant,
    ) -> Arrived {
        if self.members.is_empty() {
            return Arrived(None);
        }
        let Some(Seen { key, is_syn, is_counted }) = Seen::read(packet) else { return Arrived(None) };
        // A SYN may start both directions of a connection again.
        if is_syn && let Some(other) = self.find(1 - direction, &key.answers()) {
            self.close(other, router, now);
            self.wait(other);
        }
        let Some(number) = self.find(direction, &key) else { return Arrived(None) };
        self.close(number, router, now);
        self.members[number].read += u64::from(is_counted);
        if self.members[number].read >= ACKNOWLEDGED {
            self.acknowledge(number);
        }
        self.wait(number);
        Arrived(Some(number))
    }

    /// The packet was one of `flow`.
    pub(super) fn injected(
        &mut self,
        direction: usize,
        arrived: Arrived,
        flow: FlowRef,
        router: &mut Router,
        now: Instant,
    ) {
        if let Arrived(Some(number)) = arrived {
            self.members[number].flow = flow;
            return;
        }
        let Some((key, index)) = router.flow(flow) else { return };
        let has_ports = matches!(key.protocol(), protocol::TCP | protocol::UDP) && key.source_port() > 0;
        let asked = &mut self.asked[flow.slot as usize % ASKED];
        // The second packet, and then ever more seldom: asking costs. A train goes over many numbers.
        let is_due = index >= 2 && (asked.flow != flow || index >= asked.next);
        if !has_ports || !is_due {
            return;
        }
        *asked = Asked { flow, next: index.saturating_mul(2) };
        if router.quiet(flow, self.path_of(direction), now).count >= LEAST {
            self.admit(direction, key, flow, router, now);
        }
    }

    /// Gives a flow an entry, closed, if its set has room or somebody in it has been silent.
    fn admit(&mut self, direction: usize, key: FlowKey, flow: FlowRef, router: &mut Router, now: Instant) {
        let words = KeyWords::of(&key, direction);
        let set = self.table.set(words);
        let free = (set..set + WAYS).find(|&entry| self.places[entry] == 0);
        let Some(entry) = free.or_else(|| (set..set + WAYS).find(|&entry| self.is_silent(entry))) else {
            return;
        };
        let place = self.places[entry];
        let number = if place > 0 { place - 1 } else { self.members.len() };
        if place > 0 {
            self.close(number, router, now);
            self.tell(number, router, now);
            router.keep(self.members[number].flow, false);
        }
        let at = self.table.entry(entry);
        at.give(words);
        let member = Member {
            direction,
            entry,
            key,
            flow,
            is_open: false,
            told: Amount { packets: 0, bytes: at.bytes() },
            read: 0,
            is_waiting: place > 0 && self.members[number].is_waiting,
            unread: Loss::default(),
            looked: u64::MAX,
        };
        if place > 0 {
            self.members[number] = member;
        } else {
            self.members.push(member);
            self.places[entry] = number + 1;
        }
        self.wait(number);
    }

    /// Whether nothing of the entry's flow has come since a newcomer looked last.
    fn is_silent(&mut self, entry: usize) -> bool {
        let bytes = self.table.entry(entry).bytes();
        let member = &mut self.members[self.places[entry] - 1];
        let is_silent = member.read == 0 && member.looked == bytes;
        member.looked = bytes;
        is_silent
    }

    fn entry(&self, number: usize) -> Entry<'_> {
        self.table.entry(self.members[number].entry)
    }

    const fn path_of(&self, direction: usize) -> u16 {
        self.paths[direction]
    }

    fn wait(&mut self, number: usize) {
        if !std::mem::replace(&mut self.members[number].is_waiting, true) {
            self.closed.push_back(number);
        }
    }

    /// Everything of the flow is detoured from now on, and the core knows what has passed.
    fn close(&mut self, number: usize, router: &mut Router, now: Instant) {
        if std::mem::take(&mut self.members[number].is_open) {
            self.entry(number).close();
            self.tell(number, router, now);
        }
    }

    /// Tells the core what has passed and it does not know of.
    fn tell(&mut self, number: usize, router: &mut Router, now: Instant) {
        let entry = self.entry(number);
        let passed = Amount { packets: entry.state().passed(), bytes: entry.bytes() };
        let path = self.path_of(self.members[number].direction);
        let member = &mut self.members[number];
        let more =
            Amount { packets: passed.packets - member.told.packets, bytes: passed.bytes - member.told.bytes };
        if more != Amount::default() {
            member.told = passed;
            router.passed(member.flow, &member.key, path, more, now);
        }
    }

    /// From now on no flow is opened. Those that are open stay so until a sweep closes them.
    pub(super) const fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Flows are opened again.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            // The stages may be others now: the core is asked about every flow again.
            self.asked.fill(Asked::default());
            self.reopened = 0;
        }
    }

    /// How many members there are: their numbers begin with 0.
    pub(super) const fn members(&self) -> usize {
        self.members.len()
    }

    /// Tells the core what has passed in the flows of these members, and closes them if `closes` says so.
    pub(super) fn sweep(&mut self, members: Range<usize>, closes: bool, router: &mut Router, now: Instant) {
        for number in members {
            if closes {
                self.close(number, router, now);
            } else {
                self.tell(number, router, now);
            }
        }
    }

    /// Opens what can be opened, when the queues have been read empty; `written` counts the frames on their way to the hook of
    /// each direction.
    pub(super) fn settle(&mut self, written: [u64; 2], router: &mut Router, now: Instant) -> Settled {
        if self.is_paused {
            return Settled::Whole;
        }
        let reopened = self.reopened..self.members.len().min(self.reopened.saturating_add(BATCH));
        if !reopened.is_empty() {
            self.reopened = reopened.end;
            reopened.for_each(|number| self.wait(number));
        }
        if self.closed.is_empty() {
            return Settled::Whole;
        }
        let are_back = [0, 1].map(|direction| self.is_all_back(direction, written[direction], now));
        let mut settled = 0;
        for _ in 0..self.closed.len().min(BATCH) {
            let Some(number) = self.closed.pop_front() else { break };
            if self.settle_one(number, are_back, router, now) {
                self.members[number].is_waiting = false;
                settled += 1;
            } else {
                self.closed.push_back(number);
            }
        }
        if settled == BATCH || self.reopened < self.members.len() {
            return Settled::InPart;
        }
        if self.closed.is_empty() { Settled::Whole } else { Settled::NotYet }
    }

    /// Whether every frame written has passed the hook, so that what passes in the kernel comes behind it.
    fn is_all_back(&mut self, direction: usize, written: u64, now: Instant) -> bool {
        let missing = (written - self.lost[direction]).saturating_sub(self.table.returned(direction));
        if missing == 0 {
            self.missing[direction] = Loss::default();
            return true;
        }
        let lost = self.missing[direction].so_far(missing, now);
        self.lost[direction] += lost;
        lost == missing
    }

    /// Acknowledges what was read of a closed flow.
    fn acknowledge(&mut self, number: usize) {
        let known = self.members[number].read.min(self.entry(number).state().detours().saturating_sub(1));
        self.entry(number).acknowledge(known);
        self.members[number].read = 0;
    }

    /// Opens a closed flow, or acknowledges what was read of it; false if that has to be tried again.
    fn settle_one(&mut self, number: usize, are_back: [bool; 2], router: &mut Router, now: Instant) -> bool {
        let Member { direction, flow, .. } = self.members[number];
        let state = self.entry(number).state();
        let quiet = router.quiet(flow, self.path_of(direction), now);
        if quiet.count < LEAST {
            self.acknowledge(number);
            return true;
        }
        let member = &mut self.members[number];
        let mut unread = state.detours().saturating_sub(1 + member.read);
        if unread > 0 {
            let lost = member.unread.so_far(unread, now);
            member.read += lost;
            unread -= lost;
        }
        if unread > 0 || !are_back[direction] || !self.entry(number).open(state, quiet.count, quiet.longest) {
            return false;
        }
        let member = &mut self.members[number];
        (member.is_open, member.read, member.unread) = (true, 0, Loss::default());
        member.told.packets = 0;
        router.keep(flow, true);
        true
    }
}

#[cfg(test)]
mod tests;
