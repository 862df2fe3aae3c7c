//! What is measured: two hosts, and what forwards between them.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use faultwire::attach::Attachment;
use faultwire::config::Plan;
use faultwire::config::plan::{NetnsRef, PathPlan, PortPlan, WorkerCount};
use faultwire::config::spec;
use faultwire::device::{Offload, Tun, TunOptions};
use faultwire::engine::Network;
use faultwire::engine::wire::{Wire, WirePlan};
use faultwire::net::lookup::{self, Device};
use faultwire::net::{LinkSetup, Netns, link, sysctl};
use faultwire::pipeline::params::{IcmpParams, Identity};

use crate::pump::{Pump, Wait};

/// Packets that a device queues towards the forwarder.
const QUEUE: u32 = 1000;
const NETS: [&str; 2] = ["10.66.1.2/24", "10.66.2.2/24"];

/// Two namespaces with buffers large enough for a long fat path.
pub(crate) struct Hosts {
    pub(crate) left: Netns,
    pub(crate) right: Netns,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let hosts = Self { left: Netns::anonymous().unwrap(), right: Netns::anonymous().unwrap() };
        for netns in [&hosts.left, &hosts.right] {
            for key in ["ipv4/tcp_rmem", "ipv4/tcp_wmem"] {
                sysctl::write(netns, key, "4096 131072 67108864").unwrap();
            }
        }
        hosts
    }
}

/// What forwards.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// Frames from one device to the other, untouched.
    Pump(Wait),
    /// faultwire with these stages in each direction.
    Router(Stages),
    /// The hooks of an attachment, all of whose frames a pump writes back.
    AttachedPump,
    /// faultwire attached to the device, with idle stages and without the flow cache.
    Attached,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Stages {
    /// Three that look at every packet and never act.
    Idle,
    /// 0.01 % loss of wire packets.
    Loss,
    /// 10 ms.
    Delay,
    /// Idle, without offloads.
    NoOffload,
    /// Idle, and behind them the clock of each connection changed, and a translator.
    Nat,
}

/// Forwards until it is dropped.
pub(crate) enum Running {
    #[expect(dead_code, reason = "held to be dropped")]
    Pump(Pump),
    Router(Option<Network>),
    AttachedPump {
        /// Ends before the attachment does.
        _pump: Pump,
        _attachment: Box<Attachment>,
    },
    Attached(Option<Box<Wire>>),
}

impl Drop for Running {
    fn drop(&mut self) {
        let summary = match self {
            Self::Router(network) => network.take().unwrap().stop().unwrap(),
            Self::Attached(wire) => wire.take().unwrap().stop().unwrap().0,
            Self::Pump(_) | Self::AttachedPump { .. } => return,
        };
        assert!(summary.total.is_conserved(), "every packet is accounted for");
    }
}

impl Subject {
    pub(crate) fn start(self, hosts: &Hosts) -> Running {
        match self {
            Self::Pump(wait) => {
                let ends = [open("fw-left", &hosts.left, NETS[0]), open("fw-right", &hosts.right, NETS[1])];
                Running::Pump(Pump::start(ends, [1, 0], wait))
            }
            Self::Router(stages @ Stages::Nat) => {
                let mut plan = plan(stages.spec(), true);
                translate(&mut plan);
                Running::Router(Some(start(&plan, hosts)))
            }
            Self::Router(stages) => Running::Router(Some(router(stages.spec(), stages.offload(), hosts))),
            Self::AttachedPump => {
                let device = join(hosts);
                let (mut attachment, taps) = Attachment::prepare(&hosts.left, &device, 1, None).unwrap();
                let ends = taps.map(|mut queues| queues.pop().unwrap());
                let pump = Pump::start(ends, [0, 1], Wait::Empty);
                attachment.attach().unwrap();
                Running::AttachedPump { _pump: pump, _attachment: Box::new(attachment) }
            }
            Self::Attached => {
                let device = join(hosts);
                let stages = spec::parse(Stages::Idle.spec()).unwrap().stages;
                let plan = WirePlan {
                    up: stages.clone(),
                    down: stages,
                    seed: 7,
                    flows: 1024,
                    identity: Identity::default(),
                    icmp: IcmpParams::default(),
                    flow_cache: false,
                };
                let wire = Wire::start(&hosts.left, &device, &plan, Vec::new()).unwrap();
                Running::Attached(Some(Box::new(wire)))
            }
        }
    }
}

