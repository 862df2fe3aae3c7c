//! The output of faultwire to all kinds of streams, and the signals that it handles.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use nix::sys::signal::Signal;

use crate::system::common::{Scratch, Terminal, config, faultwire, output, said, send, tool, unique, until};

/// A disk without room.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// Commands that end by themselves and print something, with their usual exit code.
fn talkers() -> Vec<(Vec<String>, i32)> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let root = env!("CARGO_MANIFEST_DIR");
    let wrong = "--explain|delay 10ms los 1%";
    vec![
        (words(&format!("check {root}/configs/dsl.toml")), 0),
        ("check|--explain|delay 10ms|--json".split('|').map(str::to_owned).collect(), 0),
        (format!("check|{wrong}").split('|').map(str::to_owned).collect(), 2),
        (words("case list"), 0),
        (words("case list --json"), 0),
        (words("case explain --all"), 0),
        (words("case run no-route"), 0),
        (words("--help"), 0),
        (words("run --help"), 0),
        (words("--version"), 0),
        (words("chek"), 2),
    ]
}

fn run_with(words: &[String], stdout: Stdio, stderr: Stdio) -> Output {
    faultwire().args(words).stdin(Stdio::null()).stdout(stdout).stderr(stderr).output().unwrap()
}

/// Each command to each kind of stream: no panic (exit code 101), no abort, and the exit codes that are documented.
#[test]
fn no_stream_makes_a_command_panic() {
    for (words, usual) in talkers() {
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        let gone = run_with(&words, closed(), closed());
        assert_eq!(gone.status.code(), Some(usual), "{words:?} with nobody who reads");
        let output = run_with(&words, full().into(), Stdio::piped());
        let text = said(&output);
        assert!(!text.contains("panicked"), "{words:?}: {text}");
        // clap itself prints help, and mistakes go to standard error.
        let is_ours = usual == 0 && !words.iter().any(|word| word == "--help" || word == "--version");
        if is_ours {
            assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
            assert!(text.contains("standard output cannot be written: No space left"), "{words:?}: {text}");
        } else {
            assert_eq!(output.status.code(), Some(usual), "{words:?}: {text}");
        }
        let output = run_with(&words, Stdio::piped(), full().into());
        assert_eq!(output.status.code(), Some(usual), "{words:?} with no room for errors: {}", said(&output));
    }
}

/// A summary that cannot be written is an error of `run` and of `pcap`, too.
#[test]
fn a_full_disk_is_an_error_of_a_run_and_of_a_capture() {
    let (left, right) = (unique(), unique());
    let file = Scratch::file(&config(&left, &right, "duration = \"50ms\"", ""));
    for stream in ["stdout", "stderr"] {
        let (out, err): (Stdio, Stdio) = if stream == "stdout" {
            (full().into(), Stdio::piped())
        } else {
            (Stdio::piped(), full().into())
        };
        let output = run_with(&["run".to_owned(), file.path().to_owned()], out, err);
        assert_eq!(output.status.code(), Some(i32::from(stream == "stdout")), "{stream}: {}", said(&output));
    }
}

