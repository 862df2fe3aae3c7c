//! One wire packet after the other through a path of one stage.

use etherparse::PacketBuilder;
use faultwire::config;
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::{Offload, Packet};
use faultwire::pipeline::params::{IcmpParams, Identity, PathParams, PortParams, RouterParams, StageParams};
use faultwire::pipeline::pool::{Buffer, HEADROOM};
use faultwire::pipeline::router::{Egress, Router};
use faultwire::pipeline::time::{Duration, Instant};

/// Name and stage as in a configuration. Those that hold do so for less than the packets' spacing.
pub(crate) const STAGES: [(&str, &str); 27] = [
    ("none", ""),
    ("loss", r#"{ type = "loss", probability = "1%" }"#),
    ("loss-list", r#"{ type = "loss", indices = [1, "5-9", 1000, 1000000000] }"#),
    ("loss-pattern", r#"{ type = "loss", pattern = ["1%", "50%"] }"#),
    ("delay-model", r#"{ type = "delay", model = "configs/traces/delay.json" }"#),
    ("delay", r#"{ type = "delay", delay = "100us" }"#),
    ("jitter", r#"{ type = "delay", delay = "100us", jitter = "50us" }"#),
    ("rate", r#"{ type = "rate", rate = "10 Gbit/s" }"#),
    ("policer", r#"{ type = "rate", rate = "10 Gbit/s", police = { burst = "100 kB" } }"#),
    ("codel", r#"{ type = "rate", rate = "10 Gbit/s", queue = { packets = 100, discipline = "codel" } }"#),
    ("pie", r#"{ type = "rate", rate = "10 Gbit/s", queue = { packets = 100, discipline = "pie" } }"#),
    ("steps", r#"{ type = "rate", steps = [{ for = "1s", rate = "10 Gbit/s" }] }"#),
    ("mtu", r#"{ type = "mtu", mtu = 1400 }"#),
    ("mss", r#"{ type = "mss", mss = 1300 }"#),
    ("duplicate", r#"{ type = "duplicate", probability = "1%" }"#),
    ("corrupt", r#"{ type = "corrupt", probability = "1%" }"#),
    ("fragment-filter", r#"{ type = "fragment-filter" }"#),
    ("paws-per-host", r#"{ type = "paws-per-host" }"#),
    ("timestamps", r#"{ type = "timestamps", set = "random-offset" }"#),
    ("rst-order", r#"{ type = "rst-order" }"#),
    ("tcp-window", r#"{ type = "tcp", window_max = 100 }"#),
    ("tcp-strip", r#"{ type = "tcp", strip = ["sack-permitted", "sack"] }"#),
    ("inject", r#"{ type = "inject", kind = "dup-ack", trigger = { every = 100 } }"#),
    ("match", r#"{ type = "loss", probability = "1%", match = { protocol = "udp", port = 53 } }"#),
    ("drop", r#"{ type = "drop", match = { segment = "syn" } }"#),
    (
        "segments",
        r#"{ type = "drop", match = { segment = "retransmission" }, trigger = { nth = 1000000000 } }"#,
    ),
    ("trigger", r#"{ type = "loss", probability = "100%", trigger = { every = 100 } }"#),
];

struct Sink;

impl Egress for Sink {
    fn send(&mut self, _port: u16, packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
        std::hint::black_box(packet);
        Ok(())
    }
}

/// A stage as written in a configuration; none if it is empty.
pub(crate) fn parsed(stage: &str) -> Vec<StageParams> {
    let text = format!(
        "[[port]]\nname = \"a\"\naddresses = [\"10.0.1.2/24\"]\n[[port]]\nname = \"b\"\naddresses = [\"10.0.2.2/24\"]\n\
         [[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{stage}]\n"
    );
    let plan = config::parse(&text, "bench").unwrap_or_else(|error| panic!("{error}"));
    plan.paths.iter().flat_map(|path| path.stages().cloned()).collect()
}

fn router(stages: Vec<StageParams>) -> Router {
    let port = |name: &str, net: &str| PortParams {
        name: name.into(),
        mtu: 1500,
        addresses: vec![net.parse().unwrap()],
        router: Vec::new(),
    };
    let params = RouterParams {
        seed: 7,
        flows: 65_536,
        identity: Identity::default(),
        icmp: IcmpParams::default(),
        ports: vec![port("a", "10.0.1.2/24"), port("b", "10.0.2.2/24")],
        routes: Vec::new(),
        paths: vec![PathParams::new(0, 1, stages)],
        nats: Vec::new(),
    };
    Router::new(&params, &Router::shared(&params))
}

/// The same packet again and again, a microsecond apart.
pub(crate) struct Single {
    bytes: Vec<u8>,
    buffer: Buffer,
    router: Router,
    now: Instant,
}

impl Single {
    /// Through these stages.
    pub(crate) fn new(stages: Vec<StageParams>) -> Self {
        let mut bytes = Vec::new();
        let packet = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64).tcp(40_000, 443, 1, 1000).ack(1);
        packet.write(&mut bytes, &[0x5a; 1000]).unwrap();
        let mut router = router(stages);
        let buffer = router.pool.scratch();
        Self { bytes, buffer, router, now: Instant::ZERO }
    }

    pub(crate) fn one(&mut self) {
        let length = self.bytes.len();
        self.now += Duration::from_micros(1);
        self.router.poll(self.now, &mut Sink);
        self.buffer[HEADROOM..HEADROOM + length].copy_from_slice(&self.bytes);
        self.router.receive(0, &mut self.buffer, length, Offload::default(), self.now, &mut Sink);
    }
}
