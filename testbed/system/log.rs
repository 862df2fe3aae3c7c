//! Logs in Mahimahi's format of what the router did to real traffic.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{Running, Scratch, config, faultwire, output, said, unique};
use crate::system::third_party::{left, serve};

/// A folder for logs, which goes with the test.
struct Logs(PathBuf);

impl Logs {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("faultwire-logs-{}", unique())))
    }

    /// Lines, packets' bytes less Mahimahi's four each, and delays, of one kind in a log.
    fn count(&self, name: &str, kind: &str) -> (u64, u64, Vec<u64>) {
        let text = std::fs::read_to_string(self.0.join(name)).unwrap();
        let (mut lines, mut bytes, mut delays) = (0, 0, Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            if words[1] == kind {
                let number = |at: usize| words[at].parse::<u64>().unwrap();
                lines += 1;
                bytes += number(if kind == "d" { 3 } else { 2 }) - 4;
                delays.extend((kind == "-").then(|| number(3)));
            }
        }
        (lines, bytes, delays)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn amount(value: &Value) -> (u64, u64) {
    (value["packets"].as_u64().unwrap_or(0), value["bytes"].as_u64().unwrap_or(0))
}

/// The counters of the stages. Each path begins with a stage that sees all packets and ends with one that sees the rest.
#[test]
fn the_log_of_a_run_agrees_with_its_summary() {
    let faults = "[[link]]\nbetween = [\"left\", \"right\"]\n\
        both = [{ type = \"delay\", name = \"first\", delay = \"20ms\" }, { type = \"loss\", probability = \"1%\" },\n\
        { type = \"duplicate\", probability = \"1%\" }, { type = \"delay\", name = \"last\", delay = \"1ms\" }]\n";
    for workers in [1, 2] {
        let logs = Logs::new();
        let (near, far) = (unique(), unique());
        let top = format!("seed = 5\nworkers = {workers}");
        let config = Scratch::file(&config(&near, &far, &top, faults));
        let running = Running::with(config, [near, far], &["--log", logs.0.to_str().unwrap()]);
        let _server = serve(&running, &["iperf3", "-s"], 5201);
        left(&running, &["iperf3", "-J", "-c", "10.88.2.2", "-n", "4M", "-P", "2"]);
        let summary = running.stop(Signal::SIGTERM);
        assert!(!summary["notices"].to_string().contains("lack"), "{:#}", summary["notices"]);
        for (index, name) in ["left:right.log", "right:left.log"].into_iter().enumerate() {
            let stages = summary["paths"][index]["stages"].as_array().unwrap();
            let (came, left, dropped) = (logs.count(name, "+"), logs.count(name, "-"), logs.count(name, "d"));
            assert_eq!((came.0, came.1), amount(&stages[0]["seen"]), "{name}, {workers} workers");
            let lost = amount(&stages[1]["dropped"]["loss"]);
            let created = amount(&stages[2]["created"]);
            // Packets that still waited when the router stopped are drops of the log, but not of a stage.
            assert_eq!(came.0 + created.0, left.0 + dropped.0, "{name}");
            assert_eq!(came.1 + created.1, left.1 + dropped.1, "{name}");
            assert!(dropped.0 >= lost.0 && lost.0 + created.0 > 0, "{name}: {dropped:?} {lost:?}");
            // These times are logical, so a slow host does not change them.
            assert!(left.2.iter().all(|delay| *delay == 21), "{name}: {:?}", left.2);
        }
    }
}

#[test]
fn exec_logs_both_directions() {
    let logs = Logs::new();
    let folder = logs.0.to_str().unwrap();
    let script = "ping -q -c 20 -i 0.002 $FAULTWIRE_HOST";
    let text = "trace configs/traces/sawtooth.trace delay 5ms";
    let output = faultwire()
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["exec", "--up", text, "--log", folder, "--", "sh", "-c", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let (up, down) = (logs.count("up.log", "-"), logs.count("down.log", "-"));
    assert!(up.0 >= 20 && up.2.iter().all(|delay| *delay >= 5), "{up:?}");
    assert!(down.0 >= 20 && down.2.iter().all(|delay| *delay == 0), "{down:?}");
    assert!(logs.count("up.log", "#").0 > 0, "the opportunities of the trace");
    assert_eq!(logs.count("down.log", "#").0, 0);
    for name in ["up.log", "down.log"] {
        let head = std::fs::read_to_string(logs.0.join(name)).unwrap();
        assert!(head.starts_with("# mahimahi mm-link (") && head.contains("# base timestamp: 0"), "{head}");
    }
}

#[test]
fn a_log_that_cannot_be_is_refused_before_anything_is_made() {
    let output = output(&["exec", "--log", "/etc/passwd", "--", "true"]);
    let text = said(&output);
    assert!(output.status.code() == Some(2) && text.contains("folder"), "{text}");
}
