//! The fast path allocates nothing once it is warm; the test's allocator counts this.

#![expect(unsafe_code, reason = "a global allocator is unsafe by its trait")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etherparse::PacketBuilder;
use faultwire::config::spec;
use faultwire::journal::tap::Told;
use faultwire::journal::{self, Finished, Hub, Kind, Lane, Record, Tap};
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::{Offload, Packet};
use faultwire::pipeline::params::{
    BlackoutParams, DelayModelParams, Dependence, DropParams, FragmentFilterParams, HeldAcks, IcmpParams,
    Identity, ImpairmentParams, InjectParams, InjectTo, Injected, ListedLossParams, NaptParams, NatClock,
    NatKind, NatParams, NatPlace, NatTimeouts, Numbers, PathParams, PatternFault, PatternParams,
    PawsPerHostParams, PortAllocation, PortParams, Rebind, ReorderParams, RouterParams, RstOrderParams,
    RstPlace, RstSequence, Scope, SeatParams, Segment, Segments, Select, ServiceParams, StageParams,
    TcpParams, TimestampSet, TimestampsParams, Timetable, Trigger, WindowRewrite,
};
use faultwire::pipeline::pool::HEADROOM;
use faultwire::pipeline::router::ear::Deed;
use faultwire::pipeline::router::path::SeatId;
use faultwire::pipeline::router::{Egress, Headers, Router, What};
use faultwire::pipeline::time::{Duration, Instant};
use faultwire::pipeline::units::Probability;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what the calling thread takes from the system.
struct Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Sink;

impl Egress for Sink {
    fn send(&mut self, _port: u16, _packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
        Ok(())
    }
}

fn stage(name: &str, impairment: ImpairmentParams) -> StageParams {
    let trigger = Trigger { times: Some(u64::from(u32::MAX)), scope: Scope::Flow, ..Trigger::default() };
    StageParams { name: name.into(), select: Select::default(), trigger, impairment }
}

/// Many stages and a translator in a row, acting often.
fn seats() -> Vec<SeatParams> {
    let netem = "mtu 1400 fragment mss 900 loss 1% 25% duplicate 2% corrupt 1% reorder 20% gap 3 delay 2ms 1ms \
                 rate 900mbit limit 500";
    let mut stages = spec::parse(netem).unwrap().stages;
    let p = Probability::new(0.1).unwrap();
    let displace = ReorderParams::Displace { probability: p, by: 2, timeout: Duration::from_millis(1) };
    let blackout = BlackoutParams {
        start: Duration::from_millis(50),
        down: Duration::from_millis(1),
        up: Some(Duration::from_millis(9)),
        hold: false,
    };
    stages.push(stage("displace", ImpairmentParams::Reorder(displace)));
    stages.push(stage("filter", ImpairmentParams::FragmentFilter(FragmentFilterParams)));
    let paws = PawsPerHostParams { window: Duration::from_secs(60), require_timestamp: true };
    stages.push(stage("paws", ImpairmentParams::PawsPerHost(paws)));
    let timestamps = TimestampsParams { set: TimestampSet::RandomOffset, translate: true };
    stages.push(stage("timestamps", ImpairmentParams::Timestamps(timestamps)));
    let order =
        RstOrderParams { rst: RstPlace::First, acks: HeldAcks::All, timeout: Duration::from_millis(1) };
    stages.push(stage("rst-order", ImpairmentParams::RstOrder(order)));
    let tcp = TcpParams {
        window: Some(WindowRewrite::Max(500)),
        strip: vec![8],
        bleach_ecn: true,
        ..TcpParams::default()
    };
    stages.push(stage("tcp", ImpairmentParams::Tcp(tcp)));
    let mut numbers = Numbers::default();
    (1..5_000).for_each(|number| numbers.push(10 * number, 10 * number + 1).unwrap());
    let list = ListedLossParams { list: Arc::new(numbers), scope: Scope::Path, ecn: false };
    let chances = [0.5, 0.2].map(|chance| Probability::new(chance).unwrap());
    let patterns = Timetable::new(vec![(Duration::from_millis(3), chances.to_vec())], true).unwrap();
    let fault = PatternFault::Loss { ecn: true };
    let pattern = PatternParams { patterns: Arc::new(patterns), fault, scope: Scope::Flow };
    stages.push(stage("pattern", ImpairmentParams::Pattern(pattern)));
    let delays = Timetable::new(vec![(Duration::from_millis(5), Duration::from_millis(1))], true).unwrap();
    let model = DelayModelParams { delays: Arc::new(delays), reorder: false };
    stages.push(stage("model", ImpairmentParams::DelayModel(model)));
    stages.push(stage("listed", ImpairmentParams::ListedLoss(list)));
    let inject = |kind, to| ImpairmentParams::Inject(InjectParams { kind, to, count: 2 });
    stages.push(stage("dup-ack", inject(Injected::DuplicateAck, InjectTo::Receiver)));
    stages.push(stage("rst", inject(Injected::Rst(RstSequence::Stale(1)), InjectTo::Sender)));
    stages.push(stage("blackout", ImpairmentParams::Blackout(blackout)));
    let mut again = stage("again", ImpairmentParams::Drop(DropParams));
    again.select.segments = Segments::NONE.with(Segment::Retransmission).with(Segment::Sack);
    stages.push(again);
    let mut seats: Vec<SeatParams> = stages.into_iter().map(SeatParams::Stage).collect();
    let before_tcp = seats.iter().position(|seat| seat.name() == "tcp").unwrap();
    let place = NatPlace { nat: 0, outward: true };
    seats.insert(before_tcp, SeatParams::Translator { name: "nat".into(), place });
    seats
}

