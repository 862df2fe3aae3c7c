//! How the kernels at both ends react to TCP segments that stages have changed or created.

use std::process::Stdio;
use std::time::Duration;

use faultwire::lab::clock::Deadline;
use faultwire::lab::observe::counters::Counters;
use faultwire::net::{Netns, sysctl};
use nix::sys::signal::Signal;

use crate::system::common::{Running, said};
use crate::system::third_party::{left, serve};

/// The path from left to right with the stages `up`, and the one back with `down`.
fn paths(up: &str, down: &str) -> String {
    let path = |from: &str, to: &str, stages: &str| {
        format!("[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\nstage = [{stages}]\n")
    };
    format!("{}{}", path("left", "right", up), path("right", "left", down))
}

fn run(up: &str, down: &str) -> Running {
    Running::start("", &paths(up, down))
}

/// A counter of the kernel in a namespace.
fn counter(netns: &str, name: &str) -> u64 {
    Netns::named(netns).unwrap().run(Counters::read).unwrap().unwrap().value(name).unwrap()
}

/// Waits until the condition is true.
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(20));
    while !is_so() {
        assert!(deadline.left().is_some(), "{what} does not come");
        std::thread::yield_now();
    }
}

/// Bytes 5 and 6 of `TCP_INFO`, at the client and at the server: what was negotiated (1 timestamps, 2 SACK, 4 window scale,
/// 8 ECN, 16 ECN-capable packets have come), and the window scales (of the peer, and 16 times one's own).
#[test]
fn what_is_taken_from_a_syn_is_not_negotiated() {
    let client = "import socket\n\
        s = socket.create_connection(('10.88.2.2', 80))\n\
        s.sendall(b'a')\n\
        theirs = s.recv(9)\n\
        print(*s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5:7], *theirs)\n";
    let server = "import socket\n\
        s = socket.create_server(('', 80))\n\
        while True:\n    c, _ = s.accept()\n    c.recv(9)\n    \
        c.sendall(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5:7])\n    c.close()\n";
    for (keys, mine, theirs) in [
        // No change to a SYN.
        ("urgent = \"clear\"", (31, 0x77), (31, 0x77)),
        ("strip = [\"sack-permitted\", \"window-scale\"]", (1 + 8 + 16, 0), (1 + 8 + 16, 0)),
        ("strip = \"timestamps\", window_scale = 3", (2 + 4 + 8 + 16, 0x77), (2 + 4 + 8 + 16, 0x73)),
        ("ecn_negotiation = \"strip\"", (7, 0x77), (7, 0x77)),
        // ECN is negotiated, but the server never sees a packet that says so.
        ("ecn = \"bleach\"", (31, 0x77), (7 + 8, 0x77)),
    ] {
        let running = run(&format!("{{ type = \"tcp\", {keys} }}"), "");
        for netns in [&running.left, &running.right] {
            let netns = Netns::named(netns).unwrap();
            sysctl::write(&netns, "ipv4/tcp_ecn", "1").unwrap();
            // A window scale of 7.
            sysctl::write(&netns, "ipv4/tcp_rmem", "4096 131072 6291456").unwrap();
        }
        let _server = serve(&running, &["python3", "-c", server], 80);
        let said = left(&running, &["python3", "-c", client]);
        let bytes: Vec<u8> = said.split_whitespace().map(|byte| byte.parse().unwrap()).collect();
        assert_eq!(((bytes[0], bytes[1]), (bytes[2], bytes[3])), (mine, theirs), "{keys}");
        assert_eq!(running.stop(Signal::SIGTERM)["conserved"], true);
    }
}

/// All ACKs without data say that there is no room. One with data opens the window as far as it is: the server sends
/// such when it is told to, and again whenever the sender stalls. By then the sender has asked by its persist timer.
#[test]
fn a_window_of_zero_stalls_until_it_opens() {
    let client = "import socket\n\
        data = bytes(range(256)) * 120\n\
        s = socket.create_connection(('10.88.2.2', 80))\n\
        s.sendall(data)\n\
        s.shutdown(socket.SHUT_WR)\n\
        print(b''.join(iter(lambda: s.recv(99), b'')).decode())\n";
    let server = "import socket\n\
        told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        told.bind(('', 81))\n\
        s = socket.create_server(('', 80))\n\
        c, _ = s.accept()\n\
        told.recv(9)\n\
        c.sendall(b'open ')\n\
        c.settimeout(0.1)\n\
        data, stalls = b'', 0\n\
        while True:\n    \
        try: heard = c.recv(65536)\n    \
        except TimeoutError:\n        \
        stalls += 1\n        \
        if stalls > 100: break\n        \
        c.sendall(b'open ')\n        continue\n    \
        if not heard: break\n    \
        data += heard\n\
        c.sendall(str(data == bytes(range(256)) * 120).encode())\n";
    let zero = "{ type = \"tcp\", window = 0, match = { tcp_flags = \"ack,!syn\", payload_length = 0 } }";
    let running = run("", zero);
    let _server = serve(&running, &["python3", "-c", server], 80);
    let client = Running::inside(&running.left, &["python3", "-c", client]).stdout(Stdio::piped()).spawn();
    let client = client.unwrap();
    wait("a persist timer", || {
        let timers = Running::inside(&running.left, &["ss", "-Htno", "dport = :80"]).output().unwrap();
        said(&timers).contains("timer:(persist")
    });
    wait("a window probe", || counter(&running.left, "TcpExt.TCPWinProbe") > 0);
    left(&running, &["bash", "-c", "printf open > /dev/udp/10.88.2.2/81"]);
    let heard = said(&client.wait_with_output().unwrap());
    assert_eq!(heard.trim().trim_start_matches("open "), "True");
    assert!(heard.starts_with("open "), "{heard}");
    assert_eq!(running.stop(Signal::SIGTERM)["conserved"], true);
}

