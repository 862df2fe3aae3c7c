//! A worker's end of the journal: it writes records into its own ring.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::journal::payload::{Form, LEAST, Last, Part};
use crate::journal::record::{FIXED, Kind, NO_REASON, NONE, Record, TcpRange, id};
use crate::journal::transmissions::{Transmissions, header};
use crate::pipeline::aim::flow::{FlowRef, PerFlow};
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::Select;
use crate::pipeline::random::rng::Draw;
use crate::pipeline::router::Headers;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::time::Instant;

/// The records that one sink wants.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Bits of [`Kind::bit`].
    pub kinds: u8,
    /// Whether flows are followed. Then headers come once for each flow, and transmissions of TCP data are counted, which takes a table
    /// of all flows. Otherwise each record has headers.
    pub follows: bool,
    /// Whether records of packets that came, left or were dropped have all bytes, also those of trains. A train then has one record, also
    /// in a sample.
    pub is_whole: bool,
    /// Bytes of each wire packet that it needs then; later bytes may be missing.
    pub snap: u32,
    /// The part of other packets that records have.
    pub start: Start,
    /// One in so many packets; 1: all.
    pub sample: u64,
    /// Only events on these paths; a packet that has just arrived is on no path yet.
    pub paths: Option<RangeInclusive<u16>>,
    /// Only packets that match; for a train, its first packet decides.
    pub select: Option<Select>,
}

/// How much of a packet comes with its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Nothing,
    /// Its headers.
    Headers,
    /// The first [`Headers::LEN`] bytes, also those behind the headers: for example the packet that an ICMP error quotes.
    Bytes,
}

impl Lane {
    /// A lane of these kinds that follows no flows.
    pub fn of(kinds: &[Kind]) -> Self {
        let (kinds, start) = (Kind::set(kinds), Start::Headers);
        let snap = u32::MAX;
        Self { kinds, follows: false, is_whole: false, snap, start, sample: 1, paths: None, select: None }
    }

    fn wants(&self, kind: Kind, packet: &Packet) -> bool {
        self.kinds & kind.bit() != 0
            && self.paths.as_ref().is_none_or(|paths| paths.contains(&packet.path))
            && self.select.as_ref().is_none_or(|select| select.run(packet, packet.wires()).acts)
    }
}

/// The taps for the workers.
#[derive(Debug, Clone)]
pub struct Taps {
    lanes: Arc<[Lane]>,
    capacity: usize,
    lost: Arc<[AtomicU64]>,
    rings: Sender<Consumer<u8>>,
}

impl Taps {
    /// Taps with these lanes, each with a ring of `capacity` bytes. The receiver gets the other ends of the rings. The last value has the
    /// number of lost records of each lane (wire packets for a lane with whole packets), which all taps share.
    ///
    /// # Panics
    /// If there are more than 16 lanes.
    pub(super) fn new(lanes: Vec<Lane>, capacity: usize) -> (Self, Receiver<Consumer<u8>>, Arc<[AtomicU64]>) {
        assert!(lanes.len() <= 16, "a record has 16 bits for lanes");
        let (rings, receiver) = unbounded();
        let lost: Arc<[AtomicU64]> = lanes.iter().map(|_| AtomicU64::new(0)).collect();
        (Self { lanes: lanes.into(), capacity, lost: Arc::clone(&lost), rings }, receiver, lost)
    }

    /// Taps without a reader.
    #[cfg(test)]
    pub(crate) fn unheard(lanes: Vec<Lane>) -> Self {
        Self::new(lanes, 1024).0
    }

    /// Whether a lane may want records of packets that pass unchanged.
    pub fn sees_packets(&self) -> bool {
        let passing = Kind::set(&Kind::PASSING);
        self.lanes.iter().any(|lane| lane.kinds & passing != 0)
    }

    /// Whether any lane follows flows. It has to be told the sequence numbers of packets that pass unseen.
    pub fn follows_flows(&self) -> bool {
        self.lanes.iter().any(|lane| lane.follows)
    }

