//! Events for a log: packets that came, left or were dropped on the paths. Each worker has its own ring of events.
//!
//! A worker never waits and never wakes another thread: it puts an event into its ring, or counts that the ring was full. The
//! writer of the log reads the rings from time to time.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::pipeline::packet::Packet;
use crate::pipeline::router::What;
use crate::pipeline::time::Instant;

/// One thing that happened to some wire packets that follow each other in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When, in the time of the router: when a packet was due, not how late it left.
    pub at: Instant,
    /// What.
    pub kind: Kind,
    /// The path.
    pub path: u16,
    /// Wire packets.
    pub wires: u32,
    /// IP length of each of them but the last.
    pub each: u32,
    /// IP length of the last.
    pub last: u32,
    /// Zero for originals, otherwise the number of a copy or fragment.
    pub lineage: u32,
    /// Hash of the flow.
    pub flow: u64,
    /// Number of the first in its flow.
    pub index: u64,
}

/// What can happen on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They came to the path.
    Came,
    /// They left it.
    Left,
    /// They were dropped on it.
    Dropped,
}

impl Event {
    /// The event of a packet; `None` if it does not belong to a path, or logs have no line for it.
    pub fn of(what: What, packet: &Packet, at: Instant) -> Option<Self> {
        let kind = match what {
            What::Entered => Kind::Came,
            What::Sent(_) => Kind::Left,
            What::Dropped(..) => Kind::Dropped,
            What::Received(_) | What::Rewritten(..) | What::Held(..) | What::Created(_) => return None,
        };
        let wires = packet.wires();
        (packet.path != Packet::NO_PATH).then(|| Self {
            at,
            kind,
            path: packet.path,
            wires,
            each: packet.wire_length(0),
            last: packet.wire_length(wires - 1),
            lineage: packet.lineage,
            flow: packet.flow.identity,
            index: packet.index,
        })
    }

    /// IP length and number in the flow of each wire packet.
    pub fn packets(&self) -> impl Iterator<Item = (u32, u64)> + use<> {
        let Self { wires, each, last, index, .. } = *self;
        (0..wires).map(move |wire| {
            let length = if wire + 1 == wires { last } else { each };
            (length, index + u64::from(wire))
        })
    }
}

/// Makes workers record events.
#[derive(Debug, Clone)]
pub struct Events {
    capacity: usize,
    /// Only of paths below this.
    paths: u16,
    rings: Sender<Receiver<Event>>,
}

impl Events {
    /// For the first `paths` paths, with rings of `capacity` events. The readers' ends of the workers' rings come through the
    /// receiver.
    pub fn new(capacity: usize, paths: usize) -> (Self, Receiver<Receiver<Event>>) {
        let (rings, receiver) = unbounded();
        (Self { capacity, paths: u16::try_from(paths).unwrap_or(Packet::NO_PATH), rings }, receiver)
    }

    /// A worker's end of a ring of its own.
    pub(super) fn tap(&self) -> Tap {
        let (sender, receiver) = bounded(self.capacity);
        // If the reader has ended, the ring fills, and the records that do not fit are counted.
        let _ = self.rings.send(receiver);
        Tap { sender, paths: self.paths }
    }
}

/// A worker's end of its ring.
#[derive(Debug)]
pub(super) struct Tap {
    sender: Sender<Event>,
    paths: u16,
}

impl Tap {
    /// False if the ring was full.
    #[inline]
    pub(super) fn push(&self, what: What, packet: &Packet, at: Instant) -> bool {
        match Event::of(what, packet, at) {
            Some(event) if event.path < self.paths => self.sender.try_send(event).is_ok(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::packet::Offload;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;

    /// A train of three with 40 bytes of headers, on this path.
    fn train(path: u16) -> Packet {
        let frame = Spec::tcp(250).train(100).frame();
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        let offload = Offload { segment: 100, partial: frame.offload.partial };
        let mut packet = Packet::parse(buffer, frame.bytes.len(), offload, 0).unwrap();
        (packet.path, packet.index) = (path, 7);
        packet
    }

    #[test]
    fn an_event_tells_each_wire_packet_of_a_train() {
        let event = Event::of(What::Entered, &train(0), Instant::ZERO).unwrap();
        assert_eq!(event.kind, Kind::Came);
        assert_eq!(event.packets().collect::<Vec<_>>(), [(140, 7), (140, 8), (90, 9)]);
        assert_eq!(Event::of(What::Received(0), &train(0), Instant::ZERO), None);
        assert_eq!(Event::of(What::Sent(1), &train(Packet::NO_PATH), Instant::ZERO), None);
    }

    /// IPv6 does not count its own header: its longest packet has more bytes than fit 16 bits.
    #[test]
    fn lengths_above_65_535_are_told() {
        let length = crate::pipeline::pool::MAX_PACKET;
        let frame = Spec::udp(length - 48).v6().frame();
        assert_eq!(frame.bytes.len(), length);
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + length].copy_from_slice(&frame.bytes);
        let mut packet = Packet::parse(buffer, length, Offload::default(), 0).unwrap();
        packet.path = 0;
        let event = Event::of(What::Sent(1), &packet, Instant::ZERO).unwrap();
        assert_eq!(event.packets().collect::<Vec<_>>(), [(65_575, 0)]);
    }

    #[test]
    fn a_full_ring_loses_events_and_waits_for_nobody() {
        let (events, rings) = Events::new(2, 1);
        let tap = events.tap();
        let told = |path| tap.push(What::Sent(1), &train(path), Instant::ZERO);
        // What no log is about takes no room.
        assert_eq!([0, 1, Packet::NO_PATH, 0, 0].map(told), [true, true, true, true, false]);
        let ring = rings.try_recv().unwrap();
        assert_eq!(ring.try_iter().count(), 2);
        assert!(told(0));
    }
}
