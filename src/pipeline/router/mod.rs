//! One worker's router: packets and an instant go in; packets, drops and "wake me at" come out.
//!
//! A packet passes in order: parse, flow (index and cached route), TTL, the path's stages, the MTU of the port by
//! which it leaves, the device. Every way out is counted: received + created = sent + dropped + held, in wire packets
//! and bytes, at every moment between two calls.

mod ahead;
pub(in crate::pipeline) mod answer;
mod change;
pub mod ear;
mod egress;
mod exit;
pub(in crate::pipeline) mod pairs;
pub mod path;
pub mod quiet;
mod replace;
mod route;
pub mod routes;
pub mod schedule;
mod shares;
mod translate;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};
use std::net::IpAddr;
use std::sync::Arc;

pub use crate::pipeline::router::ear::Headers;
pub use change::{Change, ChangeError};
pub use egress::{Egress, What};
pub use route::Route;

use crate::pipeline::aim::flow::{FlowRef, FlowSeen, FlowTable};
use crate::pipeline::aim::identity::{Identities, Named};
use crate::pipeline::aim::ordinals::Ordinals;
use crate::pipeline::counters::{Amount, Reason, RouterCounters};
use crate::pipeline::nat::{Nat, Translators};
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::params::{ImpairmentParams, PathParams, RouterParams, SeatParams, Share};
use crate::pipeline::pool::{Buffer, Pool};
use crate::pipeline::router::answer::Answers;
use crate::pipeline::router::pairs::Pairs;
use crate::pipeline::router::path::{Path, Seat, SeatId, SharedSeat};
use crate::pipeline::router::routes::Routes;
use crate::pipeline::router::schedule::Schedule;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Kept, Stage};
use crate::pipeline::time::Instant;

/// Things that wait in the schedule.
#[derive(Debug)]
enum Event {
    Resume(Packet),
    /// The stage at this seat wants to be woken.
    Wake(SeatId),
    /// Packets that wait in front of this path may enter.
    Enter(u16),
    /// A cancelled event.
    Nothing,
    /// Fragments wait for their first one: it has come, or the time to wait for it is over.
    Fragments,
}

impl Event {
    /// The order of events that are due at the same time: what is furthest along its path goes first. So when a
    /// packet comes to a stage, no packet that is already due still waits there, and a packet that passes at once
    /// overtakes none.
    const fn rank(&self) -> u16 {
        match self {
            Self::Resume(packet) => !packet.seat,
            Self::Wake(at) => !at.seat,
            Self::Enter(_) | Self::Nothing => u16::MAX,
            // Directly after the first fragment.
            Self::Fragments => 0,
        }
    }
}

/// One worker's router.
#[derive(Debug)]
pub struct Router {
    /// Buffers; devices read into its scratch buffers.
    pub pool: Pool,
    counters: RouterCounters,
    /// The part of what was received and sent that was carried past the router.
    carried: Amount,
    flows: FlowTable,
    identities: Identities,
    routes: Routes,
    ports: Vec<Port>,
    paths: Vec<Path>,
    pairs: Pairs,
    schedule: Schedule<Event>,
    held: Amount,
    answers: Answers,
    translators: Translators,
    /// Packets that are injected from now on pass no stage.
    is_released: bool,
    /// Paths that a change has ended, until they are handed back for disposal.
    ended: Vec<Path>,
}

#[derive(Debug)]
struct Port {
    mtu: u32,
    /// The router has no address on this port: its errors have as source the address to which the packet was sent.
    is_wire: bool,
    /// The router's own addresses on this port.
    own: Vec<IpAddr>,
}

/// What the workers' routers share.
#[derive(Debug, Default)]
pub struct SharedState {
    /// One entry a path, one a seat.
    paths: Vec<Vec<SharedSeat>>,
    ordinals: Arc<Ordinals>,
}

impl Router {
    /// The shared state of a router of any number of workers.
    pub fn shared(params: &RouterParams) -> SharedState {
        // Stages that play the host behind a port have one memory for all paths to that port.
        let mut peers = HashMap::<(usize, Discriminant<ImpairmentParams>), Shared>::new();
        let mut links: BTreeMap<Share, Shared> = BTreeMap::new();
        let mut shared = |path: &PathParams, seat: &SeatParams| {
            let SeatParams::Stage(stage) = seat else { return SharedSeat::default() };
            let shared = match stage.share() {
                Some(share) => links.entry(share).or_default().clone(),
                None if stage.impairment.plays_host() => {
                    let kind = discriminant(&stage.impairment);
                    peers.entry((path.to, kind)).or_default().clone()
                }
                None => Shared::default(),
            };
            SharedSeat { stage: shared, gate: Shared::default() }
        };
        let of_path = |path: &PathParams| path.seats.iter().map(|seat| shared(path, seat)).collect();
        SharedState { paths: params.paths.iter().map(of_path).collect(), ordinals: Arc::default() }
    }

