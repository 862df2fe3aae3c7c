//! Veth ports: a router as with TUN devices, also for what stays in the kernel.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use faultwire::net::Netns;

use crate::system::attach::{exchange, field};
use crate::system::common::{
    Foreign, Running, Scratch, config, faultwire, ip, output, said, send as send_signal, unique, until,
};
use crate::system::numbered;

const LEFT: [&str; 2] = ["10.88.1.2", "fd88:1::2"];
const RIGHT: [&str; 2] = ["10.88.2.2", "fd88:2::2"];

/// `run` between two namespaces by devices of this kind.
fn start(kind: &str, top: &str, paths: &str) -> Running {
    let name = unique();
    let (left, right) = (format!("{name}l"), format!("{name}r"));
    let text = config(&left, &right, top, paths)
        .replace("create = true", &format!("create = true\nkind = \"{kind}\""));
    Running::of(Scratch::file(&text), [left, right])
}

fn bind(netns: &str, address: &str, port: u16) -> UdpSocket {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let socket = Netns::named(netns).unwrap().run(|| UdpSocket::bind(address).unwrap()).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket
}

/// A sender on the left and a receiver on the right, connected.
fn pair(running: &Running, family: usize) -> (UdpSocket, UdpSocket) {
    let from = bind(&running.left, LEFT[family], 4_000);
    let to = bind(&running.right, RIGHT[family], 5_000);
    to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    from.connect(to.local_addr().unwrap()).unwrap();
    (from, to)
}

/// Waits until faultwire has read all sent packets: the first packet of a new flow goes through it after all others.
fn wait_for_faultwire(running: &Running, family: usize) {
    let from = bind(&running.left, LEFT[family], 0);
    let to = bind(&running.right, RIGHT[family], 0);
    to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    from.send_to(&[0; 4], to.local_addr().unwrap()).unwrap();
    to.recv(&mut [0; 4]).expect("faultwire lets other flows pass");
}

/// Sends numbered datagrams in trains of `train`; which arrived, in their order, and the summary.
fn send(
    kind: &str,
    cache: bool,
    (family, train): (usize, u32),
    faults: &str,
) -> (Vec<u32>, serde_json::Value) {
    const COUNT: u32 = 6_000;
    let paths = format!("[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"udp port 5000: {faults}\"\n");
    let running = start(kind, &format!("seed = 11\nworkers = 1\nflow_cache = {cache}"), &paths);
    let (from, to) = pair(&running, family);
    let wait = || wait_for_faultwire(&running, family);
    numbered::send(&from, COUNT, train, wait);
    wait();
    (numbered::arrived(&to), running.stop(Signal::SIGTERM))
}

/// The same seed and the same traffic: the same packets are lost, in the kernel, beside it and through TUN devices.
#[test]
fn verdicts_are_the_same_on_every_device() {
    for (family, train, faults) in [(0, 1, "loss 1%"), (1, 20, "loss 0.5%"), (0, 20, "duplicate 0.5%")] {
        let (cached, summary) = send("veth", true, (family, train), faults);
        assert!(field(&summary, "/passed_in_kernel/packets") > 0, "{summary:#}");
        assert!(cached.len() > 5_000 && cached.len() != 6_000, "{faults} hit {}", cached.len());
        for kind in ["veth", "tun"] {
            let (detoured, other) = send(kind, false, (family, train), faults);
            assert_eq!(field(&other, "/passed_in_kernel/packets"), 0);
            assert_eq!(cached, detoured, "{kind}, {faults}, trains of {train}");
            for path in ["/paths/0/stages/0/acted", "/paths/0/stages/0/dropped", "/paths/0/stages/0/created"]
            {
                assert_eq!(summary.pointer(path), other.pointer(path), "{path}");
            }
            assert!(other["conserved"].as_bool().unwrap(), "{other:#}");
        }
        assert!(summary["conserved"].as_bool().unwrap(), "{summary:#}");
    }
}

/// TTL or hop limit of the next datagram.
fn hops(to: &UdpSocket) -> i32 {
    let (mut bytes, mut space) = ([0; 200], nix::cmsg_space!(i32));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(to.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    match message.cmsgs().unwrap().next() {
        Some(ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops)) => hops,
        other => panic!("{other:?}"),
    }
}

