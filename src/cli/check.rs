//! `faultwire check`.

use std::process::ExitCode;

use crate::cli::args::Check;
use crate::cli::{WRONG, fail};
use crate::config;
use crate::config::Plan;

/// Validates a configuration and says in words what it does.
pub(super) fn check(args: &Check) -> ExitCode {
    match config::load(&args.config) {
        Ok(plan) => {
            print_plan(&plan);
            ExitCode::SUCCESS
        }
        Err(error) => fail(WRONG, error),
    }
}

fn print_plan(plan: &Plan) {
    for port in &plan.ports {
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        println!("port {}: device {}, MTU {}, {}", port.name, port.device, port.mtu, addresses.join(", "));
    }
    for path in &plan.paths {
        println!("path {} -> {}", plan.ports[path.from].name, plan.ports[path.to].name);
        for stage in &path.stages {
            println!("  {}: {}", stage.name, config::describe(stage));
        }
    }
    for warning in &plan.warnings {
        println!("warning: {warning}");
    }
}
