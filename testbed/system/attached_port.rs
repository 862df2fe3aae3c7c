//! `run` with attached devices beside ports of its own.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::system::attach::{Hosts, PEER, exchange, field, round_trip};
use crate::system::common::{Running, Scratch, config, output, said, unique};

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
        (format!("netns = \"{}\", dev = \"eth9\"", hosts.target.0), "port web: there is no device eth9"),
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
