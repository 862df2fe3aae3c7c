//! Where the later fragments of a datagram go: they have no ports, so they take the route of the first fragment.

use crate::pipeline::nat::session::Tick;
use crate::pipeline::packet::Packet;
use crate::pipeline::wire::{End, FlowKey, Host, Ipv4, Ipv6, Version};

/// Number of datagrams that are remembered. A new one replaces one with the same hash.
const PLACES: usize = 1024;

/// Ticks for which a datagram is remembered: what Linux waits for the rest of one.
const LIFETIME: u32 = 30 << 10;

/// Datagrams whose first fragment has passed.
#[derive(Debug)]
pub(super) struct Fragments(Vec<Option<Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    datagram: Datagram,
    seen: Tick,
    host: Host,
}

/// The common fields of all fragments of a datagram, and which of its ends is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram {
    key: FlowKey,
    id: u32,
    end: End,
}

impl Datagram {
    /// Of a fragment, as it is now.
    pub(super) fn of(packet: &Packet, end: End) -> Option<Self> {
        let bytes = packet.bytes();
        let id = match packet.layout.version() {
            Version::V4 => Ipv4::new(bytes).ok()?.id().into(),
            Version::V6 => Ipv6::new(bytes).ok()?.extensions().ok()?.fragment?.id,
        };
        Some(Self { key: FlowKey::new(bytes, packet.layout), id, end })
    }

    fn place(&self) -> usize {
        let hash = self.key.hash() ^ u64::from(self.id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Of a hairpin both are remembered.
        ((hash >> 16) as usize ^ usize::from(self.end == End::Source)) & (PLACES - 1)
    }
}

impl Fragments {
    pub(super) fn new() -> Self {
        Self(vec![None; PLACES])
    }

    /// Remembers the new address for this end of the datagram.
    pub(super) fn remember(&mut self, datagram: Datagram, host: Host, now: Tick) {
        self.0[datagram.place()] = Some(Known { datagram, seen: now, host });
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// The remembered address.
    pub(super) fn find(&self, datagram: &Datagram, now: Tick) -> Option<Host> {
        self.0[datagram.place()]
            .filter(|known| known.datagram == *datagram && now.since(known.seen) < LIFETIME)
            .map(|known| known.host)
    }
}
