//! `trigger = { ... }`: when a stage acts.

use crate::config::reader::{Table, Value};
use crate::pipeline::params::{Scope, Trigger};
use crate::pipeline::units::Bytes;

/// Reads a trigger; `None` if it is not a table.
pub fn read_trigger(value: &Value<'_>) -> Option<Trigger> {
    let mut table = value.table()?;
    let items = table.value("nth").map(|value| value.one_or_more()).unwrap_or_default();
    let mut nth: Vec<u64> = items.iter().filter_map(|item| item.integer(1..=u64::MAX)).collect();
    nth.sort_unstable();
    nth.dedup();
    let trigger = Trigger {
        probability: table.quantity("probability"),
        nth,
        every: table.integer("every", 1..=u64::MAX),
        first: table.integer("first", 1..=u64::MAX),
        after: table.integer("after", 0..=u64::MAX),
        times: table.integer("times", 1..=u64::MAX),
        first_bytes: table.value("first_bytes").and_then(|value| bytes(&value)),
        after_bytes: table.value("after_bytes").and_then(|value| bytes(&value)),
        from: table.quantity("from"),
        until: table.quantity("until"),
        scope: table
            .value("scope")
            .and_then(|value| value.choice(&[("flow", Scope::Flow), ("path", Scope::Path)]))
            .unwrap_or_default(),
        phase: None,
    };
    check(&trigger, &table);
    table.finish();
    Some(trigger)
}

/// Bytes, at least one.
fn bytes(value: &Value<'_>) -> Option<u64> {
    let bytes = value.quantity::<Bytes>()?.0;
    if bytes == 0 {
        value.problem("0 bytes are no condition", "more than 0 B, as in \"64 kB\"");
        return None;
    }
    Some(bytes)
}

/// Reports conditions under which the stage would never act, or that cannot be counted together.
fn check(trigger: &Trigger, table: &Table<'_>) {
    let from = trigger.from.unwrap_or_default();
    if let Some(until) = trigger.until.filter(|until| *until <= from) {
        table.problem(format!("ends at {until}, before it begins at {from}"), "until must be after from");
    }
    let (first, after) = (trigger.first.unwrap_or(u64::MAX), trigger.after.unwrap_or(0));
    let never = if first <= after {
        Some(format!("nothing is left of the first {first} packets after {after}"))
    } else if let Some(every) = trigger.every.filter(|every| first < *every) {
        Some(format!("the first packet that is due is number {every}, and not among the first {first}"))
    } else if trigger.nth.is_empty() {
        None
    } else if trigger.nth.iter().all(|nth| *nth > first) {
        Some(format!("none of these numbers is among the first {first}"))
    } else if trigger.nth.iter().all(|nth| *nth <= after) {
        Some(format!("none of these numbers comes after the first {after}"))
    } else {
        let every = trigger.every.unwrap_or(1);
        let none = trigger.nth.iter().all(|nth| !nth.is_multiple_of(every));
        none.then(|| format!("none of these numbers is a multiple of {every}"))
    };
    if let Some(what) = never {
        table.problem(format!("contradicts itself: {what}"), "remove one of the conditions");
    }
    if let (Some(first), Some(after)) = (trigger.first_bytes, trigger.after_bytes)
        && first <= after
    {
        let what = format!(
            "contradicts itself: nothing is left of the first {} after {}",
            Bytes(first),
            Bytes(after)
        );
        table.problem(what, "after_bytes must be less than first_bytes");
    }
    let counts_packets = trigger.counts_packets() || trigger.probability.is_some();
    if trigger.scope == Scope::Path && trigger.counts_bytes() && counts_packets {
        table.problem(
            "with scope = \"path\" a trigger counts either packets or bytes",
            "remove scope, or the conditions on packets (probability, nth, every, first, after, times)",
        );
    }
}
