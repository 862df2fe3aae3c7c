//! What follows a pattern or a timetable.

use crate::pipeline::params::{DelayModelParams, PatternFault, PatternParams, Scope, Timetable};
use crate::pipeline::time::Duration;

/// Values that are shown of a timetable.
const SHOWN: usize = 4;

pub(super) fn delay(params: &DelayModelParams) -> String {
    let order = if params.reorder { "order not kept" } else { "order kept" };
    format!("delay {}, {order}", values(&params.delays, Duration::to_string))
}

pub(super) fn pattern(params: &PatternParams) -> String {
    let what = match params.fault {
        PatternFault::Loss { ecn: false } => "loss",
        PatternFault::Loss { ecn: true } => "loss (marking ECN-capable ones instead)",
        PatternFault::Duplicate => "copies",
    };
    let row = match params.scope {
        Scope::Flow => "each flow",
        Scope::Path => "the path",
    };
    let pattern = |chances: &Vec<_>| {
        let chances: Vec<String> = chances.iter().take(SHOWN).map(ToString::to_string).collect();
        chances.join(" then ")
    };
    let patterns = values(&params.patterns, pattern);
    format!("{what} of {patterns}, by how many of {row} were hit in a row before")
}

/// The first values, and what comes after the last.
fn values<T>(table: &Timetable<T>, name: impl Fn(&T) -> String) -> String {
    let shown: Vec<String> = table.values().take(SHOWN).map(name).collect();
    let more = if table.values().len() > SHOWN { ", ..." } else { "" };
    let end = match table.period() {
        Some(period) => format!(", again every {period}"),
        None if table.values().len() > 1 => ", the last one stays".to_owned(),
        None => String::new(),
    };
    format!("{}{more}{end}", shown.join(", "))
}
