//! The ways out of the router: a port, a drop, an error to the sender.

use std::net::IpAddr;

use super::{Egress, Router, What};
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

impl Router {
    /// The last step: out by the path's port, if the packet fits its MTU.
    pub(super) fn leave<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        let port = self.paths[usize::from(packet.path)].to;
        let mtu = self.ports[usize::from(port)].mtu;
        if packet.wire_length(0) > mtu {
            return self.too_big(packet, port, mtu, now, egress);
        }
        self.send(port, packet, now, egress);
    }

    pub(super) fn send<E: Egress>(&mut self, port: u16, packet: &mut Packet, now: Instant, egress: &mut E) {
        match egress.send(port, packet, now) {
            Ok(()) => {
                self.counters.sent += packet.amount();
                if E::RECORDS {
                    egress.record(What::Sent(port), packet, now);
                }
            }
            Err(reason) => self.drop_whole(packet, None, reason, now, egress),
        }
    }

    /// Sends a packet that the router, or the stage at `place`, has made.
    pub(super) fn send_own<E: Egress>(
        &mut self,
        mut packet: Packet,
        place: Option<SeatId>,
        now: Instant,
        egress: &mut E,
    ) {
        packet.path = Packet::NO_PATH;
        packet.arrived = now;
        self.counters.created += packet.amount();
        if E::RECORDS {
            egress.record(What::Created(place), &packet, now);
        }
        let port = packet.ingress;
        self.send(port, &mut packet, now, egress);
        self.pool.give(packet.into_buffer());
    }

    pub(super) fn drop<E: Egress>(
        &mut self,
        mut packet: Packet,
        place: Option<SeatId>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        self.drop_whole(&mut packet, place, reason, now, egress);
        self.pool.give(packet.into_buffer());
    }

    pub(super) fn drop_whole<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<SeatId>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        let amount = packet.amount();
        self.counters.drops.add(reason, amount);
        if let Some(place) = place {
            self.seat(place).counters.drops.add(reason, amount);
        }
        if E::RECORDS {
            self.tell_dropped(packet, place, reason, now, egress);
        }
    }

    /// Reports a drop; for a train, one wire packet at a time if a draw decided about each.
    fn tell_dropped<E: Egress>(
        &self,
        packet: &mut Packet,
        place: Option<SeatId>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        let seat = place.map(|at| &self.paths[usize::from(at.path)].seats[usize::from(at.seat)]);
        let draw = |packet: &Packet| seat.and_then(|seat| seat.drawn(reason, packet));
        let cuts = packet.wires() > 1 && egress.wants_draws() && draw(packet).is_some();
        loop {
            let rest = (cuts && packet.wires() > 1).then(|| packet.detach(1));
            egress.dropped(place, reason, packet, now, &|| draw(packet));
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
            // Only the transmission of the first wire packet is known.
            packet.transmission = 0;
        }
    }

    /// Drops `packet` and sends an error to its sender for each wire packet.
    pub(super) fn reject_each<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<SeatId>,
        reason: Reason,
        error: IcmpError,
        now: Instant,
        egress: &mut E,
    ) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            packet.complete_checksum();
            let is_known = self.untranslate(packet, place, reason, now);
            let port = &self.ports[usize::from(packet.ingress)];
            let destination = [packet.destination()];
            let own: &[IpAddr] = if port.is_wire { &destination } else { &port.own };
            let told =
                is_known.then(|| self.answers.error(packet, error, own, &mut self.pool, now)).flatten();
            self.drop_whole(packet, place, reason, now, egress);
            if let Some(answer) = told {
                self.counters.icmp_sent += 1;
                self.send_own(answer, None, now, egress);
            } else {
                self.counters.icmp_withheld += 1;
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    /// Fragments `packet` for the port's MTU if this is allowed; otherwise rejects it.
    #[cold]
    pub(super) fn too_big<E: Egress>(
        &mut self,
        packet: &mut Packet,
        port: u16,
        mtu: u32,
        now: Instant,
        egress: &mut E,
    ) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            if packet.wire_length(0) <= mtu {
                self.send(port, packet, now, egress);
            } else {
                self.fragment_or_reject(packet, port, mtu, now, egress);
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    pub(super) fn fragment_or_reject<E: Egress>(
        &mut self,
        packet: &mut Packet,
        port: u16,
        mtu: u32,
        now: Instant,
        egress: &mut E,
    ) {
        packet.complete_checksum();
        let Ok(mut fragments) = packet.fragments(mtu) else {
            return self.reject_each(
                packet,
                None,
                Reason::PortMtu,
                IcmpError::PacketTooBig { mtu },
                now,
                egress,
            );
        };
        while let Some(mut fragment) = packet.next_fragment(&mut fragments, &mut self.pool) {
            self.counters.created += fragment.amount();
            if E::RECORDS {
                egress.record(What::Created(None), &fragment, now);
            }
            self.send(port, &mut fragment, now, egress);
            self.pool.give(fragment.into_buffer());
        }
        self.drop_whole(packet, None, Reason::Fragmented, now, egress);
    }
}
