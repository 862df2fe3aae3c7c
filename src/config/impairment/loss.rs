//! The keys of a loss: by chance, or by a list.

use std::sync::Arc;

use crate::config::numbers;
use crate::config::reader::Table;
use crate::pipeline::params::{ImpairmentParams, ListedLossParams, LossParams, Scope, Trigger};

/// Reads the keys of a stage of type loss.
pub(super) fn read(table: &mut Table<'_>, trigger: &Trigger) -> Option<ImpairmentParams> {
    let ecn = table.flag("ecn", false);
    let (file, indices, scope) = (table.value("list"), table.value("indices"), table.value("scope"));
    let list = match (&file, &indices) {
        (None, None) => {
            if let Some(scope) = scope {
                scope.problem(
                    "there is no list to count for",
                    "remove scope, or write list = \"FILE\" or indices = [1, \"5-9\"]",
                );
            }
            let probability = super::probability(table, trigger)?;
            return Some(ImpairmentParams::Loss(LossParams { probability, ecn }));
        }
        (Some(_), Some(indices)) => {
            indices.problem("list and indices exclude each other", "keep one of them");
            None
        }
        (Some(file), None) => numbers::file(file),
        (None, Some(indices)) => numbers::inline(indices),
    };
    if let Some(probability) = table.value("probability") {
        probability.problem(
            "a listed packet is lost for certain",
            "remove probability, or thin the list with trigger = { probability = \"50%\" }",
        );
    }
    let scopes = [("flow", Scope::Flow), ("path", Scope::Path)];
    let scope = scope.map_or(Some(Scope::Flow), |value| value.choice(&scopes));
    Some(ImpairmentParams::ListedLoss(ListedLossParams { list: Arc::new(list?), scope: scope?, ecn }))
}
