//! More than two ports: routes, namespaces given by path, several at once.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::system::common::{Foreign, Running, Scratch, ip, said, unique};

/// Three hosts around the router: one namespace made by it, one given by name, one given by path.
struct Star {
    running: Running,
    names: [String; 3],
    _foreign: [Foreign; 2],
}

impl Star {
    fn start(extra: &str) -> Self {
        let foreign = [Foreign::new(), Foreign::new()];
        let names = [unique(), foreign[0].0.clone(), foreign[1].0.clone()];
        let [made, by_name, by_path] = &names;
        let text = format!(
            "[[port]]\nname = \"a\"\nnetns = \"{made}\"\ncreate = true\naddresses = [\"10.89.1.2/24\", \"fd89:1::2/64\"]\n\
             routes = [\"default\"]\n\
             [[port]]\nname = \"b\"\nnetns = \"{by_name}\"\naddresses = [\"10.89.2.2/24\", \"fd89:2::2/64\"]\n\
             router = [\"10.89.2.254\", \"fd89:2::fe\"]\nroutes = [\"default\"]\n\
             [[port]]\nname = \"c\"\nnetns = \"/run/netns/{by_path}\"\naddresses = [\"10.89.3.2/24\", \"fd89:3::2/64\"]\n\
             mtu = 1400\ntxqueuelen = 77\nroutes = [\"10.89.0.0/16\", \"fd89::/16\"]\n{extra}"
        );
        let running = Running::of(Scratch::file(&text), [names[0].clone(), names[1].clone()]);
        Self { running, names, _foreign: foreign }
    }

    fn ping(&self, from: usize, to: &str) -> String {
        let command = ["ping", "-q", "-c", "3", "-i", "0.01", "-W", "1", to];
        let output = Running::inside(&self.names[from], &command).stdin(Stdio::null()).output().unwrap();
        said(&output)
    }
}

#[test]
fn each_of_three_hosts_reaches_the_others_in_both_families() {
    let star = Star::start("");
    let addresses = [["10.89.1.2", "fd89:1::2"], ["10.89.2.2", "fd89:2::2"], ["10.89.3.2", "fd89:3::2"]];
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from).flat_map(|to| addresses[to]) {
            let text = star.ping(from, to);
            assert!(text.contains(" 0% packet loss"), "{from} to {to}: {text}");
        }
    }
    let device = ip(&["-n", &star.names[2], "link", "show", "fw-c"]);
    assert!(device.contains("mtu 1400") && device.contains("qlen 77"), "{device}");
    assert!(
        star.ping(1, "10.89.2.254").contains(" 0% packet loss"),
        "the router has the address it was given"
    );
    assert_eq!(star.running.stop(Signal::SIGTERM)["conserved"], true);
    let devices = ip(&["-n", &star.names[2], "link"]);
    assert!(!devices.contains("fw-c"), "in the namespace that stays, the device does not: {devices}");
}

/// The longest prefix decides: of 10.77/16 most goes to b, one host to c, one net nowhere.
#[test]
fn the_longest_prefix_decides() {
    let star = Star::start(
        "[[route]]\nprefix = \"10.77.0.0/16\"\nport = \"b\"\n\
         [[route]]\nprefix = \"10.77.3.0/24\"\naction = \"unreachable\"\n\
         [[route]]\nprefix = \"10.77.3.3/32\"\nport = \"c\"\n",
    );
    for (host, address) in
        [(1, "10.77.1.1/32"), (1, "10.77.3.3/32"), (2, "10.77.3.3/32"), (2, "10.77.1.1/32")]
    {
        ip(&["-n", &star.names[host], "addr", "add", address, "dev", "lo"]);
    }
    ip(&["-n", &star.names[1], "link", "set", "lo", "up"]);
    ip(&["-n", &star.names[2], "link", "set", "lo", "up"]);
    let received = |host: usize| -> u64 {
        let device = ["fw-b", "fw-c"][host - 1];
        let path = format!("/sys/class/net/{device}/statistics/rx_packets");
        let output = Running::inside(&star.names[host], &["cat", &path]).output().unwrap();
        said(&output).trim().parse().unwrap()
    };
    for (to, gets) in [("10.77.1.1", 1), ("10.77.3.3", 2)] {
        let before = received(gets);
        let text = star.ping(0, to);
        assert!(text.contains(" 0% packet loss"), "{to}: {text}");
        assert!(received(gets) >= before + 3, "{to} did not go to host {gets}");
    }
    let text = star.ping(0, "10.77.3.9");
    assert!(text.contains("+3 errors"), "no route to the rest of the net: {text}");
    star.running.stop(Signal::SIGTERM);
}

#[test]
fn five_nodes_and_a_partition_take_six_lines() {
    let names: [String; 5] = std::array::from_fn(|_| unique());
    let text = format!(
        "nodes = {names:?}\npartition = [{:?}, {:?}]\n\n\
         [[link]]\namong = \"all\"\nboth = \"delay 1ms\"\n",
        &names[..2],
        &names[2..]
    );
    let running = Running::of(Scratch::file(&text), [names[0].clone(), names[1].clone()]);
    let reaches = |from: usize, to: usize| {
        let address = format!("fd77:{}::2", to + 1);
        let command = ["ping", "-q", "-c", "1", "-W", "1", &address];
        Running::inside(&names[from], &command).stdin(Stdio::null()).output().unwrap().status.success()
    };
    assert!(reaches(0, 1) && reaches(2, 4) && reaches(4, 3));
    assert!(!reaches(0, 2) && !reaches(4, 1));
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    let path = |from: &String, to: &String| {
        let paths = summary["paths"].as_array().unwrap().iter();
        paths.clone().find(|path| path["from"] == **from && path["to"] == **to).unwrap().clone()
    };
    let cut = path(&names[0], &names[2]);
    assert_eq!(cut["stages"][0]["name"], "partition");
    assert_eq!(cut["stages"][0]["dropped"]["drop"]["packets"], 1, "{cut}");
}
