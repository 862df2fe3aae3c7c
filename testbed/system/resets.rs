//! RSTs that overtake, made by scapy packet by packet, against a listener of the real kernel: without our own traffic
//! and without our own stages, these outcomes must be those of the cases.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use faultwire::lab::clock::Deadline;
use faultwire::lab::observe::counters::Counters;
use faultwire::net::Netns;

use crate::system::common::Running;
use crate::system::third_party::{left, serve};

/// Opens a connection for each line `PORT VARIANT` and breaks it as the variant says. Its address is nobody's, so that
/// the kernel below stays out of it.
const SCRIPT: &str = r#"
import socket, sys
from scapy.all import IP, TCP, conf
ME, PEER, SYN_TS = "10.88.1.77", "10.88.2.2", 1000000
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.bind(("fw-left", 0x0800))
wire.settimeout(10)
def send(packet):
    wire.sendto(bytes(packet), ("fw-left", 0x0800))
def answer(port):
    while True:
        packet = IP(wire.recv(65536))
        if TCP in packet and packet[TCP].dport == port:
            return packet[TCP]
print("ready", flush=True)
for line in sys.stdin:
    port, variant = line.split()
    port, seq = int(port), 5000000
    base = dict(sport=port, dport=80)
    stamp = lambda value, echo: [("NOP", None), ("NOP", None), ("Timestamp", (value, echo))]
    send(IP(src=ME, dst=PEER)/TCP(**base, flags="S", seq=seq, window=65535, options=[("MSS", 1460)] + stamp(SYN_TS, 0)))
    synack = answer(port)
    assert synack.flags == "SA", synack.flags
    echo = dict(synack.options)["Timestamp"][0]
    options = {
        "zero": stamp(0, echo), "older": stamp(SYN_TS - 5000, echo), "equal": stamp(SYN_TS, echo),
        "newer": stamp(SYN_TS + 3, echo), "absent": [], "nop": [("NOP", None)] * 4,
        "stale": stamp(SYN_TS + 1, echo), "ordered": stamp(0, echo), "none": [],
    }[variant]
    ack = IP(src=ME, dst=PEER)/TCP(**base, flags="A", seq=seq + 1, ack=synack.seq + 1, window=65535, options=stamp(SYN_TS + 1, echo))
    rst_seq = seq + 1 - (500000 if variant == "stale" else 0)
    rst = IP(src=ME, dst=PEER)/TCP(**base, flags="RA", seq=rst_seq, ack=synack.seq + 1, options=options)
    for packet in {"ordered": [ack, rst], "none": [ack]}.get(variant, [rst, ack]):
        send(packet)
    print("done", flush=True)
"#;

/// scapy at work in the left namespace.
struct Crafter {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Crafter {
    fn start(running: &Running) -> Self {
        // Debian's scapy belongs to Debian's python.
        let has_scapy = |python: &&str| {
            Command::new(python)
                .args(["-c", "import scapy"])
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let python = ["python3", "/usr/bin/python3"].into_iter().find(has_scapy);
        let python = python.expect("scapy is installed (testbed/run does that)");
        let mut command = Running::inside(&running.left, &[python, "-c", SCRIPT]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut crafter = Self { child, said };
        crafter.hear("ready");
        crafter
    }

    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn play(&mut self, port: u16, variant: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{port} {variant}").unwrap();
        self.hear("done");
    }
}

impl Drop for Crafter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections that the server still holds to this port, by iproute2's own tool.
fn held(running: &Running, port: u16) -> usize {
    let filter = format!("dport = :{port}");
    let output = Running::inside(&running.right, &["ss", "-Htn", "state", "established", &filter]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().lines().count()
}

#[test]
fn a_rst_before_the_ack_leaves_a_connection_only_if_paws_or_the_window_rejects_it() {
    let running = Running::start("", "");
    left(&running, &["ping", "-c", "1", "10.88.2.2"]);
    // Reads, so that it would hear of an end; never closes by itself.
    let server = "import socket, threading\n\
                  s = socket.create_server(('', 80), backlog=64)\n\
                  while True:\n    c, _ = s.accept()\n    threading.Thread(target=c.recv, args=(9,), daemon=True).start()\n";
    let _server = serve(&running, &["python3", "-c", server], 80);
    let right = Netns::named(&running.right).unwrap();
    let counters = || right.run(Counters::read).unwrap().unwrap();
    let value = |name: &str| counters().value(name).unwrap();
    let mut crafter = Crafter::start(&running);
    for (number, (variant, packets, residue, rejected)) in [
        ("none", 2, 1, 0),
        ("zero", 3, 1, 1),
        ("older", 3, 1, 1),
        ("equal", 3, 0, 0),
        ("newer", 3, 0, 0),
        ("absent", 3, 0, 0),
        ("nop", 3, 0, 0),
        ("stale", 3, 1, 0),
        ("ordered", 3, 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let port = 40_000 + number as u16;
        let (arrived, paws) = (value("Ip.InReceives"), value("TcpExt.PAWSEstab"));
        crafter.play(port, variant);
        let deadline = Deadline::after(Duration::from_secs(10));
        while value("Ip.InReceives") < arrived + packets {
            assert!(deadline.left().is_some(), "{variant}: the packets do not arrive");
            std::thread::yield_now();
        }
        assert_eq!(value("TcpExt.PAWSEstab") - paws, rejected, "{variant}: PAWSEstab");
        assert_eq!(held(&running, port), residue, "{variant}: connections left at the server");
    }
}
