//! `faultwire exec`.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::system::common::{faultwire, output, said};

#[test]
fn the_exit_code_is_the_commands() {
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = output(&[&["exec", "--"], command].concat());
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", said(&output));
    }
}

#[test]
fn standard_streams_pass_through_to_the_byte() {
    let mut child = faultwire()
        .args(["exec", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let data: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == data && output.stderr.is_empty());
}

#[test]
fn a_bad_spec_is_refused_with_its_place_before_anything_is_made() {
    let output = output(&["exec", "--up", "delay 10ms los 1%", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    assert!(text.contains('^') && text.contains("loss"), "{text}");
}

/// A command that misses the link, or wants more than it leads to, learns what the link is.
#[test]
fn a_command_that_misses_the_link_is_told_so() {
    let told = |words: &[&str]| said(&output(&[&["exec"], words].concat()));
    let missed = "no packet passed the link";
    for faults in [&["--both", "loss 1%"][..], &["--both", "loss 1%", "--seeds", "2"]] {
        let text = told(&[faults, &["--", "ping", "-c", "1", "127.0.0.1"]].concat());
        assert_eq!(text.matches(missed).count(), 1, "{text}");
    }
    // Without faults, there is nothing to miss.
    assert_eq!(told(&["--", "true"]), "");
    let pings = ["--", "sh", "-c", "ping -q -c 1 $FAULTWIRE_HOST"];
    for faults in [["--up", "delay 1ms"], ["--up", "tcp: delay 1ms"], ["--down", "delay 1ms"]] {
        let text = told(&[&faults[..], &pings].concat());
        assert!(!text.contains(missed), "{text}");
    }
    let text = told(&["--", "ping", "-c", "1", "-W", "1", "192.0.2.1"]);
    assert!(text.contains("--reach internet"), "{text}");
    assert!(!told(&["--", "sh", "-c", "exit 1"]).contains("--reach"));
    let text = told(&["--", "ping -c 1 localhost"]);
    assert!(text.contains("a whole command line"), "{text}");
}

/// What a stage dropped is in the total, although the stage is removed before the end.
#[test]
fn the_drops_of_a_removed_stage_are_in_the_line_at_the_end() {
    let script = "ping -q -c 3 -i 0.01 -W 0.1 $FAULTWIRE_HOST; curl -sf -X DELETE --unix-socket $FAULTWIRE_CONTROL \
                  http://x/v1/paths/up/stages/netem; exit 3";
    let text = said(&output(&["exec", "--up", "loss 100%", "--", "sh", "-c", script]));
    assert!(text.contains("packets: 3 dropped"), "{text}");
}

/// Both families, two at the same time, and nothing left afterwards.
#[test]
fn the_host_is_reachable_from_several_at_once() {
    let script = "ping -q -c 2 -i 0.1 $FAULTWIRE_HOST && ping -q -c 2 -i 0.1 $FAULTWIRE_HOST6";
    let start =
        || faultwire().args(["exec", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let (one, two) = (start(), start());
    let devices = [format!("fw{}", one.id()), format!("fw{}", two.id())];
    for child in [one, two] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    for device in devices {
        assert!(!std::path::Path::new("/sys/class/net").join(&device).exists(), "{device} is left");
    }
}

#[test]
fn a_delay_is_never_shorter_than_asked() {
    let script = "ping -q -c 10 -i 0.05 $FAULTWIRE_HOST | tail -1";
    let output = output(&["exec", "--both", "delay 15ms", "--", "sh", "-c", script]);
    let text = said(&output);
    let least: f64 = text.split(['=', '/']).nth(4).and_then(|word| word.trim().parse().ok()).expect(&text);
    assert!(least >= 30.0, "{text}");
}

/// Data that is under way when the command ends still arrives.
#[test]
fn what_is_under_way_when_the_command_ends_still_arrives() {
    let receiver = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let script = format!("exec bash -c 'echo last words > /dev/udp/$FAULTWIRE_HOST/{port}'");
    let mut buffer = [0; 64];
    for (linger, delay, arrives) in [("60s", "delay 200ms", true), ("0s", "delay 30s", false)] {
        let output = output(&["exec", "--linger", linger, "--up", delay, "--", "sh", "-c", &script]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(receiver.recv(&mut buffer).is_ok(), arrives, "with --linger {linger}");
    }
}

/// Where the last bytes or the FIN of a connection are lost, the command has ended when the kernel sends them again.
#[test]
fn what_a_closed_connection_sends_again_still_arrives() {
    let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("echo last words > /dev/tcp/$FAULTWIRE_HOST/{port}");
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let faults = ["--linger", "60s", "--seed", seed, "--up", "loss 30%"];
        let output = output(&[&["exec"], &faults[..], &["--", "bash", "-c", &script]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let mut text = String::new();
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        assert_eq!(
            stream.read_to_string(&mut text).ok(),
            Some("last words\n".len()),
            "seed {seed}: {text:?}"
        );
    }
}

/// Errors of faultwire's own output give exit code 125, but never replace the exit code of a failed command.
#[test]
fn a_summary_that_cannot_be_written_is_told_by_the_exit_code() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (command, code) in [("true", 125), ("exit 7", 7)] {
        for options in
            [&["--json"][..], &["--summary"], &["--json", "--seeds", "1"], &["--summary", "--seeds", "1"]]
        {
            let mut exec = faultwire();
            exec.arg("exec").args(options).args(["--", "sh", "-c", command]);
            let exec = if options[0] == "--json" { exec.stdout(full()) } else { exec.stderr(full()) };
            assert_eq!(exec.status().unwrap().code(), Some(code), "{options:?} {command}");
        }
    }
}

/// If faultwire is killed, the command gets a signal to end.
#[test]
fn a_command_ends_with_a_faultwire_that_is_killed() {
    let mut child = faultwire()
        .args(["exec", "--", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut pid)
        .unwrap();
    let process = faultwire::net::process::Process::open(pid.trim().parse().unwrap()).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(process.wait(20_000).unwrap(), "it runs on");
}

/// Ten runs with one seed lose the same datagrams, whatever ports the clients get: 40 from each of three sockets.
#[test]
fn the_same_seed_loses_the_same_datagrams_of_ephemeral_ports() {
    let script = "import os, socket
for client in range(3):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for n in range(40): s.sendto(bytes([client, n]), (os.environ['FAULTWIRE_HOST'], int(os.environ['PORT'])))
    s.close()";
    let receiver = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let port = receiver.local_addr().unwrap().port().to_string();
    let run = |seed: &str| {
        let command = ["exec", "--seed", seed, "--both", "loss 20%", "--", "python3", "-c", script];
        let ended = faultwire().args(command).env("PORT", &port).output().unwrap();
        assert!(ended.status.success(), "{}", said(&ended));
        assert!(said(&ended).contains(&format!("seed {seed}: packets: ")), "{}", said(&ended));
        let (mut buffer, mut got) = ([0; 8], std::collections::BTreeSet::new());
        while let Ok(length) = receiver.recv(&mut buffer) {
            got.insert(buffer[..length].to_vec());
        }
        got
    };
    let first = run("5");
    for _ in 0..9 {
        assert_eq!(run("5"), first);
    }
    assert_ne!(run("6"), first);
}

/// Seed after seed until one fails; the line that it prints fails again.
#[test]
fn a_series_stops_at_the_first_seed_that_fails_and_says_how_to_run_it_again() {
    let command = ["--both", "loss 40%", "--", "sh", "-c", "ping -q -c 1 -W 1 $FAULTWIRE_HOST"];
    let all = [&["exec", "--seeds", "64", "--seed", "1"][..], &command].concat();
    let ended = output(&all);
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    let text = String::from_utf8(ended.stderr.clone()).unwrap();
    assert!(text.contains("run 1 of 64, seed 1\n"), "{text}");
    let again = text.trim_end().lines().last().unwrap();
    let once = std::process::Command::new("sh").args(["-c", again]).output().unwrap();
    assert_eq!(once.status.code(), Some(1), "{again}: {}", said(&once));
    assert!(!again.contains("--seeds") && again.contains("--seed "), "{again}");
    let none = output(&["exec", "--seeds", "3", "--", "true"]);
    assert!(none.status.success() && said(&none).contains("3 runs, seeds"), "{}", said(&none));
}
