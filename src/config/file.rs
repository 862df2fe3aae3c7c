//! The whole file: its top-level keys, `[icmp]` and `[[route]]`.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use crate::config::attached::MARK;
use crate::config::impairment::positive;
use crate::config::nat::read_nats;
use crate::config::path::read_paths;
use crate::config::plan::{
    IcmpPlan, Identity, PathPlan, Plan, RoutePlan, RouteTarget, WorkerCount, set_mode,
};
use crate::config::port::{port_index, prefix, read_all_ports};
use crate::config::reader::{Table, Value};
use crate::config::warning::warnings;
use crate::config::wire::wire_warnings;
use crate::pipeline::params::{ImpairmentParams, Mode, StageParams};

/// More cores and workers than any machine has.
const MOST_CORES: usize = 1_024;

/// Reads the document of a configuration.
pub(super) fn read_plan(root: &mut Table<'_>) -> Plan {
    let (ports, attached) = read_all_ports(root);
    if ports.is_empty() && attached.is_empty() {
        root.problem("there is no port", "write a [[port]] for each host, or nodes = [\"a\", \"b\"]");
    }
    // The indices of ports are needed first.
    let marked: Vec<String> = attached.iter().map(|port| format!("{MARK}{}", port.name)).collect();
    let names: Vec<&str> =
        ports.iter().map(|port| port.name.as_str()).chain(marked.iter().map(String::as_str)).collect();
    let routes = read_routes(root, &names);
    let paths = read_paths(root, &names);
    let (nats, paths) = read_nats(root, &ports, &routes, paths);
    let mut plan = Plan::new(ports, paths);
    (plan.routes, plan.nats, plan.attached) = (routes, nats, attached);
    plan.seed = root.integer("seed", 0..=u64::MAX);
    (plan.workers, plan.pin) = read_workers(root);
    plan.identity = read_identity(root).unwrap_or_default();
    plan.flows = root.integer("flows", 1..=1 << 24).unwrap_or(Plan::DEFAULT_FLOWS);
    plan.flow_cache = root.flag("flow_cache", true);
    plan.duration = root.value("duration").and_then(|value| positive(&value));
    plan.icmp = read_icmp(root);
    let mode = read_mode(root);
    for path in &mut plan.paths {
        set_mode(path.stages_mut(), mode);
    }
    for port in &mut plan.attached {
        set_mode(&mut port.up, mode);
        set_mode(&mut port.down, mode);
    }
    let has = |is_so: fn(&StageParams) -> bool| plan.paths.iter().flat_map(PathPlan::stages).any(is_so);
    let (shares_a_queue, is_kernels) = (has(shares_a_queue), has(is_kernels));
    if !plan.attached.is_empty() {
        plan.workers = one_worker(root, plan.workers, "an attached port");
    } else if plan.has_single_queues() {
        plan.workers = one_worker(root, plan.workers, "a veth port");
    } else if !plan.nats.is_empty() {
        plan.workers = one_worker(root, plan.workers, "[[nat]]");
    } else if shares_a_queue {
        plan.workers =
            one_worker(root, plan.workers, "a shared link that has a discipline, steps or a trace");
    } else if is_kernels {
        plan.workers = one_worker(root, plan.workers, "netem in mode netem");
    }
    plan.warnings = root.warnings();
    plan.warnings.extend(warnings(&plan));
    for port in &plan.attached {
        let told = wire_warnings(&port.up, &port.down);
        plan.warnings.extend(told.iter().map(|warning| format!("port {}, {warning}", port.name)));
    }
    plan
}

/// Whether several paths share one queue of packets, which one worker must handle.
fn shares_a_queue(stage: &StageParams) -> bool {
    stage.share().is_some() && matches!(stage.impairment, ImpairmentParams::Bottleneck(_))
}

/// Whether it is a netem line in the kernel's way.
fn is_kernels(stage: &StageParams) -> bool {
    matches!(&stage.impairment, ImpairmentParams::Netem(netem) if netem.mode == Mode::Netem)
}

/// Reads `mode`.
pub(super) fn read_mode(root: &mut Table<'_>) -> Mode {
    const MODES: &[(&str, Mode)] = &[("exact", Mode::Exact), ("netem", Mode::Netem)];
    root.value("mode").and_then(|value| value.choice(MODES)).unwrap_or_default()
}

/// Reads `identity`.
pub(super) fn read_identity(root: &mut Table<'_>) -> Option<Identity> {
    const IDENTITIES: &[(&str, Identity)] = &[("service", Identity::Service), ("tuple", Identity::Tuple)];
    root.value("identity").and_then(|value| value.choice(IDENTITIES))
}

