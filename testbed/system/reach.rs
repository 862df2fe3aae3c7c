//! `exec --reach`: a way out through this host. "This host" and what is outside of it are namespaces here.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use faultwire::net::Netns;

use crate::system::common::{Folder, ip, said, tool, unique};

const BINARY: &str = env!("CARGO_BIN_EXE_faultwire");
/// Addresses of the host and of a neighbour in its network, and of a server behind that one.
const HOST: [&str; 2] = ["10.99.7.1", "fd99:7::1"];
const NEIGHBOUR: [&str; 2] = ["10.99.7.2", "fd99:7::2"];
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];

/// A host and its network.
struct World {
    host: String,
    outside: String,
}

impl World {
    /// Without a route to anywhere.
    fn alone() -> Self {
        let world = Self { host: unique(), outside: unique() };
        for netns in [&world.host, &world.outside] {
            ip(&["netns", "add", netns]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
        }
        world
    }

    /// With a network, but without a router in it.
    fn in_a_network() -> Self {
        let world = Self::alone();
        let [host, outside] = [&world.host, &world.outside];
        let pair = ["type", "veth", "peer", "name", "eth0", "netns", outside];
        ip(&[&["-n", host, "link", "add", "eth0"][..], &pair].concat());
        for (netns, addresses) in [(host, HOST), (outside, NEIGHBOUR)] {
            ip(&["-n", netns, "addr", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
            ip(&["-n", netns, "addr", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"]);
            // An address that the kernel generates appears only after a second.
            ip(&["-n", netns, "link", "set", "eth0", "addrgenmode", "none"]);
            ip(&["-n", netns, "link", "set", "eth0", "up"]);
        }
        world
    }

    /// With all outside hosts behind its neighbour.
    fn new() -> Self {
        let world = Self::in_a_network();
        for (address, gateway) in FAR.iter().zip(NEIGHBOUR) {
            ip(&["-n", &world.outside, "addr", "add", address, "dev", "lo"]);
            ip(&["-n", &world.host, "route", "add", "default", "via", gateway]);
        }
        world
    }

    fn outside(&self) -> Netns {
        Netns::named(&self.outside).unwrap()
    }

    /// A script behind a link of this host.
    fn exec(&self, options: &[&str], script: &str) -> Output {
        let mut command = self.on_host(&["env", "FAULTWIRE_TEST=1", BINARY, "exec"]);
        command.args(options).args(["--", "bash", "-c", script]).output().unwrap()
    }

    fn on_host(&self, command: &[&str]) -> Command {
        let mut ip = tool("ip");
        ip.args(["netns", "exec", &self.host]).args(command);
        ip
    }

    /// Addresses, routes, rules and settings of the host.
    fn state(&self) -> BTreeMap<String, String> {
        let host = &self.host;
        let mut all = BTreeMap::new();
        for question in [
            &["-o", "link"][..],
            &["-o", "address"],
            &["route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["rule"],
            &["-6", "rule"],
        ] {
            all.insert(question.join(" "), ip(&[&["-n", host], question].concat()));
        }
        let settings =
            self.on_host(&["grep", "-rsH", ".", "/proc/sys/net/ipv4", "/proc/sys/net/ipv6"]).output();
        for line in String::from_utf8_lossy(&settings.unwrap().stdout).lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            // Only lines with a counter.
            if !name.contains("route/flush") && !name.contains("stat_refresh") {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for netns in [&self.host, &self.outside] {
            let _ = tool("ip").args(["netns", "del", netns]).status();
        }
    }
}

/// How long a server waits for data that must arrive.
fn patience() -> TimeVal {
    TimeVal::seconds(60)
}

/// Takes one connection, reads all of it, and answers with its length and its peer.
fn serve_once(netns: &Netns, address: &str) -> (u16, JoinHandle<IpAddr>) {
    let address: IpAddr = address.parse().unwrap();
    let listener = netns.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        setsockopt(&stream, sockopt::ReceiveTimeout, &patience()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        writeln!(stream, "{} bytes", all.len()).unwrap();
        peer.ip()
    });
    (port, server)
}

/// Sends every datagram back, `count` of them.
fn echo(netns: &Netns, address: &str, count: usize) -> (u16, JoinHandle<BTreeMap<SocketAddr, usize>>) {
    let address: IpAddr = address.parse().unwrap();
    let socket = netns.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    let port = socket.local_addr().unwrap().port();
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut buffer, mut peers) = ([0; 2048], BTreeMap::new());
        for _ in 0..count {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], peer).unwrap();
            *peers.entry(peer).or_insert(0) += 1;
        }
        peers
    });
    (port, server)
}

/// A client in Python: a million bytes by TCP, and datagrams by two sockets.
const CLIENT: &str = r#"
import socket, sys, time
address, tcp, udp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
start = time.monotonic()
stream = socket.create_connection((address, tcp))
took = time.monotonic() - start
stream.sendall(b"x" * 1000000); stream.shutdown(socket.SHUT_WR)
print(stream.makefile().read().strip(), "connected after", took)
sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
for round in range(3):
    for number, each in enumerate(sockets):
        each.sendto(b"%d %d" % (number, round), (address, udp))
        answer, peer = each.recvfrom(100)
        assert answer == b"%d %d" % (number, round) and peer[:2] == (address, udp), (answer, peer)
print("all datagrams came back")
"#;

#[test]
fn the_command_reaches_by_the_host_s_addresses_what_the_host_reaches() {
    let world = World::new();
    let before = world.state();
    let outside = world.outside();
    for (place, host) in FAR.iter().zip(HOST) {
        let (tcp, server) = serve_once(&outside, place);
        let (udp, echo) = echo(&outside, place, 6);
        // The state of the host during the run.
        let script = format!(
            "python3 -c '{CLIENT}' {place} {tcp} {udp} && ping -q -c 3 -i 0.05 -W 5 {place} && \
             ip -n {} -o link | grep -c . && ip -n {} rule | grep -c .",
            world.host, world.host
        );
        let done = world.exec(&["--reach", "internet", "--both", "delay 15ms"], &script);
        let text = said(&done);
        assert!(done.status.success(), "{place}: {text}");
        assert!(text.contains("1000000 bytes") && text.contains("all datagrams came back"), "{text}");
        let took: f64 =
            text.split("connected after ").nth(1).unwrap().split('\n').next().unwrap().parse().unwrap();
        assert!(took >= 0.030, "the faults are on the way: {text}");
        assert!(text.contains("3 received"), "{text}");
        // lo and eth0; the three rules that every namespace has.
        assert!(text.trim_end().contains("\n2\n3"), "the host has something more: {text}");
        let host: IpAddr = host.parse().unwrap();
        assert_eq!(server.join().unwrap(), host);
        let peers = echo.join().unwrap();
        assert_eq!(peers.len(), 2, "a socket of the command is one of the host: {peers:?}");
        assert!(peers.iter().all(|(peer, count)| peer.ip() == host && *count == 3), "{peers:?}");
    }
    assert_eq!(world.state(), before);
}

#[test]
fn the_host_s_networks_are_not_the_internet() {
    let world = World::new();
    let script = format!(
        "ping -q -c 1 -W 5 {} && ping -q -c 1 -W 5 {} && ! ping -c 1 -W 5 {} && ! ping -c 1 -W 5 {}",
        NEIGHBOUR[0], NEIGHBOUR[1], FAR[0], FAR[1]
    );
    let done = world.exec(&["--reach", "host-networks"], &script);
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("Unreachable"), "the router says so: {}", said(&done));
}

