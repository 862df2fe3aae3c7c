//! The trait of a stage: one impairment of a path.
//!
//! A stage first *decides*: how many wire packets at the front of a packet get the same treatment, and which.
//! Deciding reads the packet but does not change it. The path then cuts the train there, if the decision falls inside
//! it, and carries the decision out. A packet only comes back to the stage if the stage changes bytes, makes packets
//! or keeps them; it comes with the plan that the decision made, so nothing is drawn or classified twice. A stage
//! that always answers for one wire packet is correct; one that answers for long runs is also fast. Both must give
//! the same wire packets.
//!
//! The result for a packet is an [`Outcome`], whether a decision says it or a stage that has taken the packet. A
//! stage that works in both directions sees the packets of the opposite path too: [`Packet::path`] says which path a
//! packet is on.
//!
//! Laws, each a property test over every stage (`pipeline::testing::laws`): every packet that comes in or is created
//! goes out, is dropped with a reason, or is held; nothing leaves before it came; a train is treated as its segments
//! would be; the same seed gives the same result.

use std::fmt;
use std::ops::Deref;

use crate::pipeline::counters::{Amount, Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::pool::Pool;
use crate::pipeline::random::rng::Draw;
use crate::pipeline::router::ear::{Deed, Ear, Headers};
use crate::pipeline::router::path::SeatId;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

/// The result for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on to the next stage at once.
    Pass,
    /// It is dropped.
    Drop(Reason),
    /// It waits, and goes on to the next stage at this instant; immediately, if the instant is not in the future.
    Hold(Instant),
    /// It is dropped, and its sender gets an ICMP error.
    Reject(Reason, IcmpError),
}

/// What happens to some wire packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<P = ()> {
    /// They get this outcome.
    Settle(Outcome),
    /// [`Stage::rewrite`] changes them in place according to the plan, then they go on.
    Rewrite(P),
    /// [`Stage::take`] handles them according to the plan.
    Take(P),
}

impl<P> Action<P> {
    /// They go on to the next stage at once.
    pub const PASS: Self = Self::Settle(Outcome::Pass);

    /// They are dropped.
    pub const fn drop(reason: Reason) -> Self {
        Self::Settle(Outcome::Drop(reason))
    }

    /// They wait until this instant.
    pub const fn hold(until: Instant) -> Self {
        Self::Settle(Outcome::Hold(until))
    }

    /// The same action with another plan.
    #[inline]
    pub fn map<Q>(self, plan: impl FnOnce(P) -> Q) -> Action<Q> {
        match self {
            Self::Settle(outcome) => Action::Settle(outcome),
            Self::Rewrite(found) => Action::Rewrite(plan(found)),
            Self::Take(found) => Action::Take(plan(found)),
        }
    }
}

impl Action {
    /// [`Stage::rewrite`] without a plan.
    pub const REWRITE: Self = Self::Rewrite(());
    /// [`Stage::take`] without a plan.
    pub const TAKE: Self = Self::Take(());

    /// What a loss does to this packet. With `ecn`, an ECN-capable packet is marked (RFC 3168) by [`Stage::rewrite`];
    /// any other is dropped.
    pub fn lose(packet: &Packet, ecn: bool) -> Self {
        if ecn && packet.is_ecn_capable() { Self::REWRITE } else { Self::drop(Reason::Loss) }
    }
}

/// A decision of a stage about the first `count` wire packets of the packet that it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<P = ()> {
    /// At least 1, at most the limit that was given.
    pub count: u32,
    /// What happens to them.
    pub action: Action<P>,
}

impl<P> Verdict<P> {
    /// `action` for the first `count`.
    pub const fn new(count: u32, action: Action<P>) -> Self {
        Self { count, action }
    }

    /// The same verdict with another plan.
    #[inline]
    pub fn map<Q>(self, plan: impl FnOnce(P) -> Q) -> Verdict<Q> {
        Verdict { count: self.count, action: self.action.map(plan) }
    }
}

/// One impairment. Pure: no I/O, no clock, no allocation once warm.
pub trait Stage {
    /// What a decision passes on to the method that carries it out.
    type Plan: fmt::Debug + Copy;

