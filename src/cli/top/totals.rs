//! The first lines of a frame: the numbers of the whole run.

use serde_json::Value;

use crate::cli::top::number::{count, dropped, growth, number, rate, short, time_at};
use crate::cli::top::view::{Line, Mark, Sample, plain};

/// The lines, at most `columns` wide, unless parts that belong together are longer.
pub(super) fn totals(
    state: &Value,
    (now, before): (&Sample, &Sample),
    seconds: f64,
    columns: usize,
) -> Vec<Line> {
    let (counters, earlier) = (&now.counters, Some(&before.counters));
    let flow = |side: &str| {
        let packets = rate(counters, earlier, &format!("/{side}/packets"), seconds);
        let bits = 8.0 * growth(counters, earlier, &format!("/{side}/bytes"), seconds);
        format!("{side} {packets}/s {}bit/s", short(bits))
    };
    let late = |quantile: &str| time_at(counters, &format!("/lateness_ns/{quantile}"));
    let drops = &counters["dropped"];
    let mut lines = vec![Line { text: heading(state, counters), mark: Some(Mark::Heading) }];
    let parts = [
        flow("received"),
        flow("sent"),
        format!("held {}", count(counters, "/held/packets")),
        format!("late p50 {} p99 {} p99.9 {}", late("p50"), late("p99"), late("p99.9")),
        format!("max {}", late("max")),
        format!("connections {}", count(counters, "/connections/named")),
        format!("forgotten {}", count(counters, "/evicted_flows")),
    ];
    lines.extend(filled(&parts, columns).into_iter().map(plain));
    let ordered = format!("dropped as ordered {}:", short(dropped(drops, Some(true)) as f64));
    lines.push(plain(ordered + &reasons(drops, true)));
    let others = dropped(drops, Some(false));
    if others > 0 {
        let text = format!("dropped otherwise {}:{}", short(others as f64), reasons(drops, false));
        lines.push(Line { text, mark: Some(Mark::Warning) });
    }
    lines
}

fn heading(state: &Value, counters: &Value) -> String {
    let text = |key: &str| state[key].as_str().unwrap_or_default();
    format!(
        "faultwire {} {}  pid {}  seed {}  {:.0}s",
        text("command"),
        text("config"),
        state["pid"],
        state["seed"],
        number(counters, "/at_ns") / 1e9
    )
}

/// The drops that were ordered, or the others; those with the most packets first.
fn reasons(drops: &Value, ordered: bool) -> String {
    let of_kind = drops.as_object().into_iter().flatten();
    let mut reasons: Vec<(u64, &str)> = of_kind
        .filter(|(_, amount)| amount["ordered"] == ordered)
        .map(|(name, amount)| (amount["packets"].as_u64().unwrap_or(0), name.as_str()))
        .collect();
    reasons.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
    let words = reasons.iter().map(|(packets, name)| format!(" {name} {}", short(*packets as f64)));
    words.collect::<Vec<_>>().concat()
}

/// Puts as many parts into a line as fit.
fn filled(parts: &[String], columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + part.len() <= columns => {
                line.push_str("  ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}
