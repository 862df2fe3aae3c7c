//! Randomness: random words that are a function of the seed, and the processes that are built from them.
//!
//! [`rng`] gives the words, which only depend on seed, stage, flow and index. [`kernel`] is netem's own arithmetic.
//! Probabilities with memory (`correlated`, `loss_chain`), shapes of delays ([`distribution`], `jitter`) and delays
//! that change smoothly with time (`wander`) are built from these words.

pub(in crate::pipeline) mod correlated;
pub mod distribution;
pub(in crate::pipeline) mod jitter;
pub mod kernel;
pub(in crate::pipeline) mod loss_chain;
pub mod rng;
pub(in crate::pipeline) mod wander;
