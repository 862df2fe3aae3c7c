//! A case: a network, a fault, traffic, and expected observations; and controls, whose results must differ.
//!
//! The format is described, with a worked example, in `docs/cases.md`.

mod expect;
mod explain;
mod file;
mod network;
mod overlay;
mod traffic;

use std::net::IpAddr;
use std::path::Path;

use crate::config::ConfigError;
use crate::config::plan::{IcmpPlan, PathPlan, PortPlan, RoutePlan};
use crate::lab::check::Expectation;
use crate::lab::traffic::clients::Clients;
use crate::lab::traffic::connect::Connect;
use crate::lab::traffic::exec::Exec;
use crate::lab::traffic::ping::Ping;
use crate::lab::traffic::probe::Probe;
use crate::lab::traffic::request::Request;
use crate::lab::traffic::reuse::Reuse;
use crate::lab::traffic::serve::Serve;
use crate::lab::traffic::stream::Stream;
use crate::lab::traffic::talk::Talk;
use crate::lab::traffic::trace::Trace;
use crate::lab::traffic::udp::Udp;
use crate::pipeline::params::NatParams;
use crate::pipeline::time::Duration;

pub use explain::Explanation;

/// A case file, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name: the file's name without `.toml`, unless the file gives another.
    pub name: String,
    /// The title: one line.
    pub title: String,
    /// What happened, in a few sentences.
    pub story: String,
    /// The incident in a page, if the file has it.
    pub explain: Option<Explanation>,
    /// Seed of every random decision.
    pub seed: u64,
    /// The network as the incident broke it, then each control.
    pub trials: Vec<Trial>,
}

/// The case, or one of its controls.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Name of the control; `None`: the case itself.
    pub control: Option<String>,
    /// One run, or as many as the sweep has values.
    pub runs: Vec<Run>,
    /// Set if the trial repeats its run over a range of values.
    pub sweep: Option<Sweep>,
    /// What must be observed.
    pub expect: Vec<Expectation>,
}

/// One network and the traffic through it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Value of the sweep's variable.
    pub value: Option<i64>,
    /// The network.
    pub network: Network,
    /// The traffic, in order.
    pub traffic: Vec<Step>,
    /// After the traffic, how long expectations may take to become true: some counters follow timers of the kernels.
    pub settle: Duration,
}

/// Repeats a run over the values of a variable, which the file writes as `"$NAME"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Name of the variable.
    pub variable: String,
    /// The expectation that a working run meets.
    pub works: Expectation,
}

/// Hosts and what is between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// The hosts: each is a namespace with one device, which is a port of the router.
    pub hosts: Vec<Host>,
    /// Paths between hosts, by index.
    pub paths: Vec<PathPlan>,
    /// Routes of the router beside those to the hosts.
    pub routes: Vec<RoutePlan>,
    /// Translators of addresses; their places are in the paths.
    pub nats: Vec<NatParams>,
    /// Which ICMP messages the router sends.
    pub icmp: IcmpPlan,
}

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its device, addresses and routes. Its namespace is made for the case.
    pub port: PortPlan,
    /// Settings of its kernel, by name (`net.ipv4.tcp_syn_retries`).
    pub sysctl: Vec<(String, String)>,
}

/// One piece of traffic.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The name under which its results are observed.
    pub name: String,
    /// Index of the host that acts.
    pub host: usize,
    /// Continues until the case is over; the next step starts as soon as this one is ready.
    pub background: bool,
    /// What is done.
    pub kind: Kind,
}

/// What a step does. If a receiver is needed at the other end, the step starts it there.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A server.
    Serve(Serve),
    /// Requests, one after the other.
    Request {
        /// The server to ask.
        to: Target,
        /// The request.
        request: Request,
        /// The number of requests.
        count: u32,
    },
    /// Connection attempts.
    Connect(Target, Connect),
    /// Connections that are opened and reset packet by packet.
    Probe(Target, Probe),
    /// Connections of clients that share an address.
    Clients(Target, Clients),
    /// A connection with an address and port that are in TIME-WAIT at the server.
    Reuse(Target, Reuse),
    /// A bulk transfer.
    Stream(Target, Stream),
    /// A connection that is silent between messages.
    Talk(Target, Talk),
    /// Numbered datagrams.
    Udp(Target, Udp),
    /// Echo requests.
    Ping(Target, Ping),
    /// The hops to a destination.
    Trace(Target, Trace),
    /// A program.
    Exec(Exec),
    /// New settings of the host's kernel, by name.
    Sysctl(Vec<(String, String)>),
    /// Nothing, for so long.
    Wait(std::time::Duration),
}

/// Where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Index of the host; `None`: an address of no host.
    pub host: Option<usize>,
    /// Address.
    pub address: IpAddr,
    /// Port, where the protocol has ports.
    pub port: u16,
}

impl Case {
    /// Reads the case file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = crate::config::read(path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&text, &path.display().to_string(), &stem)
    }

    /// Reads the text of a case file; `file` is its name in messages, `name` that of the case if it does not say.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file: &str, name: &str) -> Result<Self, ConfigError> {
        file::read_case(text, file, name)
    }
}

/// Longest time that a case waits for anything, unless it says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// See [`Run::settle`].
const DEFAULT_SETTLE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
