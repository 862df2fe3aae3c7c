//! Stages that select single segments of connections of the real kernel, whose counters must agree.

use faultwire::lab::observe::counters::Counters;
use faultwire::net::{Netns, sysctl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{Running, ip};
use crate::system::third_party::{left, serve};

/// Sends a hello to each client, then echoes what it gets.
const SERVER: &str = "import socket, threading\n\
    def echo(c):\n    \
    c.sendall(b'hello')\n    \
    while d := c.recv(65536): c.sendall(d)\n\
    s = socket.create_server(('', 80))\n\
    while True: threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()\n";

/// The beginning of every client: a connection, and the hello of the server.
const CLIENT: &str = "import socket\n\
    def all(n):\n    \
    d = b''\n    \
    while len(d) < n: d += s.recv(n - len(d)) or exit('closed')\n    \
    return d\n\
    s = socket.create_connection(('10.88.2.2', 80))\n\
    assert all(5) == b'hello'\n";

fn stages(from: &str, to: &str, stages: &str) -> String {
    format!("[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\nstage = [{stages}]\n")
}

/// The increase of a kernel counter.
fn counted(netns: &str, name: &str) -> u64 {
    Netns::named(netns).unwrap().run(Counters::read).unwrap().unwrap().value(name).unwrap()
}

/// No tail loss probes, and no timer that could expire early on a busy machine.
fn make_patient(running: &Running) {
    for (netns, device, peer) in
        [(&running.left, "fw-left", "10.88.2.2/32"), (&running.right, "fw-right", "10.88.1.2/32")]
    {
        sysctl::write(&Netns::named(netns).unwrap(), "ipv4/tcp_early_retrans", "0").unwrap();
        ip(&["-n", netns, "route", "add", peer, "dev", device, "rto_min", "2s"]);
    }
}

/// What stage 0 of each path dropped for being aimed at.
fn dropped(summary: &Value) -> Vec<u64> {
    assert_eq!(summary["conserved"], true);
    let of = |path: &Value| path["stages"][0]["dropped"]["drop"]["packets"].as_u64().unwrap_or_default();
    summary["paths"].as_array().unwrap().iter().map(of).collect()
}

/// The ACK that would end the handshake is lost, and the second SYN-ACK that this costs; the third brings another ACK. The
/// server's kernel waits for it twice, and only there is anything sent again.
#[test]
fn the_second_syn_ack_is_lost() {
    let paths = [
        stages(
            "left",
            "right",
            "{ type = \"drop\", match = { segment = \"handshake-ack\" }, trigger = { nth = 1 } }",
        ),
        stages(
            "right",
            "left",
            "{ type = \"drop\", match = { segment = \"syn-ack\" }, trigger = { nth = 2 } }",
        ),
    ];
    let running = Running::start("", &paths.concat());
    make_patient(&running);
    let _server = serve(&running, &["python3", "-c", SERVER], 80);
    left(&running, &["python3", "-c", CLIENT]);
    let names = ["Tcp.RetransSegs", "TcpExt.TCPSynRetrans", "TcpExt.TCPTimeouts"];
    assert_eq!(names.map(|name| counted(&running.right, name)), [2, 2, 2]);
    assert_eq!(names.map(|name| counted(&running.left, name)), [0, 0, 0]);
    assert_eq!(dropped(&running.stop(Signal::SIGTERM)), [1, 1]);
}

/// Eight segments of one flight, the third of which is lost, and lost again when fast recovery sends it: nothing is left in
/// flight that could tell, so that the kernel has to wait for its timer.
#[test]
fn the_third_data_segment_and_its_first_retransmission_are_lost() {
    let aim = "{ type = \"drop\", match = { transmission_of = 3 }, trigger = { first = 2 } }";
    let running = Running::start("", &stages("left", "right", aim));
    make_patient(&running);
    let _server = serve(&running, &["python3", "-c", SERVER], 80);
    let client = format!("{CLIENT}d = bytes(range(181)) * 64\ns.sendall(d)\nassert all(len(d)) == d\n");
    left(&running, &["python3", "-c", &client]);
    let names = ["Tcp.RetransSegs", "TcpExt.TCPFastRetrans", "TcpExt.TCPTimeouts"];
    assert_eq!(names.map(|name| counted(&running.left, name)), [2, 1, 1]);
    assert_eq!(counted(&running.right, "Tcp.RetransSegs"), 0);
    assert_eq!(dropped(&running.stop(Signal::SIGTERM)), [2]);
}

/// What the initiator sends behind its handshake is lost, all of it: it is connected, hears the server, and is not heard.
#[test]
fn a_connection_opens_and_is_cut_one_way() {
    let aim = "{ type = \"drop\", match = { segment = \"established\" } }";
    let running = Running::start("", &stages("left", "right", aim));
    let _server = serve(&running, &["python3", "-c", SERVER], 80);
    let client = format!(
        "{CLIENT}s.settimeout(1)\ns.sendall(b'x')\ntry:\n    s.recv(9)\nexcept TimeoutError: print('silence')\n"
    );
    assert_eq!(left(&running, &["python3", "-c", &client]).trim(), "silence");
    assert!(counted(&running.left, "Tcp.RetransSegs") > 0, "the client tries again");
    assert!(counted(&running.right, "Tcp.RetransSegs") > 0, "the hello is never acknowledged");
    // The server has received only the SYN and the ACK after it.
    assert_eq!(counted(&running.right, "Tcp.InSegs"), 2);
    assert!(dropped(&running.stop(Signal::SIGTERM))[0] >= 3);
}
