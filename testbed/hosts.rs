//! The library's interface for integration tests, used as other projects use it. Needs root (or `unshare -Urnm`), and
//! fails without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use faultwire::counters::Reason;
use faultwire::faults::Faults;
use faultwire::hosts::{Lab, LabError};
use faultwire::stage::{Fate, WirePacket};

const SECONDS: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::start(&["left", "right"], 1).unwrap()
}

/// A socket of `left` and one of `right`, each sending to the other.
fn sockets(lab: &Lab, v6: bool) -> [UdpSocket; 2] {
    let address = |name: &str| -> IpAddr {
        let host = lab.host(name);
        if v6 { host.address_v6() } else { host.address() }
    };
    let bind = |name: &str| {
        let socket = lab.host(name).run(|| UdpSocket::bind((address(name), 4000)).unwrap()).unwrap();
        socket.set_read_timeout(Some(SECONDS)).unwrap();
        socket
    };
    let [left, right] = [bind("left"), bind("right")];
    left.connect((address("right"), 4000)).unwrap();
    right.connect((address("left"), 4000)).unwrap();
    [left, right]
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn hosts_reach_each_other_over_both_families() {
    let lab = lab();
    for v6 in [false, true] {
        let [left, right] = sockets(&lab, v6);
        left.send(b"there").unwrap();
        assert_eq!(receive(&right), b"there");
        right.send(b"back").unwrap();
        assert_eq!(receive(&left), b"back");
    }
}

/// Every second packet is dropped, one direction only; a stage of the test's own, counted by name.
#[test]
fn faults_are_of_one_direction_and_counted() {
    let mut lab = lab();
    let odd = |packet: &mut WirePacket<'_>| if packet.index() % 2 == 1 { Fate::Drop } else { Fate::Pass };
    lab.set_faults("left", "right", &Faults::new().custom("odd", move || odd)).unwrap();
    let [left, right] = sockets(&lab, false);
    for number in 0..10_u8 {
        left.send(&[number]).unwrap();
        right.send(&[number]).unwrap();
    }
    let there: Vec<u8> = (0..5).map(|_| receive(&right)[0]).collect();
    let back: Vec<u8> = (0..10).map(|_| receive(&left)[0]).collect();
    assert_eq!((there, back), (vec![0, 2, 4, 6, 8], (0..10).collect()));
    let stages = lab.stages("left", "right").unwrap();
    let [(name, counters)] = stages.as_slice() else { panic!("{stages:?}") };
    assert_eq!((name.as_str(), counters.drops.of(Reason::Drop).packets), ("odd", 5));
    assert!(lab.stages("right", "left").unwrap().is_empty());
}

/// A connection that was open before goes on, and what was held leaves.
#[test]
fn faults_change_under_an_open_connection() {
    let mut lab = lab();
    let address = SocketAddr::new(lab.host("right").address(), 80);
    let listener = lab.host("right").run(|| TcpListener::bind(address).unwrap()).unwrap();
    let mut client = lab.host("left").run(|| TcpStream::connect(address).unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.set_read_timeout(Some(SECONDS)).unwrap();
    server.set_read_timeout(Some(SECONDS)).unwrap();
    let mut buffer = [0; 3];
    // Far longer than any test: whatever arrives was let go.
    lab.set_faults("left", "right", &"delay 1h".parse().unwrap()).unwrap();
    client.write_all(b"one").unwrap();
    let is_held = || lab.stages("left", "right").unwrap()[0].1.delayed.packets > 0;
    while !is_held() {
        std::thread::yield_now();
    }
    lab.set_faults("left", "right", &Faults::new()).unwrap();
    server.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"one");
    server.write_all(b"two").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"two");
}

/// Whether a descriptor of this process, a worker's say, holds the device of this name.
fn holds(device: &str) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = descriptors.filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok());
    infos.into_iter().any(|info| info.lines().any(|line| line == format!("iff:\t{device}")))
}

fn inode_of_netns(lab: &Lab, host: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    lab.host(host).run(|| std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()).unwrap()
}

/// Of all descriptors of this process, none holds the namespace any more.
fn is_held(inode: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    descriptors.filter_map(|fd| std::fs::metadata(fd.ok()?.path()).ok()).any(|meta| meta.ino() == inode)
}

/// UDP, which nobody sends again: what the old faults hold leaves, and what comes meanwhile waits for the new ones.
#[test]
fn no_packet_is_lost_when_faults_change() {
    const COUNT: u8 = 100;
    let mut lab = lab();
    let [left, right] = sockets(&lab, false);
    let holds = Faults::new().delay(Duration::from_hours(1));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for number in 0..COUNT {
                left.send(&[number]).unwrap();
            }
        });
        loop {
            let done = sender.is_finished();
            lab.set_faults("left", "right", &holds).unwrap();
            if done {
                break;
            }
        }
    });
    lab.set_faults("left", "right", &Faults::new()).unwrap();
    let mut numbers: Vec<u8> = (0..COUNT).map(|_| receive(&right)[0]).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let mut inode = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // Names of its own: other tests run in this process.
        let lab = Lab::start(&["panics", "watches"], 1).unwrap();
        inode = inode_of_netns(&lab, "panics");
        assert!(is_held(inode) && holds("fw-panics"));
        lab.host("panics").run(|| panic!("of the test")).unwrap();
    }));
    assert!(outcome.is_err());
    assert!(!is_held(inode) && !holds("fw-panics") && !holds("fw-watches"));
}

#[test]
fn a_wrong_name_names_the_right_ones() {
    let lab = lab();
    let panic = catch_unwind(AssertUnwindSafe(|| lab.host("middle").name().len())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert_eq!(text, "no host is called \"middle\"; there are left, right");
}

/// As a user without rights would see it: in a thread that has given its own up.
#[test]
fn without_privilege_the_reason_and_the_cure_are_told() {
    let error = std::thread::spawn(|| {
        // Capabilities are a thread's own; the other tests keep theirs.
        let none = [0_u32; 6];
        let header = [0x2008_0522_u32, 0];
        // SAFETY: capset reads a header of 8 bytes and, of version 3, 24 bytes of sets; both arrays live through the call.
        #[expect(unsafe_code, reason = "nix has no capset")]
        let result = unsafe { nix::libc::syscall(nix::libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0);
        Lab::start(&["left"], 1).unwrap_err()
    })
    .join()
    .unwrap();
    assert!(matches!(error, LabError::Privilege(_)), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    assert!(error.to_string().contains("unshare -Urnm cargo test"), "{error}");
}
