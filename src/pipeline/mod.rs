//! The packet core: wire formats, packets and trains, stages, scheduling, routing.
//!
//! Pure: no I/O, no clock, no threads, no locks, no `unsafe`; in steady state no allocation. Time is an argument.
//!
//! A packet's way: [`router`] parses it ([`wire`], [`packet`]), finds its flow ([`flow`]) and [`path`], and takes it
//! through the path's stages: each a [`gate`] (which packets, when) and one of the [`impair`]ments (what is done). What
//! has to wait is in the [`schedule`].

mod answer;
mod chains;
pub mod conn;
mod correlated;
pub mod counters;
pub mod crandom;
mod damage;
pub mod distribution;
pub mod ear;
pub mod flow;
pub mod gate;
#[cfg(test)]
mod hostile;
pub mod identity;
pub mod impair;
mod jitter;
#[cfg(test)]
mod laws;
mod link;
mod loss_chain;
pub mod nat;
pub mod ordinals;
pub mod packet;
mod pairs;
pub mod params;
pub mod path;
pub mod pool;
pub mod quiet;
pub mod rng;
pub mod router;
pub mod routes;
pub mod schedule;
pub mod segments;
mod select;
pub mod serialiser;
pub mod service;
pub mod shared;
mod shelf;
mod slots;
pub mod stage;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod units;
mod wander;

pub(crate) use jitter::normal_quantile;
pub(crate) use wander::Pace;
pub mod wire;
