//! `[[expect]]`: what must be observed.

use crate::config::reader::{Table, Value};
use crate::lab::check::{Check, Expectation, Operand};
use crate::lab::value;
use crate::pipeline::units::Probability;

/// The operators, each a key.
const OPERATORS: &str = "equals, differs, same_as, at_least, at_most, between or binomial";

/// Reads every `[[expect]]` of `root`.
pub(super) fn read_expectations(root: &mut Table<'_>) -> Vec<Expectation> {
    root.tables("expect")
        .into_iter()
        .filter_map(|mut table| {
            let expectation = read_expectation(&mut table);
            table.finish();
            expectation
        })
        .collect()
}

/// Reads one expectation; does not finish the table.
pub(super) fn read_expectation(table: &mut Table<'_>) -> Option<Expectation> {
    let see = table.required("see", "\"traffic.get.outcome\"").and_then(|value| name(&value));
    let because = table.value("because").and_then(|value| value.text()).unwrap_or_default().trim().to_owned();
    let check = read_check(table);
    Some(Expectation { see: see?, check: check?, because })
}

fn read_check(table: &mut Table<'_>) -> Option<Check> {
    let checks = [
        table.value("equals").map(|value| scalar(&value).map(Check::Equals)),
        table.value("differs").map(|value| scalar(&value).map(Check::Differs)),
        table.value("same_as").map(|value| name(&value).map(Check::SameAs)),
        table.value("at_least").map(|value| operand(&value).map(Check::AtLeast)),
        table.value("at_most").map(|value| operand(&value).map(Check::AtMost)),
        table.value("between").map(|value| between(&value)),
        table.value("binomial").map(|value| binomial(&value)),
    ];
    let mut given = checks.into_iter().flatten();
    let check = given.next();
    if check.is_none() {
        table.problem("has no condition for the value", format!("add one of {OPERATORS}"));
    } else if given.next().is_some() {
        table.problem("has two conditions for the value", "write one [[expect]] for each");
    }
    check?
}

/// The name of an observation.
fn name(value: &Value<'_>) -> Option<String> {
    const FAMILIES: [&str; 7] = ["traffic", "kernel", "drops", "socket", "pmtu", "router", "sweep"];
    let known = |text: &str| text.split_once('.').is_some_and(|(family, _)| FAMILIES.contains(&family));
    let read = |text: &str| known(text).then(|| text.to_owned());
    value.parsed(
        read,
        "an observation (traffic, kernel, drops, socket, pmtu, router or sweep)",
        "traffic.get.outcome",
    )
}

fn scalar(value: &Value<'_>) -> Option<value::Value> {
    if let Some(text) = value.as_text() {
        return Some(text.into());
    }
    if value.is_integer() {
        return value.integer(0..=u64::MAX).map(value::Value::Count);
    }
    value.number().map(value::Value::Number).or_else(|| value.flag().map(value::Value::Flag))
}

/// A number, or the name of the observation that has it.
fn operand(value: &Value<'_>) -> Option<Operand> {
    if value.as_text().is_some() {
        return name(value).map(Operand::Observed);
    }
    let number = value.number();
    if number.is_none() {
        value.problem("is not a number", "a number, or the name of an observation in quotes");
    }
    number.map(Operand::Number)
}

fn between(value: &Value<'_>) -> Option<Check> {
    let items = value.items();
    let [low, high] = items.as_slice() else {
        value.problem("needs two ends", "write between = [0.9, 1.1]");
        return None;
    };
    let (low, high) = (operand(low), operand(high));
    Some(Check::Between(low?, high?))
}

fn binomial(value: &Value<'_>) -> Option<Check> {
    let mut table = value.table()?;
    let p = table.required("p", "\"30%\"").and_then(|value| value.quantity::<Probability>());
    let trials =
        table.required("of", "\"router.client->server.loss.seen\"").and_then(|value| operand(&value));
    table.finish();
    Some(Check::Binomial { p: p?.as_f64(), trials: trials? })
}
