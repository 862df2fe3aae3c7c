//! Namespaces, links and TUN devices on the real kernel. Needs root (or `unshare -Urn`) and /dev/net/tun, and fails
//! without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use faultwire::device::steer::{self, Steering};
use faultwire::device::tun::FRAME_MAX;
use faultwire::device::vnet::{Checksum, Segmentation};
use faultwire::device::{DeviceError, Granted, Offload, Queue, Tun, TunOptions, VnetHeader};
use faultwire::net::{LinkSetup, NetError, Netns, cleanup, link, privilege, sysctl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A namespace of this test alone.
fn namespace() -> Netns {
    if let Err(closed) = privilege::check() {
        panic!("these tests make namespaces and TUN devices: {closed}");
    }
    Netns::anonymous().unwrap()
}

/// Held by tests that sweep: a sweep in one test would remove what another test expects its own sweep to remove.
fn only_sweeper() -> MutexGuard<'static, ()> {
    static SWEEPS: Mutex<()> = Mutex::new(());
    SWEEPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that no other test uses.
fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("fw-{what}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn device(netns: &Netns, queues: usize, offload: Offload) -> Vec<Queue> {
    let (opened, granted) = Tun::open(&TunOptions { name: "fw0", netns, queues, offload }).unwrap();
    assert_eq!(granted, Granted { offload });
    opened
}

/// 10.9.0.1/24 and `fd09::1/64`, up.
fn setup() -> LinkSetup {
    LinkSetup {
        mtu: 1500,
        tx_queue_len: Some(1000),
        addresses: vec!["10.9.0.1/24".parse().unwrap(), "fd09::1/64".parse().unwrap()],
        routes: Vec::new(),
    }
}

/// Reads `count` frames from whatever queues they arrive on; panics if they do not within five seconds.
fn read_frames(queues: &[Queue], count: usize) -> Vec<(usize, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; FRAME_MAX];
    while frames.len() < count {
        let mut fds: Vec<_> = queues.iter().map(|q| PollFd::new(q.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut fds, PollTimeout::from(5000_u16)).unwrap();
        assert_ne!(ready, 0, "only {} of {count} frames arrived", frames.len());
        for (index, queue) in queues.iter().enumerate() {
            while let Some(frame) = read_frame(queue, &mut buffer) {
                frames.push((index, frame));
            }
        }
    }
    frames
}

fn read_frame(queue: &Queue, buffer: &mut [u8]) -> Option<Vec<u8>> {
    match queue.recv(buffer) {
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("cannot read the device: {error}"),
    }
}

fn namespace_inode() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    let netns = namespace();
    let before = namespace_inode();
    let inside = netns.run(namespace_inode).unwrap();
    assert_ne!(inside, before);
    assert_eq!(namespace_inode(), before);
    assert_eq!(netns.clone().run(namespace_inode).unwrap(), inside);
    assert_eq!(Netns::own().unwrap().run(namespace_inode).unwrap(), before);
}

#[test]
fn an_anonymous_namespace_has_only_a_loopback_that_is_up() {
    let netns = namespace();
    let addresses = link::addresses(&netns).unwrap();
    assert_eq!(addresses, ["127.0.0.1/8".parse().unwrap(), "::1/128".parse().unwrap()]);
}

#[test]
fn a_panic_inside_comes_out() {
    let netns = namespace();
    let caught = std::panic::catch_unwind(|| netns.run(|| panic!("inside")));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"inside"));
}

#[test]
fn a_named_namespace_goes_with_its_owner() {
    let inside = namespace();
    let name = unique("named");
    let owner = Netns::create_named(&name).unwrap();
    assert_eq!(Netns::named(&name).unwrap().cookie().unwrap(), owner.netns().cookie().unwrap());
    assert_ne!(inside.cookie().unwrap(), owner.netns().cookie().unwrap());
    assert!(matches!(Netns::create_named(&name), Err(NetError::Exists(_))));
    assert!(owner.path().exists(), "the refused second one took the first away");
    let path = owner.path().to_owned();
    drop(owner);
    assert!(!path.exists());
    assert!(matches!(Netns::named(&name), Err(NetError::NotFound(_))));
}

#[test]
fn a_namespace_that_replaced_ours_is_left_alone() {
    namespace();
    let name = unique("replaced");
    let owner = Netns::create_named(&name).unwrap();
    let path = owner.path().to_owned();
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let own = "/proc/thread-self/ns/net";
    nix::mount::mount(Some(own), &path, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).unwrap();
    drop(owner);
    let kept = Netns::named(&name).unwrap();
    assert_eq!(kept.cookie().unwrap(), Netns::own().unwrap().cookie().unwrap());
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_is_no_namespace_is_named_in_the_error() {
    namespace();
    let error = Netns::path("/proc/self/status").unwrap_err();
    assert!(
        matches!(&error, NetError::NotANamespace(path) if path == Path::new("/proc/self/status")),
        "{error}"
    );
}

/// Starts one of the ignored tests below as a process of its own and waits for the line it prints.
fn start(role: &str, argument: &str) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--ignored", "--nocapture", "--test-threads=1"])
        .env("FAULTWIRE_ROLE_ARGUMENT", argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("said: ")?.1.to_owned()));
    (child, said.unwrap_or_else(|| "nothing".to_owned()))
}