    /// One worker's router. All workers are built from the same `params` and `shared`.
    pub fn new(params: &RouterParams, shared: &SharedState) -> Self {
        let flows = FlowTable::new(params.flows);
        let (paths, pairs) = build(params, shared, flows.capacity());
        let ports: Vec<Port> = (params.ports.iter())
            .map(|port| Port { mtu: port.mtu, is_wire: false, own: port.router.clone() })
            .collect();
        Self {
            pool: Pool::new(),
            counters: RouterCounters::default(),
            flows,
            identities: Identities::new(params, Arc::clone(&shared.ordinals)),
            routes: Routes::new(&params.ports, &params.routes),
            ports,
            paths,
            pairs,
            schedule: Schedule::new(),
            held: Amount::default(),
            answers: Answers::new(params.icmp),
            translators: Translators::new(&params.nats, params.seed),
            carried: Amount::default(),
            is_released: false,
            ended: Vec::new(),
        }
    }

    /// The totals of this worker.
    pub const fn counters(&self) -> &RouterCounters {
        &self.counters
    }

    /// The paths with the counters of their seats; configured ones first, in order.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The packets that are held now.
    pub const fn held(&self) -> Amount {
        self.held
    }

    /// Packets and wake-ups that wait for their time.
    pub const fn scheduled(&self) -> usize {
        self.schedule.len()
    }

    /// The translators.
    pub fn nats(&self) -> &[Nat] {
        self.translators.all()
    }

    /// Lists flows from place `from` of the table on, as many as `out` has room for. Returns true if there are more.
    pub fn flows(&self, from: usize, out: &mut Vec<FlowSeen>) -> bool {
        self.flows.list(from, out)
    }

    /// Flows forgotten for lack of room.
    pub const fn evicted_flows(&self) -> u64 {
        self.flows.evicted()
    }

    /// How many connections were named for the draws.
    pub const fn named(&self) -> Named {
        self.identities.named()
    }

