//! `faultwire run`: what it creates and counts, and that nothing remains.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::system::common::{
    Foreign, Running, Scratch, Terminal, config, faultwire, ip, output, said, unique,
};

fn ping(running: &Running, to: &str, count: u32) -> String {
    let count = count.to_string();
    let output = Running::inside(&running.left, &["ping", "-q", "-i", "0.002", "-W", "1", "-c", &count, to])
        .output()
        .expect("ping is installed (testbed/run does that)");
    said(&output)
}

fn exists(netns: &str) -> bool {
    Path::new("/run/netns").join(netns).exists()
}

#[test]
fn both_families_pass_and_the_summary_is_conserved() {
    let running = Running::start("", "");
    for to in ["10.88.2.2", "fd88:2::2"] {
        let text = ping(&running, to, 20);
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
    let device = ip(&["-n", &running.left, "link", "show", "fw-left"]);
    assert!(device.contains("mtu 1500") && device.contains("qlen 1000"), "{device}");
    let (left, right) = (running.left.clone(), running.right.clone());
    let summary = running.stop(Signal::SIGINT);
    assert_eq!(summary["conserved"], true);
    // faultwire read as many packets as the kernel sent into the devices.
    let sent: u64 = summary["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["device"]["tx_packets"].as_u64().unwrap())
        .sum();
    assert_eq!(summary["received"]["packets"], sent);
    assert!(!exists(&left) && !exists(&right), "namespaces are left");
}

#[test]
fn loss_of_pings_is_binomial() {
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 30%\"\n";
    let running = Running::start("seed = 5", faults);
    let text = ping(&running, "10.88.2.2", 1000);
    let received: u64 =
        text.split(" received").next().and_then(|text| text.rsplit(' ').next()?.parse().ok()).expect(&text);
    let (low, high) = faultwire::lab::check::binomial_interval(1000, 0.7);
    assert!((low..=high).contains(&received), "{text}");
    running.stop(Signal::SIGTERM);
}

#[test]
fn a_hop_that_is_one_too_few_is_told_by_the_router() {
    let running = Running::start("", "");
    let output = Running::inside(&running.left, &["ping", "-c", "1", "-W", "1", "-t", "1", "10.88.2.2"])
        .output()
        .unwrap();
    let text = said(&output);
    assert!(text.contains("From 10.88.1.1") && text.contains("Time to live exceeded"), "{text}");
    let text = ping(&running, "10.88.1.1", 1);
    assert!(text.contains(" 0% packet loss"), "the router answers: {text}");
    running.stop(Signal::SIGTERM);
}

/// What remains after a SIGKILL is removed by the next start of faultwire; what others created stays.
#[test]
fn nothing_is_left_behind_even_by_sigkill() {
    let foreign = Foreign::new();
    let mut killed = Running::start("", "");
    let (left, right) = (killed.left.clone(), killed.right.clone());
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let next = Running::start("", "");
    assert!(!exists(&left) && !exists(&right), "namespaces of the killed one are left");
    assert!(exists(&foreign.0), "a namespace of somebody else is gone");
    next.stop(Signal::SIGTERM);
}

#[test]
fn a_failed_start_leaves_nothing_and_says_why() {
    let (made, missing) = (unique(), unique());
    let text = config(&made, &missing, "", "").replacen(
        &format!("netns = \"{missing}\"\ncreate = true"),
        &format!("netns = \"{missing}\""),
        1,
    );
    let file = Scratch::file(&text);
    let output = output(&["run", file.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&missing), "{}", said(&output));
    assert!(!exists(&made), "the first namespace is left");
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let file = Scratch::file(
        "[[port]]\nname = \"a\"\naddresses = [\"10.1.1.2\"]\nmtuu = 1500\n[[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{ type = \"los\" }]\n",
    );
    for command in ["check", "run"] {
        let output = output(&[command, file.path()]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for line in [":3:", ":4:", ":7:", ":8:"] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}

/// On a terminal one line is written over again and again: rates since the last one, and what was dropped by order or not.
#[test]
fn a_terminal_sees_one_line_while_packets_pass() {
    let (left, right) = (unique(), unique());
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [{ type = \"drop\", match = { protocol = \"udp\" } }]\n";
    let file = Scratch::file(&config(&left, &right, "seed = 3\nworkers = 1", faults));
    drop(faultwire());
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&[env!("CARGO_BIN_EXE_faultwire"), "run", file.path()]);
    terminal.wait_for("Ctrl-C ends it\r\n");
    let inside = faultwire::net::Netns::named(&left).unwrap();
    let sender = inside.run(|| std::net::UdpSocket::bind("10.88.1.2:0").unwrap()).unwrap();
    for _ in 0..7 {
        sender.send_to(b"x", "10.88.2.2:9").unwrap();
    }
    let said = terminal.wait_for("dropped 7 as ordered, ");
    // Each begins where the one before it began, after a second; none has an end of its own.
    assert!(said.starts_with("\r\x1b[K   1s  ") && said.contains(" packets/s  "), "{said:?}");
    assert!(!said.contains('\n'), "{said:?}");
    terminal.ctrl_c();
    let rest = terminal.rest();
    assert!(rest.contains("\r\x1b[Kwire packets and bytes"), "the line is gone before the table: {rest:?}");
    assert!(rest.contains("dropped: drop (as ordered)"), "{rest:?}");
    assert!(child.wait().unwrap().success());
}

/// The same seed and the same traffic lose the same packets, on one worker and on two.
#[test]
fn verdicts_do_not_depend_on_the_number_of_workers() {
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 20% 25%\"\n";
    let lost = |workers: u32| {
        let running = Running::start(&format!("seed = 11\nworkers = {workers}"), faults);
        let seen: Vec<Vec<u32>> = (0..6).map(|flow| numbered(&running, 40_000 + flow)).collect();
        running.stop(Signal::SIGTERM);
        seen
    };
    let (one, two) = (lost(1), lost(2));
    assert!(one.iter().all(|flow| flow.len() > 100 && flow.len() < 200), "{one:?}");
    assert_eq!(one, two);
}

/// Sends 200 numbered datagrams from their own port; returns the numbers that arrive.
pub(crate) fn numbered(running: &Running, port: u16) -> Vec<u32> {
    let netns = |name: &str| faultwire::net::Netns::named(name).unwrap();
    let (left, right) = (netns(&running.left), netns(&running.right));
    let receiver = right.run(|| std::net::UdpSocket::bind(("10.88.2.2", port)).unwrap()).unwrap();
    let sender = left.run(|| std::net::UdpSocket::bind(("10.88.1.2", port)).unwrap()).unwrap();
    let mut seen = Vec::new();
    let send = |number: u32| sender.send_to(&number.to_be_bytes(), ("10.88.2.2", port)).unwrap();
    // So few at once that no queue of a device overflows. The order is kept: when a later one has come, or one of those that
    // mark the end, all before it have come or were lost. How long that takes is not asked.
    receiver.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let (mut next, mut buffer) = (0, [0; 64]);
    while next < NUMBERED {
        send(next);
        next += 1;
    }
    loop {
        let Ok(length) = receiver.recv(&mut buffer) else {
            send(next);
            next += 1;
            continue;
        };
        let number = u32::from_be_bytes(buffer[..length].try_into().unwrap());
        if number >= NUMBERED {
            return seen;
        }
        seen.push(number);
    }
}

/// How many datagrams [`numbered`] sends before those that mark the end.
pub(crate) const NUMBERED: u32 = 200;
