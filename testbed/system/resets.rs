//! RSTs that overtake and SYNs that meet a TIME-WAIT, made by scapy packet by packet, against a listener of the real
//! kernel: without our own traffic and without our own stages, these outcomes must be those of the cases.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use faultwire::lab::clock::Deadline;
use faultwire::lab::observe::counters::Counters;
use faultwire::lab::observe::drops::{DropTrace, NotTraced};
use faultwire::net::Netns;

use crate::system::common::{Running, tool};
use crate::system::third_party::{left, serve};

/// The beginning of both scripts. No host has their address, so the kernel does not interfere.
const COMMON: &str = r#"
import socket, sys
from scapy.all import IP, TCP, conf
ME, PEER, SYN_TS, seq = "10.88.1.77", "10.88.2.2", 1000000, 5000000
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.bind(("fw-left", 0x0800))
wire.settimeout(10)
def send(port, flags, seq, ack=0, options=[], data=b""):
    tcp = TCP(sport=port, dport=80, flags=flags, seq=seq, ack=ack, window=65535, options=options)
    wire.sendto(bytes(IP(src=ME, dst=PEER)/tcp/data), ("fw-left", 0x0800))
def answer(port):
    while True:
        packet = IP(wire.recv(65536))
        if TCP in packet and packet[TCP].dport == port:
            return packet[TCP], packet.len - 4 * packet.ihl - 4 * packet[TCP].dataofs
def stamp(value, echo):
    return [("NOP", None), ("NOP", None), ("Timestamp", (value, echo))]
def handshake(port):
    send(port, "S", seq, options=[("MSS", 1460)] + stamp(SYN_TS, 0))
    synack, _ = answer(port)
    assert synack.flags == "SA", synack.flags
    return synack.seq + 1, dict(synack.options)["Timestamp"][0]
print("ready", flush=True)
"#;

/// Opens a connection for each line `PORT VARIANT` and breaks it as the variant says.
const RESETS: &str = r#"
for line in sys.stdin:
    port, variant = line.split()
    port = int(port)
    ack, echo = handshake(port)
    options = {
        "zero": stamp(0, echo), "older": stamp(SYN_TS - 5000, echo), "equal": stamp(SYN_TS, echo),
        "newer": stamp(SYN_TS + 3, echo), "absent": [], "nop": [("NOP", None)] * 4,
        "stale": stamp(SYN_TS + 1, echo), "ordered": stamp(0, echo), "none": [],
    }[variant]
    last = lambda: send(port, "A", seq + 1, ack, stamp(SYN_TS + 1, echo))
    rst = lambda: send(port, "RA", seq + 1 - (500000 if variant == "stale" else 0), ack, options)
    for step in {"ordered": [last, rst], "none": [last]}.get(variant, [rst, last]):
        step()
    print("done", flush=True)
"#;

/// For each line `PORT VARIANT` lets the server close a connection and says what it answers to another SYN of the port.
const TIME_WAIT: &str = r#"
for line in sys.stdin:
    port, variant = line.split()
    port = int(port)
    ack, echo = handshake(port)
    send(port, "A", seq + 1, ack, stamp(SYN_TS + 1, echo))
    send(port, "PA", seq + 1, ack, stamp(SYN_TS + 1, echo), b"bye")
    while True:
        heard, length = answer(port)
        ack += length if heard.seq == ack else 0
        if "F" in heard.flags:
            break
    send(port, "FA", seq + 4, ack + 1, stamp(SYN_TS + 2, echo))
    heard, _ = answer(port)
    assert heard.flags == "A" and heard.ack == seq + 5, heard
    clock, number = variant.split("-")
    first = seq + 900000 if number == "ahead" else seq - 900000
    options = {"older": stamp(SYN_TS - 5000, 0), "newer": stamp(SYN_TS + 5000, 0), "absent": []}[clock]
    send(port, "S", first, options=[("MSS", 1460)] + options)
    heard, _ = answer(port)
    ours = heard.ack == first + 1
    print({("SA", True): "syn-ack", ("A", False): "stray"}.get((str(heard.flags), ours), str(heard.flags)), flush=True)
"#;

