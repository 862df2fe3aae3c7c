//! Paths: the seats that packets meet one after the other, each with a stage or a translator.

use crate::pipeline::params::{NatPlace, StageParams};

/// What packets go through from one port to another.
#[derive(Debug, Clone, PartialEq)]
pub struct PathParams<T = NatPlace> {
    /// Index of the port they come in by.
    pub from: usize,
    /// Index of the port they leave by.
    pub to: usize,
    /// In order.
    pub seats: Vec<SeatParams<T>>,
}

/// What sits at one place of a path. `T` says which translator it is, if it is one: a configuration that is being read does not
/// know that yet.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "almost every seat has a stage")]
pub enum SeatParams<T = NatPlace> {
    /// A fault or rewrite.
    Stage(StageParams),
    /// A translator.
    Translator {
        /// Unique in its path.
        name: String,
        /// Which one, and in which direction.
        place: T,
    },
}

impl<T> PathParams<T> {
    /// A path with these stages and no translator.
    pub fn new(from: usize, to: usize, stages: Vec<StageParams>) -> Self {
        let mut path = Self { from, to, seats: Vec::new() };
        path.set_stages(stages);
        path
    }

    /// Its stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = &StageParams> + Clone {
        self.seats.iter().filter_map(SeatParams::stage)
    }

    /// Its stages, to be changed.
    pub fn stages_mut(&mut self) -> impl Iterator<Item = &mut StageParams> {
        self.seats.iter_mut().filter_map(SeatParams::stage_mut)
    }

    /// Puts these stages in place of all that there is.
    pub fn set_stages(&mut self, stages: Vec<StageParams>) {
        self.seats = stages.into_iter().map(SeatParams::Stage).collect();
    }

    /// The names of its seats, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.seats.iter().map(SeatParams::name)
    }
}

impl<T> SeatParams<T> {
    /// Unique in its path.
    pub fn name(&self) -> &str {
        match self {
            Self::Stage(stage) => &stage.name,
            Self::Translator { name, .. } => name,
        }
    }

    /// The stage that sits here.
    pub const fn stage(&self) -> Option<&StageParams> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Translator { .. } => None,
        }
    }

    /// The stage that sits here, to be changed.
    pub const fn stage_mut(&mut self) -> Option<&mut StageParams> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Translator { .. } => None,
        }
    }

    /// The stage, without its seat.
    pub fn into_stage(self) -> Option<StageParams> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Translator { .. } => None,
        }
    }

    /// Its type, as configuration files name it.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.impairment.type_name(),
            Self::Translator { .. } => NatPlace::TYPE,
        }
    }
}

impl<T> From<StageParams> for SeatParams<T> {
    fn from(stage: StageParams) -> Self {
        Self::Stage(stage)
    }
}
