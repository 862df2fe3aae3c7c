//! Reading and writing TUN devices: faultwire's queues against the tun-tap crate, which has neither the virtio header nor
//! several queues.
//!
//! Both sides of a comparison carry the same bytes between the same kernel and this process. A read takes what a kernel
//! socket sent into the device; a write gives the kernel a datagram for a socket. In bulk the kernel hands a queue a
//! train at a time, where a device without the header gets a packet at a time: that is the offload's worth.
//!
//! Needs root, as whatever makes devices.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with the reason")]

use std::hint::black_box;
use std::net::UdpSocket;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use faultwire::device::tun::FRAME_MAX;
use faultwire::device::vnet::{self, Checksum, Gso, Segmentation, VnetHeader};
use faultwire::device::{Offload, Queue, Tun, TunOptions};
use faultwire::lab::clock;
use faultwire::net::{LinkSetup, Netns, link};
use nix::sys::socket::{setsockopt, sockopt};
use tun_tap::{Iface, Mode};

/// The kernel's side of the device, and a host behind the device.
const KERNEL: &str = "10.67.1.2";
const FAR: &str = "10.67.1.9";
const PORT: u16 = 9;
/// Payload of a wire packet in bulk.
const SEGMENT: usize = 1_400;
/// Wire packets in a train.
const TRAIN: usize = 40;
/// Packets in the device before they are read, at most.
const BATCH: u64 = 400;

/// A device in a namespace of its own.
enum Device {
    Faultwire(Queue),
    TunTap(Iface),
}

impl Device {
    fn faultwire(netns: &Netns) -> Self {
        let options = TunOptions { name: "fw-bench", netns, queues: 1, offload: Offload::Uso };
        let device = Self::Faultwire(Tun::open(&options).unwrap().0.pop().unwrap());
        configure(netns, "fw-bench");
        device
    }

    fn tun_tap(netns: &Netns) -> Self {
        let iface = netns.run(|| Iface::without_packet_info("tt-bench", Mode::Tun).unwrap()).unwrap();
        iface.set_non_blocking().unwrap();
        configure(netns, "tt-bench");
        Self::TunTap(iface)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Faultwire(_) => "faultwire",
            Self::TunTap(_) => "tun-tap",
        }
    }

    fn recv(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Faultwire(queue) => queue.recv(buffer),
            Self::TunTap(iface) => iface.recv(buffer),
        }
    }

    fn send(&self, frame: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Faultwire(queue) => queue.send(frame),
            Self::TunTap(iface) => iface.send(frame),
        }
    }
}

fn configure(netns: &Netns, name: &str) {
    let addresses = vec![format!("{KERNEL}/24").parse().unwrap()];
    let setup = LinkSetup { mtu: 1500, tx_queue_len: Some(4_000), addresses, routes: Vec::new() };
    link::configure(netns, name, &setup).unwrap();
}

/// Takes everything out of the device; how many frames and how long it took.
fn empty(device: &Device, buffer: &mut [u8]) -> (u64, Duration) {
    let start = clock::nanos();
    let mut frames = 0;
    while device.recv(buffer).is_ok() {
        frames += 1;
    }
    (frames, Duration::from_nanos(clock::nanos() - start))
}

/// Time of reading `count` sends of `payload` bytes from a socket into the device.
fn read(device: &Device, socket: &UdpSocket, payload: &[u8], count: u64) -> Duration {
    let mut buffer = vec![0; FRAME_MAX];
    empty(device, &mut buffer);
    let (mut left, mut spent) = (count, Duration::ZERO);
    while left > 0 {
        let batch = left.min(if payload.len() > SEGMENT { BATCH / TRAIN as u64 } else { BATCH });
        for _ in 0..batch {
            socket.send(payload).unwrap();
        }
        let (frames, elapsed) = empty(device, &mut buffer);
        assert!(frames >= batch, "{frames} frames of {batch} sends");
        black_box(&buffer);
        left -= batch;
        spent += elapsed;
    }
    spent
}

