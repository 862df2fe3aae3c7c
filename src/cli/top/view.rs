//! A frame of the live view: pure text, made from two samples.

use serde_json::Value;

use crate::cli::top::number::{growth, number};
use crate::cli::top::table::{FLOWS, PATHS, PORTS, STAGES};
use crate::cli::top::totals::totals;

/// The state of a running instance at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// `/v1/counters`.
    pub(super) counters: Value,
    /// `/v1/ports`.
    pub(super) ports: Value,
    /// `/v1/flows`.
    pub(super) flows: Value,
    /// The ids of the stages that are paused.
    pub(super) paused: Vec<String>,
}

/// The input at the terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    /// The number of the chosen stage.
    pub(super) chosen: usize,
    /// The last line of the frame.
    pub(super) line: &'a str,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// The kind of a line, for terminals with colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Heading,
    Warning,
    Chosen,
}

impl Mark {
    /// The control sequence before such a line.
    pub(super) const fn sequence(self) -> &'static str {
        match self {
            Self::Heading => "\x1b[1m",
            Self::Warning => "\x1b[31m",
            Self::Chosen => "\x1b[7m",
        }
    }
}

/// A line of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) mark: Option<Mark>,
}

/// Maximum number of flows that are shown.
const FLOWS_SHOWN: usize = 8;

/// The lines of a frame, no more and no longer than fit.
pub(super) fn frame(
    state: &Value,
    (now, before): (&Sample, &Sample),
    drops: &[String],
    cursor: Option<Cursor<'_>>,
    whole: Size,
) -> Vec<Line> {
    // The last line is for the cursor.
    let size = Size { rows: whole.rows.saturating_sub(usize::from(cursor.is_some())), ..whole };
    let seconds = (number(&now.counters, "/at_ns") - number(&before.counters, "/at_ns")).max(1.0) / 1e9;
    let mut lines = totals(state, (now, before), seconds, size.columns);
    let ports: Vec<_> = list(&now.ports).into_iter().zip(list(&before.ports)).collect();
    let paths = paired(list(&now.counters["paths"]), &list(&before.counters["paths"]), "name");
    let mut stages = paired(stages(now), &stages(before), "id");
    if let Some((stage, _)) = cursor.and_then(|cursor| stages.get_mut(cursor.chosen)) {
        // Visible without colour too.
        stage["name"] = format!(">{}", stage["name"].as_str().unwrap_or_default()).into();
    }
    let flows = busiest(now, before, seconds);
    // The most important first.
    let wanted = [stages.len(), paths.len(), drops.len(), flows.len().min(FLOWS_SHOWN), ports.len()];
    let [of_stages, of_paths, of_drops, of_flows, of_ports] =
        share(size.rows.saturating_sub(lines.len()), wanted);
    lines.extend(PORTS.lines(&ports, 0..of_ports, size.columns, seconds));
    lines.extend(PATHS.lines(&paths, 0..of_paths, size.columns, seconds));
    // The chosen stage is always shown.
    let chosen = cursor.map(|cursor| cursor.chosen);
    let first = chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(of_stages.max(1)));
    let mut shown = STAGES.lines(&stages, first..first + of_stages, size.columns, seconds);
    if let Some(line) = chosen.and_then(|chosen| shown.get_mut(1 + chosen - first)) {
        line.mark = Some(Mark::Chosen);
    }
    lines.extend(shown);
    lines.extend(FLOWS.lines(&flows, 0..of_flows, size.columns, seconds));
    if of_drops > 0 {
        lines.push(Line { text: "latest drops".to_owned(), mark: Some(Mark::Heading) });
        lines.extend(drops[drops.len() - of_drops..].iter().cloned().map(plain));
    }
    lines.truncate(size.rows);
    if let Some(cursor) = cursor.filter(|_| whole.rows > 0) {
        lines.push(plain(cursor.line.to_owned()));
    }
    for line in &mut lines {
        if line.text.chars().count() > size.columns {
            line.text = line.text.chars().take(size.columns.saturating_sub(1)).chain(['…']).collect();
        }
    }
    lines
}

/// How many of `room` lines each section gets, if it wants this many rows and has a heading. Each section gets one
/// row before any gets two, and earlier sections come first.
fn share<const N: usize>(mut room: usize, wanted: [usize; N]) -> [usize; N] {
    let mut rows = [0; N];
    loop {
        let mut is_done = true;
        for (rows, wanted) in rows.iter_mut().zip(wanted) {
            let lines = if *rows == 0 { 2 } else { 1 };
            if *rows < wanted && lines <= room {
                *rows += 1;
                room -= lines;
                is_done = false;
            }
        }
        if is_done {
            return rows;
        }
    }
}

