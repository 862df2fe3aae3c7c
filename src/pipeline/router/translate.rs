//! Translators on the path of a packet, and fragments that wait there for the first fragment of their datagram.

use super::{Egress, Event, Headers, Route, Router};
use crate::pipeline::counters::Reason;
use crate::pipeline::nat::Early;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::NatPlace;
use crate::pipeline::router::answer::Answers;
use crate::pipeline::router::path::{Path, SeatId};
use crate::pipeline::time::Instant;

/// Which translator was asked about a packet, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Index of the translator.
    nat: u16,
    /// Index of its seat in the packet's path; `None` before the packet has a path.
    seat: Option<u16>,
}

impl Asked {
    /// Asked when a packet to one of its addresses arrives: where does it go.
    pub(super) const fn on_arrival(nat: u16) -> Self {
        Self { nat, seat: None }
    }

    /// Asked at its seat in a path.
    const fn at(nat: u16, seat: u16) -> Self {
        Self { nat, seat: Some(seat) }
    }
}

impl Router {
    /// Sends a packet to an address of a translator on to the host inside that the address stands for. A packet that
    /// comes from inside is translated at once, since no path from inside to inside has a seat for the translator.
    #[inline(never)]
    pub(super) fn route_by_nat<E: Egress>(
        &mut self,
        packet: &mut Packet,
        index: u16,
        now: Instant,
        egress: &mut E,
    ) {
        let inside = match self.translators.get(index).route(packet, now) {
            Ok(inside) => inside,
            // The translator uses the router's own address.
            Err(Reason::NatNoMapping | Reason::NatUnsupported)
                if self.ports.iter().any(|port| port.own.contains(&packet.destination())) =>
            {
                return self.answer(packet, now, egress);
            }
            Err(reason) => return self.keep_or_drop(packet, Asked::on_arrival(index), reason, now, egress),
        };
        self.tell_fragments(packet, now);
        let route = self.way().route(packet.ingress, inside);
        let translates = |path: &Path| path.translator().is_some_and(|(_, place)| place.nat == index);
        let is_hairpin = matches!(route, Route::Path(path) if !translates(&self.paths[usize::from(path)]));
        self.follow_route(packet, route, is_hairpin.then_some(index), now, egress);
    }

    /// Lets the translator at seat `at` of its path change `packet`; false if the packet does not continue.
    #[inline(never)]
    pub(super) fn translate<E: Egress>(
        &mut self,
        packet: &mut Packet,
        at: usize,
        place: NatPlace,
        now: Instant,
        egress: &mut E,
    ) -> bool {
        let path = packet.path;
        let before = (E::RECORDS && egress.wants_headers()).then(|| Headers::of(packet));
        let mut verdict = self.translators.get(place.nat).translate(packet, place.outward, now);
        // The packet has waited, and its port outside belongs to another mapping by now.
        if verdict == Ok(true) && !place.outward && at > 0 {
            let to = self.way().route(packet.ingress, packet.destination());
            if to != Route::Path(path) {
                verdict = Err(Reason::NatNoMapping);
            }
        }
        match verdict {
            Ok(changed) => {
                let id = SeatId { path, seat: at as u16 };
                let seat = self.seat(id);
                let amount = packet.amount();
                seat.counters.seen += amount;
                if changed {
                    seat.counters.rewritten += amount;
                    if E::RECORDS {
                        egress.rewritten(id, before.as_ref(), packet, now);
                    }
                }
                self.tell_fragments(packet, now);
                true
            }
            Err(reason) => {
                self.keep_or_drop(packet, Asked::at(place.nat, at as u16), reason, now, egress);
                false
            }
        }
    }

    /// Handles a packet for which the translator has no mapping: a later fragment waits for its first one, anything
    /// else is dropped.
    #[cold]
    pub(super) fn keep_or_drop<E: Egress>(
        &mut self,
        packet: &mut Packet,
        asked: Asked,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        if reason == Reason::NatFragment && self.translators.waiting.has_room() {
            let mut packet = packet.take(&mut self.pool);
            packet.seat = asked.seat.unwrap_or(0);
            self.held += packet.amount();
            let until = self.translators.waiting.keep(packet, asked.nat, now);
            return self.plan(until, Event::Fragments);
        }
        self.drop_untranslated(packet, asked, reason, now, egress);
    }

