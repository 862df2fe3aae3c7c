//! `faultwire attach`, on a device between two namespaces that another program created.

mod ending;
mod library;
mod refusals;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStderr, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use faultwire::lab::check::binomial_interval;
use faultwire::lab::clock;
use faultwire::net::Netns;

use crate::system::common::{Foreign, faultwire, ip, output, said, tool, unique, until};

/// Two hosts on one wire, `eth0` in both: `10.87.0.1` and `fd87::1` at the target, `.2` and `::2` at its peer.
pub(crate) struct Hosts {
    pub(crate) target: Foreign,
    pub(crate) peer: Foreign,
}

pub(crate) const PEER: [&str; 2] = ["10.87.0.2", "fd87::2"];

impl Hosts {
    pub(crate) fn new() -> Self {
        let hosts = Self { target: Foreign::new(), peer: Foreign::new() };
        let (target, peer) = (&hosts.target.0, &hosts.peer.0);
        ip(&["link", "add", "eth0", "netns", target, "type", "veth", "peer", "name", "eth0", "netns", peer]);
        for (netns, number) in [(target, 1), (peer, 2)] {
            for (address, device) in
                [(format!("10.87.0.{number}/24"), "eth0"), (format!("fd87::{number}/64"), "eth0")]
            {
                let words = ["-n", netns, "addr", "add", &address, "dev", device];
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&words[..], nodad].concat());
            }
            for device in ["lo", "eth0"] {
                ip(&["-n", netns, "link", "set", device, "up"]);
            }
        }
        hosts
    }

    /// A connection from the target to its peer.
    pub(crate) fn connect(&self, to: &str) -> [TcpStream; 2] {
        let (target, peer) = (netns(&self.target), netns(&self.peer));
        let address = SocketAddr::new(to.parse::<IpAddr>().unwrap(), 0);
        let listener = peer.run(|| TcpListener::bind(address).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let client = target.run(|| TcpStream::connect(at).unwrap()).unwrap();
        [client, listener.accept().unwrap().0]
    }

    /// Attaches to the target's `eth0`.
    pub(crate) fn attach(&self, options: &[&str]) -> Attached {
        Attached::start(&[&["--netns", &self.target.0, "--dev", "eth0"], options].concat())
    }

    /// Devices of the target that are not its own.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let links = ip(&["-n", &self.target.0, "-o", "link"]);
        let names = links.lines().filter_map(|line| line.split(": ").nth(1).map(str::to_owned));
        names.filter(|name| name != "lo" && !name.starts_with("eth0@")).collect()
    }
}

/// The kernel's numbers of the links by which a process holds programs at hooks.
fn links_of(process: u32) -> Vec<u64> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap().flatten();
    let texts = descriptors.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| text.split("link_id:").nth(1)?.lines().next()?.trim().parse().ok()).collect()
}

/// Whether the kernel still has a link of this number.
fn is_link(number: u64) -> bool {
    let words = ["-j", "link", "show", "id", &number.to_string()];
    tool("bpftool").args(words).output().expect("testbed/run installs bpftool").status.success()
}

pub(crate) fn netns(foreign: &Foreign) -> Netns {
    Netns::named(&foreign.0).unwrap()
}

/// A running attachment.
pub(crate) struct Attached {
    child: Child,
    /// Kept open, so that later output of the process does not fail.
    stderr: BufReader<ChildStderr>,
}