    /// When [`Self::poll`] is next needed; `None` while nothing waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due()
    }

    /// Takes a packet of `length` bytes that came in by `port`; the packet is in `buffer`, after the headroom. The
    /// buffer is then ready for the next packet. Events that were due at `now` or before must have been polled first,
    /// since they come before this packet. Returns the packet's flow, if it was a valid packet.
    pub fn receive<E: Egress>(
        &mut self,
        port: u16,
        buffer: &mut Buffer,
        length: usize,
        offload: Offload,
        now: Instant,
        egress: &mut E,
    ) -> Option<FlowRef> {
        let mut flow = None;
        let route = |router: &mut Self, packet: &mut Packet, now, egress: &mut E| {
            flow = Some(router.route(packet, now, egress));
        };
        self.take_in(port, buffer, length, offload, now, egress, route);
        flow
    }

    /// Parses and counts a packet that came in, and passes it to `what`.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "as receive, and what to do")]
    fn take_in<E: Egress>(
        &mut self,
        port: u16,
        buffer: &mut Buffer,
        length: usize,
        offload: Offload,
        now: Instant,
        egress: &mut E,
        what: impl FnOnce(&mut Self, &mut Packet, Instant, &mut E),
    ) {
        let mut packet = match Packet::parse(std::mem::take(buffer), length, offload, port) {
            Ok(packet) => packet,
            Err((back, _)) => {
                *buffer = back;
                let amount = Amount { packets: 1, bytes: length as u64 };
                self.counters.received += amount;
                self.counters.drops.add(Reason::Malformed, amount);
                return;
            }
        };
        self.counters.received += packet.amount();
        packet.arrived = now;
        what(self, &mut packet, now, egress);
        *buffer = packet.into_buffer();
        if buffer.is_empty() {
            *buffer = self.pool.scratch();
        }
    }

    /// Takes a packet of `length` bytes, in `buffer` after the headroom, directly into path `path`. Routing, TTL and
    /// the router's own addresses are skipped. `tag` is kept in [`Packet::tag`]. Returns the packet's flow, if it was
    /// a valid packet. Otherwise as [`Self::receive`].
    #[expect(clippy::too_many_arguments, reason = "as receive, and the path")]
    pub fn inject<E: Egress>(
        &mut self,
        path: u16,
        tag: u16,
        buffer: &mut Buffer,
        length: usize,
        offload: Offload,
        now: Instant,
        egress: &mut E,
    ) -> Option<FlowRef> {
        let mut flow = None;
        let port = self.paths[usize::from(path)].from;
        let straight = |router: &mut Self, packet: &mut Packet, now, egress: &mut E| {
            (packet.path, packet.tag) = (path, tag);
            router.enter_flow(packet, now, |_, _, _| Route::Path(path));
            flow = Some(packet.flow);
            if E::RECORDS {
                Self::received(packet, now, egress);
                egress.record(What::Entered, packet, now);
            }
            if router.is_released {
                router.leave(packet, now, egress);
            } else {
                router.run(packet, 0, now, egress);
            }
        };
        self.take_in(port, buffer, length, offload, now, egress, straight);
        flow
    }

    /// Continues everything that is due at or before `now`, each event at its own time. Of the events of one time,
    /// what is furthest along its path goes first.
    pub fn poll<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        while let Some((due, event)) = self.schedule.pop_due(now) {
            match event {
                Event::Resume(packet) => self.resume(packet, due, egress),
                Event::Wake(at) => self.wake(at, due, egress),
                Event::Enter(path) => self.enter(path, due, egress),
                Event::Nothing => {}
                Event::Fragments => self.release_fragments(due, egress),
            }
        }
    }

    /// Releases all packets that wait, in the order in which they were due, as if their time had come. Packets that
    /// are injected from now on pass no stage.
    pub fn let_go<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        self.is_released = true;
        self.open_all(now, egress);
        while self.held.packets > 0
            && let Some(due) = self.schedule.next_due()
        {
            self.poll(due.max(now), egress);
        }
    }

    /// Says that port `port` is one end of an attached wire, where the router has no address. Its ICMP errors then
    /// have as source the address to which the packet was sent.
    pub fn set_wire(&mut self, port: u16) {
        self.ports[usize::from(port)].is_wire = true;
    }

    /// Ends the run: packets that still wait are dropped with the reason `shutdown`.
    pub fn shut_down<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        let mut schedule = std::mem::take(&mut self.schedule);
        for event in schedule.drain() {
            if let Event::Resume(packet) = event {
                self.release(&packet);
                self.drop(packet, None, Reason::Shutdown, now, egress);
            }
        }
        while let Some(packet) = self.translators.relinquish() {
            self.release(&packet);
            self.drop(packet, None, Reason::Shutdown, now, egress);
        }
        for path in 0..self.paths.len() {
            while let Some(packet) = self.paths[path].entry.queue.pop_front() {
                self.release(&packet);
                self.drop(packet, None, Reason::Shutdown, now, egress);
            }
            for seat in 0..self.paths[path].seats.len() {
                while let Some(stage) = self.paths[path].seats[seat].occupant.stage_mut()
                    && let Some(packet) = stage.relinquish().map(Kept::into_packet)
                {
                    self.release(&packet);
                    self.drop(packet, None, Reason::Shutdown, now, egress);
                }
            }
        }
    }

    /// A seat of a path.
    fn seat(&mut self, at: SeatId) -> &mut Seat {
        &mut self.paths[usize::from(at.path)].seats[usize::from(at.seat)]
    }

    fn plan(&mut self, at: Instant, event: Event) {
        self.schedule.insert(at, event.rank(), event);
    }
}

/// Builds all paths: those of the configuration first, in order.
fn build(params: &RouterParams, shared: &SharedState, flows: usize) -> (Vec<Path>, Pairs) {
    let names = |from: usize, to: usize| (params.ports[from].name.as_str(), params.ports[to].name.as_str());
    let mut paths: Vec<Path> = (params.paths.iter().zip(&shared.paths).zip(0..))
        .map(|((path, shared), number)| {
            Path::new(number, path, params.seed, names(path.from, path.to), flows, shared)
        })
        .collect();
    shares::share_queues(params, &mut paths);
    let mut pairs = Pairs::new(&mut paths, params.ports.len());
    add_returns(params.paths.len(), &mut pairs, &mut paths);
    (paths, pairs)
}

/// Gives every stage that works in both directions a second seat in the opposite path. These seats are behind that
/// path's own stages, in the order in which returning packets meet them.
fn add_returns(configured: usize, pairs: &mut Pairs, paths: &mut Vec<Path>) {
    for number in 0..configured {
        let (from, to) = (paths[number].from, paths[number].to);
        let both_ways = |(at, seat): (usize, &SeatParams)| {
            let stage = seat.stage().filter(|stage| from != to && stage.works_both_ways())?;
            Some((at, stage.name.clone()))
        };
        let two_way: Vec<_> = paths[number].params.iter().enumerate().filter_map(both_ways).collect();
        for (at, name) in two_way.into_iter().rev() {
            let opposite = pairs.own(paths, to, from);
            let home = SeatId { path: number as u16, seat: at as u16 };
            paths[usize::from(opposite)].seats.push(Seat::back(&name, home));
        }
    }
}

#[cfg(test)]
mod tests;
