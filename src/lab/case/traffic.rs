//! `[[traffic]]`: what is sent.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::config::reader::{Integer, Table, Value};
use crate::config::suggest;
use crate::lab::case::network::read_sysctl;
use crate::lab::case::{DEFAULT_TIMEOUT, Host, Kind, Step, Target};
use crate::lab::traffic::clients::{Clients, Clocks};
use crate::lab::traffic::connect::Connect;
use crate::lab::traffic::exec::Exec;
use crate::lab::traffic::ping::Ping;
use crate::lab::traffic::probe::{Place, Probe, Timestamp};
use crate::lab::traffic::request::{Request, SMALLEST};
use crate::lab::traffic::reuse::{Clock, Reuse};
use crate::lab::traffic::serve::{Serve, Service};
use crate::lab::traffic::stream::Stream;
use crate::lab::traffic::talk::Talk;
use crate::lab::traffic::trace::Trace;
use crate::lab::traffic::udp::{Answer, NUMBER, Udp};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Bytes;

/// Values of `type`.
const TYPES: [&str; 14] = [
    "serve", "request", "connect", "probe", "reuse", "clients", "stream", "talk", "udp", "ping", "trace",
    "exec", "sysctl", "wait",
];
/// Largest payload of a UDP datagram over IPv4.
const LARGEST_DATAGRAM: u32 = 65_507;

/// Reads every `[[traffic]]` of `root`.
pub(super) fn read_traffic(root: &mut Table<'_>, hosts: &[Host]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for mut table in root.tables("traffic") {
        if let Some(step) = read_step(&mut table, hosts) {
            if steps.iter().any(|other| other.name == step.name) {
                table.problem(
                    format!("\"{}\" is the name of another step", step.name),
                    "names must be unique",
                );
            }
            steps.push(step);
        }
        table.finish();
    }
    steps
}

fn read_step(table: &mut Table<'_>, hosts: &[Host]) -> Option<Step> {
    let types: Vec<(&str, &str)> = TYPES.iter().map(|&kind| (kind, kind)).collect();
    let kind = table.required("type", "\"request\"")?.choice(&types)?;
    let name = match table.value("name") {
        Some(value) => value.parsed(word, "a name of letters, digits, - and _", "get")?,
        None => kind.to_owned(),
    };
    let server = kind == "serve";
    let host =
        host(table, if server { "on" } else { "from" }, if server { "server" } else { "client" }, hosts);
    // A program or a setting may run on any host.
    let host = if matches!(kind, "exec" | "sysctl") {
        table.value("on").map_or(host, |value| host_index(&value, hosts))
    } else {
        host
    };
    let background = table.flag("background", false) || server;
    let kind = read_kind(kind, host, table, hosts);
    Some(Step { name, host: host?, background, kind: kind? })
}

fn read_kind(kind: &str, host: Option<usize>, table: &mut Table<'_>, hosts: &[Host]) -> Option<Kind> {
    Some(match kind {
        "serve" => Kind::Serve(serve(table)),
        "request" => {
            let size = number(table, "size", SMALLEST..=8_000, 75);
            let request = Request {
                source_port: table.integer("source_port", 1..=u16::MAX),
                await_close: table.flag("await_close", false),
                ..Request::new(size, timeout(table, DEFAULT_TIMEOUT))
            };
            let count = number(table, "count", 1..=100_000, 1);
            Kind::Request { to: target(table, hosts, Some(80))?, request, count }
        }
        "connect" => Kind::Connect(target(table, hosts, Some(80))?, connect(table)),
        "probe" => Kind::Probe(ipv4_target(table, hosts)?, probe(table, &hosts[host?])?),
        "clients" => Kind::Clients(ipv4_target(table, hosts)?, clients(table, &hosts[host?])?),
        "reuse" => Kind::Reuse(ipv4_target(table, hosts)?, reuse(table, &hosts[host?])?),
        "stream" => Kind::Stream(target(table, hosts, Some(5_201))?, stream(table)),
        "talk" => Kind::Talk(target(table, hosts, Some(80))?, talk(table)?),
        "udp" => Kind::Udp(target(table, hosts, Some(5_202))?, udp(table)?),
        "ping" => Kind::Ping(target(table, hosts, None)?, ping(table)),
        "trace" => {
            let hops = number(table, "hops", 1..=64, 8);
            let timeout = timeout(table, Duration::from_secs(1));
            let to = target(table, hosts, Some(33_434))?;
            Kind::Trace(to, Trace { hops, port: to.port, timeout })
        }
        "sysctl" => {
            let settings = table.required("set", "{ \"net.ipv4.tcp_timestamps\" = 0 }")?;
            Kind::Sysctl(read_sysctl(&settings))
        }
        "wait" => {
            let span = table.required("for", "\"1s\"")?.quantity::<Duration>()?;
            Kind::Wait(span.into())
        }
        "exec" => Kind::Exec(exec(table)?),
        // The caller chooses among the names above.
        _ => return None,
    })
}

