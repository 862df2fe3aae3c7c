//! Which packets a stage acts on.
//!
//! [`flow`] finds a packet's flow and counts its packets. [`identity`] and [`ordinals`] give the flow the identity
//! that random draws depend on. `select` is a stage's `match`; [`segments`] classifies a TCP segment by what its flow
//! has sent before. A [`gate`] combines them with a trigger and stands in front of a stage.

pub mod flow;
pub mod gate;
pub mod identity;
pub mod ordinals;
pub mod segments;
pub(in crate::pipeline) mod select;

pub use select::OfFlow;
