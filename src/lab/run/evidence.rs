//! Evidence from the router itself: its counters, and a record of what happened to each packet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Plan;
use crate::config::plan::PathPlan;
use crate::engine::Summary;
use crate::journal::record::{FIXED, NONE};
use crate::journal::{self, Finished, Hub, Kind, Lane, Sink, Start, Taps};
use crate::lab::report::{Record, RecordKind};
use crate::lab::value::Observations;
use crate::pipeline::counters::{Drops, Reason, StageCounters};
use crate::pipeline::router::Headers;
use crate::pipeline::router::path::SeatId;
use crate::pipeline::time::Instant;

/// Records that are kept for the story; later ones are only counted.
const KEPT: usize = 50_000;
/// Bytes of a worker's ring: room for 65,536 records of the longest kind, which has the headers before and after a rewrite.
const RING: usize = (FIXED + 2 * Headers::LEN) << 16;
/// What a story is made of. It begins with what was received; whether a packet had to wait is seen from its times.
const KINDS: [Kind; 5] = [Kind::Received, Kind::Sent, Kind::Dropped, Kind::Rewritten, Kind::Created];

/// Collects records by a lane of the worker's taps.
pub(super) struct Evidence {
    names: Names,
    tally: Arc<Mutex<Tally>>,
    hub: Hub,
}

/// Where the records of the lane are collected.
struct Collector {
    names: Names,
    tally: Arc<Mutex<Tally>>,
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
    /// Takes the records of a router of `plan`, whose workers have to be given the taps.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn collect(plan: &Plan) -> std::io::Result<(Self, Taps)> {
        let ports = plan.ports.iter().map(|port| port.name.clone()).collect();
        let names = |path: &PathPlan| path.names().map(str::to_owned).collect();
        let paths = plan.paths.iter().map(|path| (path.from, path.to, names(path))).collect();
        let names = Names { ports, paths };
        let tally = Arc::new(Mutex::new(Tally::default()));
        let collector = Collector { names: names.clone(), tally: Arc::clone(&tally) };
        let lane = Lane { start: Start::Bytes, ..Lane::of(&KINDS) };
        let (hub, taps) = Hub::with_ring(lane, Box::new(collector), RING)?;
        hub.begin();
        Ok((Self { names, tally, hub }, taps))
    }

    /// The router's numbers under the names of case files.
    pub(super) fn observe(&self, summary: &Summary, observed: &mut Observations) {
        self.hub.flush();
        self.names.observe(&locked(&self.tally), summary, observed);
    }

    /// Call it when the router has stopped: reads the remaining records, ends, and returns the last numbers and all records.
    pub(super) fn finish(self, summary: &Summary, observed: &mut Observations) -> Vec<Record> {
        self.hub.finish();
        let mut tally = locked(&self.tally);
        self.names.observe(&tally, summary, observed);
        std::mem::take(&mut tally.records)
    }
}

