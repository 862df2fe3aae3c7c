//! Numbers in answers, and their format in a frame.

use serde_json::Value;

/// The number at a place of `value`; 0 if there is none.
pub(super) fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

pub(super) fn count(value: &Value, pointer: &str) -> String {
    short(number(value, pointer))
}

/// Its growth per second.
pub(super) fn growth(now: &Value, before: Option<&Value>, pointer: &str, seconds: f64) -> f64 {
    let since = before.map_or(0.0, |before| number(before, pointer));
    (number(now, pointer) - since).max(0.0) / seconds
}

pub(super) fn rate(now: &Value, before: Option<&Value>, pointer: &str, seconds: f64) -> String {
    short(growth(now, before, pointer, seconds))
}

/// Packets of all reasons, or only of those that the configuration ordered, or of the others.
pub(super) fn dropped(drops: &Value, ordered: Option<bool>) -> u64 {
    let reasons = drops.as_object().into_iter().flatten().map(|(_, amount)| amount);
    let wanted = reasons.filter(|amount| ordered.is_none_or(|ordered| amount["ordered"] == ordered));
    wanted.filter_map(|amount| amount["packets"].as_u64()).sum()
}

/// At most seven characters: `12.34M`.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 1e12 => format!("{:.2}T", v / 1e12),
        v if v >= 1e9 => format!("{:.2}G", v / 1e9),
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// A time in nanoseconds; `-` if there is none.
pub(super) fn time(nanos: f64) -> String {
    match nanos {
        n if n <= 0.0 => "-".to_owned(),
        n if n < 1e6 => format!("{:.0}us", n / 1e3),
        n if n < 1e9 => format!("{:.1}ms", n / 1e6),
        n => format!("{:.1}s", n / 1e9),
    }
}

/// The time at a place of `value`.
pub(super) fn time_at(value: &Value, pointer: &str) -> String {
    time(number(value, pointer))
}
