//! A worker's end of the journal: what it tells, into a ring of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::journal::record::{FIXED, Kind, NO_REASON, NONE, Record, TcpRange, id};
use crate::journal::transmissions::{Transmissions, header};
use crate::pipeline::counters::Reason;
use crate::pipeline::flow::PerFlow;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::Select;
use crate::pipeline::path::SeatId;
use crate::pipeline::rng::Draw;
use crate::pipeline::router::Headers;
use crate::pipeline::time::Instant;

/// What one sink wants to be told.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Bits of [`Kind::bit`].
    pub kinds: u8,
    /// Bytes of each packet; 0: the headers once a flow.
    pub snap: u32,
    /// One in so many packets; 1: all.
    pub sample: u64,
    /// Only what happens on this path; a packet that just came is on none yet.
    pub path: Option<u16>,
    /// Only packets like these; a train is judged by its first packet.
    pub select: Option<Select>,
}

impl Lane {
    /// A lane of these kinds, with headers once a flow.
    pub fn of(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().fold(0, |set, kind| set | kind.bit());
        Self { kinds, snap: 0, sample: 1, path: None, select: None }
    }

    fn wants(&self, kind: Kind, packet: &Packet) -> bool {
        self.kinds & kind.bit() != 0
            && self.path.is_none_or(|path| path == packet.path)
            && self.select.as_ref().is_none_or(|select| select.run(packet, packet.wires()).acts)
    }
}

/// Where the workers get their taps.
#[derive(Debug, Clone)]
pub struct Taps {
    lanes: Arc<[Lane]>,
    capacity: usize,
    lost: Arc<AtomicU64>,
    rings: Sender<Consumer<u8>>,
}

impl Taps {
    /// Taps with these lanes, each with a ring of `capacity` bytes. The other ends of the rings come by the receiver, the count of
    /// records that found no room is shared.
    ///
    /// # Panics
    /// If there are more than 16 lanes.
    pub(super) fn new(lanes: Vec<Lane>, capacity: usize) -> (Self, Receiver<Consumer<u8>>, Arc<AtomicU64>) {
        assert!(lanes.len() <= 16, "a record has 16 bits for lanes");
        let (rings, receiver) = unbounded();
        let lost = Arc::new(AtomicU64::new(0));
        (Self { lanes: lanes.into(), capacity, lost: Arc::clone(&lost), rings }, receiver, lost)
    }

    /// The tap of a worker whose flow table holds so many flows.
    pub fn tap(&self, flows: usize) -> Tap {
        let (ring, consumer) = RingBuffer::new(self.capacity);
        // If nobody listens any more, the ring fills, and what is lost is counted.
        let _ = self.rings.send(consumer);
        let lanes = Arc::clone(&self.lanes);
        let kinds = lanes.iter().fold(0, |set, lane| set | lane.kinds);
        Tap { lanes, kinds, ring, lost: Arc::clone(&self.lost), flows: PerFlow::new(flows.max(8)) }
    }
}

/// What is told besides the packet.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// What happened.
    pub kind: Kind,
    /// Where: path and stage.
    pub place: Option<SeatId>,
    /// Port, where it is not the one that the packet came by.
    pub port: Option<u16>,
    /// Why it was dropped.
    pub reason: Option<Reason>,
    /// Until when it is held, or when it was to leave.
    pub due: Option<Instant>,
    /// When it left.
    pub left: Option<Instant>,
    /// The headers before a rewrite.
    pub before: Option<&'a Headers>,
}

impl Told<'_> {
    /// Only what happened.
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
    lost: Arc<AtomicU64>,
    flows: PerFlow<Transmissions>,
}

impl Tap {
    /// Whether anybody wants to hear of this.
    #[inline]
    pub const fn wants(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// Which transmission of its data this is, which has just come.
    #[inline]
    pub fn transmission(&mut self, packet: &Packet) -> u8 {
        if packet.is_tcp() { self.flows.of(packet.flow).count(packet) } else { 0 }
    }

    /// Tells of `packet`; `draw` of the draw about each wire packet, if one decided.
    pub fn tell(
        &mut self,
        told: &Told<'_>,
        packet: &Packet,
        at: Instant,
        draw: &dyn Fn(u32) -> Option<Draw>,
    ) {
        let (mut whole, mut snap) = (0, 0);
        for at_lane in 0..self.lanes.len() {
            let lane = &self.lanes[at_lane];
            if !lane.wants(told.kind, packet) {
                continue;
            }
            let (bit, sample, wanted) = (1 << at_lane, lane.sample, lane.snap);
            if sample <= 1 {
                whole |= bit;
                snap = snap.max(wanted);
                continue;
            }
            for wire in 0..packet.wires() {
                let number = id(packet.flow.identity, packet.index + u64::from(wire), packet.lineage);
                if number.is_multiple_of(sample) {
                    let range = Range { first: wire, count: 1, lanes: bit, snap: wanted };
                    self.put(told, packet, at, draw(wire), range);
                }
            }
        }
        if whole == 0 {
            return;
        }
        if packet.wires() > 1 && draw(0).is_some() && snap <= Headers::LEN as u32 {
            // Each has a draw of its own.
            for wire in 0..packet.wires() {
                self.put(told, packet, at, draw(wire), Range { first: wire, count: 1, lanes: whole, snap });
            }
        } else {
            let range = Range { first: 0, count: packet.wires(), lanes: whole, snap };
            self.put(told, packet, at, draw(0), range);
        }
    }

    fn put(&mut self, told: &Told<'_>, packet: &Packet, at: Instant, draw: Option<Draw>, range: Range) {
        let of_flow = packet.flow.identity != 0;
        let flow = self.flows.of(packet.flow);
        let tcp = header(packet).map(|(sequence, _)| TcpRange {
            sequence: sequence
                .wrapping_sub(flow.base.unwrap_or(sequence))
                .wrapping_add(range.payload_before(packet)),
            payload: range.payload(packet),
            transmission: packet.transmission,
        });
        // Without its first record a reader would not know the addresses of a flow.
        let is_new = !(of_flow && flow.is_told);
        let least = if is_new { packet.header_length().min(Headers::LEN) } else { 0 };
        let bytes = &packet.bytes()[..packet.bytes().len().min((range.snap as usize).max(least))];
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
            path: told.place.map_or(packet.path, |seat| seat.path),
            stage: told.place.map_or(NONE, |seat| seat.seat),
            port: told.port.unwrap_or(packet.ingress),
            reason: told.reason.map_or(NO_REASON, |reason| reason as u8),
            draw,
            tcp,
            before: told.before.map_or(&[], Headers::bytes),
            bytes,
        };
        let mut space = [0; FIXED + Headers::LEN];
        let head = record.encode(&mut space);
        if self.ring.slots() < head.len() + bytes.len() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        flow.is_told |= is_new;
        // There is room for both: only the reader changes it meanwhile, and makes it larger.
        let _ = self.ring.push_entire_slice(head);
        let _ = self.ring.push_entire_slice(bytes);
    }
}

/// Some wire packets of a packet, for some lanes.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    count: u32,
    lanes: u16,
    snap: u32,
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
