//! What tests of stages use: a router in memory and virtual time, and packets that it did not build itself.
//!
//! ```ignore
//! let mut run = Run::new(vec![stage(ImpairmentParams::Delay(params))]);
//! run.feed(Instant::ZERO, &Spec::tcp(3000).train(1000).frame());
//! run.finish();
//! assert_eq!(run.times(), [10_000_000; 3]);
//! ```

pub(crate) mod frame;
mod hostile;
pub(crate) mod laws;
pub(crate) mod strategy;

pub(crate) use frame::{Frame, Spec, flaw};

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::counters::{Amount, Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{
    Dependence, IcmpParams, Identity, ImpairmentParams, MidStream, NaptParams, NatClock, NatPlace,
    NatTimeouts, PathParams, PortAllocation, PortParams, RouterParams, SeatParams, Select, StageParams,
    Trigger,
};
use crate::pipeline::pool::{Buffer, HEADROOM};
use crate::pipeline::router::ear::Deed;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::router::{Change, Egress, Router, SharedState, What};
use crate::pipeline::time::Instant;

/// A stage that acts on every packet.
pub(crate) fn stage(impairment: ImpairmentParams) -> StageParams {
    StageParams {
        name: "under-test".to_owned(),
        select: Select::default(),
        trigger: Trigger::default(),
        impairment,
    }
}

/// The place of the router's first translator.
pub(crate) fn translator(outward: bool) -> SeatParams {
    SeatParams::Translator { name: "nat".to_owned(), place: NatPlace { nat: 0, outward } }
}

/// A translator with the router's own addresses at port 1, as strict as most of them are.
pub(crate) fn napt() -> NaptParams {
    NaptParams {
        addresses: vec!["10.0.2.1".parse().expect("an address"), "fd00:2::1".parse().expect("an address")],
        ports: 1_024..=u16::MAX,
        allocation: PortAllocation::Preserve,
        mapping: Dependence::Independent,
        filtering: Dependence::AddressAndPort,
        hairpin: true,
        table_size: 64,
        timeouts: NatTimeouts::default(),
        inbound_refresh: true,
        clock: NatClock::Pass,
        mid_stream: MidStream::Open,
        forwards: Vec::new(),
        rebind: None,
    }
}

/// A wire packet that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) at: Instant,
    pub(crate) port: u16,
    pub(crate) bytes: Vec<u8>,
}

/// Keeps what leaves, and sums up what it is told.
#[derive(Debug, Default)]
struct Collector {
    /// When the last frame left.
    last: Option<Instant>,
    frames: Vec<(Instant, u16, Frame)>,
    heard: Heard,
    /// Its devices take nothing.
    refuses: bool,
}

/// What was told, in wire packets and bytes.
#[derive(Debug, Default)]
struct Heard {
    received: Amount,
    created: Amount,
    sent: Amount,
    dropped: Amount,
    rewritten: Amount,
    /// What stages keep for a time that they do not know, and have not let go.
    kept: Amount,
}

impl Egress for Collector {
    const RECORDS: bool = true;

    fn record(&mut self, what: What, packet: &Packet, _at: Instant) {
        let sum = match what {
            What::Received(_) => &mut self.heard.received,
            What::Created(_) => &mut self.heard.created,
            What::Sent(_) => &mut self.heard.sent,
            What::Dropped(..) => &mut self.heard.dropped,
            What::Rewritten(_) => &mut self.heard.rewritten,
            What::Entered | What::Held(..) => return,
        };
        *sum += packet.amount();
    }

    fn wants_draws(&self) -> bool {
        true
    }

    fn hears(&self) -> bool {
        true
    }

    fn did(&mut self, _place: SeatId, deed: Deed<'_>, packet: &Packet, _at: Instant) {
        match deed {
            Deed::Created => self.heard.created += packet.amount(),
            Deed::Rewritten(before) => {
                assert!(!before.bytes().is_empty());
                self.heard.rewritten += packet.amount();
            }
            Deed::Kept => self.heard.kept += packet.amount(),
            Deed::Released => {
                let amount = packet.amount();
                self.heard.kept.packets -= amount.packets;
                self.heard.kept.bytes -= amount.bytes;
            }
        }
    }

    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        assert!(self.last.is_none_or(|last| last <= due), "time goes on");
        self.last = Some(due);
        if self.refuses {
            return Err(Reason::DeviceRefused);
        }
        let mut frame = Frame::plain(packet.bytes().to_vec());
        frame.offload.segment = packet.segment();
        frame.offload.partial = packet.partial();
        self.frames.push((due, port, frame));
        Ok(())
    }
}

