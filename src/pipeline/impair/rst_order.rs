//! A RST that overtakes the ACKs of its sender, or is overtaken.
//!
//! Model, *first*: an ACK is held until a RST of the same flow has passed, or for `timeout`; all other packets pass
//! it. The ACK is the last one of a handshake (the first pure ACK after its sender's SYN), or every pure ACK. *Last*:
//! a RST is held until the next segment of its flow has passed, or for `timeout`. Packets that wait together leave in
//! their order. At most 1,024 packets of one worker wait; further ones pass.
//!
//! The stage only sees packets that its match selects: this must include SYN, ACK and RST.
//! Never drops, copies or alters a packet.

use std::fmt;

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::link::shelf::Shelf;
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Action, Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::Duration;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::tcp::flag;

/// See [`crate::pipeline::params::ImpairmentParams::RstOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RstOrderParams {
    /// Which comes first.
    pub rst: RstPlace,
    /// Which ACKs are held for a RST.
    pub acks: HeldAcks,
    /// The longest time for which a packet is held.
    pub timeout: Duration,
}

/// Where a RST goes in its sender's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RstPlace {
    /// Before the ACKs that were sent before it.
    #[default]
    First,
    /// Behind the next segment of its sender.
    Last,
}

/// Which ACKs are held for a RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeldAcks {
    /// The last one of the handshake, and those that come while it waits.
    #[default]
    Handshake,
    /// Every segment that only acknowledges.
    All,
}

impl fmt::Display for RstOrderParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.rst, self.acks) {
            (RstPlace::First, HeldAcks::Handshake) => {
                "a RST overtakes the last ACK of the handshake, which waits"
            }
            (RstPlace::First, HeldAcks::All) => "a RST overtakes the ACKs before it, which waits",
            (RstPlace::Last, _) => "a RST comes behind the next segment, and waits",
        };
        write!(f, "rst-order: {what} at most {}", self.timeout)
    }
}

impl Blueprint for RstOrderParams {
    type Stage = RstOrder;

    fn build(&self, setting: &Setting) -> Self::Stage {
        RstOrder::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Holds the ACKs or the RST.
#[derive(Debug)]
pub struct RstOrder {
    params: RstOrderParams,
    /// Whether the next ACK of the flow ends a handshake.
    opens: PerFlow<bool>,
    waiting: Shelf<()>,
}

/// What a segment is to this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    Rst,
    /// It only acknowledges.
    Ack,
    Other,
}

impl RstOrder {
    /// An order that `params` describe.
    pub fn new(params: RstOrderParams, setting: &Setting) -> Self {
        let remembers = params.rst == RstPlace::First && params.acks == HeldAcks::Handshake;
        let flows = if remembers { setting.flows } else { 1 };
        Self { params, opens: PerFlow::new(flows), waiting: Shelf::new(params.timeout) }
    }

    /// Whether this ACK is held for a RST; also tracks the handshake of its flow.
    fn is_held(&mut self, packet: &Packet, kind: Kind) -> bool {
        if self.params.acks == HeldAcks::All {
            return kind == Kind::Ack;
        }
        let opens = self.opens.of(packet.flow);
        let was = *opens;
        *opens = kind == Kind::Syn;
        kind == Kind::Ack && (was || self.waiting.has(packet.flow))
    }
}

/// What happens to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Race {
    /// It is held.
    Loses,
    /// It passes, and the packets of its flow that are held follow it.
    Wins,
}

impl Stage for RstOrder {
    type Plan = Race;

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict<Race> {
        let Some(kind) = kind(packet) else { return Verdict::new(limit, Action::PASS) };
        let (race, takes) = match self.params.rst {
            RstPlace::First if kind == Kind::Rst => {
                *self.opens.of(packet.flow) = false;
                (Race::Wins, self.waiting.has(packet.flow))
            }
            RstPlace::First => (Race::Loses, self.is_held(packet, kind) && !self.waiting.is_full()),
            RstPlace::Last if kind == Kind::Rst => (Race::Loses, !self.waiting.is_full()),
            RstPlace::Last => (Race::Wins, self.waiting.has(packet.flow)),
        };
        if takes { Verdict::new(1, Action::Take(race)) } else { Verdict::new(limit, Action::PASS) }
    }

    fn take(&mut self, packet: &mut Packet, race: Race, now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        match race {
            Race::Loses => self.waiting.put(packet, (), now, out),
            Race::Wins => {
                let flow = packet.flow;
                out.forward(packet);
                self.waiting.release(flow, out, |()| true);
            }
        }
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        self.waiting.wake(now, out);
    }

    fn relinquish(&mut self) -> Option<Kept> {
        self.waiting.relinquish()
    }
}

