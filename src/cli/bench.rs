//! `faultwire bench`: measures how fast a configuration is on this machine.

mod devices;
mod memory;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::cli::json::{self, Json};
use crate::cli::{WRONG, fail, faults, kind, out};
use crate::config::plan::{NetnsRef, PathPlan, PortPlan};
use crate::config::{self, Kind, Plan};
use crate::engine::network::router_params;
use crate::journal::names::is_called;
use crate::net::privilege;
use crate::pipeline::params::Mode;
use crate::pipeline::time::Duration;
use crate::pipeline::units::Rate;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In memory: packets of one kind pass the stages of a path, without devices and in
virtual time. The cost of a stage is the difference between the path up to this
stage and the path up to the stage before it. On devices: the same stages
between two hosts in their own namespaces, with the kernel's sockets at both
ends. This needs the same rights as `run`; without them it is left out, and the
reason is printed.

Examples:
  faultwire bench configs/dsl.toml
  faultwire bench --spec 'delay 20ms loss 1%' --memory

Exit code: 0 measured; 1 something failed; 2 the configuration or the command
line is wrong.")]
pub(super) struct Bench {
    /// Configuration file (TOML); each of its paths is measured
    #[arg(required_unless_present = "spec")]
    config: Option<PathBuf>,
    /// Faults in the grammar of `exec`, instead of a file
    #[arg(long, conflicts_with_all = ["config", "path"])]
    spec: Option<String>,
    /// Only this path, by the names of its ports: FROM:TO or FROM>TO
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// How long each kind of packet is measured
    #[arg(long, value_name = "TIME", default_value = "500ms")]
    time: Duration,
    /// Rate of the packets in memory, in virtual time: it decides how many packets wait and how many a rate drops
    #[arg(long, value_name = "RATE", default_value = "1gbit")]
    offered: Rate,
    /// In memory only
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Measures and prints.
pub(super) fn bench(args: &Bench) -> ExitCode {
    let (plan, paths) = match wanted(args) {
        Ok(wanted) => wanted,
        Err(error) => return fail(WRONG, format!("{error:#}")),
    };
    let devices = match privilege::check() {
        _ if args.memory => Err("left out by --memory".to_owned()),
        Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    if cfg!(debug_assertions) {
        out::note_line(
            "faultwire: this build is not optimised: do not publish its numbers (cargo build --release)",
        );
    }
    let mut all = Vec::new();
    for path in paths {
        match measure(args, &plan, path, devices.as_ref().err()) {
            Ok(value) => all.push(value),
            Err(error) => return fail(1, format!("{error:#}")),
        }
    }
    let offered = args.offered.bits_per_sec();
    if let Err(error) = json::result(json!({ "offered_bits_per_second": offered, "paths": all })) {
        return fail(1, format!("{error:#}"));
    }
    if let Err(reason) = devices
        && !args.memory
        && !args.json.is_on_stdout()
    {
        out::line(format_args!("not measured on devices: {reason}"));
    }
    ExitCode::SUCCESS
}

/// The plan, and the numbers of the paths to measure.
fn wanted(args: &Bench) -> anyhow::Result<(Plan, Vec<usize>)> {
    if args.time.is_zero() {
        bail!("--time must be more than 0s");
    }
    if let Some(text) = &args.spec {
        let spec = faults::read(text, Mode::Exact)?;
        let port = |name: &str| PortPlan::new(name, NetnsRef::Own, Vec::new());
        let path = PathPlan::new(0, 1, spec.stages);
        return Ok((Plan::new(vec![port("left"), port("right")], vec![path]), vec![0]));
    }
    let file = args.config.as_deref().context("give a configuration or --spec")?;
    let plan = kind::load(file, Kind::Config, config::parse).map_err(anyhow::Error::msg)?;
    let name = |path: &PathPlan| format!("{}>{}", plan.ports[path.from].name, plan.ports[path.to].name);
    let names: Vec<String> = plan.paths.iter().map(name).collect();
    let is_wanted = |index: &usize| args.path.as_ref().is_none_or(|path| is_called(&names[*index], path));
    let paths: Vec<usize> = (0..names.len()).filter(is_wanted).collect();
    if names.is_empty() {
        bail!("{} has no path: there is nothing to measure", file.display());
    }
    if paths.is_empty() {
        bail!(
            "--path: {} has no path {}; there are: {}",
            file.display(),
            args.path.as_deref().unwrap_or(""),
            names.join(", ")
        );
    }
    let translates = |path: &usize| plan.paths[*path].seats.iter().any(|seat| seat.stage().is_none());
    if let Some(path) = paths.iter().find(|path| translates(path)) {
        bail!(
            "the path {} goes through a translator, which needs routes and both directions: remove it to measure the rest",
            names[*path]
        );
    }
    Ok((plan, paths))
}

/// One path; printed, or as JSON.
fn measure(args: &Bench, plan: &Plan, path: usize, left_out: Option<&String>) -> anyhow::Result<Value> {
    let params = router_params(plan, plan.seed.unwrap_or(1));
    let (from, to) = (&plan.ports[plan.paths[path].from].name, &plan.ports[plan.paths[path].to].name);
    if !args.json.is_on_stdout() {
        out::line(format_args!("path {from} -> {to}"));
    }
    let mut kinds = Vec::new();
    for kind in memory::KINDS {
        let row = memory::measure(&params, path, kind, args.offered, args.time);
        if !args.json.is_on_stdout() {
            out::print(row.table());
        }
        kinds.push(row.json());
    }
    let mut value = json!({ "from": from, "to": to, "memory": kinds });
    if left_out.is_none() {
        let rows = devices::measure(plan.paths[path].stages(), args.time)?;
        if !args.json.is_on_stdout() {
            out::line("  on devices, between two hosts");
            for row in &rows {
                out::line(row.line());
            }
        }
        value["devices"] = rows.iter().map(devices::Row::json).collect();
    }
    Ok(value)
}

/// A number of things a second, in five digits at most: `12.3 M`.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e9 => format!("{:.2} G", number / 1e9),
        number if number >= 1e6 => format!("{:.2} M", number / 1e6),
        number if number >= 1e3 => format!("{:.1} k", number / 1e3),
        number => format!("{number:.0} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [12.0, 1_234.0, 12_345_678.0, 2.5e9].map(short);
        assert_eq!(shown, ["12 ", "1.2 k", "12.35 M", "2.50 G"]);
    }
}