    /// Decides about the first wire packets of `packet`, at least 1 and at most `limit` of them. The state of the
    /// stage advances by exactly the count that it returns.
    ///
    /// For a packet of the opposite path, a stage answers [`Outcome::Pass`], [`Outcome::Drop`] or
    /// [`Action::Rewrite`].
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<Self::Plan>;

    /// Changes the bytes of `packet` (all its wire packets alike) without changing its length. Returns true if
    /// something changed.
    fn rewrite(&mut self, _packet: &mut Packet, _plan: Self::Plan, _now: Instant) -> bool {
        false
    }

    /// Handles `packet` with the methods of `out`. It must account for the packet, by [`Packet::take`] or
    /// [`Outlet::drop`].
    fn take(&mut self, _packet: &mut Packet, _plan: Self::Plan, _now: Instant, _out: &mut Outlet<'_>) {}

    /// A packet that this stage held by [`Outcome::Hold`] goes on now.
    fn released(&mut self, _packet: &Packet, _now: Instant) {}

    /// The time asked for by [`Outlet::wake_at`] has come.
    fn wake(&mut self, _now: Instant, _out: &mut Outlet<'_>) {}

    /// The draw by which the stage lost the first wire packet of `packet`; `None` if no single draw decides that.
    fn drawn(&self, _packet: &Packet) -> Option<Draw> {
        None
    }

    /// How many of the flow's next plain packets ([`crate::pipeline::router::quiet`]) this stage would let pass with
    /// no other effect on its state than [`Stage::passed`] has. The default: it may act on the next one.
    fn quiet(&self, _ahead: &Ahead) -> Quiet {
        Quiet::NO_MORE
    }

    /// `count` wire packets of the flow have passed without being shown: at least one, and at most as many as
    /// [`Stage::quiet`] allowed.
    fn passed(&mut self, _ahead: &Ahead, _count: u64) {}

    /// Packets that were delayed to leave with their predecessor, to keep the order.
    fn clamped(&self) -> u64 {
        0
    }

    /// Gives up a packet that the stage itself keeps, at the end of the run; `None` when there are no more.
    fn relinquish(&mut self) -> Option<Kept> {
        None
    }
}

/// A packet that a stage keeps itself and that counts as held. [`Outlet::keep`] makes one. [`Outlet::unkeep`] makes
/// it a packet again, or the router does at the end of the run.
#[derive(Debug)]
pub struct Kept(Packet);

impl Kept {
    /// A kept packet that does not count as held.
    #[cfg(test)]
    pub(crate) const fn uncounted(packet: Packet) -> Self {
        Self(packet)
    }

    /// Gives the packet back at the end of the run, when the router counts what was held.
    pub(crate) fn into_packet(self) -> Packet {
        self.0
    }
}

impl Deref for Kept {
    type Target = Packet;

    fn deref(&self) -> &Packet {
        &self.0
    }
}

/// What a stage did with a packet that it took; the path carries this out after the stage has returned.
#[derive(Debug)]
pub enum Emission {
    /// The packet gets this outcome.
    Settle(Packet, Outcome),
    /// A segment made by the stage goes back to the sender of the packet that it was made from.
    Answer(Packet),
    /// The stage wants to be woken.
    Wake(Instant),
    /// Counts for a packet that waits with packets of other seats; they belong to the packet's own seat.
    Counted {
        /// The packet's own seat.
        seat: SeatId,
        /// What began to wait.
        delayed: Amount,
        /// What was changed.
        rewritten: Amount,
    },
}

impl Emission {
    /// The seat of the packet that the emission is about; `None` if it is about the stage.
    pub(crate) const fn seat(&self) -> Option<SeatId> {
        match self {
            Self::Settle(packet, _) | Self::Answer(packet) => {
                Some(SeatId { path: packet.path, seat: packet.seat })
            }
            Self::Counted { seat, .. } => Some(*seat),
            Self::Wake(_) => None,
        }
    }
}

/// What a stage can do with packets that it has taken. The methods that make, change or keep packets also count them.
#[derive(Debug)]
pub struct Outlet<'a> {
    /// Buffers for what is taken.
    pub pool: &'a mut Pool,
    pub(crate) emissions: &'a mut Vec<Emission>,
    pub(crate) counters: &'a mut StageCounters,
    pub(crate) created: &'a mut Amount,
    pub(crate) kept: &'a mut Amount,
    /// The listener to what the stage does, if there is one.
    pub(crate) ear: Option<&'a mut (dyn Ear + 'a)>,
    /// Packets of several seats come to this stage: each is counted at its own seat.
    pub(crate) has_guests: bool,
}

