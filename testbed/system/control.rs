//! The control socket and the metrics of a running instance, read by curl, Prometheus' own parser and raw sockets.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use faultwire::control::{Client, ClientError};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{Folder, Running, Scratch, config, faultwire, said, send, tool, unique, until};

/// Two paths, each with a stage that sees pings only.
const PATHS: &str = r#"
[[path]]
from = "left"
to = "right"
[[path.stage]]
type = "loss"
name = "third"
probability = "100%"
match = { protocol = "icmp" }
trigger = { every = 3, scope = "path" }
[[path.stage]]
type = "delay"
delay = "1ms"
match = { protocol = "icmp" }
[[path]]
from = "right"
to = "left"
spec = "mtu 1400 drop"
"#;

/// A run with a control socket of its own.
pub(crate) struct Asked {
    pub(crate) running: Running,
    client: Client,
}

impl Asked {
    pub(crate) fn start(paths: &str, options: &[&str]) -> Self {
        let name = unique();
        let (left, right) = (format!("{name}l"), format!("{name}r"));
        let socket = std::env::temp_dir().join(format!("{name}.sock"));
        let config = Scratch::file(&config(&left, &right, "seed = 5", paths));
        let control = ["--control", socket.to_str().unwrap()];
        let running = Running::with(config, [left, right], &[&control[..], options].concat());
        Self { running, client: Client::at(socket) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.client.path().unwrap().to_owned()
    }

    fn ping(&self, count: u32) {
        let count = count.to_string();
        let words = ["ping", "-q", "-i", "0.002", "-c", &count, "-W", "1", "10.88.2.2"];
        Running::inside(&self.running.left, &words).output().unwrap();
    }

    pub(crate) fn get(&self, resource: &str) -> Value {
        self.client.get(resource).unwrap_or_else(|error| panic!("{resource}: {error}"))
    }
}

fn stage<'a>(counters: &'a Value, path: &str, name: &str) -> &'a Value {
    let of = |value: &'a Value, key: &str, name: &str| {
        value[key].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
    };
    of(of(counters, "paths", path), "stages", name)
}

/// The numbers during the run agree with the summary at the end.
#[test]
fn the_numbers_are_those_of_the_summary() {
    let asked = Asked::start(PATHS, &[]);
    asked.ping(30);
    let counters = asked.get("/v1/counters");
    let third = stage(&counters, "left>right", "third");
    assert_eq!(third["acted"]["packets"], 10, "{third}");
    assert_eq!(third["dropped"]["loss"]["packets"], 10, "{third}");
    assert_eq!(third["type"], "loss");
    assert_eq!(stage(&counters, "left>right", "delay")["delayed"]["packets"], 20);
    assert_eq!(counters["conserved"], true);
    let path = &counters["paths"][0];
    let lateness = &path["lateness_ns"];
    assert_eq!(lateness["count"], 20);
    // No packet waits for less than its delay; each waits longer by its lateness.
    let waited = path["delay_ns"]["max"].as_u64().unwrap();
    assert!(waited >= 1_000_000 && waited <= 1_000_000 + lateness["max"].as_u64().unwrap(), "{path}");
    let stages = asked.get("/v1/stages");
    assert_eq!(stages[0]["id"], "left>right/third");
    assert!(stages[0]["text"].as_str().unwrap().contains("only icmp"), "{stages}");
    assert_eq!(asked.get("/v1/paths")[0]["stages"], serde_json::json!(["third", "delay"]));
    let state = asked.get("/v1/state");
    assert_eq!((&state["command"], &state["seed"], &state["api"]), (&"run".into(), &5.into(), &1.into()));
    assert_eq!(state["pid"], asked.running.child.id());
    let ports = asked.get("/v1/ports");
    assert_eq!((&ports[0]["name"], &ports[0]["device"]["is_there"]), (&"left".into(), &true.into()));
    let sent = ports[0]["device"]["tx_packets"].as_u64().unwrap();
    assert!(sent >= 30, "{ports}");
    let socket = asked.socket();
    let mut summary = asked.running.stop(Signal::SIGINT);
    let mut last = stage(&counters, "left>right", "third").clone();
    last.as_object_mut().unwrap().remove("type");
    // Other packets than pings may have arrived since; the stage does not select them.
    let end = summary["paths"][0]["stages"][0].take();
    for key in ["acted", "dropped", "delayed", "created"] {
        assert_eq!(end[key], last[key], "{key}");
    }
    assert!(!socket.exists());
}

/// A command of `exec` finds the socket of its own link, and curl reads it.
#[test]
fn the_command_of_exec_can_ask() {
    let script = "curl -sf --unix-socket $FAULTWIRE_CONTROL http://faultwire/v1/paths";
    let output = faultwire().args(["exec", "--both", "loss 1%", "--", "sh", "-c", script]).output().unwrap();
    let paths: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!((&paths[0]["name"], &paths[1]["name"]), (&"up".into(), &"down".into()));
}

