//! Whole files: what a good one becomes, and what is said about a bad one.

mod hostile;
mod limits;
mod lists;
mod reading;
mod reference;
mod refusals;
mod translators;

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::config::plan::{NetnsRef, RouteTarget, WorkerCount};
use crate::pipeline::params::{
    BlackoutParams, CorruptArea, Excess, FragmentSelect, ImpairmentParams, NaptParams, NatKind, PatternFault,
    Phase, ReorderParams, Scope, Select,
};
use crate::pipeline::time::Duration;

const PORTS: &str = r#"
[[port]]
name = "left"
netns = "left"
create = true
addresses = ["10.0.1.2/24", "fd00:1::2/64"]
routes = ["default"]

[[port]]
name = "right"
netns = "right"
create = true
addresses = ["10.0.2.2/24", "fd00:2::2/64"]
routes = ["default"]
"#;

fn plan(more: &str) -> Plan {
    parse(&format!("{PORTS}{more}"), "x.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// What is said about `more` behind two good ports, without the file's name and the line.
fn said(more: &str) -> Vec<String> {
    let error = parse(&format!("{PORTS}{more}"), "x.toml").unwrap_err();
    let sentence = |problem: &Problem| {
        let Problem { key, what, hint, .. } = problem;
        format!("{key}: {what} ({hint})")
    };
    error.problems.iter().map(sentence).collect()
}

/// The one sentence about a stage of these keys.
fn about(stage: &str) -> String {
    let all = said(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.stage]]\n{stage}\n"));
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].strip_prefix("path[0].stage[0]").unwrap().to_owned()
}

fn stage(keys: &str) -> crate::pipeline::params::StageParams {
    let plan = plan(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.stage]]\n{keys}\n"));
    plan.paths[0].stages().next().unwrap().clone()
}