/// One hop less whoever forwards, in packets that the receiver finds valid; and an error to who sends what ends here.
#[test]
fn every_packet_has_one_hop_less() {
    let running = start("veth", "", "");
    for family in 0..2 {
        let (from, to) = pair(&running, family);
        if family == 0 {
            setsockopt(&to, sockopt::Ipv4RecvTtl, &true).unwrap();
            setsockopt(&from, sockopt::Ipv4RecvErr, &true).unwrap();
        } else {
            setsockopt(&to, sockopt::Ipv6RecvHopLimit, &true).unwrap();
            setsockopt(&from, sockopt::Ipv6RecvErr, &true).unwrap();
        }
        let set_hops = |hops: i32| match family {
            0 => setsockopt(&from, sockopt::Ipv4Ttl, &hops).unwrap(),
            _ => setsockopt(&from, sockopt::Ipv6Ttl, &hops).unwrap(),
        };
        for number in 0..600 {
            let sent = 2 + number % 254;
            set_hops(sent);
            from.send(&[7; 100]).unwrap();
            assert_eq!(hops(&to), sent - 1, "packet {number}");
            // The kernel carries a flow of which faultwire has read all packets, however late it read them.
            if number % 100 == 99 {
                wait_for_faultwire(&running, family);
            }
        }
        set_hops(1);
        from.send(&[7; 100]).unwrap();
        wait_for_faultwire(&running, family);
        assert_eq!(error(&from), Some(Errno::EHOSTUNREACH));
        // The flow continues after it.
        set_hops(64);
        from.send(&[8; 100]).unwrap();
        assert_eq!(hops(&to), 63);
    }
    let summary = running.stop(Signal::SIGTERM);
    assert!(field(&summary, "/passed_in_kernel/packets") > 0, "{summary:#}");
    assert_eq!(field(&summary, "/dropped/ttl_expired/packets"), 2, "{summary:#}");
    assert!(summary["conserved"].as_bool().unwrap());
}

/// After the signal to end, nothing new passes between the hosts while what is held leaves, not even in the kernel.
#[test]
fn a_router_that_ends_takes_no_more_packets() {
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"udp port 6000: delay 100s\"\n";
    let name = unique();
    let (left, right) = (format!("{name}l"), format!("{name}r"));
    let text = config(&left, &right, "", paths).replace("create = true", "create = true\nkind = \"veth\"");
    let running = Running::with(Scratch::file(&text), [left, right], &["--drain", "100s"]);
    let (from, to) = pair(&running, 0);
    let held = bind(&running.left, LEFT[0], 4_001);
    held.send_to(&[1], (RIGHT[0], 6_000)).unwrap();
    for _ in 0..200 {
        from.send(&[7; 100]).unwrap();
        to.recv(&mut [0; 200]).unwrap();
    }
    send_signal(&running.child, Signal::SIGTERM);
    to.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    until("no packet passes any more", || {
        from.send(&[7; 100]).unwrap();
        to.recv(&mut [0; 200]).is_err()
    });
    let summary = running.stop(Signal::SIGTERM);
    assert!(field(&summary, "/passed_in_kernel/packets") > 0, "{summary:#}");
    assert!(summary["conserved"].as_bool().unwrap());
}

