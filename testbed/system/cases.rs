//! The incident catalogue, through the command.

use crate::system::common::{output, said, tool};

/// Every case that comes with faultwire passes, with its controls.
#[test]
fn every_case_passes_with_its_controls() {
    let output = output(&["case", "run", "--all"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    let count = faultwire::lab::catalogue::names().count();
    assert!(text.contains(&format!("{count} passed, 0 failed")), "{text}");
    // As root on a recent kernel, every reason and counter that a case names exists.
    assert!(!text.contains("not observable"), "{text}");
}

/// A case without its fault fails, so its expectations do check something.
#[test]
fn a_case_without_its_fault_fails() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/cases/fragment-firewall.toml"))
            .unwrap()
            .replace(
                "type = \"fragment-filter\"",
                "type = \"fragment-filter\", match = { protocol = \"tcp\" }",
            );
    let file = crate::system::common::Scratch::file(&text);
    let output = output(&["case", "run", file.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("FAIL"), "{}", said(&output));
}

#[test]
fn an_unknown_case_is_a_mistake_of_the_command_line() {
    let output = output(&["case", "run", "mss-clmp"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("mss-clamp"), "{}", said(&output));
}

/// Lines of a code block in the explanations that begin with `word`.
fn commands(word: &str) -> Vec<String> {
    let cases = faultwire::lab::catalogue::cases().unwrap();
    let texts =
        cases.iter().filter_map(|case| case.explain.as_ref()).map(|explain| explain.recognise.clone());
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines
        .filter_map(|line| Some(line.strip_prefix("    ")?.to_owned()))
        .filter(|line| line.starts_with(word))
        .collect()
}

/// tcpdump itself reads every filter that an explanation gives.
#[test]
fn every_filter_that_is_explained_is_one() {
    let filters = commands("tcpdump ");
    assert!(filters.len() > 20, "{filters:?}");
    for command in filters {
        // Compiled for Ethernet. A real device of the host may have another link type.
        let Some((_, filter)) = command.split_once('\'') else { continue };
        let filter = filter.trim_end_matches('\'');
        let output = tool("tcpdump").args(["-y", "EN10MB", "-d", filter]).output();
        let output = output.expect("installed (testbed/run does that)");
        assert!(output.status.success(), "{command}: {}", said(&output));
    }
}

/// Every counter that an explanation names exists in this kernel.
#[test]
fn every_counter_that_is_explained_exists() {
    let counters = faultwire::lab::observe::counters::Counters::read().unwrap();
    for command in commands("nstat ") {
        for name in command.split_whitespace().filter(|word| word.starts_with(char::is_uppercase)) {
            let groups = ["TcpExt", "IpExt", "Tcp", "Icmp6", "Icmp", "Ip6", "Ip", "Udp"];
            let group = groups.into_iter().find(|group| name.starts_with(group)).unwrap();
            let dotted = format!("{group}.{}", &name[group.len()..]);
            assert!(counters.value(&dotted).is_some(), "{command}: no {dotted}");
        }
    }
}

#[test]
fn a_case_is_explained_by_name_and_a_mistyped_one_is_suggested() {
    let explained = output(&["case", "explain", "pmtud-working"]);
    assert!(explained.status.success());
    assert!(said(&explained).contains("ip route get"), "{}", said(&explained));
    let unknown = output(&["case", "explain", "pmtud-workin"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("pmtud-working"), "{}", said(&unknown));
}
