//! What the caller of the router provides: an output for packets and, if wanted, a listener for what happens to them.

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

    /// Sends `packet` out by port `port`. `due` is when it should leave; the current time may be later.
    ///
    /// # Errors
    /// If the packet is not sent: the reason under which it is counted as dropped.
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason>;

    /// Something happened to `packet` at `at`.
    fn record(&mut self, _what: What, _packet: &Packet, _at: Instant) {}

    /// Which transmission of its data `packet` is; called when the packet has just been numbered in its flow. See
    /// [`Packet::transmission`].
    fn transmission(&mut self, _packet: &Packet) -> u8 {
        0
    }

    /// Whether the drop of a train must be reported one wire packet at a time if a draw decided about each.
    fn wants_draws(&self) -> bool {
        false
    }

    /// `packet` was dropped at `place`, or outside of paths. `draw` is the draw that decided about it, if one did;
    /// for a train, the draw for its first wire packet.
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

    /// Whether [`Egress::rewritten`] needs the headers from before the change.
    fn wants_headers(&self) -> bool {
        false
    }

    /// The bytes of `packet` were changed at this seat. `before` has the old headers, if they are wanted.
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

/// Reports to an egress what a stage does.
pub(super) struct Hearing<'e, E> {
    pub(super) egress: &'e mut E,
    pub(super) place: SeatId,
    /// Packets of several seats come to this stage: each is reported at its own seat.
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
    /// It got a flow and a number in the flow, and begins its path.
    Entered,
    /// It was read from the device of this port.
    Received(u16),
    /// The device of this port has taken it.
    Sent(u16),
    /// It was dropped, at this seat or outside of paths.
    Dropped(Option<SeatId>, Reason),
    /// Its bytes were changed at this seat.
    Rewritten(SeatId),
    /// It waits at this seat until this instant.
    Held(SeatId, Instant),
    /// The router (or a stage) made it.
    Created(Option<SeatId>),
}
