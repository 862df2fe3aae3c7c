//! A link in virtual time, for unit tests of protocols that do no I/O themselves.
//!
//! The test pushes packets into one end at a time that it chooses, and they leave the other end when the faults release them.
//! There is no clock, no thread and no socket: a test of an hour of traffic takes milliseconds, and the same seed gives the
//! same result on every machine. The stages are those of the router, with the same meaning.
//!
//! Times are counted from the start of the simulation. The loop of a test asks its endpoints and the link for their next due
//! times, takes the minimum as the new time, and continues there.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//!
//! use faultwire::sim::{Datagram, End, Link};
//!
//! let mut link = Link::new(&"delay 50ms".parse()?, 1);
//! let (left, right): (SocketAddr, SocketAddr) = ("10.0.0.1:4000".parse()?, "10.0.0.2:443".parse()?);
//!
//! link.send(End::Left, Duration::ZERO, &Datagram::new(left, right, b"hello"))?;
//! assert_eq!(link.pull(Duration::ZERO), None);
//! assert!(link.next_due() <= Some(Duration::from_millis(50)));
//!
//! let arrival = link.pull(Duration::from_millis(50)).expect("it is due");
//! assert_eq!((arrival.to, arrival.at), (End::Right, Duration::from_millis(50)));
//! assert_eq!(arrival.datagram().expect("it is intact").payload, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod datagram;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

pub use datagram::Datagram;

use crate::faults::Faults;
use crate::pipeline::counters::{Reason, RouterCounters, StageCounters};
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::params::{IcmpParams, Identity, PathParams, PortParams, RouterParams};
use crate::pipeline::pool::{Buffer, HEADROOM, MAX_PACKET};
use crate::pipeline::router::{Egress, Router};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{Layout, Malformed};

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Port 0 of the router.
    Left,
    /// Port 1 of the router.
    Right,
}

impl End {
    /// The end at the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Why a packet cannot be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// It is no IP packet. Payloads of UDP are pushed with [`Link::send`].
    #[error("this is not an IP packet: {0}")]
    NotIp(#[from] Malformed),
    /// It is longer than an IP packet can be.
    #[error("a packet of {0} bytes is longer than an IP packet can be")]
    TooLong(usize),
    /// A datagram from an IPv4 address to an IPv6 address, or the reverse.
    #[error("source and destination of a datagram must both be IPv4 or both IPv6")]
    MixedFamilies,
}

/// A packet that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The time since the start of the simulation.
    pub at: Duration,
    /// At which end. An ICMP error of a stage arrives at the end that the packet in question came from.
    pub to: End,
    /// The IP packet.
    pub packet: Vec<u8>,
}

impl Arrival {
    /// The UDP datagram in it; `None` if it is none, or one that a receiver would discard: a wrong checksum, a fragment.
    pub fn datagram(&self) -> Option<Datagram<'_>> {
        datagram::read(&self.packet)
    }
}

/// A link between two ends, with faults in each direction.
#[derive(Debug)]
pub struct Link {
    router: Router,
    buffer: Buffer,
    arrived: Arrived,
    now: Instant,
}

/// Packets that have left the router and were not taken yet.
#[derive(Debug, Default)]
struct Arrived(VecDeque<Arrival>);

impl Egress for Arrived {
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        let to = if port == 0 { End::Left } else { End::Right };
        let at = Duration::from_nanos(due.as_nanos());
        self.0.push_back(Arrival { at, to, packet: packet.bytes().to_vec() });
        Ok(())
    }
}

/// Larger than any packet.
const NO_MTU: u32 = 1 << 17;
/// Flows whose numbers and states the link remembers; of more, it forgets those that were silent longest.
const FLOWS: usize = 4_096;

impl Link {
    /// A link with the same faults in both directions. All draws follow from `seed`; the two directions draw separately.
    pub fn new(faults: &Faults, seed: u64) -> Self {
        Self::directed(faults, faults, seed)
    }

