//! The library's door to what already runs.

use faultwire::faults::Faults;
use faultwire::running::{Attachment, AttachmentError, Target};

use super::*;

#[test]
fn a_program_attaches_faults_and_detaches_them() {
    let hosts = Hosts::new();
    let target = Target::Netns(hosts.target.0.clone());
    let mut connection = hosts.connect(PEER[0]);
    for stream in &connection {
        stream.set_nodelay(true).unwrap();
    }
    // A process that another test starts has the descriptors of this one until it becomes a command.
    let are_gone = || hosts.left_behind().is_empty();
    let (slow, none): (Faults, Faults) = ("delay 40ms".parse().unwrap(), Faults::new());
    for (up, down) in [(&slow, &none), (&none, &slow)] {
        let attached = Attachment::start(&target, Some("eth0"), up, down, 1).unwrap();
        assert!(round_trip(&mut connection) >= Duration::from_millis(40));
        assert!(!attached.has_ended());
        let hits = attached.stages().unwrap().map(|stages| stages.iter().map(|(_, c)| c.hit()).sum::<u64>());
        let [with, without] = if up.stages().is_empty() { [hits[1], hits[0]] } else { hits };
        assert!(with > 0 && without == 0, "{hits:?}");
        assert!(attached.counters().unwrap().sent.packets > 0);
        assert!(attached.detach().unwrap().received.packets >= 2);
        until("its devices are gone", are_gone);
    }
    // Traffic that no fault hits stays in the kernel.
    let aimed = "udp port 9: loss 1%".parse().unwrap();
    let attached = Attachment::start(&target, Some("eth0"), &aimed, &aimed, 1).unwrap();
    exchange(&mut connection, 3_000_000);
    assert!(attached.in_kernel().unwrap().packets > 0);
    // Dropped, it is as if detached.
    drop(attached);
    until("its devices are gone", are_gone);
    exchange(&mut connection, 100_000);
    let attached = Attachment::start(&target, Some("eth0"), &slow, &none, 1).unwrap();
    ip(&["-n", &hosts.target.0, "link", "del", "eth0"]);
    assert!(attached.has_ended());
}

#[test]
fn a_program_is_told_why_it_cannot_attach() {
    let none = Faults::new();
    let start = |target: &Target, device| Attachment::start(target, device, &none, &none, 1).unwrap_err();
    assert!(matches!(start(&Target::Own, None), AttachmentError::Own));
    for (target, device, reason) in [
        (Target::Netns("no-such-namespace".to_owned()), Some("eth0"), "there is no network namespace"),
        (Target::Pid(4_194_304), Some("eth0"), "there is no process 4194304"),
        (Target::Container("no-such".to_owned()), None, "there is no running container"),
        (Target::Own, Some("lo"), "loopback"),
        (Target::Own, Some("no-such"), "there is no device \"no-such\""),
    ] {
        let error = start(&target, device).to_string();
        assert!(error.contains(reason), "{error}");
    }
}