    /// The tap of a worker with a flow table of `flows` flows.
    pub fn tap(&self, flows: usize) -> Tap {
        let (ring, consumer) = RingBuffer::new(self.capacity);
        // Without a reader the ring fills, and lost records are counted.
        let _ = self.rings.send(consumer);
        let lanes = Arc::clone(&self.lanes);
        let kinds = lanes.iter().fold(0, |set, lane| set | lane.kinds);
        let set = |has: fn(&Lane) -> bool| {
            lanes.iter().zip(0..).fold(0, |set, (lane, at)| set | u16::from(has(lane)) << at)
        };
        let (followed, whole) = (set(|lane| lane.follows), set(|lane| lane.is_whole));
        let headed = set(|lane| lane.start != Start::Nothing);
        let deep = set(|lane| lane.start == Start::Bytes);
        let flows = (followed != 0).then(|| PerFlow::new(flows.max(8)));
        let snap = lanes.iter().filter(|lane| lane.is_whole).map(|lane| lane.snap).max().unwrap_or(u32::MAX);
        let (lost, cells) = (Arc::clone(&self.lost), Vec::new());
        Tap { lanes, kinds, ring, lost, followed, whole, headed, deep, snap, flows, last: None, cells }
    }
}

/// The content of a record besides the packet.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// The kind of event.
    pub kind: Kind,
    /// Path and stage.
    pub place: Option<SeatId>,
    /// Port, if it is not the one at which the packet arrived.
    pub port: Option<u16>,
    /// Reason of a drop.
    pub reason: Option<Reason>,
    /// The time until which it is held, or at which it was due to leave.
    pub due: Option<Instant>,
    /// The time at which it left.
    pub left: Option<Instant>,
    /// The headers before a rewrite.
    pub before: Option<&'a Headers>,
}

impl Told<'_> {
    /// Only the kind of event.
    pub const fn of(kind: Kind) -> Self {
        Self { kind, place: None, port: None, reason: None, due: None, left: None, before: None }
    }
}

/// A worker's end of its ring.
#[derive(Debug)]
pub struct Tap {
    lanes: Arc<[Lane]>,
    kinds: u8,
    ring: Producer<u8>,
    lost: Arc<[AtomicU64]>,
    /// The lanes that follow flows.
    followed: u16,
    /// The lanes that take whole packets.
    whole: u16,
    /// The lanes that want headers or more.
    headed: u16,
    /// The lanes that want [`Start::Bytes`].
    deep: u16,
    /// Most bytes of a wire packet that any lane with whole packets needs.
    snap: u32,
    flows: Option<PerFlow<Transmissions>>,
    /// The last packet that was recorded whole, if it has not been changed since.
    last: Option<Last>,
    /// The cells of the record that is being written, if it has any.
    cells: Vec<u8>,
}

impl Tap {
    /// The kinds that any lane wants: bits of [`Kind::bit`].
    pub const fn kinds(&self) -> u8 {
        self.kinds
    }

    /// Whether any lane wants this kind.
    #[inline]
    pub const fn wants(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// Whether any lane wants one of these kinds.
    #[inline]
    pub fn wants_any(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.wants(*kind))
    }

    /// Number of the transmission of the data of a packet that has just arrived; 0 if no lane follows flows.
    #[inline]
    pub fn transmission(&mut self, packet: &Packet) -> u8 {
        match &mut self.flows {
            Some(flows) if packet.is_tcp() => flows.of(packet.flow).count(packet),
            _ => 0,
        }
    }

    /// Says that data of `flow` from `from` (what [`Self::end`] was then) until `until` has passed unseen.
    pub fn passed(&mut self, flow: FlowRef, from: u32, until: u32) {
        if let Some(flow) = self.flows.as_mut().and_then(|flows| flows.of_latest(flow)) {
            flow.pass(from, until);
        }
    }

    /// The sequence number after the highest one of TCP data of `flow`; `None` if it is not known.
    pub fn end(&self, flow: FlowRef) -> Option<u32> {
        self.flows.as_ref()?.peek(flow).end()
    }

