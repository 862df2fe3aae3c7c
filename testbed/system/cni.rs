//! `faultwire cni` as a runtime drives it (CNI specification 1.0.0): on a veth, and behind Debian's plugins.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::system::attach::{Hosts, PEER, round_trip};
use crate::system::common::{Foreign, faultwire, ip, said, tool, unique, until};

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";
/// Round trip under [`SLOW`] in both directions.
const LATE: Duration = Duration::from_millis(40);
const SLOW: &str = "delay 20ms";

/// One interface of one container, with the data that its runtime has.
struct Runtime {
    container: String,
    netns: String,
    environment: Vec<(&'static str, String)>,
}

impl Runtime {
    fn new(netns: &str) -> Self {
        Self { container: unique(), netns: netns.to_owned(), environment: Vec::new() }
    }

    /// Gives a plugin its parameters, and its configuration on standard input.
    fn drive(&self, mut plugin: Command, command: &str, config: &str) -> (i32, String) {
        for name in ["CNI_ARGS", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_COMMAND"] {
            plugin.env_remove(name);
        }
        let own = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_NETNS", &format!("/run/netns/{}", self.netns)),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", PLUGINS),
        ];
        plugin.envs(own).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let mut child =
            plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A plugin that needs no configuration may end before the configuration is written.
        let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        (output.status.code().unwrap_or_else(|| panic!("{}", said(&output))), text)
    }

    /// Runs faultwire as the plugin, which must succeed, and returns its answer.
    fn faultwire(&self, command: &str, config: &Value) -> Option<Value> {
        let (code, text) = self.drive(faultwire(), command, &config.to_string());
        assert_eq!(code, 0, "{command}: {text}");
        (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    /// Runs the plugin, which must fail with this code, and returns the error message.
    fn refused(&self, command: &str, config: &str, code: u64) -> String {
        let (exit, text) = self.drive(faultwire(), command, config);
        assert_eq!(exit, 1, "{command}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert_eq!(error["code"], code, "{command} {config}: {error}");
        assert!(error["cniVersion"].is_string(), "{error}");
        error["msg"].as_str().unwrap().to_owned()
    }

    fn record(&self) -> PathBuf {
        PathBuf::from(format!("/run/faultwire-cni/{}@eth0", self.container))
    }

    /// The process that was started for it.
    fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.record()).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A failed test leaves an attachment. It ends with its namespace; its record is removed here.
        let _ = fs::remove_file(self.record());
    }
}

/// The result of the plugin before faultwire in the chain.
fn previous() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.87.0.1/24", "interface": 0 }],
        "dns": {}
    })
}

fn config(faults: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "faultwire", "both": faults, "seed": 3, "prevResult": previous()
    })
}

/// A process that has ended may stay a zombie, if its new parent does not reap it.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.starts_with(" Z"))
}

#[test]
fn an_interface_has_its_faults_from_add_to_del() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[0]);
    for stream in &connection {
        stream.set_nodelay(true).unwrap();
    }
    let runtime = Runtime::new(&hosts.target.0);
    let config = config(SLOW);
    let versions = runtime.faultwire("VERSION", &json!({ "cniVersion": "1.0.0" })).unwrap();
    assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")), "{versions}");
    // A DEL without an attachment succeeds.
    assert_eq!(runtime.faultwire("DEL", &config), None);
    assert_eq!(runtime.faultwire("ADD", &config), Some(previous()), "the result is passed on as it is");
    assert!(round_trip(&mut connection) >= LATE);
    assert_eq!(runtime.faultwire("CHECK", &config), None);
    let first = runtime.pid();
    let line = fs::read_to_string(format!("/proc/{first}/cmdline")).unwrap();
    assert!(line.starts_with("faultwire\0attach\0"), "{line:?}");
    // A repeated ADD replaces the first.
    assert_eq!(runtime.faultwire("ADD", &config), Some(previous()));
    assert!(!is_running(first) && runtime.pid() != first);
    assert!(round_trip(&mut connection) >= LATE);
    let second = runtime.pid();
    for _ in 0..2 {
        assert_eq!(runtime.faultwire("DEL", &config), None);
        assert!(!is_running(second) && !runtime.record().exists());
        assert_eq!(hosts.left_behind(), [""; 0]);
    }
    round_trip(&mut connection);
    let said = runtime.refused("CHECK", &config.to_string(), 100);
    assert!(said.contains("never attached"), "{said}");
}

