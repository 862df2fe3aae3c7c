//! One worker's router: packets and an instant go in; packets, drops and "wake me at" come out.
//!
//! What a packet meets, in order: parse, flow (index and cached route), TTL, the path's stages, the MTU of the port it
//! leaves by, the device. Every way out is counted: received + created = sent + dropped + held, in wire packets and
//! bytes, at every moment between two calls.

use std::net::IpAddr;
use std::sync::Arc;

use crate::pipeline::answer::Answers;
use crate::pipeline::counters::{Amount, Reason, RouterCounters};
use crate::pipeline::flow::{FlowTable, Name};
use crate::pipeline::identity::{Identities, Named, Unnamed};
use crate::pipeline::impair::{Back, Impairment};
use crate::pipeline::nat::{Early, Nat, Waiting};
use crate::pipeline::ordinals::Ordinals;
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::pairs::Pairs;
use crate::pipeline::params::{
    ImpairmentParams, NatPlace, PathParams, RouteTarget, RouterParams, StageParams,
};
use crate::pipeline::path::{Path, Slot};
use crate::pipeline::pool::{Buffer, Pool};
use crate::pipeline::rng::Draw;
use crate::pipeline::routes::Routes;
use crate::pipeline::schedule::Schedule;
use crate::pipeline::shared::{Hosts, Shared};
use crate::pipeline::stage::{Action, Emission, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{FlowKey, IcmpError, bare, flow_hash};

/// Where packets leave the core: devices, a file, memory.
pub trait Egress {
    /// Whether [`Egress::record`] wants to be called.
    const RECORDS: bool = false;

    /// Sends `packet` out by port `port`. `due` is when it should leave; now may be later.
    ///
    /// # Errors
    /// The reason to count it as dropped by.
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason>;

    /// Something happened to `packet` at `at`.
    fn record(&mut self, _what: What, _packet: &Packet, _at: Instant) {}

    /// Which transmission of its data `packet` is, which has just got its place in its flow: see [`Packet::transmission`].
    fn transmission(&mut self, _packet: &Packet) -> u8 {
        0
    }

    /// `packet` was dropped at `place` or outside of stages. `draw` tells the draw that decided about each of its wire packets,
    /// if one did.
    fn dropped(
        &mut self,
        place: Option<(u16, u16)>,
        reason: Reason,
        packet: &Packet,
        at: Instant,
        _draw: &dyn Fn(u32) -> Option<Draw>,
    ) {
        self.record(What::Dropped(place, reason), packet, at);
    }

    /// Whether [`Egress::rewritten`] wants to see the headers as they were.
    fn wants_headers(&self) -> bool {
        false
    }

    /// The stage at this (path, stage) changed the bytes of `packet`, whose headers were `before` if they are wanted.
    fn rewritten(&mut self, place: (u16, u16), _before: Option<&Headers>, packet: &Packet, at: Instant) {
        self.record(What::Rewritten(place.0, place.1), packet, at);
    }
}

/// What can happen to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It has a flow and a number in it, and begins its path.
    Entered,
    /// It was read from the device of this port.
    Received(u16),
    /// It left by this port.
    Sent(u16),
    /// It was dropped, by this (path, stage) or outside of stages.
    Dropped(Option<(u16, u16)>, Reason),
    /// This (path, stage) changed its bytes.
    Rewritten(u16, u16),
    /// This (path, stage) makes it wait until then.
    Held((u16, u16), Instant),
    /// The router (or a stage) made it.
    Created(Option<(u16, u16)>),
}

/// The first bytes of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    bytes: [u8; Self::LEN],
    length: usize,
}

impl Headers {
    /// Bytes that are kept at most: IPv6, TCP and its options.
    pub const LEN: usize = 100;

