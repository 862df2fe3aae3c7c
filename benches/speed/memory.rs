//! What holding packets costs, and whether memory grows.

use std::time::Duration;

use faultwire::lab::clock::Deadline;
use faultwire::pipeline::packet::Packet;
use faultwire::pipeline::router::schedule::Schedule;

use crate::subject::{Hosts, router};
use crate::traffic::{self, Congestion};

/// Packets that are held at one time.
const HELD: u64 = 60_000;

/// Bytes beside its own that a held packet of each size costs: growth of resident memory while many wait. Each size has
/// a process of its own, for an allocator keeps what was freed.
pub(crate) fn per_held_packet() -> Vec<(u64, f64)> {
    eprintln!("a place in the schedule takes {} bytes", Schedule::<Packet>::overhead());
    let measure = |size: u64| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--held", &size.to_string()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (size, text.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
    };
    [100, 576, 1500].map(measure).to_vec()
}

/// The same for one size, in this process.
pub(crate) fn held(size: u64) -> f64 {
    let hosts = Hosts::new();
    let network = router("delay 60s", true, &hosts);
    let socket = hosts.left.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.connect("10.66.2.2:9").unwrap();
    let payload = vec![0x5a; size as usize - 28];
    let fill = |target: u64| {
        let deadline = Deadline::after(Duration::from_mins(1));
        while network.summary().unwrap().total.held.packets < target {
            assert!(deadline.left().is_some(), "packets do not arrive");
            for _ in 0..100 {
                let _ = socket.send(&payload);
            }
        }
        (network.summary().unwrap().total.held, resident())
    };
    // The first ones pay for what is there once: stacks, tables, the scratch buffer.
    let (before, start) = fill(HELD / 10);
    let (after, end) = fill(HELD);
    network.stop().unwrap();
    let packets = (after.packets - before.packets) as f64;
    ((end - start) as f64 * 1024.0 - (after.bytes - before.bytes) as f64) / packets
}

/// Resident memory in KiB a minute after the start and at the end of mixed traffic.
pub(crate) fn soak(span: Duration) -> (u64, u64) {
    let hosts = Hosts::new();
    let network = router("delay 5ms 2ms loss 0.1% duplicate 0.1% reorder 1%", true, &hosts);
    let minute = Duration::from_mins(1).min(span / 2);
    let deadline = Deadline::after(span);
    let warm = Deadline::after(minute);
    let mut start = None;
    while deadline.left().is_some() {
        traffic::tcp(&hosts, Congestion::Cubic, Duration::from_secs(2));
        traffic::udp(&hosts, Duration::from_secs(1));
        if warm.left().is_none() {
            start.get_or_insert_with(resident);
        }
    }
    let end = resident();
    assert!(network.stop().unwrap().total.is_conserved());
    (start.unwrap_or(end), end)
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