/// `None` if it is not TCP.
fn kind(packet: &Packet) -> Option<Kind> {
    let flags = packet.wire_flags(packet.wires() - 1)?;
    Some(if flags & flag::RST != 0 {
        Kind::Rst
    } else if flags & flag::SYN != 0 {
        Kind::Syn
    } else if flags & (flag::FIN | flag::ACK) == flag::ACK && packet.payload_length() == 0 {
        Kind::Ack
    } else {
        Kind::Other
    })
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for RstOrderParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::duration;
        let rst = prop::sample::select(vec![RstPlace::First, RstPlace::Last]);
        let acks = prop::sample::select(vec![HeldAcks::Handshake, HeldAcks::All]);
        (rst, acks, duration()).prop_map(|(rst, acks, timeout)| Self { rst, acks, timeout }).boxed()
    }

    fn tame(self) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;

    use crate::pipeline::wire::tcp::flag::{ACK, RST, SYN};

    const FIN: u8 = 0x11;

    fn run(rst: RstPlace, acks: HeldAcks) -> Run {
        let timeout = Duration::from_millis(100);
        Run::new(vec![stage(ImpairmentParams::RstOrder(RstOrderParams { rst, acks, timeout }))])
    }

    /// Sequence numbers in the order in which segments (time in ms, number, flags, payload, port) leave, and when in ms.
    fn order(run: &mut Run, segments: &[(u64, u32, u8, usize, u16)]) -> Vec<(u32, u64)> {
        for &(at, sequence, flags, payload, source_port) in segments {
            let spec = Spec { source_port, sequence, flags, ..Spec::tcp(payload) };
            run.feed(Instant::ZERO + Duration::from_millis(at), &spec.frame());
        }
        run.finish();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[24..28].try_into().unwrap());
        run.wires().iter().map(|wire| (number(&wire.bytes), wire.at.as_nanos() / 1_000_000)).collect()
    }

    #[test]
    fn a_rst_overtakes_the_last_ack_of_its_handshake() {
        let mut run = run(RstPlace::First, HeldAcks::Handshake);
        let order = order(&mut run, &[(0, 1, SYN, 0, 1), (10, 2, ACK, 0, 1), (11, 3, RST | ACK, 0, 1)]);
        assert_eq!(order, [(1, 0), (3, 11), (2, 11)]);
        assert_eq!(run.stage(0).delayed.packets, 1);
    }

    #[test]
    fn without_a_rst_the_ack_leaves_at_its_timeout_and_data_passes_it() {
        let mut run = run(RstPlace::First, HeldAcks::Handshake);
        let segments = [
            (0, 1, SYN, 0, 1),
            (10, 2, ACK, 0, 1),
            (20, 3, ACK, 100, 1),
            // An ACK behind one that waits waits too: it would end the handshake as well.
            (30, 4, ACK, 0, 1),
            (200, 5, ACK, 0, 1),
            (201, 6, FIN, 0, 1),
        ];
        assert_eq!(order(&mut run, &segments), [(1, 0), (3, 20), (2, 110), (4, 130), (5, 200), (6, 201)]);
    }

    #[test]
    fn flows_do_not_wait_for_each_other_s_resets() {
        let mut run = run(RstPlace::First, HeldAcks::Handshake);
        let segments =
            [(0, 1, SYN, 0, 1), (0, 2, SYN, 0, 2), (1, 3, ACK, 0, 1), (2, 4, ACK, 0, 2), (3, 5, RST, 0, 2)];
        assert_eq!(order(&mut run, &segments), [(1, 0), (2, 0), (5, 3), (4, 3), (3, 101)]);
    }

    /// A second connection between the same ports races as the first did; an ACK without a SYN before it does not.
    #[test]
    fn every_handshake_races_and_nothing_else() {
        let mut run = run(RstPlace::First, HeldAcks::Handshake);
        let segments = [
            (0, 1, ACK, 0, 1),
            (1, 2, SYN, 0, 1),
            (2, 3, ACK, 0, 1),
            (3, 4, RST, 0, 1),
            (4, 5, ACK, 0, 1),
            (5, 6, SYN, 0, 1),
            (6, 7, ACK, 0, 1),
            (7, 8, RST, 0, 1),
        ];
        let numbers: Vec<u32> = order(&mut run, &segments).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 4, 3, 5, 6, 8, 7]);
    }

    #[test]
    fn all_acks_can_lose_the_race() {
        let mut run = run(RstPlace::First, HeldAcks::All);
        let segments = [(0, 1, ACK, 0, 1), (1, 2, ACK, 10, 1), (2, 3, ACK, 0, 1), (3, 4, RST | ACK, 0, 1)];
        assert_eq!(order(&mut run, &segments), [(2, 1), (4, 3), (1, 3), (3, 3)]);
    }

    #[test]
    fn a_rst_can_come_behind_what_follows_it() {
        let mut run = run(RstPlace::Last, HeldAcks::Handshake);
        let segments = [(0, 1, RST, 0, 1), (5, 2, ACK, 0, 2), (9, 3, ACK, 10, 1), (20, 4, RST, 0, 1)];
        assert_eq!(order(&mut run, &segments), [(2, 5), (3, 9), (1, 9), (4, 120)]);
    }

    /// What waits in the schedule is bounded by what is kept, not by what has been kept within the timeout.
    #[test]
    fn races_that_are_over_leave_no_wake_ups_behind() {
        let mut run = run(RstPlace::First, HeldAcks::All);
        for number in 0..1_000 {
            for (offset, flags) in [(0, ACK), (5, RST)] {
                let at = Instant::ZERO + Duration::from_micros(10 * number + offset);
                run.feed(at, &Spec { flags, ..Spec::tcp(0) }.frame());
                assert!(run.router.scheduled() <= 1, "{} wait", run.router.scheduled());
            }
        }
        run.finish();
        assert_eq!((run.wires().len(), run.stage(0).delayed.packets), (2_000, 1_000));
    }

    #[test]
    fn only_so_many_wait() {
        let mut run = run(RstPlace::First, HeldAcks::All);
        for sequence in 0..1_100 {
            run.feed(Instant::ZERO, &Spec { sequence, ..Spec::tcp(0) }.frame());
        }
        assert_eq!(run.wires().len(), 1_100 - 1_024);
        run.shut_down();
    }
}
