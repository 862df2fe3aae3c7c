//! What one worker knows of the TCP connections that it sees from the middle: both directions in one place.
//!
//! A stage that needs this has a table of its own, so that it sees a connection as it is at the stage's place in its path:
//! what an earlier stage dropped never happened. [`table`] is the memory, bounded and without allocation.

pub mod table;

pub use table::{Standing, Table};

use crate::pipeline::packet::Packet;
use crate::pipeline::wire::{FlowKey, Tcp, Update, tcp::flag};

/// A connection under the key of one of its directions, the *home* direction of the stage that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnKey {
    /// The home direction.
    pub key: FlowKey,
    /// The hash of the key.
    pub hash: u64,
}

impl ConnKey {
    /// The connection of a packet in home direction, by the current bytes of the packet.
    pub fn home(packet: &Packet) -> Self {
        let key = FlowKey::new(packet.bytes(), packet.layout);
        Self { key, hash: key.hash() }
    }

    /// The connection of a packet in the opposite direction.
    pub fn back(packet: &Packet) -> Self {
        let key = FlowKey::new(packet.bytes(), packet.layout).reversed();
        Self { key, hash: key.hash() }
    }
}

/// The TCP header of a packet; `None` if it is not TCP with a whole header.
pub fn tcp(packet: &Packet) -> Option<Tcp<&[u8]>> {
    if !packet.is_tcp() {
        return None;
    }
    Tcp::new(&packet.bytes()[packet.layout.transport_offset()..]).ok()
}

/// Changes the TCP header of `packet` by `how`, which returns whether it changed anything; the checksum stays as
/// correct as it was. False if the packet is not TCP with a whole header.
pub fn change(packet: &mut Packet, how: impl FnOnce(&mut Tcp<&mut [u8]>, Update) -> bool) -> bool {
    if !packet.is_tcp() {
        return false;
    }
    let at = packet.layout.transport_offset();
    let update = packet.checksum_update();
    Tcp::new(&mut packet.bytes_mut()[at..]).is_ok_and(|mut tcp| how(&mut tcp, update))
}

impl Standing {
    /// The standing of a connection after a segment with these flags, for owners that do not track it more closely.
    #[must_use]
    pub const fn after(self, flags: u8) -> Self {
        if flags & (flag::FIN | flag::RST) != 0 {
            return Self::Closed;
        }
        match self {
            _ if flags & flag::SYN != 0 => Self::HalfOpen,
            Self::Closed => Self::Closed,
            _ => Self::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_move_a_connection_on() {
        use Standing::{Closed, HalfOpen, Open};
        for (before, flags, after) in [
            (Open, flag::SYN, HalfOpen),
            (Closed, flag::SYN | flag::ACK, HalfOpen),
            (HalfOpen, flag::ACK, Open),
            (Open, flag::ACK | flag::PSH, Open),
            (Open, flag::FIN | flag::ACK, Closed),
            (HalfOpen, flag::RST, Closed),
            // What comes late does not open it again.
            (Closed, flag::ACK, Closed),
        ] {
            assert_eq!(before.after(flags), after, "{before:?}, {flags:#x}");
        }
    }
}
