//! The keys of a translator of addresses and ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::config::impairment::positive;
use crate::config::plan::{PortPlan, RoutePlan, RouteTarget};
use crate::config::reader::{Table, Value};
use crate::config::select::range;
use crate::pipeline::params::{
    Dependence, Forward, MidStream, NaptParams, NatClock, NatTimeouts, PortAllocation, Rebind,
};
use crate::pipeline::time::Duration;

/// Maximum number of addresses of one translator.
const MOST_ADDRESSES: usize = 256;
/// Maximum number of sessions of one translator: its table is allocated at the start.
const MOST_SESSIONS: usize = 1 << 22;
/// Default number of sessions.
const DEFAULT_SESSIONS: usize = 65_536;
/// Default range of ports: all but the system ports (RFC 6335 section 6).
const DEFAULT_PORTS: RangeInclusive<u16> = 1_024..=u16::MAX;

const DEPENDENCE: &[(&str, Dependence)] = &[
    ("endpoint-independent", Dependence::Independent),
    ("address-dependent", Dependence::Address),
    ("address-and-port-dependent", Dependence::AddressAndPort),
];

/// Reads the keys of one translator; `outside` is its port to the outside network.
pub(super) fn read(
    table: &mut Table<'_>,
    outside: Option<usize>,
    ports: &[PortPlan],
    routes: &[RoutePlan],
) -> Option<NaptParams> {
    const ALLOCATIONS: &[(&str, PortAllocation)] = &[
        ("preserve", PortAllocation::Preserve),
        ("random", PortAllocation::Random),
        ("smallest", PortAllocation::Smallest),
    ];
    const CLOCKS: &[(&str, NatClock)] = &[("pass", NatClock::Pass), ("one-clock", NatClock::One)];
    const MID_STREAM: &[(&str, MidStream)] =
        &[("open", MidStream::Open), ("drop", MidStream::Drop), ("reset", MidStream::Reset)];
    let addresses = addresses(table, outside, ports, routes);
    let pool = table.value("ports").and_then(|value| {
        let (first, last) = range::<u16>(&value)?;
        if first == 0 {
            value.problem("port 0 cannot be given out", "try \"1024-65535\"");
        }
        Some(first..=last)
    });
    let allocation =
        table.value("allocation").and_then(|value| value.choice(ALLOCATIONS)).unwrap_or_default();
    let mut dependence =
        |key, default| table.value(key).and_then(|value| value.choice(DEPENDENCE)).unwrap_or(default);
    let mapping = dependence("mapping", Dependence::Independent);
    let filtering = dependence("filtering", Dependence::AddressAndPort);
    let hairpin = table.flag("hairpin", true);
    let table_size = table.integer("table_size", 1..=MOST_SESSIONS).unwrap_or(DEFAULT_SESSIONS);
    let inbound_refresh = table.flag("inbound_refresh", true);
    let clock = table.value("timestamps").and_then(|value| value.choice(CLOCKS)).unwrap_or_default();
    let mid_stream =
        table.value("tcp_without_session").and_then(|value| value.choice(MID_STREAM)).unwrap_or_default();
    let timeouts = table.value("timeouts").and_then(|value| timeouts(&value)).unwrap_or_default();
    let rebind = table.value("rebind").and_then(|value| rebind(&value));
    let forwards = forwards(table, &addresses);
    (!addresses.is_empty()).then(|| NaptParams {
        addresses,
        ports: pool.unwrap_or(DEFAULT_PORTS),
        allocation,
        mapping,
        filtering,
        hairpin,
        table_size,
        timeouts,
        inbound_refresh,
        clock,
        mid_stream,
        forwards,
        rebind,
    })
}

/// Addresses and address ranges; by default the router's own addresses on the port.
fn addresses(
    table: &mut Table<'_>,
    outside: Option<usize>,
    ports: &[PortPlan],
    routes: &[RoutePlan],
) -> Vec<IpAddr> {
    let port = outside.map(|outside| &ports[outside]);
    let Some(value) = table.value("addresses") else {
        let own = port.and_then(|port| port.router.iter().find(|own| own.is_ipv4()));
        if let (None, Some(port)) = (own, port) {
            table.problem(
                format!("port \"{}\" has no IPv4 address for the translator", port.name),
                "write addresses = [\"...\"]",
            );
        }
        return own.copied().into_iter().collect();
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    let items = value.one_or_more();
    for item in &items {
        let example = "192.0.2.10 or 192.0.2.10-192.0.2.13";
        let Some(some) = item.parsed(address_range, "an address or a range of at most 256", example) else {
            continue;
        };
        for address in some {
            if addresses.contains(&address) {
                item.problem(format!("{address} is given twice"), "give each address once");
            } else if let Some(what) =
                outside.and_then(|outside| why_not_outside(address, outside, ports, routes))
            {
                item.problem(what.0, what.1);
            }
            addresses.push(address);
        }
    }
    if items.is_empty() || addresses.len() > MOST_ADDRESSES {
        value.problem(
            format!("{} addresses", addresses.len()),
            format!("a pool has 1 to {MOST_ADDRESSES} addresses"),
        );
    }
    addresses
}

fn address_range(text: &str) -> Option<Vec<IpAddr>> {
    let Some((first, last)) = text.split_once('-') else { return Some(vec![text.parse().ok()?]) };
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let most = MOST_ADDRESSES as u128;
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            let fits = first <= last && u128::from(last - first) < most;
            fits.then(|| (first..=last).map(|bits| Ipv4Addr::from(bits).into()).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            let fits = first <= last && last - first < most;
            fits.then(|| (first..=last).map(|bits| Ipv6Addr::from(bits).into()).collect())
        }
        _ => None,
    }
}