    /// Drops a packet that the translator has refused.
    pub(super) fn drop_untranslated<E: Egress>(
        &mut self,
        packet: &mut Packet,
        asked: Asked,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        let place = asked.seat.map(|seat| SeatId { path: packet.path, seat });
        if let Some(place) = place {
            self.seat(place).counters.seen += packet.amount();
        }
        // The sender of a hairpinned packet is inside, too.
        let outward = |path: &Path| path.translator().is_none_or(|(_, place)| place.outward);
        let outward = self.paths.get(usize::from(packet.path)).is_some_and(outward);
        if reason == Reason::NatNoSession && outward && self.translators.get(asked.nat).resets() {
            return self.reset_each(packet, place, reason, now, egress);
        }
        self.drop_whole(packet, place, reason, now, egress);
    }

    /// Drops `packet` and answers each of its wire packets with a RST.
    #[cold]
    pub(super) fn reset_each<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<SeatId>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            let answer = Answers::reset(packet, &mut self.pool);
            self.drop_whole(packet, place, reason, now, egress);
            if let Some(answer) = answer {
                if let Some(place) = place {
                    self.seat(place).counters.answered += answer.amount();
                }
                self.send_own(answer, place, now, egress);
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    /// If `packet` is a first fragment, the later fragments of its datagram may continue as soon as it has passed.
    #[inline]
    pub(super) fn tell_fragments(&mut self, packet: &Packet, now: Instant) {
        if !self.translators.waiting.is_empty() && packet.layout.is_first_fragment() {
            self.plan(now, Event::Fragments);
        }
    }

    /// Continues fragments whose first one has passed, in order; drops those that have waited too long.
    #[cold]
    pub(super) fn release_fragments<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        loop {
            let paths = &self.paths;
            let is_outward = |packet: &Packet| {
                let path = paths.get(usize::from(packet.path));
                path.and_then(Path::translator).is_some_and(|(_, place)| place.outward)
            };
            let next = self.translators.next_early(now, is_outward);
            let Some(Early { mut packet, nat, until }) = next else { return };
            self.release(&packet);
            let is_routed = packet.path != Packet::NO_PATH;
            if until <= now {
                let asked = Asked { nat, seat: is_routed.then_some(packet.seat) };
                self.drop_untranslated(&mut packet, asked, Reason::NatFragment, now, egress);
            } else {
                packet.set_waited();
                if is_routed {
                    let seat = usize::from(packet.seat);
                    self.run(&mut packet, seat, now, egress);
                } else {
                    self.route_by_nat(&mut packet, nat, now, egress);
                }
            }
            self.pool.give(packet.into_buffer());
        }
    }

    /// Changes a packet that was translated back to what its sender sent; false if this is no longer known.
    pub(super) fn untranslate(
        &mut self,
        packet: &mut Packet,
        place: Option<SeatId>,
        reason: Reason,
        now: Instant,
    ) -> bool {
        // A packet that was rejected before its path had not been translated.
        let path = match place {
            Some(place) => place.path,
            None if reason == Reason::PortMtu => packet.path,
            None => return true,
        };
        self.restore(packet, path, place.map(|place| place.seat), now)
    }

    /// Undoes the translation of `packet` by the translator of the path, if the packet has passed the translator's
    /// seat (`seat` is `None` after the last seat). If the path has no translator, undoes a hairpin. False if it is
    /// no longer known what was translated.
    pub(super) fn restore(
        &mut self,
        packet: &mut Packet,
        path: u16,
        seat: Option<u16>,
        now: Instant,
    ) -> bool {
        if let Some((at, translator)) = self.paths[usize::from(path)].translator() {
            return seat.is_some_and(|seat| usize::from(seat) <= at)
                || self.translators.get(translator.nat).restore(packet, translator.outward, now);
        }
        self.translators.restore_hairpin(packet, now)
    }
}