/// Its sessions expire again and again, so that it opens and forgets some all the time.
fn napt() -> NaptParams {
    let short = Duration::from_millis(7);
    NaptParams {
        addresses: vec!["10.0.2.1".parse().unwrap()],
        ports: 1_024..=2_000,
        allocation: PortAllocation::Random,
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        hairpin: true,
        table_size: 6,
        timeouts: NatTimeouts { tcp_opening: short, tcp_established: short, ..NatTimeouts::default() },
        inbound_refresh: true,
        mid_stream: faultwire::pipeline::params::MidStream::Open,
        clock: NatClock::One,
        forwards: Vec::new(),
        rebind: Some(Rebind { at: Duration::from_millis(3), every: Some(Duration::from_millis(29)) }),
    }
}

/// A packet of one of eight flows: single, train, SYN, and one that is too large and must be fragmented or rejected.
fn packets() -> Vec<(Vec<u8>, Offload)> {
    let stamp = etherparse::TcpOptionElement::Timestamp(1, 2);
    let build = |flow: u16, payload: usize, syn: bool| {
        let mut tcp = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64).tcp(40_000 + flow, 443, 1, 1000);
        tcp = if syn {
            tcp.syn().options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap()
        } else {
            tcp.ack(1).options(std::slice::from_ref(&stamp)).unwrap()
        };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &vec![0x5a; payload]).unwrap();
        bytes
    };
    let train = Offload { segment: 1000, partial: Some((20, 16)) };
    let mut packets = Vec::new();
    for flow in 0..8 {
        packets.push((build(flow, 0, true), Offload::default()));
        packets.push((build(flow, 100, false), Offload::default()));
        packets.push((build(flow, 20_000, false), train));
        packets.push((build(flow, 1440, false), Offload::default()));
        packets.push((build(flow, 0, false), Offload::default()));
    }
    packets
}

/// A router with all of [`seats`], and how it is driven.
struct Driven {
    router: Router,
    buffer: faultwire::pipeline::pool::Buffer,
    packets: Vec<(Vec<u8>, Offload)>,
    now: Instant,
}

