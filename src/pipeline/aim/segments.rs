//! TCP segments by what they are, and by what was sent before them in their flow.
//!
//! What one flow has sent is remembered as one number, the end of it, in the arithmetic of sequence numbers (RFC 9293
//! section 3.4). What begins behind it is new; what begins before it is sent again, even if it only comes late. A SYN with
//! another number begins another connection. Trains are answered for whole: their segments follow each other, so that
//! what they are changes at few places, which [`View::marks`] names.

use crate::pipeline::conn;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Opened, Segment, Segments, Transmission};
use crate::pipeline::wire::serial::is_before;
use crate::pipeline::wire::tcp::{flag, option};

/// Shortest SACK option with a block in it.
const SACK_BLOCK: usize = 10;

/// What wire packet `i` is by itself; nothing if it is no whole segment.
pub fn kinds(packet: &Packet, i: u32) -> Segments {
    let Some(flags) = packet.wire_flags(i).filter(|_| !packet.layout.is_fragment()) else {
        return Segments::NONE;
    };
    let has = |flag: u8| flags & flag != 0;
    let (syn, fin, rst, ack) = (has(flag::SYN), has(flag::FIN), has(flag::RST), has(flag::ACK));
    let data = packet.wire_payload(i) > 0;
    let sack = || conn::tcp(packet)?.find_option(option::SACK);
    Segments::NONE
        .with_if(syn && !ack && !rst, Segment::Syn)
        .with_if(syn && ack && !rst, Segment::SynAck)
        .with_if(fin && !syn && !rst, Segment::Fin)
        .with_if(rst, Segment::Rst)
        .with_if(data && !rst, Segment::Data)
        .with_if(ack && !data && !(syn || fin || rst), Segment::PureAck)
        .with_if(sack().is_some_and(|range| range.len() >= SACK_BLOCK), Segment::Sack)
}

/// What one flow has sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Anything at all, but for RSTs.
    begun: bool,
    /// A SYN, and nothing behind it yet.
    opening: bool,
    /// Sequence number of the SYN, if it was seen.
    syn: Option<u32>,
    /// One behind the last sequence number.
    end: u32,
    /// New data segments.
    data: u64,
    /// First byte of the one that is aimed at.
    aimed: Option<u32>,
}

/// A single segment or a train, and the flow's past just before it.
#[derive(Debug)]
pub struct View {
    sent: Sent,
    flags: u8,
    /// Of the first byte of payload.
    first: u32,
    wires: u32,
    /// Payload of each wire packet but the last.
    segment: u32,
    payload: u32,
    /// How many wire packets at the front begin with what was sent before.
    repeated: u32,
    /// Whether it is the SYN that was sent before.
    repeats_syn: bool,
    /// The wire packet that carries the first byte aimed at, and whether that was sent before.
    aimed: Option<(u32, bool)>,
}

impl Sent {
    /// A packet in the light of this past; `None` if it is no whole segment.
    pub fn view(&self, packet: &Packet, aim: Option<Transmission>) -> Option<View> {
        let tcp = conn::tcp(packet).filter(|_| !packet.layout.is_fragment())?;
        let (flags, sequence) = (tcp.flags(), tcp.sequence());
        let is_syn = flags & flag::SYN != 0 && flags & flag::RST == 0;
        let first = sequence.wrapping_add(is_syn.into());
        let repeats_syn = is_syn && self.syn == Some(sequence);
        let mut sent = *self;
        if is_syn && !repeats_syn {
            sent = Self { begun: true, syn: Some(sequence), end: first, ..Self::default() };
        } else if !sent.begun {
            sent.end = first;
        }
        let payload = packet.payload_length();
        let segment = if packet.segment() == 0 { payload } else { packet.segment().into() };
        let mut view = View {
            sent,
            flags,
            first,
            wires: packet.wires(),
            segment,
            payload,
            repeated: 0,
            repeats_syn,
            aimed: None,
        };
        view.repeated = view.count_repeated();
        view.aimed = aim.and_then(|aim| view.find(aim.of));
        Some(view)
    }

    /// When the connection was opened; `None` before its first packet.
    pub fn opened(&self) -> Option<Opened> {
        self.begun.then_some(if self.syn.is_some() { Opened::After } else { Opened::Before })
    }

