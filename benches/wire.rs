//! What it costs to read a packet: offsets and flow hash, and the checksum of a full segment.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faultwire::pipeline::wire::icmp::write_error;
use faultwire::pipeline::wire::{IcmpError, Ipv4, Layout, checksum, flow_hash};

/// A TCP segment of 1,460 bytes of payload.
fn segment(version: u8) -> Vec<u8> {
    let mut bytes = vec![0; if version == 4 { 1500 } else { 1520 }];
    let (ip, length) = if version == 4 { (20, 1500_u16) } else { (40, 1480) };
    bytes[0] = if version == 4 { 0x45 } else { 0x60 };
    let at = if version == 4 { 2 } else { 4 };
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if version == 4 {
        bytes[8..10].copy_from_slice(&[64, 6]);
        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    } else {
        bytes[6..8].copy_from_slice(&[6, 64]);
        bytes[23] = 1;
        bytes[39] = 2;
    }
    bytes[ip..ip + 4].copy_from_slice(&[0xc0, 0, 0x01, 0xbb]);
    bytes[ip + 12] = 0x50;
    for (at, byte) in bytes[ip + 20..].iter_mut().enumerate() {
        *byte = (at * 31) as u8;
    }
    bytes
}

/// RFC 1071 word by word: the baseline.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    group.throughput(Throughput::Elements(1));
    for version in [4, 6] {
        let packet = segment(version);
        group.bench_function(format!("layout, IPv{version} TCP"), |bench| {
            bench.iter(|| Layout::parse(black_box(&packet)));
        });
        group.bench_function(format!("layout and flow hash, IPv{version} TCP"), |bench| {
            bench.iter(|| {
                let packet = black_box(&packet[..]);
                Layout::parse(packet).map(|(layout, _)| flow_hash(packet, layout))
            });
        });
    }
    let mut packet = segment(4);
    group.bench_function("TTL decrement, IPv4", |bench| {
        bench.iter(|| {
            if let Ok(mut ip) = Ipv4::new(black_box(&mut packet)) {
                ip.set_ttl(ip.ttl().wrapping_sub(1));
            }
        });
    });
    group.finish();
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    let packet = segment(4);
    let payload = &packet[40..];
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("1460 bytes", |bench| bench.iter(|| checksum::sum(black_box(payload))));
    group.bench_function("1460 bytes, word by word", |bench| bench.iter(|| naive(black_box(payload))));
    group.bench_function("20 bytes", |bench| bench.iter(|| checksum::sum(black_box(&packet[..20]))));
    group.finish();
}

fn errors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("icmp");
    group.throughput(Throughput::Elements(1));
    for version in [4, 6] {
        let packet = segment(version);
        let source: IpAddr =
            if version == 4 { [10, 0, 0, 9].into() } else { [0, 0, 0, 0, 0, 0, 0, 9].into() };
        let mut out = [0; 1280];
        group.bench_function(format!("time exceeded, IPv{version}"), |bench| {
            bench.iter(|| {
                let packet = black_box(&packet[..]);
                let (layout, _) = Layout::parse(packet).ok()?;
                write_error(IcmpError::TimeExceeded, source, packet, layout, black_box(&mut out))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, headers, sums, errors);
criterion_main!(benches);