/// A router with port 0 (10.0.1.0/24, `fd00:1::/64`), port 1 (10.0.2.0/24, `fd00:2::/64`) and stages from 0 to 1.
///
/// Every step checks that received + created = sent + dropped + held, and that all of it was told.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) router: Router,
    collector: Collector,
    buffer: Buffer,
    now: Instant,
}

impl Run {
    /// With seed 1.
    pub(crate) fn new(stages: Vec<StageParams>) -> Self {
        Self::seeded(1, stages)
    }

    pub(crate) fn seeded(seed: u64, stages: Vec<StageParams>) -> Self {
        Self::built(&Self::params(seed, stages))
    }

    /// With other ports than the usual.
    pub(crate) fn built(params: &RouterParams) -> Self {
        Self::worker(params, &Router::shared(params))
    }

    /// One of several workers that share `shared`.
    pub(crate) fn worker(params: &RouterParams, shared: &SharedState) -> Self {
        let mut router = Router::new(params, shared);
        let buffer = router.pool.scratch();
        Self { router, collector: Collector::default(), buffer, now: Instant::ZERO }
    }

    /// What [`Self::seeded`] is built from.
    pub(crate) fn params(seed: u64, stages: Vec<StageParams>) -> RouterParams {
        let port = |name: &str, net: u8| PortParams {
            name: name.to_owned(),
            mtu: 65_575,
            addresses: vec![
                format!("10.0.{net}.2/24").parse().expect("a prefix"),
                format!("fd00:{net}::2/64").parse().expect("a prefix"),
            ],
            router: vec![
                format!("10.0.{net}.1").parse().expect("an address"),
                format!("fd00:{net}::1").parse().expect("an address"),
            ],
        };
        RouterParams {
            seed,
            flows: 64,
            identity: Identity::default(),
            icmp: IcmpParams { rate: 1_000_000, ..IcmpParams::default() },
            ports: vec![port("a", 1), port("b", 2)],
            routes: Vec::new(),
            paths: vec![PathParams::new(0, 1, stages)],
            nats: Vec::new(),
        }
    }

    /// A frame comes in by port 0 at `at`, after everything that is due by then.
    pub(crate) fn feed(&mut self, at: Instant, frame: &Frame) {
        self.feed_by(0, at, frame);
    }

    /// [`Self::feed`] by another port: from port 1 a packet takes the opposite path.
    pub(crate) fn feed_by(&mut self, port: u16, at: Instant, frame: &Frame) {
        self.advance(at);
        self.buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        let length = frame.bytes.len();
        self.router.receive(port, &mut self.buffer, length, frame.offload, at, &mut self.collector);
        self.check();
    }

    /// A frame is injected into path 0, after everything that is due by then.
    pub(crate) fn inject(&mut self, at: Instant, frame: &Frame) -> Option<FlowRef> {
        self.advance(at);
        self.buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        let (length, offload) = (frame.bytes.len(), frame.offload);
        let flow = self.router.inject(0, 0, &mut self.buffer, length, offload, at, &mut self.collector);
        self.check();
        flow
    }

    /// Somebody else carries a frame from port 0 to port 1, past the router.
    pub(crate) fn carry(&mut self, at: Instant, frame: &Frame) {
        self.advance(at);
        self.collector.frames.push((at, 1, frame.clone()));
    }

    /// Virtual time goes on to `to`, with a stop wherever something may be due.
    pub(crate) fn advance(&mut self, to: Instant) {
        while let Some(due) = self.router.next_due().filter(|&due| due <= to) {
            self.now = self.now.max(due);
            self.router.poll(self.now, &mut self.collector);
            self.check();
        }
        self.now = self.now.max(to);
    }

