//! What is allowed, but probably not meant.

use ipnet::IpNet;

use crate::config::plan::{PathPlan, Plan};
use crate::pipeline::impair::Place;

/// What looks wrong about the paths of `plan`, each with its path and stage. [`crate::config::parse`] has put them into
/// [`Plan::warnings`]; for a plan made in code, ask here.
pub fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in &plan.paths {
        for (stage, warning) in path_warnings(path, plan) {
            let (from, to) = (&plan.ports[path.from].name, &plan.ports[path.to].name);
            warnings.push(format!("path {from} -> {to}, stage {stage}: {warning}"));
        }
    }
    warnings
}

fn path_warnings<'a>(path: &'a PathPlan, plan: &'a Plan) -> impl Iterator<Item = (&'a str, String)> {
    let (from, to) = (&plan.ports[path.from], &plan.ports[path.to]);
    let place = Place {
        mtu: Some(from.mtu.min(to.mtu)),
        ipv6: from.addresses.iter().any(|address| matches!(address, IpNet::V6(_))),
    };
    path.stages.iter().flat_map(move |stage| {
        let name = |trap| (stage.name.as_str(), trap);
        stage.impairment.traps(&place).into_iter().map(name)
    })
}
