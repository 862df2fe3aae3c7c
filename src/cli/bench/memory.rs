//! Measures the packet core alone, in virtual time.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use crate::cli::bench::short;
use crate::engine::Clock;
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::{Offload, Packet};
use crate::pipeline::params::{PortParams, RouterParams};
use crate::pipeline::pool::HEADROOM;
use crate::pipeline::router::{Egress, Router};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;
use crate::pipeline::wire::{checksum, protocol};

/// Bytes of an IPv4 header without options.
const IP: u16 = 20;
/// Number of connections, which are used in turn.
const FLOWS: u16 = 64;
/// The client's port of the first connection.
const FIRST_PORT: u16 = 40_000;
/// Each number of stages is measured this often. The fastest result counts, because other programs can only make it
/// slower.
const ROUNDS: u32 = 3;
/// Packets between two reads of the clock.
const BATCH: u64 = 256;

/// A kind of packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packets {
    name: &'static str,
    protocol: u8,
    header: u16,
    /// Payload of one wire packet, and how many wire packets come as one train.
    payload: u16,
    wires: u16,
}

pub(super) const KINDS: [Packets; 3] = [
    Packets { name: "UDP, 64 bytes", protocol: protocol::UDP, header: 8, payload: 36, wires: 1 },
    Packets { name: "UDP, 1500 bytes", protocol: protocol::UDP, header: 8, payload: 1_472, wires: 1 },
    Packets {
        name: "TCP, trains of 44 x 1500",
        protocol: protocol::TCP,
        header: 20,
        payload: 1_460,
        wires: 44,
    },
];

/// The result for one kind of packet.
pub(super) struct Row {
    kind: Packets,
    /// Nanoseconds for a wire packet: with no stage, with the first, with the first two, and so on.
    nanos: Vec<f64>,
    /// For each stage: its name, and the share of the packets at which it was aimed.
    stages: Vec<(String, f64)>,
    dropped: f64,
}

/// Measures path `path` of `params`.
pub(super) fn measure(
    params: &RouterParams,
    path: usize,
    kind: Packets,
    offered: Rate,
    time: Duration,
) -> Row {
    let count = params.paths[path].seats.len();
    let runs = u64::from(ROUNDS) * (count as u64 + 1);
    let slice = Duration::from_nanos((time.as_nanos() / runs).max(1));
    let mut row = Row { kind, nanos: vec![f64::INFINITY; count + 1], stages: Vec::new(), dropped: 0.0 };
    for _ in 0..ROUNDS {
        for stages in 0..=count {
            let mut params = params.clone();
            params.paths[path].seats.truncate(stages);
            let mut feed = Feed::new(&params, path, kind, offered);
            let nanos = feed.run(slice);
            row.nanos[stages] = row.nanos[stages].min(nanos);
            if stages == count {
                (row.stages, row.dropped) = feed.shares(path);
            }
        }
    }
    row
}

/// Accepts every packet and discards it.
struct Sink;

impl Egress for Sink {
    fn send(&mut self, _port: u16, packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
        std::hint::black_box(packet);
        Ok(())
    }
}

struct Feed {
    router: Router,
    path: u16,
    kind: Packets,
    bytes: Vec<u8>,
    offload: Offload,
    /// Virtual time between two packets.
    gap: Duration,
}

impl Feed {
    fn new(params: &RouterParams, path: usize, kind: Packets, offered: Rate) -> Self {
        let router = Router::new(params, &Router::shared(params));
        let port = |index: usize| &params.ports[index];
        // A host without an address gets one for documentation (RFC 5737).
        let from = address(port(params.paths[path].from), [192, 0, 2, 1]);
        let ends = [from, address(port(params.paths[path].to), [198, 51, 100, 1])];
        let bytes = kind.packet(ends);
        // Headers count once for each wire packet.
        let wire = u64::from(kind.wire_length()) * u64::from(kind.wires) * 8;
        let gap = Duration::from_nanos((wire * 1_000_000_000 / offered.bits_per_sec()).max(1));
        let segment = if kind.wires > 1 { kind.payload } else { 0 };
        let place = if kind.protocol == protocol::TCP { 16 } else { 6 };
        let offload = Offload { segment, partial: Some((IP, place)) };
        let path = u16::try_from(path).expect("a router has at most 16,384 paths");
        Self { router, path, kind, bytes, offload, gap }
    }