/// Why hosts behind the port could not send to this address, and how to fix this.
fn why_not_outside(
    address: IpAddr,
    outside: usize,
    ports: &[PortPlan],
    routes: &[RoutePlan],
) -> Option<(String, String)> {
    let port = &ports[outside];
    let owner = ports.iter().find(|port| port.addresses.iter().any(|host| host.addr() == address));
    if let Some(owner) = owner {
        let what = format!("{address} is the host's own address on port \"{}\"", owner.name);
        return Some((what, "an address that nobody has, or the router's own".to_owned()));
    }
    let connected = port.addresses.iter().any(|prefix| prefix.contains(&address));
    let leads_there = routes
        .iter()
        .any(|route| route.target == RouteTarget::Port(outside) && route.prefix.contains(&address))
        || port.routes.iter().any(|route| route.contains(&address) && route.prefix_len() > 0);
    (!connected && !leads_there).then(|| {
        let prefixes: Vec<String> = port.addresses.iter().map(|prefix| prefix.trunc().to_string()).collect();
        (
            format!("{address} is on no port: hosts behind \"{}\" are in {}", port.name, prefixes.join(", ")),
            "an address of these, or add a route of the port to it".to_owned(),
        )
    })
}

fn timeouts(value: &Value<'_>) -> Option<NatTimeouts> {
    let mut table = value.table()?;
    let default = NatTimeouts::default();
    let mut read =
        |key, default: Duration| table.value(key).and_then(|value| positive(&value)).unwrap_or(default);
    let timeouts = NatTimeouts {
        udp: read("udp", default.udp),
        icmp: read("icmp", default.icmp),
        tcp_opening: read("tcp_opening", default.tcp_opening),
        tcp_established: read("tcp_established", default.tcp_established),
        tcp_closing: read("tcp_closing", default.tcp_closing),
        tcp_reset: read("tcp_reset", default.tcp_reset),
    };
    table.finish();
    Some(timeouts)
}

/// `"30s"`: once; or a table with `at`, `every` or both.
fn rebind(value: &Value<'_>) -> Option<Rebind> {
    if value.as_text().is_some() {
        return positive(value).map(|at| Rebind { at, every: None });
    }
    let mut table = value.table()?;
    let mut read = |key| table.value(key).and_then(|value| positive(&value));
    let (at, every) = (read("at"), read("every"));
    table.finish();
    let Some(at) = at.or(every) else {
        value.problem(
            "neither a time nor an interval is given",
            "write rebind = \"30s\" or { every = \"30s\" }",
        );
        return None;
    };
    Some(Rebind { at, every })
}

fn forwards(table: &mut Table<'_>, addresses: &[IpAddr]) -> Vec<Forward> {
    let mut forwards: Vec<Forward> = Vec::new();
    for mut entry in table.tables("forward") {
        let protocol =
            entry.required("protocol", "\"tcp\"").and_then(|value| value.choice(&[("tcp", 6), ("udp", 17)]));
        let port = entry.required("port", "8080").and_then(|value| value.integer(1..=u16::MAX));
        let to = entry.required("to", "\"10.0.1.2:80\"");
        let target = to.as_ref().and_then(|value| {
            value.parsed(
                |text| text.parse::<SocketAddr>().ok(),
                "an address with a port",
                "10.0.1.2:80 or [fd00:1::2]:80",
            )
        });
        let given = entry.value("address");
        let address = given
            .as_ref()
            .map(|value| value.parsed(|text| text.parse::<IpAddr>().ok(), "an address", "192.0.2.10"));
        let same_family =
            |address: &&IpAddr| target.is_none_or(|target| target.is_ipv4() == address.is_ipv4());
        let outer = match address {
            Some(address) => address,
            None => addresses.iter().find(same_family).copied(),
        };
        let at = outer.and_then(|outer| addresses.iter().position(|address| *address == outer));
        if let (Some(value), Some(outer), None) = (&given, outer, at) {
            value.problem(format!("{outer} is not an address of this translator"), "one of addresses");
        }
        if let (Some(value), Some(target)) = (&to, target) {
            let family = if target.is_ipv4() { "IPv4" } else { "IPv6" };
            if outer.is_none_or(|outer| outer.is_ipv4() != target.is_ipv4()) {
                let what = format!("{} is {family}, and the translator's address is not", target.ip());
                value.problem(
                    what,
                    format!("an address of the other family, or add an {family} one to addresses"),
                );
            }
        }
        entry.finish();
        let (Some(protocol), Some(port), Some(target), Some(address)) = (protocol, port, target, at) else {
            continue;
        };
        let forward = Forward { protocol, address, port, to: (target.ip(), target.port()) };
        let outer = |forward: &Forward| (forward.protocol, forward.address, forward.port);
        if forwards.iter().any(|known| outer(known) == outer(&forward)) {
            entry.problem(format!("port {port} is forwarded already"), "give each port once");
        }
        if forwards.iter().any(|known| (known.protocol, known.to) == (forward.protocol, forward.to)) {
            entry.problem(format!("{target} is forwarded to already"), "give each target once");
        }
        forwards.push(forward);
    }
    forwards
}