/// The client sends two bytes, each of which the server sends back; behind the first comes the forged reset.
#[test]
fn forged_resets_fare_as_rfc_5961_has_it() {
    let client = "import socket\n\
        heard = ''\n\
        try:\n    \
        s = socket.create_connection(('10.88.2.2', 80))\n    \
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n    \
        s.sendall(b'a')\n    s.sendall(b'b')\n    \
        while len(heard) < 2: heard += s.recv(9).decode()\n    \
        print(heard)\n\
        except ConnectionResetError: print('reset')\n\
        except ConnectionRefusedError: print('refused')\n";
    let server = "import socket\n\
        s = socket.create_server(('', 80))\n\
        while True:\n    c, _ = s.accept()\n    \
        try:\n        while d := c.recv(1): c.sendall(d)\n    \
        except OSError: pass\n    c.close()\n";
    let data = "match = { payload_length = \"1-\" }, trigger = { nth = 1 }";
    for (keys, heard, [ended, challenged], [created, answered]) in [
        (format!("sequence = \"exact\", {data}"), "reset", [1, 0], [1, 0]),
        (format!("sequence = \"in-window\", count = 1, {data}"), "ab", [0, 1], [1, 0]),
        (format!("sequence = \"stale\", count = 5, {data}"), "ab", [0, 0], [5, 0]),
        (format!("to = \"sender\", sequence = \"stale\", {data}"), "ab", [0, 0], [0, 1]),
        (format!("to = \"sender\", {data}"), "reset", [1, 0], [0, 1]),
        ("to = \"sender\", match = { tcp_flags = \"syn\" }".to_owned(), "refused", [0, 0], [0, 1]),
    ] {
        let running = run(&format!("{{ type = \"inject\", kind = \"rst\", {keys} }}"), "");
        let _server = serve(&running, &["python3", "-c", server], 80);
        assert_eq!(left(&running, &["python3", "-c", client]).trim(), heard, "{keys}");
        let target = if answered > 0 { &running.left } else { &running.right };
        let counted = ["Tcp.EstabResets", "TcpExt.TCPChallengeACK"].map(|name| counter(target, name));
        assert_eq!(counted, [ended, challenged], "{keys}");
        let summary = running.stop(Signal::SIGTERM);
        let stage = &summary["paths"][0]["stages"][0];
        let made = ["created", "answered"].map(|what| stage[what]["packets"].as_u64().unwrap());
        assert_eq!((made, &summary["conserved"]), ([created, answered], &true.into()), "{keys}");
    }
}

/// Without SACK three duplicates make the kernel send again what was never lost; with it they do not. ACKs come slowly: the
/// next one would show that nothing was lost, and a kernel whose queue to the device is not empty waits for that.
#[test]
fn duplicate_acks_make_a_sender_without_sack_retransmit() {
    let client = "import socket\n\
        s = socket.create_connection(('10.88.2.2', 80))\n\
        s.sendall(bytes(60000))\n\
        s.shutdown(socket.SHUT_WR)\n\
        print(s.recv(9).decode())\n";
    let server = "import socket\n\
        s = socket.create_server(('', 80))\n\
        while True:\n    c, _ = s.accept()\n    \
        n = sum(map(len, iter(lambda: c.recv(65536), b'')))\n    \
        c.sendall(str(n).encode())\n    c.close()\n";
    let burst = "{ type = \"inject\", kind = \"dup-ack\", count = 3, trigger = { nth = 3 }, \
                   match = { tcp_flags = \"ack,!syn\", payload_length = 0 } }";
    for (up, sends_again) in [("{ type = \"tcp\", strip = \"sack-permitted\" },", true), ("", false)] {
        let up = format!("{up} {{ type = \"rate\", rate = \"1 Mbit/s\" }}");
        let running = Running::without_offload(&paths(&up, burst));
        let _server = serve(&running, &["python3", "-c", server], 80);
        assert_eq!(left(&running, &["python3", "-c", client]).trim(), "60000");
        let names = ["TcpExt.TCPFastRetrans", "TcpExt.TCPRenoRecovery"];
        let counted = names.map(|name| counter(&running.left, name) > 0);
        assert_eq!(counted, [sends_again; 2], "{up}");
        let summary = running.stop(Signal::SIGTERM);
        assert_eq!(summary["paths"][1]["stages"][0]["created"]["packets"], 3);
        assert_eq!(summary["conserved"], true);
    }
}