/// Prometheus' own parser reads everything; each family occurs once, with a type, and agrees with the counters.
#[test]
fn metrics_are_read_by_prometheus() {
    const READ: &str = "
import sys, json
from prometheus_client.parser import text_string_to_metric_families
seen = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name not in seen, family.name
    assert family.type in ('counter', 'gauge', 'summary', 'histogram'), family
    assert family.documentation, family
    seen[family.name] = [[s.name, s.labels, s.value] for s in family.samples]
json.dump(seen, sys.stdout)
";
    let asked = Asked::start(PATHS, &["--metrics", "127.0.0.1:0"]);
    asked.ping(30);
    let text = curl(&asked.socket(), "/metrics");
    let mut parser = tool("/usr/bin/python3")
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let parsed = parser.wait_with_output().unwrap();
    assert!(parsed.status.success(), "{}\n{text}", said(&parsed));
    let families: Value = serde_json::from_slice(&parsed.stdout).unwrap();
    let value = |family: &str, labels: &[(&str, &str)]| {
        let samples = families[family].as_array().unwrap_or_else(|| panic!("{family}: {families}"));
        let found =
            samples.iter().find(|sample| labels.iter().all(|(label, text)| sample[1][label] == *text));
        found.unwrap_or_else(|| panic!("{family} {labels:?}: {samples:?}"))[2].as_f64().unwrap()
    };
    let count = |family: &str, labels: &[(&str, &str)]| value(family, labels) as u64;
    let third = [("path", "left>right"), ("stage", "third"), ("type", "loss")];
    assert_eq!(count("faultwire_stage_acted_packets", &third), 10);
    assert_eq!(count("faultwire_stage_dropped_packets", &[&third[..], &[("reason", "loss")]].concat()), 10);
    assert_eq!(count("faultwire_dropped_packets", &[("reason", "loss"), ("ordered", "true")]), 10);
    assert!(value("faultwire_device_tx_packets", &[("port", "left")]) >= 30.0);
    assert!(value("faultwire_lateness_seconds", &[("quantile", "0.5")]) > 0.0);
    // Only pings wait, each for at least a millisecond.
    let times = |name: &str, bound: &str| {
        let family = format!("faultwire_path_{name}_seconds");
        let samples = families[&family].as_array().unwrap_or_else(|| panic!("{family}: {families}"));
        let labels = serde_json::json!({ "path": "left>right", "le": bound });
        samples.iter().find(|sample| sample[1] == labels).unwrap()[2].as_f64().unwrap() as u64
    };
    let all = times("delay", "+Inf");
    assert_eq!(all - times("delay", "0.000524288"), 20);
    assert_eq!(times("delay", "34.359738368"), all);
    assert_eq!(times("lateness", "+Inf"), 20);
    assert_eq!(count("faultwire_stage_held_packets", &[("path", "left>right"), ("stage", "delay")]), 0);
    assert_eq!(count("faultwire_info", &[("command", "run"), ("seed", "5")]), 1);
}

