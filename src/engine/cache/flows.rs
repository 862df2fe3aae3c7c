//! The flows of one attachment, or of a router's veth ports: which have an entry in the table, which are open, and
//! how many packets have passed.

use std::collections::VecDeque;
use std::ops::Range;

use crate::bpf::flows::{DEVICE_MAX, Entry, FlowTable, KeyWords, WAYS};
use crate::engine::cache::end::End;
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
/// Size of [`FlowCache::asked`]; if flows share a place in it, the core is asked more often about them.
const ASKED: usize = 1 << 14;

/// The packet number from which on the core is asked again about a flow without an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    flow: FlowRef,
    next: u64,
}

/// A flow that has an entry.
#[derive(Debug)]
struct Member {
    direction: usize,
    path: u16,
    /// The end whose hook its packets pass after faultwire has written them.
    out: usize,
    entry: usize,
    key: FlowKey,
    flow: FlowRef,
    is_open: bool,
    /// The wire packets (since the opening) and bytes of the entry that the core has been told about.
    told: Amount,
    /// Packets or trains that were read but not acknowledged.
    read: u64,
    /// It is in [`FlowCache::closed`].
    is_waiting: bool,
    /// Detours that have not been read.
    unread: Loss,
    /// The number of passed packets when a new flow last wanted this place.
    looked: u64,
    /// One more than the last sequence number of its TCP data, if a listener follows the flow.
    end: Option<u32>,
    /// The table's sequence number, as far as the listeners know it; `None`: the table has none of this connection.
    known: Option<u32>,
}

/// The result of trying to open flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Settled {
    /// No flow is left to be opened.
    Whole,
    /// Some flows wait for packets that are still on their way.
    NotYet,
    /// There were more flows than one turn may handle.
    InPart,
}

/// What is known of a packet that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::engine) struct Arrived {
    /// The member that it belongs to.
    member: Option<usize>,
    /// What listeners must be told before the packet.
    pub(in crate::engine) passed: Option<Passed>,
}

/// TCP data of a flow that has passed in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Passed {
    pub(in crate::engine) flow: FlowRef,
    /// One more than the last sequence number that listeners were told of before.
    pub(in crate::engine) from: u32,
    /// One more than the last sequence number that has passed. Gigabytes can be between both.
    pub(in crate::engine) until: u32,
}

/// The flows that pass in the kernel.
#[derive(Debug)]
pub(super) struct FlowCache {
    table: FlowTable,
    /// Of an attachment: what the target sends, and what it receives.
    ends: Vec<End>,
    members: Vec<Member>,
    /// For each entry, the number of its member plus one; 0: no member.
    places: Vec<usize>,
    /// Members that may be opened when the queues are empty.
    closed: VecDeque<usize>,
    /// After a pause, the members from this one on are added to `closed` little by little.
    reopened: usize,
    /// For each end, frames that were written but have not passed its hook.
    missing: Vec<Loss>,
    /// For each end, written frames that are lost.
    lost: Vec<u64>,
    asked: Vec<Asked>,
    /// While set, no flow is opened.
    is_paused: bool,
}

impl FlowCache {
    pub(super) fn new(table: FlowTable, ends: Vec<End>) -> Self {
        let entries = table.entries();
        Self {
            table,
            missing: vec![Loss::default(); ends.len()],
            lost: vec![0; ends.len()],
            ends,
            // This reserves address space only; memory is used with the first member.
            members: Vec::with_capacity(entries),
            places: vec![0; entries],
            closed: VecDeque::with_capacity(entries),
            reopened: usize::MAX,
            asked: vec![Asked::default(); ASKED],
            is_paused: false,
        }
    }

