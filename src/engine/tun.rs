//! The interface between a worker's devices and its packet core.

use hdrhistogram::Histogram;

use crate::bpf::flows::FlowTable;
use crate::device::tap::{self, LinkHeaders};
use crate::device::{Queue, vnet};
use crate::engine::clock::Clock;
use crate::engine::listeners::Listeners;
use crate::engine::report::LATENESS_MAX;
use crate::engine::times::AllTimes;
use crate::journal::record::UNKNOWN;
use crate::journal::tap::Told;
use crate::journal::{Kind, Tap};
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::random::rng::Draw;
use crate::pipeline::router::ear::Deed;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::router::{Egress, Headers, What};
use crate::pipeline::time::Instant;
use crate::veth::VethEnd;

/// One worker's end of a port.
#[derive(Debug)]
pub enum Port {
    /// A queue of a TUN device: packets from it are routed.
    Routed(Queue),
    /// A veth port: packets from it are routed.
    Veth {
        /// The queue of its TAP device.
        queue: Queue,
        /// The rest of the port.
        end: VethEnd,
    },
    /// One end of a wire: packets from it take a path, whatever their addresses are.
    Wire {
        /// A queue of the TAP device from which frames are read.
        reads: Queue,
        /// A queue of the TAP device to which frames for this end are written.
        writes: Queue,
        /// Index of the path.
        path: u16,
        /// At the target's side: the flow cache of both directions, if there is one.
        flows: Option<FlowTable>,
    },
}

impl Port {
    /// The queue from which packets are read.
    pub(super) const fn queue(&self) -> &Queue {
        match self {
            Self::Routed(queue) | Self::Veth { queue, .. } | Self::Wire { reads: queue, .. } => queue,
        }
    }
}

/// A frame as it was read: a virtio header and an IP packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// Length of both together.
    pub(super) length: usize,
    /// For a wire: the path, and the number of the link header.
    pub(super) wire: Option<(u16, u16)>,
}

/// The devices as seen from one worker: its end of each port.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) ports: Vec<Port>,
    /// Frames written to each port.
    pub(super) written: Vec<u64>,
    links: LinkHeaders,
    clock: Clock,
    /// How long after its time each scheduled packet left, in nanoseconds.
    pub(super) lateness: Histogram<u64>,
    /// How long the packets of each path took.
    pub(super) times: AllTimes,
    pub(super) listeners: Listeners,
}

impl Queues {
    pub(super) fn new(ports: Vec<Port>, clock: Clock, taps: Vec<Tap>) -> Self {
        let lateness = Histogram::new_with_bounds(1, LATENESS_MAX, 2).expect("constant bounds");
        let links = LinkHeaders::default();
        let listeners = Listeners::new(taps);
        let written = vec![0; ports.len()];
        Self { ports, written, links, clock, lateness, times: AllTimes::default(), listeners }
    }

    /// Reads one frame. `is_idle` says that no packet is held, so no link header's number is in use.
    pub(super) fn recv(&mut self, port: u16, buffer: &mut [u8], is_idle: bool) -> std::io::Result<Arrival> {
        match &self.ports[usize::from(port)] {
            Port::Routed(queue) => Ok(Arrival { length: queue.recv(buffer)?, wire: None }),
            Port::Veth { queue, .. } => {
                let (link, length) = tap::recv(queue, buffer)?;
                Ok(Arrival { length: if link.is_some() { length } else { 0 }, wire: None })
            }
            Port::Wire { reads, path, .. } => {
                let (link, length) = tap::recv(reads, buffer)?;
                let number = link.and_then(|link| {
                    self.links.number(&link).or_else(|| {
                        if is_idle {
                            self.links.clear();
                        }
                        self.links.number(&link)
                    })
                });
                // A frame that is not IP, or for which no number is free, is passed on as an empty packet and counted
                // as malformed.
                Ok(number.map_or(Arrival { length: 0, wire: None }, |number| Arrival {
                    length,
                    wire: Some((*path, number)),
                }))
            }
        }
    }
}

/// The offload settings in the virtio header of a frame, in the core's types; `None` if they are invalid.
pub(super) fn offload(frame: &[u8]) -> Option<Offload> {
    let (header, _) = vnet::VnetHeader::parse(frame).ok()?;
    let partial = match header.checksum {
        vnet::Checksum::Partial { start, offset } => Some((start, offset)),
        vnet::Checksum::Complete | vnet::Checksum::Valid => None,
    };
    Some(Offload { segment: header.gso.map_or(0, |gso| gso.size), partial })
}

