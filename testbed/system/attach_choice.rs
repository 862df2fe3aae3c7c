//! Which packets `faultwire attach` hits: faults of a file, and connections by the time of their opening.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::system::attach::{Hosts, PEER, exchange, field, netns, round_trip};
use crate::system::common::{Scratch, output, said};

/// 100 ms each way: a connection that is hit takes at least as much longer.
const SLOW: Duration = Duration::from_millis(200);

#[test]
fn connections_are_hit_by_when_they_were_opened() {
    let hosts = Hosts::new();
    for (option, expected) in [("--new", [false, true]), ("--established", [true, false])] {
        let mut old = hosts.connect(PEER[0]);
        exchange(&mut old, 1_000);
        let attached = hosts.attach(&["--both", "delay 100ms", option]);
        let mut new = hosts.connect(PEER[0]);
        for stream in old.iter().chain(&new) {
            stream.set_nodelay(true).unwrap();
        }
        let slow = [round_trip(&mut old) >= SLOW, round_trip(&mut new) >= SLOW];
        assert_eq!(slow, expected, "{option}");
        // Datagrams have no beginning: neither option hits them.
        let receiver = netns(&hosts.peer).run(|| UdpSocket::bind((PEER[0], 0)).unwrap()).unwrap();
        let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
        let before = field(&attached.stop(Signal::SIGINT), "/hit");
        let attached = hosts.attach(&["--both", "loss 100%", option]);
        sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1, "{option}, {before} packets hit before");
        attached.stop(Signal::SIGINT);
    }
}

#[test]
fn a_file_has_stages_matches_triggers_and_a_time() {
    let hosts = Hosts::new();
    let receiver = netns(&hosts.peer).run(|| UdpSocket::bind((PEER[0], 0)).unwrap()).unwrap();
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    let to: SocketAddr = receiver.local_addr().unwrap();
    let text = format!(
        "seed = 9\nduration = \"2s\"\nidentity = \"tuple\"\nmatch = \"udp port {}\"\n\
         [[up]]\ntype = \"drop\"\nname = \"third\"\nmatch = {{ payload_length = 8 }}\ntrigger = {{ nth = 3 }}\n",
        to.port()
    );
    let file = Scratch::file(&text);
    let mut attached = hosts.attach(&["--config", file.path()]);
    for number in 0..6_u64 {
        sender.send_to(&number.to_be_bytes(), to).unwrap();
        sender.send_to(b"short", to).unwrap();
    }
    let summary = attached.summary(0);
    assert_eq!((&summary["ended_by"], &summary["seed"]), (&"time".into(), &9.into()));
    assert_eq!(field(&summary, "/hit"), 1);
    assert_eq!(summary["paths"][0]["stages"][0]["name"], "third");
    receiver.set_nonblocking(true).unwrap();
    let mut numbers = Vec::new();
    let mut buffer = [0; 16];
    while let Ok(length) = receiver.recv(&mut buffer) {
        numbers.extend((length == 8).then(|| buffer[7]));
    }
    assert_eq!(numbers, [0, 1, 3, 4, 5]);
}

#[test]
fn a_wrong_file_is_refused_at_its_line_and_changes_nothing() {
    let hosts = Hosts::new();
    let target = ["--netns", &hosts.target.0, "--dev", "eth0"];
    for (text, reason) in [
        ("up = \"los 1%\"\n", ":1:7: up: \"los\" is not a known word"),
        ("[[port]]\nname = \"left\"\n", "is a configuration, not a file of faults for attach"),
        ("[[up]]\ntype = \"nat\"\n", "cannot be on a wire"),
    ] {
        let file = Scratch::file(text);
        let path = file.path();
        for command in [[&["attach", "--config", path][..], &target].concat(), vec!["check", path]] {
            let output = output(&command);
            // `check` reads a file with ports as a configuration of `run`.
            if command[0] == "check" && text.contains("port") {
                continue;
            }
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            assert!(said(&output).contains(reason), "{}", said(&output));
        }
    }
    assert_eq!(hosts.left_behind(), [""; 0]);
}
