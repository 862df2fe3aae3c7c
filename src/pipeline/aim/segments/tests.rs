use proptest::prelude::*;

use super::*;
use crate::pipeline::params::{ImpairmentParams, Phase, Select, StageParams, Trigger};
use crate::pipeline::testing::frame::Extra;
use crate::pipeline::testing::{Run, Spec, stage};
use crate::pipeline::time::{Duration, Instant};

use crate::pipeline::wire::tcp::flag::{ACK, FIN, RST, SYN};

fn segment(sequence: u32, flags: u8, payload: usize) -> Spec {
    Spec { sequence, flags, ..Spec::tcp(payload) }
}

fn aimed(kind: Segment) -> Select {
    Select { segments: Segments::NONE.with(kind), ..Select::default() }
}

fn carrying(of: u64, again: bool) -> Select {
    Select { transmission: Some(Transmission { of, again }), ..Select::default() }
}

fn sequence(wire: &[u8]) -> u32 {
    u32::from_be_bytes(wire[24..28].try_into().unwrap())
}

/// Of each packet the sequence numbers of the wire packets that were hit.
fn hits(select: &Select, trigger: Trigger, packets: &[Spec]) -> Vec<Vec<u32>> {
    let stage = StageParams {
        select: select.clone(),
        trigger,
        ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
    };
    let mut run = Run::new(vec![stage]);
    let hits = |spec: &Spec| {
        let before = run.wires().len();
        let frame = spec.frame();
        run.feed(Instant::ZERO, &frame);
        let left: Vec<u32> = run.wires()[before..].iter().map(|wire| sequence(&wire.bytes)).collect();
        let came = frame.wires().into_iter().map(|wire| sequence(&wire));
        came.filter(|number| !left.contains(number)).collect()
    };
    packets.iter().map(hits).collect()
}

/// Whether each of these single segments is hit.
fn which(kind: Segment, packets: &[Spec]) -> Vec<bool> {
    hits(&aimed(kind), Trigger::default(), packets).iter().map(|hit| !hit.is_empty()).collect()
}

#[test]
fn a_segment_is_what_its_flags_and_its_payload_say() {
    use Segment::{Data, Fin, PureAck, Rst, Sack, Syn, SynAck};
    let block = vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9];
    let cases = [
        (segment(1, SYN, 0), vec![Syn]),
        // Fast open (RFC 7413).
        (segment(1, SYN, 10), vec![Syn, Data]),
        (segment(1, SYN | ACK, 0), vec![SynAck]),
        (segment(1, ACK, 0), vec![PureAck]),
        (segment(1, ACK | 0x08, 5), vec![Data]),
        (segment(1, FIN | ACK, 0), vec![Fin]),
        (segment(1, FIN | ACK, 5), vec![Fin, Data]),
        (segment(1, RST, 0), vec![Rst]),
        (segment(1, RST | ACK, 7), vec![Rst]),
        (segment(1, 0, 0), vec![]),
        (Spec { options: block.clone(), ..segment(1, ACK, 0) }, vec![PureAck, Sack]),
        (Spec { options: block, ..segment(1, ACK, 3).v6() }, vec![Data, Sack]),
        // Permitted is not yet done, and an option without a block carries none.
        (Spec { options: vec![4, 2, 5, 2], ..segment(1, SYN, 0) }, vec![Syn]),
        (Spec::udp(10), vec![]),
    ];
    for (spec, is) in cases {
        for kind in [Syn, SynAck, Fin, Rst, Data, PureAck, Sack] {
            let hit = which(kind, std::slice::from_ref(&spec))[0];
            assert_eq!(hit, is.contains(&kind), "{kind:?}: {spec:?}");
        }
    }
    let fragments = Spec { extra: Extra::Fragments(80), ..segment(1, ACK, 100) };
    let stage = StageParams {
        select: aimed(Data),
        ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
    };
    let mut run = Run::new(vec![stage]);
    for frame in fragments.frames() {
        run.feed(Instant::ZERO, &frame);
    }
    assert_eq!(run.wires().len(), 2, "fragments are no segments");
}

/// Which of these segments belong to a connection opened before or after its flow was first seen.
fn opened(opened: Opened, packets: &[Spec]) -> Vec<bool> {
    let select = Select { opened: Some(opened), ..Select::default() };
    hits(&select, Trigger::default(), packets).iter().map(|hit| !hit.is_empty()).collect()
}

