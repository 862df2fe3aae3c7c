//! Hosts of cases and created namespaces are the same on every machine; and which settings a case file may change.

use std::collections::BTreeSet;
use std::path::Path;

use faultwire::net::{Netns, defaults, sysctl};

use crate::system::common::{Scratch, faultwire, output, said, unique};

/// Settings of a device or of all that [`defaults`] leaves alone: what they are for does not happen between hosts that
/// have fixed addresses on TUN devices (router advertisements, temporary addresses, multicast, neighbours), or they
/// cannot be written.
const LEFT_ALONE: &[&str] = &[
    "ipv4/mc_forwarding",
    "ipv6/mc_forwarding",
    "ipv6/accept_ra_",
    "ipv6/ra_",
    "ipv6/router_",
    "ipv6/temp_",
    "ipv6/regen_",
    "ipv6/mldv",
    "ipv6/force_mld_version",
    "ipv6/ndisc_evict_nocarrier",
    "ipv6/ndisc_tclass",
    "ipv6/accept_untracked_na",
    "ipv6/drop_unsolicited_na",
    "ipv6/enhanced_dad",
    "ipv6/force_tllao",
    "ipv6/suppress_frag_ndisc",
    "ipv6/ioam6_id",
    "ipv6/seg6_require_hmac",
    "ipv6/max_desync_factor",
    "ipv6/stable_secret",
    "ipv6/mtu",
];

/// Each setting that a namespace can inherit from the host is in the table or in the list of exceptions here.
#[test]
fn every_setting_that_can_be_inherited_is_set_or_does_not_matter() {
    drop(faultwire());
    let netns = Netns::anonymous().unwrap();
    let set: BTreeSet<String> = defaults::settings().map(|(key, _, _)| key).collect();
    let mut forgotten = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let folder = format!("/proc/sys/net/{family}/conf/default");
        let names: Vec<String> = netns
            .run(|| std::fs::read_dir(&folder).unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.len() > 30, "{names:?}");
        for name in names {
            let is_set = ["all", "default", "lo"]
                .iter()
                .all(|device| set.contains(&format!("{family}/conf/{device}/{name}")));
            let short = format!("{family}/{name}");
            if !is_set && !LEFT_ALONE.iter().any(|left| short.starts_with(left)) {
                forgotten.push(short);
            }
        }
    }
    assert!(forgotten.is_empty(), "in neither table: {forgotten:?}");
}

/// Whatever a namespace inherits from the host, it has the values of the table afterwards.
#[test]
fn no_setting_of_the_host_is_left() {
    drop(faultwire());
    let netns = Netns::anonymous().unwrap();
    let read = |key: &str| {
        let text = sysctl::read(&netns, key).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let others = ["1", "0", "2", "60", "100", "reno", "4096 65536 1048576", "30000 40000"];
    // A congestion control that this host refuses is reported.
    let right = |refused: &[defaults::Refused]| {
        for (key, wanted, reason) in defaults::settings() {
            assert!(reason.len() > 20, "{key} has no reason");
            let excused = key == "ipv4/tcp_congestion_control" && !refused.is_empty();
            assert!(excused || read(&key).is_none_or(|is| is == wanted), "{key} is {:?}", read(&key));
        }
        assert!(refused.iter().all(defaults::Refused::is_congestion_control), "{refused:?}");
    };
    right(netns.refused());
    let (mut changed, mut fixed) = (0, Vec::new());
    for (key, wanted, _) in defaults::settings() {
        let other = |value: &&str| {
            *value != wanted
                && sysctl::write(&netns, &key, value).is_ok()
                && read(&key).as_deref() == Some(*value)
        };
        match (read(&key).is_some(), others.into_iter().find(other)) {
            (true, None) => fixed.push(key),
            (there, _) => changed += usize::from(there),
        }
    }
    assert!(changed > 100 && fixed.len() < 5, "{changed} could be changed, not {fixed:?}");
    right(&netns.run(defaults::apply).unwrap().unwrap());
}

const STREAM: &str = "[[traffic]]\ntype = \"stream\"\nbytes = \"200 kB\"\n";

/// TCP of a case is cubic on every host, even on one that does not allow it; a case can choose another.
#[test]
fn tcp_of_a_case_is_cubic_unless_it_says_otherwise() {
    for (sysctl, algorithm) in
        [("", "cubic"), ("sysctl = { \"net.ipv4.tcp_congestion_control\" = \"reno\" }\n", "reno")]
    {
        let text = format!(
            "title = \"t\"\n[[host]]\nname = \"client\"\n{sysctl}{STREAM}\
             [[expect]]\nsee = \"traffic.stream.congestion_control\"\nequals = \"{algorithm}\"\n"
        );
        let file = Scratch::file(&text);
        let output = output(&["case", "run", file.path()]);
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// The name of a setting in a file is never used as a path.
#[test]
fn a_setting_writes_nothing_outside_of_its_namespace() {
    let victim = std::env::temp_dir().join(format!("faultwire-victim-{}", unique()));
    std::fs::write(&victim, "untouched").unwrap();
    let path = victim.to_str().unwrap();
    let keys = [
        format!("net.{path}"),
        format!("net./../../../..{path}"),
        format!("net.ipv4.conf./..{path}"),
        "net.ipv4/tcp_ecn".to_owned(),
        "kernel.hostname".to_owned(),
    ];
    for key in keys {
        let host = format!("[[host]]\nname = \"client\"\nsysctl = {{ \"{key}\" = 1 }}\n");
        let step = format!(
            "[[traffic]]\nname = \"set\"\ntype = \"sysctl\"\non = \"client\"\nset = {{ \"{key}\" = 1 }}\n"
        );
        for extra in [host, step] {
            let ping = "[[traffic]]\ntype = \"ping\"\n[[expect]]\nsee = \"traffic.ping.lost\"\nequals = 0\n";
            let file = Scratch::file(&format!("title = \"t\"\n{extra}{ping}"));
            let output = output(&["case", "run", file.path()]);
            assert_eq!(output.status.code(), Some(2), "{key}: {}", said(&output));
            assert!(said(&output).contains("not the name of a setting"), "{key}: {}", said(&output));
        }
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    std::fs::remove_file(victim).unwrap();
    assert!(!Path::new("/proc/sys/net/tmp").exists());
}

/// A case that cannot be run is counted as broken; the cases after it still run and are reported.
#[test]
fn an_error_in_one_case_does_not_end_the_others() {
    let ping = "[[traffic]]\ntype = \"ping\"\n[[expect]]\nsee = \"traffic.ping.lost\"\nequals = 0\n";
    let good = Scratch::file(&format!("title = \"good\"\n{ping}"));
    let bad = Scratch::file(&format!(
        "title = \"bad\"\n[[host]]\nname = \"client\"\nsysctl = {{ \"net.ipv4.no_such_setting\" = 1 }}\n{ping}"
    ));
    let run = output(&["case", "run", bad.path(), good.path(), "--json"]);
    assert_eq!(run.status.code(), Some(1), "{}", said(&run));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&json["pass"], &json["passed"], &json["broken"]), (&false.into(), &1.into(), &1.into()));
    assert!(json["cases"][0]["broken"].as_str().unwrap().contains("no_such_setting"), "{json:#}");
    assert_eq!(json["cases"][1]["trials"][0]["verdicts"][0]["pass"], true);
    let run = output(&["case", "run", bad.path(), good.path()]);
    let text = said(&run);
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert!(
        text.contains("BROKEN") && text.contains("PASS") && text.contains("1 passed, 0 failed, 1 broken"),
        "{text}"
    );
}