    /// Those of `packet`.
    pub fn of(packet: &Packet) -> Self {
        let length = packet.bytes().len().min(Self::LEN);
        let mut bytes = [0; Self::LEN];
        bytes[..length].copy_from_slice(&packet.bytes()[..length]);
        Self { bytes, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What waits in the schedule.
#[derive(Debug)]
enum Event {
    Resume(Packet),
    Wake {
        path: u16,
        stage: u16,
    },
    /// A first fragment has gone by, or a later one has waited for it long enough.
    Fragments,
}

impl Event {
    /// Place among what is due at the same time: what is furthest along its path goes first. So a packet that comes to a
    /// stage finds nobody waiting there whose time has come too, and whatever passes at once overtakes nobody.
    const fn rank(&self) -> u16 {
        match self {
            Self::Resume(packet) => !packet.stage,
            Self::Wake { stage, .. } => !*stage,
            // Right behind the first fragment.
            Self::Fragments => 0,
        }
    }
}

/// Decisions about a flow's route, as its table entry holds them.
mod verdict {
    pub(super) const NO_ROUTE: u32 = u32::MAX;
    pub(super) const UNREACHABLE: u32 = u32::MAX - 1;
    pub(super) const BLACKHOLE: u32 = u32::MAX - 2;
    pub(super) const TO_ROUTER: u32 = u32::MAX - 3;
    /// To an address of a translator: this minus its index.
    pub(super) const NAT: u32 = u32::MAX - 4;
    /// The least of them.
    pub(super) const LEAST: u32 = NAT - u16::MAX as u32;
}

/// One worker's router.
#[derive(Debug)]
pub struct Router {
    /// Buffers; devices read into its scratch buffers.
    pub pool: Pool,
    counters: RouterCounters,
    flows: FlowTable,
    identities: Identities,
    routes: Routes,
    ports: Vec<Port>,
    paths: Vec<Path>,
    pairs: Pairs,
    schedule: Schedule<Event>,
    held: Amount,
    answers: Answers,
    nats: Vec<Nat>,
    waiting: Waiting,
    /// Injected packets meet no stage any more.
    is_released: bool,
}

#[derive(Debug)]
struct Port {
    mtu: u32,
    /// The router has no address there, and speaks for those whom packets are sent to.
    is_wire: bool,
    /// The router's own addresses on it.
    own: Vec<IpAddr>,
}

/// What the workers' routers share.
#[derive(Debug, Default)]
pub struct SharedState {
    /// One entry a path, one a stage.
    paths: Vec<Vec<Shared>>,
    ordinals: Arc<Ordinals>,
}

impl Router {
    /// The shared state of a router of any number of workers.
    pub fn shared(params: &RouterParams) -> SharedState {
        // Stages that play the host behind a port remember what comes to it, by whatever path.
        let peers: Vec<Arc<Hosts>> = params.ports.iter().map(|_| Arc::default()).collect();
        let shared = |path: &PathParams, stage: &StageParams| {
            let shared = Shared::default();
            if matches!(stage.impairment, ImpairmentParams::PawsPerHost(_)) {
                shared.share_hosts(&peers[path.to]);
            }
            shared
        };
        let of_path = |path: &PathParams| path.stages.iter().map(|stage| shared(path, stage)).collect();
        SharedState { paths: params.paths.iter().map(of_path).collect(), ordinals: Arc::default() }
    }

    /// One worker's router. All workers are built from the same `params` and `shared`.
    pub fn new(params: &RouterParams, shared: &SharedState) -> Self {
        let flows = FlowTable::new(params.flows);
        let names =
            |from: usize, to: usize| (params.ports[from].name.as_str(), params.ports[to].name.as_str());
        let mut paths: Vec<Path> = (params.paths.iter().zip(&shared.paths))
            .map(|(path, shared)| {
                Path::new(path, params.seed, names(path.from, path.to), flows.capacity(), shared)
            })
            .collect();
        let ports: Vec<Port> = (params.ports.iter())
            .map(|port| Port { mtu: port.mtu, is_wire: false, own: port.router.clone() })
            .collect();
        let mut pairs = Pairs::new(&mut paths, ports.len());
        add_returns(params, &mut pairs, &mut paths);
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
            nats: params.nats.iter().map(|nat| Nat::new(nat, params.seed)).collect(),
            waiting: Waiting::default(),
            is_released: false,
        }
    }

    /// The totals.
    pub const fn counters(&self) -> &RouterCounters {
        &self.counters
    }

    /// The paths with their stages' counters; configured ones first, in order.
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
        &self.nats
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
    /// ready for the next packet. What was due at `now` or before must have been polled: it came earlier.
    pub fn receive<E: Egress>(
        &mut self,
        port: u16,
        buffer: &mut Buffer,
        length: usize,
        offload: Offload,
        now: Instant,
        egress: &mut E,
    ) {
        self.take_in(port, buffer, length, offload, now, egress, Self::route);
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

    /// Finds the packet's flow, numbers it in there, and gives back the route decided for the flow.
    #[inline]
    fn enter_flow(
        &mut self,
        packet: &mut Packet,
        now: Instant,
        decide: impl Fn(&Way<'_>, &[Nat], IpAddr) -> u32,
    ) -> u32 {
        let hash = flow_hash(packet.bytes(), packet.layout);
        let key = FlowKey::new(packet.bytes(), packet.layout);
        let place = match self.flows.find(hash, packet.ingress, &key) {
            Some(place) if !self.identities.asks_about(packet) => place,
            Some(place) => self.reopen_flow(place, packet, &key, hash, now),
            None => {
                let path = decide(&self.way(), &self.nats, key.destination());
                let name = self.name_flow(packet, &key, hash, path, now);
                self.flows.insert(hash, packet.ingress, &key, path, name)
            }
        };
        let path;
        (packet.flow, packet.index, path) = self.flows.advance(place, packet.wires());
        path
    }

    /// Makes the flow at `place` another one if `packet`, a SYN, opens another connection.
    #[cold]
    fn reopen_flow(&mut self, place: u32, packet: &Packet, key: &FlowKey, hash: u64, now: Instant) -> u32 {
        if Identities::is_another(packet, self.flows.name(place)) {
            let name = self.name_flow(packet, key, hash, self.flows.path(place), now);
            self.flows.rename(place, name);
        }
        place
    }

    /// The name of a flow that begins with `packet` and takes the route `path`.
    #[cold]
    fn name_flow(&mut self, packet: &Packet, key: &FlowKey, hash: u64, path: u32, now: Instant) -> Name {
        let leaves_by = |path: u32| self.paths.get(path as usize).map_or(packet.ingress, |path| path.to);
        let flow = Unnamed { packet, key, hash, egress: leaves_by(path) };
        self.identities.name(flow, &mut self.flows, &self.routes, &self.nats, now)
    }

    /// Takes a packet of `length` bytes, behind the headroom of `buffer`, straight into path `path`, past routing, TTL and
    /// the router's own addresses; `tag` is found again in [`Packet::tag`]. Otherwise as [`Self::receive`].
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
    ) {
        let port = self.paths[usize::from(path)].from;
        let straight = |router: &mut Self, packet: &mut Packet, now, egress: &mut E| {
            (packet.path, packet.tag) = (path, tag);
            router.enter_flow(packet, now, |_, _, _| path.into());
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
    }

    /// Carries on with everything that is due at or before `now`, each at its own time; at one time, what is furthest along
    /// its path first.
    pub fn poll<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        while let Some((due, event)) = self.schedule.pop_due(now) {
            match event {
                Event::Resume(packet) => self.resume(packet, due, egress),
                Event::Wake { path, stage } => {
                    self.with_stage(path, stage, due, egress, |stage, out| stage.wake(due, out));
                }
                Event::Fragments => self.release_fragments(due, egress),
            }
        }
    }

    /// Lets go of all that waits, in the order in which it was due, as if its time had come. What is injected from now on meets
    /// no stage.
    pub fn let_go<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        self.is_released = true;
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
        while let Some(packet) = self.waiting.relinquish() {
            self.release(&packet);
            self.drop(packet, None, Reason::Shutdown, now, egress);
        }
        for path in 0..self.paths.len() {
            for stage in 0..self.paths[path].stages.len() {
                while let Some(packet) = self.paths[path].stages[stage].impairment.relinquish() {
                    self.release(&packet);
                    self.drop(packet, None, Reason::Shutdown, now, egress);
                }
            }
        }
    }

    /// Tells of a packet that has just got its place in its flow.
    #[inline]
    fn received<E: Egress>(packet: &mut Packet, now: Instant, egress: &mut E) {
        packet.transmission = egress.transmission(packet);
        egress.record(What::Received(packet.ingress), packet, now);
    }

    fn way(&self) -> Way<'_> {
        Way { routes: &self.routes, ports: &self.ports, pairs: &self.pairs }
    }

    fn route<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        let ingress = packet.ingress;
        let route = self.enter_flow(packet, now, |way, nats, to| {
            let of_nat = nats.iter().position(|nat| nat.owns(to));
            of_nat.map_or_else(|| way.route(ingress, to), |nat| verdict::NAT - nat as u32)
        });
        if E::RECORDS {
            Self::received(packet, now, egress);
        }
        if (verdict::LEAST..=verdict::NAT).contains(&route) {
            self.route_by_nat(packet, (verdict::NAT - route) as u16, now, egress);
        } else {
            self.follow_route(packet, route, None, now, egress);
        }
    }

