//! The packet core alone, one core, no device: time per wire packet through a whole router.
//!
//! `single`: one wire packet at a time through five stages. `train`: a 44-segment TCP train through the same stages, with
//! and without a decision inside it. criterion's `thrpt` line counts wire packets.

#![expect(clippy::unwrap_used, reason = "constants")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

/// Takes every packet and forgets it.
#[derive(Default)]
struct Sink {
    wires: u64,
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

fn router(stages: Vec<StageParams>) -> Router {
    let port = |name: &str, net: &str, own: &str| PortParams {
        name: name.into(),
        mtu: 1500,
        addresses: vec![net.parse().unwrap()],
        router: vec![own.parse().unwrap()],
    };
    let params = RouterParams {
        seed: 7,
        flows: 65_536,
        identity: Identity::default(),
        icmp: IcmpParams::default(),
        ports: vec![port("left", "10.0.1.2/24", "10.0.1.1"), port("right", "10.0.2.2/24", "10.0.2.1")],
        routes: Vec::new(),
        paths: vec![PathParams { from: 0, to: 1, stages }],
        nats: Vec::new(),
    };
    Router::new(&params, &Router::shared(&params))
}

fn tcp(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64).tcp(40_000, 443, 1, 1000).ack(1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// Feeds the same packet again and again, as a device would hand it over.
struct Feed {
    bytes: Vec<u8>,
    offload: Offload,
    buffer: Buffer,
    router: Router,
    sink: Sink,
}

impl Feed {
    fn new(bytes: Vec<u8>, offload: Offload, stages: Vec<StageParams>) -> Self {
        let mut router = router(stages);
        let buffer = router.pool.scratch();
        Self { bytes, offload, buffer, router, sink: Sink::default() }
    }

    fn one(&mut self) {
        // The headers are what the router changes; the payload is left as it lies.
        let headers = self.bytes.len().min(64);
        self.buffer[HEADROOM..HEADROOM + headers].copy_from_slice(&self.bytes[..headers]);
        self.router.receive(
            0,
            &mut self.buffer,
            self.bytes.len(),
            self.offload,
            Instant::ZERO,
            &mut self.sink,
        );
    }
}

fn benches(criterion: &mut Criterion) {
    let train = Offload { segment: 1448, partial: Some((20, 16)) };
    let cases = [
        ("single/no-stage", 60, Offload::default(), Vec::new(), 1),
        ("single/five-stages", 60, Offload::default(), five_stages(0.0001), 1),
        ("single/five-stages/10-percent", 60, Offload::default(), five_stages(0.1), 1),
        ("train/no-decision", 44 * 1448, train, five_stages(0.0), 44),
        ("train/0.01-percent", 44 * 1448, train, five_stages(0.0001), 44),
        ("train/1-percent", 44 * 1448, train, five_stages(0.01), 44),
    ];
    let mut group = criterion.benchmark_group("core");
    for (name, payload, offload, stages, wires) in cases {
        let mut feed = Feed::new(tcp(payload), offload, stages);
        group.throughput(Throughput::Elements(wires));
        (0..1000).for_each(|_| feed.one());
        assert!(feed.sink.wires > 0, "{name}: nothing came through");
        group.bench_function(name, |bencher| bencher.iter(|| feed.one()));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
