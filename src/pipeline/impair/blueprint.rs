//! What every type of stage declares about itself.

use std::fmt;

use crate::pipeline::random::rng::StageKey;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::Stage;

/// The parameters of a stage. Their `Display` says in one line what the stage does.
///
/// No method has a default, so that none can be forgotten.
pub trait Blueprint: fmt::Display + fmt::Debug + Clone + PartialEq {
    /// The stage that is built.
    type Stage: Stage;

    /// Builds one worker's copy.
    fn build(&self, setting: &Setting) -> Self::Stage;

    /// The directions whose packets the stage sees.
    fn directions(&self) -> Directions;

    /// Settings that are allowed at this place but probably not meant, a sentence for each.
    fn traps(&self, place: &Place) -> Vec<String>;

    /// How many packets the stage makes on average from each packet that it acts on, beside that packet. Fragments do
    /// not count: together they are no longer than the packet. A stage that makes packets and leaves this at 0 breaks
    /// a law.
    fn extra_packets(&self) -> f64 {
        0.0
    }

    /// Whether the stage plays the host behind the port to which its path leads. All such stages of one type at one
    /// port share one state, whatever path they are in.
    fn plays_host(&self) -> bool {
        false
    }
}

/// What a stage is built with besides its parameters.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Key of its draws.
    pub key: StageKey,
    /// Index of the stage's path in the router. A stage for both directions takes packets of any other path as going
    /// in the opposite direction.
    pub path: u16,
    /// What the copies of the stage on all workers share.
    pub shared: Shared,
    /// Number of flows for [`crate::pipeline::aim::flow::PerFlow`].
    pub flows: usize,
}

/// Which packets a stage sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Those of its own path.
    Forward,
    /// Those of the opposite path too.
    Both,
}

/// Where a stage stands in the network, as far as its traps depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The smallest MTU of the path's ports in bytes; `None`: not known.
    pub mtu: Option<u32>,
    /// Whether IPv6 goes this way.
    pub ipv6: bool,
}

impl<B: Blueprint> Blueprint for Box<B> {
    type Stage = B::Stage;

    fn build(&self, setting: &Setting) -> Self::Stage {
        (**self).build(setting)
    }

    fn extra_packets(&self) -> f64 {
        (**self).extra_packets()
    }

    fn directions(&self) -> Directions {
        (**self).directions()
    }

    fn traps(&self, place: &Place) -> Vec<String> {
        (**self).traps(place)
    }

    fn plays_host(&self) -> bool {
        (**self).plays_host()
    }
}
