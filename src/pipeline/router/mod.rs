//! One worker's router: packets and an instant go in; packets, drops and "wake me at" come out.
//!
//! What a packet meets, in order: parse, flow (index and cached route), TTL, the path's stages, the MTU of the port it
//! leaves by, the device. Every way out is counted: received + created = sent + dropped + held, in wire packets and
//! bytes, at every moment between two calls.

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

/// What waits in the schedule.
#[derive(Debug)]
enum Event {
    Resume(Packet),
    /// The stage at this seat wants to be woken.
    Wake(SeatId),
    /// What waits in front of this path may enter.
    Enter(u16),
    /// What is no longer waited for.
    Nothing,
    /// A first fragment has gone by, or a later one has waited for it long enough.
    Fragments,
}

impl Event {
    /// Place among what is due at the same time: what is furthest along its path goes first. So a packet that comes to a
    /// stage finds nobody waiting there whose time has come too, and whatever passes at once overtakes nobody.
    const fn rank(&self) -> u16 {
        match self {
            Self::Resume(packet) => !packet.seat,
            Self::Wake(at) => !at.seat,
            Self::Enter(_) | Self::Nothing => u16::MAX,
            // Right behind the first fragment.
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
    /// Of what was received and sent: what was carried past the router.
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
    /// Injected packets meet no stage any more.
    is_released: bool,
    /// Paths that a change has ended, until they are given back.
    ended: Vec<Path>,
}

#[derive(Debug)]
struct Port {
    mtu: u32,
    /// The router has no address there: its errors come from the address that the packet was sent to.
    is_wire: bool,
    /// The router's own addresses on it.
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
        // Stages that play the host behind a port remember what comes to it, by whatever path.
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

    /// The totals.
    pub const fn counters(&self) -> &RouterCounters {
        &self.counters
    }

    /// The paths with the counters of their seats; configured ones first, in order.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// What waits now.
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

    /// The flows from place `from` of the table on, as many as `out` has room for; true if there are more.
    pub fn flows(&self, from: usize, out: &mut Vec<FlowSeen>) -> bool {
        self.flows.list(from, out)
    }

    /// Flows forgotten for lack of room.
    pub const fn evicted_flows(&self) -> u64 {
        self.flows.evicted()
    }

    /// Connections that were named for the draws.
    pub const fn named(&self) -> Named {
        self.identities.named()
    }

    /// When [`Self::poll`] is next needed; `None` while nothing waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due()
    }

    /// Takes a packet of `length` bytes that came in by `port`, behind the headroom of `buffer`. The buffer is left
    /// ready for the next packet. What was due at `now` or before must have been polled: it came earlier. Gives the packet's flow,
    /// if it was a packet.
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

    /// Parses and counts what came in, and does `what` with it.
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

    /// Takes a packet of `length` bytes, behind the headroom of `buffer`, straight into path `path`, past routing, TTL and
    /// the router's own addresses; `tag` is found again in [`Packet::tag`]. Gives the packet's flow, if it was a packet. Otherwise
    /// as [`Self::receive`].
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

    /// Carries on with everything that is due at or before `now`, each at its own time; at one time, what is furthest along
    /// its path first.
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

    /// Lets go of all that waits, in the order in which it was due, as if its time had come. What is injected from now on meets
    /// no stage.
    pub fn let_go<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        self.is_released = true;
        self.open_all(now, egress);
        while self.held.packets > 0
            && let Some(due) = self.schedule.next_due()
        {
            self.poll(due.max(now), egress);
        }
    }

    /// Says that port `port` is the end of a wire, where the router has no address: its ICMP errors come from where the packet
    /// was sent to.
    pub fn set_wire(&mut self, port: u16) {
        self.ports[usize::from(port)].is_wire = true;
    }

    /// Ends the run: what still waits is dropped with that reason.
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

/// All paths: those of the configuration first, in order.
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

/// Gives every stage that works in both directions a second seat in the opposite path: behind that path's own stages, in the
/// order in which packets that go back meet them.
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
