//! A packet on its path: it goes from seat to seat, and the decisions of the stages are carried out.

use super::egress::Hearing;
use super::{Egress, Event, Headers, Router, What};
use crate::pipeline::aim::gate::Claim;
use crate::pipeline::counters::Amount;
use crate::pipeline::impair::{Impairment, Plan};
use crate::pipeline::packet::Packet;
use crate::pipeline::router::path::{Occupant, SeatId};
use crate::pipeline::stage::{Action, Emission, Outcome, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::bare;

impl Router {
    /// Takes `packet` through the stages from seat `at` on, and out of the router.
    pub(super) fn run<E: Egress>(
        &mut self,
        packet: &mut Packet,
        mut at: usize,
        now: Instant,
        egress: &mut E,
    ) {
        let path = usize::from(packet.path);
        if at == 0 && self.paths[path].looks_first {
            if self.paths[path].entry.is_closed() {
                return self.wait_to_enter(packet, now, egress);
            }
            packet.set_phase(self.paths[path].phase(now));
        }
        // What the gate has said about wire packets that the stage has not decided about yet.
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
                    Verdict::new(claim.count, Action::PASS)
                }
                // The stage whose guest this seat is decides about the seat's packets.
                &mut (Occupant::Back(home) | Occupant::Guest(home)) => {
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
                self.act(packet, at, verdict.action, now, egress);
                packet.attach(&rest);
                (wires, whole) = (packet.wires(), packet.amount());
                continue;
            }
            if !matches!(verdict.action, Action::Settle(Outcome::Pass)) {
                return self.act(packet, at, verdict.action, now, egress);
            }
            at += 1;
        }
        self.leave(packet, now, egress);
    }

    /// Asks a stage about a packet of the opposite path.
    #[inline(never)]
    fn decide_back(&mut self, home: SeatId, packet: &Packet, limit: u32, now: Instant) -> Verdict<Plan> {
        let stage = self.seat(home).occupant.stage_mut();
        stage.map_or_else(|| Verdict::new(limit, Action::PASS), |stage| stage.decide(packet, limit, now))
    }

    /// Carries out what the stage at `at` decided about all of `packet`.
    fn act<E: Egress>(
        &mut self,
        packet: &mut Packet,
        at: usize,
        action: Action<Plan>,
        now: Instant,
        egress: &mut E,
    ) {
        let place = SeatId { path: packet.path, seat: at as u16 };
        match action {
            Action::Settle(outcome) => self.settle(packet, place, outcome, now, egress),
            Action::Rewrite(plan) => {
                let before = (E::RECORDS && egress.wants_headers()).then(|| Headers::of(packet));
                let home = match self.seat(place).occupant {
                    Occupant::Back(home) | Occupant::Guest(home) => home,
                    Occupant::Stage(_) | Occupant::Translator(_) => place,
                };
                let stage = self.seat(home).occupant.stage_mut();
                if stage.is_some_and(|stage| stage.rewrite(packet, plan, now)) {
                    self.seat(place).counters.rewritten += packet.amount();
                    if E::RECORDS {
                        egress.rewritten(place, before.as_ref(), packet, now);
                    }
                }
                self.run(packet, at + 1, now, egress);
            }
            Action::Take(plan) => {
                let home = match self.seat(place).occupant {
                    Occupant::Guest(home) => home,
                    Occupant::Stage(_) | Occupant::Back(_) | Occupant::Translator(_) => place,
                };
                // The seat at which it continues, if it waits with packets of other seats.
                packet.seat = place.seat;
                self.with_stage(home, now, egress, |stage, out| stage.take(packet, plan, now, out));
            }
        }
    }

    /// Carries out the outcome that the stage at `place` chose for all of `packet`.
    fn settle<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: SeatId,
        outcome: Outcome,
        now: Instant,
        egress: &mut E,
    ) {
        let next = usize::from(place.seat) + 1;
        match outcome {
            Outcome::Pass => self.run(packet, next, now, egress),
            Outcome::Drop(reason) => self.drop_whole(packet, Some(place), reason, now, egress),
            // The time is already due: the packet continues now, so that it keeps its order among packets that are
            // not delayed.
            Outcome::Hold(until) if until <= now => {
                self.seat(place).released(packet, now);
                self.run(packet, next, now, egress);
            }
            Outcome::Hold(until) => {
                self.seat(place).counters.held(packet.amount(), until.since(now));
                if E::RECORDS {
                    egress.record(What::Held(place, until), packet, now);
                }
                let packet = packet.take(&mut self.pool);
                self.hold(packet, usize::from(place.seat), until);
            }
            Outcome::Reject(reason, error) => {
                self.reject_each(packet, Some(place), reason, error, now, egress);
            }
        }
    }

    /// Calls a stage with an outlet, and carries out what the stage emits.
    pub(super) fn with_stage<E: Egress>(
        &mut self,
        at: SeatId,
        now: Instant,
        egress: &mut E,
        call: impl FnOnce(&mut Impairment, &mut Outlet<'_>),
    ) {
        let seat = &mut self.paths[usize::from(at.path)].seats[usize::from(at.seat)];
        let has_guests = seat.has_guests;
        let Occupant::Stage(stage) = &mut seat.occupant else { return };
        let mut emissions = std::mem::take(&mut seat.emissions);
        let mut created = Amount::default();
        let mut kept = Amount::default();
        let hears = E::RECORDS && egress.hears();
        let mut hearing = Hearing { egress: &mut *egress, place: at, has_guests, now };
        let mut out = Outlet {
            ear: if hears { Some(&mut hearing) } else { None },
            pool: &mut self.pool,
            emissions: &mut emissions,
            counters: &mut seat.counters,
            created: &mut created,
            kept: &mut kept,
            has_guests: seat.has_guests,
        };
        call(stage, &mut out);
        seat.held = seat.held.wrapping_add(kept.packets);
        self.counters.created += created;
        // Packets that a stage gave up count as negative.
        self.held.packets = self.held.packets.wrapping_add(kept.packets);
        self.held.bytes = self.held.bytes.wrapping_add(kept.bytes);
        let mut is_woken = false;
        for emission in emissions.drain(..) {
            let own = if has_guests { emission.seat().unwrap_or(at) } else { at };
            match emission {
                // Done after everything else, so that the list of emissions is free again.
                Emission::Wake(due) if due <= now => is_woken = true,
                Emission::Wake(due) => self.plan(due, Event::Wake(at)),
                Emission::Settle(packet, outcome) => self.settle_owned(packet, own, outcome, now, egress),
                Emission::Answer(segment) => self.send_back(segment, own, now, egress),
                Emission::Counted { delayed, rewritten, .. } => {
                    let counters = &mut self.seat(own).counters;
                    counters.delayed += delayed;
                    counters.rewritten += rewritten;
                }
            }
        }
        self.seat(at).emissions = emissions;
        if is_woken {
            self.wake(at, now, egress);
        }
        self.let_up(at.path, now);
    }

    /// Called when stages of a path hold fewer packets than before: a change may wait for this.
    #[inline]
    fn let_up(&mut self, path: u16, now: Instant) {
        if self.paths[usize::from(path)].entry.pending.is_some() {
            self.plan(now, Event::Enter(path));
        }
    }

    /// Wakes a stage at the time that it asked for.
    pub(super) fn wake<E: Egress>(&mut self, at: SeatId, now: Instant, egress: &mut E) {
        self.with_stage(at, now, egress, |stage, out| stage.wake(now, out));
    }

    /// As [`Self::settle`], for a packet that the stage had taken.
    fn settle_owned<E: Egress>(
        &mut self,
        mut packet: Packet,
        place: SeatId,
        outcome: Outcome,
        now: Instant,
        egress: &mut E,
    ) {
        self.settle(&mut packet, place, outcome, now, egress);
        self.pool.give(packet.into_buffer());
    }

    /// Sends a segment that the stage at `place` made back to the sender of the packet that it was made from.
    fn send_back<E: Egress>(&mut self, mut segment: Packet, place: SeatId, now: Instant, egress: &mut E) {
        // If the translator's session has expired, no answer is sent.
        if !self.restore(&mut segment, place.path, Some(place.seat), now) {
            return self.pool.give(segment.into_buffer());
        }
        let (version, transport) = (segment.layout.version(), segment.layout.transport_offset());
        bare::turn_round(segment.bytes_mut(), version, transport);
        self.send_own(segment, Some(place), now, egress);
    }

    pub(super) fn hold(&mut self, mut packet: Packet, seat: usize, until: Instant) {
        self.held += packet.amount();
        packet.seat = seat as u16;
        self.seat(SeatId { path: packet.path, seat: packet.seat }).held += u64::from(packet.wires());
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
        let seat = self.seat(at);
        seat.held -= u64::from(packet.wires());
        seat.released(&packet, due);
        self.run(&mut packet, usize::from(at.seat) + 1, due, egress);
        self.pool.give(packet.into_buffer());
        self.let_up(at.path, due);
    }
}
