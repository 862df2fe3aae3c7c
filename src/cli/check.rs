//! `faultwire check`.

use std::process::ExitCode;

use crate::cli::args::Check;
use crate::cli::kind;
use crate::cli::{WRONG, fail, out};
use crate::config;
use crate::config::{Kind, Plan, WireFile};
use crate::pipeline::params::StageParams;

/// Validates a configuration and says in words what it does.
pub(super) fn check(args: &Check) -> ExitCode {
    if let Some(text) = &args.explain {
        return explain(text, args);
    }
    let Some(file) = &args.config else { return fail(WRONG, "give a configuration, or --explain SPEC") };
    let name = file.display().to_string();
    let text = match config::read(file) {
        Ok(text) => text,
        Err(error) => return fail(WRONG, error),
    };
    let (kind, checked) = match Kind::of(&text) {
        Some(Kind::Wire) => (Kind::Wire, config::parse_wire(&text, &name).map(|wire| print_wire(&wire))),
        _ => (Kind::Config, config::parse(&text, &name).map(|plan| print_plan(&plan))),
    };
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(WRONG, kind::or_other_command(file, &text, kind, &error)),
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
        out::raw(format_args!("{:#}\n", serde_json::json!(explanation)));
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
    for port in &plan.attached {
        let device = port.device.as_deref().unwrap_or("the device of the default route");
        out::line(format_args!("port {}: attached to {device}", port.name));
        print_directions(&port.up, &port.down);
    }
    for path in &plan.paths {
        out::line(format_args!("path {} -> {}", plan.ports[path.from].name, plan.ports[path.to].name));
        print_stages(&path.stages);
    }
    for warning in &plan.warnings {
        out::line(format_args!("warning: {warning}"));
    }
}

/// What a file for `attach` does.
fn print_wire(wire: &WireFile) {
    print_directions(&wire.up, &wire.down);
    for warning in &wire.warnings {
        out::line(format_args!("warning: {warning}"));
    }
}

fn print_stages(stages: &[StageParams]) {
    for stage in stages {
        out::line(format_args!("  {}: {}", stage.name, config::describe(stage)));
    }
}

fn print_directions(up: &[StageParams], down: &[StageParams]) {
    for (direction, stages) in [("up (what the target sends)", up), ("down (what it receives)", down)] {
        out::line(direction);
        print_stages(stages);
    }
}
