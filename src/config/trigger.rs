//! `trigger = { ... }`: when a stage acts.

use crate::config::reader::Value;
use crate::pipeline::params::{Scope, Trigger};

/// Reads a trigger; `None` if it is no table.
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
        from: table.quantity("from"),
        until: table.quantity("until"),
        scope: table
            .value("scope")
            .and_then(|value| value.choice(&[("flow", Scope::Flow), ("path", Scope::Path)]))
            .unwrap_or_default(),
        phase: None,
    };
    if let Some(until) = trigger.until
        && until <= trigger.from.unwrap_or_default()
    {
        let from = trigger.from.unwrap_or_default();
        table.problem(format!("ends at {until}, before it begins at {from}"), "until must be after from");
    }
    table.finish();
    Some(trigger)
}
