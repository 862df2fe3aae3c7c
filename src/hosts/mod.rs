//! Hosts in network namespaces, with links between them that have faults: for integration tests of real programs.
//!
//! [`Lab::start`] makes a namespace for each host, and a router that connects them. Tests run closures or commands inside a
//! host, change the faults while traffic flows, and read what the router counted. Everything is gone when the [`Lab`] is
//! dropped, also by a panic, and when the process is killed. Nothing outside of the namespaces is touched, so that tests can
//! run at the same time.
//!
//! Making namespaces and TUN devices needs root, or a user namespace: `unshare -Urnm cargo test` (with `/dev/net/tun` open
//! to the user). Without, [`Lab::start`] fails with the reason and the cure.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use faultwire::hosts::Lab;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut lab = Lab::start(&["client", "server"], 7)?;
//! lab.set_faults("client", "server", &"delay 20ms loss 1%".parse()?)?;
//!
//! let address = (lab.host("server").address(), 80);
//! let listener = lab.host("server").run(|| TcpListener::bind(address))??;
//! let server = std::thread::spawn(move || listener.accept()?.0.write_all(b"hello"));
//! let answer = lab.host("client").run(|| {
//!     let mut answer = String::new();
//!     TcpStream::connect(address)?.read_to_string(&mut answer)?;
//!     std::io::Result::Ok(answer)
//! })??;
//! server.join().expect("no panic")?;
//! assert_eq!(answer, "hello");
//! assert!(lab.counters()?.sent.packets > 0);
//! # Ok(())
//! # }
//! ```
//!
//! This runs as root; `examples/http.rs` is a whole test of its kind.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Plan;
use crate::config::plan::{NetnsRef, PortPlan};
use crate::device::DeviceError;
use crate::device::tun::{Offload, Queue, Tun, TunOptions};
use crate::engine::network::router_params;
use crate::engine::{Engine, EngineError, EngineOptions, Port, Report};
use crate::faults::Faults;
use crate::net::defaults::{CONGESTION_CONTROL, Refused};
use crate::net::privilege::{self, PrivilegeError};
use crate::net::{LinkSetup, NetError, Netns, link};
use crate::pipeline::counters::{RouterCounters, StageCounters};
use crate::pipeline::params::PathParams;

/// Why a lab cannot be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The process may not make namespaces or devices.
    #[error("{0}; or run the tests in a user namespace: `unshare -Urnm cargo test`")]
    Privilege(#[from] PrivilegeError),
    /// A name of a host that is empty, longer than 12 bytes, used twice, or not of letters, digits and hyphens.
    #[error("\"{0}\" cannot be a host's name: 1 to 12 letters, digits and hyphens, each name once")]
    Name(String),
    /// No hosts, or more than there are addresses.
    #[error("a lab has 1 to 250 hosts, not {0}")]
    Count(usize),
    /// A namespace, an address or a route.
    #[error("host {host}: {source}")]
    Net {
        /// The name of the host.
        host: String,
        /// What failed.
        source: NetError,
    },
    /// A host's device.
    #[error("host {host}: {source}")]
    Device {
        /// The name of the host.
        host: String,
        /// What failed.
        source: DeviceError,
    },
    /// No more file descriptors are available.
    #[error("host {host}: its device cannot be opened twice: {source}")]
    Descriptors {
        /// The name of the host.
        host: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The router failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A host: a network namespace of its own with one device, whose default route leads to all others.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    plan: PortPlan,
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address: 10.77.N.2 for the N-th host, counted from 1.
    pub fn address(&self) -> IpAddr {
        self.plan.addresses[0].addr()
    }

    /// Its IPv6 address: `fd77:N::2` for the N-th host, counted from 1 in hexadecimal.
    pub fn address_v6(&self) -> IpAddr {
        self.plan.addresses[1].addr()
    }

    /// Runs `work` on the host, on a new thread, and waits for it.
    ///
    /// Sockets that are opened there stay on the host, wherever they are used later. A command that is started there
    /// runs on the host: `host.run(|| Command::new("ping").arg("-c1").arg("10.77.2.2").output())`. A panic of `work`
    /// is passed on.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        self.netns.run(work).map_err(|source| LabError::Net { host: self.name.clone(), source })
    }
}

/// Some hosts and the router between them.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: workers, which hold the devices, then the namespaces.
    /// `None` only while a new engine replaces the old one.
    engine: Option<Engine>,
    hosts: Vec<Host>,
    /// A descriptor of each host's device, so that the device stays while workers are replaced.
    queues: Vec<Queue>,
    plan: Plan,
    seed: u64,
}

