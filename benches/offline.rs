//! Captures through a path, from memory to memory: packets a second on one core.

#![expect(clippy::unwrap_used, reason = "constants")]

use std::hint::black_box;
use std::io::{Write, sink};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use faultwire::capture::sink::Record;
use faultwire::capture::{Format, LinkType, Notes, Outputs, Replay, Sink, Source};
use faultwire::config::spec;
use faultwire::pipeline::params::{IcmpParams, Identity, PathParams, PortParams, RouterParams};

const PACKETS: u64 = 100_000;
const FLOWS: u64 = 100;

/// Ethernet frames of `payload` bytes of TCP each, 2 us apart.
fn capture(format: Format, payload: usize) -> Vec<u8> {
    let mut file = Sink::new(Vec::new(), format, LinkType::ETHERNET, 0).unwrap();
    for number in 0..PACKETS {
        let port = 40_000 + (number % FLOWS) as u16;
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64)
            .tcp(port, 443, number as u32, 1_000)
            .ack(1);
        let mut data = Vec::new();
        builder.write(&mut data, &vec![0x5a; payload]).unwrap();
        let at = Duration::from_secs(1) + Duration::from_micros(2 * number);
        let (original, number) = (data.len() as u32, LinkType::ETHERNET);
        file.write(&Record {
            at,
            original,
            data: &data,
            interface: 0,
            number,
            notes: Notes::NONE,
            comment: None,
        })
        .unwrap();
    }
    file.finish().unwrap()
}

fn replay(faults: &str) -> Replay {
    let port = |name: &str| PortParams {
        name: name.into(),
        mtu: u32::MAX,
        addresses: Vec::new(),
        router: Vec::new(),
    };
    let router = RouterParams {
        seed: 7,
        flows: 65_536,
        identity: Identity::default(),
        icmp: IcmpParams::default(),
        ports: vec![port("a"), port("b")],
        routes: Vec::new(),
        paths: vec![PathParams::new(0, 1, stages(faults))],
        nats: Vec::new(),
    };
    Replay { router, path: 0, only_from: Vec::new() }
}

/// As many stages as there are lines.
fn stages(faults: &str) -> Vec<faultwire::pipeline::params::StageParams> {
    let lines = faults.lines().enumerate();
    let mut stages: Vec<_> = lines
        .flat_map(|(index, line)| {
            spec::parse(line).unwrap().stages.into_iter().map(move |mut stage| {
                stage.name = format!("{}-{index}", stage.name);
                stage
            })
        })
        .collect();
    stages.shrink_to_fit();
    stages
}

fn offline(criterion: &mut Criterion) {
    const FIVE: &str = "mtu 1500\nmss 1400\nloss 0.1%\nduplicate 0.1%\nloss 1% ecn";
    const HOLDING: &str = "mtu 1500\nmss 1400\nloss 0.1%\ndelay 1ms 100us\nrate 10gbit";
    let mut group = criterion.benchmark_group("offline");
    group.throughput(Throughput::Elements(PACKETS));
    group.sample_size(10);
    for (name, format, payload, faults) in [
        ("pcap, 100 B, no stage", Format::Pcap, 46, ""),
        ("pcap, 100 B, five stages", Format::Pcap, 46, FIVE),
        ("pcapng, 100 B, five stages", Format::PcapNg, 46, FIVE),
        ("pcap, 1400 B, five stages", Format::Pcap, 1_346, FIVE),
        ("pcap, 100 B, five stages, two of them hold", Format::Pcap, 46, HOLDING),
    ] {
        let file = capture(format, payload);
        let replay = replay(faults);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let output: Box<dyn Write> = Box::new(sink());
                let outputs = Outputs {
                    sent: Sink::new(std::io::BufWriter::new(output), format, LinkType::ETHERNET, 0).unwrap(),
                    dropped: None,
                    answers: None,
                    log: None,
                };
                black_box(replay.run(&mut Source::new(&file[..]).unwrap(), outputs).unwrap().packets)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, offline);
criterion_main!(benches);