    /// Nanoseconds a wire packet.
    fn run(&mut self, time: Duration) -> f64 {
        let mut buffer = self.router.pool.scratch();
        let mut now = Instant::ZERO;
        let mut sent = 0_u64;
        let at = usize::from(IP);
        let headers = at + usize::from(self.kind.header);
        let train = u32::from(self.kind.payload) * u32::from(self.kind.wires);
        let (mut port, mut sequence) = (FIRST_PORT, 1_u32);
        let clock = Clock::start();
        loop {
            for _ in 0..BATCH {
                now += self.gap;
                if self.router.next_due().is_some_and(|due| due <= now) {
                    self.router.poll(now, &mut Sink);
                }
                self.bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
                if self.kind.protocol == protocol::TCP {
                    self.bytes[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
                }
                port += 1;
                if port == FIRST_PORT + FLOWS {
                    (port, sequence) = (FIRST_PORT, sequence.wrapping_add(train));
                }
                buffer[HEADROOM..HEADROOM + headers].copy_from_slice(&self.bytes[..headers]);
                let length = self.bytes.len();
                self.router.inject(self.path, 0, &mut buffer, length, self.offload, now, &mut Sink);
                sent += 1;
            }
            let elapsed = clock.now().since(Instant::ZERO);
            if elapsed >= time {
                return elapsed.as_nanos() as f64 / (sent * u64::from(self.kind.wires)) as f64;
            }
        }
    }

    /// The share of packets at which each stage was aimed, and the share that was dropped.
    fn shares(&self, path: usize) -> (Vec<(String, f64)>, f64) {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let seats = self.router.paths()[path].seats.iter();
        let acted = seats.map(|seat| {
            let counters = &seat.counters;
            (seat.name.to_string(), share(counters.acted().packets, counters.seen.packets))
        });
        let counters = self.router.counters();
        (acted.collect(), share(counters.drops.total().packets, counters.received.packets))
    }
}

/// The first IPv4 address of the host at a port, or `otherwise`.
fn address(port: &PortParams, otherwise: [u8; 4]) -> Ipv4Addr {
    let mut addresses = port.addresses.iter().map(ipnet::IpNet::addr);
    let found = addresses.find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    found.unwrap_or_else(|| otherwise.into())
}

impl Packets {
    /// Bytes of a wire packet.
    const fn wire_length(&self) -> u16 {
        IP + self.header + self.payload
    }

    /// From one address to another, to port 443, with the checksum left to the device.
    fn packet(&self, [from, to]: [Ipv4Addr; 2]) -> Vec<u8> {
        let length = IP + self.header + self.payload * self.wires;
        let [high, low] = length.to_be_bytes();
        let mut bytes = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, self.protocol, 0, 0];
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        let sum = !checksum::sum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend([0x9c, 0x40, 0x01, 0xbb]);
        if self.protocol == protocol::TCP {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            bytes.extend((length - IP).to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.resize(length.into(), 0x5a);
        bytes
    }
}

impl Row {
    /// Nanoseconds of the whole path.
    fn whole(&self) -> f64 {
        self.nanos.last().copied().unwrap_or_default()
    }

    /// The cost of stage `number`; never below zero, even if measurements disagree.
    fn cost(&self, number: usize) -> f64 {
        (self.nanos[number + 1] - self.nanos[number]).max(0.0)
    }

    fn rates(&self) -> (f64, f64) {
        let packets = 1e9 / self.whole();
        (packets, packets * f64::from(self.kind.wire_length()))
    }

