//! Chance: random words that are a function of the seed, and the processes that are made of them.
//!
//! [`rng`] gives the words, which depend on nothing but seed, stage, flow and index. [`kernel`] is netem's own arithmetic. Chances
//! with a memory (`correlated`, `loss_chain`), shapes of delays ([`distribution`], `jitter`) and their way through time (`wander`)
//! are made of words.

pub(in crate::pipeline) mod correlated;
pub mod distribution;
pub(in crate::pipeline) mod jitter;
pub mod kernel;
pub(in crate::pipeline) mod loss_chain;
pub mod rng;
pub(in crate::pipeline) mod wander;
