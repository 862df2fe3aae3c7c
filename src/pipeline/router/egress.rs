//! What the router needs from its owner: an output for packets, and, if wanted, a listener for what happens to them.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::Draw;
use crate::pipeline::router::ear::{Deed, Ear, Headers};
use crate::pipeline::router::path::SeatId;
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

    /// Whether trains that are dropped have to be told one wire packet at a time where a draw decided about each.
    fn wants_draws(&self) -> bool {
        false
    }

    /// `packet` was dropped at `place`, or outside of paths. `draw` tells the draw that decided about it (of a train, about its
    /// first wire packet), if one did.
    fn dropped(
        &mut self,
        place: Option<SeatId>,
        reason: Reason,
        packet: &Packet,
        at: Instant,
        _draw: &dyn Fn() -> Option<Draw>,
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

    /// Whether [`Egress::did`] wants to be called.
    fn hears(&self) -> bool {
        false
    }

    /// The stage at `place` did this to `packet`, which it has taken.
    fn did(&mut self, _place: SeatId, _deed: Deed<'_>, _packet: &Packet, _at: Instant) {}
}

/// Tells an egress of the deeds of a stage.
pub(super) struct Hearing<'e, E> {
    pub(super) egress: &'e mut E,
    pub(super) place: SeatId,
    /// Packets of several seats come there: each is told of at its own.
    pub(super) has_guests: bool,
    pub(super) now: Instant,
}

impl<E: Egress> Ear for Hearing<'_, E> {
    fn hear(&mut self, deed: Deed<'_>, packet: &Packet) {
        let own = SeatId { path: packet.path, seat: packet.seat };
        self.egress.did(if self.has_guests { own } else { self.place }, deed, packet, self.now);
    }
}

/// What can happen to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It has a flow and a number in it, and begins its path.
    Entered,
    /// It was read from the device of this port.
    Received(u16),
    /// The device of this port has taken it.
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
