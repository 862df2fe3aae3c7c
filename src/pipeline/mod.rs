//! The packet core: wire formats, packets and trains, stages, scheduling, routing.
//!
//! Pure: no I/O, no clock, no threads, no locks, no `unsafe`; in steady state no allocation. Time is an argument.

pub mod params;
pub mod time;
pub mod units;
pub mod wire;
