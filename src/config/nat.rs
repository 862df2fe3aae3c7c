//! `[[nat]]`: address translators, and their places in the paths.

mod napt;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use crate::config::draft::{Mark, PathDraft, SeatDraft};
use crate::config::plan::{PathPlan, PortPlan, RoutePlan, RouteTarget, SeatPlan};
use crate::config::port::{at_most, is_name, port_index, prefix};
use crate::config::reader::Table;
use crate::pipeline::params::{NatKind, NatParams, NatPlace, PrefixParams, limits};

/// The ports between which a translator of the file stands.
struct Between {
    outside: usize,
    inside: Vec<usize>,
}

/// Reads every `[[nat]]` of `root` and gives each translator its seat in `paths`. Missing paths that it needs are added. Returns
/// the translators, and the paths with their seats.
pub fn read_nats(
    root: &mut Table<'_>,
    ports: &[PortPlan],
    routes: &[RoutePlan],
    paths: Vec<PathDraft>,
) -> (Vec<NatParams>, Vec<PathPlan>) {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let mut nats: Vec<NatParams> = Vec::new();
    let mut betweens: Vec<Between> = Vec::new();
    let mut places = Places { paths, given: BTreeMap::new() };
    let tables = root.tables("nat");
    at_most(limits::NATS, "translators", &tables);
    for mut table in tables.into_iter().take(limits::NATS) {
        let name = name(&mut table, &nats);
        let between = between(&mut table, &names, &betweens);
        let outside = between.as_ref().map(|between| between.outside);
        let kind = kind(&mut table, outside, ports, routes);
        table.finish();
        let (Some(between), Some(kind)) = (between, kind) else { continue };
        check_overlap(&table, &kind, &nats);
        check_forwards(&table, &kind, &between, ports, routes);
        for &inside in &between.inside {
            for (from, to, outward) in [(inside, between.outside, true), (between.outside, inside, false)] {
                // There are at most `limits::NATS`.
                let nat = u16::try_from(nats.len()).unwrap_or(u16::MAX);
                let place = NatPlace { nat, outward };
                places.give(from, to, place, &table, &names);
            }
        }
        betweens.push(between);
        nats.push(NatParams { name, kind });
    }
    let count = places.paths.len();
    if count > limits::PATHS {
        let hint = format!(
            "at most {}; a link is two, and a translator needs two to each port inside",
            limits::PATHS
        );
        root.problem(format!("{count} paths are too many"), hint);
    }
    let paths = places.finish();
    for lost in paths.iter().filter_map(|path| path.as_ref().err()) {
        let (from, to) = (names[lost.from], names[lost.to]);
        root.problem(
            format!(
                "the path from \"{from}\" to \"{to}\" has a stage of type nat, but no [[nat]] stands between them"
            ),
            format!("write a [[nat]] with outside = \"{to}\" or \"{from}\""),
        );
    }
    (nats, paths.into_iter().filter_map(Result::ok).collect())
}

/// The paths, and the seats in them that translators have been given.
struct Places {
    paths: Vec<PathDraft>,
    /// By the index of the path: the seat, and the translator that has it.
    given: BTreeMap<usize, (usize, NatPlace)>,
}

