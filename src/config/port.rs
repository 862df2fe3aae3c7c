//! `[[port]]`: devices, namespaces and addresses.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::attached::{MARK, read_attached};
use crate::config::plan::{AttachedPort, NetnsRef, PortKind, PortPlan, default_router};
use crate::config::reader::{Table, Value};
use crate::config::suggest;
use crate::pipeline::params::limits;

/// Maximum length of a device's name in Linux (IFNAMSIZ without its terminator).
const DEVICE_NAME: usize = 15;
/// Smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const IPV6_MTU: u32 = 1_280;

/// Reads every `[[port]]` of `root`. A port with an error is returned nevertheless, so that other tables can refer to
/// it.
pub fn read_ports(root: &mut Table<'_>) -> Vec<PortPlan> {
    let mut ports: Vec<PortPlan> = Vec::new();
    for_each_port(root, |table| {
        let port = read_port(table, &ports);
        ports.push(port);
    });
    ports
}

/// Reads every `[[port]]` of `root`, also those with `attach`.
pub(super) fn read_all_ports(root: &mut Table<'_>) -> (Vec<PortPlan>, Vec<AttachedPort>) {
    let (mut ports, mut attached) = (Vec::new(), Vec::new());
    for_each_port(root, |table| {
        if table.value("attach").is_some() {
            let port = read_attached(table, &ports, &attached);
            attached.push(port);
        } else {
            let port = read_port(table, &ports);
            if !port.name.is_empty() && attached.iter().any(|other: &AttachedPort| other.name == port.name) {
                table.problem(
                    format!("\"{}\" is the name of another port", port.name),
                    "names must be unique",
                );
            }
            ports.push(port);
        }
    });
    nodes(root, &mut ports, &attached);
    (ports, attached)
}

/// Reads `nodes`: ports that are only given by name. Each has a namespace of that name, an IPv4 and an IPv6 address,
/// and default routes: `10.77.N.2/24` and `fd77:N::2/64` for the Nth.
fn nodes(root: &mut Table<'_>, ports: &mut Vec<PortPlan>, attached: &[AttachedPort]) {
    let items = root.value("nodes").map(|value| value.items()).unwrap_or_default();
    if let Some(extra) = items.get(limits::PORTS.saturating_sub(ports.len())) {
        let what = format!("{} nodes and {} other ports are too many", items.len(), ports.len());
        return extra.problem(what, format!("at most {} together", limits::PORTS));
    }
    for (number, item) in (1_u16..).zip(&items) {
        let Some(name) = name(item, ports) else { continue };
        if attached.iter().any(|port| port.name == name) {
            item.problem(format!("\"{name}\" is the name of another port"), "names must be unique");
        }
        let [high, low] = number.to_be_bytes();
        let v4 = Ipv4Net::new([10, 77 + high, low, 2].into(), 24).expect("24 is a length of a prefix");
        let v6 =
            Ipv6Net::new([0xfd77, number, 0, 0, 0, 0, 0, 2].into(), 64).expect("64 is a length of a prefix");
        let addresses = vec![IpNet::from(v4), IpNet::from(v6)];
        for address in &addresses {
            if let Some((port, known)) = overlap(address, ports) {
                let what = format!("{address} overlaps {known} of port \"{port}\"");
                item.problem(what, "give that port another prefix, or make a [[port]] of this node");
            }
        }
        let mut port = PortPlan::new(&name, NetnsRef::Named(name.clone()), addresses);
        if port.device.len() > DEVICE_NAME {
            port.device = format!("fw-node{number}");
        }
        port.create = true;
        port.routes = vec![IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        ports.push(port);
    }
}

/// Calls `read` with each `[[port]]` of `root`, up to the maximum number.
fn for_each_port(root: &mut Table<'_>, mut read: impl FnMut(&mut Table<'_>)) {
    let tables = root.tables("port");
    at_most(limits::PORTS, "ports", &tables);
    for mut table in tables.into_iter().take(limits::PORTS) {
        read(&mut table);
        table.finish();
    }
}