/// Over TCP only the metrics are served, at the loopback address if only a port is given.
#[test]
fn the_address_of_the_metrics_serves_nothing_else() {
    let netns = crate::system::common::Foreign::new();
    let mut command = tool("ip");
    command.args(["netns", "exec", &netns.0, env!("CARGO_BIN_EXE_faultwire"), "exec", "--control", "none"]);
    crate::system::common::ip(&["-n", &netns.0, "link", "set", "lo", "up"]);
    let script = "for resource in metrics v1/state; do ip netns exec $0 curl -s -o /dev/null -w '%{http_code} ' \
                  http://127.0.0.1:9464/$resource; done";
    let output = command.args(["--metrics", "9464", "--", "sh", "-c", script, &netns.0]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 404 ", "{}", said(&output));
    assert!(said(&output).contains("metrics at http://127.0.0.1:9464/metrics"), "{}", said(&output));
}

fn curl(socket: &Path, resource: &str) -> String {
    let url = format!("http://faultwire{resource}");
    let output = tool("curl").args(["-sSf", "--unix-socket"]).arg(socket).arg(url).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn drops_are_told_as_they_happen() {
    let asked = Asked::start(PATHS, &[]);
    let mut events = asked.client.events("path=left%3Eright&match=icmp").unwrap();
    assert_eq!(events.next().unwrap().unwrap()["kind"], "listening");
    asked.ping(30);
    for _ in 0..10 {
        let event = events.next().unwrap().unwrap();
        assert_eq!((&event["kind"], &event["place"]), (&"dropped".into(), &"left>right/third".into()));
        assert_eq!(event["reason"], "loss");
    }
    // The stream ends with the run, and in order.
    asked.running.stop(Signal::SIGTERM);
    assert_eq!(events.count(), 0);
}

/// A reader that does not read loses events and gets their number. Other readers and the packets are not affected.
#[test]
fn a_slow_reader_loses_events_and_learns_how_many() {
    const FLOOD: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(20000): s.sendto(b'x' * 100, ('10.88.2.2', 9))
";
    let asked = Asked::start(PATHS, &[]);
    let mut slow = asked.client.events("kinds=received&match=udp").unwrap();
    assert_eq!(slow.next().unwrap().unwrap()["kind"], "listening");
    let flood = Running::inside(&asked.running.left, &["python3", "-c", FLOOD]).output().unwrap();
    assert!(flood.status.success(), "{}", said(&flood));
    // All that came is told or counted as lost: each packet has an event of its own, for nothing here is a train. Some still wait
    // in the device's queue, so that the count grows while events are read.
    let seen = || {
        let counters = asked.get("/v1/counters");
        stage(&counters, "left>right", "third")["seen"]["packets"].as_u64().unwrap()
    };
    let (mut told, mut lost, mut came) = (0, 0, seen());
    while told + lost < came {
        let event = slow.next().unwrap().unwrap();
        match event["kind"].as_str().unwrap() {
            "received" => told += event["packets"].as_u64().unwrap(),
            "lost" => lost += event["events"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
        if told + lost >= came {
            came = seen();
        }
    }
    assert_eq!(told + lost, came);
    assert!(came > 2_000, "{came}");
    assert!(told > 0 && lost > 0, "{told} told, {lost} lost");
    asked.running.stop(Signal::SIGTERM);
    assert_eq!(slow.count(), 0);
}

#[test]
fn wrong_requests_are_answered_by_what_is_wrong() {
    let asked = Asked::start(PATHS, &[]);
    for (resource, status, field, words) in [
        ("/v1/nothing", 404, "path", "GET /v1"),
        ("/v1/events?kinds=lost", 400, "kinds", "dropped"),
        ("/v1/events?path=up", 404, "path", "left>right"),
        ("/v1/events?match=prot", 400, "match", "prot"),
        ("/v1/events?sample=0", 400, "sample", "at least 1"),
        ("/v1/events?sample=x", 400, "query", "sample"),
        ("/v1/events?sampel=1", 400, "query", "sample"),
    ] {
        let answered = asked.client.get(resource);
        let Err(ClientError::Refused { status: got, field: of, what }) = answered else {
            panic!("{resource}: {answered:?}")
        };
        assert_eq!((got, of.as_str()), (status, field), "{resource}: {what}");
        assert!(what.contains(words), "{resource}: {what}");
    }
    let posted = asked.client.send("POST", "/v1/state", None, None).unwrap_err().to_string();
    assert!(posted.contains("POST"), "{posted}");
}

/// Requests that are not HTTP, too large or incomplete cost only their own connection.
#[test]
fn hostile_clients_are_closed_and_packets_pass() {
    let asked = Asked::start(PATHS, &[]);
    let connect = || UnixStream::connect(asked.socket()).unwrap();
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(100_000));
    for wrong in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9\r\n\r\n", long.as_str()] {
        let mut stream = connect();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        // The connection may be closed before the request is written completely.
        let _ = stream.write_all(wrong.as_bytes());
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{wrong:.40}: {answer}");
    }
    // More silent connections than are served: forwarding continues, and memory does not grow.
    let silent: Vec<UnixStream> = (0..1_000).filter_map(|_| connect_now(&asked.socket())).collect();
    assert!(silent.len() >= 64, "{}", silent.len());
    asked.ping(10);
    drop(silent);
    let counters = asked.get("/v1/counters");
    assert_eq!(stage(&counters, "left>right", "third")["acted"]["packets"], 3);
    assert!(resident(asked.running.child.id()) < 100 << 20);
}

/// Clients that request much and never read affect neither the packets nor other clients, and cost no memory.
#[test]
fn clients_that_never_read_stop_nobody() {
    let asked = Asked::start(PATHS, &["--metrics", "127.0.0.1:0"]);
    let ask = |resource: &str| {
        let mut stream = UnixStream::connect(asked.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let request = format!("GET {resource} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(1_000);
        // As many requests as the instance takes: first the answers have no room, then the requests.
        let mut rest = request.as_bytes();
        while let Ok(count @ 1..) = stream.write(rest) {
            rest = &rest[count..];
        }
        stream
    };
    let resources = ["/metrics", "/v1/counters", "/v1/stages", "/v1/flows", "/v1/events?kinds=received,sent"];
    let silent: Vec<UnixStream> = resources.iter().cycle().take(40).map(|resource| ask(resource)).collect();
    asked.ping(30);
    assert!(curl(&asked.socket(), "/metrics").contains("faultwire_path_delay_seconds_count"));
    let counters = asked.get("/v1/counters");
    assert_eq!(stage(&counters, "left>right", "third")["acted"]["packets"], 10);
    assert!(resident(asked.running.child.id()) < 100 << 20);
    asked.running.stop(Signal::SIGTERM);
    drop(silent);
}

/// A connection, if there is room in the backlog.
fn connect_now(path: &Path) -> Option<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).ok().map(|()| fd.into())
}

pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Without requests, the serving thread does not wake up.
#[test]
fn nothing_wakes_up_while_nobody_asks() {
    let asked = Asked::start(PATHS, &[]);
    let pid = asked.running.child.id();
    let tasks = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let is_control =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == "control";
        tasks.filter(is_control).collect::<Vec<_>>()
    };
    let switches = |task: &Path| {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let of =
            |word: &str| status.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_owned();
        of("voluntary_ctxt_switches:").parse::<u64>().unwrap()
    };
    until("the socket is served", || UnixStream::connect(asked.socket()).is_ok() && tasks().len() == 1);
    let task = &tasks()[0];
    let mut before = 0;
    // Wait until the thread has accepted and closed that connection.
    until("it sleeps", || {
        faultwire::lab::clock::pause(Duration::from_millis(50));
        std::mem::replace(&mut before, switches(task)) == before
    });
    faultwire::lab::clock::pause(Duration::from_secs(2));
    assert_eq!(switches(task), before);
}

/// If something else exists at the path, the start is refused before anything is created, and it stays unchanged.
#[test]
fn a_path_that_is_taken_is_refused() {
    let name = std::env::temp_dir().join(unique());
    let path = |ending: &str| name.with_extension(ending);
    std::fs::write(path("file"), "mine").unwrap();
    symlink("/nowhere", path("link")).unwrap();
    let listener = UnixListener::bind(path("busy")).unwrap();
    let config = Scratch::file(&config(&unique(), &unique(), "", PATHS));
    for (ending, words) in [("file", "no socket"), ("link", "symbolic link"), ("busy", "listens")] {
        let socket = path(ending);
        let run = ["run", config.path(), "--control", socket.to_str().unwrap()];
        let output = faultwire().args(run).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
        assert!(socket.symlink_metadata().is_ok());
        std::fs::remove_file(socket).unwrap();
    }
    drop(listener);
}

/// By default the socket has the number of the process and is its owner's; one that SIGKILL left is taken over.
#[test]
fn sockets_of_killed_instances_are_taken_over() {
    let name = unique();
    let socket = PathBuf::from(format!("/run/faultwire/{name}.sock"));
    let start = || {
        let mut child = faultwire()
            .args(["exec", "--control", &name, "--", "sh", "-c", "echo $FAULTWIRE_CONTROL; exec cat"])
            // The command of a killed faultwire ends when its input ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(Path::new(line.trim()), socket);
        child
    };
    let mut first = start();
    let found = socket.symlink_metadata().unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(Client::all().contains(&Client::at(&socket)));
    send(&first, Signal::SIGKILL);
    first.wait().unwrap();
    assert!(socket.exists(), "nobody was there to remove it");
    assert!(!Client::all().contains(&Client::at(&socket)));
    drop(first);
    let mut second = start();
    assert_eq!(Client::at(&socket).get("/v1/state").unwrap()["pid"], second.id());
    send(&second, Signal::SIGTERM);
    second.wait().unwrap();
    assert!(!socket.exists());
}

/// `ctl ls` lists all instances, with `--control` only that one.
#[test]
fn only_the_chosen_instance_is_listed() {
    let folder = Folder::new();
    let socket = folder.file("socket");
    let list = "\"$0\" ctl ls --json --control";
    let script = format!("{list} \"$FAULTWIRE_CONTROL\" && ! {list} {socket}-none");
    let program = env!("CARGO_BIN_EXE_faultwire");
    let listed = faultwire()
        .args(["exec", "--control", &socket, "--both", "delay 1ms", "--", "sh", "-c", &script, program])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", said(&listed));
    let answers = serde_json::Deserializer::from_slice(&listed.stdout).into_iter::<Value>();
    let answers: Vec<Value> = answers.map(Result::unwrap).collect();
    let instances = answers[0]["instances"].as_array().unwrap();
    assert!(instances.len() == 1 && instances[0]["socket"] == socket, "{answers:#?}");
    assert_eq!(answers[1]["error"]["code"], 1);
}
