//! The flow cache of attachments: packets that stay in the kernel are treated, counted and ordered as those that go
//! through faultwire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};

use faultwire::net::Netns;

use crate::system::attach::{Attached, Hosts, PEER, exchange, field, netns};
use crate::system::common::{Folder, output, said, unique};
use crate::system::numbered;

const TARGET: [&str; 2] = ["10.87.0.1", "fd87::1"];

fn bind(netns: &Netns, address: &str, port: u16) -> UdpSocket {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let socket = netns.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    // No datagram may be lost in a full queue.
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket
}

/// Waits until faultwire has read all sent packets: the first packet of a new flow goes through it after all others.
fn wait_for_faultwire(hosts: &Hosts, family: usize) {
    let from = bind(&netns(&hosts.target), TARGET[family], 0);
    let to = bind(&netns(&hosts.peer), PEER[family], 0);
    to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    from.send_to(&[0; 4], to.local_addr().unwrap()).unwrap();
    to.recv(&mut [0; 4]).expect("faultwire lets other flows pass");
}

/// Waits until the worker has begun another turn of its loop, in which it opens flows.
fn wait_for_turn(control: &[&str]) {
    // It answers in one turn, and opens flows at the beginning of the next one. The second question comes from another process, when
    // the first turn is long over.
    for _ in 0..2 {
        let shown = output(&[&["ctl", "show"], control].concat());
        assert!(shown.status.success(), "{}", said(&shown));
    }
}

/// Sends so many numbered datagrams from a fixed port, in trains of `train`, while faultwire runs with these options: what
/// arrived, in its order, and the summary.
fn send(
    hosts: &Hosts,
    family: usize,
    count: u32,
    train: u32,
    options: &[&str],
) -> (Vec<u32>, serde_json::Value) {
    let from = bind(&netns(&hosts.target), TARGET[family], 4_000);
    let to = bind(&netns(&hosts.peer), PEER[family], 5_000);
    from.connect(to.local_addr().unwrap()).unwrap();
    let attached = hosts.attach(&[options, &["--match", "udp port 5000"]].concat());
    // Packets of one burst wait for the first one that is detoured.
    numbered::send(&from, count, train, || wait_for_faultwire(hosts, family));
    let summary = attached.stop(Signal::SIGTERM);
    (numbered::arrived(&to), summary)
}

/// The same seed and the same traffic: the same packets are lost, and none overtakes another.
#[test]
fn verdicts_are_the_same_with_the_cache_and_without() {
    let hosts = Hosts::new();
    for (family, train, faults) in
        [(0, 1, "loss 1%"), (1, 20, "loss 0.5%"), (0, 20, "loss gemodel 0.2% 40%"), (1, 1, "duplicate 0.5%")]
    {
        let options = ["--up", faults, "--seed", "11"];
        let count = 6_000;
        let (cached, with) = send(&hosts, family, count, train, &options);
        let (detoured, without) =
            send(&hosts, family, count, train, &[&options[..], &["--no-flow-cache"]].concat());
        assert_eq!(field(&without, "/hooks/up/passed"), 0);
        assert_eq!(field(&without, "/passed_in_kernel/packets"), 0);
        assert!(field(&with, "/hooks/up/passed") > 0, "{faults}: {with:#}");
        assert_eq!(cached, detoured, "{faults}, trains of {train}");
        assert_ne!(cached, (0..count).collect::<Vec<_>>(), "{faults} hit somebody");
        for path in ["/paths/0/stages/0/acted", "/paths/0/stages/0/dropped", "/paths/0/stages/0/created"] {
            assert_eq!(with.pointer(path), without.pointer(path), "{path}");
        }
        assert_eq!(field(&with, "/paths/0/stages/0/acted/packets"), u64::from(count));
        for summary in [&with, &without] {
            assert!(summary["conserved"].as_bool().unwrap(), "{summary:#}");
        }
    }
}