    /// Writes a record of `packet`. `draw` returns the random draw about it, or about the first wire packet of a train, if one decided.
    pub fn tell(&mut self, told: &Told<'_>, packet: &Packet, at: Instant, draw: &dyn Fn() -> Option<Draw>) {
        if told.kind == Kind::Rewritten {
            self.last = None;
        }
        let mut all = 0;
        for at_lane in 0..self.lanes.len() {
            let lane = &self.lanes[at_lane];
            if !lane.wants(told.kind, packet) {
                continue;
            }
            let (lanes, sample) = (1 << at_lane, lane.sample);
            if sample <= 1 {
                all |= lanes;
                continue;
            }
            for first in 0..packet.wires() {
                let number = id(packet.flow.identity, packet.index + u64::from(first), packet.lineage);
                if number.is_multiple_of(sample) {
                    let draw = if first == 0 { draw() } else { None };
                    self.put(told, packet, at, draw, Range { first, count: 1, lanes, is_whole: false });
                }
            }
        }
        if all == 0 {
            return;
        }
        let is_wire = matches!(told.kind, Kind::Received | Kind::Sent | Kind::Dropped);
        let whole = if is_wire { all & self.whole } else { 0 };
        for (lanes, is_whole) in [(all & !whole, false), (whole, true)] {
            if lanes != 0 {
                let range = Range { first: 0, count: packet.wires(), lanes, is_whole };
                self.put(told, packet, at, draw(), range);
            }
        }
    }

    fn put(&mut self, told: &Told<'_>, packet: &Packet, at: Instant, draw: Option<Draw>, range: Range) {
        let follows = self.flows.is_some();
        let known = self.flows.as_mut().filter(|_| packet.flow.identity != 0);
        let flow = known.and_then(|flows| flows.of_latest(packet.flow));
        let (base, known) = flow.as_ref().map_or((None, 0), |flow| (flow.base, flow.told));
        let tcp = header(packet).map(|(sequence, _)| TcpRange {
            sequence: sequence
                .wrapping_sub(base.unwrap_or(if follows { sequence } else { 0 }))
                .wrapping_add(range.payload_before(packet)),
            payload: range.payload(packet),
            // Only the first wire packet of a train was counted.
            transmission: if range.first == 0 { packet.transmission } else { 0 },
        });
        let all = packet.bytes();
        let form = if range.is_whole {
            // Without records of changes, nobody knows whether it has been changed since the last record.
            let last = self.last.as_ref().filter(|_| self.kinds & Kind::Rewritten.bit() != 0);
            Form::of(packet, range.lanes, self.snap, last)
        } else if told.before.is_some() || range.lanes & self.deep != 0 {
            Form::First(all.len().min(Headers::LEN))
        } else if range.lanes & self.headed & !known != 0 {
            // Without a first record with headers, a lane's reader would not know the addresses of a flow.
            Form::First(packet.header_length().min(Headers::LEN))
        } else {
            Form::First(0)
        };
        let part = form.part(packet).map(Part::bytes);
        let before =
            part.as_ref().map_or_else(|| told.before.map_or(&[][..], Headers::bytes), |part| &part[..]);
        let bytes = &all[..form.length(packet)];
        let behind = bytes.len() + form.cells().map_or(0, |cells| cells.length(packet) as usize);
        // Nothing is copied for a record that is lost.
        if self.ring.slots() < FIXED + before.len() + behind {
            self.lose(range);
            return;
        }
        self.cells.clear();
        if let Some(cells) = form.cells() {
            cells.fill(packet, &mut self.cells);
        }
        let record = Record {
            kind: told.kind,
            lanes: range.lanes,
            at: at.as_nanos(),
            arrived: packet.arrived.as_nanos(),
            due: told.due.unwrap_or(at).as_nanos(),
            left: told.left.map_or(0, Instant::as_nanos),
            flow: packet.flow.identity,
            index: packet.index + u64::from(range.first),
            lineage: packet.lineage,
            wires: range.count,
            each: packet.wire_length(range.first),
            last: packet.wire_length(range.first + range.count - 1),
            segment: packet.segment(),
            is_partial: range.is_whole && packet.partial().is_some(),
            has_part: part.is_some(),
            path: told.place.map_or(packet.path, |seat| seat.path),
            stage: told.place.map_or(NONE, |seat| seat.seat),
            port: told.port.unwrap_or(packet.ingress),
            reason: told.reason.map_or(NO_REASON, |reason| reason as u8),
            ingress: (told.kind == Kind::Sent).then_some(packet.ingress),
            draw,
            tcp,
            before,
            bytes,
            rest: &self.cells,
            cells: None,
        };
        let mut space = [0; FIXED + Headers::LEN];
        if let Some(flow) = flow {
            flow.told |= range.lanes & self.followed;
        }
        // All of it fits: meanwhile only the reader changes the room, and it makes it larger.
        for bytes in [record.encode(&mut space), bytes, &self.cells] {
            // One call for each of them would cost about 100 instructions.
            if !bytes.is_empty() {
                let _ = self.ring.push_entire_slice(bytes);
            }
        }
        if behind >= LEAST {
            self.last = Last::of(packet, range.lanes, form);
        }
    }

