//! faultwire: a software router for Linux that breaks packets on purpose, reproducibly.
//!
//! As a library it has these doors:
//!
//! - [`sim`]: a link in virtual time, for unit tests of protocols that do no I/O. Needs no privilege and no feature.
//! - `hosts`: hosts in namespaces with faults between them, for integration tests. Needs the feature `lab`, and root.
//! - `running`: faults on a device of a container, a process, a namespace or this host. Needs the feature `net`, and root.
//! - [`faults`]: what happens to packets, from a spec (`"loss 5% delay 50ms"`) or built in Rust.
//! - [`stage`]: a fault or rewrite of one's own.
//! - [`params`], [`units`], [`spec`]: every stage's parameters, rates and probabilities, and what is wrong with a spec.
//! - [`counters`]: what became of the packets.
//!
//! Cargo features: `cli` (default) builds the program `faultwire` and brings all others; `lab` (hosts in namespaces and
//! cases), `capture` (pcap files), `control` (the HTTP interface of a running instance), `net` (TUN devices, namespaces, worker
//! threads). With `default-features = false` there
//! remain the packet core, the configuration and the modules above, without any system call.
//!
//! The modules that are not listed here are the program's own. They are public for its tests, benches and fuzz targets only,
//! are not documented here, and change without notice. Their layers, from the ground up; imports only point down:
//!
//! - `pipeline`: the pure core. Packets and an instant go in; packets, drops and "wake me at" come out. No I/O, no
//!   clock, no thread, no lock.
//! - `config`: the TOML as written and the validated plan made from it; tc-netem's words.
//! - `faults`, `sim`: see above.
//! - `device`: TUN devices; `net`: namespaces, addresses and routes over netlink.
//! - `bpf`: programs of tc hooks and their loader; `attach`: the way through a device that somebody else made; `veth`: ports that are
//!   veth pairs.
//! - `journal`: what happened to each packet, through rings to a thread that writes it.
//! - `engine`: worker threads that carry packets between devices and the core.
//! - `hosts`, `running`: see above.
//! - `capture`: captures through the core, in virtual time.
//! - `lab`: cases: build a network, break it, drive traffic, compare what the kernels report.
//! - `http`: serves HTTP on a listener.
//! - `control`: what a running instance tells, over HTTP.
//! - `reach`: a way out of a namespace, by sockets of the host.
//! - `toxiproxy`: Toxiproxy's HTTP API, with links between namespaces behind its proxies.
//! - `cli`: the commands.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod faults;
#[cfg(feature = "lab")]
pub mod hosts;
#[cfg(feature = "net")]
pub mod running;
pub mod sim;

pub mod counters {
    //! What became of packets, in wire packets and bytes.
    #[doc(inline)]
    pub use crate::pipeline::counters::{Amount, Drops, Reason, RouterCounters, StageCounters};
}

pub mod params {
    //! Parameters of every stage: plain values, whose types exclude most of what cannot be.
    //!
    //! ```
    //! use faultwire::faults::Faults;
    //! use faultwire::params::{ImpairmentParams, LossParams, Select, StageParams, Trigger};
    //!
    //! // Marks half of the packets that are ECN-capable, and drops half of the others.
    //! let loss = LossParams { probability: "50%".parse()?, ecn: true };
    //! let faults = Faults::new().stage(StageParams {
    //!     name: "marks".to_owned(),
    //!     select: Select::default(),
    //!     trigger: Trigger::default(),
    //!     impairment: ImpairmentParams::Loss(loss),
    //! });
    //! # Ok::<(), faultwire::units::UnitError>(())
    //! ```
    #[doc(inline)]
    pub use crate::pipeline::params::*;
    #[doc(inline)]
    pub use crate::pipeline::time::{Duration, Instant};
}

pub mod spec {
    //! Faults in one line: tc-netem's own words and a few of faultwire's. [`crate::faults::Faults`] is made from one by `parse`.
    #[doc(inline)]
    pub use crate::config::spec::{SpecError, SpecProblem};
}

pub mod stage {
    //! A fault or rewrite of one's own: a [`CustomStage`], seated by [`crate::faults::Faults::custom`].
    //!
    //! It is made anew for each direction and worker, sees one wire packet at a time, and says what becomes of it. What it does is
    //! counted as for any other stage. A closure is a stage too:
    //!
    //! ```
    //! use std::time::Duration;
    //!
    //! use faultwire::faults::Faults;
    //! use faultwire::sim::{Datagram, End, Link};
    //! use faultwire::stage::{Fate, WirePacket};
    //!
    //! // Every third packet of a flow takes a detour.
    //! let detour = |packet: &mut WirePacket<'_>| match packet.index() % 3 {
    //!     2 => Fate::Delay(Duration::from_millis(30)),
    //!     _ => Fate::Pass,
    //! };
    //! let mut link = Link::new(&Faults::new().custom("detour", move || detour), 1);
    //! for number in 0..3 {
    //!     let payload = [number];
    //!     let (left, right) = ("10.0.0.1:4000".parse()?, "10.0.0.2:443".parse()?);
    //!     link.send(End::Left, Duration::ZERO, &Datagram::new(left, right, &payload))?;
    //! }
    //! assert_eq!(std::iter::from_fn(|| link.pull(Duration::ZERO)).count(), 2);
    //! assert_eq!(link.pull(Duration::from_millis(30)).map(|last| last.at), Some(Duration::from_millis(30)));
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```
    #[doc(inline)]
    pub use crate::pipeline::impair::{CustomStage, Fate, WirePacket};
}

pub mod units {
    //! Numbers with a unit. Each is read from text: `"5%".parse::<Probability>()`, `"10 Mbit/s".parse::<Rate>()`.
    #[doc(inline)]
    pub use crate::pipeline::units::{Bytes, Probability, Rate, UnitError};
}

// The program's own modules: a door for tests, benches and fuzz targets, not for users.
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod attach;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod bpf;
#[cfg(feature = "capture")]
#[doc(hidden)]
pub mod capture;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[cfg(feature = "control")]
#[doc(hidden)]
pub mod control;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod device;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod engine;
#[cfg(test)]
mod folder;
#[cfg(feature = "control")]
mod http;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod journal;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod lab;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod pipeline;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod reach;
#[cfg(feature = "control")]
#[doc(hidden)]
pub mod toxiproxy;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod veth;