/// Reads the table `[icmp]` of `root`, if there is one.
pub fn read_icmp(root: &mut Table<'_>) -> IcmpPlan {
    let default = IcmpPlan::default();
    let Some(mut table) = root.value("icmp").and_then(|value| value.table()) else { return default };
    let icmp = IcmpPlan {
        time_exceeded: table.flag("time_exceeded", default.time_exceeded),
        unreachable: table.flag("unreachable", default.unreachable),
        packet_too_big: table.flag("packet_too_big", default.packet_too_big),
        echo: table.flag("echo", default.echo),
        rate: table.integer("rate", 1..=1_000_000).unwrap_or(default.rate),
    };
    table.finish();
    icmp
}

/// Reads every `[[route]]` of `root`; `ports` are the names that it may use.
pub fn read_routes(root: &mut Table<'_>, ports: &[&str]) -> Vec<RoutePlan> {
    let mut routes: Vec<RoutePlan> = Vec::new();
    let mut prefixes = HashSet::new();
    for mut table in root.tables("route") {
        let prefix = table.required("prefix", "\"10.9.0.0/16\"");
        let target = read_target(&mut table, ports);
        table.finish();
        let Some(value) = prefix else { continue };
        let (Some(prefix), Some(target)) = (self::prefix(&value), target) else { continue };
        if !prefixes.insert(prefix) {
            value.problem(format!("{prefix} already has a route"), "give each prefix one route");
        }
        routes.push(RoutePlan { prefix, target });
    }
    routes
}

fn read_target(table: &mut Table<'_>, ports: &[&str]) -> Option<RouteTarget> {
    const ACTIONS: &[(&str, RouteTarget)] =
        &[("unreachable", RouteTarget::Unreachable), ("blackhole", RouteTarget::Blackhole)];
    let (port, action) = (table.value("port"), table.value("action"));
    match (port, action) {
        (Some(port), None) => port_index(&port, ports).map(RouteTarget::Port),
        (None, Some(action)) => action.choice(ACTIONS),
        (Some(_), Some(action)) => {
            action.problem("a route has a port or an action, not both", "remove one of them");
            None
        }
        (None, None) => {
            table.problem(
                "a route needs a port or an action",
                "write port = \"right\" or action = \"unreachable\"",
            );
            None
        }
    }
}

/// Whether the router needs one worker. The two sides of a translated session have different 5-tuples, by which
/// packets are distributed to workers. netem in the kernel's mode has one state for all flows in the order of
/// arrival, which racing workers would not reproduce.
fn one_worker(root: &mut Table<'_>, workers: WorkerCount, what: &str) -> WorkerCount {
    if let WorkerCount::Exactly(count) = workers
        && count > NonZeroUsize::MIN
    {
        let key = if root.value("workers").is_some() { "workers" } else { "pin" };
        if let Some(value) = root.value(key) {
            value.problem(format!("a router with {what} has one worker"), "set workers = 1, or remove it");
        }
    }
    WorkerCount::Exactly(NonZeroUsize::MIN)
}

fn read_workers(root: &mut Table<'_>) -> (WorkerCount, Vec<usize>) {
    let workers = root.value("workers").and_then(|value| worker_count(&value));
    let Some(value) = root.value("pin") else { return (workers.unwrap_or_default(), Vec::new()) };
    let pin: Vec<usize> = value.items().iter().filter_map(|core| core.integer(0..=MOST_CORES - 1)).collect();
    let unique: std::collections::BTreeSet<_> = pin.iter().collect();
    if unique.len() < pin.len() {
        value.problem("a core is given twice", "give each worker a core of its own");
    }
    if let Some(WorkerCount::Exactly(count)) = workers
        && count.get() != pin.len()
    {
        let what = format!("{} cores for {count} workers", pin.len());
        value.problem(what, "give as many cores as workers");
    }
    // If cores are given but no number of workers, each core gets one worker.
    let workers = match workers.unwrap_or_default() {
        WorkerCount::Auto => NonZeroUsize::new(pin.len()).map_or(WorkerCount::Auto, WorkerCount::Exactly),
        exactly @ WorkerCount::Exactly(_) => exactly,
    };
    (workers, pin)
}

fn worker_count(value: &Value<'_>) -> Option<WorkerCount> {
    if value.is_integer() {
        let count = value.integer(1..=MOST_CORES)?;
        return NonZeroUsize::new(count).map(WorkerCount::Exactly);
    }
    value.choice(&[("auto", WorkerCount::Auto)])
}