pub(super) const fn plain(text: String) -> Line {
    Line { text, mark: None }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// All stages, each with its path before its name.
fn stages(sample: &Sample) -> Vec<Value> {
    let paths = sample.counters["paths"].as_array().into_iter().flatten();
    let of_path = |path: &Value| {
        let name = path["name"].as_str().unwrap_or_default().to_owned();
        list(&path["stages"]).into_iter().map(move |mut stage| {
            let id = format!("{name}/{}", stage["name"].as_str().unwrap_or_default());
            stage["paused"] = sample.paused.contains(&id).into();
            stage["name"] = id.clone().into();
            stage["id"] = id.into();
            stage
        })
    };
    paths.flat_map(of_path).collect()
}

/// The ids of all stages, in the order in which a frame has them.
pub(super) fn ids(sample: &Sample) -> Vec<String> {
    stages(sample).iter().map(|stage| stage["id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The flows with the highest packet rate, then those with the most packets, each with its earlier numbers.
fn busiest(now: &Sample, before: &Sample, seconds: f64) -> Vec<(Value, Value)> {
    let named = |sample: &Sample| {
        let mut flows = list(&sample.flows["flows"]);
        for flow in &mut flows {
            let text = |key: &str| flow[key].as_str().unwrap_or_default();
            let name = format!("{} {} > {}", text("protocol"), text("source"), text("destination"));
            // The same addresses may come in by two ports.
            let id = format!("{} {name}", text("port"));
            (flow["name"], flow["id"]) = (name.into(), id.into());
        }
        flows
    };
    let earlier = named(before);
    let found = |flow: &Value| earlier.iter().find(|other| other["id"] == flow["id"]).cloned();
    // A new flow has begun since, unless the earlier list was full: then it may only have been left out.
    let is_all = before.flows["known"].as_u64().is_none_or(|known| known <= earlier.len() as u64);
    let unknown = |flow: &Value| if is_all { Value::Null } else { flow.clone() };
    let with_before = |flow: Value| (flow.clone(), found(&flow).unwrap_or_else(|| unknown(&flow)));
    let mut flows: Vec<_> = named(now).into_iter().map(with_before).collect();
    let rate = |(now, before): &(Value, Value)| growth(now, Some(before), "/packets", seconds);
    // Stable: those of the same rate stay in the order of their packets.
    flows.sort_by(|one, other| rate(other).total_cmp(&rate(one)));
    flows
}

/// Each item with its earlier value; a new one with itself.
fn paired(now: Vec<Value>, before: &[Value], key: &str) -> Vec<(Value, Value)> {
    let earlier = |one: &Value| before.iter().find(|other| other[key] == one[key]).cloned();
    now.into_iter().map(|one| (one.clone(), earlier(&one).unwrap_or(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(seconds: u64, packets: u64, stages: usize) -> Sample {
        let amount = |packets: u64| json!({ "packets": packets, "bytes": 1_000 * packets });
        let drops = json!({
            "loss": { "packets": packets / 10, "bytes": 1, "ordered": true },
            "device_refused": { "packets": 3, "bytes": 1, "ordered": false },
        });
        let stage = |number| {
            json!({
                "name": format!("loss-{number}"), "type": "loss", "seen": amount(packets), "acted": amount(1),
                "dropped": drops, "created": amount(0), "rewritten": amount(0), "delayed": amount(12_345_678),
                "longest_wait_ns": 2_500_000, "held_packets": 7,
            })
        };
        let counters = json!({
            "at_ns": seconds * 1_000_000_000, "received": amount(packets), "sent": amount(packets - packets / 10),
            "dropped": drops, "held": amount(5), "connections": { "named": 2 }, "evicted_flows": 0,
            "lateness_ns": { "count": 9, "p50": 2_000, "p99": 30_000, "p99.9": 400_000, "max": 5_000_000 },
            "paths": [{
                "name": "left>right", "stages": (0..stages).map(stage).collect::<Vec<_>>(),
                "delay_ns": { "count": packets / 2, "p50": 51_000_000, "p99": 60_000_000 },
                "lateness_ns": { "count": packets, "p50": 3_000, "p99": 90_000 },
            }],
        });
        let flow = |number: u64, packets: u64| {
            json!({
                "packets": packets, "protocol": "TCP", "source": format!("10.77.1.2:{number}"),
                "destination": "10.77.2.2:443",
            })
        };
        // The first has the most packets, and the last comes fastest.
        let flows = json!({ "known": 30, "flows": (0..30).map(|n| flow(n, 90_000 - n + n * packets)).collect::<Vec<_>>() });
        let port = |name: &str| {
            let device =
                json!({ "tx_packets": packets, "rx_packets": packets / 2, "tx_dropped": 0, "rx_dropped": 0 });
            json!({ "name": name, "device": device })
        };
        Sample {
            counters,
            ports: json!([port("left"), port("right")]),
            flows,
            paused: vec!["left>right/loss-1".to_owned()],
        }
    }

    fn shown(stages: usize, drops: usize, columns: usize, rows: usize) -> Vec<String> {
        shown_with(stages, drops, None, (columns, rows))
    }

    fn shown_with(
        stages: usize,
        drops: usize,
        cursor: Option<Cursor<'_>>,
        (columns, rows): (usize, usize),
    ) -> Vec<String> {
        let state = json!({ "command": "run", "config": "a.toml", "pid": 77, "seed": 7 });
        let drops: Vec<String> = (0..drops)
            .map(|n| format!("{n}.5 left>right/loss-0 0.0031 < 0.0100 TCP 10.0.0.1:5 > 10.0.0.2:80"))
            .collect();
        let size = Size { columns, rows };
        let (now, before) = (sample(6, 3_000, stages), sample(4, 1_000, stages));
        frame(&state, (&now, &before), &drops, cursor, size).into_iter().map(|line| line.text).collect()
    }

    /// A flow that comes into a list that was full has not sent all of its packets since.
    #[test]
    fn a_flow_that_was_not_in_the_list_has_no_rate() {
        let flow = |port: &str, packets: u64| json!({ "port": port, "packets": packets, "protocol": "UDP", "source": "a", "destination": "b" });
        let list = |known: u64, flows: Value| Sample {
            flows: json!({ "known": known, "flows": flows }),
            ..sample(1, 1, 0)
        };
        let rates = |known| {
            let before = list(known, json!([flow("left", 100)]));
            let now = list(known + 1, json!([flow("right", 5_000), flow("left", 110)]));
            let of = |(now, before): (Value, Value)| growth(&now, Some(&before), "/packets", 1.0);
            busiest(&now, &before, 1.0).into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(rates(1), [5_000.0, 10.0], "it is new");
        assert_eq!(rates(2), [10.0, 0.0], "it may have been the one that was not shown");
    }

    #[test]
    fn a_frame_has_everything() {
        let text = shown(2, 30, 80, 24).join("\n");
        for part in [
            "faultwire run a.toml  pid 77  seed 7  6s",
            "received 1000/s 8.00Mbit/s  sent 900/s 7.20Mbit/s  held 5",
            "late p50 2us p99 30us p99.9 400us  max 5.0ms  connections 2",
            "dropped as ordered 300: loss 300",
            "dropped otherwise 3: device_refused 3",
            "left>right/loss-1",
            "29.5 left>right/loss-0",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let row = text.lines().find(|line| line.starts_with("left>right/loss-0")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..], ["1000", "303", "7", "12.35M", "2.5ms", "0", "0"], "{text}");
        let row = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("{start}: {text}")).split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(row("left>right ")[1..], ["51.0ms", "60.0ms", "3us", "90us", "1000"], "{text}");
        let flows: Vec<_> = text.lines().filter(|line| line.starts_with("TCP ")).collect();
        assert!(flows.len() > 1 && flows[0].starts_with("TCP 10.77.1.2:29 > 10.77.2.2:443 "), "{text}");
        assert!(flows[0].ends_with(" 29.0k  177.0k"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.starts_with("right ") && line.contains(" 1000 ") && line.contains(" 500 "))
        );
    }

    /// The chosen stage is among those that are shown, however many there are, and the last line is the keyboard's.
    #[test]
    fn the_chosen_stage_is_shown() {
        for (chosen, size) in
            [(0, (80, 24)), (2, (80, 24)), (999, (80, 24)), (500, (80, 16)), (999, (40, 30))]
        {
            let lines = shown_with(1_000, 5, Some(Cursor { chosen, line: "mark: x_" }), size);
            assert!(lines.len() <= size.1);
            assert_eq!(lines.last().unwrap(), "mark: x_");
            let start = format!(">left>right/loss-{chosen}");
            assert!(lines.iter().any(|line| line.starts_with(&start)), "{chosen} {size:?}: {lines:#?}");
        }
        let lines = shown_with(3, 0, Some(Cursor { chosen: 0, line: "" }), (80, 24));
        let paused = lines.iter().find(|line| line.starts_with("left>right/loss-1 "));
        assert!(paused.is_some_and(|line| line.contains(" paused ")), "{lines:#?}");
        assert_eq!(shown_with(3, 0, Some(Cursor { chosen: 0, line: "keys" }), (80, 1)), ["keys"]);
    }

    /// Whatever there is to show, it fits; the newest drop is there, and the first stage.
    #[test]
    fn every_frame_fits_its_terminal() {
        for (columns, rows) in [(80, 24), (40, 24), (40, 12), (20, 8), (1, 1), (200, 60), (0, 0)] {
            for (stages, drops) in [(0, 0), (3, 0), (3, 5), (1_000, 256)] {
                let lines = shown(stages, drops, columns, rows);
                assert!(lines.len() <= rows, "{columns}x{rows}: {lines:#?}");
                assert!(
                    lines.iter().all(|line| line.chars().count() <= columns.max(1)),
                    "{columns}x{rows}: {lines:#?}"
                );
                if columns >= 40 && rows >= 24 {
                    let newest = format!("{}.5 ", drops.max(1) - 1);
                    assert!(drops == 0 || lines.last().unwrap().starts_with(&newest), "{lines:#?}");
                    assert!(
                        stages == 0 || lines.iter().any(|line| line.starts_with("left>right/loss-0")),
                        "{lines:#?}"
                    );
                }
            }
        }
    }
}