fn serve(table: &mut Table<'_>) -> Serve {
    let port = number(table, "port", 1..=u16::MAX, 80);
    let backlog = number(table, "backlog", 1..=u16::MAX, 1_024);
    let response = table.value("response");
    let sink = table.flag("sink", false);
    let echo = table.flag("echo", false);
    if let Some(value) = response.as_ref().filter(|_| sink || echo) {
        value.problem(
            "a sink sends no answer, and an echo sends back what it receives",
            "remove response, or sink and echo",
        );
    }
    if sink && echo {
        table.problem("a server is a sink or an echo", "remove one of them");
    }
    let segments: Vec<u32> = match response {
        Some(value) => value.one_or_more().iter().filter_map(|item| item.integer(1..=100_000_000)).collect(),
        None => vec![1_000],
    };
    let service = match (sink, echo) {
        (true, _) => Service::Sink,
        (_, true) => Service::Echo,
        _ => Service::Http(segments),
    };
    let workers = table.integer("workers", 1..=64_u16);
    Serve { port, service, backlog, workers }
}

fn connect(table: &mut Table<'_>) -> Connect {
    let concurrent_value = table.value("concurrent");
    let concurrent = concurrent_value.as_ref().and_then(|value| value.integer(1..=256)).unwrap_or(1);
    let source_port = table.integer("source_port", 1..=u16::MAX);
    if let Some(value) = concurrent_value.filter(|_| source_port.is_some() && concurrent > 1) {
        value.problem("one source port allows one connection at a time", "remove concurrent or source_port");
    }
    Connect {
        count: number(table, "count", 1..=1_000_000, 1),
        concurrent,
        timeout: timeout(table, DEFAULT_TIMEOUT),
        reset: table.flag("reset", false),
        source_port,
        interval: table.quantity::<Duration>("interval").unwrap_or_default().into(),
    }
}

fn probe(table: &mut Table<'_>, host: &Host) -> Option<Probe> {
    let place = table.value("reset").map_or(Some(Place::BeforeAck), |value| value.choice(&Place::NAMES));
    let timestamp =
        table.value("timestamp").map_or(Some(Timestamp::Zero), |value| value.choice(&Timestamp::NAMES));
    let stale = table
        .value("sequence")
        .map_or(Some(false), |value| value.choice(&[("in-window", false), ("stale", true)]));
    Some(Probe {
        count: number(table, "count", 1..=1_000, 1),
        interval: table.quantity::<Duration>("interval").unwrap_or_default().into(),
        source: source(table, host)?,
        place: place?,
        timestamp: timestamp?,
        stale: stale?,
        timeout: timeout(table, DEFAULT_TIMEOUT),
    })
}

fn reuse(table: &mut Table<'_>, host: &Host) -> Option<Reuse> {
    let clock = table.value("timestamp").map_or(Some(Clock::Older), |value| value.choice(&Clock::NAMES));
    let ahead = table
        .value("sequence")
        .map_or(Some(false), |value| value.choice(&[("behind", false), ("ahead", true)]));
    let source_port = number(table, "source_port", 1..=u16::MAX, 40_000);
    Some(Reuse {
        source: source(table, host)?,
        source_port,
        second_port: number(table, "second_port", 1..=u16::MAX, source_port),
        clock: clock?,
        ahead: ahead?,
        timeout: timeout(table, DEFAULT_TIMEOUT),
    })
}