/// One datagram from the far host to the kernel's side.
fn datagram(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(
        FAR.parse::<std::net::Ipv4Addr>().unwrap().octets(),
        KERNEL.parse::<std::net::Ipv4Addr>().unwrap().octets(),
        64,
    )
    .udp(PORT, PORT);
    let mut bytes = Vec::with_capacity(builder.size(payload));
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

fn with_header(header: VnetHeader, packet: &[u8]) -> Vec<u8> {
    [&header.emit()[..], packet].concat()
}

/// The frames that carry `TRAIN` datagrams into the kernel.
fn bulk(device: &Device) -> Vec<Vec<u8>> {
    match device {
        Device::TunTap(_) => vec![datagram(SEGMENT); TRAIN],
        Device::Faultwire(_) => {
            let gso = Gso { segmentation: Segmentation::Udp, size: SEGMENT as u16, hdr_len: 28, ecn: false };
            let checksum = Checksum::Partial { start: 20, offset: 6 };
            vec![with_header(VnetHeader { checksum, gso: Some(gso) }, &datagram(SEGMENT * TRAIN))]
        }
    }
}

fn single(device: &Device) -> Vec<Vec<u8>> {
    let packet = datagram(64);
    match device {
        Device::TunTap(_) => vec![packet],
        Device::Faultwire(_) => {
            vec![with_header(VnetHeader { checksum: Checksum::Complete, gso: None }, &packet)]
        }
    }
}

fn reads(group: &mut BenchmarkGroup<'_, WallTime>, device: &Device, netns: &Netns) {
    let socket = |segment: Option<i32>| {
        let socket = netns.run(|| UdpSocket::bind((KERNEL, 0)).unwrap()).unwrap();
        socket.connect((FAR, PORT)).unwrap();
        setsockopt(&socket, sockopt::SndBuf, &(32 << 20)).unwrap();
        if let Some(segment) = segment {
            setsockopt(&socket, sockopt::UdpGsoSegment, &segment).unwrap();
        }
        socket
    };
    group.throughput(Throughput::Bytes(64));
    let plain = socket(None);
    group.bench_function(format!("read 64 B/{}", device.name()), |bencher| {
        bencher.iter_custom(|count| read(device, &plain, &[0x5a; 64], count));
    });
    group.throughput(Throughput::Bytes((SEGMENT * TRAIN) as u64));
    let segmented = socket(Some(SEGMENT as i32));
    let payload = vec![0x5a; SEGMENT * TRAIN];
    group.bench_function(format!("read 40 x 1400 B/{}", device.name()), |bencher| {
        bencher.iter_custom(|count| read(device, &segmented, &payload, count));
    });
}

fn writes(group: &mut BenchmarkGroup<'_, WallTime>, device: &Device, netns: &Netns) {
    // A socket that nobody reads: once its buffer is full, the kernel's work ends there.
    let _receiver = netns.run(|| UdpSocket::bind((KERNEL, PORT)).unwrap()).unwrap();
    for (name, bytes, frames) in
        [("write 64 B", 64, single(device)), ("write 40 x 1400 B", SEGMENT * TRAIN, bulk(device))]
    {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{name}/{}", device.name()), |bencher| {
            bencher.iter(|| {
                for frame in &frames {
                    device.send(frame).unwrap();
                }
            });
        });
    }
}

fn device_io(criterion: &mut Criterion) {
    if let Err(closed) = faultwire::net::privilege::check() {
        eprintln!("this bench makes namespaces and TUN devices: {closed}");
        std::process::exit(1);
    }
    const { assert!(vnet::LEN == 10, "the header this bench writes") };
    let mut group = criterion.benchmark_group("device");
    for open in [Device::faultwire, Device::tun_tap] {
        let netns = Netns::anonymous().unwrap();
        let device = open(&netns);
        reads(&mut group, &device, &netns);
        writes(&mut group, &device, &netns);
    }
    group.finish();
}

criterion_group!(benches, device_io);
criterion_main!(benches);