#[test]
#[ignore = "a role that another test starts as a process"]
fn owner_of_a_namespace() {
    let owner = Netns::create_named(&std::env::var("FAULTWIRE_ROLE_ARGUMENT").unwrap()).unwrap();
    println!("said: {}", owner.path().display());
    let _ = io::stdin().read_line(&mut String::new());
}

#[test]
fn a_sweep_removes_what_a_killed_owner_left_and_spares_the_living() {
    namespace();
    let _sweeper = only_sweeper();
    let (name, living) = (unique("killed"), Netns::create_named(&unique("living")).unwrap());
    let (mut child, path) = start("owner_of_a_namespace", &name);
    assert!(cleanup::sweep().unwrap().iter().all(|swept| *swept != name), "its owner lives");
    assert!(Path::new(&path).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Path::new(&path).exists(), "the kernel took it away: there is nothing to sweep");
    assert!(cleanup::sweep().unwrap().contains(&name));
    assert!(!Path::new(&path).exists());
    assert!(living.path().exists());
}

/// A record as an owner leaves it that died, of a namespace with this cookie.
fn record_of_the_dead(name: &str, cookie: u64) {
    let owner = Path::new("/run/faultwire").join(format!("{}-0", process::id()));
    fs::create_dir_all(&owner).unwrap();
    fs::write(owner.join(name), format!("{cookie}\n")).unwrap();
}

#[test]
fn a_sweep_spares_a_namespace_of_the_same_name_made_since() {
    namespace();
    let _sweeper = only_sweeper();
    let name = unique("same-name");
    let made_since = Netns::create_named(&name).unwrap();
    record_of_the_dead(&name, made_since.netns().cookie().unwrap() + 1_000_000);
    assert!(!cleanup::sweep().unwrap().contains(&name));
    assert!(made_since.path().exists());
}

#[test]
fn a_sweep_removes_the_empty_file_of_an_owner_killed_before_it_mounted() {
    namespace();
    let _sweeper = only_sweeper();
    drop(Netns::create_named(&unique("makes-the-directory")).unwrap());
    let name = unique("cut-short");
    let path = Path::new("/run/netns").join(&name);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o0).open(&path).unwrap();
    record_of_the_dead(&name, 1);
    assert!(cleanup::sweep().unwrap().contains(&name));
    assert!(!path.exists());
}

#[test]
fn many_namespaces_made_at_once_do_not_disturb_each_other() {
    namespace();
    let _sweeper = only_sweeper();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let owner = Netns::create_named(&unique("at-once")).unwrap();
                    cleanup::sweep().unwrap();
                    assert!(owner.path().exists());
                }
            });
        }
    });
}

#[test]
fn a_device_gets_its_addresses_routes_and_mtu() {
    let netns = namespace();
    let _queues = device(&netns, 2, Offload::Uso);
    let routes = ["0.0.0.0/0", "10.20.0.0/16", "::/0", "fd20::/32"].map(|route| route.parse().unwrap());
    link::configure(&netns, "fw0", &LinkSetup { mtu: 1400, routes: routes.to_vec(), ..setup() }).unwrap();
    let addresses = link::addresses(&netns).unwrap();
    for address in setup().addresses {
        assert!(addresses.contains(&address), "{address} is missing from {addresses:?}");
    }
    assert_eq!(addresses.len(), 4, "more than lo's and ours: {addresses:?}");
    let found = link::routes(&netns).unwrap();
    for route in routes {
        assert!(found.contains(&route), "{route} is missing from {found:?}");
    }
    assert!(found.contains(&"fd09::/64".parse().unwrap()) && found.contains(&"10.9.0.0/24".parse().unwrap()));
    let read = |key: &str| {
        let path = format!("/sys/class/net/fw0/{key}");
        netns.run(|| in_fresh_sysfs(&path)).unwrap()
    };
    assert_eq!((read("mtu").as_str(), read("tx_queue_len").as_str()), ("1400", "1000"));
}

/// /sys shows the namespace it was mounted in, so mount it anew, in a mount namespace of this thread alone.
fn in_fresh_sysfs(path: &str) -> String {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn a_route_that_exists_is_refused_not_replaced() {
    let netns = namespace();
    let _queues = device(&netns, 1, Offload::None);
    let twice = vec!["10.20.0.0/16".parse().unwrap(); 2];
    let error = link::configure(&netns, "fw0", &LinkSetup { routes: twice, ..setup() }).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("add the route 10.20.0.0/16 out of fw0") && said.contains("exists"), "{said}");
}

