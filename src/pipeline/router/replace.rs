//! A change of stages that takes effect at once: packets that the ending stages hold are released immediately.

use super::change::Change;
use super::{Egress, Event, Router};
use crate::pipeline::packet::Packet;
use crate::pipeline::router::ear::Deed;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::stage::{Kept, Stage};
use crate::pipeline::time::Instant;

impl Router {
    /// As [`Self::change`], but the change takes effect with the next packet. Packets that changed or removed stages
    /// hold leave them now, in the order in which they were due, and pass the later stages as any packet does. Stages
    /// that stay as they are keep the packets that they hold.
    pub fn replace<E: Egress>(&mut self, change: &mut Change, now: Instant, egress: &mut E) {
        // Packets that are due have passed the old stages.
        self.poll(now, egress);
        for number in 0..self.paths.len().min(change.paths.len()) {
            let path = &self.paths[number];
            let ends: Vec<bool> = path.successors(&change.paths[number]).map(|next| next.is_none()).collect();
            // A packet that leaves one of these stages may be held by the next one.
            for _ in 0..ends.len() {
                let is_empty =
                    self.paths[number].seats.iter().zip(&ends).all(|(seat, ends)| !ends || seat.held == 0);
                if is_empty {
                    break;
                }
                self.let_go_of(number as u16, &ends, now, egress);
            }
        }
        self.change(change, now, egress);
    }

    /// Takes out the packets held by the seats of path `number` that `ends` marks, and continues them.
    fn let_go_of<E: Egress>(&mut self, number: u16, ends: &[bool], now: Instant, egress: &mut E) {
        let ends = |seat: u16| ends.get(usize::from(seat)).copied().unwrap_or_default();
        let mut held = self.take_out(|packet| packet.path == number && ends(packet.seat));
        // The packet that is furthest along its path goes first; at one seat, the packet that was due first.
        held.sort_by_key(|packet| std::cmp::Reverse(packet.seat));
        let mut held = held.into_iter().peekable();
        for seat in (0..self.paths[usize::from(number)].params.len() as u16).rev().filter(|seat| ends(*seat))
        {
            while let Some(packet) = held.next_if(|packet| packet.seat == seat) {
                self.resume(packet, now, egress);
            }
            let at = SeatId { path: number, seat };
            while let Some(stage) = self.seat(at).occupant.stage_mut()
                && let Some(packet) = stage.relinquish().map(Kept::into_packet)
            {
                if E::RECORDS && egress.hears() {
                    egress.did(at, Deed::Released, &packet, now);
                }
                self.resume(packet, now, egress);
            }
        }
    }

    /// The packets in the schedule for which `is_wanted` says so, in the order in which they were due.
    fn take_out(&mut self, is_wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let mut taken = Vec::new();
        let mut schedule = std::mem::take(&mut self.schedule);
        while let Some((due, event)) = schedule.pop_due(Instant::FAR) {
            match event {
                Event::Resume(packet) if is_wanted(&packet) => taken.push(packet),
                other => self.plan(due, other),
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::pipeline::params::{RouterParams, StageParams};
    use crate::pipeline::testing::{Run, Spec};
    use crate::pipeline::time::Duration;

    /// Stages of several specs, each with its name: `name: spec | name: spec`.
    fn params(text: &str) -> RouterParams {
        let parse = |text: &str| {
            let (name, text) = text.split_once(':').unwrap();
            let stage = spec::parse(text).unwrap_or_else(|error| panic!("{error}")).stages.remove(0);
            StageParams { name: name.trim().to_owned(), ..stage }
        };
        Run::params(1, text.split('|').filter(|text| !text.trim().is_empty()).map(parse).collect())
    }

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// A packet of 1000 bytes: a millisecond at 8 Mbit/s.
    fn frame() -> crate::pipeline::testing::frame::Frame {
        Spec::udp(972).frame()
    }

    /// Packets that leave a removed stage find the next stage's clock in its present state, not in a later one.
    #[test]
    fn a_link_that_stays_is_not_ahead_of_its_time() {
        let (old, new) =
            (params("a: delay 60s | b: rate 8mbit limit 100"), params("b: rate 8mbit limit 100"));
        let mut run = Run::built(&old);
        for at in 0..20 {
            run.feed(ms(at), &frame());
        }
        run.advance(ms(30));
        run.replace(&old, &new);
        run.feed(ms(30), &frame());
        run.finish();
        // The twenty packets leave one after the other from now on, and the last packet after them.
        let expected: Vec<u64> = (31..=51).map(|millis| millis * 1_000_000).collect();
        assert_eq!(run.times(), expected);
    }

    /// A change of one stage neither loses nor releases packets that another stage holds.
    #[test]
    fn a_stage_that_stays_holds_on() {
        for (old, new) in [
            ("a: delay 100ms", "a: delay 100ms | b: loss 0%"),
            ("a: delay 100ms | b: mtu 1400", "a: delay 100ms | b: mtu 1300"),
            ("b: loss 0% | a: delay 100ms", "a: delay 100ms"),
            ("a: delay 100ms | b: delay 7s", "a: delay 100ms"),
        ] {
            let (old, new) = (params(old), params(new));
            let mut run = Run::built(&old);
            run.feed(ms(0), &frame());
            run.advance(ms(10));
            run.replace(&old, &new);
            assert_eq!(run.router.held().packets, 1);
            run.feed(ms(20), &frame());
            run.finish();
            assert_eq!(run.times(), [100_000_000, 120_000_000]);
        }
    }

    /// However a stage holds packets, they leave at once and in order when it is removed, also through other removed stages.
    #[test]
    fn what_a_stage_that_goes_holds_leaves_at_once() {
        for old in [
            "a: delay 60s",
            "a: delay 60s | b: delay 50s",
            "a: rate 8kbit limit 100",
            "a: delay 1s rate 8kbit limit 100",
            "a: rate 8kbit limit 100 | b: delay 9s",
            "a: dualpi2 8kbit",
            "a: rate 8kbit queue 100s codel",
            "a: blackout 1000s hold",
        ] {
            let (old, new) = (params(old), params("c: delay 1ms"));
            let mut run = Run::built(&old);
            for at in 0..10 {
                let spec = Spec { payload: vec![at; 972], ..Spec::udp(0) };
                run.feed(ms(at.into()), &spec.frame());
            }
            assert_eq!(run.wires().len(), 0, "{:?}", old.paths[0].seats);
            run.advance(ms(20));
            run.replace(&old, &new);
            let left: Vec<u8> = run.wires().iter().filter_map(|wire| wire.bytes.last().copied()).collect();
            assert_eq!((left, run.router.held().packets), ((0..10).collect(), 0), "{:?}", old.paths[0].seats);
            run.feed(ms(20), &frame());
            run.finish();
            assert_eq!(run.times().last(), Some(&21_000_000));
        }
    }
}
