//! The numbers of a run.

use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::engine::times::{AllTimes, Spread};
use crate::pipeline::aim::identity::Named;
use crate::pipeline::counters::{Amount, RouterCounters, StageCounters};
use crate::pipeline::nat::Fill;
use crate::pipeline::router::Router;
use crate::pipeline::router::path::Path;
use crate::pipeline::stage::Stage;

/// Longer lateness is recorded as this value, in nanoseconds: a minute.
pub const LATENESS_MAX: u64 = 60_000_000_000;

/// One worker's numbers, or the sum of all.
#[derive(Debug, Clone)]
pub struct Report {
    /// Totals.
    pub counters: RouterCounters,
    /// The part of the received and sent packets that passed in the kernel, by the flow caches of attachments.
    pub carried: Amount,
    /// Packets held at the time of the report.
    pub held: Amount,
    /// Paths that have stages, in the order of the configuration.
    pub paths: Vec<PathReport>,
    /// Translators with a table.
    pub nats: Vec<NatReport>,
    /// Flows that were evicted from the full flow table.
    pub evicted_flows: u64,
    /// Connections that were named for the draws.
    pub named: Named,
    /// How long after its time each scheduled packet left, in nanoseconds.
    pub lateness: Histogram<u64>,
}

/// One path's stages.
#[derive(Debug, Clone)]
pub struct PathReport {
    /// Index of the port it starts from.
    pub from: usize,
    /// Index of the port it leads to.
    pub to: usize,
    /// The stages, in order.
    pub stages: Vec<StageReport>,
    /// How long its packets took from their arrival until they left, without those that passed in the kernel.
    pub delay: Spread,
    /// How long after their due time packets left that had waited on the path.
    pub lateness: Spread,
}

/// One translator.
#[derive(Debug, Clone)]
pub struct NatReport {
    /// Its name.
    pub name: String,
    /// How full its table is.
    pub fill: Fill,
}

/// One stage.
#[derive(Debug, Clone)]
pub struct StageReport {
    /// Its name, shared with the stage: a worker that reports copies no names.
    pub name: Arc<str>,
    /// What it did.
    pub counters: StageCounters,
    /// Wire packets that wait in it at the time of the report.
    pub held: u64,
}

impl Report {
    /// The numbers of one worker.
    pub(super) fn of(router: &Router, lateness: &Histogram<u64>, times: &AllTimes) -> Self {
        let stages = |path: &Path| {
            path.seats
                .iter()
                .map(|seat| {
                    let clamped = seat.occupant.stage().map_or(0, Stage::clamped);
                    StageReport {
                        name: Arc::clone(&seat.name),
                        counters: StageCounters { clamped, ..seat.counters },
                        held: seat.held,
                    }
                })
                .collect()
        };
        let path = |(number, path): (usize, &Path)| {
            let [delay, lateness] = times.spreads(number);
            PathReport { from: path.from.into(), to: path.to.into(), stages: stages(path), delay, lateness }
        };
        let with_stages = router.paths().iter().enumerate().filter(|(_, path)| !path.seats.is_empty());
        let paths = with_stages.map(path).collect();
        let nats = (router.nats().iter())
            .filter_map(|nat| Some(NatReport { name: nat.name().to_owned(), fill: nat.fill()? }))
            .collect();
        Self {
            nats,
            counters: *router.counters(),
            carried: router.carried(),
            held: router.held(),
            paths,
            evicted_flows: router.evicted_flows(),
            named: router.named(),
            lateness: lateness.clone(),
        }
    }

    /// The numbers of a router without devices, where nothing can be late.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants.
    pub fn offline(router: &Router) -> Self {
        let lateness = Histogram::new_with_bounds(1, LATENESS_MAX, 2).expect("constant bounds");
        Self::of(router, &lateness, &AllTimes::default())
    }

    /// Adds the numbers of another worker of the same router. A router with translators has only one worker.
    pub(super) fn add(&mut self, other: &Self) {
        self.counters += &other.counters;
        self.carried += other.carried;
        self.held += other.held;
        for (mine, theirs) in self.paths.iter_mut().zip(&other.paths) {
            for (mine, theirs) in mine.stages.iter_mut().zip(&theirs.stages) {
                mine.counters += &theirs.counters;
                mine.held += theirs.held;
            }
            mine.delay.add(&theirs.delay);
            mine.lateness.add(&theirs.lateness);
        }
        self.evicted_flows += other.evicted_flows;
        self.named += other.named;
        self.lateness.add(&other.lateness).expect("all lateness histograms have the same bounds");
    }

    /// Whether every wire packet and byte is accounted for: received + created = sent + dropped + held.
    pub fn is_conserved(&self) -> bool {
        let (mut into, mut out) = (self.counters.received, self.counters.sent);
        into += self.counters.created;
        out += self.counters.drops.total();
        out += self.held;
        into == out
    }
}