fn header_of(packet: &Packet) -> vnet::VnetHeader {
    use crate::pipeline::wire::tcp::flag::CWR;
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
        hdr_len: u16::try_from(packet.header_length()).unwrap_or(u16::MAX),
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
        // An error that answers a packet goes back to the sender of that packet.
        let (tag, goes_back, is_v4) = (packet.tag, packet.ingress == port, packet.is_v4());
        let frame = packet.with_headroom();
        frame[..vnet::LEN].copy_from_slice(&header);
        let sent = match &self.ports[usize::from(port)] {
            Port::Routed(queue) => queue.send(frame),
            Port::Veth { queue, end } => tap::send(queue, &end.headers[usize::from(!is_v4)], frame),
            Port::Wire { writes, .. } => {
                let link = self.links.header(tag);
                let reversed = goes_back.then(|| link.reversed());
                tap::send(writes, reversed.as_ref().unwrap_or(link), frame)
            }
        };
        self.written[usize::from(port)] += u64::from(sent.is_ok());
        let left = if scheduled { self.clock.now() } else { due };
        if scheduled {
            self.lateness.saturating_record(left.since(due).as_nanos().max(1));
        }
        if sent.is_ok() && packet.path != Packet::NO_PATH {
            let (times, wires) = (self.times.of(packet.path), packet.wires());
            times.delay.record(left.since(packet.arrived).as_nanos(), wires);
            if scheduled {
                times.lateness.record(left.since(due).as_nanos(), wires);
            }
        }
        if sent.is_ok() && self.listeners.wants(Kind::Sent) {
            let told = Told { port: Some(port), due: Some(due), left: Some(left), ..Told::of(Kind::Sent) };
            self.listeners.tell(&told, packet, due, &|| None);
        }
        sent.map(drop).map_err(|_| Reason::DeviceRefused)
    }

    #[inline]
    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        let told = match what {
            What::Received(_) => Told::of(Kind::Received),
            What::Entered => Told::of(Kind::Entered),
            What::Held(place, until) => Told { place: Some(place), due: Some(until), ..Told::of(Kind::Held) },
            What::Created(place) => Told { place, ..Told::of(Kind::Created) },
            // They have hooks of their own, which know more.
            What::Sent(_) | What::Dropped(..) | What::Rewritten(..) => return,
        };
        self.listeners.tell(&told, packet, at, &|| None);
    }

    #[inline]
    fn transmission(&mut self, packet: &Packet) -> u8 {
        self.listeners.transmission(packet)
    }

    #[inline]
    fn wants_draws(&self) -> bool {
        self.listeners.wants(Kind::Dropped)
    }

    fn dropped(
        &mut self,
        place: Option<SeatId>,
        reason: Reason,
        packet: &Packet,
        at: Instant,
        draw: &dyn Fn() -> Option<Draw>,
    ) {
        let told = Told { place, reason: Some(reason), ..Told::of(Kind::Dropped) };
        self.listeners.tell(&told, packet, at, draw);
    }

    fn wants_headers(&self) -> bool {
        self.listeners.wants(Kind::Rewritten)
    }

    fn rewritten(&mut self, place: SeatId, before: Option<&Headers>, packet: &Packet, at: Instant) {
        if before.is_some() {
            let told = Told { place: Some(place), before, ..Told::of(Kind::Rewritten) };
            self.listeners.tell(&told, packet, at, &|| None);
        }
    }

    #[inline]
    fn hears(&self) -> bool {
        self.listeners.wants_any(&Kind::DEEDS)
    }

    #[cold]
    fn did(&mut self, place: SeatId, deed: Deed<'_>, packet: &Packet, at: Instant) {
        let (kind, due, before) = match deed {
            Deed::Created => (Kind::Created, None, None),
            Deed::Rewritten(before) => (Kind::Rewritten, None, Some(before)),
            Deed::Kept => (Kind::Held, Some(UNKNOWN), None),
            Deed::Released => (Kind::Released, None, None),
        };
        let told = Told { place: Some(place), due, before, ..Told::of(kind) };
        self.listeners.tell(&told, packet, at, &|| None);
    }
}
