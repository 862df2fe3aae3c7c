//! `[[path]]`, one direction from a port to a port, and `[[link]]`, both directions at once.

use std::collections::HashSet;

use crate::config::draft::{PathDraft, SeatDraft};
use crate::config::group::Groups;
use crate::config::impairment::positive;
use crate::config::port::port_index;
use crate::config::reader::Table;
use crate::config::share::{self, Shares};
use crate::config::stage::Stages;
use crate::pipeline::params::{Phase, Way};
use crate::pipeline::time::Duration;

/// Reads every `[[path]]` and `[[link]]` of `root`, `[groups]` and `partition`; `ports` are the names that they may use.
pub fn read_paths(root: &mut Table<'_>, ports: &[&str]) -> Vec<PathDraft> {
    let groups = Groups::read(root, ports);
    let mut paths = Paths::default();
    for mut table in root.tables("path") {
        let from = table.required("from", "\"left\"").and_then(|value| port_index(&value, ports));
        let to = table.required("to", "\"right\"").and_then(|value| port_index(&value, ports));
        let mut stages = Stages::default();
        if let Some(spec) = table.value("spec") {
            stages.read(&spec);
        }
        if let Some(tables) = table.value("stage") {
            stages.read(&tables);
        }
        phases(&mut table, &mut [(&["spec", "stage"], &mut stages)]);
        let mut stages = stages.finish();
        if let Some(value) = table.value("share") {
            share::apply(&value, Way::Only, &mut stages);
        }
        if let (Some(from), Some(to)) = (from, to) {
            paths.add(PathDraft { from, to, seats: stages }, &table, ports);
        }
        table.finish();
    }
    for mut table in root.tables("link") {
        let pairs = groups.pairs(&mut table);
        let [mut up, mut down] = directions(&mut table, Stages::default);
        if let Some(value) = table.value("share") {
            share::apply(&value, Way::There, &mut up);
            share::apply(&value, Way::Back, &mut down);
        }
        for [left, right] in pairs {
            paths.add(PathDraft { from: left, to: right, seats: up.clone() }, &table, ports);
            paths.add(PathDraft { from: right, to: left, seats: down.clone() }, &table, ports);
        }
        table.finish();
    }
    groups.partition(root, &mut paths.list);
    paths.list
}

/// The stages of a link from its first end to its second and back, or of a wire from its target and to it: those for both,
/// then each direction's own. `none` makes what they are read into.
pub(super) fn directions(table: &mut Table<'_>, none: fn() -> Stages) -> [Vec<SeatDraft>; 2] {
    let both = table.value("both");
    let [mut up, mut down] = ["up", "down"].map(|key| {
        let mut stages = none();
        for value in both.iter().chain(table.value(key).iter()) {
            stages.read(value);
        }
        stages
    });
    phases(table, &mut [(&["both", "up"], &mut up), (&["both", "down"], &mut down)]);
    [up.finish(), down.finish()]
}

/// Reads the `phase` tables of `table`: for each direction its stages are those under its keys.
fn phases(table: &mut Table<'_>, directions: &mut [(&[&'static str; 2], &mut Stages)]) {
    /// The maximum that fits into the bits of a packet.
    const MOST: usize = 63;
    let mut tables = table.tables("phase");
    let repeats = table.value("repeat");
    if let (Some(repeat), true) = (&repeats, tables.is_empty()) {
        repeat.problem("repeat has no effect without phases", "remove repeat, or write [[path.phase]]");
    }
    let repeats = repeats.is_some_and(|value| value.flag().unwrap_or(false));
    if tables.len() > MOST {
        table.problem(format!("{} phases are too many", tables.len()), format!("at most {MOST}"));
        return;
    }
    let lengths: Vec<Option<Duration>> = tables
        .iter_mut()
        .map(|phase| phase.required("for", "\"10s\"").and_then(|value| positive(&value)))
        .collect();
    let period = lengths.iter().flatten().fold(Duration::ZERO, |sum, length| sum + *length);
    let (mut from, count) = (Duration::ZERO, tables.len());
    for (number, (mut phase, length)) in (1..).zip(tables.into_iter().zip(lengths)) {
        let end = from + length.unwrap_or_default();
        let is_last = usize::from(number) == count;
        let when = Phase {
            number,
            from,
            // Without repetition, the last phase stays.
            until: (repeats || !is_last).then_some(end),
            period: repeats.then_some(period),
        };
        for (keys, stages) in directions.iter_mut() {
            for key in *keys {
                if let Some(value) = phase.value(key) {
                    stages.read_in(&value, when);
                }
            }
        }
        phase.finish();
        from = end;
    }
}

/// The paths that have been read.
#[derive(Default)]
struct Paths {
    list: Vec<PathDraft>,
    shares: Shares,
    pairs: HashSet<(usize, usize)>,
}

impl Paths {
    fn add(&mut self, path: PathDraft, table: &Table<'_>, ports: &[&str]) {
        if !self.pairs.insert((path.from, path.to)) {
            let (from, to) = (ports[path.from], ports[path.to]);
            table.problem(
                format!("there is already a path from \"{from}\" to \"{to}\""),
                "put its stages there",
            );
        }
        self.shares.add(&path, table, ports);
        self.list.push(path);
    }
}
