//! A packet on its path: from seat to seat, and what the stages there decide.

use super::{Egress, Event, Headers, Router, What};
use crate::pipeline::counters::Amount;
use crate::pipeline::gate::Claim;
use crate::pipeline::impair::Impairment;
use crate::pipeline::packet::Packet;
use crate::pipeline::path::{Occupant, SeatId};
use crate::pipeline::stage::{Action, Emission, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::bare;

impl Router {
    /// Takes `packet` through the stages from `at` on, and out.
    pub(super) fn run<E: Egress>(
        &mut self,
        packet: &mut Packet,
        mut at: usize,
        now: Instant,
        egress: &mut E,
    ) {
        let path = usize::from(packet.path);
        if at == 0 && self.paths[path].has_phases() {
            packet.set_phase(self.paths[path].phase(now));
        }
        // What the gate has said about wire packets that the stage has not answered for yet.
        let mut claim = Claim { count: 0, acts: false };
        let (mut wires, mut whole) = (packet.wires(), packet.amount());
        while let Some(seat) = self.paths[path].seats.get_mut(at) {
            if claim.count == 0 {
                claim = seat.gate.claim(packet, wires, now);
            }
            let verdict = match &mut seat.occupant {
                _ if !claim.acts => {
                    let amount = if claim.count == wires { whole } else { packet.amount_of(claim.count) };
                    seat.counters.seen += amount;
                    seat.counters.spared += amount;
                    Verdict::new(claim.count, Action::Pass)
                }
                &mut Occupant::Back(home) => {
                    let verdict = self.decide_back(home, packet, claim.count, now);
                    self.paths[path].seats[at].counters.seen += packet.amount_of(verdict.count);
                    verdict
                }
                &mut Occupant::Translator(place) => {
                    if !self.translate(packet, at, place, now, egress) {
                        return;
                    }
                    claim.count = 0;
                    at += 1;
                    continue;
                }
                Occupant::Stage(stage) => {
                    let verdict = stage.decide(packet, claim.count, now);
                    debug_assert!(
                        verdict.count > 0 && verdict.count <= claim.count,
                        "{verdict:?} of {claim:?}"
                    );
                    seat.counters.seen +=
                        if verdict.count == wires { whole } else { packet.amount_of(verdict.count) };
                    verdict
                }
            };
            claim.count -= verdict.count;
            if verdict.count < wires {
                let rest = packet.detach(verdict.count);
                self.fate(packet, at, verdict.action, now, egress);
                packet.attach(&rest);
                (wires, whole) = (packet.wires(), packet.amount());
                continue;
            }
            if verdict.action != Action::Pass {
                return self.fate(packet, at, verdict.action, now, egress);
            }
            at += 1;
        }
        self.leave(packet, now, egress);
    }

    /// What a stage says about a packet of the opposite path.
    #[inline(never)]
    pub(super) fn decide_back(&mut self, home: SeatId, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        let stage = self.seat(home).occupant.stage_mut();
        stage.map_or_else(|| Verdict::new(limit, Action::Pass), |stage| stage.decide_back(packet, limit, now))
    }

    /// As [`Self::decide_back`], of what is to be changed.
    #[inline(never)]
    pub(super) fn rewrite_back(&mut self, home: SeatId, packet: &mut Packet, now: Instant) -> bool {
        self.seat(home).occupant.stage_mut().is_some_and(|stage| stage.rewrite_back(packet, now))
    }

    /// Carries out what stage `at` decided about all of `packet`.
    pub(super) fn fate<E: Egress>(
        &mut self,
        packet: &mut Packet,
        at: usize,
        action: Action,
        now: Instant,
        egress: &mut E,
    ) {
        let place = SeatId { path: packet.path, seat: at as u16 };
        let seat = self.seat(place);
        match action {
            Action::Pass => self.run(packet, at + 1, now, egress),
            Action::Drop(reason) => self.drop_whole(packet, Some(place), reason, now, egress),
            // What need not wait keeps its place among what does not wait either.
            Action::Hold(until) if until <= now => {
                seat.released(packet, now);
                self.run(packet, at + 1, now, egress);
            }
            Action::Hold(until) => {
                seat.counters.held(packet.amount(), until.since(now));
                if E::RECORDS {
                    egress.record(What::Held(place, until), packet, now);
                }
                let packet = packet.take(&mut self.pool);
                self.hold(packet, at, until);
            }
            Action::Rewrite => {
                let before = (E::RECORDS && egress.wants_headers()).then(|| Headers::of(packet));
                let changed = match &mut seat.occupant {
                    Occupant::Stage(stage) => stage.rewrite(packet, now),
                    &mut Occupant::Back(home) => self.rewrite_back(home, packet, now),
                    Occupant::Translator(_) => false,
                };
                if changed {
                    self.seat(place).counters.rewritten += packet.amount();
                    if E::RECORDS {
                        egress.rewritten(place, before.as_ref(), packet, now);
                    }
                }
                self.run(packet, at + 1, now, egress);
            }
            Action::Take => {
                self.with_stage(place, now, egress, |stage, out| stage.take(packet, now, out));
            }
        }
    }

    /// Calls a stage with an outlet and carries out what it says.
    pub(super) fn with_stage<E: Egress>(
        &mut self,
        at: SeatId,
        now: Instant,
        egress: &mut E,
        call: impl FnOnce(&mut Impairment, &mut Outlet<'_>),
    ) {
        let seat = &mut self.paths[usize::from(at.path)].seats[usize::from(at.seat)];
        let Occupant::Stage(stage) = &mut seat.occupant else { return };
        let mut emissions = std::mem::take(&mut seat.emissions);
        let mut created = Amount::default();
        let mut kept = Amount::default();
        let mut out = Outlet {
            pool: &mut self.pool,
            emissions: &mut emissions,
            counters: &mut seat.counters,
            created: &mut created,
            kept: &mut kept,
        };
        call(stage, &mut out);
        self.counters.created += created;
        // What a stage gave up counts negative.
        self.held.packets = self.held.packets.wrapping_add(kept.packets);
        self.held.bytes = self.held.bytes.wrapping_add(kept.bytes);
        for emission in emissions.drain(..) {
            self.carry_out(emission, at, now, egress);
        }
        self.seat(at).emissions = emissions;
    }

    pub(super) fn carry_out<E: Egress>(
        &mut self,
        emission: Emission,
        at: SeatId,
        now: Instant,
        egress: &mut E,
    ) {
        match emission {
            Emission::Forward(mut packet) => {
                self.run(&mut packet, usize::from(at.seat) + 1, now, egress);
                self.pool.give(packet.into_buffer());
            }
            Emission::Hold(packet, until) if until <= now => {
                self.seat(at).released(&packet, now);
                self.carry_out(Emission::Forward(packet), at, now, egress);
            }
            Emission::Hold(packet, until) => {
                if E::RECORDS {
                    egress.record(What::Held(at, until), &packet, now);
                }
                self.seat(at).counters.held(packet.amount(), until.since(now));
                self.hold(packet, usize::from(at.seat), until);
            }
            Emission::Drop(packet, reason) => self.drop(packet, Some(at), reason, now, egress),
            Emission::Reject(mut packet, reason, error) => {
                self.reject_each(&mut packet, Some(at), reason, error, now, egress);
                self.pool.give(packet.into_buffer());
            }
            Emission::Answer(mut segment) => {
                // Whom a translator does not know any more is told nothing.
                if !self.restore(&mut segment, at.path, Some(at.seat), now) {
                    return self.pool.give(segment.into_buffer());
                }
                let (version, transport) = (segment.layout.version(), segment.layout.transport_offset());
                bare::turn_round(segment.bytes_mut(), version, transport);
                self.send_own(segment, Some(at), now, egress);
            }
            Emission::Wake(due) if due <= now => {
                self.with_stage(at, now, egress, |stage, out| stage.wake(now, out));
            }
            Emission::Wake(due) => self.plan(due, Event::Wake(at)),
        }
    }

    pub(super) fn hold(&mut self, mut packet: Packet, seat: usize, until: Instant) {
        self.held += packet.amount();
        packet.seat = seat as u16;
        self.plan(until, Event::Resume(packet));
    }

    pub(super) fn release(&mut self, packet: &Packet) {
        let amount = packet.amount();
        self.held.packets -= amount.packets;
        self.held.bytes -= amount.bytes;
    }

    pub(super) fn resume<E: Egress>(&mut self, mut packet: Packet, due: Instant, egress: &mut E) {
        self.release(&packet);
        packet.set_waited();
        let at = SeatId { path: packet.path, seat: packet.seat };
        self.seat(at).released(&packet, due);
        self.run(&mut packet, usize::from(at.seat) + 1, due, egress);
        self.pool.give(packet.into_buffer());
    }
}