/// Reports the first of `tables` that exceeds the maximum.
pub fn at_most(most: usize, what: &str, tables: &[Table<'_>]) {
    if let Some(extra) = tables.get(most) {
        extra.problem(format!("{} {what} are too many", tables.len()), format!("at most {most}"));
    }
}

/// Reads one port's keys; `others` are the ports before it. It does not finish the table, so that the caller can read
/// further keys.
pub fn read_port(table: &mut Table<'_>, others: &[PortPlan]) -> PortPlan {
    let name = table.required("name", "\"left\"").and_then(|value| name(&value, others)).unwrap_or_default();
    let kind = kind(table);
    let device = device(table, &name, others);
    let netns = table.value("netns").and_then(|value| netns(&value)).unwrap_or_default();
    let create = create(table, &netns);
    let addresses = addresses(table, others);
    let own = routers(table, &addresses);
    let mtu = mtu(table, &addresses);
    let txqueuelen = table.integer("txqueuelen", 1..=1_000_000).unwrap_or(PortPlan::DEFAULT_TXQUEUELEN);
    let routes = host_routes(table, &addresses);
    let offload = table.flag("offload", true);
    PortPlan { name, kind, device, netns, create, addresses, router: own, mtu, txqueuelen, routes, offload }
}

/// The index of the port that `value` names.
pub fn port_index(value: &Value<'_>, names: &[&str]) -> Option<usize> {
    let name = value.text()?;
    let index = names.iter().position(|known| *known == name);
    if index.is_none() {
        if names.iter().any(|known| known.strip_prefix(MARK) == Some(name)) {
            value.problem(
                format!("\"{name}\" is attached: its traffic is not routed and takes no path"),
                "write up, down or both into its [[port]]",
            );
            return None;
        }
        // A port whose own name is wrong has no name.
        let is_port = |name: &&str| !name.is_empty() && !name.starts_with(MARK);
        let names: Vec<&str> = names.iter().copied().filter(is_port).collect();
        value.problem(format!("there is no port \"{name}\""), suggest::hint(name, &names));
    }
    index
}

pub(super) fn name(value: &Value<'_>, others: &[PortPlan]) -> Option<String> {
    let name = value.parsed(
        |text| is_name(text).then(|| text.to_owned()),
        "a name of letters, digits, - _ .",
        "left",
    )?;
    if others.iter().any(|port| port.name == name) {
        value.problem(format!("\"{name}\" is the name of another port"), "names must be unique");
    }
    Some(name)
}

/// Letters, digits and `-_.`, beginning with a letter or digit: safe in file names, device names and tables.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

fn device(table: &mut Table<'_>, name: &str, others: &[PortPlan]) -> String {
    let given = table.value("device");
    let device = given.as_ref().and_then(Value::text).map_or_else(|| format!("fw-{name}"), str::to_owned);
    let report = |what: String, hint: &str| match &given {
        Some(value) => value.problem(what, hint),
        None => table.problem(what, hint),
    };
    if device.len() > DEVICE_NAME {
        let what =
            format!("the device name \"{device}\" has {} bytes, Linux takes {DEVICE_NAME}", device.len());
        report(what, "set a shorter one with device = \"...\"");
    } else if given.is_some() && !is_name(&device) {
        report(format!("\"{device}\" is not a device name"), "letters, digits, - _ .");
    } else if !name.is_empty() && others.iter().any(|port| port.device == device && port.name != name) {
        report(format!("another port has the device name \"{device}\""), "names must be unique");
    }
    device
}

/// `kind = "veth"`.
fn kind(table: &mut Table<'_>) -> PortKind {
    const KINDS: &[(&str, PortKind)] = &[("tun", PortKind::Tun), ("veth", PortKind::Veth)];
    table.value("kind").and_then(|value| value.choice(KINDS)).unwrap_or_default()
}

pub(super) fn netns(value: &Value<'_>) -> Option<NetnsRef> {
    let read = |text: &str| {
        if text.starts_with('/') {
            Some(NetnsRef::Path(PathBuf::from(text)))
        } else {
            is_name(text).then(|| NetnsRef::Named(text.to_owned()))
        }
    };
    value.parsed(read, "the name of a namespace or an absolute path", "left")
}

fn create(table: &mut Table<'_>, netns: &NetnsRef) -> bool {
    let Some(value) = table.value("create") else { return false };
    let create = value.flag().unwrap_or(false);
    if create && !matches!(netns, NetnsRef::Named(_)) {
        value.problem("only a namespace with a name can be created", "set netns = \"left\"");
    }
    create
}

fn addresses(table: &mut Table<'_>, others: &[PortPlan]) -> Vec<IpNet> {
    let Some(value) = table.value("addresses") else { return Vec::new() };
    let mut addresses: Vec<IpNet> = Vec::new();
    for item in value.one_or_more() {
        let Some(address) =
            item.parsed(|text| text.parse().ok(), "an address with its prefix length", "10.0.1.2/24")
        else {
            continue;
        };
        check_host(&item, &address);
        if addresses.iter().any(|known| known.addr() == address.addr()) {
            item.problem(format!("{} is given twice", address.addr()), "give each address once");
        }
        if let Some((port, known)) = overlap(&address, others) {
            let what = format!("{address} overlaps {known} of port \"{port}\"");
            let cure = "each port needs prefixes of its own: use another one, such as 10.0.9.2/24, or shorter parts of this \
                        one, such as 10.0.1.2/30 and 10.0.1.6/30";
            item.problem(what, cure);
        }
        addresses.push(address);
    }
    addresses
}

fn overlap<'a>(address: &IpNet, others: &'a [PortPlan]) -> Option<(&'a str, IpNet)> {
    let overlaps = |known: &IpNet| known.contains(&address.network()) || address.contains(&known.network());
    others.iter().find_map(|port| {
        port.addresses.iter().find(|known| overlaps(known)).map(|known| (port.name.as_str(), *known))
    })
}