/// What the kernel has been told about what the socket sent.
fn error(socket: &UdpSocket) -> Option<Errno> {
    socket.take_error().unwrap().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

/// A flow whose small packets pass in the kernel: the one that does not fit the next link is not one of them.
#[test]
fn what_is_too_big_for_the_next_link_is_told_to_its_sender() {
    let name = unique();
    let (left, right) = (format!("{name}l"), format!("{name}r"));
    let text = config(&left, &right, "", "").replace("create = true", "create = true\nkind = \"veth\"");
    let text = text.replace("name = \"right\"\n", "name = \"right\"\nmtu = 1400\n");
    let running = Running::of(Scratch::file(&text), [left, right]);
    for family in 0..2 {
        let (from, to) = pair(&running, family);
        if family == 0 {
            setsockopt(&from, sockopt::Ipv4RecvErr, &true).unwrap();
        } else {
            setsockopt(&from, sockopt::Ipv6RecvErr, &true).unwrap();
        }
        let headers = [28, 48][family];
        let mut bytes = [0; 2_000];
        for number in 0..300 {
            let length = if number % 50 == 49 { 1_400 - headers } else { 100 };
            from.send(&[7; 1_400][..length]).unwrap();
            assert_eq!(to.recv(&mut bytes).unwrap(), length, "packet {number}");
        }
        from.send(&[7; 1_401][..1_401 - headers]).unwrap();
        wait_for_faultwire(&running, family);
        assert_eq!(error(&from), Some(Errno::EMSGSIZE));
        from.send(&[8; 100]).unwrap();
        assert_eq!(to.recv(&mut bytes).unwrap(), 100);
    }
    let summary = running.stop(Signal::SIGTERM);
    assert!(field(&summary, "/passed_in_kernel/packets") > 0, "{summary:#}");
    assert_eq!(field(&summary, "/dropped/port_mtu/packets"), 2, "{summary:#}");
}

/// Trains of TCP, both families, through a port of either kind and between the kinds.
#[test]
fn streams_arrive_whole_between_ports_of_any_kind() {
    for (left, right) in [("veth", "veth"), ("veth", "tun"), ("tun", "veth")] {
        let name = unique();
        let netns = [format!("{name}l"), format!("{name}r")];
        let path = |from: &str, to: &str| {
            format!("[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\nspec = \"loss 0.1%\"\n")
        };
        let paths = path("left", "right") + &path("right", "left");
        let text = config(&netns[0], &netns[1], "seed = 3", &paths);
        let text = text.replacen("create = true", &format!("create = true\nkind = \"{left}\""), 1);
        let at = text.rfind("create = true").unwrap();
        let text = format!("{}kind = \"{right}\"\n{}", &text[..at], &text[at..]);
        let running = Running::of(Scratch::file(&text), netns);
        for address in RIGHT {
            let mut connection = connect(&running, address);
            exchange(&mut connection, 10_000_000);
        }
        let summary = running.stop(Signal::SIGTERM);
        assert!(summary["conserved"].as_bool().unwrap(), "{summary:#}");
        let passed = field(&summary, "/passed_in_kernel/bytes");
        assert_eq!(passed > 10_000_000, left == right, "{left} to {right}: {summary:#}");
        for stage in ["/paths/0/stages/0", "/paths/1/stages/0"] {
            assert!(field(&summary, &format!("{stage}/dropped/loss/packets")) > 0, "{summary:#}");
        }
    }
}

/// A connection from the left to an address on the right: both ends.
fn connect(running: &Running, to: &str) -> [TcpStream; 2] {
    let address = SocketAddr::new(to.parse().unwrap(), 0);
    let inside = |name: &str| Netns::named(name).unwrap();
    let listener = inside(&running.right).run(|| TcpListener::bind(address).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let client = inside(&running.left).run(|| TcpStream::connect(address).unwrap()).unwrap();
    [client, listener.accept().unwrap().0]
}

/// `exec` on either device: what the command sees, and that nothing is left.
#[test]
fn a_command_has_the_same_link_on_either_device() {
    let script = "ping -q -c 3 -i 0.01 $FAULTWIRE_HOST && ping -q -c 3 -i 0.01 $FAULTWIRE_HOST6 && \
                  ping -c 1 -t 1 $FAULTWIRE_HOST; ip -d link show fw0; ls /sys/class/net";
    for (options, detail) in [
        (&["--device", "tun"][..], "tun type tun"),
        (&["--device", "veth"], " veth "),
        // As root, on a recent kernel.
        (&[], " veth "),
    ] {
        let command = [&["exec", "--both", "delay 5ms"], options, &["--", "sh", "-c", script]].concat();
        let child = faultwire().args(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let device = format!("/sys/class/net/fw{}", child.id());
        let done = child.wait_with_output().unwrap();
        let text = said(&done);
        assert!(done.status.success(), "{text}");
        assert_eq!(text.matches(" 0% packet loss").count(), 2, "{text}");
        assert!(text.contains("Time to live exceeded"), "{text}");
        assert!(text.contains(detail), "{options:?}: {text}");
        assert!(!std::path::Path::new(&device).exists(), "{device} is left");
    }
}

#[test]
fn wrong_kinds_and_several_workers_are_refused_where_they_stand() {
    for (top, kind, words) in [
        ("", "tap", "port[0].kind: \"tap\""),
        ("workers = 2", "veth", "workers: a router with a veth port has one worker"),
    ] {
        let text =
            config("l", "r", top, "").replace("create = true", &format!("create = true\nkind = \"{kind}\""));
        let file = Scratch::file(&text);
        let output = output(&["check", file.path()]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

/// A name that is taken is refused, and the device of that name stays.
#[test]
fn a_device_that_exists_is_not_taken_over() {
    let foreign = Foreign::new();
    ip(&["-n", &foreign.0, "link", "add", "fw-x", "type", "veth", "peer", "name", "other"]);
    let text = format!(
        "[[port]]\nname = \"x\"\nkind = \"veth\"\nnetns = \"{}\"\naddresses = [\"10.88.9.2/24\"]\n",
        foreign.0
    );
    let file = Scratch::file(&text);
    let output = output(&["run", file.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let expected = "port x: the device fw-x exists already";
    assert!(said(&output).contains(expected), "{}", said(&output));
    assert!(ip(&["-n", &foreign.0, "link", "show", "fw-x"]).contains("@other"));
}
