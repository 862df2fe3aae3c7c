//! Evidence from the router itself: its counters, and a record of what happened to each packet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::Plan;
use crate::config::plan::PathPlan;
use crate::engine::{self, Records, Summary};
use crate::lab::report::{Record, RecordKind};
use crate::lab::traffic::wait::{Stop, Stopper, stop_pair, stopped_within};
use crate::lab::value::Observations;
use crate::pipeline::counters::{Drops, StageCounters};
use crate::pipeline::router::What;
use crate::pipeline::router::path::SeatId;

/// Records that are kept for the story; later ones are only counted.
const KEPT: usize = 50_000;
/// Time between two reads of the channel of records.
const LOOK: Duration = Duration::from_millis(2);

/// Collects records on a separate thread, so that the router never waits.
pub(super) struct Evidence {
    names: Names,
    tally: Arc<Mutex<Tally>>,
    stopper: Option<Stopper>,
    thread: Option<JoinHandle<()>>,
}

/// Names for the router's indices.
#[derive(Clone)]
struct Names {
    ports: Vec<String>,
    /// Path by path: from, to, names of the seats.
    paths: Vec<(usize, usize, Vec<String>)>,
}

#[derive(Default)]
struct Tally {
    records: Vec<Record>,
    largest_train: u32,
    /// Smallest and largest IP length of what was dropped at each seat.
    dropped: HashMap<SeatId, (u32, u32)>,
}

impl Evidence {
    /// Takes the records of a router of `plan`.
    pub(super) fn collect(plan: &Plan, records: Records) -> Self {
        let ports = plan.ports.iter().map(|port| port.name.clone()).collect();
        let names = |path: &PathPlan| path.names().map(str::to_owned).collect();
        let paths = plan.paths.iter().map(|path| (path.from, path.to, names(path))).collect();
        let names = Names { ports, paths };
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stopper, stop) = stop_pair().expect("a pair of sockets can be made");
        let thread = {
            let (names, tally) = (names.clone(), Arc::clone(&tally));
            std::thread::spawn(move || drain(&records, &names, &tally, &stop))
        };
        Self { names, tally, stopper: Some(stopper), thread: Some(thread) }
    }

    /// The router's numbers under the names of case files.
    pub(super) fn observe(&self, summary: &Summary, observed: &mut Observations) {
        let report = &summary.total;
        let counters = &report.counters;
        for (name, amount) in
            [("received", counters.received), ("sent", counters.sent), ("created", counters.created)]
        {
            observed.set(format!("router.{name}"), amount.packets);
        }
        observed.set("router.conserved", report.is_conserved());
        observed.set("router.icmp_sent", counters.icmp_sent);
        observed.set("router.icmp_withheld", counters.icmp_withheld);
        observed.set("router.dropped", counters.drops.total().packets);
        observe_drops("router", &counters.drops, observed);
        let tally = locked(&self.tally);
        observed.set("router.largest_train", u64::from(tally.largest_train));
        for (path, (from, to, stages)) in self.names.paths.iter().enumerate() {
            let counted = report.paths.iter().find(|report| (report.from, report.to) == (*from, *to));
            for (stage, name) in stages.iter().enumerate() {
                let prefix = format!("router.{}->{}.{name}", self.names.ports[*from], self.names.ports[*to]);
                if let Some(counted) = counted {
                    observe_stage(&prefix, &counted.stages[stage].counters, observed);
                }
                let seat = SeatId { path: path as u16, seat: stage as u16 };
                if let Some((low, high)) = tally.dropped.get(&seat) {
                    observed.set(format!("{prefix}.smallest_dropped"), u64::from(*low));
                    observed.set(format!("{prefix}.largest_dropped"), u64::from(*high));
                }
            }
        }
    }

    /// Call it when the router has stopped: reads the remaining records, ends, and returns the last numbers and all records.
    pub(super) fn finish(mut self, summary: &Summary, observed: &mut Observations) -> Vec<Record> {
        drop(self.stopper.take());
        if let Some(thread) = self.thread.take() {
            // A collector that panicked has printed why; the story is then shorter.
            let _ = thread.join();
        }
        self.observe(summary, observed);
        std::mem::take(&mut locked(&self.tally).records)
    }
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn observe_stage(prefix: &str, counters: &StageCounters, observed: &mut Observations) {
    for (name, amount) in [
        ("seen", counters.seen),
        ("acted", counters.acted()),
        ("dropped", counters.drops.total()),
        ("created", counters.created),
        ("answered", counters.answered),
        ("rewritten", counters.rewritten),
        ("delayed", counters.delayed),
    ] {
        observed.set(format!("{prefix}.{name}"), amount.packets);
    }
    observed.set(format!("{prefix}.wait_ms_max"), counters.longest_wait.as_nanos() as f64 / 1e6);
    let share = counters.drops.total().packets as f64 / counters.seen.packets.max(1) as f64;
    observed.set(format!("{prefix}.dropped_share"), share);
    observe_drops(prefix, &counters.drops, observed);
}

/// Every reason, so that a case can expect zero of one.
fn observe_drops(prefix: &str, drops: &Drops, observed: &mut Observations) {
    for reason in crate::pipeline::counters::Reason::ALL {
        observed.set(format!("{prefix}.drop.{}", reason.name()), drops.of(reason).packets);
    }
}

fn drain(records: &Records, names: &Names, tally: &Mutex<Tally>, stop: &Stop) {
    loop {
        let stopped = stopped_within(LOOK, stop);
        let mut tally = locked(tally);
        for record in records.take() {
            tally.add(&record, names);
        }
        // Everything that was sent before the stop has been received now.
        if stopped {
            return;
        }
    }
}

impl Tally {
    fn add(&mut self, record: &engine::Record, names: &Names) {
        let single = if record.segment == 0 { record.length } else { 0 };
        match record.what {
            What::Received(_) => self.largest_train = self.largest_train.max(record.wires),
            What::Dropped(Some(place), _) if single > 0 => {
                let (low, high) = self.dropped.entry(place).or_insert((single, single));
                (*low, *high) = ((*low).min(single), (*high).max(single));
            }
            _ => {}
        }
        if self.records.len() < KEPT {
            self.records.push(names.record(record));
        }
    }
}

impl Names {
    fn record(&self, record: &engine::Record) -> Record {
        let port = |index: u16| self.ports.get(usize::from(index)).cloned().unwrap_or_default();
        let stage = |at: SeatId| {
            self.paths.get(usize::from(at.path)).and_then(|path| path.2.get(usize::from(at.seat))).cloned()
        };
        let kind = match record.what {
            What::Received(_) | What::Entered | What::Held(..) => RecordKind::Received,
            What::Sent(to) => RecordKind::Sent { to: port(to) },
            What::Dropped(place, reason) => {
                RecordKind::Dropped { stage: place.and_then(stage), reason: reason.name().to_owned() }
            }
            What::Rewritten(at) => RecordKind::Rewritten { stage: stage(at).unwrap_or_default() },
            What::Created(_) => RecordKind::Created,
        };
        Record {
            at: record.at,
            kind,
            from: port(record.ingress),
            packets: record.wires,
            length: record.length,
            segment: record.segment,
            bytes: record.bytes().to_vec(),
        }
    }
}
