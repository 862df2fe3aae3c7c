//! Forged TCP segments.
//!
//! Model: after a TCP segment, `count` segments without data are sent that are forged from its fields. A forged
//! segment is a reset, whose sequence number is the next expected one, or above or below it; or it repeats the
//! segment's acknowledgement. Forged segments *to the receiver* pretend to come from the segment's sender, and follow
//! the segment. Forged segments *to the sender* pretend to come from its receiver; they leave at once and pass no
//! stage of the opposite path, as ICMP errors of the router do.
//!
//! A reset has the segment's timestamps (exchanged on the way to the sender), so that it is as fresh as the segment.
//! A duplicate ACK has all options and the window of the segment, because an ACK with another window is not a
//! duplicate (RFC 5681 section 2).
//!
//! Nothing is forged from resets, fragments, and packets with an IPv6 Routing header. Duplicate ACKs are not forged
//! from segments with SYN or without ACK.
//!
//! Never drops, delays or alters a packet.

use std::fmt;

use crate::pipeline::conn;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::bare::Bare;
use crate::pipeline::wire::tcp::{Tcp, flag};

/// See [`crate::pipeline::params::ImpairmentParams::Inject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectParams {
    /// What is forged.
    pub kind: Injected,
    /// Which host gets it.
    pub to: InjectTo,
    /// How many forged segments, at least 1.
    pub count: u32,
}

/// A segment that is forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// A reset.
    Rst(RstSequence),
    /// The acknowledgement of a segment once more, without data.
    DuplicateAck,
}

/// The sequence number of a forged reset, relative to the next byte that its receiver should expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RstSequence {
    /// This byte: the reset is accepted (RFC 9293 section 3.5.2).
    Exact,
    /// So many bytes above: within the window, the receiver answers with a challenge ACK (RFC 5961 section 3.2).
    InWindow(u32),
    /// So many bytes below: the receiver discards it.
    Stale(u32),
}

/// Which host gets a forged segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InjectTo {
    /// The receiver of the packet, as if from its sender; after the packet, on the same path.
    #[default]
    Receiver,
    /// The sender of the packet, as if from its receiver; at once, as the router's own answers.
    Sender,
}

impl fmt::Display for InjectParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Injected::Rst(RstSequence::Exact) => "a RST with the next sequence number".to_owned(),
            Injected::Rst(RstSequence::InWindow(above)) => {
                format!("a RST {above} bytes above the next sequence number")
            }
            Injected::Rst(RstSequence::Stale(below)) => {
                format!("a RST {below} bytes below the next sequence number")
            }
            Injected::DuplicateAck => "its acknowledgement again, without data".to_owned(),
        };
        let times = if self.count == 1 { String::new() } else { format!(", {} times", self.count) };
        let to = match self.to {
            InjectTo::Receiver => "behind each segment to its receiver",
            InjectTo::Sender => "at each segment back to its sender",
        };
        write!(f, "inject {to}: {what}{times}")
    }
}

impl Blueprint for InjectParams {
    type Stage = Inject;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Inject::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }

    fn extra_packets(&self) -> f64 {
        f64::from(self.count)
    }
}

/// Forges segments.
#[derive(Debug)]
pub struct Inject {
    params: InjectParams,
    key: StageKey,
}

impl Inject {
    /// Forgeries that `params` describe, with lineages of `setting`.
    pub const fn new(params: InjectParams, setting: &Setting) -> Self {
        Self { params, key: setting.key }
    }

    /// Whether segments can be forged from `packet`; the answer is the same for all its wire packets.
    fn takes(&self, packet: &Packet) -> bool {
        let Some(flags) = packet.tcp_flags() else { return false };
        let is_whole = !packet.layout.is_fragment() && !packet.layout.is_source_routed();
        is_whole
            && match self.params.kind {
                Injected::Rst(_) => flags & flag::RST == 0,
                Injected::DuplicateAck => flags & (flag::RST | flag::SYN | flag::ACK) == flag::ACK,
            }
    }