impl Driven {
    fn new() -> Self {
        let port = |name: &str, net: u8| PortParams {
            name: name.into(),
            mtu: 1500,
            addresses: vec![format!("10.0.{net}.2/24").parse().unwrap()],
            router: vec![format!("10.0.{net}.1").parse().unwrap()],
        };
        let params = RouterParams {
            seed: 1,
            flows: 1024,
            identity: Identity::default(),
            icmp: IcmpParams::default(),
            ports: vec![port("left", 1), port("right", 2)],
            routes: Vec::new(),
            paths: vec![PathParams { from: 0, to: 1, seats: seats() }],
            nats: vec![NatParams { name: "nat".into(), kind: NatKind::Napt(Box::new(napt())) }],
        };
        let mut router = Router::new(&params, &Router::shared(&params));
        let buffer = router.pool.scratch();
        Self { router, buffer, packets: packets(), now: Instant::ZERO }
    }

    fn drive(&mut self, rounds: usize, egress: &mut impl Egress) {
        for round in 0..rounds {
            self.now += Duration::from_micros(400);
            self.router.poll(self.now, egress);
            let (bytes, offload) = &self.packets[round % self.packets.len()];
            self.buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            self.router.receive(0, &mut self.buffer, bytes.len(), *offload, self.now, egress);
        }
    }

    /// Allocations of the calling thread once the router is warm.
    fn allocations(&mut self, egress: &mut impl Egress) -> u64 {
        self.drive(200_000, egress);
        let before = ALLOCATIONS.with(Cell::get);
        assert!(before > 0, "the allocator counts");
        self.drive(50_000, egress);
        let after = ALLOCATIONS.with(Cell::get);
        let seats = &self.router.paths()[0].seats;
        let acted: Vec<_> = seats.iter().map(|seat| seat.counters.acted().packets).collect();
        assert!(acted.iter().all(|&packets| packets > 1000), "every stage was at work: {acted:?}");
        after - before
    }
}

#[test]
fn a_warm_router_allocates_nothing() {
    assert_eq!(Driven::new().allocations(&mut Sink), 0);
}

/// Everything that happens is told to a journal and, with whole packets, to a capture; their thread allocates, the worker's not.
#[test]
fn a_warm_router_that_is_recorded_allocates_nothing() {
    let journal = Lane { follows: true, ..Lane::of(&Kind::TOLD) };
    let capture = Lane { is_whole: true, ..Lane::of(&[Kind::Received, Kind::Sent, Kind::Dropped]) };
    let heard = Arc::new(AtomicU64::new(0));
    let sink = |lane| (lane, Box::new(Counted(Arc::clone(&heard))) as Box<dyn journal::Sink>);
    let (hub, taps) = Hub::start(vec![sink(journal), sink(capture)]).unwrap();
    hub.begin();
    let mut egress = Recorded(taps.tap(1024));
    assert_eq!(Driven::new().allocations(&mut egress), 0);
    drop((egress, taps));
    hub.finish();
    assert!(heard.load(Ordering::Relaxed) > 100_000, "records came");
}

/// Counts the records that come.
struct Counted(Arc<AtomicU64>);

