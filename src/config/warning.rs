//! Warnings: settings that are allowed but probably not meant.

use ipnet::IpNet;

use crate::config::plan::{PathPlan, Plan, PortPlan, RouteTarget};
use crate::pipeline::impair::Place;

/// Warnings about the paths of `plan`, each with its path and stage. [`crate::config::parse`] has put them into
/// [`Plan::warnings`]; for a plan that was built in code, call this.
pub fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = unreached(plan);
    for path in &plan.paths {
        for (stage, warning) in path_warnings(path, plan) {
            let (from, to) = (&plan.ports[path.from].name, &plan.ports[path.to].name);
            warnings.push(format!("path {from} -> {to}, stage {stage}: {warning}"));
        }
    }
    warnings
}

/// Ports to which no packet can go: they have no addresses of their own, and no route leads to them.
fn unreached(plan: &Plan) -> Vec<String> {
    let is_target = |index: usize| plan.routes.iter().any(|route| route.target == RouteTarget::Port(index));
    let unreached =
        plan.ports.iter().enumerate().filter(|(at, port)| port.addresses.is_empty() && !is_target(*at));
    let told = |(_, port): (usize, &PortPlan)| {
        format!(
            "port {}: it has no addresses, and no [[route]] leads to it, so that no packet goes there: give it addresses, \
             such as \"10.0.9.2/24\"",
            port.name
        )
    };
    unreached.map(told).collect()
}

fn path_warnings<'a>(path: &'a PathPlan, plan: &'a Plan) -> impl Iterator<Item = (&'a str, String)> {
    let (from, to) = (&plan.ports[path.from], &plan.ports[path.to]);
    let place = Place {
        mtu: Some(from.mtu.min(to.mtu)),
        ipv6: from.addresses.iter().any(|address| matches!(address, IpNet::V6(_))),
    };
    path.stages().flat_map(move |stage| {
        let name = |trap| (stage.name.as_str(), trap);
        stage.impairment.traps(&place).into_iter().map(name)
    })
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn a_port_that_nothing_leads_to_is_told_of() {
        let port = |name: &str, more: &str| format!("[[port]]\nname = \"{name}\"\n{more}\n");
        let file = |b: &str, end: &str| {
            let text =
                [&port("a", "addresses = \"10.0.1.2/24\""), &port("b", b), end].map(str::to_owned).concat();
            parse(&text, "x.toml").unwrap().warnings
        };
        let told = file("", "");
        assert!(
            told.len() == 1 && told[0].starts_with("port b: it has no addresses, and no [[route]]"),
            "{told:?}"
        );
        assert_eq!(file("addresses = \"10.0.2.2/24\"", ""), [""; 0]);
        assert_eq!(file("", "[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"b\"\n"), [""; 0]);
    }
}