/// An address that a host can have.
fn check_host(item: &Value<'_>, address: &IpNet) {
    let ip = address.addr();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || link_local {
        item.problem(format!("{ip} cannot be routed"), "use a unicast address, such as 10.0.1.2/24");
    } else if let IpNet::V4(net) = address
        && net.prefix_len() <= 30
        && (net.addr() == net.network() || net.addr() == net.broadcast())
    {
        item.problem(format!("{ip} is the first or last address of its prefix"), "use one between them");
    }
}

/// The given addresses of the router, and the default in every prefix that has none.
fn routers(table: &mut Table<'_>, addresses: &[IpNet]) -> Vec<IpAddr> {
    let mut routers: Vec<IpAddr> = Vec::new();
    for item in table.value("router").map(|value| value.one_or_more()).unwrap_or_default() {
        let Some(router) = item.parsed(|text| text.parse::<IpAddr>().ok(), "an address", "10.0.1.1") else {
            continue;
        };
        if addresses.iter().any(|address| address.addr() == router) {
            item.problem(format!("{router} is the host's own address"), "the router needs another one");
        } else if !addresses.iter().any(|address| address.contains(&router)) {
            item.problem(format!("{router} is in no prefix of this port"), "the host could not reach it");
        }
        routers.push(router);
    }
    for address in addresses {
        if routers.iter().any(|router| address.contains(router)) {
            continue;
        }
        match default_router(address, addresses) {
            Some(router) => routers.push(router),
            None => {
                table
                    .problem(format!("{address} has no address left for the router"), "use a shorter prefix");
            }
        }
    }
    routers
}

fn mtu(table: &mut Table<'_>, addresses: &[IpNet]) -> u32 {
    let Some(value) = table.value("mtu") else { return PortPlan::DEFAULT_MTU };
    let mtu = value.integer(super::spec::MTU).unwrap_or(PortPlan::DEFAULT_MTU);
    if mtu < IPV6_MTU && addresses.iter().any(|address| matches!(address, IpNet::V6(_))) {
        value.problem(
            format!("{mtu} is too small for IPv6"),
            "at least 1280; for a smaller hop use an mtu stage",
        );
    }
    mtu
}

fn host_routes(table: &mut Table<'_>, addresses: &[IpNet]) -> Vec<IpNet> {
    let has_v4 = addresses.iter().any(|address| matches!(address, IpNet::V4(_)));
    let has_v6 = addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
    let mut routes = Vec::new();
    for item in table.value("routes").map(|value| value.one_or_more()).unwrap_or_default() {
        if item.as_text() == Some("default") {
            if !has_v4 && !has_v6 {
                item.problem("a port without addresses can have no default route", "set addresses");
            }
            routes.extend(has_v4.then(|| IpNet::from(Ipv4Net::default())));
            routes.extend(has_v6.then(|| IpNet::from(Ipv6Net::default())));
        } else if let Some(route) = prefix(&item) {
            if !(if route.addr().is_ipv4() { has_v4 } else { has_v6 }) {
                item.problem(
                    format!("the port has no address of the same family as {route}"),
                    "add one to addresses",
                );
            }
            routes.push(route);
        }
    }
    routes.sort_unstable();
    routes.dedup();
    routes
}

/// A prefix without bits beyond its length; an address without a length is a prefix of one address.
pub(super) fn prefix(value: &Value<'_>) -> Option<IpNet> {
    let read =
        |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let prefix = value.parsed(read, "a prefix", "10.9.0.0/16")?;
    if prefix.addr() != prefix.network() {
        value.problem(format!("{prefix} has bits beyond its length"), format!("try \"{}\"", prefix.trunc()));
    }
    Some(prefix)
}