/// Whatever happens to the outputs of `exec`, its exit code is that of the command.
#[test]
fn the_exit_code_of_the_command_is_never_lost() {
    let script = "echo ran; exit 7";
    let refused = output(&["exec", "--json=/nonexistent/x", "--", "sh", "-c", script]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(!said(&refused).contains("ran"), "it is refused before the command runs: {}", said(&refused));
    let kept = output(&["exec", "--json=/dev/full", "--", "sh", "-c", script]);
    assert_eq!(kept.status.code(), Some(7), "{}", said(&kept));
    assert!(said(&kept).contains("cannot write the summary: cannot write /dev/full"), "{}", said(&kept));
    let succeeded = output(&["exec", "--json=/dev/full", "--", "true"]);
    assert_eq!(succeeded.status.code(), Some(125), "{}", said(&succeeded));
    for (script, code) in [("exit 0", 125), ("exit 7", 7)] {
        let words = ["exec", "--json", "--", "sh", "-c", script].map(str::to_owned);
        assert_eq!(run_with(&words, full().into(), Stdio::null()).status.code(), Some(code), "{script}");
    }
    let words: Vec<String> =
        ["exec", "--summary", "--", "sh", "-c", "exit 7"].iter().map(|&word| word.to_owned()).collect();
    assert_eq!(run_with(&words, Stdio::null(), full().into()).status.code(), Some(7));
    // If a process ignores SIGCHLD, the kernel discards its children and their exit codes.
    let script = "trap '' CHLD; exec \"$@\"";
    let binary = env!("CARGO_BIN_EXE_faultwire");
    let output =
        tool("bash").args(["-c", script, "bash", binary, "exec", "--", "sh", "-c", "exit 7"]).output();
    assert_eq!(output.unwrap().status.code(), Some(7));
}

/// If the command could not be started, an older summary is replaced, so that it is not taken for a new one.
#[test]
fn the_file_of_a_summary_is_replaced_whole() {
    let file = Scratch::file(&"x".repeat(100_000));
    let missing = output(&["exec", &format!("--json={}", file.path()), "--", "/no/such/program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(std::fs::read_to_string(file.path()).unwrap().contains("/no/such/program"));
    assert!(output(&["exec", &format!("--json={}", file.path()), "--", "true"]).status.success());
    let text = std::fs::read_to_string(file.path()).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
}

/// Numbers of a build without optimisation must not be published by mistake. Whether this build is one depends on the profile.
#[test]
fn bench_says_so_if_the_build_is_not_optimised() {
    let measured = output(&["bench", "--spec", "loss 1%", "--memory", "--time", "1ms"]);
    assert!(measured.status.success(), "{}", said(&measured));
    let notice = String::from_utf8_lossy(&measured.stderr).contains("not optimised");
    assert_eq!(notice, cfg!(debug_assertions), "{}", said(&measured));
}

/// `faultwire run` on a terminal, and the name of a namespace that it made.
fn on_a_terminal() -> (Terminal, Child, String, Scratch) {
    let (left, right) = (unique(), unique());
    let file = Scratch::file(&config(&left, &right, "seed = 3\nworkers = 1", ""));
    drop(faultwire());
    let mut terminal = Terminal::open();
    let child = terminal.spawn(&[env!("CARGO_BIN_EXE_faultwire"), "run", file.path()]);
    terminal.wait_for("Ctrl-C ends it\r\n");
    terminal.wait_for("packets/s");
    (terminal, child, left, file)
}

/// How often a process has begun to wait for something.
fn waits(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// Ctrl-S stops what a terminal shows. The live line goes on without it, and a signal is heard: first the network goes,
/// then, while the table waits for the terminal, another signal ends the process.
#[test]
fn a_stopped_terminal_does_not_stop_signals() {
    let (mut terminal, mut child, netns, _file) = on_a_terminal();
    terminal.type_in(b"\x13");
    // One wait for each line: had it to wait for the terminal there would be one more and no other.
    let before = waits(&child);
    until("it goes on", || waits(&child) >= before + 3);
    send(&child, Signal::SIGTERM);
    let path = Path::new("/run/netns").join(netns);
    until("its namespaces are gone", || !path.exists());
    // It only has to print the table, which a stopped terminal does not accept.
    until("a second signal ends it", || {
        send(&child, Signal::SIGTERM);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
}

/// The same when the terminal continues: no part of the table is lost.
#[test]
fn a_terminal_that_goes_on_gets_the_table() {
    let (mut terminal, mut child, _, _file) = on_a_terminal();
    terminal.type_in(b"\x13");
    send(&child, Signal::SIGTERM);
    terminal.type_in(b"\x11");
    let rest = terminal.rest();
    assert!(rest.contains("wire packets and bytes") && rest.contains("seed 3"), "{rest:?}");
    assert!(child.wait().unwrap().success());
}

/// Signals that were ignored at the start stay ignored, as `nohup` and a script's `&` require.
#[test]
fn ignored_signals_stay_ignored_and_sigterm_ends_it() {
    let (left, right) = (unique(), unique());
    let file = Scratch::file(&config(&left, &right, "", ""));
    drop(faultwire());
    let script = "trap '' HUP INT QUIT; exec \"$@\"";
    let mut child = tool("bash")
        .args(["-c", script, "bash", env!("CARGO_BIN_EXE_faultwire"), "run", file.path(), "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut heard = String::new();
    while !heard.contains("Ctrl-C ends it\n") {
        let mut byte = [0];
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended: {heard}");
        heard.push(char::from(byte[0]));
    }
    let status = || std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = |name: &str| {
        let text = status();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        send(&child, signal);
        let bit = 1 << (signal as i32 - 1);
        // The signal is ignored and not blocked: the kernel has discarded it.
        assert!(mask("SigIgn:") & bit != 0 && mask("SigBlk:") & bit == 0 && mask("ShdPnd:") & bit == 0);
    }
    assert!(child.try_wait().unwrap().is_none(), "one of them ended it");
    send(&child, Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("\"conserved\": true"), "{}", said(&output));
}