    pub(super) fn table(&self) -> String {
        let (packets, bytes) = self.rates();
        let mut text = format!(
            "  {:<28}{:>10}pkt/s{:>10}byte/s{:>10.1} ns\n",
            self.kind.name,
            short(packets),
            short(bytes),
            self.whole()
        );
        let mut line = |name: &str, nanos: f64, more: &str| {
            let name: String = name.chars().take(40).collect();
            writeln!(text, "    {name:<40}{nanos:>25.1} ns{more}").expect("writing to a string");
        };
        line("without stages", self.nanos[0], "");
        for (number, (name, share)) in self.stages.iter().enumerate().take(self.nanos.len() - 1) {
            line(name, self.cost(number), &format!(" {:>3.0}%", share * 100.0));
        }
        if self.dropped > 0.0 {
            writeln!(text, "    dropped: {:.1}%", self.dropped * 100.0).expect("writing to a string");
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let (packets, bytes) = self.rates();
        let stage = |(number, (name, share)): (usize, &(String, f64))| json!({ "name": name, "ns_per_packet": self.cost(number), "aimed_share": share });
        let stages: Vec<Value> =
            self.stages.iter().enumerate().take(self.nanos.len() - 1).map(stage).collect();
        json!({
            "packets": self.kind.name,
            "packets_per_second": packets,
            "bytes_per_second": bytes,
            "ns_per_packet": self.whole(),
            "ns_per_packet_without_stages": self.nanos[0],
            "dropped_share": self.dropped,
            "stages": stages,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{NetnsRef, PathPlan, PortPlan};
    use crate::config::{Plan, spec};
    use crate::engine::network::router_params;
    use crate::pipeline::wire::Layout;

    fn row(text: &str, kind: Packets) -> Row {
        let port = |name: &str| PortPlan::new(name, NetnsRef::Own, Vec::new());
        let stages = spec::parse(text).unwrap().stages;
        let plan = Plan::new(vec![port("left"), port("right")], vec![PathPlan::new(0, 1, stages)]);
        let offered = Rate::from_bits_per_sec(1_000_000_000).unwrap();
        measure(&router_params(&plan, 1), 0, kind, offered, Duration::from_millis(2))
    }

    #[test]
    fn packets_are_whole_and_of_the_length_that_is_said() {
        for kind in KINDS {
            let bytes = kind.packet([Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
            let (layout, length) = Layout::parse(&bytes).unwrap();
            assert_eq!((length, layout.protocol()), (bytes.len(), kind.protocol));
            assert!(!layout.is_transport_malformed(), "{}", kind.name);
        }
        assert_eq!(KINDS.map(|kind| kind.wire_length()), [64, 1_500, 1_500]);
    }

    #[test]
    fn every_stage_has_a_cost_and_a_share() {
        for kind in KINDS {
            let row = row("mtu 1400; tcp: loss 100%; udp: delay 1us", kind);
            let names: Vec<&str> = row.stages.iter().map(|stage| stage.0.as_str()).collect();
            assert_eq!((names, row.nanos.len()), (vec!["mtu", "netem", "netem-2"], 4));
            let (large, tcp) = (kind.wire_length() > 1_400, kind.wires > 1);
            // Packets that are too large do not pass the first stage.
            let expected = [1.0, 0.0, f64::from(u8::from(!large && !tcp))];
            let shares: Vec<f64> = row.stages.iter().map(|stage| stage.1).collect();
            assert_eq!(shares, expected, "{}", kind.name);
            assert!((row.dropped - f64::from(u8::from(large))).abs() < 1e-9, "{}", kind.name);
            assert!(row.whole() > 0.0 && row.whole().is_finite());
        }
    }

    #[test]
    fn a_table_fits_a_terminal() {
        let row = row("delay 10ms loss 1%", KINDS[2]);
        assert!(row.table().lines().all(|line| line.chars().count() <= 80), "{}", row.table());
        assert_eq!(row.json()["stages"][0]["name"], "netem");
    }
}