    /// The stages change from those of `old` to those of `new`.
    pub(crate) fn change(&mut self, old: &RouterParams, new: &RouterParams) {
        self.change_to(Change::new(old, new, &Router::shared(new)).expect("only stages differ"));
    }

    /// Carries out a change that was made ready.
    pub(crate) fn change_to(&mut self, mut change: Change) {
        self.router.change(&mut change, self.now, &mut self.collector);
        self.check();
    }

    /// The path of the stages is frozen, or released.
    pub(crate) fn freeze(&mut self, is_frozen: bool) {
        self.router.freeze(0, is_frozen, self.now, &mut self.collector);
        self.check();
    }

    /// The same at once: what stages that end hold leaves them now.
    pub(crate) fn replace(&mut self, old: &RouterParams, new: &RouterParams) {
        let mut change = Change::new(old, new, &Router::shared(new)).expect("only stages differ");
        self.router.replace(&mut change, self.now, &mut self.collector);
        self.check();
    }

    /// Everything that waits leaves.
    pub(crate) fn finish(&mut self) {
        while let Some(due) = self.router.next_due() {
            self.advance(due);
        }
    }

    /// The run ends now, whatever waits.
    pub(crate) fn shut_down(&mut self) {
        self.router.shut_down(self.now, &mut self.collector);
        // What stages still keep is dropped, not let go.
        self.collector.heard.kept = Amount::default();
        self.check();
        assert_eq!(self.router.held(), Amount::default());
    }

    /// The frames that left by port 1, not cut.
    pub(crate) fn frames(&self) -> Vec<(Instant, &Frame)> {
        self.collector
            .frames
            .iter()
            .filter(|(_, port, _)| *port == 1)
            .map(|(at, _, frame)| (*at, frame))
            .collect()
    }

    /// All wire packets that left, by either port, in order.
    pub(crate) fn wires(&self) -> Vec<Wire> {
        let cut = |(at, port, frame): &(Instant, u16, Frame)| {
            let (at, port) = (*at, *port);
            frame.wires().into_iter().map(move |bytes| Wire { at, port, bytes })
        };
        self.collector.frames.iter().flat_map(cut).collect()
    }

    /// When each wire packet left by port 1, in nanoseconds.
    pub(crate) fn times(&self) -> Vec<u64> {
        self.wires().iter().filter(|wire| wire.port == 1).map(|wire| wire.at.as_nanos()).collect()
    }

    /// Wire packets dropped for `reason`.
    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        self.router.counters().drops.of(reason).packets
    }

    /// Counters of a stage.
    pub(crate) fn stage(&self, index: usize) -> &StageCounters {
        &self.router.paths()[0].seats[index].counters
    }

    fn check(&self) {
        let counters = self.router.counters();
        let (mut came, mut went) = (counters.received, counters.sent);
        came += counters.created;
        went += counters.drops.total();
        went += self.router.held();
        assert_eq!(came, went, "received + created = sent + dropped + held: {counters:?}");
        let heard = &self.collector.heard;
        let rewritten = self.router.paths().iter().flat_map(|path| &path.seats);
        let rewritten = rewritten.fold(Amount::default(), |mut sum, seat| {
            sum += seat.counters.rewritten;
            sum
        });
        // A malformed packet has no flow, and the listener is not told of it.
        let malformed = counters.drops.of(Reason::Malformed);
        let (mut received, mut sent, mut dropped) = (heard.received, heard.sent, heard.dropped);
        received += malformed;
        dropped += malformed;
        // Nor of what was carried past the router.
        received += self.router.carried();
        sent += self.router.carried();
        let told = [received, heard.created, sent, dropped, heard.rewritten];
        let counted = [counters.received, counters.created, counters.sent, counters.drops.total(), rewritten];
        assert_eq!(told, counted, "received, created, sent, dropped, rewritten: as told and as counted");
        let held = self.router.held();
        assert!(heard.kept.packets <= held.packets && heard.kept.bytes <= held.bytes, "{heard:?} {held:?}");
    }

    /// From now on the devices take nothing.
    pub(crate) fn refuse(&mut self) {
        self.collector.refuses = true;
    }

    /// What stages keep and have not let go, as told.
    pub(crate) fn kept(&self) -> Amount {
        self.collector.heard.kept
    }
}