    /// Remembers the first `count` wire packets of what was viewed.
    pub fn learn(&mut self, view: &View, count: u32) {
        if view.is(flag::RST) {
            return;
        }
        *self = view.sent;
        self.begun = true;
        if view.is(flag::SYN) {
            self.opening = !view.is(flag::ACK) && (self.opening || !view.repeats_syn);
        } else {
            self.opening &= !view.is(flag::ACK);
        }
        let new = if view.payload > 0 { count.saturating_sub(view.repeated) } else { 0 };
        self.data += u64::from(new);
        if let Some((wire, false)) = view.aimed
            && wire < count
        {
            self.aimed = Some(view.first_of(wire));
        }
        let fin = count == view.wires && view.is(flag::FIN);
        let end = view.first.wrapping_add((count * view.segment).min(view.payload)).wrapping_add(fin.into());
        if new > 0 || is_before(self.end, end) {
            self.end = end;
        }
    }
}

impl View {
    /// How many wire packets may be answered for at once: SYNs and RSTs do not come in trains, and what calls itself
    /// one is taken apart.
    pub const fn limit(&self) -> u32 {
        if self.flags & (flag::SYN | flag::RST) == 0 { self.wires } else { 1 }
    }

    /// The wire packets at which what they are may change, besides the last.
    pub fn marks(&self) -> [u32; 4] {
        let aimed = self.aimed.map_or(0, |(wire, _)| wire);
        [1, self.repeated, aimed, aimed + 1]
    }

    /// What wire packet `i` is in the light of what was sent before it, given what it is by itself.
    pub fn remembered(&self, i: u32, kinds: Segments) -> Segments {
        let (data, is_rst) = (kinds.has(Segment::Data), kinds.has(Segment::Rst));
        let is_syn = !is_rst && self.is(flag::SYN);
        let counts = data || kinds.has(Segment::Fin);
        // The first wire packet with an ACK behind the SYN ends the handshake.
        let opening = self.sent.opening && (i == 0 || !self.is(flag::ACK));
        Segments::NONE
            .with_if(data && i >= self.repeated, Segment::NewData)
            .with_if(counts && i < self.repeated || self.repeats_syn, Segment::Retransmission)
            .with_if(opening && kinds.has(Segment::PureAck), Segment::HandshakeAck)
            .with_if(!is_syn && !opening && (self.sent.begun || !is_rst), Segment::Established)
    }

    /// Whether wire packet `i` carries the data aimed at.
    pub fn carries(&self, i: u32, aim: Transmission) -> bool {
        self.aimed.is_some_and(|(wire, again)| wire == i && (again || !aim.again))
    }

    /// Whether the connection's beginning was seen.
    pub const fn opened(&self) -> Opened {
        if self.sent.syn.is_some() { Opened::After } else { Opened::Before }
    }

    const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    const fn first_of(&self, wire: u32) -> u32 {
        self.first.wrapping_add(wire.wrapping_mul(self.segment))
    }

    fn count_repeated(&self) -> u32 {
        let fresh = !self.sent.begun || self.is(flag::RST);
        if fresh || !is_before(self.first, self.sent.end) {
            return 0;
        }
        let behind = self.sent.end.wrapping_sub(self.first);
        if self.segment == 0 { 1 } else { behind.div_ceil(self.segment).min(self.wires) }
    }

    /// The wire packet that carries the first byte of the flow's new data segment number `of`.
    fn find(&self, of: u64) -> Option<(u32, bool)> {
        if self.payload == 0 || self.is(flag::RST) {
            return None;
        }
        if let Some(aimed) = self.sent.aimed {
            let wire = aimed.wrapping_sub(self.first) / self.segment;
            return (wire < self.repeated).then_some((wire, true));
        }
        let ahead = u32::try_from(of.checked_sub(self.sent.data + 1)?).ok()?;
        let wire = self.repeated.checked_add(ahead)?;
        (wire < self.wires).then_some((wire, false))
    }
}

#[cfg(test)]
mod tests {
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
        let opens =
            [segment(1, SYN, 0), segment(2, ACK, 0), segment(2, ACK, 50).train(10), segment(52, RST, 0)];
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
        // A refused SYN is not a connection; a connection seen from its middle on is one.
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
}
