//! A link that sends the packets of queues one after the other; the common part of stages with such a link.
//!
//! With several workers, each has queues of its own; they share the link and its limits. A worker whose packet is
//! next takes the link by a compare-and-swap of the time at which the link is free.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::pipeline::counters::Reason;
use crate::pipeline::link::capacity::Service;
use crate::pipeline::link::state::LinkState;
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Kept, Outlet};
use crate::pipeline::time::Instant;

/// A packet in a queue.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) packet: Kept,
    /// When it came.
    pub(super) since: Instant,
    /// How many bytes it takes on the link.
    pub(super) bytes: u64,
    /// The discipline has decided to send it.
    pub(super) is_cleared: bool,
}

/// What a queue discipline does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Go,
    Mark,
    Drop,
}

/// The queues in front of a link, and their discipline.
pub(super) trait Queues {
    /// The packet that is sent next.
    fn head(&mut self) -> Option<&mut Waiting>;

    /// Takes out the packet that is sent next.
    fn pop(&mut self) -> Option<Waiting>;

    /// What the discipline does with the next packet, which can be sent at `now`; `state` has what all workers hold.
    fn departure(&mut self, state: &LinkState, now: Instant) -> Fate;

    /// The queues are empty.
    fn rest(&mut self, now: Instant);

    /// Wire packets that wait.
    fn len(&self) -> usize;
}

/// The link.
#[derive(Debug)]
pub(super) struct Line {
    service: Service,
    /// The rate to which a burst is slowed down.
    peak: Option<Service>,
    pub(super) state: Arc<LinkState>,
    sending: Option<(Waiting, Instant)>,
    /// The last wake-up that was asked for.
    wake: Option<Instant>,
}

impl Line {
    /// An idle link.
    pub(super) const fn new(service: Service, peak: Option<Service>, state: Arc<LinkState>) -> Self {
        Self { service, peak, state, sending: None, wake: None }
    }

    /// When the packet that is being sent came.
    pub(super) fn sending_since(&self) -> Option<Instant> {
        self.sending.as_ref().map(|(waiting, _)| waiting.since)
    }

    /// Makes a queue entry from an admitted packet.
    pub(super) fn waiting(packet: Packet, bytes: u64, now: Instant, out: &mut Outlet<'_>) -> Waiting {
        Waiting { packet: out.keep(packet), since: now, bytes, is_cleared: false }
    }

    /// Drops the head of the queues.
    pub(super) fn drop_head(&self, queues: &mut impl Queues, reason: Reason, out: &mut Outlet<'_>) {
        if let Some(head) = queues.pop() {
            let packet = self.leave(head, out);
            out.drop(packet, reason);
        }
    }

    /// Does everything that the link can do by `now`.
    pub(super) fn serve(&mut self, queues: &mut impl Queues, now: Instant, out: &mut Outlet<'_>) {
        loop {
            if self.sending.as_ref().is_some_and(|(_, end)| *end > now) {
                return;
            }
            if let Some((sent, _)) = self.sending.take() {
                let packet = self.leave(sent, out);
                out.forward(packet);
            }
            let Some(head) = queues.head() else { return queues.rest(now) };
            let free = self.state.clock.load(Ordering::Acquire);
            let from = self.service.at(head.since);
            let start = self.service.starts(free, from);
            if start > now && !self.has_rivals(queues) {
                return self.wake_at(start, out);
            }
            // If other workers' packets wait too, the head books the link in advance, and then waits for its time.
            match queues.departure(&self.state, start.max(now)) {
                Fate::Drop => self.drop_head(queues, Reason::Aqm, out),
                Fate::Mark => {
                    if let Some(head) = queues.head() {
                        out.mark_kept(&mut head.packet);
                    }
                }
                Fate::Go => self.send_head(queues, free, from, now, out),
            }
        }
    }

    /// A packet that it still keeps, at the end of the run.
    pub(super) fn relinquish(&mut self, queues: &mut impl Queues) -> Option<Kept> {
        let waiting = self.sending.take().map(|(sending, _)| sending).or_else(|| queues.pop())?;
        self.state.leave(waiting.bytes);
        Some(waiting.packet)
    }

    fn leave(&self, waiting: Waiting, out: &mut Outlet<'_>) -> Packet {
        self.state.leave(waiting.bytes);
        out.unkeep(waiting.packet)
    }

    /// Whether other workers' packets wait for the link.
    fn has_rivals(&self, queues: &impl Queues) -> bool {
        self.state.packets.load(Ordering::Acquire) > queues.len() as u64
    }

    /// Gives the link to the head of the queues, unless another worker has taken it since it was seen free.
    fn send_head(
        &mut self,
        queues: &mut impl Queues,
        free: u64,
        from: u64,
        now: Instant,
        out: &mut Outlet<'_>,
    ) {
        let Some(bytes) = queues.head().map(|head| head.bytes) else { return };
        let (end, service) = self.service.after(free, from, bytes);
        let clock = &self.state.clock;
        if clock.compare_exchange(free, end, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.service = service;
        let end = self.service.ends(end);
        let end = self.slowed(bytes, end.max(now));
        self.sending = queues.pop().map(|head| (head, end));
        self.wake_at(end, out);
    }

    /// When `bytes` that may leave at `at` have left at the peak rate.
    ///
    /// The first bucket may be asked early, before the second one: while a packet waits for the second bucket, the
    /// first one is never full, so it loses no tokens.
    fn slowed(&mut self, bytes: u64, at: Instant) -> Instant {
        let Some(peak) = &mut self.peak else { return at };
        let from = peak.at(at);
        let clock = &self.state.peak;
        let send = |free| Some(peak.after(free, from, bytes).0);
        let free = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, send).unwrap_or_default();
        let (end, after) = peak.after(free, from, bytes);
        *peak = after;
        at.max(peak.ends(end))
    }

    fn wake_at(&mut self, at: Instant, out: &mut Outlet<'_>) {
        if at < Instant::FAR && self.wake != Some(at) {
            self.wake = Some(at);
            out.wake_at(at);
        }
    }
}