impl Lab {
    /// Makes hosts with these names, connected without faults. All draws of faults follow from `seed`.
    ///
    /// # Errors
    /// What could not be created; everything else has been removed.
    pub fn start(hosts: &[&str], seed: u64) -> Result<Self, LabError> {
        if hosts.is_empty() || hosts.len() > 250 {
            return Err(LabError::Count(hosts.len()));
        }
        for (index, name) in hosts.iter().enumerate() {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            // With the device's "fw-" at most 15 bytes.
            let is_name = (1..=12).contains(&name.len()) && name.bytes().all(is_letter);
            if !is_name || hosts[..index].contains(name) {
                return Err(LabError::Name((*name).to_owned()));
            }
        }
        privilege::check()?;
        let (mut made, mut queues) = (Vec::new(), Vec::new());
        for (index, name) in hosts.iter().enumerate() {
            let (host, queue) = make(name, index + 1)?;
            made.push(host);
            queues.push(queue);
        }
        let ports = made.iter().map(|host| host.plan.clone()).collect();
        let mut lab = Self { hosts: made, queues, plan: Plan::new(ports, Vec::new()), seed, engine: None };
        lab.engine = Some(lab.engine()?);
        Ok(lab)
    }

    /// The host of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn host(&self, name: &str) -> &Host {
        &self.hosts[self.index(name)]
    }

    /// Sets the faults of packets from one host to another, in this direction only. They replace those that were there.
    ///
    /// Connections continue. Packets that the old faults held leave at once, all counters start at zero, and flows
    /// are numbered anew.
    ///
    /// # Errors
    /// If the router had failed, or cannot be started again.
    ///
    /// # Panics
    /// If one of the names is not a host, or both are the same.
    pub fn set_faults(&mut self, from: &str, to: &str, faults: &Faults) -> Result<(), LabError> {
        let (from, to) = (self.index(from), self.index(to));
        assert_ne!(from, to, "faults are between two hosts");
        self.plan.paths.retain(|path| (path.from, path.to) != (from, to));
        self.plan.paths.push(PathParams::new(from, to, faults.stages().to_vec()));
        if let Some(engine) = self.engine.take() {
            engine.finish()?;
        }
        self.engine = Some(self.engine()?);
        Ok(())
    }

    /// What happened to all packets since the faults were last set: received + created = sent + dropped + held.
    ///
    /// # Errors
    /// If the router has failed.
    pub fn counters(&self) -> Result<RouterCounters, LabError> {
        Ok(self.report()?.counters)
    }

    /// The stages from one host to another, by name, with what each has done since the faults were last set.
    ///
    /// # Errors
    /// If the router has failed.
    ///
    /// # Panics
    /// If one of the names is not a host.
    pub fn stages(&self, from: &str, to: &str) -> Result<Vec<(String, StageCounters)>, LabError> {
        let ends = (self.index(from), self.index(to));
        let paths = self.report()?.paths.into_iter().filter(|path| (path.from, path.to) == ends);
        Ok(paths.flat_map(|path| path.stages).map(|stage| (stage.name.to_string(), stage.counters)).collect())
    }

    fn report(&self) -> Result<Report, LabError> {
        let mut reports = self.engine.as_ref().map_or_else(|| Ok(Vec::new()), Engine::reports)?;
        Ok(reports.pop().ok_or(EngineError::Panic { worker: 0 })?)
    }

    fn index(&self, name: &str) -> usize {
        let found = self.hosts.iter().position(|host| host.name == name);
        found.unwrap_or_else(|| {
            let names: Vec<&str> = self.hosts.iter().map(Host::name).collect();
            panic!("no host is called \"{name}\"; there are {}", names.join(", "))
        })
    }

    /// A router on the hosts' devices. It has one worker, so that the result does not depend on steering.
    fn engine(&self) -> Result<Engine, LabError> {
        let mut ports = Vec::new();
        for (host, queue) in self.hosts.iter().zip(&self.queues) {
            let descriptors = |source| LabError::Descriptors { host: host.name.clone(), source };
            ports.push(Port::Routed(queue.try_clone().map_err(descriptors)?));
        }
        Ok(Engine::start(&router_params(&self.plan, self.seed), vec![ports], &EngineOptions::default())?)
    }
}

/// Host number `number`, and its device.
fn make(name: &str, number: usize) -> Result<(Host, Queue), LabError> {
    let net = |source| LabError::Net { host: name.to_owned(), source };
    let netns = Netns::anonymous().map_err(net)?;
    let is_refused = netns.refused().iter().any(Refused::is_congestion_control);
    let netns = if is_refused { netns.with_congestion_control(CONGESTION_CONTROL) } else { netns };
    let prefix = |text: String| text.parse::<IpNet>().expect("built here");
    let addresses = vec![prefix(format!("10.77.{number}.2/24")), prefix(format!("fd77:{number:x}::2/64"))];
    let plan = PortPlan::new(name, NetnsRef::Own, addresses);
    let options = TunOptions { name: &plan.device, netns: &netns, queues: 1, offload: Offload::Uso };
    let device = |source| LabError::Device { host: name.to_owned(), source };
    let (mut queues, _) = Tun::open(&options).map_err(device)?;
    let setup = LinkSetup {
        mtu: plan.mtu,
        tx_queue_len: Some(plan.txqueuelen),
        addresses: plan.addresses.clone(),
        routes: vec![prefix("0.0.0.0/0".to_owned()), prefix("::/0".to_owned())],
    };
    link::configure(&netns, &plan.device, &setup).map_err(net)?;
    Ok((Host { name: name.to_owned(), netns, plan }, queues.remove(0)))
}