    pub(super) fn ends(&self) -> &[End] {
        &self.ends
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

    /// Called before a packet of `direction` is injected. The core is told what passed before it.
    pub(super) fn arrived(
        &mut self,
        direction: usize,
        packet: &[u8],
        router: &mut Router,
        now: Instant,
    ) -> Arrived {
        if self.members.is_empty() {
            return Arrived::default();
        }
        let Some(Seen { key, is_syn, is_counted }) = Seen::read(packet) else { return Arrived::default() };
        // A SYN may begin a new connection in both directions.
        if is_syn
            && let Some(opposite) = self.opposite(direction, &key, router)
            && let Some(other) = self.find(opposite, &key.answers())
        {
            self.close(other, router, now);
            self.wait(other);
        }
        let Some(number) = self.find(direction, &key) else { return Arrived::default() };
        self.close(number, router, now);
        self.members[number].read += u64::from(is_counted);
        if self.members[number].read >= ACKNOWLEDGED {
            self.acknowledge(number);
        }
        self.wait(number);
        Arrived { member: Some(number), passed: self.passed(number) }
    }

    /// The TCP data that has passed since the listeners were last told, if there is any.
    fn passed(&mut self, number: usize) -> Option<Passed> {
        let Member { entry, flow, known, .. } = &mut self.members[number];
        let (from, until) = ((*known)?, self.table.end(*entry)?);
        *known = Some(until);
        (from != until).then_some(Passed { flow: *flow, from, until })
    }

    /// The packet was injected as one of `flow`; `end`: one more than its last TCP sequence number, for a listener. Returns what
    /// listeners must be told of the flow that had this flow's entry before.
    pub(super) fn injected(
        &mut self,
        direction: usize,
        arrived: Arrived,
        (flow, end): (FlowRef, Option<u32>),
        router: &mut Router,
        now: Instant,
    ) -> Option<Passed> {
        if let Some(number) = arrived.member {
            let member = &mut self.members[number];
            // After a SYN, the table's end is that of the previous connection.
            member.known = member.known.filter(|_| member.flow == flow);
            (member.flow, member.end) = (flow, end);
            return None;
        }
        let (key, index) = router.flow(flow)?;
        let has_ports = matches!(key.protocol(), protocol::TCP | protocol::UDP) && key.source_port() > 0;
        let asked = &mut self.asked[flow.slot as usize % ASKED];
        // The core is asked at the second packet, then ever less often: asking costs. A train has many numbers.
        let is_due = index >= 2 && (asked.flow != flow || index >= asked.next);
        if !has_ports || !is_due {
            return None;
        }
        *asked = Asked { flow, next: index.saturating_mul(2) };
        let (path, out) = self.way(direction, flow, router)?;
        if router.quiet(flow, path, now).count < LEAST {
            return None;
        }
        self.admit((direction, path, out), key, (flow, end), router, now)
    }

    /// The end by which packets of the opposite direction of a flow come in.
    fn opposite(&self, direction: usize, key: &FlowKey, router: &Router) -> Option<usize> {
        let end = &self.ends[direction];
        let port = match end.path {
            Some(_) => end.written,
            None => usize::from(router.way_out(u16::try_from(end.port).ok()?, key.destination())?),
        };
        self.ends.iter().position(|end| end.port == port)
    }

    /// The path of a flow, and the end whose hook its packets pass last; `None` if they do not leave by an end.
    fn way(&self, direction: usize, flow: FlowRef, router: &Router) -> Option<(u16, usize)> {
        if let Some(path) = self.ends[direction].path {
            return Some((path, direction));
        }
        let (path, port) = router.path_of(flow)?;
        let out = self.ends.iter().position(|end| end.port == usize::from(port))?;
        (self.ends[out].device <= DEVICE_MAX).then_some((path, out))
    }

    /// Gives a flow a closed entry, if its set has room or has an entry whose flow has been silent. Returns what listeners must be
    /// told of the silent flow.
    fn admit(
        &mut self,
        (direction, path, out): (usize, u16, usize),
        key: FlowKey,
        (flow, end): (FlowRef, Option<u32>),
        router: &mut Router,
        now: Instant,
    ) -> Option<Passed> {
        let words = KeyWords::of(&key, direction);
        let set = self.table.set(words);
        let free = (set..set + WAYS).find(|&entry| self.places[entry] == 0);
        let entry = free.or_else(|| (set..set + WAYS).find(|&entry| self.is_silent(entry)))?;
        let place = self.places[entry];
        let number = if place > 0 { place - 1 } else { self.members.len() };
        let mut passed = None;
        if place > 0 {
            self.close(number, router, now);
            self.tell(number, router, now);
            passed = self.passed(number);
            router.keep(self.members[number].flow, false);
        }
        let at = self.table.entry(entry);
        at.give(words);
        let member = Member {
            direction,
            path,
            out,
            entry,
            key,
            flow,
            is_open: false,
            told: Amount { packets: 0, bytes: at.bytes() },
            read: 0,
            is_waiting: place > 0 && self.members[number].is_waiting,
            unread: Loss::default(),
            looked: u64::MAX,
            end,
            known: None,
        };
        if place > 0 {
            self.members[number] = member;
        } else {
            self.members.push(member);
            self.places[entry] = number + 1;
        }
        self.wait(number);
        passed
    }

    /// Whether no packet of the entry's flow has come since a new flow last looked at the entry.
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

    fn wait(&mut self, number: usize) {
        if !std::mem::replace(&mut self.members[number].is_waiting, true) {
            self.closed.push_back(number);
        }
    }

    /// Detours all packets of the flow from now on, and tells the core how many have passed.
    fn close(&mut self, number: usize, router: &mut Router, now: Instant) {
        if std::mem::take(&mut self.members[number].is_open) {
            self.entry(number).close();
            self.tell(number, router, now);
        }
    }

    /// Tells the core about passed packets that it does not know of.
    fn tell(&mut self, number: usize, router: &mut Router, now: Instant) {
        let entry = self.entry(number);
        let passed = Amount { packets: entry.state().passed(), bytes: entry.bytes() };
        let member = &mut self.members[number];
        let more =
            Amount { packets: passed.packets - member.told.packets, bytes: passed.bytes - member.told.bytes };
        if more != Amount::default() {
            member.told = passed;
            router.passed(member.flow, &member.key, member.path, more, now);
        }
    }

    /// From now on no flow is opened. Open flows stay open until a sweep closes them.
    pub(super) const fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Flows are opened again.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            // The stages may have changed: the core is asked about every flow again.
            self.asked.fill(Asked::default());
            self.reopened = 0;
        }
    }

    /// The number of members. Their indices begin with 0.
    pub(super) const fn members(&self) -> usize {
        self.members.len()
    }

    /// Tells the core what has passed in the flows of these members; also closes the flows if `closes` is set.
    pub(super) fn sweep(&mut self, members: Range<usize>, closes: bool, router: &mut Router, now: Instant) {
        for number in members {
            if closes {
                self.close(number, router, now);
            } else {
                self.tell(number, router, now);
            }
        }
    }

    /// Opens the flows that can be opened; called after the queues have been read empty. `written` counts the frames
    /// written to each port of the router.
    pub(super) fn settle(&mut self, written: &[u64], router: &mut Router, now: Instant) -> Settled {
        if self.is_paused {
            return Settled::Whole;
        }
        let reopened = self.reopened..self.members.len().min(self.reopened.saturating_add(BATCH));
        if !reopened.is_empty() {
            self.reopened = reopened.end;
            for number in reopened {
                // The flow may be open again already: a second opening would lose the count of passed packets.
                if !self.members[number].is_open {
                    self.wait(number);
                }
            }
        }
        if self.closed.is_empty() {
            return Settled::Whole;
        }
        let mut settled = 0;
        for _ in 0..self.closed.len().min(BATCH) {
            let Some(number) = self.closed.pop_front() else { break };
            if self.settle_one(number, written, router, now) {
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

    /// Whether every written frame has passed the hook of end `end`: only then may packets pass in the kernel.
    fn is_all_back(&mut self, end: usize, written: &[u64], now: Instant) -> bool {
        let written = written[self.ends[end].written];
        let missing = (written - self.lost[end]).saturating_sub(self.table.returned(end));
        if missing == 0 {
            self.missing[end] = Loss::default();
            return true;
        }
        let lost = self.missing[end].so_far(missing, now);
        self.lost[end] += lost;
        lost == missing
    }

    /// Acknowledges the packets that were read of a closed flow.
    fn acknowledge(&mut self, number: usize) {
        let known = self.members[number].read.min(self.entry(number).state().detours().saturating_sub(1));
        self.entry(number).acknowledge(known);
        self.members[number].read = 0;
    }

    /// Opens a closed flow, or acknowledges the packets that were read of it; false if this has to be tried again.
    fn settle_one(&mut self, number: usize, written: &[u64], router: &mut Router, now: Instant) -> bool {
        let Member { path, out, flow, entry, end, ref key, .. } = self.members[number];
        let is_lost = self.table.follows() && key.protocol() == protocol::TCP && end.is_none();
        let state = self.entry(number).state();
        let quiet = router.quiet(flow, path, now);
        if quiet.count < LEAST || is_lost {
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
        let device = self.ends[out].device;
        if unread > 0 || !self.is_all_back(out, written, now) {
            return false;
        }
        // If no data was shown since the listeners were told of what has passed, the table's end is at least as far as theirs. It is
        // farther if the flow was closed without a packet.
        if let Some(end) = end
            && self.members[number].known != Some(end)
        {
            self.table.set_end(entry, end);
            self.members[number].known = Some(end);
        }
        if !self.entry(number).open(state, quiet.count, quiet.longest, device) {
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