    /// Takes a packet where `route` leads; through both sides of a translator if it is a `hairpin`.
    #[inline]
    fn follow_route<E: Egress>(
        &mut self,
        packet: &mut Packet,
        route: u32,
        hairpin: Option<u16>,
        now: Instant,
        egress: &mut E,
    ) {
        let reject = match route {
            verdict::TO_ROUTER => return self.answer(packet, now, egress),
            verdict::BLACKHOLE => return self.drop_whole(packet, None, Reason::Blackhole, now, egress),
            verdict::NO_ROUTE | verdict::UNREACHABLE => Some((Reason::NoRoute, IcmpError::NetUnreachable)),
            _ if packet.hop_limit() <= 1 => Some((Reason::TtlExpired, IcmpError::TimeExceeded)),
            path => {
                packet.path = path as u16;
                None
            }
        };
        if let Some((reason, error)) = reject {
            return self.reject_each(packet, None, reason, error, now, egress);
        }
        packet.decrement_hop_limit();
        if let Some(nat) = hairpin
            && let Err(reason) = self.nats[usize::from(nat)].hairpin(packet, now)
        {
            return self.drop_untranslated(packet, (nat, None), reason, now, egress);
        }
        if E::RECORDS {
            egress.record(What::Entered, packet, now);
        }
        self.run(packet, 0, now, egress);
    }

