//! Packets through a whole router.

use std::hint::black_box;

use etherparse::PacketBuilder;
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::{Offload, Packet};
use faultwire::pipeline::params::{
    DelayParams, Distribution, IcmpParams, Identity, ImpairmentParams, LossParams, PathParams, PortParams,
    RouterParams, Select, StageParams, Trigger,
};
use faultwire::pipeline::pool::{Buffer, HEADROOM};
use faultwire::pipeline::router::{Egress, Router};
use faultwire::pipeline::time::{Duration, Instant};
use faultwire::pipeline::units::Probability;

/// Payload of the train: 44 segments.
const TRAIN: usize = 44 * 1448;

/// One kind of packet through one path.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Wire packets that one packet stands for.
    pub(crate) wires: u64,
    payload: usize,
    offload: Offload,
    /// Probability of the five stages' losses; none: no stage.
    loss: Option<f64>,
}

/// All that are measured.
pub(crate) fn rows() -> [Row; 6] {
    let single = |name, loss| Row { name, wires: 1, payload: 60, offload: Offload::default(), loss };
    let offload = Offload { segment: 1448, partial: Some((20, 16)) };
    let train = |name, loss| Row { name, wires: 44, payload: TRAIN, offload, loss: Some(loss) };
    [
        single("single/no-stage", None),
        single("single/five-stages", Some(0.0001)),
        single("single/five-stages/10-percent", Some(0.1)),
        train("train/no-decision", 0.0),
        train("train/0.01-percent", 0.0001),
        train("train/1-percent", 0.01),
    ]
}

impl Row {
    pub(crate) fn feed(&self) -> Feed {
        Feed::new(tcp(self.payload), self.offload, self.loss.map(five_stages).unwrap_or_default())
    }
}

/// Takes every packet and forgets it.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) wires: u64,
}

impl Egress for Sink {
    fn send(&mut self, _port: u16, packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
        self.wires += u64::from(black_box(packet).wires());
        Ok(())
    }
}

fn stage(name: &str, select: Select, impairment: ImpairmentParams) -> StageParams {
    StageParams { name: name.into(), select, trigger: Trigger::default(), impairment }
}

/// A loss, a loss of one port's packets, a rare loss, a delay of nothing, a loss of ACKs without data.
fn five_stages(probability: f64) -> Vec<StageParams> {
    let loss = |name, probability, select| {
        let probability = Probability::new(probability).unwrap();
        stage(name, select, ImpairmentParams::Loss(LossParams { probability, ecn: false }))
    };
    let port = Select { destination_ports: vec![(443, 443)], ..Select::default() };
    let acks = Select { tcp_flags_set: 0x10, payload_length: Some((0, 0)), ..Select::default() };
    let none = Duration::ZERO;
    let delay = DelayParams {
        delay: none,
        jitter: none,
        distribution: Distribution::Uniform,
        reorder: false,
        half_life: None,
    };
    vec![
        loss("any", probability, Select::default()),
        loss("port", probability, port),
        loss("rare", probability / 10.0, Select::default()),
        stage("delay", Select::default(), ImpairmentParams::Delay(delay)),
        loss("acks", probability, acks),
    ]
}

fn params(stages: Vec<StageParams>) -> RouterParams {
    let port = |name: &str, net: &str, own: &str| PortParams {
        name: name.into(),
        mtu: 1500,
        addresses: vec![net.parse().unwrap()],
        router: vec![own.parse().unwrap()],
    };
    RouterParams {
        seed: 7,
        flows: 65_536,
        identity: Identity::default(),
        icmp: IcmpParams::default(),
        ports: vec![port("left", "10.0.1.2/24", "10.0.1.1"), port("right", "10.0.2.2/24", "10.0.2.1")],
        routes: Vec::new(),
        paths: vec![PathParams::new(0, 1, stages)],
        nats: Vec::new(),
    }
}

fn tcp(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64).tcp(40_000, 443, 1, 1000).ack(1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// Feeds the same packet again and again, as a device would hand it over.
pub(crate) struct Feed {
    bytes: Vec<u8>,
    offload: Offload,
    buffer: Buffer,
    #[allow(dead_code, reason = "the bench `pipeline` names nothing")]
    pub(crate) params: RouterParams,
    router: Router,
    pub(crate) sink: Sink,
}

impl Feed {
    fn new(bytes: Vec<u8>, offload: Offload, stages: Vec<StageParams>) -> Self {
        let params = params(stages);
        let mut router = Router::new(&params, &Router::shared(&params));
        let buffer = router.pool.scratch();
        Self { bytes, offload, buffer, params, router, sink: Sink::default() }
    }

    pub(crate) fn one(&mut self) {
        receive(&mut self.router, &mut self.buffer, (&self.bytes, self.offload), &mut self.sink);
    }

    /// The same for another egress than its own.
    #[allow(dead_code, reason = "the bench `pipeline` has no other egress")]
    pub(crate) fn give(&mut self, egress: &mut impl Egress) {
        receive(&mut self.router, &mut self.buffer, (&self.bytes, self.offload), egress);
    }
}

#[inline]
fn receive(
    router: &mut Router,
    buffer: &mut Buffer,
    (bytes, offload): (&[u8], Offload),
    egress: &mut impl Egress,
) {
    // The headers are what the router changes; the payload is left as it lies.
    let headers = bytes.len().min(64);
    buffer[HEADROOM..HEADROOM + headers].copy_from_slice(&bytes[..headers]);
    router.receive(0, buffer, bytes.len(), offload, Instant::ZERO, egress);
}
