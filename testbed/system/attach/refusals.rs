//! Refused targets, and the messages at the end.

use super::*;

#[test]
fn too_few_hits_are_exit_code_3() {
    let hosts = Hosts::new();
    // Reports of multicast groups would be hit too.
    ip(&["netns", "exec", &hosts.target.0, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let options = ["--up", "loss 100%", "--expect-hit", "1"];
    let mut attached = hosts.attach(&options);
    attached.signal(Signal::SIGINT);
    assert_eq!(field(&attached.summary(3), "/hit"), 0);
    // A packet that could have been lost, and was not, is no hit.
    let mut attached = hosts.attach(&["--both", "loss 0.0001%", "--seed", "1", "--expect-hit", "1"]);
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    let receiver = netns(&hosts.peer).run(|| UdpSocket::bind((PEER[0], 9)).unwrap()).unwrap();
    // The neighbour's address has to be found first: that is ARP, which is never hit.
    sender.send_to(b"x", (PEER[0], 9)).unwrap();
    assert_eq!(receiver.recv(&mut [0]).unwrap(), 1);
    attached.signal(Signal::SIGINT);
    let summary = attached.summary(3);
    assert!(field(&summary, "/received/packets") >= 1, "{summary:#}");
    assert_eq!(field(&summary, "/hit"), 0, "{summary:#}");
    let attached = hosts.attach(&options);
    sender.send_to(b"x", (PEER[0], 9)).unwrap();
    let mut buffer = String::new();
    while !buffer.contains("REACHABLE") {
        buffer = ip(&["-n", &hosts.target.0, "neigh", "show", PEER[0]]);
    }
    assert_eq!(field(&attached.stop(Signal::SIGINT), "/hit"), 1);
}

#[test]
fn wrong_targets_are_refused_each_with_its_reason() {
    let hosts = Hosts::new();
    let netns = hosts.target.0.as_str();
    ip(&["-n", netns, "tuntap", "add", "dev", "tun7", "mode", "tun"]);
    let _first = hosts.attach(&["--both", "delay 1ms"]);
    let mut zombie = tool("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", zombie.id());
    until("it ends", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    // The test's own thread.
    let thread = nix::unistd::gettid();
    let tap = hosts.left_behind().into_iter().find(|name| name.ends_with("-out")).unwrap();
    for (options, reason) in [
        (&["--netns", "no-such-namespace"][..], "no network namespace"),
        (&["--netns", "/etc/passwd", "--dev", "eth0"], "is not a network namespace"),
        (&["--pid", "4194304", "--dev", "eth0"], "there is no process 4194304"),
        (&["--container", "no-such-container"], "there is no running container \"no-such-container\""),
        (&["--container", "0123456789abcdef"], "there is no running container"),
        (&["--netns", netns, "--dev", "eth9"], "there is no device \"eth9\""),
        (
            &["--netns", netns],
            "has no default route, or none to one device alone: choose the device with --dev; it has lo, ",
        ),
        (&["--pid", &zombie.id().to_string(), "--dev", "eth0"], "has ended"),
        (&["--pid", &thread.to_string(), "--dev", "eth0"], "there is no process"),
        (&["--pid", &std::process::id().to_string()], "is in this host's own network namespace"),
        (&["--netns", netns, "--dev", "lo"], "loopback"),
        (&["--netns", netns, "--dev", "tun7"], "bare IP packets"),
        (&["--netns", netns, "--dev", &tap], "faultwire itself made"),
        (&[], "choose the device"),
        (&["--netns", netns, "--dev", "eth0", "--up", "los 1%"], "loss"),
        (&["--netns", netns, "--dev", "eth0", "--match", "tcp prt 1"], "is not a condition"),
    ] {
        let faults: &[&str] = if options.contains(&"--up") { &[] } else { &["--both", "delay 1ms"] };
        let output = output(&[&["attach"], options, faults].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}: {}", said(&output));
        assert!(said(&output).contains(reason), "{options:?}: {}", said(&output));
    }
    zombie.wait().unwrap();
    let dry = output(&["attach", "--netns", netns, "--dev", "eth0", "--both", "loss 1%", "--dry-run"]);
    assert!(dry.status.success() && said(&dry).contains("would attach to eth0"), "{}", said(&dry));
    assert_eq!(hosts.left_behind().len(), 3, "the TUN device and one attachment's");
}

/// The session is known by `SSH_CONNECTION`, whatever device has the address, and spared by faults that are aimed at other packets.
#[test]
fn an_ssh_session_of_this_host_is_not_cut_unasked() {
    let hosts = Hosts::new();
    let netns = hosts.target.0.as_str();
    let session = format!("{} 40000 10.87.0.1 22", PEER[0]);
    let binary = env!("CARGO_BIN_EXE_faultwire");
    let command = |words: &[&str]| {
        let mut command = tool("ip");
        command.args([&["netns", "exec", netns][..], words].concat()).env("SSH_CONNECTION", &session);
        command.output().unwrap()
    };
    let attach = |device: &str, options: &[&str]| {
        let head = [binary, "attach", "--dev", device, "--both", "delay 1ms", "--for", "10ms"];
        command(&[&head[..], options].concat())
    };
    let is_refused = |output: &Output| {
        let is_said = said(output).contains("SSH session");
        assert_eq!(output.status.code(), Some(if is_said { 2 } else { 0 }), "{}", said(output));
        is_said
    };
    for (options, expected) in [
        (&[][..], true),
        (&["--yes"], false),
        (&["--match", "tcp"], true),
        (&["--match", "tcp port 22"], true),
        (&["--match", "not tcp port 22"], false),
        (&["--established"], true),
        (&["--new"], false),
    ] {
        assert_eq!(is_refused(&attach("eth0", options)), expected, "{options:?}");
    }
    // As sudo does: the variable is only that of the shell above.
    let script =
        format!("env -u SSH_CONNECTION {binary} attach --dev eth0 --both 'delay 1ms' --for 10ms; exit $?");
    assert!(is_refused(&command(&["sh", "-c", &script])));
    // A second pair, which the session does not pass.
    ip(&["-n", netns, "link", "add", "other", "type", "veth", "peer", "name", "end"]);
    // The address is on a bridge, then on none of the devices that its packets pass.
    ip(&["-n", netns, "link", "add", "bridge", "type", "bridge"]);
    ip(&["-n", netns, "link", "set", "bridge", "up"]);
    ip(&["-n", netns, "addr", "flush", "dev", "eth0"]);
    ip(&["-n", netns, "link", "set", "eth0", "master", "bridge"]);
    ip(&["-n", netns, "addr", "add", "10.87.0.1/24", "dev", "bridge"]);
    let refused = || ["eth0", "bridge", "other"].map(|device| is_refused(&attach(device, &[])));
    assert_eq!(refused(), [true, true, false]);
    ip(&["-n", netns, "addr", "flush", "dev", "bridge"]);
    ip(&["-n", netns, "addr", "add", "10.87.0.1/32", "dev", "lo"]);
    ip(&["-n", netns, "route", "add", "10.87.0.0/24", "dev", "bridge", "src", "10.87.0.1"]);
    assert_eq!(refused(), [true, true, false]);
}

/// A default route over several gateways may lead to one device.
#[test]
fn the_default_device_may_have_several_gateways() {
    let hosts = Hosts::new();
    let netns = hosts.target.0.as_str();
    ip(&["-n", netns, "link", "add", "other", "type", "veth", "peer", "name", "end"]);
    ip(&["-n", netns, "link", "set", "other", "up"]);
    ip(&["-n", netns, "link", "set", "end", "up"]);
    ip(&["-n", netns, "addr", "add", "10.88.0.1/24", "dev", "other"]);
    let gateway = |to: &'static str, device: &'static str| ["nexthop", "via", to, "dev", device];
    let first = gateway(PEER[0], "eth0");
    for (second, is_found) in [(gateway("10.87.0.3", "eth0"), true), (gateway("10.88.0.2", "other"), false)] {
        ip(&[&["-n", netns, "route", "replace", "default"][..], &first, &second].concat());
        let dry = output(&["attach", "--netns", netns, "--dry-run"]);
        assert_eq!(dry.status.success(), is_found, "{}", said(&dry));
        assert!(said(&dry).contains(if is_found { "would attach to eth0" } else { "choose the device" }));
    }
}

/// Trains of over 64 KiB, which do not fit a TAP, take the same way as all others.
#[test]
fn big_tcp_is_said_and_stays_in_order() {
    let hosts = Hosts::new();
    for netns in [&hosts.target.0, &hosts.peer.0] {
        let sizes = ["gso_max_size", "200000", "gro_max_size", "200000"];
        ip(&[&["-n", netns, "link", "set", "eth0"][..], &sizes].concat());
    }
    let mut connection = hosts.connect(PEER[1]);
    let mut attached = Attached::start_until(
        &["--netns", &hosts.target.0, "--dev", "eth0", "--both", "udp port 9: drop"],
        "BIG TCP",
    );
    attached.wait_for("attached to");
    exchange(&mut connection, 3_000_000);
    let summary = attached.stop(Signal::SIGINT);
    assert!(field(&summary, "/hooks/up/detoured") > 0, "{summary:#}");
    for way in ["up", "down"] {
        assert_eq!(field(&summary, &format!("/hooks/{way}/passed")), 0, "{summary:#}");
    }
}

/// A device of another program may have such a name.
#[test]
fn a_foreign_device_is_not_ours_by_its_name() {
    let hosts = Hosts::new();
    let netns = hosts.target.0.as_str();
    for name in ["fw-lan", "fw0"] {
        ip(&["-n", netns, "link", "add", name, "type", "veth", "peer", "name", "other"]);
        let dry = output(&["attach", "--netns", netns, "--dev", name, "--both", "loss 1%", "--dry-run"]);
        assert!(dry.status.success(), "{name}: {}", said(&dry));
        assert!(said(&dry).contains(&format!("{name} is down")), "{}", said(&dry));
        ip(&["-n", netns, "link", "del", name]);
    }
}

/// `doctor` and the commands agree about each capability.
#[test]
fn the_doctor_finds_what_attach_needs() {
    let output = output(&["doctor", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let findings = value["findings"].as_array().unwrap();
    let is_ok = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).expect(name)["ok"].as_bool().unwrap()
    };
    // These tests need them, so they are here.
    assert!(is_ok("capabilities") && is_ok("tun") && is_ok("tcx"), "{text}");
    let all = findings.iter().all(|finding| finding["ok"] == true);
    assert_eq!(output.status.code(), Some(i32::from(!all)));
    // Without its capabilities it says so, instead of failing.
    let less = tool("setpriv")
        .args(["--bounding-set", "-net_admin,-sys_admin,-bpf", "--inh-caps", "-all"])
        .args([env!("CARGO_BIN_EXE_faultwire"), "doctor", "--json"])
        .output()
        .expect("setpriv is installed (util-linux)");
    let value: serde_json::Value = serde_json::from_slice(&less.stdout).unwrap();
    let of = |name: &str| {
        value["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == name).unwrap()["ok"]
            .clone()
    };
    assert_eq!((of("capabilities"), of("tcx")), (false.into(), false.into()), "{value:#}");
    assert_eq!(less.status.code(), Some(1));
}
