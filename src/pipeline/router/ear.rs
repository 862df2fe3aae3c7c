//! Reports of what a stage does to packets that it has taken. The path cannot see this itself.

use crate::pipeline::packet::Packet;

/// What a stage did to a packet.
#[derive(Debug, Clone, Copy)]
pub enum Deed<'a> {
    /// It made the packet: a copy, a fragment, a forged segment.
    Created,
    /// It changed the packet, whose first bytes were these.
    Rewritten(&'a Headers),
    /// It keeps the packet, and cannot say how long.
    Kept,
    /// It no longer keeps the packet, and is about to forward, hold or drop it.
    Released,
}

/// A listener to a stage: it is called for each thing that the stage does, when the stage does it.
pub(crate) trait Ear {
    /// The stage that is being called did this to `packet`.
    fn hear(&mut self, deed: Deed<'_>, packet: &Packet);
}

impl std::fmt::Debug for dyn Ear + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ear")
    }
}

/// The first bytes of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    bytes: [u8; Self::LEN],
    length: usize,
}

impl Headers {
    /// The largest number of bytes that are kept: enough for IPv6, TCP and its options.
    pub const LEN: usize = 100;

    /// The headers of `packet`.
    pub fn of(packet: &Packet) -> Self {
        let length = packet.bytes().len().min(Self::LEN);
        let mut bytes = [0; Self::LEN];
        bytes[..length].copy_from_slice(&packet.bytes()[..length]);
        Self { bytes, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
