//! The keys of faults whose probability depends on earlier faults or on a model: `pattern`, `model`, `repeat`, `scope`.

use std::sync::Arc;

use crate::config::reader::{Table, Value};
use crate::config::trace;
use crate::pipeline::params::{
    DelayModelParams, ImpairmentParams, PatternFault, PatternParams, Scope, Timetable,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

/// The pattern in a table.
pub(super) enum Found<'a> {
    /// There is none, but perhaps a scope.
    Nothing(Option<Value<'a>>),
    /// A pattern; `None` if it is wrong.
    Read(Option<ImpairmentParams>),
}

/// Reads a pattern for a stage of this fault, if there is one.
pub(super) fn read<'a>(table: &mut Table<'a>, fault: PatternFault) -> Found<'a> {
    let (pattern, model) = (table.value("pattern"), table.value("model"));
    let (repeat, scope) = (table.value("repeat"), table.value("scope"));
    only_of_a_model(repeat.as_ref(), model.as_ref());
    if pattern.is_none() && model.is_none() {
        return Found::Nothing(scope);
    }
    let others: &[&'static str] =
        if fault == PatternFault::Duplicate { &["probability", "copies"] } else { &["probability"] };
    for key in others {
        if let Some(other) = table.value(key) {
            other.problem("the pattern says how likely and how often", format!("remove {key}"));
        }
    }
    let repeats = repeat.as_ref().and_then(Value::flag);
    let patterns = match (pattern, model) {
        (Some(_), Some(model)) => {
            model.problem("pattern and model exclude each other", "keep one of them");
            None
        }
        (Some(pattern), None) => chances(&pattern).map(Timetable::constant),
        (None, Some(model)) if fault == PatternFault::Duplicate => trace::copies(&model, repeats),
        (None, model) => model.and_then(|model| trace::losses(&model, repeats)),
    };
    let scope = scope.map_or(Some(Scope::Flow), |value| self::scope(&value));
    let read = patterns.zip(scope).map(|(patterns, scope)| {
        ImpairmentParams::Pattern(PatternParams { patterns: Arc::new(patterns), fault, scope })
    });
    Found::Read(read)
}

/// Reads a delay by a model, if there is one.
pub(super) fn delay<'a>(table: &mut Table<'a>) -> Found<'a> {
    let (model, repeat) = (table.value("model"), table.value("repeat"));
    only_of_a_model(repeat.as_ref(), model.as_ref());
    let Some(model) = model else { return Found::Nothing(None) };
    for key in ["delay", "jitter", "distribution", "half_life"] {
        if let Some(other) = table.value(key) {
            other.problem("the model says how long", format!("remove {key}"));
        }
    }
    let reorder = table.flag("reorder", false);
    let delays: Option<Timetable<Duration>> = trace::delays(&model, repeat.as_ref().and_then(Value::flag));
    Found::Read(
        delays.map(|delays| {
            ImpairmentParams::DelayModel(DelayModelParams { delays: Arc::new(delays), reorder })
        }),
    )
}

fn only_of_a_model(repeat: Option<&Value<'_>>, model: Option<&Value<'_>>) {
    if let (Some(repeat), None) = (repeat, model) {
        repeat.problem("repeat has no effect without a model", "remove repeat");
    }
}

/// Whether each flow or the whole path is counted.
pub(super) fn scope(value: &Value<'_>) -> Option<Scope> {
    value.choice(&[("flow", Scope::Flow), ("path", Scope::Path)])
}

fn chances(value: &Value<'_>) -> Option<Vec<Probability>> {
    let chances: Option<Vec<_>> = value.one_or_more().iter().map(Value::quantity).collect();
    let chances = chances?;
    if chances.is_empty() {
        value.problem(
            "has no probability",
            "write pattern = [\"1%\", \"50%\"]: after a packet that passes, after one that is hit",
        );
        return None;
    }
    Some(chances)
}
