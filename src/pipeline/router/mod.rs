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
mod route;
pub mod routes;
pub mod schedule;
mod shares;
mod translate;
mod walk;

use std::collections::BTreeMap;
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
use crate::pipeline::params::{PathParams, RouterParams, Share, StageParams};
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
    /// One entry a path, one a stage.
    paths: Vec<Vec<SharedSeat>>,
    ordinals: Arc<Ordinals>,
}

impl Router {
    /// The shared state of a router of any number of workers.
    pub fn shared(params: &RouterParams) -> SharedState {
        // Stages that play the host behind a port remember what comes to it, by whatever path.
        let peers: Vec<Shared> = params.ports.iter().map(|_| Shared::default()).collect();
        let mut links: BTreeMap<Share, Shared> = BTreeMap::new();
        let mut shared = |path: &PathParams, stage: &StageParams| {
            let state = match stage.share() {
                Some(share) => links.entry(share).or_default().clone(),
                None if stage.impairment.plays_host() => peers[path.to].clone(),
                None => Shared::default(),
            };
            SharedSeat { stage: state, gate: Shared::default() }
        };
        let of_path = |path: &PathParams| path.stages.iter().map(|stage| shared(path, stage)).collect();
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
        self.flush(now, egress);
    }

    /// Lets go of all that waits, in the order in which it was due, as if its time had come. What comes later meets the stages
    /// as before.
    pub fn flush<E: Egress>(&mut self, now: Instant, egress: &mut E) {
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
        let both_ways = |(at, stage): (usize, &StageParams)| {
            (from != to && stage.works_both_ways()).then(|| (at, stage.name.clone()))
        };
        let two_way: Vec<_> = paths[number].stages.iter().enumerate().filter_map(both_ways).collect();
        for (at, name) in two_way.into_iter().rev() {
            let opposite = pairs.own(paths, to, from);
            let home = SeatId { path: number as u16, seat: at as u16 };
            paths[usize::from(opposite)].seats.push(Seat::back(&name, home));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::pipeline::counters::StageCounters;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::params::{
        DuplicateParams, PortParams, TimestampSet, TimestampsParams, Trigger, limits,
    };
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;
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
        // The default stack size of a thread.
        let stack = 2 << 20;
        std::thread::Builder::new().stack_size(stack).spawn(run).unwrap().join().unwrap();
    }

    /// The last stage on the way out is the first on the way back, and both are counted.
    #[test]
    fn the_way_back_meets_stages_in_reverse() {
        let stages = ["a", "b"].map(|name| {
            let params = TimestampsParams { set: TimestampSet::RandomOffset, translate: true };
            StageParams { name: name.to_owned(), ..stage(ImpairmentParams::Timestamps(params)) }
        });
        let mut run = Run::new(stages.to_vec());
        run.feed_by(1, Instant::ZERO, &Spec { back: true, ..Spec::tcp(10) }.frame());
        let back = run.router.paths().iter().find(|path| (path.from, path.to) == (1, 0)).unwrap();
        let seen: Vec<_> =
            back.seats.iter().map(|seat| (seat.name.as_str(), seat.counters.seen.packets)).collect();
        assert_eq!(seen, [("b/back", 1), ("a/back", 1)]);
    }

    /// It passes in its turn, and is nowhere held: the next one finds its place free.
    #[test]
    fn a_packet_that_is_due_at_once_does_not_wait() {
        use crate::pipeline::params::{ReplayEnd, ReplayParams, ReplayRow};
        let row = ReplayRow {
            from: Duration::ZERO,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: None,
            loss: Probability::ZERO,
            limit: Some(1),
            duplicate: Probability::ZERO,
            duplicate_delay: Duration::ZERO,
            route: 0,
        };
        let params =
            ReplayParams { rows: vec![row].into(), period: Duration::from_secs(1), end: ReplayEnd::Hold };
        let mut replay = stage(ImpairmentParams::Replay(params));
        replay.select = crate::config::expression::parse("udp").unwrap();
        let mut run = Run::new(vec![replay]);
        for spec in [Spec::udp(1), Spec::tcp(1), Spec::udp(1)] {
            run.feed(Instant::ZERO, &spec.frame());
        }
        let protocols: Vec<u8> = run.wires().iter().map(|wire| wire.bytes[9]).collect();
        assert_eq!((protocols, run.stage(0).delayed.packets), (vec![17, 6, 17], 0));
    }

    /// Where its home path stands in the list makes no difference.
    #[test]
    fn a_stage_for_both_directions_knows_its_home_by_any_number() {
        let params = TimestampsParams { set: TimestampSet::RandomOffset, translate: true };
        let first = Run::params(1, vec![stage(ImpairmentParams::Timestamps(params))]);
        let back = PathParams { from: 1, to: 0, stages: Vec::new() };
        let second = RouterParams { paths: vec![back, first.paths[0].clone()], ..first.clone() };
        let sent = |params: &RouterParams| {
            let mut run = Run::built(params);
            for (port, flags) in [(0, 0x02), (1, 0x12), (0, 0x10)] {
                let options = [&[1, 1, 8, 10][..], &[0, 0, 1, port], &[0, 0, 1, 1 - port]].concat();
                let spec = Spec { flags, options, back: port == 1, ..Spec::tcp(0) };
                run.feed_by(port.into(), Instant::ZERO, &spec.frame());
            }
            run.wires().into_iter().map(|wire| wire.bytes).collect::<Vec<_>>()
        };
        assert_eq!(sent(&first), sent(&second));
    }

    /// A train that is told wire packet by wire packet was counted once: only the first one's transmission is known.
    #[test]
    fn the_transmission_of_what_is_dropped_is_told_once() {
        struct Drops(Vec<u8>);
        impl Egress for Drops {
            const RECORDS: bool = true;
            fn send(&mut self, _port: u16, _packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
                Ok(())
            }
            fn transmission(&mut self, _packet: &Packet) -> u8 {
                2
            }
            fn wants_draws(&self) -> bool {
                true
            }
            fn record(&mut self, what: What, packet: &Packet, _at: Instant) {
                if matches!(what, What::Dropped(..)) {
                    self.0.push(packet.transmission);
                }
            }
        }
        let mut run = Run::new(spec::parse("loss 100%").unwrap().stages);
        let frame = Spec::tcp(3_000).train(1_000).frame();
        let (mut buffer, headroom) = (run.router.pool.scratch(), crate::pipeline::pool::HEADROOM);
        buffer[headroom..headroom + frame.bytes.len()].copy_from_slice(&frame.bytes);
        let mut drops = Drops(Vec::new());
        run.router.receive(0, &mut buffer, frame.bytes.len(), frame.offload, Instant::ZERO, &mut drops);
        assert_eq!(drops.0, [2, 0, 0]);
    }

    /// What a device does not take was not sent.
    #[test]
    fn a_refused_packet_is_told_as_dropped() {
        let mut run = Run::new(Vec::new());
        run.refuse();
        run.feed(Instant::ZERO, &Spec::tcp(3_000).train(1_000).frame());
        assert_eq!((run.dropped(Reason::DeviceRefused), run.router.counters().sent.packets), (3, 0));
    }

    /// What waits in a bottleneck is told when it begins to wait and when it goes on.
    #[test]
    fn the_waits_of_a_bottleneck_are_told() {
        let mut run = Run::new(spec::parse("dualpi2 8mbit").unwrap().stages);
        for _ in 0..9 {
            run.feed(Instant::ZERO, &Spec::tcp(960).frame());
        }
        assert_eq!(run.kept(), run.router.held());
        assert_eq!(run.kept().packets, 9);
        run.finish();
        assert_eq!(run.kept(), Amount::default());
    }

    /// Packets of 1 ms each: the third waits longest, also in the sum of workers.
    #[test]
    fn the_longest_wait_is_kept() {
        let mut stages = spec::parse("rate 8mbit").unwrap().stages;
        let mut run = Run::new(std::mem::take(&mut stages));
        for millis in [0, 0, 0, 50] {
            run.feed(Instant::ZERO + Duration::from_millis(millis), &Spec::tcp(960).frame());
        }
        run.finish();
        let longest = Duration::from_millis(3);
        assert_eq!(run.stage(0).longest_wait, longest);
        let mut sum = StageCounters::default();
        sum += run.stage(0);
        sum += &StageCounters::default();
        assert_eq!(sum.longest_wait, longest);
    }
}