fn clients(table: &mut Table<'_>, host: &Host) -> Option<Clients> {
    let clocks = match table.value("clocks") {
        None => Clocks::Turns(vec![0]),
        Some(value) if value.as_text() == Some("per-connection") => Clocks::PerConnection,
        Some(value) => {
            let offsets: Vec<i32> =
                value.items().iter().filter_map(|item| item.integer(i32::MIN..=i32::MAX)).collect();
            if offsets.is_empty() {
                value.problem(
                    "names no clock",
                    "write how many ms each is ahead, [0, -60000], or \"per-connection\"",
                );
            }
            (!offsets.is_empty()).then_some(Clocks::Turns(offsets))?
        }
    };
    Some(Clients {
        count: number(table, "count", 1..=10_000, 10),
        source: source(table, host)?,
        clocks,
        timeout: timeout(table, DEFAULT_TIMEOUT),
    })
}

/// The destination of segments that the lab builds itself.
fn ipv4_target(table: &mut Table<'_>, hosts: &[Host]) -> Option<Target> {
    let to = target(table, hosts, Some(80))?;
    if to.address.is_ipv6() {
        table.problem("segments built packet by packet are IPv4", "remove family, or give an IPv4 address");
    }
    Some(to)
}

/// The source address of segments that the lab builds itself: the last address of the host's IPv4 prefix, unless the
/// file gives another.
fn source(table: &mut Table<'_>, host: &Host) -> Option<Ipv4Addr> {
    let prefix = host.port.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    });
    let Some(value) = table.value("source") else {
        if prefix.is_none() {
            table.problem(
                "segments built packet by packet are IPv4, and the host has no IPv4 address",
                "give it one",
            );
        }
        return prefix.and_then(|prefix| prefix.hosts().last());
    };
    let address: Ipv4Addr = value.parsed(|text| text.parse().ok(), "an IPv4 address", "10.77.1.253")?;
    if host.port.addresses.iter().any(|net| net.addr() == address) {
        value.problem("is the host's own: its kernel would answer too", "an address that no host has");
    }
    Some(address)
}

fn stream(table: &mut Table<'_>) -> Stream {
    let bytes = table.quantity::<Bytes>("bytes").map(|bytes| bytes.0);
    let duration: Option<std::time::Duration> = table.quantity::<Duration>("duration").map(Into::into);
    let timeout = timeout(table, Duration::from_secs(30));
    let duration = duration.or_else(|| bytes.is_none().then_some(std::time::Duration::from_secs(1)));
    Stream { bytes, duration, timeout }
}

fn talk(table: &mut Table<'_>) -> Option<Talk> {
    let keepalive = match table.value("keepalive") {
        None => None,
        Some(value) => Some(whole_seconds(&value)?),
    };
    Some(Talk {
        count: number(table, "count", 1..=1_000, 2),
        size: number(table, "size", 1..=1_000_000, 100),
        silence: table.quantity::<Duration>("silence").unwrap_or(Duration::from_secs(1)).into(),
        keepalive,
        timeout: timeout(table, DEFAULT_TIMEOUT),
    })
}

/// The kernel counts keepalives in seconds, 1 to 32767 of them.
fn whole_seconds(value: &Value<'_>) -> Option<u32> {
    let span = value.quantity::<Duration>()?.as_nanos();
    let seconds = u32::try_from(span / 1_000_000_000).ok().filter(|seconds| (1..=32_767).contains(seconds));
    let whole = seconds.filter(|_| span.is_multiple_of(1_000_000_000));
    if whole.is_none() {
        value.problem("the kernel sends keepalives after whole seconds", "write \"1s\" to \"32767s\"");
    }
    whole
}

