//! A frame of the live view: pure text, made of two samples.

use std::ops::Range;

use serde_json::Value;

/// What a running instance says at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// `/v1/counters`.
    pub(super) counters: Value,
    /// `/v1/ports`.
    pub(super) ports: Value,
    /// The ids of the stages that are paused.
    pub(super) paused: Vec<String>,
}

/// What somebody at the terminal does.
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

/// What a line is, for terminals with colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Heading,
    Warning,
    Chosen,
}

impl Mark {
    /// What a terminal is sent before such a line.
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

/// Drops have at least so many lines, if there are any.
const DROPS: usize = 4;
/// Columns that a name has at least.
const NAME: usize = 14;

type Cell = fn(&Value, Option<&Value>, f64) -> String;

/// Columns of stages: what is told first also in a narrow window.
const STAGE: [(&str, Cell); 7] = [
    ("seen/s", seen),
    ("dropped", |now, _, _| short(dropped(&now["dropped"], None) as f64)),
    ("delayed", |now, _, _| count(now, "/delayed/packets")),
    ("longest", |now, _, _| time(number(now, "/longest_wait_ns"))),
    ("rewritten", |now, _, _| count(now, "/rewritten/packets")),
    ("created", |now, _, _| count(now, "/created/packets")),
    ("acted", |now, _, _| count(now, "/acted/packets")),
];

fn seen(now: &Value, before: Option<&Value>, seconds: f64) -> String {
    if now["paused"] == true { "paused".to_owned() } else { rate(now, before, "/seen/packets", seconds) }
}

/// Columns of ports: the device's counters from its own side, so what it sent came in here.
const PORT: [(&str, Cell); 4] = [
    ("in/s", |now, before, seconds| rate(now, before, "/device/tx_packets", seconds)),
    ("out/s", |now, before, seconds| rate(now, before, "/device/rx_packets", seconds)),
    ("refused", |now, _, _| count(now, "/device/rx_dropped")),
    ("full", |now, _, _| count(now, "/device/tx_dropped")),
];

/// The lines of a frame, none longer and not more than there is room for.
pub(super) fn frame(
    state: &Value,
    (now, before): (&Sample, &Sample),
    drops: &[String],
    cursor: Option<Cursor<'_>>,
    size: Size,
) -> Vec<Line> {
    let whole = size;
    // The last line is the cursor's.
    let size = Size { rows: size.rows.saturating_sub(usize::from(cursor.is_some())), ..size };
    let seconds = (number(&now.counters, "/at_ns") - number(&before.counters, "/at_ns")).max(1.0) / 1e9;
    let mut lines = totals(state, now, before, seconds);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rows = |now: Vec<Value>, before: Vec<Value>| now.into_iter().zip(before).collect::<Vec<_>>();
    let ports = rows(list(&now.ports), list(&before.ports));
    let mut stages = paired(stages(now), &stages(before));
    if let Some((stage, _)) = cursor.and_then(|cursor| stages.get_mut(cursor.chosen)) {
        // It is seen also without colour.
        stage["name"] = format!(">{}", stage["name"].as_str().unwrap_or_default()).into();
    }
    let room = size.rows.saturating_sub(lines.len() + 2 + if drops.is_empty() { 0 } else { DROPS + 1 });
    let ports_shown = ports.len().min(room / 3);
    lines.extend(table("port", &PORT, &ports, (0..ports_shown, size.columns), seconds));
    let stages_shown = stages.len().min(room.saturating_sub(ports_shown));
    // The chosen stage is among those that are shown.
    let chosen = cursor.map(|cursor| cursor.chosen);
    let first = chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(stages_shown.max(1)));
    let mut shown = table("stage", &STAGE, &stages, (first..first + stages_shown, size.columns), seconds);
    if let Some(line) = chosen.and_then(|chosen| shown.get_mut(1 + chosen - first)) {
        line.mark = Some(Mark::Chosen);
    }
    lines.extend(shown);
    let left = size.rows.saturating_sub(lines.len() + 1);
    if left > 0 && !drops.is_empty() {
        lines.push(Line { text: "latest drops".to_owned(), mark: Some(Mark::Heading) });
        lines.extend(drops[drops.len().saturating_sub(left)..].iter().cloned().map(plain));
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

fn plain(text: String) -> Line {
    Line { text, mark: None }
}

fn totals(state: &Value, now: &Sample, before: &Sample, seconds: f64) -> Vec<Line> {
    let (counters, earlier) = (&now.counters, Some(&before.counters));
    let text = |key: &str| state[key].as_str().unwrap_or_default();
    let flow = |side: &str| {
        let packets = rate(counters, earlier, &format!("/{side}/packets"), seconds);
        let bytes = format!("/{side}/bytes");
        let bits = (number(counters, &bytes) - number(&before.counters, &bytes)) * 8.0 / seconds;
        format!("{side} {packets}/s {}bit/s", short(bits))
    };
    let late = |quantile: &str| time(number(counters, &format!("/lateness_ns/{quantile}")));
    let drops = &counters["dropped"];
    let reasons = |ordered: bool| {
        let of_kind = drops.as_object().into_iter().flatten();
        let mut reasons: Vec<(u64, &str)> = of_kind
            .filter(|(_, amount)| amount["ordered"] == ordered)
            .map(|(name, amount)| (amount["packets"].as_u64().unwrap_or(0), name.as_str()))
            .collect();
        reasons.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
        reasons
            .iter()
            .map(|(packets, name)| format!(" {name} {}", short(*packets as f64)))
            .collect::<Vec<_>>()
            .concat()
    };
    let mut lines = vec![
        Line {
            text: format!(
                "faultwire {} {}  pid {}  seed {}  {:.0}s",
                text("command"),
                text("config"),
                state["pid"],
                state["seed"],
                number(counters, "/at_ns") / 1e9
            ),
            mark: Some(Mark::Heading),
        },
        plain(format!("{}  {}", flow("received"), flow("sent"))),
        plain(format!(
            "held {}  late p50 {} p99 {} p99.9 {} max {}",
            count(counters, "/held/packets"),
            late("p50"),
            late("p99"),
            late("p99.9"),
            late("max")
        )),
        plain(format!(
            "connections {}  flows forgotten {}",
            count(counters, "/connections/named"),
            count(counters, "/evicted_flows")
        )),
        plain(format!("dropped as ordered {}:{}", short(dropped(drops, Some(true)) as f64), reasons(true))),
    ];
    let others = dropped(drops, Some(false));
    if others > 0 {
        let text = format!("dropped otherwise {}:{}", short(others as f64), reasons(false));
        lines.push(Line { text, mark: Some(Mark::Warning) });
    }
    lines
}

/// A heading and a row for each of the first `shown`; as many columns as there is room for.
fn table(
    title: &str,
    columns: &[(&str, Cell)],
    rows: &[(Value, Value)],
    (range, width): (Range<usize>, usize),
    seconds: f64,
) -> Vec<Line> {
    const WIDTH: usize = 10;
    let shown = &rows[range.start.min(rows.len())..range.end.min(rows.len())];
    if shown.is_empty() {
        return Vec::new();
    }
    let columns = &columns[..columns.len().min(width.saturating_sub(NAME) / WIDTH)];
    let name_width = width.saturating_sub(columns.len() * WIDTH).min(40);
    let more = if shown.len() < rows.len() {
        format!("{title} ({} of {})", shown.len(), rows.len())
    } else {
        title.to_owned()
    };
    let row = |name: &str, cells: Vec<String>| {
        let name: String = name.chars().take(name_width).collect();
        let cells = cells.iter().map(|cell| format!("{cell:>WIDTH$}")).collect::<Vec<_>>().concat();
        format!("{name:<name_width$}{cells}")
    };
    let heading = row(&more, columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    let mut lines = vec![Line { text: heading, mark: Some(Mark::Heading) }];
    for (now, before) in shown {
        let cells = columns.iter().map(|(_, cell)| cell(now, Some(before), seconds)).collect();
        lines.push(plain(row(now["name"].as_str().unwrap_or_default(), cells)));
    }
    lines
}

/// All stages, each with its path before its name.
fn stages(sample: &Sample) -> Vec<Value> {
    let paths = sample.counters["paths"].as_array().into_iter().flatten();
    let of_path = |path: &Value| {
        let name = path["name"].as_str().unwrap_or_default().to_owned();
        let stages = path["stages"].as_array().cloned().unwrap_or_default();
        stages.into_iter().map(move |mut stage| {
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

/// Each stage with what it was before; one that is new with itself.
fn paired(now: Vec<Value>, before: &[Value]) -> Vec<(Value, Value)> {
    let earlier = |stage: &Value| before.iter().find(|other| other["id"] == stage["id"]).cloned();
    now.into_iter().map(|stage| (stage.clone(), earlier(&stage).unwrap_or(stage))).collect()
}

/// Packets of all reasons, or of those that were ordered or not.
fn dropped(drops: &Value, ordered: Option<bool>) -> u64 {
    let reasons = drops.as_object().into_iter().flatten().map(|(_, amount)| amount);
    let wanted = reasons.filter(|amount| ordered.is_none_or(|ordered| amount["ordered"] == ordered));
    wanted.filter_map(|amount| amount["packets"].as_u64()).sum()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

fn count(value: &Value, pointer: &str) -> String {
    short(number(value, pointer))
}

fn rate(now: &Value, before: Option<&Value>, pointer: &str, seconds: f64) -> String {
    let since = before.map_or(0.0, |before| number(before, pointer));
    short((number(now, pointer) - since).max(0.0) / seconds)
}

/// At most seven characters: `12.34 M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e12 => format!("{:.2}T", v / 1e12),
        v if v >= 1e9 => format!("{:.2}G", v / 1e9),
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn time(nanos: f64) -> String {
    match nanos {
        n if n <= 0.0 => "-".to_owned(),
        n if n < 1e6 => format!("{:.0}us", n / 1e3),
        n if n < 1e9 => format!("{:.1}ms", n / 1e6),
        n => format!("{:.1}s", n / 1e9),
    }
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
                "longest_wait_ns": 2_500_000,
            })
        };
        let counters = json!({
            "at_ns": seconds * 1_000_000_000, "received": amount(packets), "sent": amount(packets - packets / 10),
            "dropped": drops, "held": amount(5), "connections": { "named": 2 }, "evicted_flows": 0,
            "lateness_ns": { "count": 9, "p50": 2_000, "p99": 30_000, "p99.9": 400_000, "max": 5_000_000 },
            "paths": [{ "name": "left>right", "stages": (0..stages).map(stage).collect::<Vec<_>>() }],
        });
        let port = |name: &str| {
            let device =
                json!({ "tx_packets": packets, "rx_packets": packets / 2, "tx_dropped": 0, "rx_dropped": 0 });
            json!({ "name": name, "device": device })
        };
        Sample {
            counters,
            ports: json!([port("left"), port("right")]),
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

    #[test]
    fn a_frame_has_everything() {
        let text = shown(2, 30, 80, 24).join("\n");
        for part in [
            "faultwire run a.toml  pid 77  seed 7  6s",
            "received 1000/s 8.00Mbit/s  sent 900/s 7.20Mbit/s",
            "held 5  late p50 2us p99 30us p99.9 400us max 5.0ms",
            "connections 2",
            "dropped as ordered 300: loss 300",
            "dropped otherwise 3: device_refused 3",
            "left>right/loss-1",
            "29.5 left>right/loss-0",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let row = text.lines().find(|line| line.starts_with("left>right/loss-0")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..], ["1000", "303", "12.35M", "2.5ms", "0", "0"], "{text}");
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
