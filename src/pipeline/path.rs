//! One direction between two ports: its stages, each behind its gate, and their counters.

use crate::pipeline::counters::StageCounters;
use crate::pipeline::gate::Gate;
use crate::pipeline::impair::{Impairment, Setting};
use crate::pipeline::params::{PathParams, StageParams};
use crate::pipeline::rng::StageKey;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::Emission;

/// A stage in its place.
#[derive(Debug)]
pub struct Slot {
    /// Its name in reports.
    pub name: String,
    /// What it did.
    pub counters: StageCounters,
    pub(crate) gate: Gate,
    pub(crate) impairment: Impairment,
    /// Reused by [`Impairment`]'s outlet.
    pub(crate) emissions: Vec<Emission>,
}

/// What packets go through from one port to another.
#[derive(Debug)]
pub struct Path {
    /// Index of the port they come in by.
    pub from: u16,
    /// Index of the port they leave by.
    pub to: u16,
    /// In order.
    pub stages: Vec<Slot>,
}

impl Path {
    /// Builds one worker's copy. `names` are the ports' names, which the draws depend on; `shared` has an entry a stage.
    pub fn new(params: &PathParams, seed: u64, names: (&str, &str), flows: usize, shared: &[Shared]) -> Self {
        let stage = |(stage, shared): (&StageParams, &Shared)| {
            let key =
                |part: &str| StageKey::new(seed, &format!("{}>{}/{}{part}", names.0, names.1, stage.name));
            let setting = Setting { key: key(""), shared: Shared::clone(shared), flows };
            Slot {
                name: stage.name.clone(),
                counters: StageCounters::default(),
                gate: Gate::new(&stage.select, &stage.trigger, key("/trigger"), Shared::clone(shared), flows),
                impairment: Impairment::new(&stage.impairment, &setting),
                emissions: Vec::with_capacity(16),
            }
        };
        Self {
            from: params.from as u16,
            to: params.to as u16,
            stages: params.stages.iter().zip(shared).map(stage).collect(),
        }
    }
}
