//! `[[path]]`, one direction from a port to a port, and `[[link]]`, both directions at once.

use crate::config::plan::PathPlan;
use crate::config::port::port_index;
use crate::config::reader::{Table, Value};
use crate::config::stage::Stages;

/// Reads every `[[path]]` and `[[link]]` of `root`; `ports` are the names that they may use.
pub fn read_paths(root: &mut Table<'_>, ports: &[&str]) -> Vec<PathPlan> {
    let mut paths = Vec::new();
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
        if let (Some(from), Some(to)) = (from, to) {
            add(&mut paths, PathPlan { from, to, stages: stages.finish() }, &table, ports);
        }
        table.finish();
    }
    for mut table in root.tables("link") {
        let between =
            table.required("between", "[\"left\", \"right\"]").and_then(|value| ends(&value, ports));
        let [up, down] = directions(&mut table);
        if let Some([left, right]) = between {
            add(&mut paths, PathPlan { from: left, to: right, stages: up }, &table, ports);
            add(&mut paths, PathPlan { from: right, to: left, stages: down }, &table, ports);
        }
        table.finish();
    }
    paths
}

/// The stages of a link from its first end to its second and back: those for both, then each direction's own.
fn directions(table: &mut Table<'_>) -> [Vec<crate::pipeline::params::StageParams>; 2] {
    let both = table.value("both");
    ["up", "down"].map(|key| {
        let mut stages = Stages::default();
        for value in both.iter().chain(table.value(key).iter()) {
            stages.read(value);
        }
        stages.finish()
    })
}

fn ends(value: &Value<'_>, ports: &[&str]) -> Option<[usize; 2]> {
    let items = value.items();
    let [left, right] = items.as_slice() else {
        value.problem("a link is between two ports", "write between = [\"left\", \"right\"]");
        return None;
    };
    let (left, right) = (port_index(left, ports), port_index(right, ports));
    let ends = [left?, right?];
    if ends[0] == ends[1] {
        value.problem("both ends are the same port", "name two ports");
        return None;
    }
    Some(ends)
}

fn add(paths: &mut Vec<PathPlan>, path: PathPlan, table: &Table<'_>, ports: &[&str]) {
    if paths.iter().any(|known| (known.from, known.to) == (path.from, path.to)) {
        let (from, to) = (ports[path.from], ports[path.to]);
        table.problem(format!("there is already a path from \"{from}\" to \"{to}\""), "put its stages there");
    }
    paths.push(path);
}
