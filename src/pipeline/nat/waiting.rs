//! Later fragments that came before the first one of their datagram (RFC 4787 REQ-14). They are held until the first
//! one has passed; their number and time are limited.
//! bounded number for a bounded time.

use crate::pipeline::packet::Packet;
use crate::pipeline::time::{Duration, Instant};

/// Maximum number of fragments that wait: limits the cost of hostile ones.
const MOST: usize = 64;

/// How long each fragment waits: reordering takes milliseconds, and a lost first fragment never comes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fragments that wait for another.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Vec<Early>);

/// A fragment that waits.
#[derive(Debug)]
pub(crate) struct Early {
    /// If the translator has to route the packet, it is on no path; otherwise it continues at [`Packet::seat`].
    pub(crate) packet: Packet,
    /// The translator.
    pub(crate) nat: u16,
    /// When it is dropped.
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

    /// The first fragment, in order of arrival, that no longer has to wait or may not wait any longer.
    pub(crate) fn next(&mut self, now: Instant, is_known: impl Fn(&Early) -> bool) -> Option<Early> {
        let at = self.0.iter().position(|early| early.until <= now || is_known(early))?;
        Some(self.0.remove(at))
    }

    /// Any of them, while there are some.
    pub(crate) fn relinquish(&mut self) -> Option<Packet> {
        self.0.pop().map(|early| early.packet)
    }
}
