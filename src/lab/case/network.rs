//! `[[host]]`, `[fault]`, `[[path]]`, `[[link]]`, `[[route]]` and `[icmp]`: the network of a case.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::plan::{NetnsRef, PortPlan};
use crate::config::reader::{Table, Value};
use crate::config::{
    PathDraft, at_most, read_icmp, read_nats, read_paths, read_port, read_routes, read_seats,
};
use crate::lab::case::{Host, Network};
use crate::net::sysctl;
use crate::pipeline::params::limits;

/// The default hosts, if a case names none.
const DEFAULT_HOSTS: [(&str, [&str; 2]); 2] =
    [("client", ["10.77.1.2/24", "fd77:1::2/64"]), ("server", ["10.77.2.2/24", "fd77:2::2/64"])];

/// Reads the network.
pub(super) fn read_network(root: &mut Table<'_>) -> Network {
    let hosts = read_hosts(root);
    let names: Vec<&str> = hosts.iter().map(|host| host.port.name.as_str()).collect();
    let mut paths = read_paths(root, &names);
    read_fault(root, &names, &mut paths);
    let routes = read_routes(root, &names);
    let ports: Vec<PortPlan> = hosts.iter().map(|host| host.port.clone()).collect();
    let (nats, paths) = read_nats(root, &ports, &routes, paths);
    let icmp = read_icmp(root);
    Network { hosts, paths, routes, nats, icmp }
}

/// Default queue length of a host's device, in packets: more than a case sends while a busy machine delays the
/// router. Only the fault may lose packets.
const TXQUEUELEN: u32 = 20_000;

fn read_hosts(root: &mut Table<'_>) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let tables = root.tables("host");
    at_most(limits::PORTS, "hosts", &tables);
    for mut table in tables.into_iter().take(limits::PORTS) {
        let others: Vec<PortPlan> = hosts.iter().map(|host| host.port.clone()).collect();
        // The case itself creates the namespaces.
        for key in ["netns", "create"] {
            if let Some(value) = table.value(key) {
                value.problem("a host of a case has a namespace of its own", "remove it");
            }
        }
        let (routes, queue) = (table.value("routes").is_some(), table.value("txqueuelen").is_some());
        let mut port = read_port(&mut table, &others);
        fill_in_addresses(&mut port);
        if !routes {
            port.routes = default_routes(&port.addresses);
        }
        if !queue {
            port.txqueuelen = TXQUEUELEN;
        }
        let sysctl = table.value("sysctl").map(|value| read_sysctl(&value)).unwrap_or_default();
        table.finish();
        hosts.push(Host { port, sysctl });
    }
    // A file that changes one of the two default hosts does not need to list the other.
    if hosts.iter().all(|host| DEFAULT_HOSTS.iter().any(|(name, _)| *name == host.port.name)) {
        for (name, addresses) in DEFAULT_HOSTS {
            if hosts.iter().all(|host| host.port.name != name) {
                let mut port = PortPlan::new(name, NetnsRef::Own, parsed(addresses));
                port.routes = default_routes(&port.addresses);
                port.txqueuelen = TXQUEUELEN;
                hosts.push(Host { port, sysctl: Vec::new() });
            }
        }
        hosts.sort_by(|a, b| a.port.name.cmp(&b.port.name));
    }
    hosts
}

/// The default hosts have addresses without being given any.
fn fill_in_addresses(port: &mut PortPlan) {
    let default = DEFAULT_HOSTS.iter().find(|(name, _)| *name == port.name);
    if let Some((_, addresses)) = default.filter(|_| port.addresses.is_empty()) {
        port.addresses = parsed(*addresses);
        port.router = crate::config::plan::default_routers(&port.addresses);
    }
}

fn parsed(addresses: [&str; 2]) -> Vec<IpNet> {
    addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Default routes for each family of which the host has an address.
fn default_routes(addresses: &[IpNet]) -> Vec<IpNet> {
    let has = |ipv4: bool| addresses.iter().any(|address| address.addr().is_ipv4() == ipv4);
    let mut routes = Vec::new();
    routes.extend(has(true).then(|| IpNet::from(Ipv4Net::default())));
    routes.extend(has(false).then(|| IpNet::from(Ipv6Net::default())));
    routes
}

/// `{ "net.ipv4.tcp_syn_retries" = 2 }`, numbers or texts.
pub(super) fn read_sysctl(value: &Value<'_>) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for (key, setting) in value.pairs() {
        if sysctl::key_of(key).is_none() {
            setting.problem(
                format!("\"{key}\" is not the name of a setting of a network namespace"),
                "net. and words of letters, digits, _ and - with dots between, such as net.ipv4.tcp_syn_retries",
            );
        }
        let text = match setting.as_text() {
            Some(text) => Some(text.to_owned()),
            None => setting.integer(i64::MIN..=i64::MAX).map(|number| number.to_string()),
        };
        settings.extend(text.map(|text| (key.to_owned(), text)));
    }
    settings
}

/// `[fault]`: `up` is from the first host to the second, `down` back, `both` comes before either.
fn read_fault(root: &mut Table<'_>, names: &[&str], paths: &mut Vec<PathDraft>) {
    let Some(mut table) = root.value("fault").and_then(|value| value.table()) else { return };
    if names.len() != 2 {
        table.problem("[fault] is between two hosts", "write [[path]] with from and to for more");
    }
    let both = table.value("both");
    for (key, from, to) in [("up", 0, 1), ("down", 1, 0)] {
        let own = table.value(key);
        let values: Vec<Value<'_>> = both.iter().chain(own.iter()).cloned().collect();
        let seats = read_seats(&values);
        if !seats.is_empty() && paths.iter().any(|path| (path.from, path.to) == (from, to)) {
            table.problem(format!("there is a [[path]] for \"{key}\" already"), "put the stages there");
        }
        paths.push(PathDraft { from, to, seats });
    }
    table.finish();
}