    /// The fields of the forged segments, in the direction in which they are sent.
    fn forge(&self, packet: &Packet, tcp: &Tcp<&[u8]>) -> Bare {
        let flags = tcp.flags();
        let counted = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
        let end = tcp.sequence().wrapping_add(packet.payload_length() + counted);
        let acknowledges = flags & flag::ACK != 0;
        let acknowledgement = if acknowledges { tcp.acknowledgement() } else { 0 };
        let sequence = match self.params.kind {
            Injected::DuplicateAck => {
                let flags = flags & (flag::ACK | flag::ECE);
                let ack = Bare::new(end, acknowledgement, flags, tcp.window());
                return ack.with_options(tcp.option_bytes());
            }
            Injected::Rst(sequence) => sequence,
        };
        let place = |expected: u32| match sequence {
            RstSequence::Exact => expected,
            RstSequence::InWindow(above) => expected.wrapping_add(above),
            RstSequence::Stale(below) => expected.wrapping_sub(below),
        };
        let ack = if acknowledges { flag::ACK } else { 0 };
        let timestamps = tcp.timestamps();
        let (rst, timestamps) = match self.params.to {
            InjectTo::Receiver => (Bare::new(place(end), acknowledgement, flag::RST | ack, 0), timestamps),
            // An answer to a SYN must acknowledge it (RFC 9293 section 3.10.7.3).
            InjectTo::Sender => (
                Bare::new(place(acknowledgement), end, flag::RST | flag::ACK, 0),
                timestamps.map(|(value, echo)| (echo, value)),
            ),
        };
        timestamps.map_or(rst, |(value, echo)| rst.with_timestamps(value, echo))
    }
}