#[test]
fn faults_that_ended_fail_check_and_not_del() {
    let hosts = Hosts::new();
    let runtime = Runtime::new(&hosts.target.0);
    let config = config(SLOW);
    runtime.faultwire("ADD", &config);
    let pid = runtime.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // Its new parent reaps it or leaves it a zombie. In both cases it does not run.
    until("the killed attachment is gone", || hosts.left_behind().is_empty());
    let said = runtime.refused("CHECK", &config.to_string(), 100);
    assert!(said.contains("not attached any more"), "{said}");
    assert_eq!(runtime.faultwire("DEL", &config), None);
    assert!(!runtime.record().exists());
}

/// A record that does not name its process must not be removed silently, because the process would then run for ever.
#[test]
fn a_cut_record_is_an_error_of_every_command() {
    let hosts = Hosts::new();
    let runtime = Runtime::new(&hosts.target.0);
    let config = config(SLOW);
    runtime.faultwire("ADD", &config);
    let (pid, whole) = (runtime.pid(), fs::read_to_string(runtime.record()).unwrap());
    for cut in ["", &format!("{pid}"), &format!("{pid} "), &whole[..whole.len() - 1]] {
        fs::write(runtime.record(), cut).unwrap();
        for command in ["CHECK", "DEL", "ADD"] {
            let said = runtime.refused(command, &config.to_string(), 100);
            assert!(said.contains(runtime.record().to_str().unwrap()), "{cut:?} {command}: {said}");
        }
        assert!(is_running(pid), "{cut:?}");
    }
    fs::write(runtime.record(), whole).unwrap();
    runtime.faultwire("DEL", &config);
    assert!(!is_running(pid));
}

#[test]
fn what_a_runtime_does_wrong_has_the_specification_s_code() {
    let hosts = Hosts::new();
    let runtime = Runtime::new(&hosts.target.0);
    let good = config(SLOW).to_string();
    for cut in ["", "{", &good[..good.len() - 1]] {
        runtime.refused("ADD", cut, 6);
    }
    let said = runtime.refused("ADD", &good.replace("1.0.0", "9.0.0"), 1);
    assert!(said.contains("9.0.0"), "{said}");
    let said = runtime.refused("EAT", &good, 4);
    assert!(said.contains("CNI_COMMAND"), "{said}");
    let mut alone = config(SLOW);
    alone.as_object_mut().unwrap().remove("prevResult");
    runtime.refused("ADD", &alone.to_string(), 7);
    let said = runtime.refused("ADD", &config("los 1%").to_string(), 7);
    assert!(said.contains("did you mean \"loss\"?"), "{said}");
    for missing in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        // Without CNI_COMMAND the program is not a plugin, unless `cni` is given.
        let mut plugin = tool("env");
        plugin.args(["-u", missing, env!("CARGO_BIN_EXE_faultwire"), "cni"]);
        let (exit, text) = runtime.drive(plugin, "ADD", &good);
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((exit, &error["code"]), (1, &json!(4)), "{missing}: {error}");
        assert!(error["msg"].as_str().unwrap().contains(missing), "{error}");
    }
    // The reason is what the attachment printed.
    let elsewhere = Runtime::new("no-such-namespace");
    let said = elsewhere.refused("ADD", &good, 100);
    assert!(said.contains("no-such-namespace"), "{said}");
    assert!(!elsewhere.record().exists() && !runtime.record().exists());
    assert_eq!(hosts.left_behind(), [""; 0]);
}

