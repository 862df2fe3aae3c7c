//! `faultwire check`.

use std::process::ExitCode;

use crate::cli::args::Check;
use crate::cli::{WRONG, fail, out};
use crate::config;
use crate::config::Plan;

/// Validates a configuration and says in words what it does.
pub(super) fn check(args: &Check) -> ExitCode {
    if let Some(text) = &args.explain {
        return explain(text, args);
    }
    let Some(file) = &args.config else { return fail(WRONG, "give a configuration, or --explain SPEC") };
    match config::load(file) {
        Ok(plan) => {
            print_plan(&plan);
            ExitCode::SUCCESS
        }
        Err(error) => fail(WRONG, error),
    }
}

/// Says what a line of faults will really do.
fn explain(text: &str, args: &Check) -> ExitCode {
    let spec = match config::spec::parse(text) {
        Ok(spec) => spec,
        Err(error) => return fail(WRONG, error),
    };
    let explanation = config::explain(&spec, args.mode.into());
    if args.json {
        out::line(format_args!("{:#}", serde_json::json!(explanation)));
        return ExitCode::SUCCESS;
    }
    for line in &explanation.does {
        out::line(line);
    }
    for warning in &explanation.warnings {
        out::line(format_args!("warning: {warning}"));
    }
    ExitCode::SUCCESS
}

fn print_plan(plan: &Plan) {
    for port in &plan.ports {
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        out::line(format_args!(
            "port {}: device {}, MTU {}, {}",
            port.name,
            port.device,
            port.mtu,
            addresses.join(", ")
        ));
    }
    for path in &plan.paths {
        out::line(format_args!("path {} -> {}", plan.ports[path.from].name, plan.ports[path.to].name));
        for stage in &path.stages {
            out::line(format_args!("  {}: {}", stage.name, config::describe(stage)));
        }
    }
    for warning in &plan.warnings {
        out::line(format_args!("warning: {warning}"));
    }
}
