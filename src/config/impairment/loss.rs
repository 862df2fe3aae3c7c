//! The keys of a loss: by a probability, a list, or a pattern.

use std::sync::Arc;

use crate::config::impairment::pattern;
use crate::config::numbers;
use crate::config::reader::{Table, Value};
use crate::pipeline::params::{
    ImpairmentParams, ListedLossParams, LossParams, Numbers, PatternFault, Scope, Trigger,
};

/// Reads the keys of a stage of type loss.
pub(super) fn loss(table: &mut Table<'_>, trigger: &Trigger) -> Option<ImpairmentParams> {
    let ecn = table.flag("ecn", false);
    let (file, indices) = (table.value("list"), table.value("indices"));
    let Some(listed) = file.as_ref().or(indices.as_ref()) else {
        return match pattern::read(table, PatternFault::Loss { ecn }) {
            pattern::Found::Nothing(scope) => {
                if let Some(scope) = scope {
                    scope.problem(
                        "scope has no effect without a list or a pattern",
                        "remove scope, or write list = \"FILE\", indices = [1, \"5-9\"] or pattern = [\"1%\", \"50%\"]",
                    );
                }
                let probability = super::probability(table, trigger)?;
                Some(ImpairmentParams::Loss(LossParams { probability, ecn }))
            }
            pattern::Found::Read(read) => read,
        };
    };
    let list = numbers(file.as_ref(), indices.as_ref());
    for key in ["probability", "pattern", "model"] {
        if let Some(other) = table.value(key) {
            let what = format!("a packet of {} is lost for certain", listed.key().rsplit('.').next()?);
            other.problem(
                what,
                format!("remove {key}, or thin the list with trigger = {{ probability = \"50%\" }}"),
            );
        }
    }
    let scope = table.value("scope").map_or(Some(Scope::Flow), |value| pattern::scope(&value));
    Some(ImpairmentParams::ListedLoss(ListedLossParams { list: Arc::new(list?), scope: scope?, ecn }))
}

fn numbers(file: Option<&Value<'_>>, indices: Option<&Value<'_>>) -> Option<Numbers> {
    match (file, indices) {
        (Some(_), Some(indices)) => {
            indices.problem("list and indices exclude each other", "keep one of them");
            None
        }
        (Some(file), None) => numbers::file(file),
        (None, indices) => numbers::inline(indices?),
    }
}