#[test]
fn a_device_that_exists_is_refused_and_one_that_is_closed_is_gone() {
    let netns = namespace();
    let options = TunOptions { name: "fw0", netns: &netns, queues: 3, offload: Offload::Uso };
    let first = Tun::open(&options).unwrap();
    assert!(matches!(Tun::open(&options), Err(DeviceError::Exists { .. })));
    let loopback = TunOptions { name: "lo", ..options.clone() };
    assert!(matches!(Tun::open(&loopback), Err(DeviceError::Exists { .. })));
    drop(first);
    assert!(link::stats(&netns, "fw0").is_err(), "the device outlived its queues");
    Tun::open(&options).unwrap();
}

#[test]
fn what_the_queue_cannot_hold_is_counted_as_dropped() {
    let netns = namespace();
    let queues = device(&netns, 1, Offload::Uso);
    link::configure(&netns, "fw0", &LinkSetup { tx_queue_len: Some(10), ..setup() }).unwrap();
    let socket = netns.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).unwrap();
    let before = link::stats(&netns, "fw0").unwrap();
    for _ in 0..100 {
        // The kernel may report the drop to the sender.
        let _ = socket.send_to(&[7; 100], "10.9.0.2:9");
    }
    let after = link::stats(&netns, "fw0").unwrap();
    let mut buffer = vec![0; FRAME_MAX];
    let received = std::iter::from_fn(|| read_frame(&queues[0], &mut buffer)).count() as u64;
    assert!((10..100).contains(&received), "{received}");
    let dropped = after.tx_dropped - before.tx_dropped;
    assert_eq!(received + dropped, 100 + before.tx_packets, "{received} received, {dropped} dropped");
}

#[test]
fn a_udp_train_arrives_whole_with_its_segment_size() {
    let netns = namespace();
    let queues = device(&netns, 1, Offload::Uso);
    link::configure(&netns, "fw0", &setup()).unwrap();
    for (from, to) in [("10.9.0.1:0", "10.9.0.2:9"), ("[fd09::1]:0", "[fd09::2]:9")] {
        let socket = netns.run(|| UdpSocket::bind(from).unwrap()).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1000).unwrap();
        socket.send_to(&vec![7; 20_500], to).unwrap();
        let frame = next_of(&queues, is_udp);
        let (header, packet) = VnetHeader::parse(&frame).unwrap();
        let gso = header.gso.unwrap();
        assert_eq!((gso.segmentation, gso.size), (Segmentation::Udp, 1000));
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let headers = packet.len() - 20_500;
        assert_eq!(headers, if matches!(sliced.net, Some(NetSlice::Ipv4(_))) { 28 } else { 48 });
        assert_eq!(header.checksum, Checksum::Partial { start: headers as u16 - 8, offset: 6 });
    }
}

#[test]
fn a_frame_written_reaches_a_socket() {
    let netns = namespace();
    let queues = device(&netns, 2, Offload::Uso);
    link::configure(&netns, "fw0", &setup()).unwrap();
    let socket = netns.run(|| UdpSocket::bind("10.9.0.1:7000").unwrap()).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut frame = VnetHeader::default().emit().to_vec();
    etherparse::PacketBuilder::ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .udp(9, 7000)
        .write(&mut frame, b"hello")
        .unwrap();
    assert_eq!(queues[1].send(&frame).unwrap(), frame.len());
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"hello"[..], "10.9.0.2:9".parse().unwrap()));
    assert_eq!(link::stats(&netns, "fw0").unwrap().rx_packets, 1);
}

#[test]
fn sysctls_are_those_of_the_namespace() {
    let netns = namespace();
    let key = "ipv4/ip_default_ttl";
    let outside = sysctl::read(&Netns::own().unwrap(), key).unwrap();
    sysctl::write(&netns, key, "33").unwrap();
    assert_eq!(sysctl::read(&netns, key).unwrap(), "33");
    assert_eq!(sysctl::read(&Netns::own().unwrap(), key).unwrap(), outside);
    let error = sysctl::write(&netns, "ipv4/no_such_thing", "1").unwrap_err();
    assert!(error.to_string().contains("/proc/sys/net/ipv4/no_such_thing"), "{error}");
}