impl Outlet<'_> {
    /// `packet` gets this `outcome`.
    pub fn settle(&mut self, packet: Packet, outcome: Outcome) {
        self.emissions.push(Emission::Settle(packet, outcome));
    }

    /// `packet` goes on to the next stage.
    pub fn forward(&mut self, packet: Packet) {
        self.settle(packet, Outcome::Pass);
    }

    /// `packet` goes on to the next stage at `until`.
    pub fn hold(&mut self, packet: Packet, until: Instant) {
        self.settle(packet, Outcome::Hold(until));
    }

    /// `packet` is dropped.
    pub fn drop(&mut self, packet: Packet, reason: Reason) {
        self.settle(packet, Outcome::Drop(reason));
    }

    /// `segment`, TCP, was made by this stage from a packet and in its direction. It is turned round and sent to that
    /// packet's sender, past all stages.
    pub fn answer(&mut self, segment: Packet) {
        self.counters.answered += segment.amount();
        self.emissions.push(Emission::Answer(segment));
    }

    /// Counts a packet that this stage has made and is about to settle.
    pub fn created(&mut self, packet: Packet) -> Packet {
        self.counters.created += packet.amount();
        *self.created += packet.amount();
        self.hear(Deed::Created, &packet);
        packet
    }

    /// A copy of `packet`, as [`Packet::copy`] makes it.
    pub fn copy(&mut self, packet: &Packet, salt: u64) -> Packet {
        let copy = packet.copy(self.pool, salt);
        self.created(copy)
    }

    /// Changes `packet`, which is about to be settled or kept, by `change`; it counts as rewritten if `change`
    /// returns true.
    pub fn rewrite(&mut self, packet: &mut Packet, change: impl FnOnce(&mut Packet) -> bool) {
        let before = self.ear.is_some().then(|| Headers::of(packet));
        if change(packet) {
            self.count(packet, Amount::default(), packet.amount());
            if let Some(before) = &before {
                self.hear(Deed::Rewritten(before), packet);
            }
        }
    }

    fn count(&mut self, packet: &Packet, delayed: Amount, rewritten: Amount) {
        if self.has_guests {
            let seat = SeatId { path: packet.path, seat: packet.seat };
            self.emissions.push(Emission::Counted { seat, delayed, rewritten });
        } else {
            self.counters.delayed += delayed;
            self.counters.rewritten += rewritten;
        }
    }

    /// Marks `packet` with congestion experienced (RFC 3168), if it is ECN-capable and not marked.
    pub fn mark(&mut self, packet: &mut Packet) {
        self.rewrite(packet, Packet::mark_congestion);
    }

    /// As [`Self::mark`], for a packet that the stage keeps.
    pub fn mark_kept(&mut self, packet: &mut Kept) {
        self.mark(&mut packet.0);
    }

    /// The stage keeps `packet` itself, until it calls [`Self::unkeep`], or until [`Stage::relinquish`] takes it
    /// back.
    pub fn keep(&mut self, packet: Packet) -> Kept {
        let amount = packet.amount();
        self.kept.packets = self.kept.packets.wrapping_add(amount.packets);
        self.kept.bytes = self.kept.bytes.wrapping_add(amount.bytes);
        self.count(&packet, amount, Amount::default());
        self.hear(Deed::Kept, &packet);
        Kept(packet)
    }

    /// The stage no longer keeps the packet, and is about to settle it.
    pub fn unkeep(&mut self, packet: Kept) -> Packet {
        let amount = packet.amount();
        self.kept.packets = self.kept.packets.wrapping_sub(amount.packets);
        self.kept.bytes = self.kept.bytes.wrapping_sub(amount.bytes);
        self.hear(Deed::Released, &packet);
        packet.0
    }

    /// Calls [`Stage::wake`] at `at`.
    pub fn wake_at(&mut self, at: Instant) {
        self.emissions.push(Emission::Wake(at));
    }

    #[inline]
    fn hear(&mut self, deed: Deed<'_>, packet: &Packet) {
        if let Some(ear) = &mut self.ear {
            ear.hear(deed, packet);
        }
    }
}