impl Places {
    /// Puts a translator at the mark of the path, or without a mark at the end that is nearest to the outside.
    fn give(&mut self, from: usize, to: usize, place: NatPlace, table: &Table<'_>, names: &[&str]) {
        let known = self.paths.iter().position(|path| (path.from, path.to) == (from, to));
        let index = known.unwrap_or(self.paths.len());
        if known.is_none() {
            self.paths.push(PathDraft::new(from, to, Vec::new()));
        }
        let path = &mut self.paths[index];
        let is_mark = |seat: &SeatDraft| seat.stage().is_none();
        let marks = path.seats.iter().filter(|seat| is_mark(seat)).count();
        if marks > 1 {
            table.problem(
                format!(
                    "the path from \"{}\" to \"{}\" has {marks} stages of type nat",
                    names[from], names[to]
                ),
                "leave one of them",
            );
        }
        let at = path.seats.iter().position(is_mark).unwrap_or_else(|| {
            let at = if place.outward { path.seats.len() } else { 0 };
            let mut name = NatPlace::TYPE.to_owned();
            while path.names().any(|taken| taken == name) {
                name.push('\'');
            }
            path.seats.insert(at, SeatDraft::Translator { name, place: Mark });
            at
        });
        let mut behind = path.seats[at..].iter().filter_map(SeatDraft::stage);
        if place.outward
            && let Some(stage) = behind.find(|stage| stage.works_both_ways())
        {
            table.problem(
                format!(
                    "stage \"{}\" needs both directions and is after the translator on the way out",
                    stage.name
                ),
                "put it before the stage of type nat",
            );
        }
        self.given.insert(index, (at, place));
    }

    /// The paths with their translators; as an error, the paths with a mark but without a translator.
    fn finish(self) -> Vec<Result<PathPlan, PathDraft>> {
        let finished = |(index, path): (usize, PathDraft)| {
            let given = self.given.get(&index);
            let seat = |(at, seat): (usize, &SeatDraft)| match seat {
                SeatDraft::Stage(stage) => Some(SeatPlan::Stage(stage.clone())),
                SeatDraft::Translator { name, .. } => {
                    let (_, place) = given.filter(|(given, _)| *given == at)?;
                    Some(SeatPlan::Translator { name: name.clone(), place: *place })
                }
            };
            let seats: Option<Vec<SeatPlan>> = path.seats.iter().enumerate().map(seat).collect();
            seats.map(|seats| PathPlan { from: path.from, to: path.to, seats }).ok_or(path)
        };
        self.paths.into_iter().enumerate().map(finished).collect()
    }
}

fn name(table: &mut Table<'_>, others: &[NatParams]) -> String {
    let taken = |name: &str| others.iter().any(|nat| nat.name == name);
    if let Some(value) = table.value("name") {
        let read = |text: &str| is_name(text).then(|| text.to_owned());
        let name = value.parsed(read, "a name of letters, digits, - _ .", "home").unwrap_or_default();
        if taken(&name) {
            value.problem(format!("\"{name}\" is the name of another translator"), "names must be unique");
        }
        return name;
    }
    let mut number = 1;
    let mut name = "nat".to_owned();
    while taken(&name) {
        number += 1;
        name = format!("nat-{number}");
    }
    name
}

fn between(table: &mut Table<'_>, names: &[&str], others: &[Between]) -> Option<Between> {
    let outside = table.required("outside", "\"wan\"").and_then(|value| port_index(&value, names));
    let inside = table.value("inside").map(|value| {
        let mut inside: Vec<usize> = Vec::new();
        for item in value.one_or_more() {
            let Some(port) = port_index(&item, names) else { continue };
            if Some(port) == outside || inside.contains(&port) {
                item.problem(
                    format!("\"{}\" is named before", names[port]),
                    "each port is on one side, once",
                );
            }
            inside.push(port);
        }
        inside
    });
    let outside = outside?;
    let inside = inside.unwrap_or_else(|| (0..names.len()).filter(|port| *port != outside).collect());
    if inside.is_empty() {
        table.problem("there is no port inside", "name one: inside = [\"lan\"]");
    }
    for other in others {
        let same = |a: &Between, outside: usize, port: usize| {
            a.outside == outside && a.inside.contains(&port)
                || a.outside == port && a.inside.contains(&outside)
        };
        if let Some(&port) = inside.iter().find(|port| same(other, outside, **port)) {
            table.problem(
                format!("another translator stands between \"{}\" and \"{}\"", names[port], names[outside]),
                "leave one of them",
            );
        }
    }
    Some(Between { outside, inside })
}

