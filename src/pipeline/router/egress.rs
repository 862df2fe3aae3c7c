//! What the router asks of whoever runs it: a way out for packets, and, if wanted, an ear for what happens to them.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::path::SeatId;
use crate::pipeline::rng::Draw;
use crate::pipeline::time::Instant;

/// Where packets leave the core: devices, a file, memory.
pub trait Egress {
    /// Whether [`Egress::record`] wants to be called.
    const RECORDS: bool = false;

    /// Sends `packet` out by port `port`. `due` is when it should leave; now may be later.
    ///
    /// # Errors
    /// The reason to count it as dropped by.
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason>;

    /// Something happened to `packet` at `at`.
    fn record(&mut self, _what: What, _packet: &Packet, _at: Instant) {}

    /// Which transmission of its data `packet` is, which has just got its place in its flow: see [`Packet::transmission`].
    fn transmission(&mut self, _packet: &Packet) -> u8 {
        0
    }

    /// `packet` was dropped at `place`, or outside of paths. `draw` tells the draw that decided about each of its wire packets,
    /// if one did.
    fn dropped(
        &mut self,
        place: Option<SeatId>,
        reason: Reason,
        packet: &Packet,
        at: Instant,
        _draw: &dyn Fn(u32) -> Option<Draw>,
    ) {
        self.record(What::Dropped(place, reason), packet, at);
    }

    /// Whether [`Egress::rewritten`] wants to see the headers as they were.
    fn wants_headers(&self) -> bool {
        false
    }

    /// The bytes of `packet` were changed at this seat; its headers were `before`, if those are wanted.
    fn rewritten(&mut self, place: SeatId, _before: Option<&Headers>, packet: &Packet, at: Instant) {
        self.record(What::Rewritten(place), packet, at);
    }
}

/// What can happen to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It has a flow and a number in it, and begins its path.
    Entered,
    /// It was read from the device of this port.
    Received(u16),
    /// It left by this port.
    Sent(u16),
    /// It was dropped, at this seat or outside of paths.
    Dropped(Option<SeatId>, Reason),
    /// Its bytes were changed at this seat.
    Rewritten(SeatId),
    /// It waits at this seat until then.
    Held(SeatId, Instant),
    /// The router (or a stage) made it.
    Created(Option<SeatId>),
}

/// The first bytes of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    bytes: [u8; Self::LEN],
    length: usize,
}

impl Headers {
    /// Bytes that are kept at most: IPv6, TCP and its options.
    pub const LEN: usize = 100;

    /// Those of `packet`.
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
