//! Events of a log: packets that arrive at a path, leave it or are dropped on it.

use crate::journal;
use crate::journal::record::Record;
use crate::pipeline::packet::Packet;
use crate::pipeline::router::What;
use crate::pipeline::time::Instant;

/// One event of consecutive wire packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Time of the router's clock; for a packet that left, the time at which it was due.
    pub at: Instant,
    /// Kind of the event.
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
    /// They arrived at the path.
    Came,
    /// They left it.
    Left,
    /// They were dropped on it.
    Dropped,
}

impl Event {
    /// The event of a packet; `None` if the packet belongs to no path, or if logs have no line for the event.
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

    /// The event of a record of a running router.
    pub fn told(record: &Record<'_>) -> Option<Self> {
        let kind = match record.kind {
            journal::Kind::Entered => Kind::Came,
            journal::Kind::Sent => Kind::Left,
            journal::Kind::Dropped => Kind::Dropped,
            journal::Kind::Received
            | journal::Kind::Held
            | journal::Kind::Rewritten
            | journal::Kind::Created
            | journal::Kind::Released => return None,
        };
        let Record { path, wires, each, last, lineage, flow, index, .. } = *record;
        let at = Instant::from_nanos(record.at);
        (path != Packet::NO_PATH).then_some(Self { at, kind, path, wires, each, last, lineage, flow, index })
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

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Sender, unbounded};

    use super::*;
    use crate::journal::tap::Told;
    use crate::journal::{Finished, Hub, Lane, Sink, Start};
    use crate::pipeline::counters::Reason;
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

    /// The length in an IPv6 header does not count the header: the longest packet has more than 65,535 bytes.
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

    /// The log of a capture is made from packets, the log of a running router from records: both have the same events.
    #[test]
    fn a_record_is_the_event_of_its_packet() {
        let kinds = [
            (What::Entered, journal::Kind::Entered),
            (What::Sent(1), journal::Kind::Sent),
            (What::Dropped(None, Reason::Loss), journal::Kind::Dropped),
            (What::Received(0), journal::Kind::Received),
        ];
        let (sink, told) = unbounded();
        let kinds_of = kinds.map(|(_, kind)| kind);
        let lane = Lane { start: Start::Nothing, ..Lane::of(&kinds_of) };
        let (hub, taps) = Hub::with_ring(lane, Box::new(Teller(sink)), 1 << 16).unwrap();
        hub.begin();
        let mut tap = taps.tap(8);
        let mut expected = Vec::new();
        for (number, path) in (0..).zip([0, 3, Packet::NO_PATH]) {
            let mut packet = train(path);
            (packet.lineage, packet.flow.identity) = (number, 77);
            for (what, kind) in kinds {
                let at = Instant::from_nanos(1_000 + u64::from(number));
                expected.push(Event::of(what, &packet, at));
                tap.tell(&Told::of(kind), &packet, at, &|| None);
            }
        }
        drop(tap);
        hub.finish();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), expected);
        assert_eq!(expected.iter().flatten().count(), 6);
    }

    /// Sends the events of its records.
    struct Teller(Sender<Option<Event>>);

    impl Sink for Teller {
        fn record(&mut self, record: &Record<'_>) {
            self.0.send(Event::told(record)).unwrap();
        }

        fn finish(self: Box<Self>, _lost: u64) -> Finished {
            Finished::default()
        }
    }
}