/// The server is reached at its loopback address, so it need not listen on other addresses.
#[test]
fn the_host_is_reached_too_with_faults_or_without() {
    let world = World::new();
    let host = Netns::named(&world.host).unwrap();
    for (traffic, faulty) in [("all", [true, true]), ("outside", [false, true])] {
        let (port, server) = serve_once(&host, "127.0.0.1");
        let script = format!(
            "exec 3<>/dev/tcp/$FAULTWIRE_HOST/{port}; ping -q -c 2 -i 0.05 $FAULTWIRE_HOST; ping -q -c 2 -i 0.05 {}",
            FAR[0]
        );
        let options = ["--reach", "internet", "--faults-on", traffic, "--both", "delay 40ms"];
        let done = world.exec(&options, &script);
        let text = said(&done);
        let least: Vec<f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("rtt min/avg/max/mdev = ")?.split('/').next()?.parse().ok())
            .collect();
        assert_eq!(least.iter().map(|least| *least >= 80.0).collect::<Vec<_>>(), faulty, "{text}");
        assert_eq!(server.join().unwrap(), IpAddr::from([127, 0, 0, 1]));
    }
    let contradiction =
        ["--reach", "internet", "--faults-on", "outside", "--both", "host 198.18.0.2: loss 5%"];
    let done = world.exec(&contradiction, "true");
    assert_eq!(done.status.code(), Some(125));
    assert!(said(&done).contains("acts on no traffic with other hosts"), "{}", said(&done));
}

