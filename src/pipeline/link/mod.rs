//! A link that sends one packet after the other, and the packets that wait in front of it.
//!
//! `turn` is the arithmetic, [`serialiser`] a link of one rate, [`capacity`] one whose rate changes with time. `slots` gathers
//! packets into bursts. `shelf` keeps packets until others have passed.

pub mod capacity;
pub mod serialiser;
pub(in crate::pipeline) mod shelf;
pub(in crate::pipeline) mod slots;
pub mod state;
pub(in crate::pipeline) mod turn;
