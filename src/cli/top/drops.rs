//! The latest drops, as a running instance reports them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::control::client::Events;

/// Maximum number of drops that are kept: more than a terminal has lines.
const KEPT: usize = 256;

/// Lines about the latest drops.
#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<VecDeque<String>>);

impl Drops {
    /// Reads `events` on a thread of its own, until they end.
    pub(super) fn follow(self: &Arc<Self>, events: Events) -> std::io::Result<()> {
        let drops = Arc::clone(self);
        let follow = move || events.map_while(Result::ok).for_each(|event| drops.take(&event));
        std::thread::Builder::new().name("events".into()).spawn(follow).map(drop)
    }

    fn take(&self, event: &Value) {
        if let Some(line) = line(event) {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() >= KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }

    /// The latest `most`, the last one last.
    pub(super) fn latest(&self, most: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(most)).cloned().collect()
    }
}

/// `12.345678 up/loss 0.0031 < 0.01 TCP 10.0.0.1:5 > 10.0.0.2:80`; `None` if the event is not a drop.
fn line(event: &Value) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    match text("kind") {
        "dropped" => {}
        "lost" => return Some(format!("({} drops more than could be told)", event["events"])),
        _ => return None,
    }
    let at = event["at_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
    let draw = |key: &str| event["draw"][key].as_f64();
    let why = match (draw("value"), draw("threshold")) {
        (Some(value), Some(threshold)) => format!("{value:.4} < {threshold:.4}"),
        _ => text("reason").to_owned(),
    };
    let packets = match event["packets"].as_u64() {
        Some(packets @ 2..) => format!(" {packets} packets"),
        _ => String::new(),
    };
    let ends = if text("source").is_empty() {
        String::new()
    } else {
        format!(" {} {} > {}", text("protocol"), text("source"), text("destination"))
    };
    Some(format!("{at:.6} {} {why}{packets}{ends}", text("place")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_drop_is_a_line_and_only_the_latest_stay() {
        let drops = Drops::default();
        drops.take(&json!({ "kind": "listening", "at_ns": 1 }));
        for packet in 0..300_u64 {
            drops.take(&json!({
                "kind": "dropped", "at_ns": packet * 1_000_000, "place": "up/loss", "reason": "loss", "packets": 1,
                "draw": { "value": 0.0031, "threshold": 0.01 },
                "protocol": "TCP", "source": "10.0.0.1:5", "destination": "10.0.0.2:80",
            }));
        }
        drops.take(
            &json!({ "kind": "dropped", "at_ns": 5, "place": "router", "reason": "no_route", "packets": 3 }),
        );
        drops.take(&json!({ "kind": "lost", "events": 7 }));
        assert_eq!(drops.latest(999).len(), KEPT);
        assert_eq!(
            drops.latest(3),
            [
                "0.299000 up/loss 0.0031 < 0.0100 TCP 10.0.0.1:5 > 10.0.0.2:80",
                "0.000000 router no_route 3 packets",
                "(7 drops more than could be told)",
            ]
        );
    }
}