#[test]
fn a_host_without_a_way_out_has_none_to_give() {
    let world = World::in_a_network();
    let before = world.state();
    let done = world.exec(&["--reach", "internet"], "echo started");
    assert_eq!(done.status.code(), Some(125));
    let text = said(&done);
    assert!(text.contains("no default route; add one (`ip route add default via GATEWAY`)"), "{text}");
    assert!(text.lines().count() <= 4 && !text.contains("started"), "{text}");
    assert_eq!(world.state(), before);
    let alone = World::alone().exec(&["--reach", "host-networks"], "true");
    assert_eq!(alone.status.code(), Some(125));
    assert!(said(&alone).contains("this host is in no network"), "{}", said(&alone));
}

/// A connection to a closed port ends at once, and a FIN of the command reaches the server.
#[test]
fn what_ends_at_one_end_ends_at_the_other() {
    let world = World::new();
    let closed = world.outside().run(|| TcpListener::bind((FAR[0], 0)).unwrap().local_addr().unwrap().port());
    let script =
        format!("exec 3<>/dev/tcp/{}/{}; read -t 20 -u 3 line; echo $? $line", FAR[0], closed.unwrap());
    let refused = world.exec(&["--reach", "internet"], &script);
    assert!(said(&refused).contains("reset by peer"), "{}", said(&refused));
    // The last data of a command that has ended; it is delayed and partly lost.
    for place in FAR {
        let (port, server) = serve_once(&world.outside(), place);
        let faults = ["--linger", "60s", "--seed", "3", "--both", "delay 30ms loss 20%"];
        let script = format!("echo last words > /dev/tcp/{place}/{port}");
        let done = world.exec(&[&["--reach", "internet"], &faults[..]].concat(), &script);
        assert!(done.status.success(), "{}", said(&done));
        server.join().unwrap();
        let (port, echo) = echo(&world.outside(), place, 1);
        let done = world.exec(
            &["--reach", "internet", "--both", "delay 30ms"],
            &format!("echo x > /dev/udp/{place}/{port}"),
        );
        assert!(done.status.success(), "{}", said(&done));
        assert_eq!(echo.join().unwrap().len(), 1);
    }
}

/// What the command wrote before it ended arrives, also if the server reads it later.
#[test]
fn what_was_sent_before_the_end_arrives_after_it() {
    const LENGTH: usize = 20_000;
    let world = World::new();
    let listener = world.outside().run(|| TcpListener::bind((FAR[0], 0)).unwrap()).unwrap();
    // Almost all data waits in the host's socket.
    setsockopt(&listener, sockopt::RcvBuf, &4_096).unwrap();
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("head -c {LENGTH} /dev/zero > /dev/tcp/{}/{port}", FAR[0]);
    let done = world.exec(&["--reach", "internet"], &script);
    assert!(done.status.success(), "{}", said(&done));
    let (mut stream, _) = listener.accept().unwrap();
    setsockopt(&stream, sockopt::ReceiveTimeout, &patience()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), LENGTH);
}

/// More pairs of addresses than files are allowed: the newest pairs work.
#[test]
fn files_do_not_run_out() {
    const FLOWS: usize = 300;
    let world = World::new();
    let (port, echo) = echo(&world.outside(), FAR[0], FLOWS);
    let client = "import resource, socket, sys\n\
                  print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n\
                  for number in range(int(sys.argv[3])):\n    \
                  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:\n        \
                  each.settimeout(60); each.sendto(b'x', (sys.argv[1], int(sys.argv[2]))); each.recv(9)\n";
    let script = format!(
        "ulimit -Sn 256; ulimit -Hn 400; exec {BINARY} exec --reach internet -- python3 -c \"$CLIENT\" {} {port} {FLOWS}",
        FAR[0]
    );
    let inside = ["netns", "exec", &world.host, "bash", "-c", &script];
    let done = tool("ip").args(inside).env("CLIENT", client).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert!(
        said(&done).starts_with("256 400\n"),
        "the command has the limit that there was: {}",
        said(&done)
    );
    assert_eq!(echo.join().unwrap().values().sum::<usize>(), FLOWS);
}