/// How often the worker has gone to sleep: once for each wake-up.
fn sleeps(attached: &Attached) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", attached.id())).unwrap().flatten();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("worker"))
    };
    let worker = tasks.into_iter().find(named).expect("there is a worker");
    let status = std::fs::read_to_string(worker.path().join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn what_does_not_match_never_wakes_faultwire_after_its_first_packets() {
    let hosts = Hosts::new();
    for to in PEER {
        let attached = hosts.attach(&["--both", "loss 100%", "--match", "tcp port 9"]);
        let mut connection = hosts.connect(to);
        exchange(&mut connection, 300_000);
        let before = sleeps(&attached);
        exchange(&mut connection, 20_000_000);
        let woken = sleeps(&attached) - before;
        drop(connection);
        let summary = attached.stop(Signal::SIGTERM);
        // The kernel looks for neighbours from time to time.
        assert!(woken <= 10, "woken {woken} times: {summary:#}");
        // Both directions of the second exchange; of the first one, what came before the flow was opened went the long way.
        assert!(field(&summary, "/passed_in_kernel/bytes") > 40_000_000, "{summary:#}");
        assert!(summary["conserved"].as_bool().unwrap());
    }
}

/// More new flows than the cache and the core have room for.
#[test]
fn a_flood_of_new_flows_harms_nobody() {
    let hosts = Hosts::new();
    let attached = hosts.attach(&["--up", "loss 0.01%", "--seed", "2"]);
    let mut connection = hosts.connect(PEER[0]);
    exchange(&mut connection, 1_000_000);
    let target = netns(&hosts.target);
    for source in 4_000..4_002 {
        let socket = bind(&target, TARGET[0], source);
        for port in 1..=60_000 {
            // The peer answers with "port unreachable", and the next send returns this error instead of sending.
            let _ = socket.send_to(&[0; 10], SocketAddr::new(PEER[0].parse().unwrap(), port));
        }
    }
    exchange(&mut connection, 10_000_000);
    let summary = attached.stop(Signal::SIGTERM);
    assert!(field(&summary, "/hooks/up/detoured") > 100_000, "{summary:#}");
    assert!(field(&summary, "/passed_in_kernel/bytes") > 15_000_000, "{summary:#}");
    assert!(summary["conserved"].as_bool().unwrap(), "{summary:#}");
    exchange(&mut connection, 1_000_000);
}

#[test]
fn after_a_kill_cached_flows_go_on_and_nothing_is_left() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[1]);
    for _ in 0..3 {
        let attached = hosts.attach(&["--both", "loss 0.05%"]);
        exchange(&mut connection, 3_000_000);
        attached.kill();
        exchange(&mut connection, 1_000_000);
        assert_eq!(hosts.left_behind(), [""; 0]);
    }
}

/// A recorder of all packets gets every packet.
#[test]
fn a_log_has_every_packet() {
    let hosts = Hosts::new();
    let folder = std::env::temp_dir().join(format!("faultwire-logs-{}", unique()));
    let options = ["--up", "loss 1%", "--seed", "11", "--log", folder.to_str().unwrap()];
    let (_, summary) = send(&hosts, 0, 2_000, 1, &options);
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(field(&summary, "/hooks/up/passed"), 0);
    // In addition there are the hundred datagrams of the wait, and neighbour discovery.
    let detoured = field(&summary, "/hooks/up/detoured");
    assert!((2_100..2_110).contains(&detoured), "{detoured}");
}

/// Sends TCP segments of 100 bytes from a port of the target, as they are; each with its number among 100 bytes of data each.
fn send_segments(hosts: &Hosts, numbers: impl Iterator<Item = u32>) {
    let socket = netns(&hosts.target).run(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Inet, SockType::Raw, flags, Some(SockProtocol::Raw)).unwrap()
    });
    let socket = socket.unwrap();
    let [from, to] = [TARGET[0], PEER[0]].map(|address| address.parse::<Ipv4Addr>().unwrap());
    for number in numbers {
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
        // They begin before the sequence numbers wrap around.
        let segment = builder.tcp(4_000, 5_000, number.wrapping_mul(100).wrapping_sub(5_000), 1_000).ack(1);
        let mut packet = Vec::new();
        segment.write(&mut packet, &[0; 100]).unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(to, 5_000));
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    }
}

/// Of packets to which nothing happens the journal is told nothing, and yet each drop says which transmission of its data it is.
#[test]
fn a_journal_of_drops_knows_what_the_kernel_let_pass() {
    let (hosts, folder) = (Hosts::new(), Folder::new());
    let (journal, config) = (folder.file("journal"), folder.file("config"));
    let drop = r#"
        [[up]]
        type = "drop"
        match = { protocol = "tcp" }
        trigger = { nth = [150, 151] }
    "#;
    std::fs::write(&config, drop).unwrap();
    let control = ["--control", &folder.file("control")];
    let attached = hosts.attach(&[&["--config", &config, "--journal", &journal], &control[..]].concat());
    // The neighbour is known before the first segment.
    wait_for_faultwire(&hosts, 0);
    send_segments(&hosts, 0..3);
    wait_for_faultwire(&hosts, 0);
    wait_for_turn(&control);
    // These stay in the kernel. Then the 51st segment is sent again, followed by new data.
    send_segments(&hosts, 3..149);
    send_segments(&hosts, [50, 149].into_iter());
    wait_for_faultwire(&hosts, 0);
    let summary = attached.stop(Signal::SIGTERM);
    assert!(field(&summary, "/hooks/up/passed") > 140, "{summary:#}");
    let printed = output(&["journal", &journal, "--json"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    let told = text.lines().map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        ["/index", "/tcp/seq", "/tcp/transmission"].map(|name| {
            record.pointer(name).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{line}"))
        })
    });
    assert_eq!(told.collect::<Vec<_>>(), [[149, 5_000, 2], [150, 14_900, 1]], "{text}");
}