fn kind(
    table: &mut Table<'_>,
    outside: Option<usize>,
    ports: &[PortPlan],
    routes: &[RoutePlan],
) -> Option<NatKind> {
    let is_prefix = table.value("type").and_then(|value| value.choice(&[("napt", false), ("prefix", true)]));
    if is_prefix == Some(true) {
        return read_prefix(table).map(NatKind::Prefix);
    }
    napt::read(table, outside, ports, routes).map(|napt| NatKind::Napt(Box::new(napt)))
}

fn read_prefix(table: &mut Table<'_>) -> Option<PrefixParams> {
    let mut read = |key, example| {
        let value = table.required(key, example)?;
        match prefix(&value)? {
            IpNet::V6(prefix) if prefix.prefix_len() <= 64 && prefix.prefix_len() > 0 => {
                Some((value, prefix))
            }
            IpNet::V6(prefix) => {
                value
                    .problem(format!("{prefix} cannot be translated"), "a prefix of 1 to 64 bits (RFC 6296)");
                None
            }
            IpNet::V4(prefix) => {
                let hint =
                    "IPv6 prefixes are translated; for IPv4 write addresses instead of type = \"prefix\"";
                value.problem(format!("{prefix} is IPv4"), hint);
                None
            }
        }
    };
    let inside = read("inside_prefix", "\"fd00:1::/48\"");
    let outside = read("outside_prefix", "\"2001:db8:1::/48\"");
    let ((_, inside), (value, outside)) = (inside?, outside?);
    if inside.prefix_len() != outside.prefix_len() {
        value.problem(format!("{outside} is not as long as {inside}"), "both prefixes have one length");
    }
    if inside.contains(&Ipv6Net::addr(&outside)) {
        value.problem(format!("{outside} is also inside"), "another prefix");
    }
    Some(PrefixParams { inside: inside.addr(), outside: outside.addr(), length: inside.prefix_len() })
}

/// Finds forwards to a host that is not behind the translator: their packets would need a translation of both ends.
fn check_forwards(
    table: &Table<'_>,
    kind: &NatKind,
    between: &Between,
    ports: &[PortPlan],
    routes: &[RoutePlan],
) {
    let NatKind::Napt(napt) = kind else { return };
    for forward in &napt.forwards {
        let target = forward.to.0;
        let what = match leads_to(target, ports, routes) {
            Some(RouteTarget::Port(port)) if between.inside.contains(&port) => continue,
            Some(RouteTarget::Port(port)) => {
                format!(
                    "the forwarding target {target} is behind \"{}\", which is not inside",
                    ports[port].name
                )
            }
            _ => format!("the forwarding target {target} is behind no port"),
        };
        let inside: Vec<&str> = between.inside.iter().map(|port| ports[*port].name.as_str()).collect();
        table.problem(what, format!("a host behind \"{}\"", inside.join("\" or \"")));
    }
}

/// The port to which packets to this address go: that of the longest prefix.
fn leads_to(address: IpAddr, ports: &[PortPlan], routes: &[RoutePlan]) -> Option<RouteTarget> {
    let of_ports = ports
        .iter()
        .enumerate()
        .flat_map(|(at, port)| port.addresses.iter().map(move |prefix| (*prefix, RouteTarget::Port(at))));
    let all = of_ports.chain(routes.iter().map(|route| (route.prefix, route.target)));
    all.filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(_, target)| target)
}

/// Finds two translators that could assign the same port twice.
fn check_overlap(table: &Table<'_>, kind: &NatKind, others: &[NatParams]) {
    let NatKind::Napt(napt) = kind else { return };
    for other in others {
        let NatKind::Napt(known) = &other.kind else { continue };
        let shared = napt.addresses.iter().find(|address| known.addresses.contains(address));
        if let Some(address) = shared {
            table.problem(
                format!("{address} is an address of translator \"{}\" too", other.name),
                "give each address to one translator",
            );
        }
    }
}
