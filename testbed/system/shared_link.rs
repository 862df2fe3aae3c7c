//! Several paths through one bottleneck.

use nix::sys::signal::Signal;

use crate::system::common::{Running, Scratch, unique};

/// Datagrams of 1,000 bytes of IP that each of two senders offers, far more than the trunk takes.
const OFFERED: u32 = 500;
/// The number of packets that the trunk's queue can hold.
const QUEUE: u64 = 20;

/// Sends datagrams to port 9 of the host with this address.
fn flood(netns: &str, to: u8) {
    let code = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for i in range({OFFERED}):\n    s.sendto(b'x' * 972, ('10.77.{to}.2', 9))\n"
    );
    let output = Running::inside(netns, &["python3", "-c", &code]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two hosts that send at once are served by one queue: what passes is what one link passes, and the queue drops of both.
fn share(queue: &str, workers: &str) {
    let names: [String; 4] = std::array::from_fn(|_| unique());
    let link = |from: usize, to: usize| {
        format!(
            "[[link]]\nbetween = {:?}\nshare = \"trunk\"\nup = \"{queue}\"\ndown = \"{queue}\"\n",
            [&names[from], &names[to]]
        )
    };
    let text = format!(
        "seed = 1\n{workers}nodes = {names:?}\n[icmp]\nunreachable = false\n{}{}",
        link(0, 2),
        link(1, 3)
    );
    let running = Running::of(Scratch::file(&text), [names[0].clone(), names[1].clone()]);
    std::thread::scope(|threads| {
        let senders =
            [(&names[0], 3), (&names[1], 4)].map(|(from, to)| threads.spawn(move || flood(from, to)));
        for sender in senders {
            sender.join().unwrap();
        }
    });
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    let stage = |from: &String, to: &String| {
        let mut paths = summary["paths"].as_array().unwrap().iter();
        let path = paths.find(|path| path["from"] == **from && path["to"] == **to).unwrap();
        path["stages"][0].clone()
    };
    let stages = [stage(&names[0], &names[2]), stage(&names[1], &names[3])];
    let count = |key: fn(&serde_json::Value) -> &serde_json::Value| -> u64 {
        stages.iter().map(|stage| key(stage).as_u64().unwrap_or(0)).sum()
    };
    let seen = count(|stage| &stage["seen"]["packets"]);
    assert_eq!(seen, u64::from(OFFERED) * 2, "{summary:#}");
    // 8 kbit/s is a packet a second: the trunk takes its queue and what it sent while the floods lasted, a second or two. Two links
    // would have taken two queues.
    let waited = count(|stage| &stage["delayed"]["packets"]);
    let dropped = count(|stage| &stage["dropped"]["queue_full"]["packets"]);
    assert_eq!(waited + dropped, seen, "{summary:#}");
    assert!((QUEUE..2 * QUEUE).contains(&waited), "{summary:#}");
}

#[test]
fn paths_share_a_trunk_on_several_workers() {
    share("rate 8kbit limit 20", "workers = 2\n");
}

#[test]
fn paths_share_a_queue_with_a_discipline() {
    share("rate 8kbit queue 20 codel target 1s interval 100s", "");
}