impl Attached {
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_until(options, "attached to")
    }

    /// Starts, and waits for these words.
    fn start_until(options: &[&str], words: &str) -> Self {
        let mut child = faultwire()
            .args([&["attach", "--json"], options].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut attached = Self { stderr: BufReader::new(child.stderr.take().unwrap()), child };
        attached.wait_for(words);
        attached
    }

    pub(crate) fn wait_for(&mut self, words: &str) {
        let mut heard = String::new();
        while !heard.contains(words) {
            assert!(self.stderr.read_line(&mut heard).unwrap() > 0, "it never said {words:?}: {heard}");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it with a signal and returns its summary.
    pub(crate) fn stop(mut self, signal: Signal) -> serde_json::Value {
        self.signal(signal);
        self.summary(0)
    }

    /// Waits for its end with this exit code, and returns its summary.
    pub(crate) fn summary(&mut self, code: i32) -> serde_json::Value {
        let text = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        let status = self.child.wait().unwrap();
        let mut more = String::new();
        let _ = self.stderr.read_to_string(&mut more);
        assert_eq!(status.code(), Some(code), "{text}{more}");
        serde_json::from_str(&text).unwrap()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends enough data for long trains in both directions at once, and compares what arrives.
pub(crate) fn exchange(connection: &mut [TcpStream; 2], bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let [one, other] = connection;
    for stream in [&*one, &*other] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    std::thread::scope(|scope| {
        for (from, to) in [(&*one, &*other), (&*other, &*one)] {
            let (mut from, mut to) = (from, to);
            let data = &data;
            scope.spawn(move || from.write_all(data).unwrap());
            scope.spawn(move || {
                let mut received = vec![0; bytes];
                to.read_exact(&mut received).unwrap();
                assert!(received == *data, "other bytes arrived");
            });
        }
    });
}

/// Round trip of a byte over an open connection.
pub(crate) fn round_trip([client, server]: &mut [TcpStream; 2]) -> Duration {
    elapsed(|| {
        let mut byte = [0];
        client.write_all(&[1]).unwrap();
        server.read_exact(&mut byte).unwrap();
        server.write_all(&byte).unwrap();
        client.read_exact(&mut byte).unwrap();
    })
}

/// The time that a function takes.
#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
pub(crate) fn elapsed(done: impl FnOnce()) -> Duration {
    let start = Instant::now();
    done();
    start.elapsed()
}

pub(crate) fn field(value: &serde_json::Value, path: &str) -> u64 {
    value.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{path} of {value:#}"))
}

#[test]
fn an_open_connection_survives_attach_faults_detach_and_kill() {
    let hosts = Hosts::new();
    for to in PEER {
        let mut connection = hosts.connect(to);
        connection[0].set_nodelay(true).unwrap();
        connection[1].set_nodelay(true).unwrap();
        exchange(&mut connection, 100_000);
        for end in [Signal::SIGINT, Signal::SIGKILL, Signal::SIGTERM] {
            let attached = hosts.attach(&["--both", "delay 20ms", "--seed", "3"]);
            assert!(round_trip(&mut connection) >= Duration::from_millis(40), "{to}");
            exchange(&mut connection, 3_000_000);
            if end == Signal::SIGKILL {
                attached.kill();
            } else {
                let summary = attached.stop(end);
                assert_eq!(summary["ended_by"], "signal");
                assert!(field(&summary, "/hit") > 4_000, "{summary:#}");
                assert!(summary["conserved"].as_bool().unwrap());
            }
            exchange(&mut connection, 100_000);
        }
    }
    // A killed process may be reaped before its devices are gone, unless it closed them itself.
    assert_eq!(hosts.left_behind(), [""; 0]);
}

/// 10 % of the datagrams that reached the stage, in each direction: queues of a slow host may drop some before it.
#[test]
fn loss_hits_each_direction_by_itself() {
    let hosts = Hosts::new();
    let (target, peer) = (netns(&hosts.target), netns(&hosts.peer));
    let bind = |netns: &Netns, address: &str| {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 4_000);
        netns.run(|| UdpSocket::bind(address).unwrap()).unwrap()
    };
    let (here, there) = (bind(&target, "10.87.0.1"), bind(&peer, PEER[0]));
    let mut attached =
        hosts.attach(&["--up", "loss 10%", "--down", "loss 10%", "--seed", "5", "--for", "2s"]);
    for (from, to) in [(&here, &there), (&there, &here)] {
        let to = to.local_addr().unwrap();
        for number in 0..4_000_u32 {
            from.send_to(&number.to_be_bytes(), to).unwrap();
        }
    }
    let summary = attached.summary(0);
    assert_eq!(summary["ended_by"], "time");
    for path in 0..2 {
        let stage = |what: &str| field(&summary, &format!("/paths/{path}/stages/0/{what}/packets"));
        let (lost, seen) = (stage("dropped/loss"), stage("seen"));
        let (low, high) = binomial_interval(seen, 0.1);
        assert!(seen >= 500 && (low..=high).contains(&lost), "{lost} of {seen} of path {path}");
    }
}

/// A datagram in VLAN 7, as a switch would see it.
const TAGGED: &str = "
import socket, struct
payload = b'tagged' * 4
udp = struct.pack('!HHHH', 4000, 5000, 8 + len(payload), 0) + payload
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes([10, 87, 7, 1]), bytes([10, 87, 7, 2]))
total = sum(struct.unpack('!10H', ip))
total = (total & 0xffff) + (total >> 16)
ip = ip[:10] + struct.pack('!H', 0xffff & ~total) + ip[12:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
s.send(b'\\2\\0\\0\\0\\0\\2' + b'\\2\\0\\0\\0\\0\\1' + b'\\x81\\0\\x60\\7\\x08\\0' + ip + udp)
";

#[test]
fn tagged_frames_keep_their_tag_and_their_faults() {
    let hosts = Hosts::new();
    // Up, the datagram passes an egress hook; down, an ingress hook.
    for (attached_to, option) in [(&hosts.target, "--up"), (&hosts.peer, "--down")] {
        let attached =
            Attached::start(&["--netns", &attached_to.0, "--dev", "eth0", option, "duplicate 100%"]);
        let mut sniffer = tool("ip")
            .args([
                "netns",
                "exec",
                &hosts.peer.0,
                "tcpdump",
                "-n",
                "-e",
                "-i",
                "eth0",
                "-c",
                "2",
                "vlan",
                "7",
            ])
            .args(["and", "udp", "port", "5000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is installed");
        let mut ready = String::new();
        let mut stderr = BufReader::new(sniffer.stderr.take().unwrap());
        while !ready.contains("listening on") {
            assert!(stderr.read_line(&mut ready).unwrap() > 0, "{ready}");
        }
        let send = || {
            let words = ["netns", "exec", &hosts.target.0, "python3", "-c", TAGGED];
            assert!(tool("ip").args(words).status().unwrap().success());
        };
        send();
        // tcpdump sees arriving packets before the ingress hook, not after it.
        if option == "--down" {
            send();
        }
        let seen = std::io::read_to_string(sniffer.stdout.take().unwrap()).unwrap();
        sniffer.wait().unwrap();
        assert_eq!(seen.matches("vlan 7, p 3").count(), 2, "{option}: {seen}");
        assert_eq!(seen.matches("10.87.7.1.4000 > 10.87.7.2.5000").count(), 2, "{option}: {seen}");
        drop(attached);
    }
}

/// The router has no address on a wire: the source of its errors is the destination of the packet.
#[test]
fn errors_come_from_the_packet_s_destination() {
    let hosts = Hosts::new();
    let _attached = hosts.attach(&["--both", "mtu 1300 icmp"]);
    for to in PEER {
        let words =
            ["netns", "exec", &hosts.target.0, "ping", "-M", "do", "-c", "1", "-W", "5", "-s", "1400", to];
        let output = tool("ip").args(words).output().unwrap();
        let text = said(&output).to_lowercase();
        assert!(text.contains(&format!("from {to}")) && text.contains("mtu"), "{text}");
        assert!(text.contains("1300"), "{text}");
    }
}

#[test]
fn what_does_not_match_is_not_hit() {
    let hosts = Hosts::new();
    let mut connections = [hosts.connect(PEER[0]), hosts.connect(PEER[1]), hosts.connect(PEER[0])];
    let port = connections[0][1].local_addr().unwrap().port();
    let expression = format!("tcp port {port} or (ip6 and not udp)");
    let attached = hosts.attach(&["--match", &expression, "--both", "delay 100ms"]);
    let slow = connections.each_mut().map(|connection| {
        connection[0].set_nodelay(true).unwrap();
        round_trip(connection) >= Duration::from_millis(200)
    });
    assert_eq!(slow, [true, true, false]);
    let summary = attached.stop(Signal::SIGINT);
    assert_eq!(field(&summary, "/received/packets"), field(&summary, "/sent/packets"));
}

/// Stages that are set, applied or added during the run get the same `--match` as the first ones.
#[test]
fn later_faults_hit_no_more_than_match_allows() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[0]);
    let socket = std::env::temp_dir().join(format!("{}.sock", unique()));
    let control = ["--control", socket.to_str().unwrap()];
    let attached = hosts.attach(&[&["--both", "delay 1ms", "--match", "udp port 9"], &control[..]].concat());
    for words in [&["apply", "up=loss 100%", "down=loss 100%"][..], &["add", "up", "drop"]] {
        let changed = output(&[&["ctl"], &control[..], words].concat());
        assert!(changed.status.success(), "{words:?}: {}", said(&changed));
        exchange(&mut connection, 100_000);
    }
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    sender.send_to(b"x", (PEER[0], 9)).unwrap();
    let summary = attached.stop(Signal::SIGTERM);
    assert_eq!(field(&summary, "/dropped/loss/packets"), 1, "{summary:#}");
}
