//! faultwire: a software router for Linux that breaks packets on purpose, reproducibly.
//!
//! The layers, from the ground up; imports only point down this list:
//!
//! - [`pipeline`]: the pure core. Packets and an instant go in; packets, drops and "wake me at" come out. No I/O, no
//!   clock, no thread, no lock.
//! - [`config`]: the TOML as written and the validated plan made from it; tc-netem's words.
//! - [`device`]: TUN devices; [`net`]: namespaces, addresses and routes over netlink.
//! - [`bpf`]: programs of tc hooks and their loader; [`attach`]: the way through a device that somebody else made.
//! - [`engine`]: worker threads that carry packets between devices and the core.
//! - [`capture`]: captures through the core, in virtual time.
//! - [`lab`]: cases: build a network, break it, drive traffic, compare what the kernels report.
//! - [`cli`]: the commands.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "net")]
pub mod attach;
#[cfg(feature = "net")]
pub mod bpf;
#[cfg(feature = "capture")]
pub mod capture;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
#[cfg(feature = "net")]
pub mod device;
#[cfg(feature = "net")]
pub mod engine;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "net")]
pub mod net;
pub mod pipeline;