    /// A link with these faults from left to right, and others from right to left.
    pub fn directed(left_to_right: &Faults, right_to_left: &Faults, seed: u64) -> Self {
        let port = |name: &str| PortParams {
            name: name.to_owned(),
            mtu: NO_MTU,
            addresses: Vec::new(),
            router: Vec::new(),
        };
        let path = |from, to, faults: &Faults| PathParams::new(from, to, faults.stages().to_vec());
        let params = RouterParams {
            seed,
            flows: FLOWS,
            identity: Identity::default(),
            icmp: IcmpParams::default(),
            ports: vec![port("left"), port("right")],
            routes: Vec::new(),
            paths: vec![path(0, 1, left_to_right), path(1, 0, right_to_left)],
            nats: Vec::new(),
        };
        let mut router = Router::new(&params, &Router::shared(&params));
        router.set_wire(0);
        router.set_wire(1);
        let buffer = router.pool.scratch();
        Self { router, buffer, arrived: Arrived::default(), now: Instant::ZERO }
    }

    /// Pushes an IP packet into the end `from` at the time `at`. Its TTL stays as it is.
    ///
    /// # Errors
    /// If it is no IP packet. It is not counted then.
    ///
    /// # Panics
    /// If `at` is before the time of an earlier call: time does not go back.
    pub fn push(&mut self, from: End, at: Duration, packet: &[u8]) -> Result<(), PushError> {
        if packet.len() > MAX_PACKET {
            return Err(PushError::TooLong(packet.len()));
        }
        Layout::parse(packet)?;
        self.advance(at);
        self.buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let path = match from {
            End::Left => 0,
            End::Right => 1,
        };
        let (offload, now) = (Offload::default(), self.now);
        self.router.inject(path, 0, &mut self.buffer, packet.len(), offload, now, &mut self.arrived);
        Ok(())
    }

    /// Pushes a UDP datagram, with the headers and the checksum that a host would give it, into the end `from` at the time `at`.
    ///
    /// # Errors
    /// If it does not fit into an IP packet.
    ///
    /// # Panics
    /// If `at` is before the time of an earlier call.
    pub fn send(&mut self, from: End, at: Duration, datagram: &Datagram<'_>) -> Result<(), PushError> {
        self.push(from, at, &datagram::write(datagram)?)
    }

    /// The first packet that has arrived by `at` and was not taken yet.
    ///
    /// # Panics
    /// If `at` is before the time of an earlier call.
    pub fn pull(&mut self, at: Duration) -> Option<Arrival> {
        self.advance(at);
        self.arrived.0.pop_front()
    }

    /// When to call [`Self::pull`] next; `None` while no packet is under way. The time is never later than the next arrival, but it
    /// may be earlier. Then nothing arrives, and the next call returns a time that is closer to the arrival.
    pub fn next_due(&self) -> Option<Duration> {
        let arrived = self.arrived.0.front().map(|arrival| arrival.at);
        arrived.or_else(|| self.router.next_due().map(|due| Duration::from_nanos(due.as_nanos())))
    }

    /// Packets that the faults hold back now, and that have not arrived.
    pub fn held(&self) -> u64 {
        self.router.held().packets
    }

    /// The totals of all packets so far: received + created = sent + dropped + held.
    pub const fn counters(&self) -> &RouterCounters {
        self.router.counters()
    }

    /// The stages that packets from the end `from` go through, by name, with what each has done.
    pub fn stages(&self, from: End) -> impl Iterator<Item = (&str, &StageCounters)> {
        let path = &self.router.paths()[usize::from(from == End::Right)];
        path.seats.iter().map(|seat| (&*seat.name, &seat.counters))
    }

    fn advance(&mut self, to: Duration) {
        let to = Instant::from_nanos(u64::try_from(to.as_nanos()).unwrap_or(u64::MAX));
        assert!(to >= self.now, "time does not go back: {to:?} is before {:?}", self.now);
        // One instant after the other, so that a released packet reaches the next stages at its own time.
        while let Some(due) = self.router.next_due().filter(|&due| due <= to) {
            self.now = self.now.max(due);
            self.router.poll(self.now, &mut self.arrived);
        }
        self.now = to;
    }
}