/// The way out of a nested command has the restrictions that were requested.
#[test]
fn a_link_inside_a_wide_one_may_be_narrow() {
    let world = World::new();
    let script = format!(
        "{BINARY} exec --reach host-networks -- bash -c 'ping -q -c 1 -W 5 $FAULTWIRE_HOST && ! ping -c 1 -W 5 {}'",
        FAR[0]
    );
    let done = world.exec(&["--reach", "internet"], &script);
    assert!(done.status.success() && said(&done).contains("Unreachable"), "{}", said(&done));
}

/// A nameserver on a loopback address, as systemd-resolved is, and a client that looks a name up by the C library.
const RESOLVER: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.53", 53)); print("up", flush=True)
while True:
    q, peer = s.recvfrom(512)
    end = q.index(b"\0", 12) + 5
    a = q[end-4:end-2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes([203, 0, 113, 9]) if a else b""
    s.sendto(q[:2] + b"\x81\x80\0\1" + (b"\0\1" if a else b"\0\0") + b"\0\0\0\0" + q[12:end] + answer, peer)
"#;

#[test]
fn names_are_looked_up_by_the_host_s_own_nameserver() {
    let world = World::new();
    let folder = Folder::new();
    let conf = folder.file("resolv.conf");
    std::fs::write(&conf, "search example.org\nnameserver 127.0.0.53\n").unwrap();
    let before = std::fs::read_to_string("/etc/resolv.conf").ok();
    let look = "import socket; print(socket.gethostbyname(\"far.example.com\"))";
    let script = format!(
        "mount --bind {conf} /etc/resolv.conf && coproc python3 -c '{RESOLVER}' && read -u ${{COPROC[0]}} && \
         {BINARY} exec --reach internet --both 'delay 5ms' -- sh -c 'cat /etc/resolv.conf; python3 -c \"$LOOK\"'; \
         kill $COPROC_PID; cat /etc/resolv.conf"
    );
    let done = tool("unshare")
        .args(["-m", "ip", "netns", "exec", &world.host, "bash", "-c", &script])
        .env("LOOK", look)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let inside = "nameserver 198.18.0.2\nsearch example.org\n203.0.113.9\n";
    assert_eq!(text, format!("{inside}search example.org\nnameserver 127.0.0.53\n"), "{}", said(&done));
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").ok(), before);
    assert!(!Path::new("/proc/resolv.conf").exists());
}

#[test]
fn an_ordinary_user_has_the_way_out_too() {
    let world = World::new();
    let folder = Folder::new();
    let binary = folder.file("faultwire");
    std::fs::copy(BINARY, &binary).unwrap();
    let open = tool("chmod").args(["a+rx", folder.path.to_str().unwrap(), &binary]).output().unwrap();
    assert!(open.status.success(), "{}", said(&open));
    let (tcp, server) = serve_once(&world.outside(), FAR[0]);
    let (udp, echo) = echo(&world.outside(), FAR[0], 6);
    let node = folder.file("tun");
    let script = format!(
        "mknod {node} c 10 200 && chmod 666 {node} && mount --bind {node} /dev/net/tun && \
         echo '0 65534' > /proc/sys/net/ipv4/ping_group_range && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all {binary} exec --reach internet --both 'delay 5ms' -- \
         sh -c \"python3 -c '$CLIENT' {place} {tcp} {udp} && ping -q -c 2 -i 0.3 {place} && ping -q -c 2 -i 0.3 {far6}\"",
        place = FAR[0],
        far6 = FAR[1],
    );
    let inside = ["-m", "ip", "netns", "exec", &world.host, "bash", "-c", &script];
    let done = tool("unshare").args(inside).env("CLIENT", CLIENT).output().unwrap();
    let text = said(&done);
    assert!(done.status.success(), "{text}");
    assert!(text.contains("1000000 bytes") && text.contains("all datagrams came back"), "{text}");
    assert_eq!(text.matches("2 received").count(), 2, "{text}");
    assert_eq!(server.join().unwrap(), HOST[0].parse::<IpAddr>().unwrap());
    assert_eq!(echo.join().unwrap().len(), 2);
}