impl Names {
    fn observe(&self, tally: &Tally, summary: &Summary, observed: &mut Observations) {
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
        observed.set("router.largest_train", u64::from(tally.largest_train));
        for (path, (from, to, stages)) in self.paths.iter().enumerate() {
            let counted = report.paths.iter().find(|report| (report.from, report.to) == (*from, *to));
            for (stage, name) in stages.iter().enumerate() {
                let prefix = format!("router.{}->{}.{name}", self.ports[*from], self.ports[*to]);
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
    for reason in Reason::ALL {
        observed.set(format!("{prefix}.drop.{}", reason.name()), drops.of(reason).packets);
    }
}

impl Sink for Collector {
    fn record(&mut self, record: &journal::Record<'_>) {
        locked(&self.tally).add(record, &self.names);
    }

    fn finish(self: Box<Self>, _lost: u64) -> Finished {
        Finished::default()
    }
}

impl Tally {
    fn add(&mut self, record: &journal::Record<'_>, names: &Names) {
        match record.kind {
            Kind::Received => self.largest_train = self.largest_train.max(record.wires),
            Kind::Dropped if record.stage != NONE && record.segment == 0 => {
                let place = SeatId { path: record.path, seat: record.stage };
                let (low, high) = self.dropped.entry(place).or_insert((record.last, record.last));
                (*low, *high) = ((*low).min(record.last), (*high).max(record.last));
            }
            _ => {}
        }
        if self.records.len() < KEPT {
            self.records.extend(names.record(record));
        }
    }
}

impl Names {
    /// The record with names; `None` if it is of no kind that a story is made of.
    fn record(&self, record: &journal::Record<'_>) -> Option<Record> {
        let port = |index: u16| self.ports.get(usize::from(index)).cloned().unwrap_or_default();
        let stages = self.paths.get(usize::from(record.path)).map(|path| &path.2);
        let stage = stages.and_then(|stages| stages.get(usize::from(record.stage))).cloned();
        let kind = match record.kind {
            Kind::Received => RecordKind::Received,
            Kind::Sent => RecordKind::Sent { to: port(record.port) },
            Kind::Dropped => {
                let reason = Reason::ALL.get(usize::from(record.reason)).map_or("", |reason| reason.name());
                RecordKind::Dropped { stage, reason: reason.to_owned() }
            }
            Kind::Rewritten => RecordKind::Rewritten { stage: stage.unwrap_or_default() },
            Kind::Created => RecordKind::Created,
            Kind::Held | Kind::Released | Kind::Entered => return None,
        };
        Some(Record {
            at: Instant::from_nanos(record.at),
            kind,
            from: port(record.ingress.unwrap_or(record.port)),
            packets: record.wires,
            // Of a train the headers once.
            length: record.last + record.wires.saturating_sub(1) * u32::from(record.segment),
            segment: record.segment,
            bytes: record.bytes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::tests::record;

    fn names() -> Names {
        let ports = ["client", "server"].map(str::to_owned).into();
        Names { ports, paths: vec![(0, 1, vec!["loss".to_owned()])] }
    }

    /// A train of three with 40 bytes of headers, which has come from the server over a path without a name.
    #[test]
    fn a_train_that_was_sent_has_its_length_and_both_hosts() {
        let (kind, path, stage) = (Kind::Sent, 9, NONE);
        let sent =
            journal::Record { kind, path, stage, wires: 3, each: 140, last: 90, segment: 100, ..record() };
        let told = names().record(&journal::Record { port: 0, ingress: Some(1), ..sent }).unwrap();
        let bytes = b"newer".to_vec();
        let kind = RecordKind::Sent { to: "client".to_owned() };
        let at = Instant::from_nanos(2_000_000);
        let expected =
            Record { at, kind, from: "server".to_owned(), packets: 3, length: 290, segment: 100, bytes };
        assert_eq!(told, expected);
    }

    /// Trains are left out of the lengths of what was dropped.
    #[test]
    fn drops_are_told_by_stage_with_their_lengths() {
        let mut tally = Tally::default();
        for (last, segment, stage) in [(500, 0, 0), (1500, 0, 0), (40, 100, 0), (60, 0, NONE)] {
            tally.add(&journal::Record { last, segment, stage, ..record() }, &names());
        }
        let place = SeatId { path: 0, seat: 0 };
        assert_eq!(tally.dropped, HashMap::from([(place, (500, 1500))]));
        let stages: Vec<_> = tally.records.iter().map(|record| record.kind.clone()).collect();
        let dropped = |stage: Option<&str>| RecordKind::Dropped {
            stage: stage.map(str::to_owned),
            reason: Reason::ALL[0].name().to_owned(),
        };
        let expected = [dropped(Some("loss")), dropped(Some("loss")), dropped(Some("loss")), dropped(None)];
        assert_eq!(stages, expected);
    }
}
