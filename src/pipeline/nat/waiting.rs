//! Later fragments that came before the first one of their datagram (RFC 4787 REQ-14): kept until that one has gone by, a
//! bounded number for a bounded time.

use crate::pipeline::packet::Packet;
use crate::pipeline::time::{Duration, Instant};

/// Most fragments that wait: what hostile ones cost.
const MOST: usize = 64;

/// How long each waits: reordering takes milliseconds, and a first fragment that was lost does not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fragments that wait for another.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Vec<Early>);

/// One that waits.
#[derive(Debug)]
pub(crate) struct Early {
    /// It is on no path where the translator has to route it; else [`Packet::seat`] is where it goes on.
    pub(crate) packet: Packet,
    /// The translator.
    pub(crate) nat: u16,
    /// When it is given up.
    pub(crate) until: Instant,
}

impl Waiting {
    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is room for another.
    pub(crate) const fn has_room(&self) -> bool {
        self.0.len() < MOST
    }

    /// Keeps a packet, and says until when.
    pub(crate) fn keep(&mut self, packet: Packet, nat: u16, now: Instant) -> Instant {
        let until = now + PATIENCE;
        self.0.push(Early { packet, nat, until });
        until
    }

    /// The first of those, in the order in which they came, that need not or may not wait any more.
    pub(crate) fn next(&mut self, now: Instant, is_known: impl Fn(&Early) -> bool) -> Option<Early> {
        let at = self.0.iter().position(|early| early.until <= now || is_known(early))?;
        Some(self.0.remove(at))
    }

    /// Any of them, while there are some.
    pub(crate) fn relinquish(&mut self) -> Option<Packet> {
        self.0.pop().map(|early| early.packet)
    }
}
