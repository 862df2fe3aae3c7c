//! What a stage is: one impairment of a path.
//!
//! A stage first *decides*: how many wire packets at the front of what came fare alike, and how. Deciding reads the
//! packet but does not change it. The path then cuts the train there, if the decision falls inside it, and carries the
//! decision out; only what changes bytes or makes packets comes back to the stage. A stage that always answers for one
//! wire packet is correct; one that answers for long runs is also fast. Both must give the same wire packets.
//!
//! Laws, each a property test over every stage (`impair::laws`): what comes in and is created goes out, is dropped with
//! a reason or is held; nothing leaves before it came; a train fares as its segments; the same seed gives the same result.

use crate::pipeline::counters::{Amount, Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::pool::Pool;
use crate::pipeline::rng::Draw;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

/// What happens to some wire packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// They go on to the next stage at once.
    Pass,
    /// They are dropped.
    Drop(Reason),
    /// They wait, and go on to the next stage at this instant.
    Hold(Instant),
    /// [`Stage::rewrite`] changes them in place, then they go on.
    Rewrite,
    /// [`Stage::take`] deals with them.
    Take,
}

impl Action {
    /// What a loss does to packets like this one: with `ecn` one that is ECN-capable is to be marked (RFC 3168), by
    /// [`Stage::rewrite`]; any other is dropped.
    pub fn lose(packet: &Packet, ecn: bool) -> Self {
        if ecn && packet.is_ecn_capable() { Self::Rewrite } else { Self::Drop(Reason::Loss) }
    }
}

/// A decision of a stage about the first `count` wire packets of what it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// At least 1, at most the limit that was given.
    pub count: u32,
    /// What happens to them.
    pub action: Action,
}

impl Verdict {
    /// `action` for the first `count`.
    pub const fn new(count: u32, action: Action) -> Self {
        Self { count, action }
    }
}

/// One impairment. Pure: no I/O, no clock, no allocation once warm.
pub trait Stage {
    /// Decides about the first wire packets of `packet`, `limit` of them at the most (at least 1). Whatever state the
    /// stage keeps moves on by exactly the count that it answers for.
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict;

    /// Changes the bytes of `packet` (all its wire packets alike), keeping its length. True if something changed.
    fn rewrite(&mut self, _packet: &mut Packet, _now: Instant) -> bool {
        false
    }

    /// Deals with `packet` by the verbs of `out`; it must account for the packet, by [`Packet::take`] or
    /// [`Outlet::drop`].
    fn take(&mut self, _packet: &mut Packet, _now: Instant, _out: &mut Outlet<'_>) {}

    /// A packet that this stage made wait by [`Action::Hold`] or [`Outlet::hold`] goes on now.
    fn released(&mut self, _packet: &Packet, _now: Instant) {}

    /// The time asked for by [`Outlet::wake_at`] has come.
    fn wake(&mut self, _now: Instant, _out: &mut Outlet<'_>) {}

    /// As [`Stage::decide`], about a packet of the opposite path: only of a stage that works in both directions. What it
    /// answers is [`Action::Pass`], [`Action::Drop`] or [`Action::Rewrite`].
    fn decide_back(&mut self, _packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, Action::Pass)
    }

    /// As [`Stage::rewrite`], of a packet of the opposite path.
    fn rewrite_back(&mut self, _packet: &mut Packet, _now: Instant) -> bool {
        false
    }

    /// The draw by which the stage lost wire packet `wire` of `packet`; `None` if no single draw decides that.
    fn drawn(&self, _packet: &Packet, _wire: u32) -> Option<Draw> {
        None
    }

    /// Packets that left with their predecessor to keep the order, though they were due before it.
    fn clamped(&self) -> u64 {
        0
    }

    /// A packet that the stage itself keeps (not by `Hold`), at the end of the run; `None` when there is no more.
    fn relinquish(&mut self) -> Option<Packet> {
        None
    }
}

/// What a stage did with what it took; the path carries it out when the stage has returned.
#[derive(Debug)]
pub enum Emission {
    /// Goes on to the next stage.
    Forward(Packet),
    /// Goes on to the next stage at this instant.
    Hold(Packet, Instant),
    /// Is dropped.
    Drop(Packet, Reason),
    /// Is dropped, and its sender is told.
    Reject(Packet, Reason, IcmpError),
    /// A segment made by the stage goes back to where the packet came from that it was made of.
    Answer(Packet),
    /// The stage wants to be woken.
    Wake(Instant),
}

/// The verbs of a stage that takes packets.
#[derive(Debug)]
pub struct Outlet<'a> {
    /// Buffers for copies.
    pub pool: &'a mut Pool,
    pub(crate) emissions: &'a mut Vec<Emission>,
    pub(crate) counters: &'a mut StageCounters,
    pub(crate) created: &'a mut Amount,
    pub(crate) kept: &'a mut Amount,
}

impl Outlet<'_> {
    /// `packet` goes on to the next stage.
    pub fn forward(&mut self, packet: Packet) {
        self.emissions.push(Emission::Forward(packet));
    }

    /// `packet` goes on to the next stage at `until`.
    pub fn hold(&mut self, packet: Packet, until: Instant) {
        self.emissions.push(Emission::Hold(packet, until));
    }

    /// `packet` is dropped.
    pub fn drop(&mut self, packet: Packet, reason: Reason) {
        self.emissions.push(Emission::Drop(packet, reason));
    }

    /// `packet` is dropped and its sender told.
    pub fn reject(&mut self, packet: Packet, reason: Reason, error: IcmpError) {
        self.emissions.push(Emission::Reject(packet, reason, error));
    }

    /// `segment`, TCP made by this stage of a packet and in its direction, is turned round and sent to that packet's
    /// sender, past all stages.
    pub fn answer(&mut self, segment: Packet) {
        self.counters.answered += segment.amount();
        self.emissions.push(Emission::Answer(segment));
    }

    /// Says that `packet`, about to be forwarded or held, was made by this stage.
    pub fn created(&mut self, packet: &Packet) {
        self.counters.created += packet.amount();
        *self.created += packet.amount();
    }

    /// Says that `packet`, about to be forwarded or held, was changed by this stage.
    pub fn rewritten(&mut self, packet: &Packet) {
        self.counters.rewritten += packet.amount();
    }

    /// The stage keeps `packet` itself, until it says [`Outlet::unkeep`] or [`Stage::relinquish`] is asked for it.
    pub fn keep(&mut self, packet: &Packet) {
        let amount = packet.amount();
        self.kept.packets = self.kept.packets.wrapping_add(amount.packets);
        self.kept.bytes = self.kept.bytes.wrapping_add(amount.bytes);
        self.counters.delayed += amount;
    }

    /// The stage no longer keeps `packet`, and is about to forward, hold or drop it.
    pub fn unkeep(&mut self, packet: &Packet) {
        let amount = packet.amount();
        self.kept.packets = self.kept.packets.wrapping_sub(amount.packets);
        self.kept.bytes = self.kept.bytes.wrapping_sub(amount.bytes);
    }

    /// Calls [`Stage::wake`] at `at`.
    pub fn wake_at(&mut self, at: Instant) {
        self.emissions.push(Emission::Wake(at));
    }
}
