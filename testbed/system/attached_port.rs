//! `run` with attached devices beside ports of its own.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::system::attach::{Hosts, PEER, exchange, field, round_trip};
use crate::system::common::{Running, Scratch, config, faultwire, ip, output, said, unique};

#[test]
fn one_configuration_has_attached_devices_and_ports() {
    let hosts = Hosts::new();
    let mut connection = hosts.connect(PEER[1]);
    for stream in &connection {
        stream.set_nodelay(true).unwrap();
    }
    let [left, right] = [unique(), unique()];
    let attached = format!(
        "[[port]]\nname = \"target\"\nattach = {{ netns = \"{}\", dev = \"eth0\" }}\nup = \"delay 20ms\"\n\
         [[port]]\nname = \"peer\"\nattach = {{ netns = \"{}\", dev = \"eth0\" }}\nup = \"delay 30ms\"\n",
        hosts.target.0, hosts.peer.0
    );
    let paths = format!("{attached}[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 1ms\"\n");
    let running = Running::of(Scratch::file(&config(&left, &right, "", &paths)), [left, right]);
    assert!(round_trip(&mut connection) >= Duration::from_millis(50));
    exchange(&mut connection, 1_000_000);
    let ping = Running::inside(&running.left, &["ping", "-c", "1", "-W", "5", "10.88.2.2"]).output().unwrap();
    assert!(ping.status.success(), "{}", said(&ping));
    let summary = running.stop(Signal::SIGINT);
    assert!(summary["conserved"].as_bool().unwrap(), "{summary:#}");
    // Paths with stages: left to right, and what each device sends.
    let delayed = |path: usize| field(&summary, &format!("/paths/{path}/stages/0/delayed/packets"));
    assert!(delayed(0) >= 1 && delayed(1) > 100 && delayed(2) > 100, "{summary:#}");
    assert_eq!(summary["paths"][1]["from"], "target");
    exchange(&mut connection, 100_000);
    assert_eq!(hosts.left_behind(), [""; 0]);
}

#[test]
fn a_target_that_is_not_there_is_refused_by_name_and_nothing_is_left() {
    let hosts = Hosts::new();
    for (attach, reason) in [
        ("pid = 4194304, dev = \"eth0\"".to_owned(), "port web: there is no process 4194304"),
        (format!("netns = \"{}\", dev = \"eth9\"", hosts.target.0), "port web: there is no device \"eth9\""),
        (format!("netns = \"{}\", dev = \"lo\"", hosts.target.0), "port web: lo is the loopback device"),
    ] {
        let file = Scratch::file(&format!(
            "[[port]]\nname = \"first\"\nattach = {{ netns = \"{}\", dev = \"eth0\" }}\n\
             [[port]]\nname = \"web\"\nattach = {{ {attach} }}\n",
            hosts.target.0
        ));
        let output = output(&["run", file.path()]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(reason), "{}", said(&output));
        assert_eq!(hosts.left_behind(), [""; 0]);
    }
}

#[test]
fn the_ssh_session_of_this_host_is_not_cut_unasked() {
    let (name, other) = (unique(), unique());
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &other]);
    ip(&["addr", "add", "10.87.98.1/32", "dev", &name]);
    let port = |faults: &str| {
        Scratch::file(&format!("[[port]]\nname = \"nic\"\nattach = {{ dev = \"{name}\" }}\n{faults}\n"))
    };
    let run = |file: &Scratch, options: &[&str]| {
        faultwire()
            .args([&["run", file.path(), "--duration", "10ms"], options].concat())
            .env("SSH_CONNECTION", "10.87.98.2 40000 10.87.98.1 22")
            .output()
            .unwrap()
    };
    let all = port("both = \"delay 1ms\"");
    let aimed = port("both = \"delay 1ms\"\nmatch = \"not tcp port 22\"");
    let (refused, asked, spared) = (run(&all, &[]), run(&all, &["--yes"]), run(&aimed, &[]));
    ip(&["link", "del", &name]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(
        said(&refused).contains("port nic: ") && said(&refused).contains("SSH session"),
        "{}",
        said(&refused)
    );
    assert!(asked.status.success(), "{}", said(&asked));
    assert!(spared.status.success(), "{}", said(&spared));
}