    /// Takes a packet to an address of a translator to whom that belongs inside. What comes from inside is translated at
    /// once, since no path from inside to inside has a place for it.
    #[inline(never)]
    fn route_by_nat<E: Egress>(&mut self, packet: &mut Packet, index: u16, now: Instant, egress: &mut E) {
        let inside = match self.nats[usize::from(index)].route(packet, now) {
            Ok(inside) => inside,
            // The translator borrows the router's own address.
            Err(Reason::NatNoMapping | Reason::NatUnsupported)
                if self.ports.iter().any(|port| port.own.contains(&packet.destination())) =>
            {
                return self.answer(packet, now, egress);
            }
            Err(reason) => return self.keep_or_drop(packet, (index, None), reason, now, egress),
        };
        self.tell_fragments(packet, now);
        let route = self.way().route(packet.ingress, inside);
        let translates = |path: &Path| path.translator().is_some_and(|(_, place)| place.nat == index);
        let is_hairpin = route < verdict::LEAST && !translates(&self.paths[route as usize]);
        self.follow_route(packet, route, is_hairpin.then_some(index), now, egress);
    }

    /// Lets the translator at stage `at` of its path change `packet`; false if it does not go on.
    #[inline(never)]
    fn translate<E: Egress>(
        &mut self,
        packet: &mut Packet,
        (at, place): (usize, NatPlace),
        now: Instant,
        egress: &mut E,
    ) -> bool {
        let path = packet.path;
        let before = (E::RECORDS && egress.wants_headers()).then(|| Headers::of(packet));
        let mut verdict = self.nats[usize::from(place.nat)].translate(packet, place.outward, now);
        // It has waited, and the port outside is somebody else's by now.
        if verdict == Ok(true) && !place.outward && at > 0 {
            let to = self.way().route(packet.ingress, packet.destination());
            if to != u32::from(path) {
                verdict = Err(Reason::NatNoMapping);
            }
        }
        match verdict {
            Ok(changed) => {
                let slot = &mut self.paths[usize::from(path)].stages[at];
                let amount = packet.amount();
                slot.counters.seen += amount;
                if changed {
                    slot.counters.rewritten += amount;
                    if E::RECORDS {
                        egress.rewritten((path, at as u16), before.as_ref(), packet, now);
                    }
                }
                self.tell_fragments(packet, now);
                true
            }
            Err(reason) => {
                self.keep_or_drop(packet, (place.nat, Some(at)), reason, now, egress);
                false
            }
        }
    }

    /// What translator `nat` does not know, by a stage of the packet's path or on its way there: a later fragment waits for
    /// its first.
    #[cold]
    fn keep_or_drop<E: Egress>(
        &mut self,
        packet: &mut Packet,
        (nat, stage): (u16, Option<usize>),
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        if reason == Reason::NatFragment && self.waiting.has_room() {
            let mut packet = packet.take(&mut self.pool);
            packet.stage = stage.unwrap_or(0) as u16;
            self.held += packet.amount();
            let until = self.waiting.keep(packet, nat, now);
            return self.plan(until, Event::Fragments);
        }
        self.drop_untranslated(packet, (nat, stage), reason, now, egress);
    }

    /// Drops what translator `nat`, at a stage of the packet's path or on its way there, has not let through.
    fn drop_untranslated<E: Egress>(
        &mut self,
        packet: &mut Packet,
        (nat, stage): (u16, Option<usize>),
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        let place = stage.map(|stage| (packet.path, stage as u16));
        if let Some((path, stage)) = place {
            let counters = &mut self.paths[usize::from(path)].stages[usize::from(stage)].counters;
            counters.seen += packet.amount();
        }
        // Of a hairpin the sender is inside, too.
        let outward = |path: &Path| path.translator().is_none_or(|(_, place)| place.outward);
        let outward = self.paths.get(usize::from(packet.path)).is_some_and(outward);
        if reason == Reason::NatNoSession && outward && self.nats[usize::from(nat)].resets() {
            return self.reset_each(packet, place, reason, now, egress);
        }
        self.drop_whole(packet, place, reason, now, egress);
    }

    /// Drops `packet` and answers each of its wire packets by RST.
    #[cold]
    fn reset_each<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<(u16, u16)>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            let answer = Answers::reset(packet, &mut self.pool);
            self.drop_whole(packet, place, reason, now, egress);
            if let Some(answer) = answer {
                if let Some((path, stage)) = place {
                    let counters = &mut self.paths[usize::from(path)].stages[usize::from(stage)].counters;
                    counters.answered += answer.amount();
                }
                self.send_own(answer, place, now, egress);
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    /// Lets later fragments go on, if `packet` is a first one, as soon as it has gone by.
    #[inline]
    fn tell_fragments(&mut self, packet: &Packet, now: Instant) {
        if !self.waiting.is_empty() && packet.layout.is_first_fragment() {
            self.plan(now, Event::Fragments);
        }
    }

    /// Fragments whose first has come by go on in order; those that have waited too long are dropped.
    #[cold]
    fn release_fragments<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        loop {
            let (nats, paths) = (&self.nats, &self.paths);
            let is_known = |early: &Early| {
                let path = paths.get(usize::from(early.packet.path));
                let outward = path.and_then(Path::translator).is_some_and(|(_, place)| place.outward);
                nats[usize::from(early.nat)].knows_first(&early.packet, outward, now)
            };
            let Some(Early { mut packet, nat, until }) = self.waiting.next(now, is_known) else { return };
            self.release(&packet);
            let is_routed = packet.path != Packet::NO_PATH;
            if until <= now {
                let stage = is_routed.then_some(usize::from(packet.stage));
                self.drop_untranslated(&mut packet, (nat, stage), Reason::NatFragment, now, egress);
            } else {
                packet.set_waited();
                if is_routed {
                    let stage = usize::from(packet.stage);
                    self.run(&mut packet, stage, now, egress);
                } else {
                    self.route_by_nat(&mut packet, nat, now, egress);
                }
            }
            self.pool.give(packet.into_buffer());
        }
    }