impl Stage for Inject {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        if self.takes(packet) { Verdict::new(1, Action::TAKE) } else { Verdict::new(limit, Action::PASS) }
    }

    fn take(&mut self, packet: &mut Packet, (): (), _now: Instant, out: &mut Outlet<'_>) {
        let mut previous = packet.take(out.pool);
        let forged = conn::tcp(&previous).map(|tcp| self.forge(&previous, &tcp));
        let Some(bare) = forged else { return out.forward(previous) };
        let version = previous.layout.version();
        for number in 1..=self.params.count {
            let write = |bytes: &mut [u8]| {
                bare.write(previous.bytes(), version, previous.layout.transport_offset(), bytes);
            };
            let derived = previous.derive(out.pool, bare.len(version), self.key.salt(number), write);
            let mut segment = match derived {
                Ok(segment) => segment,
                Err((buffer, _)) => {
                    out.pool.give(buffer);
                    break;
                }
            };
            segment.fix_checksums();
            match self.params.to {
                InjectTo::Sender => out.answer(segment),
                InjectTo::Receiver => {
                    let segment = out.created(segment);
                    out.forward(std::mem::replace(&mut previous, segment));
                }
            }
        }
        out.forward(previous);
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for InjectParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let kind = prop_oneof![
            Just(Injected::Rst(RstSequence::Exact)),
            any::<u32>().prop_map(|above| Injected::Rst(RstSequence::InWindow(above))),
            any::<u32>().prop_map(|below| Injected::Rst(RstSequence::Stale(below))),
            Just(Injected::DuplicateAck),
        ];
        (kind, prop::sample::select(vec![InjectTo::Receiver, InjectTo::Sender]), 1..4_u32)
            .prop_map(|(kind, to, count)| Self { kind, to, count })
            .boxed()
    }

    fn tame(self) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::frame::Extra;
    use crate::pipeline::testing::{Run, Spec, Wire, flaw, stage};

    use crate::pipeline::wire::tcp::flag::{ACK, ECE, FIN, PSH, RST, SYN};
    const EXACT: Injected = Injected::Rst(RstSequence::Exact);

    fn run(kind: Injected, to: InjectTo, count: u32) -> Run {
        Run::new(vec![stage(ImpairmentParams::Inject(InjectParams { kind, to, count }))])
    }

    /// A segment as etherparse reads it: by which port it left, source port, sequence and acknowledgement number, flags,
    /// window, options and payload.
    #[derive(Debug, PartialEq, Eq)]
    struct Seen {
        port: u16,
        source_port: u16,
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
        payload: usize,
    }

    fn seen(wire: &Wire) -> Seen {
        assert_eq!(flaw(&wire.bytes), None, "{wire:?}");
        let sliced = etherparse::SlicedPacket::from_ip(&wire.bytes).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP came in") };
        Seen {
            port: wire.port,
            source_port: tcp.source_port(),
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            flags: tcp.slice()[13],
            window: tcp.window_size(),
            options: tcp.options().to_vec(),
            payload: tcp.payload().len(),
        }
    }

    /// What leaves besides the packet itself, which must come first where both go the same way.
    fn forged(run: &mut Run, spec: &Spec) -> Vec<Seen> {
        run.feed(Instant::ZERO, &spec.frame());
        let wires = run.wires();
        let on = wires.iter().find(|wire| wire.port == 1).unwrap();
        let mut original = Spec { partial: false, ..spec.clone() }.frame().bytes;
        original[if spec.v6 { 7 } else { 8 }] -= 1;
        if !spec.v6 {
            original[10..12].copy_from_slice(&on.bytes[10..12]);
        }
        assert_eq!(on.bytes, original, "the segment itself goes on as it came");
        wires.iter().filter(|wire| *wire != on).map(seen).collect()
    }

    fn stamp(value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    #[test]
    fn a_reset_takes_the_place_of_the_next_byte_or_one_beside_it() {
        for (sequence, number) in [
            (RstSequence::Exact, 1_100),
            (RstSequence::InWindow(5), 1_105),
            (RstSequence::Stale(1_101), u32::MAX),
        ] {
            for v6 in [false, true] {
                let spec =
                    Spec { sequence: 1_000, acknowledgement: 77, flags: ACK | PSH, v6, ..Spec::tcp(100) };
                let reset = Seen {
                    port: 1,
                    source_port: 40_000,
                    sequence: number,
                    acknowledgement: 77,
                    flags: RST | ACK,
                    window: 0,
                    options: Vec::new(),
                    payload: 0,
                };
                let mut run = run(Injected::Rst(sequence), InjectTo::Receiver, 1);
                assert_eq!(forged(&mut run, &spec), [reset]);
                assert_eq!((run.stage(0).created.packets, run.stage(0).answered.packets), (1, 0));
            }
        }
    }

    #[test]
    fn syn_and_fin_count_and_numbers_wrap() {
        for (flags, payload, number) in
            [(SYN, 0, 0), (FIN | ACK, 0, 0), (ACK, 0, u32::MAX), (FIN | ACK, 10, 10)]
        {
            let mut run = run(EXACT, InjectTo::Receiver, 1);
            let spec = Spec { sequence: u32::MAX, flags, ..Spec::tcp(payload) };
            let reset = &forged(&mut run, &spec)[0];
            assert_eq!((reset.sequence, reset.flags), (number, RST | flags & ACK), "{flags:#x}");
        }
    }

    /// From the receiver's address and port, with the numbers and timestamps that the receiver would send.
    #[test]
    fn to_the_sender_a_reset_comes_from_the_receiver() {
        for v6 in [false, true] {
            let spec = Spec {
                sequence: 1_000,
                acknowledgement: 77,
                options: stamp(5, 6),
                v6,
                partial: true,
                ..Spec::tcp(100)
            };
            let mut run = run(EXACT, InjectTo::Sender, 1);
            let reset = Seen {
                port: 0,
                source_port: 443,
                sequence: 77,
                acknowledgement: 1_100,
                flags: RST | ACK,
                window: 0,
                options: stamp(6, 5),
                payload: 0,
            };
            assert_eq!(forged(&mut run, &spec), [reset]);
            let wire = run.wires().into_iter().find(|wire| wire.port == 0).unwrap().bytes;
            let (from, to) = if v6 { (8..24, 24..40) } else { (12..16, 16..20) };
            let sent = spec.frame().bytes;
            assert_eq!((&wire[from.clone()], &wire[to.clone()]), (&sent[to], &sent[from]));
            assert_eq!((run.stage(0).created.packets, run.stage(0).answered.packets), (0, 1));
        }
    }

    /// A connection is refused by what acknowledges its SYN.
    #[test]
    fn a_syn_is_answered_by_a_reset_that_acknowledges_it() {
        let spec = Spec { sequence: 9, acknowledgement: 0, flags: SYN, ..Spec::tcp(0) };
        let mut run = run(EXACT, InjectTo::Sender, 1);
        let reset = &forged(&mut run, &spec)[0];
        assert_eq!((reset.sequence, reset.acknowledgement, reset.flags), (0, 10, RST | ACK));
    }

    #[test]
    fn resets_keep_timestamps_only_and_duplicate_acks_all_options() {
        let mut options = vec![1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10];
        options.extend(stamp(5, 6));
        let spec = Spec { options: options.clone(), extra: Extra::Options, traffic_class: 2, ..Spec::tcp(3) };
        for spec in [spec.clone(), spec.v6()] {
            assert_eq!(forged(&mut run(EXACT, InjectTo::Receiver, 1), &spec)[0].options, stamp(5, 6));
            let mut run = run(Injected::DuplicateAck, InjectTo::Receiver, 1);
            assert_eq!(forged(&mut run, &spec)[0].options, options);
            // Neither ECN-capable nor with the options of IP.
            let wire = run.wires().remove(1).bytes;
            let class = if spec.v6 { wire[0] << 4 | wire[1] >> 4 } else { wire[1] };
            assert_eq!((class, wire.len()), (0, if spec.v6 { 40 } else { 20 } + 20 + 24));
        }
    }

    #[test]
    fn duplicate_acks_repeat_number_and_window_behind_the_segment() {
        let spec = Spec { sequence: 50, acknowledgement: 700, flags: ACK | PSH | FIN | ECE, ..Spec::tcp(10) };
        let mut run = run(Injected::DuplicateAck, InjectTo::Receiver, 3);
        let ack = || Seen {
            port: 1,
            source_port: 40_000,
            sequence: 61,
            acknowledgement: 700,
            flags: ACK | ECE,
            window: 65_000,
            options: Vec::new(),
            payload: 0,
        };
        assert_eq!(forged(&mut run, &spec), [ack(), ack(), ack()]);
        assert_eq!(run.stage(0).created.packets, 3);
    }

    /// Each of a train is followed by its own.
    #[test]
    fn every_packet_of_a_train_is_followed_by_its_forgery() {
        let mut run = run(EXACT, InjectTo::Receiver, 1);
        run.feed(Instant::ZERO, &Spec { sequence: 0, ..Spec::tcp(2_500).train(1_000) }.frame());
        let order: Vec<_> =
            run.wires().iter().map(|wire| (seen(wire).flags & RST, seen(wire).sequence)).collect();
        assert_eq!(order, [(0, 0), (RST, 1_000), (0, 1_000), (RST, 2_000), (0, 2_000), (RST, 2_500)]);
    }

    #[test]
    fn nothing_is_forged_from_what_does_not_say_enough() {
        let tcp = Spec::tcp(200);
        let fragments = Spec { extra: Extra::Fragments(64), ..tcp.clone() };
        for (kind, spec) in [
            (EXACT, Spec { flags: RST, ..tcp.clone() }),
            (EXACT, Spec { flags: RST | ACK, ..tcp.clone() }),
            (EXACT, Spec::udp(10)),
            (EXACT, fragments.clone()),
            (EXACT, fragments.v6()),
            (Injected::DuplicateAck, Spec { flags: SYN | ACK, ..tcp.clone() }),
            (Injected::DuplicateAck, Spec { flags: PSH, ..tcp.clone() }),
            (Injected::DuplicateAck, Spec { flags: RST | ACK, ..tcp }),
        ] {
            let mut run = run(kind, InjectTo::Receiver, 2);
            spec.frames().iter().for_each(|frame| run.feed(Instant::ZERO, frame));
            assert_eq!(run.wires().len(), spec.frames().len(), "{spec:?}");
        }
    }
}
