//! Between a worker's TUN queues and its packet core.

use hdrhistogram::Histogram;

use crate::device::{Queue, vnet};
use crate::engine::clock::Clock;
use crate::engine::events::Tap;
use crate::engine::record::Records;
use crate::engine::report::LATENESS_MAX;
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::router::{Egress, What};
use crate::pipeline::time::Instant;

/// The devices as seen from one worker: one queue of each port.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) ports: Vec<Queue>,
    clock: Clock,
    /// How long after its time each scheduled packet left, in nanoseconds.
    pub(super) lateness: Histogram<u64>,
    records: Option<Records>,
    pub(super) records_lost: u64,
    tap: Option<Tap>,
    pub(super) events_lost: u64,
}

impl Queues {
    pub(super) fn new(queues: Vec<Queue>, clock: Clock, records: Option<Records>, tap: Option<Tap>) -> Self {
        let lateness = Histogram::new_with_bounds(1, LATENESS_MAX, 2).expect("constant bounds");
        Self { ports: queues, clock, lateness, records, records_lost: 0, tap, events_lost: 0 }
    }
}

/// What the virtio header of a frame says, in the words of the core; `None` if it makes no sense.
pub(super) fn offload(frame: &[u8]) -> Option<Offload> {
    let (header, _) = vnet::VnetHeader::parse(frame).ok()?;
    let partial = match header.checksum {
        vnet::Checksum::Partial { start, offset } => Some((start, offset)),
        vnet::Checksum::Complete | vnet::Checksum::Valid => None,
    };
    Some(Offload { segment: header.gso.map_or(0, |gso| gso.size), partial })
}

fn header_of(packet: &Packet) -> vnet::VnetHeader {
    const CWR: u8 = 0x80;
    let checksum = match packet.partial() {
        None => vnet::Checksum::Complete,
        Some((start, offset)) => vnet::Checksum::Partial { start, offset },
    };
    let gso = (packet.wires() > 1).then(|| vnet::Gso {
        segmentation: match (packet.is_udp(), packet.is_v4()) {
            (true, _) => vnet::Segmentation::Udp,
            (false, true) => vnet::Segmentation::TcpV4,
            (false, false) => vnet::Segmentation::TcpV6,
        },
        size: packet.segment(),
        hdr_len: packet.header_length() as u16,
        ecn: packet.tcp_flags().is_some_and(|flags| flags & CWR != 0),
    });
    vnet::VnetHeader { checksum, gso }
}

impl Egress for Queues {
    const RECORDS: bool = true;

    #[inline]
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        let header = header_of(packet).emit();
        let scheduled = packet.has_waited();
        let frame = packet.with_headroom();
        frame[..vnet::LEN].copy_from_slice(&header);
        let sent = self.ports[usize::from(port)].send(frame);
        if scheduled {
            self.lateness.saturating_record(self.clock.now().since(due).as_nanos().max(1));
        }
        sent.map(drop).map_err(|_| Reason::DeviceRefused)
    }

    #[inline]
    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        if let Some(tap) = &self.tap {
            self.events_lost += u64::from(!tap.push(what, packet, at));
        }
        // A story begins with what was received.
        if let Some(records) = self.records.as_ref().filter(|_| what != What::Entered) {
            self.records_lost += u64::from(!records.push(what, packet, at));
        }
    }
}