fn udp(table: &mut Table<'_>) -> Option<Udp> {
    let size = number(table, "size", NUMBER as u32..=LARGEST_DATAGRAM, 64);
    let gso_value = table.value("gso");
    let gso = gso_value.as_ref().and_then(|value| value.integer(1..=64)).unwrap_or(1);
    if let Some(value) = gso_value.filter(|_| size * gso > 65_000) {
        value.problem(
            format!("{gso} datagrams of {size} bytes are too large for one call"),
            "at most 65,000 bytes",
        );
    }
    let answer = match table.value("answer") {
        None => None,
        Some(value) => Some(value.choice(&Answer::NAMES)?),
    };
    Some(Udp {
        answer,
        count: number(table, "count", 1..=10_000_000, 100),
        size,
        interval: table.quantity::<Duration>("interval").unwrap_or(Duration::from_millis(1)).into(),
        df: table.flag("df", false),
        gso,
        settle: table.quantity::<Duration>("settle").unwrap_or(Duration::from_secs(1)).into(),
    })
}

fn ping(table: &mut Table<'_>) -> Ping {
    Ping {
        count: number(table, "count", 1..=10_000, 3),
        size: number(table, "size", 0..=65_000, 56),
        timeout: timeout(table, Duration::from_secs(1)),
        ttl: table.integer("ttl", 1..=u8::MAX),
    }
}

fn exec(table: &mut Table<'_>) -> Option<Exec> {
    let command = table.required("command", "[\"curl\", \"-sS\", \"http://10.77.2.2/\"]")?;
    let words: Vec<String> = command.items().iter().filter_map(Value::text).map(str::to_owned).collect();
    if words.is_empty() {
        command.problem("names no program", "write the program and its arguments");
    }
    let ready_port = table.integer("ready_port", 1..=u16::MAX);
    Some(Exec { command: words, timeout: timeout(table, Duration::from_secs(10)), ready_port })
}

fn target(table: &mut Table<'_>, hosts: &[Host], port: Option<u16>) -> Option<Target> {
    let port = port.map_or(0, |default| number(table, "port", 1..=u16::MAX, default));
    let ipv6 = table.integer("family", 4..=6).is_some_and(|family| family == 6);
    let Some(value) = table.value("to") else {
        let host = hosts.iter().position(|host| host.port.name == "server");
        if host.is_none() {
            table.problem("no destination is given", "write to = with the name of a host or an address");
        }
        return host.and_then(|host| at_host(table, hosts, host, ipv6, port));
    };
    let text = value.text()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let owner = |host: &Host| host.port.addresses.iter().any(|net| net.addr() == address);
        return Some(Target { host: hosts.iter().position(owner), address, port });
    }
    at_host(table, hosts, host_index(&value, hosts)?, ipv6, port)
}

/// The first address of the family that the host has.
fn at_host(table: &Table<'_>, hosts: &[Host], host: usize, ipv6: bool, port: u16) -> Option<Target> {
    let plan = &hosts[host].port;
    let address = plan.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv6() == ipv6);
    if address.is_none() {
        table.problem(
            format!("\"{}\" has no address of this family", plan.name),
            "set family = 4 or 6, or addresses",
        );
    }
    Some(Target { host: Some(host), address: address?, port })
}

fn host(table: &mut Table<'_>, key: &'static str, default: &str, hosts: &[Host]) -> Option<usize> {
    if let Some(value) = table.value(key) {
        return host_index(&value, hosts);
    }
    let index = hosts.iter().position(|host| host.port.name == default);
    if index.is_none() {
        table.problem(
            format!("no host is given, and there is no \"{default}\""),
            format!("write {key} = with its name"),
        );
    }
    index
}

fn host_index(value: &Value<'_>, hosts: &[Host]) -> Option<usize> {
    let name = value.text()?;
    let index = hosts.iter().position(|host| host.port.name == name);
    if index.is_none() {
        let names: Vec<&str> = hosts.iter().map(|host| host.port.name.as_str()).collect();
        value.problem(format!("there is no host \"{name}\""), suggest::hint(name, &names));
    }
    index
}

fn word(text: &str) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
}

fn timeout(table: &mut Table<'_>, default: Duration) -> std::time::Duration {
    table.quantity::<Duration>("timeout").unwrap_or(default).into()
}

fn number<T: Integer>(
    table: &mut Table<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<T>,
    default: T,
) -> T {
    table.integer(key, range).unwrap_or(default)
}