    /// Answers echo requests; nothing else is for the router.
    fn answer<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        packet.complete_checksum();
        match self.answers.echo(packet, &mut self.pool) {
            Some(reply) => {
                self.drop_whole(packet, None, Reason::Answered, now, egress);
                self.send_own(reply, None, now, egress);
            }
            None => self.drop_whole(packet, None, Reason::ToRouter, now, egress),
        }
    }

    /// Takes `packet` through the stages from `at` on, and out.
    fn run<E: Egress>(&mut self, packet: &mut Packet, mut at: usize, now: Instant, egress: &mut E) {
        let path = usize::from(packet.path);
        if at == 0 && self.paths[path].has_phases() {
            packet.set_phase(self.paths[path].phase(now));
        }
        // What the gate has said about wire packets that the stage has not answered for yet.
        let mut claim = (0, false);
        let (mut wires, mut whole) = (packet.wires(), packet.amount());
        while let Some(slot) = self.paths[path].stages.get_mut(at) {
            if claim.0 == 0 {
                claim = slot.gate.claim(packet, wires, now);
            }
            let verdict = match &mut slot.impairment {
                _ if !claim.1 => {
                    let amount = if claim.0 == wires { whole } else { packet.amount_of(claim.0) };
                    slot.counters.seen += amount;
                    slot.counters.spared += amount;
                    Verdict::new(claim.0, Action::Pass)
                }
                &mut Impairment::Back(home) => {
                    let verdict = self.decide_back(home, packet, claim.0, now);
                    self.paths[path].stages[at].counters.seen += packet.amount_of(verdict.count);
                    verdict
                }
                &mut Impairment::Nat(place) => {
                    if !self.translate(packet, (at, place), now, egress) {
                        return;
                    }
                    claim.0 = 0;
                    at += 1;
                    continue;
                }
                impairment => {
                    let verdict = impairment.decide(packet, claim.0, now);
                    debug_assert!(verdict.count > 0 && verdict.count <= claim.0, "{verdict:?} of {claim:?}");
                    slot.counters.seen +=
                        if verdict.count == wires { whole } else { packet.amount_of(verdict.count) };
                    verdict
                }
            };
            claim.0 -= verdict.count;
            if verdict.count < wires {
                let rest = packet.detach(verdict.count);
                self.fate(packet, at, verdict.action, now, egress);
                packet.attach(&rest);
                (wires, whole) = (packet.wires(), packet.amount());
                continue;
            }
            if verdict.action != Action::Pass {
                return self.fate(packet, at, verdict.action, now, egress);
            }
            at += 1;
        }
        self.leave(packet, now, egress);
    }

    /// What a stage says about a packet of the opposite path.
    #[inline(never)]
    fn decide_back(&mut self, home: Back, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        self.slot(home).impairment.decide_back(packet, limit, now)
    }

    /// Where a stage lives that works in both directions.
    fn slot(&mut self, home: Back) -> &mut Slot {
        &mut self.paths[usize::from(home.path)].stages[usize::from(home.stage)]
    }

    /// Carries out what stage `at` decided about all of `packet`.
    fn fate<E: Egress>(
        &mut self,
        packet: &mut Packet,
        at: usize,
        action: Action,
        now: Instant,
        egress: &mut E,
    ) {
        let path = packet.path;
        let slot = &mut self.paths[usize::from(path)].stages[at];
        match action {
            Action::Pass => self.run(packet, at + 1, now, egress),
            Action::Drop(reason) => self.drop_whole(packet, Some((path, at as u16)), reason, now, egress),
            // What need not wait keeps its place among what does not wait either.
            Action::Hold(until) if until <= now => {
                slot.impairment.released(packet, now);
                self.run(packet, at + 1, now, egress);
            }
            Action::Hold(until) => {
                slot.counters.delayed += packet.amount();
                if E::RECORDS {
                    egress.record(What::Held((path, at as u16), until), packet, now);
                }
                let packet = packet.take(&mut self.pool);
                self.hold(packet, at, until);
            }
            Action::Rewrite => {
                let before = (E::RECORDS && egress.wants_headers()).then(|| Headers::of(packet));
                let changed = match &mut slot.impairment {
                    &mut Impairment::Back(home) => self.slot(home).impairment.rewrite_back(packet, now),
                    impairment => impairment.rewrite(packet, now),
                };
                if changed {
                    let slot = &mut self.paths[usize::from(path)].stages[at];
                    slot.counters.rewritten += packet.amount();
                    if E::RECORDS {
                        egress.rewritten((path, at as u16), before.as_ref(), packet, now);
                    }
                }
                self.run(packet, at + 1, now, egress);
            }
            Action::Take => {
                self.with_stage(path, at as u16, now, egress, |stage, out| stage.take(packet, now, out));
            }
        }
    }

    /// Calls a stage with an outlet and carries out what it says.
    fn with_stage<E: Egress>(
        &mut self,
        path: u16,
        stage: u16,
        now: Instant,
        egress: &mut E,
        call: impl FnOnce(&mut Impairment, &mut Outlet<'_>),
    ) {
        let slot = &mut self.paths[usize::from(path)].stages[usize::from(stage)];
        let mut emissions = std::mem::take(&mut slot.emissions);
        let mut created = Amount::default();
        let mut kept = Amount::default();
        let mut out = Outlet {
            pool: &mut self.pool,
            emissions: &mut emissions,
            counters: &mut slot.counters,
            created: &mut created,
            kept: &mut kept,
        };
        call(&mut slot.impairment, &mut out);
        self.counters.created += created;
        // What a stage gave up counts negative.
        self.held.packets = self.held.packets.wrapping_add(kept.packets);
        self.held.bytes = self.held.bytes.wrapping_add(kept.bytes);
        for emission in emissions.drain(..) {
            self.carry_out(emission, path, stage, now, egress);
        }
        self.paths[usize::from(path)].stages[usize::from(stage)].emissions = emissions;
    }

    fn carry_out<E: Egress>(
        &mut self,
        emission: Emission,
        path: u16,
        stage: u16,
        now: Instant,
        egress: &mut E,
    ) {
        let place = Some((path, stage));
        match emission {
            Emission::Forward(mut packet) => {
                self.run(&mut packet, usize::from(stage) + 1, now, egress);
                self.pool.give(packet.into_buffer());
            }
            Emission::Hold(packet, until) if until <= now => {
                self.paths[usize::from(path)].stages[usize::from(stage)].impairment.released(&packet, now);
                self.carry_out(Emission::Forward(packet), path, stage, now, egress);
            }
            Emission::Hold(packet, until) => {
                if E::RECORDS {
                    egress.record(What::Held((path, stage), until), &packet, now);
                }
                self.paths[usize::from(path)].stages[usize::from(stage)].counters.delayed += packet.amount();
                self.hold(packet, usize::from(stage), until);
            }
            Emission::Drop(packet, reason) => self.drop(packet, place, reason, now, egress),
            Emission::Reject(mut packet, reason, error) => {
                self.reject_each(&mut packet, place, reason, error, now, egress);
                self.pool.give(packet.into_buffer());
            }
            Emission::Answer(mut segment) => {
                // Whom a translator does not know any more is told nothing.
                if !self.restore(&mut segment, path, Some(stage), now) {
                    return self.pool.give(segment.into_buffer());
                }
                let (version, transport) = (segment.layout.version(), segment.layout.transport_offset());
                bare::turn_round(segment.bytes_mut(), version, transport);
                self.send_own(segment, place, now, egress);
            }
            Emission::Wake(at) if at <= now => {
                self.with_stage(path, stage, now, egress, |stage, out| stage.wake(now, out));
            }
            Emission::Wake(at) => self.plan(at, Event::Wake { path, stage }),
        }
    }

    fn hold(&mut self, mut packet: Packet, stage: usize, until: Instant) {
        self.held += packet.amount();
        packet.stage = stage as u16;
        self.plan(until, Event::Resume(packet));
    }

    fn plan(&mut self, at: Instant, event: Event) {
        self.schedule.insert(at, event.rank(), event);
    }

    fn release(&mut self, packet: &Packet) {
        let amount = packet.amount();
        self.held.packets -= amount.packets;
        self.held.bytes -= amount.bytes;
    }

    fn resume<E: Egress>(&mut self, mut packet: Packet, due: Instant, egress: &mut E) {
        self.release(&packet);
        packet.set_waited();
        let stage = usize::from(packet.stage);
        self.paths[usize::from(packet.path)].stages[stage].impairment.released(&packet, due);
        self.run(&mut packet, stage + 1, due, egress);
        self.pool.give(packet.into_buffer());
    }

    /// The last step: out by the path's port, if the packet fits its MTU.
    fn leave<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        let port = self.paths[usize::from(packet.path)].to;
        let mtu = self.ports[usize::from(port)].mtu;
        if packet.wire_length(0) > mtu {
            return self.too_big(packet, port, mtu, now, egress);
        }
        self.send(port, packet, now, egress);
    }

    fn send<E: Egress>(&mut self, port: u16, packet: &mut Packet, now: Instant, egress: &mut E) {
        let amount = packet.amount();
        // Before the device fills in its header and possibly merges the packet away.
        if E::RECORDS {
            egress.record(What::Sent(port), packet, now);
        }
        match egress.send(port, packet, now) {
            Ok(()) => self.counters.sent += amount,
            Err(reason) => self.drop_whole(packet, None, reason, now, egress),
        }
    }

    /// A packet of the router's own, or made by the stage at `place`.
    fn send_own<E: Egress>(
        &mut self,
        mut packet: Packet,
        place: Option<(u16, u16)>,
        now: Instant,
        egress: &mut E,
    ) {
        packet.path = Packet::NO_PATH;
        packet.arrived = now;
        self.counters.created += packet.amount();
        if E::RECORDS {
            egress.record(What::Created(place), &packet, now);
        }
        let port = packet.ingress;
        self.send(port, &mut packet, now, egress);
        self.pool.give(packet.into_buffer());
    }

    fn drop<E: Egress>(
        &mut self,
        mut packet: Packet,
        place: Option<(u16, u16)>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        self.drop_whole(&mut packet, place, reason, now, egress);
        self.pool.give(packet.into_buffer());
    }

    fn drop_whole<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<(u16, u16)>,
        reason: Reason,
        now: Instant,
        egress: &mut E,
    ) {
        let amount = packet.amount();
        self.counters.drops.add(reason, amount);
        if let Some((path, stage)) = place {
            self.paths[usize::from(path)].stages[usize::from(stage)].counters.drops.add(reason, amount);
        }
        if E::RECORDS {
            let slot = place.map(|(path, stage)| &self.paths[usize::from(path)].stages[usize::from(stage)]);
            let draw = |wire| slot.and_then(|slot| slot.drawn(reason, packet, wire));
            egress.dropped(place, reason, packet, now, &draw);
        }
    }

    /// Makes of a packet that a translator has changed what its sender knows; false if that is not known any more.
    fn untranslate(
        &mut self,
        packet: &mut Packet,
        place: Option<(u16, u16)>,
        reason: Reason,
        now: Instant,
    ) -> bool {
        // What was rejected before its path had not been translated.
        let path = match place {
            Some((path, _)) => path,
            None if reason == Reason::PortMtu => packet.path,
            None => return true,
        };
        self.restore(packet, path, place.map(|(_, stage)| stage), now)
    }

    /// Takes back what the translator of the path has done to `packet`, if its place is before `stage`, or there is none;
    /// or one that has translated both its ends. False if it is not known what that was.
    fn restore(&mut self, packet: &mut Packet, path: u16, stage: Option<u16>, now: Instant) -> bool {
        if let Some((at, translator)) = self.paths[usize::from(path)].translator() {
            return stage.is_some_and(|stage| usize::from(stage) <= at)
                || self.nats[usize::from(translator.nat)].restore(packet, translator.outward, now);
        }
        let source = packet.source();
        let hairpin = self.nats.iter_mut().find(|nat| nat.owns(source));
        hairpin.is_none_or(|nat| nat.restore_hairpin(packet, now))
    }

    /// Drops `packet` and tells its sender, once for each wire packet.
    fn reject_each<E: Egress>(
        &mut self,
        packet: &mut Packet,
        place: Option<(u16, u16)>,
        reason: Reason,
        error: IcmpError,
        now: Instant,
        egress: &mut E,
    ) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            packet.complete_checksum();
            let is_known = self.untranslate(packet, place, reason, now);
            let port = &self.ports[usize::from(packet.ingress)];
            let destination = [packet.destination()];
            let own: &[IpAddr] = if port.is_wire { &destination } else { &port.own };
            let told =
                is_known.then(|| self.answers.error(packet, error, own, &mut self.pool, now)).flatten();
            self.drop_whole(packet, place, reason, now, egress);
            if let Some(answer) = told {
                self.counters.icmp_sent += 1;
                self.send_own(answer, None, now, egress);
            } else {
                self.counters.icmp_withheld += 1;
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    /// Fragments `packet` for the port's MTU where it may, and rejects it where not.
    #[cold]
    fn too_big<E: Egress>(&mut self, packet: &mut Packet, port: u16, mtu: u32, now: Instant, egress: &mut E) {
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            if packet.wire_length(0) <= mtu {
                self.send(port, packet, now, egress);
            } else {
                self.fragment_or_reject(packet, port, mtu, now, egress);
            }
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return,
            }
        }
    }

    fn fragment_or_reject<E: Egress>(
        &mut self,
        packet: &mut Packet,
        port: u16,
        mtu: u32,
        now: Instant,
        egress: &mut E,
    ) {
        packet.complete_checksum();
        let Ok(mut fragments) = packet.fragments(mtu) else {
            return self.reject_each(
                packet,
                None,
                Reason::PortMtu,
                IcmpError::PacketTooBig { mtu },
                now,
                egress,
            );
        };
        while let Some(mut fragment) = packet.next_fragment(&mut fragments, &mut self.pool) {
            self.counters.created += fragment.amount();
            if E::RECORDS {
                egress.record(What::Created(None), &fragment, now);
            }
            self.send(port, &mut fragment, now, egress);
            self.pool.give(fragment.into_buffer());
        }
        self.drop_whole(packet, None, Reason::Fragmented, now, egress);
    }
}

