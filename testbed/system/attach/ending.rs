//! However an attachment ends, traffic continues.

use super::*;

#[test]
fn what_waits_is_let_go_in_order_at_the_end() {
    let hosts = Hosts::new();
    let receiver = netns(&hosts.peer).run(|| UdpSocket::bind((PEER[0], 0)).unwrap()).unwrap();
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    let attached = hosts.attach(&["--up", "delay 60s", "--down", "delay 60s"]);
    // The neighbours are known, so that only these datagrams wait.
    let to = receiver.local_addr().unwrap();
    for number in 0..100_u8 {
        sender.send_to(&[number], to).unwrap();
    }
    let summary = attached.stop(Signal::SIGTERM);
    assert_eq!(field(&summary, "/held/packets"), 0);
    assert!(summary["dropped"].get("shutdown").is_none(), "{summary:#}");
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for number in 0..100_u8 {
        let mut buffer = [0; 8];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], number);
    }
}

/// What is on its way through faultwire when the hooks of the device go comes back past them, and counts as returned too.
#[test]
fn what_comes_while_it_ends_returns_too() {
    let hosts = Hosts::new();
    let receiver = netns(&hosts.peer).run(|| UdpSocket::bind((PEER[0], 0)).unwrap()).unwrap();
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (is_over, came) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Few at a time, so that no queue overflows: each datagram arrives.
        scope.spawn(|| {
            let mut buffer = [0; 8];
            for _ in 0..50 {
                sender.send(b"x").unwrap();
            }
            while !is_over.load(Ordering::Relaxed) {
                receiver.recv(&mut buffer).unwrap();
                came.fetch_add(1, Ordering::Relaxed);
                sender.send(b"x").unwrap();
            }
        });
        let _stop = Stop(&is_over);
        let ends: Vec<[u64; 2]> = (0..5)
            .map(|_| {
                let attached = hosts.attach(&["--up", "delay 1ms", "--no-flow-cache"]);
                let before = came.load(Ordering::Relaxed);
                until("datagrams pass", || came.load(Ordering::Relaxed) > before + 200);
                let summary = attached.stop(Signal::SIGTERM);
                ["detoured", "returned"].map(|name| field(&summary, &format!("/hooks/up/{name}")))
            })
            .collect();
        for [detoured, returned] in ends {
            assert!(detoured > 0);
            assert_eq!(detoured, returned);
        }
    });
}

#[test]
fn attachments_stack_and_go_one_by_one() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[0]);
    for stream in &connection {
        stream.set_nodelay(true).unwrap();
    }
    let ms = Duration::from_millis;
    let first = hosts.attach(&["--both", "delay 10ms"]);
    let second = hosts.attach(&["--both", "delay 20ms"]);
    let third = hosts.attach(&["--up", "delay 40ms"]);
    assert!(round_trip(&mut connection) >= ms(100));
    exchange(&mut connection, 500_000);
    second.kill();
    assert!(round_trip(&mut connection) >= ms(60));
    exchange(&mut connection, 500_000);
    let summary = first.stop(Signal::SIGINT);
    assert_eq!(field(&summary, "/hooks/up/detoured"), field(&summary, "/hooks/up/returned"));
    assert!(round_trip(&mut connection) >= ms(40));
    drop(third);
    exchange(&mut connection, 500_000);
}

#[test]
fn the_end_of_the_target_is_said_and_no_failure() {
    let hosts = Hosts::new();
    let mut sleeper = tool("ip").args(["netns", "exec", &hosts.target.0, "sleep", "1000"]).spawn().unwrap();
    // `ip` becomes the command, in the namespace: until then the process is in ours.
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    while namespace(sleeper.id()) == namespace(std::process::id()) {
        std::thread::yield_now();
    }
    let pid = sleeper.id().to_string();
    let mut attached = Attached::start(&["--pid", &pid, "--dev", "eth0", "--both", "delay 1ms"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    attached.wait_for(&format!("process {pid} has ended"));
    assert_eq!(attached.summary(0)["ended_by"], "target");
}

/// A device that is moved keeps the programs, which would lose all of its traffic there.
#[test]
fn a_device_that_is_removed_or_moved_ends_the_attachment() {
    let hosts = Hosts::new();
    let (target, other) = (hosts.target.0.as_str(), Foreign::new());
    let mut connection = hosts.connect(PEER[0]);
    let mut attached = hosts.attach(&["--both", "delay 20ms"]);
    ip(&["-n", target, "link", "set", "eth0", "name", "renamed"]);
    assert!(round_trip(&mut connection) >= Duration::from_millis(40), "it goes by the number of the device");
    ip(&["-n", target, "link", "set", "renamed", "netns", &other.0]);
    assert_eq!(attached.summary(1)["ended_by"], "device");
    assert_eq!(hosts.left_behind(), [""; 0]);
    ip(&["-n", &other.0, "link", "set", "renamed", "name", "eth0"]);
    let at = ["--netns", &other.0, "--dev", "eth0", "--both", "delay 1ms"];
    let mut attached = Attached::start(&at);
    ip(&["-n", &other.0, "link", "del", "eth0"]);
    assert_eq!(attached.summary(1)["ended_by"], "device");
}

/// Kills of the test below, and how many of them come before it has attached.
const KILLS: usize = 200;
const EARLY: usize = 40;

/// Whenever faultwire is killed, traffic flows again, and nothing remains.
#[test]
fn two_hundred_kills_under_load_lose_no_connection() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[0]);
    for stream in &connection {
        stream.set_nodelay(true).unwrap();
    }
    let load = hosts.connect(PEER[1]);
    let stop = AtomicBool::new(false);
    let mut attached_rounds = 0;
    std::thread::scope(|scope| {
        let ([from, to], stop) = (&load, &stop);
        scope.spawn(move || {
            let (mut from, data) = (from, vec![0; 65_536]);
            while !stop.load(Ordering::Relaxed) {
                from.write_all(&data).unwrap();
            }
            from.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            let mut to = to;
            std::io::copy(&mut to, &mut std::io::sink()).unwrap();
        });
        // A round that fails must end the load too.
        let _stop = Stop(stop);
        let words = ["attach", "--netns", &hosts.target.0, "--dev", "eth0", "--both", "delay 1ms loss 0.1%"];
        let mut random = 12_345_u64;
        for round in 0..KILLS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = random >> 33;
            let mut child =
                faultwire().args(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            let mut held = Vec::new();
            if round % (KILLS / EARLY) == 0 {
                // At a random moment of the start, which is what this test varies.
                clock::pause(Duration::from_micros(number % 50_000));
            } else {
                let mut heard = String::new();
                while !heard.contains("attached to") {
                    assert!(stderr.read_line(&mut heard).unwrap() > 0, "round {round}: {heard}");
                }
                for _ in 0..number % 8 {
                    round_trip(&mut connection);
                }
                held = links_of(child.id());
                // Two at the device, and one at each TAP.
                assert_eq!(held.len(), 4, "round {round}");
                assert!(is_link(held[0]), "round {round}: {held:?}");
                attached_rounds += 1;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let took = round_trip(&mut connection);
            assert!(took < Duration::from_secs(1), "round {round}: {took:?}");
            // Once the process has been waited for, all of its descriptors are closed.
            assert!(!held.iter().any(|link| is_link(*link)), "round {round}: {held:?}");
            until("the devices of a killed attachment are gone", || hosts.left_behind().is_empty());
        }
    });
    assert_eq!(attached_rounds, KILLS - EARLY);
    exchange(&mut connection, 1_000_000);
}

/// Ends the load when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
