//! Which packets a stage acts on.
//!
//! [`flow`] finds a packet's flow and counts its packets. [`identity`] and [`ordinals`] say who the flow is to the draws. `select`
//! is a `match`; [`segments`] says what a TCP segment is by what its flow sent before. A [`gate`] joins them with a trigger, in front
//! of a stage.

pub mod flow;
pub mod gate;
pub mod identity;
pub mod ordinals;
pub mod segments;
pub(in crate::pipeline) mod select;
