//! `faultwire check`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::args::Check;
use crate::cli::json;
use crate::cli::kind;
use crate::cli::{WRONG, fail, out, reasons};
use crate::config;
use crate::config::{Description, Kind, Plan, WireFile};
use crate::pipeline::params::{PathParams, StageParams};

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
    let is_told = !args.json.is_on_stdout();
    let (kind, checked) = if Kind::of(&text) == Some(Kind::Wire) {
        (Kind::Wire, config::parse_wire(&text, &name).map(|wire| tell_wire(&wire, is_told)))
    } else {
        (Kind::Config, config::parse(&text, &name).map(|plan| tell_plan(&plan, is_told)))
    };
    match checked {
        Ok(value) => {
            json::result(value).map_or_else(|error| fail(1, reasons(&error)), |()| ExitCode::SUCCESS)
        }
        Err(error) => fail(WRONG, kind::or_other_command(file, &text, kind, &error)),
    }
}

/// Explains what a spec really does.
fn explain(text: &str, args: &Check) -> ExitCode {
    let spec = match config::spec::parse(text) {
        Ok(spec) => spec,
        Err(error) => return fail(WRONG, error),
    };
    let explanation = config::explain(&spec, args.mode.into());
    if let Err(error) = json::result(json!(explanation)) {
        return fail(1, reasons(&error));
    }
    if args.json.is_on_stdout() {
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

/// The seats of a path, each with its name and what happens there.
fn of_path(path: &PathParams) -> impl Iterator<Item = (&str, Description<'_>)> {
    path.seats.iter().map(|seat| (seat.name(), config::describe_seat(seat)))
}

/// The same of one direction of a wire.
fn of_wire(stages: &[StageParams]) -> impl Iterator<Item = (&str, Description<'_>)> {
    stages.iter().map(|stage| (stage.name.as_str(), config::describe(stage)))
}

fn seats_json<'a>(seats: impl Iterator<Item = (&'a str, Description<'a>)>) -> Value {
    seats.map(|(name, does)| json!({ "name": name, "does": does.to_string() })).collect()
}

/// Prints what a configuration does: as text, or as JSON.
fn tell_plan(plan: &Plan, is_told: bool) -> Value {
    if is_told {
        print_plan(plan);
    }
    let ports = plan.ports.iter().map(|port| {
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        json!({ "name": port.name, "device": port.device, "mtu": port.mtu, "addresses": addresses })
    });
    let attached = plan.attached.iter().map(|port| {
        let (up, down) = (seats_json(of_wire(&port.up)), seats_json(of_wire(&port.down)));
        json!({ "name": port.name, "device": port.device, "up": up, "down": down })
    });
    let paths = plan.paths.iter().map(|path| {
        let [from, to] = [path.from, path.to].map(|port| plan.ports[port].name.as_str());
        json!({ "from": from, "to": to, "stages": seats_json(of_path(path)) })
    });
    let [ports, attached, paths] = [ports.collect::<Value>(), attached.collect(), paths.collect()];
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    json!({ "kind": "configuration", "ports": ports, "attached": attached, "paths": paths, "warnings": warnings })
}

/// The same for a file for `attach`.
fn tell_wire(wire: &WireFile, is_told: bool) -> Value {
    if is_told {
        print_wire(wire);
    }
    let warnings: Vec<String> = wire.warnings.iter().map(ToString::to_string).collect();
    let (up, down) = (seats_json(of_wire(&wire.up)), seats_json(of_wire(&wire.down)));
    json!({ "kind": "faults", "up": up, "down": down, "warnings": warnings })
}

fn print_plan(plan: &Plan) {
    for port in &plan.ports {
        let addresses = port.addresses.iter().map(ToString::to_string);
        let what: Vec<_> = [format!("device {}", port.device), format!("MTU {}", port.mtu)]
            .into_iter()
            .chain(addresses)
            .collect();
        out::line(format_args!("port {}: {}", port.name, what.join(", ")));
    }
    for port in &plan.attached {
        let device = port.device.as_deref().unwrap_or("the device of the default route");
        out::line(format_args!("port {}: attached to {device}", port.name));
        print_directions(&port.up, &port.down);
    }
    for path in &plan.paths {
        out::line(format_args!("path {} -> {}", plan.ports[path.from].name, plan.ports[path.to].name));
        print_seats(of_path(path));
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

fn print_seats<'a>(seats: impl Iterator<Item = (&'a str, Description<'a>)>) {
    for (name, does) in seats {
        out::line(format_args!("  {name}: {does}"));
    }
}

fn print_directions(up: &[StageParams], down: &[StageParams]) {
    for (direction, stages) in [("up (what the target sends)", up), ("down (what it receives)", down)] {
        out::line(direction);
        print_seats(of_wire(stages));
    }
}