/// scapy at work in the left namespace.
struct Crafter {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Crafter {
    fn start(running: &Running, script: &str) -> Self {
        // Debian's scapy belongs to Debian's python.
        let has_scapy = |python: &&str| {
            tool(python).args(["-c", "import scapy"]).output().is_ok_and(|output| output.status.success())
        };
        let python = ["python3", "/usr/bin/python3"].into_iter().find(has_scapy);
        let python = python.expect("scapy is installed (testbed/run does that)");
        let script = format!("{COMMON}{script}");
        let mut command = Running::inside(&running.left, &[python, "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut crafter = Self { child, said };
        assert_eq!(crafter.hear(), "ready");
        crafter
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The script's output about the variant.
    fn play(&mut self, port: u16, variant: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{port} {variant}").unwrap();
        self.hear()
    }
}

impl Drop for Crafter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel's reasons for the packets that it drops in the right namespace.
struct Reasons(Option<DropTrace>);

impl Reasons {
    fn start(running: &Running) -> Self {
        match DropTrace::start(running.child.id(), vec!["fw-right".to_owned()]) {
            // Linux 6.15 gives reasons in SYN-RECEIVED, and has this one since.
            Ok(trace) if matches!(trace.count(0, "TCP_RFC7323_TSECR"), Err(NotTraced::NoSuchReason(_))) => {
                eprintln!("drop reasons are not looked at: this kernel gives none in SYN-RECEIVED");
                Self(None)
            }
            Ok(trace) => Self(Some(trace)),
            Err(why @ NotTraced::TooOld) => {
                eprintln!("drop reasons are not looked at: {why}");
                Self(None)
            }
            Err(why) => panic!("{why}"),
        }
    }

    /// Waits until as many packets were dropped for `reason` since the start, no more and no less.
    fn expect(&mut self, reason: &str, count: u64, variant: &str) {
        let Some(trace) = &mut self.0 else { return };
        let deadline = Deadline::after(Duration::from_secs(10));
        loop {
            trace.drain().unwrap();
            match trace.count(0, reason) {
                Ok(seen) if seen == count => return,
                Ok(seen) => assert!(
                    seen < count && deadline.left().is_some(),
                    "{variant}: {seen} packets dropped for {reason}, not {count}: {:?}",
                    trace.counts().collect::<Vec<_>>()
                ),
                Err(why @ NotTraced::NoSuchReason(_)) => return eprintln!("{variant}: {why}"),
                Err(why) => panic!("{variant}: {why}"),
            }
            std::thread::yield_now();
        }
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
    // Reads, so that it would notice the end of a connection; never closes by itself.
    let server = "import socket, threading\n\
                  def until_its_end(c):\n    try: c.recv(9)\n    except OSError: pass\n\
                  s = socket.create_server(('', 80), backlog=64)\n\
                  while True:\n    c, _ = s.accept()\n    threading.Thread(target=until_its_end, args=(c,), daemon=True).start()\n";
    let _server = serve(&running, &["python3", "-c", server], 80);
    let right = Netns::named(&running.right).unwrap();
    let counters = || right.run(Counters::read).unwrap().unwrap();
    let value = |name: &str| counters().value(name).unwrap();
    let mut crafter = Crafter::start(&running, RESETS);
    let mut reasons = Reasons::start(&running);
    // Dropped so far: by PAWS, for being outside of the window, and ACKs that belong to nothing any more.
    let mut dropped = [("TCP_RFC7323_PAWS", 0), ("TCP_OVERWINDOW", 0), ("TCP_FLAGS", 0)];
    for (number, (variant, packets, residue, rejected, why)) in [
        ("none", 2, 1, 0, ""),
        ("zero", 3, 1, 1, "TCP_RFC7323_PAWS"),
        ("older", 3, 1, 1, "TCP_RFC7323_PAWS"),
        ("equal", 3, 0, 0, "TCP_FLAGS"),
        ("newer", 3, 0, 0, "TCP_FLAGS"),
        ("absent", 3, 0, 0, "TCP_FLAGS"),
        ("nop", 3, 0, 0, "TCP_FLAGS"),
        ("stale", 3, 1, 0, "TCP_OVERWINDOW"),
        ("ordered", 3, 0, 0, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let port = 40_000 + number as u16;
        let (arrived, paws) = (value("Ip.InReceives"), value("TcpExt.PAWSEstab"));
        assert_eq!(crafter.play(port, variant), "done");
        let deadline = Deadline::after(Duration::from_secs(10));
        while value("Ip.InReceives") < arrived + packets {
            assert!(deadline.left().is_some(), "{variant}: the packets do not arrive");
            std::thread::yield_now();
        }
        assert_eq!(value("TcpExt.PAWSEstab") - paws, rejected, "{variant}: PAWSEstab");
        assert_eq!(held(&running, port), residue, "{variant}: connections left at the server");
        for (reason, count) in &mut dropped {
            *count += u64::from(*reason == why);
            reasons.expect(reason, *count, variant);
        }
    }
}

#[test]
fn a_time_wait_rejects_older_timestamps_whatever_the_sequence_number() {
    let running = Running::start("", "");
    left(&running, &["ping", "-c", "1", "10.88.2.2"]);
    let server = "import socket\n\
                  s = socket.create_server(('', 80), backlog=64)\n\
                  while True:\n    c, _ = s.accept()\n    c.recv(9)\n    c.close()\n";
    let _server = serve(&running, &["python3", "-c", server], 80);
    let right = Netns::named(&running.right).unwrap();
    let rejected = || right.run(Counters::read).unwrap().unwrap().value("TcpExt.PAWSTimewait");
    let mut crafter = Crafter::start(&running, TIME_WAIT);
    let mut reasons = Reasons::start(&running);
    let mut dropped = 0;
    for (port, variant, answer, count) in [
        (41_000, "older-behind", "stray", 1),
        (41_001, "older-ahead", "stray", 1),
        (41_002, "newer-behind", "syn-ack", 0),
        (41_003, "newer-ahead", "syn-ack", 0),
        (41_004, "absent-ahead", "syn-ack", 0),
        (41_005, "absent-behind", "stray", 0),
    ] {
        let before = rejected();
        assert_eq!(crafter.play(port, variant), answer, "{variant}");
        // Kernels before 6.15 do not count it.
        let grown = rejected().zip(before).map(|(now, before)| now - before);
        assert!(grown.is_none_or(|grown| grown == count), "{variant}: PAWSTimewait +{grown:?}");
        dropped += count;
        reasons.expect("TCP_RFC7323_TW_PAWS", dropped, variant);
    }
}
