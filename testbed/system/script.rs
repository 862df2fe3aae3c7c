//! `faultwire run` under a script: readiness, time limits, what is held at the end, and the end of the parent.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use faultwire::net::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::system::common::{Running, Scratch, config, faultwire, output, said, unique};

const BINARY: &str = env!("CARGO_BIN_EXE_faultwire");

fn file(top: &str) -> Scratch {
    Scratch::file(&config(&unique(), &unique(), top, ""))
}

/// A shell with the binary as $0 and the configuration as $1.
fn shell(script: &str, config: &Scratch) -> Command {
    drop(faultwire());
    let mut shell = Command::new("sh");
    shell.args(["-c", script, BINARY, config.path()]).stdin(Stdio::null());
    shell
}

fn send_one(running: &Running) {
    let inside = Netns::named(&running.left).unwrap();
    let sender = inside.run(|| std::net::UdpSocket::bind("10.88.1.2:0").unwrap()).unwrap();
    sender.send_to(b"x", "10.88.2.2:9").unwrap();
}

/// The reader gets the line and the end of the file while the run continues.
#[test]
fn readiness_is_a_line_on_the_descriptor() {
    let left = unique();
    let config = Scratch::file(&config(&left, &unique(), "", ""));
    let script =
        "\"$0\" run \"$1\" --ready-fd 3 3>&1 >/dev/null 2>/dev/null & exec >&-; read -r _; kill $!; wait $!";
    let mut child = shell(script, &config).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut heard = String::new();
    child.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "ready\n");
    assert!(std::path::Path::new("/run/netns").join(left).exists(), "it goes on");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_descriptor_that_is_not_open_is_refused_before_anything_is_made() {
    let config = file("");
    let output = output(&["run", config.path(), "--ready-fd", "999"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("--ready-fd 999") && !said(&output).contains("forwarding"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_command_line_s_duration_overrides_the_file_s() {
    let config = file("duration = \"1h\"");
    let output = output(&["run", config.path(), "--duration", "1ms"]);
    assert!(output.status.success(), "{}", said(&output));
}

const DELAY: &str = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay TIME\"\n";

fn held_by(delay: &str, drain: &str) -> serde_json::Value {
    let (left, right) = (unique(), unique());
    let text = config(&left, &right, "", &DELAY.replace("TIME", delay));
    let running = Running::with(Scratch::file(&text), [left, right], &["--drain", drain]);
    send_one(&running);
    running.stop(Signal::SIGINT)
}

#[test]
fn what_is_held_leaves_before_the_end() {
    let summary = held_by("500ms", "60s");
    assert_eq!(summary["dropped"].get("shutdown"), None, "{summary:#}");
    assert_eq!(summary["paths"][0]["stages"][0]["delayed"]["packets"], 1, "{summary:#}");
    assert_eq!(summary["sent"]["packets"], summary["received"]["packets"], "{summary:#}");
}

#[test]
fn without_time_to_drain_it_is_dropped_and_said_so() {
    let summary = held_by("1h", "0s");
    assert_eq!(summary["dropped"]["shutdown"]["packets"], 1, "{summary:#}");
}

#[test]
fn sigusr1_prints_the_summary_and_the_run_goes_on() {
    let config = file("");
    let mut child = faultwire()
        .args(["run", config.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("forwarding between")));
    kill(pid, Signal::SIGUSR1).unwrap();
    assert!(lines.any(|line| line.contains("all accounted for")));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The shell is killed; the pipe ends when faultwire has ended too.
#[test]
fn it_ends_with_its_parent() {
    let config = file("");
    let script = "\"$0\" run \"$1\" --die-with-parent & read -r _";
    let mut child = shell(script, &config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut heard = String::new();
    while !heard.contains("forwarding between") {
        assert!(stderr.read_line(&mut heard).unwrap() > 0, "{heard}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    stderr.read_to_string(&mut heard).unwrap();
}

/// The line is appended to a file, and a socket works like a pipe.
#[test]
fn readiness_is_written_where_the_descriptor_stands() {
    let config = file("");
    let log = Scratch::file("before\n");
    let append = Command::new("sh")
        .args([
            "-c",
            "\"$0\" run \"$1\" --duration 1ms --ready-fd 3 3>>\"$2\"",
            BINARY,
            config.path(),
            log.path(),
        ])
        .output()
        .unwrap();
    assert!(append.status.success(), "{}", said(&append));
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "before\nready\n");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let run = faultwire()
        .args(["run", config.path(), "--duration", "1ms", "--ready-fd", "0"])
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", said(&run));
    let mut heard = [0; 6];
    (&ours).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ready\n");
}

/// Ongoing traffic does not prevent the end of a run: held packets leave, and no new ones are accepted.
#[test]
fn draining_takes_no_more_packets() {
    let (left, right) = (unique(), unique());
    let text = config(&left, &right, "", &DELAY.replace("TIME", "300ms"));
    let running = Running::with(Scratch::file(&text), [left, right], &["--drain", "1h"]);
    let mut ping = Running::inside(&running.left, &["ping", "-q", "-i", "0.002", "10.88.2.2"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let summary = running.stop(Signal::SIGTERM);
    ping.kill().unwrap();
    ping.wait().unwrap();
    assert_eq!(summary["dropped"].get("shutdown"), None, "{summary:#}");
}
