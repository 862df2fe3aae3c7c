//! Third-party clients and servers.

use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::system::common::{Running, said, unique};

/// Only TCP packets are lost, because iperf3 gives up if the first datagram of its UDP test is lost.
const LOSSY: &str = "[[link]]\nbetween = [\"left\", \"right\"]\nboth = [\
    { type = \"delay\", delay = \"2ms\", jitter = \"1ms\" }, \
    { type = \"loss\", probability = \"2%\", match = { protocol = \"tcp\" } }]\n";

/// Ends with the test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Starts a server in the right namespace, and waits until it listens on `port`.
pub(crate) fn serve(running: &Running, command: &[&str], port: u16) -> Server {
    let child = Running::inside(&running.right, command).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut server = Server(child.expect("installed (testbed/run does that)"));
    let deadline = faultwire::lab::clock::Deadline::after(std::time::Duration::from_secs(20));
    let netns = faultwire::net::Netns::named(&running.right).unwrap();
    let listens = || {
        let sockets = netns.run(faultwire::lab::observe::sockets::tcp_sockets).unwrap().unwrap();
        sockets.iter().any(|socket| socket.state == "LISTEN" && socket.local.port() == port)
    };
    while !listens() {
        assert!(server.0.try_wait().unwrap().is_none(), "{command:?} has ended");
        assert!(deadline.left().is_some(), "{command:?} does not listen on {port}");
        std::thread::yield_now();
    }
    server
}

pub(crate) fn left(running: &Running, command: &[&str]) -> String {
    let output = Running::inside(&running.left, command).output().expect("installed (testbed/run does that)");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}