impl Stages {
    const fn spec(self) -> &'static str {
        match self {
            Self::Idle | Self::NoOffload | Self::Nat => "mtu 65000 drop mss 65000 loss 0.0000001%",
            Self::Loss => "loss 0.01%",
            Self::Delay => "delay 10ms",
        }
    }

    const fn offload(self) -> bool {
        !matches!(self, Self::NoOffload)
    }
}

/// faultwire between the hosts, with the same faults both ways and one worker.
pub(crate) fn router(faults: &str, offload: bool, hosts: &Hosts) -> Network {
    start(&plan(faults, offload), hosts)
}

fn start(plan: &Plan, hosts: &Hosts) -> Network {
    let netns =
        |index: usize, _: &PortPlan| Ok((if index == 0 { &hosts.left } else { &hosts.right }.clone(), None));
    Network::start(plan, 7, Vec::new(), netns).unwrap()
}

/// A clock for each connection from left to right, and one address for all of them.
fn translate(plan: &mut Plan) {
    let text = "[[port]]\nname = \"left\"\naddresses = \"10.66.1.2/24\"\n\
                [[port]]\nname = \"right\"\naddresses = \"10.66.2.2/24\"\n\
                [[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"timestamps random-offset\"\n\
                [[nat]]\noutside = \"right\"\n";
    let nat = faultwire::config::parse(text, "nat").unwrap();
    plan.nats = nat.nats;
    let [out, back] = nat.paths.try_into().unwrap();
    plan.paths[0].seats.extend(out.seats);
    plan.paths[1].seats.splice(0..0, back.seats);
}

fn plan(faults: &str, offload: bool) -> Plan {
    let stages = spec::parse(faults).unwrap().stages;
    let port = |name: &str, net: &str| {
        let mut port = PortPlan::new(name, NetnsRef::Own, vec![net.parse().unwrap()]);
        port.routes = vec!["0.0.0.0/0".parse().unwrap()];
        port.txqueuelen = QUEUE;
        port.offload = offload;
        port
    };
    let ports = vec![port("left", NETS[0]), port("right", NETS[1])];
    let path = |from, to| PathPlan::new(from, to, stages.clone());
    let mut plan = Plan::new(ports, vec![path(0, 1), path(1, 0)]);
    plan.workers = WorkerCount::Exactly(NonZeroUsize::MIN);
    plan
}

/// Joins the hosts by a veth pair, without anything between them; the left one's device.
fn join(hosts: &Hosts) -> Device {
    let netns = |netns: &Netns| format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
    let (left, right) = (netns(&hosts.left), netns(&hosts.right));
    let words =
        ["link", "add", "fw-left", "netns", &left, "type", "veth", "peer", "fw-right", "netns", &right];
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip makes a veth pair");
    configure("fw-left", &hosts.left, NETS[0]);
    configure("fw-right", &hosts.right, NETS[1]);
    lookup::device(&hosts.left, "fw-left").unwrap().unwrap()
}

fn open(name: &str, netns: &Netns, net: &str) -> faultwire::device::Queue {
    let options = TunOptions { name, netns, queues: 1, offload: Offload::Uso };
    let (mut queues, _) = Tun::open(&options).unwrap();
    configure(name, netns, net);
    queues.pop().unwrap()
}

fn configure(name: &str, netns: &Netns, net: &str) {
    let setup = LinkSetup {
        mtu: 1500,
        tx_queue_len: Some(QUEUE),
        addresses: vec![net.parse().unwrap()],
        routes: vec!["0.0.0.0/0".parse().unwrap()],
    };
    link::configure(netns, name, &setup).unwrap();
}