/// The pipe has no writer: a reader that opens it would wait for ever.
#[test]
fn a_pod_names_no_file_of_the_node() {
    let hosts = Hosts::new();
    let folder = std::env::temp_dir().join(unique());
    fs::create_dir(&folder).unwrap();
    let (pipe, secret) = (folder.join("pipe"), folder.join("secret"));
    assert!(tool("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(&secret, "root:secret\n").unwrap();
    for (file, word) in [(&pipe, "trace"), (&secret, "trace"), (&secret, "delay 1ms 1ms distribution")] {
        let spec = format!("{word} {}", file.display());
        let mut runtime = Runtime::new(&hosts.target.0);
        let mut annotated = config(SLOW);
        annotated["runtimeConfig"] =
            json!({ "io.kubernetes.cri.pod-annotations": { "faultwire/both": spec } });
        let mut arguments = config(SLOW);
        arguments["args"] = json!({ "cni": { "faultwire": { "both": spec } } });
        for config in [annotated, arguments] {
            let said = runtime.refused("ADD", &config.to_string(), 7);
            assert!(said.contains("none may be named") && !said.contains("root:secret"), "{said}");
        }
        runtime.environment.push(("CNI_ARGS", format!("IgnoreUnknown=1;FAULTWIRE_BOTH={spec}")));
        let said = runtime.refused("ADD", &config(SLOW).to_string(), 7);
        assert!(said.contains("none may be named"), "{said}");
    }
    // The network's own configuration may name a file, but the plugin does not wait for a pipe.
    let own = Runtime::new(&hosts.target.0);
    let reason = own.refused("ADD", &config(&format!("trace {}", pipe.display())).to_string(), 7);
    assert!(reason.contains("not a regular file"), "{reason}");
    // An attachment with `--no-files` reads no file either.
    let words = ["attach", "--netns", &hosts.target.0, "--dev", "eth0", "--no-files", "--both"];
    let output = faultwire().args(words).arg(format!("trace {}", pipe.display())).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("none may be named"), "{}", said(&output));
    fs::remove_dir_all(folder).unwrap();
}

/// A separate node, so that the plugins' work disturbs no one else.
struct Node {
    host: Foreign,
    pod: Foreign,
    addresses: PathBuf,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            host: Foreign::new(),
            pod: Foreign::new(),
            addresses: std::env::temp_dir().join(unique()),
        };
        for netns in [&node.host, &node.pod] {
            ip(&["-n", &netns.0, "link", "set", "lo", "up"]);
        }
        node
    }

    /// Runs a plugin of Debian's on the node.
    fn plugin(&self, runtime: &Runtime, command: &str, config: &Value) -> String {
        let mut plugin = tool("ip");
        plugin.args([
            "netns",
            "exec",
            &self.host.0,
            &format!("{PLUGINS}/{}", config["type"].as_str().unwrap()),
        ]);
        let (code, text) = runtime.drive(plugin, command, &config.to_string());
        assert_eq!(code, 0, "{command} (containernetworking-plugins; testbed/run installs them): {text}");
        text
    }

    /// How long a ping from the pod to its gateway takes, in milliseconds.
    fn ping(&self) -> f64 {
        let words = ["netns", "exec", &self.pod.0, "ping", "-c", "1", "-W", "5", "10.89.0.1"];
        let output = tool("ip").args(words).output().unwrap();
        let text = said(&output);
        let time = text.split("time=").nth(1).unwrap_or_else(|| panic!("{text}"));
        time.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.addresses);
    }
}

#[test]
fn it_works_behind_the_plugins_of_debian() {
    for kind in ["ptp", "bridge"] {
        let node = Node::new();
        let runtime = Runtime::new(&node.pod.0);
        let range = json!([[{ "subnet": "10.89.0.0/24", "gateway": "10.89.0.1" }]]);
        let before = json!({
            "cniVersion": "1.0.0", "name": "net", "type": kind, "isGateway": true,
            "ipam": { "type": "host-local", "ranges": range, "dataDir": node.addresses }
        });
        let made: Value = serde_json::from_str(&node.plugin(&runtime, "ADD", &before)).unwrap();
        node.ping();
        let mut own = config(SLOW);
        own["prevResult"] = made.clone();
        assert_eq!(runtime.faultwire("ADD", &own), Some(made), "{kind}");
        assert!(node.ping() >= 40.0, "{kind}");
        runtime.faultwire("CHECK", &own);
        // For DEL, the runtime calls the plugins of the chain in reverse order.
        runtime.faultwire("DEL", &own);
        node.ping();
        node.plugin(&runtime, "DEL", &before);
        // A runtime that has lost its state does this.
        runtime.faultwire("DEL", &own);
    }
}
