//! A run as JSON.

use serde_json::{Map, Value, json};

use crate::config::{describe, describe_seat};
use crate::control::instance::Instance;
use crate::control::settings;
use crate::engine::{PathReport, Report, json as numbers};
use crate::journal::names::PathNames;
use crate::net::LinkStats;
use crate::pipeline::params::{NatKind, PortParams, RouteTarget, SeatParams, StageParams};

/// Version of the interface.
pub(super) const API: u32 = 1;

/// The numbers at one moment: the sum of the workers.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// Nanoseconds since the start of the run.
    pub(super) at_ns: u64,
    pub(super) total: Report,
}

/// A path that has seats, with its names and, if it is one of the configuration, what sits there.
pub(super) struct PathView<'a> {
    pub(super) names: &'a PathNames,
    pub(super) report: &'a PathReport,
    params: &'a [SeatParams],
    number: usize,
}

impl PathView<'_> {
    /// The parameters of a seat; none for the other direction of a stage of the opposite path.
    fn seat(&self, seat: usize) -> Option<&SeatParams> {
        self.params.get(seat)
    }

    /// The type of what sits there; `back` for the other direction of a stage.
    pub(super) fn kind(&self, seat: usize) -> &'static str {
        self.seat(seat).map_or("back", SeatParams::type_name)
    }
}

/// The paths that have stages, in the order of the report.
pub(super) fn paths<'a>(
    instance: &'a Instance,
    report: &'a Report,
) -> impl Iterator<Item = PathView<'a>> + 'a {
    let named = instance.names.paths.iter().enumerate().filter(|(_, path)| !path.stages.is_empty());
    named.zip(&report.paths).map(|((number, names), report)| {
        let params = instance.params.paths.get(number).map_or(&[][..], |path| &path.seats);
        PathView { names, report, params, number }
    })
}

/// `GET /v1/state`.
pub(super) fn state(instance: &Instance, moment: &Moment) -> Value {
    let mut value = numbers::totals(&moment.total);
    value["api"] = API.into();
    value["version"] = env!("CARGO_PKG_VERSION").into();
    value["command"] = instance.command.into();
    value["config"] = instance.config.clone().into();
    value["pid"] = std::process::id().into();
    value["stages_version"] = instance.version.into();
    value["seed"] = instance.params.seed.into();
    value["workers"] = instance.workers.count().into();
    value["started_ns"] = instance.names.started_ns.into();
    value["at_ns"] = moment.at_ns.into();
    value
}

/// `GET /v1/counters`: everything that changes, in one answer.
pub(super) fn counters(instance: &Instance, moment: &Moment) -> Value {
    let mut value = numbers::totals(&moment.total);
    value["at_ns"] = moment.at_ns.into();
    value["paths"] = paths(instance, &moment.total).map(|path| path_json(&path)).collect();
    value
}

fn path_json(path: &PathView<'_>) -> Value {
    let stages = path.report.stages.iter().enumerate().map(|(seat, stage)| {
        let mut value = numbers::stage(stage);
        value["type"] = path.kind(seat).into();
        value
    });
    json!({
        "name": path.names.name, "stages": stages.collect::<Vec<_>>(),
        "delay_ns": numbers::spread(&path.report.delay), "lateness_ns": numbers::spread(&path.report.lateness),
    })
}

/// `GET /v1/paths`.
pub(super) fn all_paths(instance: &Instance) -> Value {
    let port = |port: usize| instance.names.ports.get(port).map_or("", String::as_str);
    let configured = instance.params.paths.iter().zip(&instance.names.paths).enumerate();
    let path = configured.map(|(number, (path, names))| {
        json!({
            "name": names.name, "from": port(path.from), "to": port(path.to), "stages": names.stages,
            "frozen": instance.frozen.contains(&number),
        })
    });
    path.collect()
}

/// `GET /v1/stages`: each with what it does and its counters.
pub(super) fn stages(instance: &Instance, moment: &Moment) -> Value {
    let stages = paths(instance, &moment.total).flat_map(|path| {
        let stage = |(seat, report)| {
            let mut value = numbers::stage(report);
            value["id"] = format!("{}/{}", path.names.name, report.name).into();
            value["path"] = path.names.name.as_str().into();
            value["type"] = path.kind(seat).into();
            let is_paused = |stage: &&StageParams| stage.name == *report.name;
            let paused = instance.paused.iter().filter(|(of, _)| *of == path.number).map(|(_, stage)| stage);
            let paused = paused.clone().find(is_paused);
            let seat = path.seat(seat);
            let text = paused.map(describe).or_else(|| seat.map(describe_seat));
            value["text"] = text.map(|text| text.to_string()).into();
            value["paused"] = paused.is_some().into();
            let stage = paused.or_else(|| seat?.stage());
            let shown = stage.map(|stage| settings::shown(&stage.impairment));
            // A translator has none that can be set.
            value["settings"] = shown.or_else(|| seat.map(|_| Map::new())).into();
            value
        };
        path.report.stages.iter().enumerate().map(stage).collect::<Vec<_>>()
    });
    stages.collect()
}

/// `GET /v1/ports`.
pub(super) fn ports(instance: &Instance, links: &[Option<LinkStats>]) -> Value {
    let port = |port: &PortParams| {
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        let mut value = json!({
            "name": port.name, "mtu": port.mtu, "addresses": addresses, "router": port.router, "device": null,
        });
        let device = instance.devices.iter().zip(links).find(|(device, _)| device.port == port.name);
        if let Some((device, link)) = device {
            let mut counters = numbers::link(&link.unwrap_or_default(), &device.name);
            value["device"] = counters["device"].take();
            value["device"]["name"] = device.name.as_str().into();
            value["device"]["is_there"] = link.is_some().into();
        }
        value
    };
    instance.params.ports.iter().map(port).collect()
}

/// `GET /v1/routes`: the routes to the ports' own prefixes, and those of the configuration. The longest prefix wins.
pub(super) fn routes(instance: &Instance) -> Value {
    let params = &instance.params;
    let connected = params.ports.iter().flat_map(|port| {
        let of_port = |address: &ipnet::IpNet| {
            json!({ "prefix": address.trunc().to_string(), "to": "port", "port": port.name, "connected": true })
        };
        port.addresses.iter().map(of_port).collect::<Vec<_>>()
    });
    let configured = params.routes.iter().map(|route| {
        let (to, port) = match route.target {
            RouteTarget::Port(port) => ("port", params.ports.get(port).map(|port| port.name.as_str())),
            RouteTarget::Unreachable => ("unreachable", None),
            RouteTarget::Blackhole => ("blackhole", None),
        };
        json!({ "prefix": route.prefix.to_string(), "to": to, "port": port, "connected": false })
    });
    connected.chain(configured).collect()
}

/// `GET /v1/translators`: each with its kind, and how full its table is.
pub(super) fn translators(instance: &Instance, moment: &Moment) -> Value {
    let translator = |nat: &crate::pipeline::params::NatParams| {
        let kind = match nat.kind {
            NatKind::Napt(_) => "napt",
            NatKind::Prefix(_) => "prefix",
        };
        let report = moment.total.nats.iter().find(|report| report.name == nat.name);
        json!({ "name": nat.name, "kind": kind, "table": report.map(numbers::nat) })
    };
    instance.params.nats.iter().map(translator).collect()
}

/// `GET /v1/attachments`.
pub(super) fn attachments(instance: &Instance) -> Value {
    let attachment = |one: &crate::control::instance::Attachment| json!({ "port": one.port, "device": one.device, "target": one.target });
    instance.attachments.iter().map(attachment).collect()
}
