//! Refused targets, and the messages at the end.

use super::*;

#[test]
fn too_few_hits_are_exit_code_3() {
    let hosts = Hosts::new();
    // Reports of multicast groups would be hit too.
    ip(&["netns", "exec", &hosts.target.0, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let options = ["--up", "loss 100%", "--expect-hit", "1"];
    let attached = hosts.attach(&options);
    attached.signal(Signal::SIGINT);
    let mut attached = attached;
    assert_eq!(field(&attached.summary(3), "/hit"), 0);
    let attached = hosts.attach(&options);
    let sender = netns(&hosts.target).run(|| UdpSocket::bind("10.87.0.1:0").unwrap()).unwrap();
    // The neighbour's address has to be found first: that is ARP, which is never hit.
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
    let tap = hosts.left_behind().into_iter().find(|name| name.ends_with("-out")).unwrap();
    for (options, reason) in [
        (&["--netns", "no-such-namespace"][..], "no network namespace"),
        (&["--netns", "/etc/passwd", "--dev", "eth0"], "is not a network namespace"),
        (&["--pid", "4194304", "--dev", "eth0"], "there is no process 4194304"),
        (&["--container", "no-such-container"], "there is no running container no-such-container"),
        (&["--container", "0123456789abcdef"], "there is no running container"),
        (&["--netns", netns, "--dev", "eth9"], "there is no device eth9"),
        (&["--netns", netns], "has no default route"),
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
    let dry = output(&["attach", "--netns", netns, "--dev", "eth0", "--both", "loss 1%", "--dry-run"]);
    assert!(dry.status.success() && said(&dry).contains("would attach to eth0"), "{}", said(&dry));
    assert_eq!(hosts.left_behind().len(), 3, "the TUN device and one attachment's");
}

#[test]
fn an_ssh_session_of_this_host_is_not_cut_unasked() {
    let name = unique();
    let other = format!("{name}p");
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &other]);
    ip(&["addr", "add", "10.87.99.1/32", "dev", &name]);
    let attach = |options: &[&str]| -> Output {
        faultwire()
            .args([&["attach", "--dev", &name, "--both", "delay 1ms", "--for", "10ms"], options].concat())
            .env("SSH_CONNECTION", "10.87.99.2 40000 10.87.99.1 22")
            .output()
            .unwrap()
    };
    let (refused, done) = (attach(&[]), attach(&["--yes"]));
    // As sudo does: the variable is only that of the shell above.
    let binary = env!("CARGO_BIN_EXE_faultwire");
    let script =
        format!("env -u SSH_CONNECTION {binary} attach --dev {name} --both 'delay 1ms' --for 10ms; exit $?");
    let by_sudo = tool("sh")
        .args(["-c", &script])
        .env("SSH_CONNECTION", "10.87.99.2 40000 10.87.99.1 22")
        .output()
        .unwrap();
    ip(&["link", "del", &name]);
    for refused in [refused, by_sudo] {
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains("SSH session"), "{}", said(&refused));
    }
    assert!(done.status.success(), "{}", said(&done));
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
