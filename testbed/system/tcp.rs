//! Connections of the real kernel through the stages that know TCP, observed by tcpdump and tshark.

use std::time::Duration;

use faultwire::lab::clock::Deadline;
use faultwire::lab::observe::counters::Counters;
use faultwire::net::Netns;
use nix::sys::signal::Signal;

use crate::system::capture::Tcpdump;
use crate::system::common::Running;
use crate::system::pcap::tshark;
use crate::system::third_party::{left, serve};

/// Sends 10 MB; returns whether all data arrived unchanged, and the source port.
const SENDER: &str = "import socket, hashlib\n\
    data = bytes(range(256)) * 40960\n\
    s = socket.create_connection(('10.88.2.2', 80))\n\
    s.sendall(data)\n\
    s.shutdown(socket.SHUT_WR)\n\
    print(s.recv(99).decode() == hashlib.sha256(data).hexdigest(), s.getsockname()[1])\n";

/// Answers with the hash of the received data.
const HASHER: &str = "import socket, hashlib\n\
    s = socket.create_server(('', 80))\n\
    while True:\n    c, _ = s.accept()\n    h = hashlib.sha256()\n    \
    while d := c.recv(65536): h.update(d)\n    \
    c.sendall(h.hexdigest().encode())\n    c.close()\n";

/// Transfers in each of two connections; the ports from which they came.
fn transfers(running: &Running) -> Vec<u16> {
    let one = |_| {
        let said = left(running, &["python3", "-c", SENDER]);
        let (whole, port) = said.trim().split_once(' ').unwrap();
        assert_eq!(whole, "True", "what arrived is what was sent");
        port.parse().unwrap()
    };
    (0..2).map(one).collect()
}

fn path(stages: &str) -> String {
    format!("[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [{stages}]\n")
}

/// `TSval` and `TSecr` of the segments of a capture that the filter selects.
fn clocks(capture: &Tcpdump, filter: &str) -> Vec<(u32, u32)> {
    let filter = format!("{filter} && tcp.options.timestamp.tsval");
    let fields = ["tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr"];
    let lines = tshark(capture.file.to_str().unwrap(), &filter, &fields);
    let clock = |line: &String| {
        let (value, echo) = line.split_once('\t').unwrap();
        (value.parse().unwrap(), echo.parse().unwrap())
    };
    lines.iter().map(clock).collect()
}

#[test]
fn connections_with_clocks_of_their_own_see_their_own_echoes() {
    let running = Running::start("seed = 4", &path("{ type = \"timestamps\", set = \"random-offset\" }"));
    let _server = serve(&running, &["python3", "-c", HASHER], 80);
    let mut near = Tcpdump::start(&running.left, "fw-left");
    let mut far = Tcpdump::start(&running.right, "fw-right");
    let ports = transfers(&running);
    near.finish(&running);
    far.finish(&running);
    let mut offsets = Vec::new();
    for port in ports {
        let (forth, back) = (format!("tcp.srcport == {port}"), format!("tcp.dstport == {port}"));
        let (sent, arrived) = (clocks(&near, &forth), clocks(&far, &forth));
        let (first, last) = (sent[0].0, sent[sent.len() - 1].0);
        let own = |reading: u32| reading.wrapping_sub(first) <= last.wrapping_sub(first);
        let offset = arrived[0].0.wrapping_sub(first);
        assert!(arrived.iter().all(|clock| own(clock.0.wrapping_sub(offset))), "one offset for all");
        // What the server echoed is of the clock that it saw, what the client heard of its own.
        let (echoed, heard) = (clocks(&far, &back), clocks(&near, &back));
        assert!(heard.len() > 20 && echoed.iter().all(|clock| own(clock.1.wrapping_sub(offset))));
        assert!(heard.iter().all(|clock| own(clock.1)), "{first} to {last}: {heard:?}");
        offsets.push(offset);
    }
    assert!(offsets[0] != offsets[1] && !offsets.contains(&0), "{offsets:?}");
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
}

#[test]
fn stripped_syns_negotiate_no_timestamps() {
    let running = Running::start("", &path("{ type = \"timestamps\", set = \"strip\" }"));
    let _server = serve(&running, &["python3", "-c", HASHER], 80);
    let mut near = Tcpdump::start(&running.left, "fw-left");
    transfers(&running);
    near.finish(&running);
    assert_eq!(clocks(&near, "tcp.flags.syn == 1 && tcp.flags.ack == 0").len(), 2);
    assert_eq!(clocks(&near, "(tcp.flags.syn == 0 || tcp.flags.ack == 1)").len(), 0);
}

/// A client of today's kernel connects and resets at once. What the stages make of its RST leaves the connection at the
/// server exactly if PAWS rejects it.
#[test]
fn a_rst_that_overtakes_and_is_too_old_leaks_the_connection() {
    let client = "import socket, struct\n\
        s = socket.create_connection(('10.88.2.2', 80))\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n";
    let server = "import socket, threading\n\
        def until_its_end(c):\n    try: c.recv(9)\n    except OSError: pass\n\
        s = socket.create_server(('', 80), backlog=64)\n\
        while True:\n    c, _ = s.accept()\n    \
        threading.Thread(target=until_its_end, args=(c,), daemon=True).start()\n";
    // A clock that stands, so that zero is behind it: Linux starts a connection's anywhere, ahead of zero half the time.
    let clock = r#"{ type = "timestamps", set = "constant", value = 1000000 }"#;
    let rst = |keys: &str| format!(r#"{{ type = "timestamps", match = {{ tcp_flags = "rst" }}, {keys} }}"#);
    let (zero, strip) = (rst(r#"set = "zero""#), rst(r#"set = "strip""#));
    let older = rst(r#"set = "offset", value = -5000"#);
    let first = r#"{ type = "rst-order" }"#;
    let last = r#"{ type = "rst-order", rst = "last", timeout = "100ms" }"#;
    for (stages, residue, rejected) in [
        (vec![clock, &zero, first], 1, 1),
        (vec![&older, first], 1, 1),
        (vec![first], 0, 0),
        (vec![&strip, first], 0, 0),
        (vec![clock, &zero], 0, 0),
        (vec![clock, &zero, last], 0, 0),
    ] {
        let spec = stages.join(", ");
        let running = Running::start("", &path(&spec));
        let _server = serve(&running, &["python3", "-c", server], 80);
        let right = Netns::named(&running.right).unwrap();
        let value = |name: &str| right.run(Counters::read).unwrap().unwrap().value(name).unwrap();
        let arrived = value("Tcp.InSegs");
        left(&running, &["python3", "-c", client]);
        let deadline = Deadline::after(Duration::from_secs(10));
        while value("Tcp.InSegs") < arrived + 3 {
            assert!(deadline.left().is_some(), "{spec}: SYN, RST and ACK do not arrive");
            std::thread::yield_now();
        }
        let output =
            Running::inside(&running.right, &["ss", "-Htn", "state", "established", "sport = :80"]).output();
        let held = String::from_utf8(output.unwrap().stdout).unwrap().lines().count();
        assert_eq!((held, value("TcpExt.PAWSEstab")), (residue, rejected), "{spec}");
    }
}