#[test]
fn a_connection_is_new_if_its_syn_or_syn_ack_was_seen() {
    let was_open = [segment(500, ACK, 10), segment(510, ACK, 10).train(5), segment(520, FIN | ACK, 0)];
    let opens = [segment(1, SYN, 0), segment(2, ACK, 0), segment(2, ACK, 50).train(10), segment(52, RST, 0)];
    let answers = [segment(1, SYN | ACK, 0), segment(2, ACK, 5)];
    // The same ports once more.
    let reused = [&was_open[..], &opens].concat();
    for (packets, new) in [
        (&was_open[..], vec![false; 3]),
        (&opens, vec![true; 4]),
        (&answers, vec![true; 2]),
        (&reused, [vec![false; 3], vec![true; 4]].concat()),
    ] {
        assert_eq!(opened(Opened::After, packets), new);
        assert_eq!(opened(Opened::Before, packets), new.iter().map(|new| !new).collect::<Vec<_>>());
    }
    // Whatever shows no beginning is neither.
    assert_eq!(opened(Opened::After, &[Spec::udp(10)]), [false]);
    assert_eq!(opened(Opened::Before, &[Spec::udp(10)]), [false]);
}

#[test]
fn the_last_of_a_train_has_its_fin() {
    let train = segment(0, FIN | ACK, 250).train(100);
    assert_eq!(hits(&aimed(Segment::Fin), Trigger::default(), &[train]), [[200]]);
}

#[test]
fn what_begins_with_what_was_sent_is_a_retransmission_also_where_numbers_wrap() {
    let near = u32::MAX - 49;
    let packets = [
        segment(near, ACK, 100),
        segment(near, ACK, 100),
        // The second half of it.
        segment(0, ACK, 50),
        // Begins in it and ends behind it.
        segment(40, ACK, 100),
        segment(140, ACK, 10),
        // A gap: what was in it and comes late counts as sent again.
        segment(200, ACK, 10),
        segment(150, ACK, 50),
        segment(210, ACK, 1),
    ];
    let again = [false, true, true, true, false, false, true, false];
    assert_eq!(which(Segment::Retransmission, &packets), again);
    assert_eq!(which(Segment::NewData, &packets), again.map(|again| !again));
}

#[test]
fn keep_alives_carry_nothing_or_something_that_was_sent() {
    let packets = [
        segment(1_000, ACK, 100),
        segment(1_099, ACK, 0),
        segment(1_099, ACK, 1),
        // A probe of a closed window carries the next byte.
        segment(1_100, ACK, 1),
        segment(1_101, ACK, 0),
    ];
    assert_eq!(which(Segment::Retransmission, &packets), [false, false, true, false, false]);
    assert_eq!(which(Segment::PureAck, &packets), [false, true, false, false, true]);
}

#[test]
fn syn_and_fin_are_sent_again_too_and_a_new_syn_begins_anew() {
    let packets = [
        segment(1_000, SYN, 0),
        segment(1_000, SYN, 0),
        segment(1_001, ACK, 0),
        segment(1_001, FIN | ACK, 10),
        segment(1_001, FIN | ACK, 10),
        segment(1_011, FIN | ACK, 0),
        // The last ACK, behind the FIN; then a connection with a lower number.
        segment(1_012, ACK, 0),
        segment(900, SYN, 0),
        segment(901, ACK, 200),
        segment(900, SYN, 0),
    ];
    assert_eq!(
        which(Segment::Retransmission, &packets),
        [false, true, false, false, true, true, false, false, false, true]
    );
    // A FIN behind data that it was not sent with.
    let packets =
        [segment(0, ACK, 10), segment(10, FIN | ACK, 0), segment(10, FIN | ACK, 0), segment(11, ACK, 0)];
    assert_eq!(which(Segment::Retransmission, &packets), [false, false, true, false]);
}

#[test]
fn the_handshake_of_an_initiator_ends_with_its_first_ack() {
    let packets = [
        segment(1, SYN, 0),
        segment(1, SYN, 0),
        segment(2, ACK, 0),
        segment(2, ACK, 0),
        segment(2, ACK, 10),
        // A connection whose first ACK has data.
        segment(90, SYN, 0),
        segment(91, ACK, 10),
        segment(101, ACK, 0),
        // One that is refused, and reset by its own side.
        segment(200, SYN, 0),
        segment(201, RST, 0),
    ];
    let (f, t) = (false, true);
    assert_eq!(which(Segment::HandshakeAck, &packets), [f, f, t, f, f, f, f, f, f, f]);
    assert_eq!(which(Segment::Established, &packets), [f, f, f, t, t, f, f, t, f, f]);
}

#[test]
fn the_handshake_of_a_responder_ends_with_its_syn_ack() {
    let packets = [
        segment(1, SYN | ACK, 0),
        segment(1, SYN | ACK, 0),
        segment(2, ACK, 0),
        segment(1, SYN | ACK, 0),
        segment(2, RST, 0),
    ];
    assert_eq!(which(Segment::Established, &packets), [false, false, true, false, true]);
    assert_eq!(which(Segment::HandshakeAck, &packets), [false; 5]);
    // A refused SYN opens no connection. Segments of a connection whose SYN was not seen belong to one.
    let packets = [segment(1, RST | ACK, 0), segment(5, ACK, 0), segment(5, RST, 0)];
    assert_eq!(which(Segment::Established, &packets), [false, true, true]);
}

