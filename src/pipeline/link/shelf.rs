//! Packets that a stage holds until others have passed, or until a timeout.

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Kept, Outlet};
use crate::pipeline::time::{Duration, Instant};

/// Maximum number of packets that one worker holds; further ones pass in order.
const MOST: usize = 1024;

/// The held packets, in order of arrival; `T` is what the stage notes about each.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    /// The same for all packets, so that they time out in order of arrival.
    timeout: Duration,
    kept: Vec<Entry<T>>,
    /// Whether a wake-up is pending: there is at most one at a time.
    is_waiting: bool,
}

#[derive(Debug)]
struct Entry<T> {
    packet: Kept,
    until: Instant,
    note: T,
}

impl<T> Shelf<T> {
    /// An empty shelf, on which a packet stays for `timeout` at most.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, kept: Vec::with_capacity(MOST), is_waiting: false }
    }

    /// Whether there is no room.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MOST
    }

    /// Whether a packet of `flow` is held.
    pub(crate) fn has(&self, flow: FlowRef) -> bool {
        self.kept.iter().any(|entry| entry.packet.flow == flow)
    }

    /// Holds `packet`.
    pub(crate) fn put(&mut self, packet: Packet, note: T, now: Instant, out: &mut Outlet<'_>) {
        self.kept.push(Entry { packet: out.keep(packet), until: now + self.timeout, note });
        self.ask_for_wake(out);
    }

    /// Forwards the held packets of `flow` that are `ready`, in order of arrival; `ready` may change the note.
    pub(crate) fn release(
        &mut self,
        flow: FlowRef,
        out: &mut Outlet<'_>,
        mut ready: impl FnMut(&mut T) -> bool,
    ) {
        self.forward(out, |entry| entry.packet.flow == flow && ready(&mut entry.note));
    }

    /// Forwards the packets that have timed out; called when the stage is woken.
    pub(crate) fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        self.is_waiting = false;
        self.forward(out, |entry| entry.until <= now);
        self.ask_for_wake(out);
    }

    /// Gives up the last packet, at the end of the run.
    pub(crate) fn relinquish(&mut self) -> Option<Kept> {
        self.kept.pop().map(|entry| entry.packet)
    }

    fn forward(&mut self, out: &mut Outlet<'_>, ready: impl FnMut(&mut Entry<T>) -> bool) {
        for Entry { packet, .. } in self.kept.extract_if(.., ready) {
            let packet = out.unkeep(packet);
            out.forward(packet);
        }
    }

    /// Asks for a wake-up at the first timeout, unless one is pending.
    fn ask_for_wake(&mut self, out: &mut Outlet<'_>) {
        if let Some(first) = self.kept.first().filter(|_| !self.is_waiting) {
            self.is_waiting = true;
            out.wake_at(first.until);
        }
    }
}