    /// Counts a record that did not fit: for a lane with whole packets each wire packet, for any other lane one record.
    #[cold]
    fn lose(&self, range: Range) {
        for (lane, lost) in self.lost.iter().enumerate().filter(|(lane, _)| range.lanes >> lane & 1 == 1) {
            let count = match (self.whole >> lane & 1 == 1, range.is_whole) {
                (true, true) => range.count.into(),
                // A lost change is no packet: only the packet's comment lacks it.
                (true, false) => 0,
                (false, _) => 1,
            };
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// Some wire packets of a packet that are recorded for some lanes.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    count: u32,
    lanes: u16,
    /// Whether these are all wire packets of the packet, recorded with all its bytes.
    is_whole: bool,
}

impl Range {
    fn payload_before(self, packet: &Packet) -> u32 {
        self.first * u32::from(packet.segment())
    }

    fn payload(self, packet: &Packet) -> u32 {
        let last = packet.wire_payload(self.first + self.count - 1);
        (self.count - 1) * u32::from(packet.segment()) + last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::aim::flow::FlowRef;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;

    /// A tap, the other end of its ring, and the numbers of lost records.
    fn tap(lanes: Vec<Lane>, capacity: usize) -> (Tap, Consumer<u8>, Arc<[AtomicU64]>) {
        let (taps, rings, lost) = Taps::new(lanes, capacity);
        (taps.tap(64), rings.recv().unwrap(), lost)
    }

    /// Packet `index` of a flow.
    fn packet(spec: &Spec, flow: u32, index: u64) -> Packet {
        let frame = spec.frame();
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        let mut packet = Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap();
        packet.flow = FlowRef { identity: 1000 + u64::from(flow), slot: flow, generation: 1 };
        packet.index = index;
        packet
    }

    fn told(mut ring: Consumer<u8>, mut each: impl FnMut(&Record<'_>)) {
        let chunk = ring.read_chunk(ring.slots()).unwrap();
        let (first, second) = chunk.as_slices();
        let all = [first, second].concat();
        chunk.commit_all();
        let mut rest = &all[..];
        let mut packet = &[][..];
        while let Some((Some(record), behind)) = Record::decode(rest) {
            each(&record.with_payload(packet));
            if record.bytes.len() >= LEAST {
                packet = record.bytes;
            }
            rest = behind;
        }
        assert!(rest.is_empty());
    }

    fn followed(lane: Lane) -> Lane {
        Lane { follows: true, ..lane }
    }

    /// A lane that follows flows gets the headers of each of its flows once, independently of other lanes. Other lanes get them with
    /// every record.
    #[test]
    fn every_lane_learns_the_addresses_of_its_flows() {
        let drops = Lane::of(&[Kind::Dropped]);
        let sampled = followed(Lane { sample: 3, ..Lane::of(&Kind::ALL) });
        let select = Some(Select { ip_length: Some((200, 65_535)), ..Select::default() });
        let large = Lane { select, ..Lane::of(&Kind::ALL) };
        let lanes = vec![drops, sampled, followed(large), followed(Lane::of(&[Kind::Dropped, Kind::Sent]))];
        let (mut tap, ring, _) = tap(lanes, 1 << 20);
        for index in 0..60 {
            let kind = if index % 4 == 0 { Kind::Dropped } else { Kind::Sent };
            let packet = packet(&Spec::udp(if index < 6 { 10 } else { 600 }), index as u32 % 3, index / 3);
            tap.tell(&Told::of(kind), &packet, Instant::ZERO, &|| None);
        }
        let mut seen = std::collections::HashMap::<(u16, u64), u32>::new();
        told(ring, |record| {
            for lane in (0..4).filter(|lane| record.lanes >> lane & 1 == 1) {
                let records = seen.entry((lane, record.flow)).or_default();
                *records += 1;
                assert!(*records > 1 || !record.bytes.is_empty(), "lane {lane}: no addresses");
                assert!(lane != 0 || !record.bytes.is_empty(), "not followed");
            }
        });
        assert_eq!(seen.len(), 4 * 3, "{seen:?}");
    }

    /// Each lane gets as much of a packet as it asks for, or more if another one asks for more.
    #[test]
    fn a_packet_comes_with_as_many_bytes_as_a_lane_wants() {
        let lane = |start: Start, kind: Kind| Lane { start, ..Lane::of(&[kind, Kind::Entered]) };
        let (bare, headed) = (lane(Start::Nothing, Kind::Sent), lane(Start::Headers, Kind::Dropped));
        let lanes = vec![bare, headed, lane(Start::Bytes, Kind::Received)];
        let (mut tap, ring, _) = tap(lanes, 1 << 16);
        let packet = packet(&Spec::udp(200), 1, 0);
        for kind in [Kind::Sent, Kind::Dropped, Kind::Received, Kind::Entered] {
            tap.tell(&Told::of(kind), &packet, Instant::ZERO, &|| None);
        }
        let mut found = Vec::new();
        told(ring, |record| {
            assert_eq!(record.bytes, &packet.bytes()[..record.bytes.len()]);
            found.push((record.kind, record.bytes.len()));
        });
        let headers = packet.header_length();
        let expected =
            [(Kind::Sent, 0), (Kind::Dropped, headers), (Kind::Received, 100), (Kind::Entered, 100)];
        assert_eq!(found, expected);
    }

    /// Events on other paths, or on none, are not recorded. A record of a sent packet has the port at which it arrived.
    #[test]
    fn a_lane_of_some_paths_is_told_of_no_others() {
        let lane = Lane { paths: Some(1..=2), ..Lane::of(&[Kind::Sent, Kind::Received]) };
        let (mut tap, ring, _) = tap(vec![lane], 1 << 16);
        let mut packet = packet(&Spec::udp(10), 1, 0);
        packet.ingress = 5;
        for path in [0, 1, 2, 3, Packet::NO_PATH] {
            packet.path = path;
            for kind in [Kind::Received, Kind::Sent] {
                tap.tell(&Told { port: Some(9), ..Told::of(kind) }, &packet, Instant::ZERO, &|| None);
            }
        }
        let mut found = Vec::new();
        told(ring, |record| found.push((record.kind, record.path, record.port, record.ingress)));
        let expected = [1, 2].map(|path| [(Kind::Received, path, 9, None), (Kind::Sent, path, 9, Some(5))]);
        assert_eq!(found, expected.concat());
    }

    #[test]
    fn what_is_lost_is_counted_for_the_lanes_that_wanted_it() {
        let lanes = vec![Lane::of(&[Kind::Dropped]), followed(Lane::of(&[Kind::Sent]))];
        let (mut tap, ring, lost) = tap(lanes, 400);
        for index in 0..5 {
            tap.tell(&Told::of(Kind::Dropped), &packet(&Spec::udp(10), 1, index), Instant::ZERO, &|| None);
        }
        let mut found = 0;
        told(ring, |_| found += 1);
        assert!(found > 0);
        let lost: Vec<u64> = lost.iter().map(|lost| lost.load(Ordering::Relaxed)).collect();
        assert_eq!(lost, [5 - found, 0]);
    }

    /// A capture has each wire packet of a train separately, so each one is missing. A change by a stage is no packet.
    #[test]
    fn of_whole_packets_each_wire_packet_is_counted() {
        let whole = Lane { is_whole: true, ..Lane::of(&Kind::ALL) };
        let (mut tap, _ring, lost) = tap(vec![whole, Lane::of(&[Kind::Sent, Kind::Created])], 8);
        let train = packet(&Spec::tcp(3000).train(1000), 1, 0);
        for kind in [Kind::Sent, Kind::Created, Kind::Dropped] {
            tap.tell(&Told::of(kind), &train, Instant::ZERO, &|| None);
        }
        let lost: Vec<u64> = lost.iter().map(|lost| lost.load(Ordering::Relaxed)).collect();
        assert_eq!(lost, [6, 2]);
    }

    #[test]
    fn without_a_lane_that_follows_flows_there_is_no_table() {
        let (mut tap, _ring, _) = tap(vec![Lane::of(&[Kind::Dropped])], 400);
        assert!(tap.flows.is_none());
        assert_eq!(tap.transmission(&packet(&Spec::tcp(100), 1, 0)), 0);
    }

    /// A packet of the former tenant of a place in the flow table was held, and leaves when a later flow has the place.
    #[test]
    fn a_late_record_of_a_former_flow_leaves_what_is_known_of_the_new_one() {
        let (mut tap, _ring, _) = tap(vec![followed(Lane::of(&[Kind::Sent]))], 1 << 16);
        let (former, mut new) = (packet(&Spec::tcp(100), 1, 0), packet(&Spec::tcp(100), 1, 0));
        new.flow.generation += 1;
        tap.transmission(&former);
        assert_eq!(tap.transmission(&new), 1);
        tap.tell(&Told::of(Kind::Sent), &former, Instant::ZERO, &|| None);
        assert_eq!(tap.transmission(&new), 2);
        tap.passed(former.flow, 0, 1);
        assert_eq!(tap.transmission(&new), 3);
    }

    /// A sample has a record for each wire packet; the number of the transmission is known only for the first one.
    #[test]
    fn the_transmission_of_a_train_is_that_of_its_first_wire_packet() {
        let sampled = followed(Lane { sample: 2, ..Lane::of(&[Kind::Sent]) });
        let (mut tap, ring, _) = tap(vec![sampled], 1 << 16);
        for index in 0..20 {
            let mut train = packet(&Spec::tcp(3000).train(1000), 1, 3 * index);
            train.transmission = tap.transmission(&train);
            tap.tell(&Told::of(Kind::Sent), &train, Instant::ZERO, &|| None);
        }
        let (mut firsts, mut others) = (0, 0);
        told(ring, |record| {
            let (tcp, is_first) = (record.tcp.unwrap(), record.index.is_multiple_of(3));
            assert_eq!((tcp.payload, tcp.sequence), (1000, 1000 * (record.index % 3) as u32));
            assert_eq!(tcp.transmission > 0, is_first);
            firsts += u32::from(is_first);
            others += u32::from(!is_first);
        });
        assert!(firsts > 0 && others > 0);
    }

    /// A lane for whole packets gets all bytes of packets on the wire, and no other lane does.
    #[test]
    fn whole_packets_are_told_to_those_who_ask() {
        let whole = Lane { is_whole: true, ..Lane::of(&Kind::ALL) };
        let (mut tap, ring, _) = tap(vec![whole, Lane::of(&Kind::ALL)], 1 << 16);
        let train = packet(&Spec::tcp(3000).train(1000), 1, 0);
        for kind in Kind::ALL {
            tap.tell(&Told::of(kind), &train, Instant::ZERO, &|| None);
        }
        let mut found = Vec::new();
        told(ring, |record| {
            let is_whole = record.is_partial;
            let expected = if is_whole { train.bytes() } else { &train.bytes()[..train.header_length()] };
            assert_eq!([record.bytes, record.rest].concat(), expected);
            found.push((record.lanes, record.kind, is_whole));
        });
        for kind in Kind::ALL {
            let of_kind: Vec<_> = found.iter().filter(|(_, other, _)| *other == kind).collect();
            if matches!(kind, Kind::Received | Kind::Sent | Kind::Dropped) {
                assert_eq!(of_kind, [&(0b10, kind, false), &(0b01, kind, true)]);
            } else {
                assert_eq!(of_kind, [&(0b11, kind, false)]);
            }
        }
    }

    /// A packet that leaves unchanged is recorded without its payload, also if it was cut out of a train. The reader still gets its whole
    /// payload, whatever was recorded in between.
    #[test]
    fn a_payload_is_told_once_and_every_packet_is_read_whole() {
        let whole = Lane { is_whole: true, ..Lane::of(&Kind::ALL) };
        let (mut tap, ring, _) = tap(vec![whole], 1 << 20);
        let (mut expected, mut is_short) = (Vec::new(), Vec::new());
        let mut tell = |kind: Kind, packet: &Packet, expects_short: bool| {
            let free = tap.ring.slots();
            tap.tell(&Told::of(kind), packet, Instant::ZERO, &|| None);
            let is_wire = matches!(kind, Kind::Received | Kind::Sent | Kind::Dropped);
            if is_wire {
                expected.push(packet.bytes().to_vec());
                is_short.push((free - tap.ring.slots() < packet.bytes().len(), expects_short));
            }
        };
        for spec in [Spec::tcp(3_000).train(1_000), Spec::udp(2_500).train(1_000).v6()] {
            let mut train = packet(&spec, 1, 40);
            tell(Kind::Received, &train, false);
            tell(Kind::Sent, &train, true);
            // The train is cut by a loss in the middle: one leaves, one is dropped, one leaves.
            for kind in [Kind::Sent, Kind::Dropped] {
                let rest = train.detach(1);
                tell(kind, &train, true);
                train.attach(&rest);
            }
            tell(Kind::Sent, &train, true);
            // Another packet in between, a copy, and one that was changed.
            let mut other = packet(&spec, 2, 0);
            tell(Kind::Received, &other, false);
            tell(Kind::Sent, &train, false);
            tell(Kind::Received, &other, false);
            other.lineage = 7;
            tell(Kind::Sent, &other, false);
            let last = other.bytes().len() - 1;
            other.bytes_mut()[last] ^= 1;
            tell(Kind::Rewritten, &other, false);
            tell(Kind::Sent, &other, false);
            tell(Kind::Dropped, &other, true);
        }
        // Too short to gain anything.
        let short = packet(&Spec::udp(100), 3, 0);
        tell(Kind::Received, &short, false);
        tell(Kind::Sent, &short, false);
        assert!(is_short.iter().all(|(is, expected)| is == expected), "{is_short:?}");
        let mut found = Vec::new();
        told(ring, |record| {
            if record.kind != Kind::Rewritten {
                found.push([record.bytes, record.rest].concat());
            }
        });
        assert_eq!(found, expected);
    }

    /// The cost of a record for the worker: the bytes that it writes into its ring for a train of 44 wire packets that arrives, that
    /// leaves, and that does not fit.
    #[test]
    fn no_more_is_copied_than_is_kept() {
        let lane = |snap| Lane { is_whole: true, snap, ..Lane::of(&Kind::ALL) };
        let (payload, each, headers) = (44 * 1_000, 1_000, 40);
        let train = packet(&Spec::tcp(payload).train(each), 1, 0);
        assert_eq!(train.bytes().len(), headers + payload);
        let record = FIXED + Part::LEN + headers;
        let cells = 44 * (2 + 128 - headers);
        for (snap, first) in [(u32::MAX, FIXED + headers + payload), (128, record + cells)] {
            let (mut tap, ring, lost) = tap(vec![lane(snap)], 100_000);
            for (kind, expected) in [(Kind::Received, first), (Kind::Sent, record)] {
                let free = tap.ring.slots();
                tap.tell(&Told::of(kind), &train, Instant::ZERO, &|| None);
                assert_eq!(free - tap.ring.slots(), expected, "{kind:?} {snap}");
            }
            // Others, until one does not fit.
            let mut told = 2;
            while lost[0].load(Ordering::Relaxed) == 0 {
                let (train, free) = (packet(&Spec::tcp(payload).train(each), 2, told), tap.ring.slots());
                tap.cells.clear();
                tap.tell(&Told::of(Kind::Received), &train, Instant::ZERO, &|| None);
                if lost[0].load(Ordering::Relaxed) > 0 {
                    assert!(tap.ring.slots() == free && free < first && tap.cells.is_empty());
                }
                told += 1;
            }
            assert!(told > 2 && ring.slots() > 0);
        }
    }

    /// The record of a rewrite has the headers before and after, for each packet.
    #[test]
    fn a_rewrite_has_both_headers() {
        let (mut tap, ring, _) = tap(vec![followed(Lane::of(&Kind::ALL))], 1 << 16);
        for index in 0..3 {
            let packet = packet(&Spec::udp(300), 1, index);
            let before = Headers::of(&packet);
            let told = Told { before: Some(&before), ..Told::of(Kind::Rewritten) };
            tap.tell(&told, &packet, Instant::ZERO, &|| None);
        }
        let mut found = 0;
        told(ring, |record| {
            assert_eq!(record.before, record.bytes);
            found += 1;
        });
        assert_eq!(found, 3);
    }
}