#[test]
fn a_train_that_ends_the_handshake_is_established_from_its_second_segment_on() {
    let packets = [segment(0, SYN, 0), segment(1, ACK, 300).train(100)];
    let hits = hits(&aimed(Segment::Established), Trigger::default(), &packets);
    assert_eq!(hits, [vec![], vec![101, 201]]);
}

#[test]
fn a_train_can_begin_with_old_data_and_end_with_new() {
    let packets = [segment(0, ACK, 250), segment(0, ACK, 550).train(100)];
    let again = hits(&aimed(Segment::Retransmission), Trigger::default(), &packets);
    // 200 begins before 250, with which what was sent ended.
    assert_eq!(again, [vec![], vec![0, 100, 200]]);
    let new = hits(&aimed(Segment::NewData), Trigger { nth: vec![1, 3], ..Trigger::default() }, &packets);
    assert_eq!(new, [vec![0], vec![400]]);
}

#[test]
fn the_third_data_segment_is_found_again_however_it_is_cut() {
    let packets = [
        segment(0, SYN, 0),
        segment(1, ACK, 0),
        // New: 1 and 101; old: 51; new: 151, the third.
        segment(1, ACK, 150).train(100),
        segment(51, ACK, 100),
        segment(151, ACK, 300).train(100),
        segment(101, ACK, 400).train(40),
        segment(152, ACK, 10),
        segment(1, ACK, 450),
    ];
    let all = hits(&carrying(3, false), Trigger::default(), &packets);
    assert_eq!(all, [vec![], vec![], vec![], vec![], vec![151], vec![141], vec![], vec![1]]);
    let again = hits(&carrying(3, true), Trigger { first: Some(1), ..Trigger::default() }, &packets);
    assert_eq!(again, [vec![], vec![], vec![], vec![], vec![], vec![141], vec![], vec![]]);
}

#[test]
fn what_was_sent_in_another_phase_was_sent() {
    let mut later = StageParams {
        select: aimed(Segment::Retransmission),
        ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
    };
    let ms = Duration::from_millis;
    later.trigger.phase = Some(Phase { number: 1, from: ms(10), until: None, period: None });
    let mut run = Run::new(vec![later]);
    for at in [0, 5, 10, 15] {
        run.feed(Instant::ZERO + ms(at), &segment(1, ACK, 10).frame());
    }
    assert_eq!(run.wires().len(), 2);
}

/// Offset, length, and payload of each segment of a train.
fn pieces() -> impl Strategy<Value = Vec<(u32, usize, u16)>> {
    proptest::collection::vec((0..3_000_u32, 0..1_400_usize, prop_oneof![Just(0), 30..400_u16]), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against numbers that do not wrap, one wire packet after the other.
    #[test]
    fn agrees_with_a_plain_count(pieces in pieces(), start: u32, of in 1..9_u64) {
        let spec = |&(offset, length, size): &(u32, usize, u16)| {
            let spec = segment(start.wrapping_add(offset), ACK, length);
            if size > 0 && length > usize::from(size) { spec.train(size) } else { spec }
        };
        let packets: Vec<Spec> = pieces.iter().map(spec).collect();
        let (mut end, mut new, mut aim) = (None, 0, None);
        let mut expected = [Vec::new(), Vec::new(), Vec::new()];
        for (packet, &(mut first, _, _)) in packets.iter().zip(&pieces) {
            let mut hit = [Vec::new(), Vec::new(), Vec::new()];
            for wire in packet.frame().wires() {
                let (length, number) = (wire.len() as u32 - 40, sequence(&wire));
                let is_new = length > 0 && end.is_none_or(|end| first >= end);
                new += u64::from(is_new);
                if is_new && new == of {
                    aim = Some(first);
                }
                let carries = aim.is_some_and(|aim| (first..first + length).contains(&aim));
                let is = [is_new, length > 0 && !is_new, carries];
                is.into_iter().zip(&mut hit).filter(|(is, _)| *is).for_each(|(_, hit)| hit.push(number));
                first += length;
                end = Some(end.map_or(first, |end: u32| end.max(first)));
            }
            expected.iter_mut().zip(hit).for_each(|(expected, hit)| expected.push(hit));
        }
        let [new, again, carried] = expected;
        let always = Trigger::default;
        prop_assert_eq!(hits(&aimed(Segment::NewData), always(), &packets), new);
        prop_assert_eq!(hits(&aimed(Segment::Retransmission), always(), &packets), again);
        prop_assert_eq!(hits(&carrying(of, false), always(), &packets), carried);
    }
}
