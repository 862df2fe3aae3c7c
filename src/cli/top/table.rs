//! Tables of a frame. Columns on the right and rows at the bottom are left out if there is no room.

use std::ops::Range;

use serde_json::Value;

use crate::cli::top::number::{count, dropped, growth, rate, short, time_at};
use crate::cli::top::view::{Line, Mark, plain};

/// Minimum width of a name, the width that it gets before numbers if it is long enough, and its maximum width.
const NAME: (usize, usize, usize) = (14, 24, 40);

/// A number of a row: its value, its earlier value, and how many seconds ago that was.
type Cell = fn(&Value, Option<&Value>, f64) -> String;

/// A kind of row.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    /// The columns; the most important first.
    columns: &'static [(&'static str, Cell)],
    /// As [`NAME`].
    name: (usize, usize, usize),
}

/// For a port: the counters of the device from its own side, so what it sent came in here.
pub(super) const PORTS: Table = Table {
    title: "port",
    columns: &[
        ("in/s", |now, before, seconds| rate(now, before, "/device/tx_packets", seconds)),
        ("out/s", |now, before, seconds| rate(now, before, "/device/rx_packets", seconds)),
        ("refused", |now, _, _| count(now, "/device/rx_dropped")),
        ("full", |now, _, _| count(now, "/device/tx_dropped")),
    ],
    name: NAME,
};

pub(super) const PATHS: Table = Table {
    title: "path",
    columns: &[
        ("delay p50", |now, _, _| time_at(now, "/delay_ns/p50")),
        ("delay p99", |now, _, _| time_at(now, "/delay_ns/p99")),
        ("late p50", |now, _, _| time_at(now, "/lateness_ns/p50")),
        ("late p99", |now, _, _| time_at(now, "/lateness_ns/p99")),
        ("in/s", entering),
    ],
    name: NAME,
};

pub(super) const STAGES: Table = Table {
    title: "stage",
    columns: &[
        ("seen/s", seen),
        ("dropped", |now, _, _| short(dropped(&now["dropped"], None) as f64)),
        ("held", |now, _, _| count(now, "/held_packets")),
        ("delayed", |now, _, _| count(now, "/delayed/packets")),
        ("longest", |now, _, _| time_at(now, "/longest_wait_ns")),
        ("rewritten", |now, _, _| count(now, "/rewritten/packets")),
        ("created", |now, _, _| count(now, "/created/packets")),
        ("acted", |now, _, _| count(now, "/acted/packets")),
    ],
    name: NAME,
};

/// The largest number of packets that a stage has seen, including those that passed in the kernel; one of the stages
/// may be paused.
fn entering(now: &Value, before: Option<&Value>, seconds: f64) -> String {
    let stages = now["stages"].as_array().map_or(0, Vec::len);
    let seen = |stage| growth(now, before, &format!("/stages/{stage}/seen/packets"), seconds);
    short((0..stages).map(seen).fold(0.0, f64::max))
}

/// The ends of a flow are long: they get room before the numbers.
pub(super) const FLOWS: Table = Table {
    title: "flow",
    columns: &[
        ("pkts/s", |now, before, seconds| rate(now, before, "/packets", seconds)),
        ("packets", |now, _, _| count(now, "/packets")),
    ],
    name: (30, 48, 60),
};

fn seen(now: &Value, before: Option<&Value>, seconds: f64) -> String {
    if now["paused"] == true { "paused".to_owned() } else { rate(now, before, "/seen/packets", seconds) }
}

/// Width of a number, with the space before it.
const fn width(heading: &str) -> usize {
    if heading.len() < 7 { 8 } else { heading.len() + 1 }
}

impl Table {
    /// A heading and these rows, each now and before, with as many columns as fit into `room`.
    pub(super) fn lines(
        &self,
        rows: &[(Value, Value)],
        shown: Range<usize>,
        room: usize,
        seconds: f64,
    ) -> Vec<Line> {
        let shown = &rows[shown.start.min(rows.len())..shown.end.min(rows.len())];
        if shown.is_empty() {
            return Vec::new();
        }
        let name = |(now, _): &(Value, Value)| now["name"].as_str().unwrap_or_default().chars().count();
        let longest = shown.iter().map(name).max().unwrap_or(0);
        let (least, wanted, most) = self.name;
        let mut taken = longest.clamp(least, wanted);
        let fits = |(heading, _): &&(&str, Cell)| {
            taken += width(heading);
            taken <= room
        };
        let columns: Vec<&(&str, Cell)> = self.columns.iter().take_while(fits).collect();
        let numbers: usize = columns.iter().map(|(heading, _)| width(heading)).sum();
        let name_width = room.saturating_sub(numbers).min(most);
        let row = |name: &str, cell: &dyn Fn(&(&str, Cell)) -> String| {
            let name: String = name.chars().take(name_width).collect();
            let cells =
                columns.iter().map(|column| format!("{:>width$}", cell(column), width = width(column.0)));
            format!("{name:<name_width$}{}", cells.collect::<Vec<_>>().concat())
        };
        let title = self.title;
        let more = if shown.len() < rows.len() {
            format!("{title} ({} of {})", shown.len(), rows.len())
        } else {
            title.to_owned()
        };
        let heading = row(&more, &|(heading, _)| (*heading).to_owned());
        let of_row = |(now, before): &(Value, Value)| {
            let name = now["name"].as_str().unwrap_or_default();
            plain(row(name, &|(_, cell)| cell(now, Some(before), seconds)))
        };
        let heading = Line { text: heading, mark: Some(Mark::Heading) };
        std::iter::once(heading).chain(shown.iter().map(of_row)).collect()
    }
}