impl journal::Sink for Counted {
    fn record(&mut self, _record: &Record<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn finish(self: Box<Self>, _lost: u64) -> Finished {
        Finished::default()
    }
}

/// Tells all there is to a worker's end of a ring.
struct Recorded(Tap);

impl Recorded {
    fn tell(&mut self, told: &Told<'_>, packet: &Packet, at: Instant) {
        self.0.tell(told, packet, at, &|| None);
    }
}

impl Egress for Recorded {
    const RECORDS: bool = true;

    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        self.tell(&Told { port: Some(port), due: Some(due), ..Told::of(Kind::Sent) }, packet, due);
        Ok(())
    }

    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        match what {
            What::Received(_) => self.tell(&Told::of(Kind::Received), packet, at),
            What::Held(place, _) => {
                self.tell(&Told { place: Some(place), ..Told::of(Kind::Held) }, packet, at);
            }
            What::Created(place) => self.tell(&Told { place, ..Told::of(Kind::Created) }, packet, at),
            What::Dropped(place, reason) => {
                self.tell(&Told { place, reason: Some(reason), ..Told::of(Kind::Dropped) }, packet, at);
            }
            What::Entered | What::Sent(_) | What::Rewritten(_) => {}
        }
    }

    fn transmission(&mut self, packet: &Packet) -> u8 {
        self.0.transmission(packet)
    }

    fn wants_draws(&self) -> bool {
        true
    }

    fn wants_headers(&self) -> bool {
        true
    }

    fn rewritten(&mut self, place: SeatId, before: Option<&Headers>, packet: &Packet, at: Instant) {
        self.tell(&Told { place: Some(place), before, ..Told::of(Kind::Rewritten) }, packet, at);
    }

    fn hears(&self) -> bool {
        true
    }

    fn did(&mut self, place: SeatId, deed: Deed<'_>, packet: &Packet, at: Instant) {
        let (kind, before) = match deed {
            Deed::Created => (Kind::Created, None),
            Deed::Rewritten(before) => (Kind::Rewritten, Some(before)),
            Deed::Kept => (Kind::Held, None),
            Deed::Released => (Kind::Released, None),
        };
        self.tell(&Told { place: Some(place), before, ..Told::of(kind) }, packet, at);
    }
}

/// The stages that `configs/reference.toml` shows, which has a block of every type, each by itself and on all packets. A
/// translator is among those of the tests above.
#[test]
fn no_stage_of_the_reference_allocates_when_warm() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/reference.toml");
    let reference = faultwire::config::load(file.as_ref()).unwrap();
    let shown = reference.paths.iter().flat_map(PathParams::stages);
    let packets = packets();
    let mut guilty = Vec::new();
    for stage in shown {
        // A link that stops at times holds more then than in the last few thousand packets: that may allocate.
        if let ImpairmentParams::Bottleneck(link) = &stage.impairment
            && matches!(link.service, ServiceParams::Steps(_))
        {
            continue;
        }
        let everything =
            StageParams { select: Select::default(), trigger: Trigger::default(), ..stage.clone() };
        let mut alone = Alone::new(vec![everything]);
        alone.drive(&packets, 20_000);
        let before = ALLOCATIONS.with(Cell::get);
        alone.drive(&packets, 5_000);
        let allocations = ALLOCATIONS.with(Cell::get) - before;
        let seen = alone.router.paths()[0].seats[0].counters.seen.packets;
        if allocations > 0 || seen < 25_000 {
            guilty.push(format!("{}: {allocations} allocations, {seen} packets seen", stage.name));
        }
    }
    assert_eq!(guilty, [""; 0]);
}

/// A router whose path has nothing but these stages.
struct Alone {
    router: Router,
    buffer: faultwire::pipeline::pool::Buffer,
    now: Instant,
    round: usize,
}

impl Alone {
    fn new(stages: Vec<StageParams>) -> Self {
        let port = |name: &str, net: u8| PortParams {
            name: name.into(),
            mtu: 65_535,
            addresses: vec![format!("10.0.{net}.2/24").parse().unwrap()],
            router: vec![format!("10.0.{net}.1").parse().unwrap()],
        };
        let params = RouterParams {
            seed: 1,
            flows: 1024,
            identity: Identity::default(),
            icmp: IcmpParams::default(),
            ports: vec![port("left", 1), port("right", 2)],
            routes: Vec::new(),
            paths: vec![PathParams::new(0, 1, stages)],
            nats: Vec::new(),
        };
        let mut router = Router::new(&params, &Router::shared(&params));
        let buffer = router.pool.scratch();
        Self { router, buffer, now: Instant::ZERO, round: 0 }
    }

    fn drive(&mut self, packets: &[(Vec<u8>, Offload)], rounds: usize) {
        for _ in 0..rounds {
            self.now += Duration::from_millis(4);
            self.router.poll(self.now, &mut Sink);
            let (bytes, offload) = &packets[self.round % packets.len()];
            self.round += 1;
            self.buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            self.router.receive(0, &mut self.buffer, bytes.len(), *offload, self.now, &mut Sink);
        }
    }
}