/// The first frame that satisfies `wanted`; what else the kernel sends (multicast listener reports) is skipped.
fn next_of(queues: &[Queue], wanted: impl Fn(&SlicedPacket<'_>) -> bool) -> Vec<u8> {
    loop {
        for (_, frame) in read_frames(queues, 1) {
            if wanted(&SlicedPacket::from_ip(&frame[10..]).unwrap()) {
                return frame;
            }
        }
    }
}

fn is_udp(packet: &SlicedPacket<'_>) -> bool {
    matches!(packet.transport, Some(TransportSlice::Udp(_)))
}

/// Sends datagrams from many ports and of many sizes, and SYNs, by IPv4 and IPv6, some larger than the MTU.
fn send_flows(netns: &Netns) {
    netns
        .run(|| {
            for (from, to) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
                let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
                for port in 0..100 {
                    let socket = UdpSocket::bind((from, 20_000 + port)).unwrap();
                    socket.send_to(&[1; 64], (to, 9000)).unwrap();
                    socket.send_to(&vec![1; if port % 10 == 0 { 4000 } else { 1200 }], (to, 9000)).unwrap();
                }
                for port in 0..20 {
                    let deadline = std::time::Duration::from_millis(1);
                    let to = SocketAddr::new(to, 80 + port);
                    assert!(TcpStream::connect_timeout(&to, deadline).is_err());
                }
            }
        })
        .unwrap();
}

#[test]
fn every_packet_arrives_on_the_queue_of_its_hash() {
    let netns = namespace();
    for count in [1, 3, 4] {
        let queues = device(&netns, count, Offload::Uso);
        Steering::load().unwrap().attach(&queues[0]).unwrap();
        link::configure(&netns, "fw0", &setup()).unwrap();
        send_flows(&netns);
        // 400 datagrams, of which 20 in three fragments, and at least 40 SYNs.
        let frames = read_frames(&queues, 2 * (190 + 10 * 3 + 20));
        let mut used = vec![0; count];
        for (queue, frame) in &frames {
            assert_eq!(
                *queue,
                steer::queue_of(&frame[10..], count),
                "{:02x?}",
                &frame[10..frame.len().min(74)]
            );
            used[*queue] += 1;
        }
        assert!(used.iter().all(|packets| packets * count * 2 > frames.len()), "unbalanced: {used:?}");
    }
}

/// Bytes as no stack would send them, by a packet socket: wrong versions, header lengths, protocols, cut anywhere.
#[test]
fn the_program_and_the_hash_agree_on_any_bytes() {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
    let netns = namespace();
    let queues = device(&netns, 4, Offload::Uso);
    Steering::load().unwrap().attach(&queues[0]).unwrap();
    link::configure(&netns, "fw0", &setup()).unwrap();
    let (raw, address) = netns
        .run(|| {
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
            (raw, packet_address(nix::net::if_::if_nametoindex("fw0").unwrap()))
        })
        .unwrap();
    let mut draws = Draws(0x5eed);
    let mut nonzero = 0;
    for _ in 0..5000 {
        let packet = draws.packet();
        assert_eq!(
            sendto(std::os::fd::AsRawFd::as_raw_fd(&raw), &packet, &address, MsgFlags::empty()),
            Ok(packet.len())
        );
        for (queue, frame) in read_frames(&queues, 1) {
            assert_eq!(queue, steer::queue_of(&frame[10..], 4), "{packet:02x?}");
            nonzero += usize::from(steer::hash(&frame[10..]) != 0);
        }
    }
    assert!((1000..5000).contains(&nonzero), "{nonzero} packets of 5000 had a hash: the mix is off");
}

/// The address by which a packet socket sends IPv4 out of a device. A TUN device has no hardware address.
#[expect(unsafe_code, reason = "nix can read a packet address but not make one")]
fn packet_address(index: u32) -> nix::sys::socket::LinkAddr {
    use nix::libc::{AF_PACKET, ETH_P_IP, sockaddr_ll};
    use nix::sys::socket::SockaddrLike;
    let address = sockaddr_ll {
        sll_family: AF_PACKET as u16,
        sll_protocol: (ETH_P_IP as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<sockaddr_ll>() as u32;
    // SAFETY: the pointer is to a whole sockaddr_ll, and `length` is its size.
    unsafe { nix::sys::socket::LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.unwrap()
}

/// A small generator of packets that are wrong in interesting places.
struct Draws(u64);

impl Draws {
    /// `xorshift64*`.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn packet(&mut self) -> Vec<u8> {
        let length = 14 + self.next() as usize % 80;
        let mut packet: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        packet[0] = [0x45, 0x46, 0x4f, 0x44, 0x40, 0x60, 0x6a, 0x60, 0x45, self.next() as u8]
            [self.next() as usize % 10];
        let protocol = [6, 17, 132, 1, 58, 44, self.next() as u8][self.next() as usize % 7];
        if packet[0] >> 4 == 6 {
            packet[6] = protocol;
        } else {
            packet[9] = protocol;
            packet[6..8].copy_from_slice(&[[0, 0], [0x40, 0], [0x20, 0], [0, 9]][self.next() as usize % 4]);
        }
        packet
    }
}