/// Gives every stage that works in both directions its slot in the opposite path: behind that path's own stages, in the
/// order in which packets that go back meet them.
fn add_returns(params: &RouterParams, pairs: &mut Pairs, paths: &mut Vec<Path>) {
    for (path, from) in params.paths.iter().enumerate().filter(|(_, path)| path.from != path.to) {
        for (stage, two_way) in from.stages.iter().enumerate().rev() {
            if two_way.works_both_ways() {
                let opposite = pairs.own(paths, paths[path].to, paths[path].from);
                let home = Back { path: path as u16, stage: stage as u16 };
                paths[usize::from(opposite)].stages.push(Slot::back(&two_way.name, home));
            }
        }
    }
}

/// What decides where a packet goes.
struct Way<'a> {
    routes: &'a Routes,
    ports: &'a [Port],
    pairs: &'a Pairs,
}

impl Way<'_> {
    fn route(&self, ingress: u16, destination: IpAddr) -> u32 {
        if self.ports.iter().any(|port| port.own.contains(&destination)) {
            return verdict::TO_ROUTER;
        }
        match self.routes.find(destination) {
            None => verdict::NO_ROUTE,
            Some(RouteTarget::Unreachable) => verdict::UNREACHABLE,
            Some(RouteTarget::Blackhole) => verdict::BLACKHOLE,
            Some(RouteTarget::Port(to)) => u32::from(self.pairs.find(ingress, to as u16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::pipeline::params::{DuplicateParams, PortParams, Trigger, limits};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::units::Probability;

    /// A router of so many ports, each with a prefix of its own: port `i` is 10.x.y.2/24 with `i = 256x + y`.
    fn ports(count: usize) -> RouterParams {
        let port = |i: usize| PortParams {
            name: format!("p{i}"),
            mtu: 1_500,
            addresses: vec![format!("10.{}.{}.2/24", i / 256, i % 256).parse().unwrap()],
            router: Vec::new(),
        };
        let paths = [(count - 1, count - 2), (0, count - 1)].map(|(from, to)| {
            let stages = spec::parse("loss 100%").unwrap().stages;
            PathParams { from, to, stages }
        });
        let ports = (0..count).map(port).collect();
        RouterParams { ports, paths: paths.to_vec(), ..Run::params(1, Vec::new()) }
    }

    /// Where a packet to port `to` goes that came in by `from`; `None` if it was dropped.
    fn way(router: &mut Router, from: usize, to: usize) -> Option<usize> {
        struct Out(Option<usize>);
        impl Egress for Out {
            fn send(&mut self, port: u16, _packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
                self.0 = Some(port.into());
                Ok(())
            }
        }
        let mut frame = Spec::udp(10).frame().bytes;
        frame[12..16].copy_from_slice(&[10, (from / 256) as u8, (from % 256) as u8, 2]);
        frame[16..20].copy_from_slice(&[10, (to / 256) as u8, (to % 256) as u8, 2]);
        let mut buffer = router.pool.scratch();
        let headroom = crate::pipeline::pool::HEADROOM;
        buffer[headroom..headroom + frame.len()].copy_from_slice(&frame);
        let mut out = Out(None);
        router.receive(from as u16, &mut buffer, frame.len(), Offload::default(), Instant::ZERO, &mut out);
        out.0
    }

    /// Every pair of ports has its own faults and no other's, up to the largest router; and the memory for them grows with
    /// the ports, not with the pairs.
    #[test]
    fn faults_are_those_of_the_pair_of_ports_however_many_there_are() {
        for count in [2, 255, 256, 257, 300, limits::PORTS] {
            let params = ports(count);
            let mut router = Router::new(&params, &Router::shared(&params));
            assert_eq!(router.paths().len(), 2 + count);
            let last = count - 1;
            assert_eq!([way(&mut router, last, last - 1), way(&mut router, 0, last)], [None, None]);
            // All pairs of a small router; of a large one some from and to every port.
            for from in 0..count {
                for to in (from % 61..count).step_by(61) {
                    if from != to && ![(last, last - 1), (0, last)].contains(&(from, to)) {
                        assert_eq!(way(&mut router, from, to), Some(to), "{from} to {to} of {count}");
                    }
                }
            }
        }
    }

    /// Every stage of the longest path hands the packet on from within a call of its own.
    #[test]
    fn the_longest_path_fits_the_stack_of_a_worker() {
        let stages: Vec<_> = (0..limits::STAGES)
            .map(|number| {
                let copy =
                    ImpairmentParams::Duplicate(DuplicateParams { probability: Probability::ONE, copies: 1 });
                let mut stage = stage(copy);
                stage.name = format!("s{number}");
                stage.trigger = Trigger { times: Some(1), ..Trigger::default() };
                stage
            })
            .collect();
        let run = move || {
            let mut run = Run::new(stages);
            run.feed(Instant::ZERO, &Spec::tcp(60_000).train(1_000).frame());
            run.finish();
            assert_eq!(run.wires().len(), 60 + limits::STAGES);
        };
        // What a thread gets where nobody says otherwise.
        let stack = 2 << 20;
        std::thread::Builder::new().stack_size(stack).spawn(run).unwrap().join().unwrap();
    }
}
