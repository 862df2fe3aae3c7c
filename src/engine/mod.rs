//! Worker threads: each carries packets between one queue of every device and its own copy of the packet core.
//!
//! The only memory that several workers write is the few atomics of [`crate::pipeline::shared`]. The control side
//! sends messages to the workers, which read them between bursts. Without messages, a worker's only system calls are
//! device I/O and waiting.

// Numbers from outside are converted here: each conversion is checked, or a comment says why this is not needed.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod cache;
mod clock;
mod control;
#[cfg(test)]
mod extremes;
pub mod json;
mod line;
mod listeners;
pub mod network;
mod patience;
#[cfg(test)]
mod recipes;
mod report;
mod times;
mod tun;
pub mod wire;
mod worker;

pub use clock::Clock;
pub use control::{Engine, EngineError, EngineOptions, total};
pub use line::{Ended, Listener, Workers};
pub use network::{Network, NetworkError, Summary};
pub use report::{LATENESS_MAX, NatReport, PathReport, Report, StageReport};
pub use times::Spread;
pub use tun::Port;