#[test]
fn curl_gets_from_nginx_what_lies_there() {
    let running = Running::start("seed = 3", LOSSY);
    let root = std::env::temp_dir().join(format!("faultwire-{}", unique()));
    std::fs::create_dir_all(&root).unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(root.join("data"), &data).unwrap();
    let (config, dir) = (root.join("nginx.conf"), root.display().to_string());
    let text = format!(
        "user root; daemon off; pid {dir}/pid; error_log {dir}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; \
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; \
         server {{ listen 80; listen [::]:80; root {dir}; }} }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let server = serve(&running, &["nginx", "-c", config.to_str().unwrap()], 80);
    for url in ["http://10.88.2.2/data", "http://[fd88:2::2]/data"] {
        let to = root.join("got");
        left(&running, &["curl", "-sS", "-m", "60", "-o", to.to_str().unwrap(), url]);
        assert!(std::fs::read(&to).unwrap() == data, "{url}: other bytes");
    }
    drop(server);
    assert_eq!(running.stop(Signal::SIGTERM)["conserved"], true);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn iperf3_streams_both_ways() {
    let running = Running::start("", LOSSY);
    for (port, options) in
        [("5201", &["-n", "2M"][..]), ("5202", &["-n", "2M", "-R"]), ("5203", &["-u", "-b", "5M", "-t", "1"])]
    {
        // A new server each time, because a server says for a while after a test that it is busy.
        let _server = serve(&running, &["iperf3", "-s", "-p", port], port.parse().unwrap());
        let text = left(&running, &[&["iperf3", "-J", "-c", "10.88.2.2", "-p", port], options].concat());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let bytes =
            json["end"]["sum_received"]["bytes"].as_f64().or_else(|| json["end"]["sum"]["bytes"].as_f64());
        assert!(bytes.is_some_and(|bytes| bytes > 100_000.0), "{port}: {text}");
    }
    assert_eq!(running.stop(Signal::SIGTERM)["conserved"], true);
}

#[test]
fn hping3_sees_open_and_closed_ports() {
    let running = Running::start("", "");
    let _server = serve(&running, &["iperf3", "-s", "-p", "7001"], 7001);
    for (port, flags) in [("7001", "flags=SA"), ("7002", "flags=RA")] {
        let text = left(&running, &["hping3", "-S", "-c", "3", "-i", "u1000", "-p", port, "10.88.2.2"]);
        assert_eq!(text.matches(flags).count(), 3, "{text}");
    }
    running.stop(Signal::SIGTERM);
}

/// The router survives everything that scapy sends, and accounts for it.
#[test]
fn scapy_does_not_break_it() {
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"mtu 600 fragment mss 500 delay 1ms 1ms corrupt 5% duplicate 5%\"\n";
    let running = Running::start("", faults);
    let script = r#"
from scapy.all import IP, TCP, UDP, ICMP, IPv6, Raw, fragment, conf
import os, random, socket
random.seed(1)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
s6 = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
def v4(data):
    # By the device itself: the kernel would mend a raw socket's header.
    s6.sendto(bytes(data), ("fw-left", 0x0800))
def v6(data):
    s6.sendto(bytes(data), ("fw-left", 0x86dd))
base = lambda **k: IP(src="10.88.1.2", dst="10.88.2.2", **k)
for data in [
    bytes(base(ihl=3, proto=6, len=40, chksum=0)) + b"x" * 20,
    bytes(base(ihl=15)/TCP())[:41],
    bytes(base(len=2000)/UDP()/b"abc"),
    bytes(base(len=10)/UDP()/b"abc"),
    bytes(base(ttl=0)/UDP()/b"abc"),
    bytes(base(ttl=1)/UDP()/b"abc"),
    bytes(base()/TCP(dataofs=15)),
    bytes(base()/TCP(flags="S", options=[("MSS", 1460)]))[:-3] + b"\x02\xff\x00",
    bytes(base()/UDP(len=3)/b"abc"),
    bytes(base(frag=8191, flags="MF")/b"z"),
    b"\x45", b"\x60", b"\x00" * 40,
]:
    v4(data)
for part in fragment(base()/UDP(sport=1, dport=2)/(b"y" * 3000), fragsize=1000):
    v4(part)
for offset in (0, 1, 1, 2, 60, 8000):
    v4(base(frag=offset, flags="MF", id=7)/Raw(b"o" * 64))
v6(bytes(IPv6(src="fd88:1::2", dst="fd88:2::2", plen=4000)/UDP()/b"abc"))
v6(bytes(IPv6(src="fd88:1::2", dst="fd88:2::2", nh=0)) + b"\x00" * 8 * 30)
v6(bytes(IPv6(src="fd88:1::2", dst="fd88:2::2", nh=44)) + b"\x06\x00\x00\x01")
for _ in range(3000):
    data = bytearray(bytes(base()/TCP(options=[("MSS", 1460), ("Timestamp", (1, 2))])/(b"q" * random.randrange(900))))
    for _ in range(random.randrange(8)):
        data[random.randrange(min(len(data), 60))] = random.randrange(256)
    v4(data[:random.randrange(1, len(data) + 1)])
"#;
    let output = Running::inside(&running.left, &["python3", "-c", script]).output().unwrap();
    let output = if said(&output).contains("No module named 'scapy'") {
        // Debian's scapy belongs to Debian's python.
        Running::inside(&running.left, &["/usr/bin/python3", "-c", script]).output().unwrap()
    } else {
        output
    };
    assert!(output.status.success(), "scapy (testbed/run installs it): {}", said(&output));
    let text = left(&running, &["ping", "-c", "20", "-i", "0.01", "10.88.2.2"]);
    assert!(text.contains("bytes from 10.88.2.2"), "{text}");
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    assert!(summary["dropped"]["malformed"]["packets"].as_u64().unwrap() > 100, "{summary:#}");
}

/// The receiver's kernel detects the damage and TCP repairs it; the application gets the original data.
#[test]
fn damage_is_damage_to_the_receiving_kernel() {
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.stage]]\ntype = \"corrupt\"\nprobability = \"3%\"\n";
    let running = Running::start("", faults);
    let _server = serve(&running, &["iperf3", "-s"], 5201);
    left(&running, &["iperf3", "-J", "-c", "10.88.2.2", "-n", "3M"]);
    let text = Running::inside(&running.right, &["cat", "/proc/net/snmp"]).output().unwrap();
    let text = said(&text);
    let tcp: Vec<&str> = text.lines().filter(|line| line.starts_with("Tcp:")).collect();
    let column = tcp[0].split_whitespace().position(|name| name == "InCsumErrors").unwrap();
    let errors: u64 = tcp[1].split_whitespace().nth(column).unwrap().parse().unwrap();
    let summary = running.stop(Signal::SIGTERM);
    let damaged = summary["paths"][0]["stages"][0]["rewritten"]["packets"].as_u64().unwrap();
    assert!(errors > 0 && errors <= damaged, "{errors} seen of {damaged} damaged");
}

/// A command that no test needs, but without which `testbed/run` has not done its work.
#[test]
fn the_tools_are_there() {
    for tool in ["ip", "ping", "curl", "nginx", "iperf3", "hping3", "tcpdump", "tshark"] {
        let found =
            crate::system::common::tool("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        assert!(found.status.success(), "{tool} is missing: testbed/run installs it");
    }
}
