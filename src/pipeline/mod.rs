//! The packet core: wire formats, packets and trains, stages, scheduling, routing.
//!
//! Pure: no I/O, no clock, no threads, no locks, no `unsafe`; in steady state no allocation. Time is an argument.
//!
//! [`router`] parses a packet ([`wire`], [`packet`]), finds its flow ([`aim::flow`]) and its path ([`router::path`]),
//! and takes it through the path's stages. Each stage is a gate ([`aim::gate`]: which packets, when) and one of the
//! [`impair`]ments (what is done). Impairments draw from [`random`] and may be a [`link`]. Packets that wait are in
//! the [`router::schedule`].

pub mod aim;
mod chains;
pub mod conn;
pub mod counters;
mod damage;
pub mod hosts;
pub mod impair;
pub mod link;
pub mod nat;
pub mod packet;
pub mod params;
pub mod pool;
pub mod random;
pub mod router;
pub mod shared;
pub mod stage;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod units;
pub mod wire;

pub(crate) use random::jitter::normal_quantile;
pub(crate) use random::wander::Pace;
