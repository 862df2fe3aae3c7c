use super::*;
use crate::lab::check::{Check, Operand};
use crate::lab::value::Value;
use crate::pipeline::params::ImpairmentParams;

const SMALL: &str = r#"
title = "t"
[fault]
up = "loss 30%"
[[traffic]]
type = "serve"
[[traffic]]
type = "request"
name = "get"
[[expect]]
see = "traffic.get.outcome"
equals = "ok"
[[control]]
name = "no loss"
fault = {}
[[control.traffic]]
name = "get"
size = 85
[[control.expect]]
see = "traffic.get.bytes"
at_least = 3
"#;

fn parse(text: &str) -> Case {
    Case::parse(text, "x.toml", "x").unwrap_or_else(|error| panic!("{error}"))
}

fn problems(text: &str) -> String {
    Case::parse(text, "x.toml", "x").unwrap_err().to_string()
}

#[test]
fn a_case_without_hosts_has_a_client_and_a_server() {
    let case = parse(SMALL);
    let hosts = &case.trials[0].runs[0].network.hosts;
    let names: Vec<&str> = hosts.iter().map(|host| host.port.name.as_str()).collect();
    assert_eq!((case.name.as_str(), names), ("x", vec!["client", "server"]));
    assert_eq!(hosts[1].port.addresses[0].to_string(), "10.77.2.2/24");
    assert_eq!(hosts[0].port.routes.len(), 2);
    // A burst waits for a router that has no time to read it.
    assert!(hosts.iter().all(|host| host.port.txqueuelen == 20_000));
    let short = format!("{SMALL}[[host]]\nname = \"client\"\ntxqueuelen = 10\n");
    let hosts = parse(&short).trials.remove(0).runs.remove(0).network.hosts;
    assert_eq!(hosts.iter().map(|host| host.port.txqueuelen).collect::<Vec<_>>(), [10, 20_000]);
}

#[test]
fn a_control_replaces_the_fault_and_changes_steps_by_name() {
    let case = parse(SMALL);
    let [fault, control] = case.trials.as_slice() else { panic!("one control") };
    let stages =
        |trial: &Trial| trial.runs[0].network.paths.iter().map(|path| path.seats.len()).sum::<usize>();
    assert_eq!((stages(fault), stages(control)), (1, 0));
    assert_eq!((fault.control.as_deref(), control.control.as_deref()), (None, Some("no loss")));
    let size = |trial: &Trial| match &trial.runs[0].traffic[1].kind {
        Kind::Request { request, .. } => request.size,
        other => panic!("{other:?}"),
    };
    assert_eq!((size(fault), size(control)), (75, 85));
    assert_eq!(fault.expect[0].check, Check::Equals(Value::from("ok")));
    assert_eq!(control.expect[0].check, Check::AtLeast(Operand::Number(3.0)));
}

#[test]
fn a_sweep_is_one_run_for_each_value() {
    let text = SMALL.replace("up = \"loss 30%\"", "up = [{ type = \"mtu\", mtu = \"$m\" }]")
        + "[sweep]\nvariable = \"m\"\nfrom = 120\nto = 122\nworks = { see = \"traffic.get.outcome\", equals = \"ok\" }\n";
    let case = parse(&text);
    let mtu = |run: &Run| match &run.network.paths[0].stages().next().unwrap().impairment {
        ImpairmentParams::Mtu(mtu) => mtu.mtu,
        other => panic!("{other:?}"),
    };
    let runs = &case.trials[0].runs;
    assert_eq!(runs.iter().map(mtu).collect::<Vec<_>>(), [120, 121, 122]);
    assert_eq!(runs.iter().map(|run| run.value).collect::<Vec<_>>(), [Some(120), Some(121), Some(122)]);
}

#[test]
fn every_mistake_is_reported_once_with_its_line() {
    let text = SMALL
        .replace("type = \"serve\"", "type = \"sirve\"")
        .replace("see = \"traffic.get.outcome\"", "see = \"trafic.get.outcome\"")
        .replace("at_least = 3", "at_least = 3\nat_most = 4\nbecuase = \"x\"");
    let text = problems(&text);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("x.toml:6:8: traffic[0].type: \"sirve\" is not known"), "{text}");
    assert!(lines[1].starts_with("x.toml:11:7: expect[0].see: \"trafic.get.outcome\""), "{text}");
    assert!(text.contains("has two conditions for the value"), "{text}");
    assert!(text.contains("becuase: is not a known key (did you mean \"because\"?)"), "{text}");
}

/// Each control repeats the mistakes of the case.
#[test]
fn a_mistake_is_reported_once_however_many_controls_there_are() {
    let text = "titel = \"t\"\n[[control]]\nname = \"a\"\n[[control]]\nname = \"b\"\n";
    let error = problems(text);
    for mistake in ["title: is missing", "titel: is not"] {
        assert_eq!(error.matches(mistake).count(), 1, "{error}");
    }
}

#[test]
fn a_case_that_expects_nothing_is_refused() {
    let (text, _) = SMALL.split_once("[[expect]]").unwrap();
    assert!(problems(text).contains("nothing is expected, so nothing can fail"));
}

#[test]
fn an_own_namespace_or_a_setting_outside_net_is_refused() {
    let text =
        format!("{SMALL}[[host]]\nname = \"client\"\nnetns = \"x\"\nsysctl = {{ \"kernel.panic\" = 1 }}\n");
    let text = problems(&text);
    assert!(text.contains("has a namespace of its own"), "{text}");
    assert!(text.contains("is not the name of a setting"), "{text}");
}

#[test]
fn every_shipped_case_reads_has_a_control_and_says_why() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/cases");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let case = Case::load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(case.trials.len() > 1, "{} has no control", path.display());
        assert!(!case.story.is_empty(), "{} tells no story", path.display());
        for expectation in case.trials.iter().flat_map(|trial| &trial.expect) {
            assert!(!expectation.because.is_empty(), "{}: {} says not why", path.display(), expectation.see);
        }
        count += 1;
    }
    assert!(count >= 17, "{count} cases");
}

#[test]
fn an_explanation_has_all_its_parts_and_no_other() {
    let explain = "[explain]\nwhat = \"w\"\nwhy = \"y\"\nrecognise = \"r\"\ncure = \"\"\"\n\n    c\n\"\"\"\n";
    let text = |table: &str| SMALL.replace("[fault]", &format!("{table}[fault]"));
    assert_eq!(parse(&text(explain)).explain.unwrap().cure, "    c");
    assert_eq!(parse(SMALL).explain, None);
    let wrong = problems(&text(&explain.replace("why", "reason")));
    assert!(wrong.contains("explain.why") && wrong.contains("explain.reason"), "{wrong}");
    assert!(problems(&text(&explain.replace("\"r\"", "\"\""))).contains("is empty"));
}

#[test]
fn a_port_of_one_s_own_is_one_connection_at_a_time() {
    let step = |keys: &str| {
        SMALL.replace(
            "name = \"get\"\n[[expect]]",
            &format!("name = \"get\"\n[[traffic]]\n{keys}\n[[expect]]"),
        )
    };
    let kind = |keys: &str| parse(&step(keys)).trials[0].runs[0].traffic[2].kind.clone();
    let Kind::Connect(_, connect) = kind("type = \"connect\"\nsource_port = 4000\ninterval = \"5ms\"") else {
        panic!()
    };
    assert_eq!((connect.source_port, connect.interval), (Some(4_000), std::time::Duration::from_millis(5)));
    let wrong = problems(&step("type = \"connect\"\nsource_port = 4000\nconcurrent = 2"));
    assert!(wrong.contains("one connection at a time"), "{wrong}");
    let set = kind("type = \"sysctl\"\non = \"server\"\nset = { \"net.ipv4.tcp_timestamps\" = 0 }");
    assert_eq!(set, Kind::Sysctl(vec![("net.ipv4.tcp_timestamps".into(), "0".into())]));
    assert!(problems(&step("type = \"wait\"")).contains("for"));
    assert!(
        problems(&step("type = \"sysctl\"\nset = { \"kernel.x\" = 0 }"))
            .contains("is not the name of a setting")
    );
}

/// The third step of [`SMALL`] with these keys: what is wrong with it.
fn wrong_step(keys: &str) -> String {
    problems(
        &SMALL.replace(
            "name = \"get\"\n[[expect]]",
            &format!("name = \"get\"\n[[traffic]]\n{keys}\n[[expect]]"),
        ),
    )
}

#[test]
fn clients_made_by_hand_have_an_ipv4_address_of_nobody() {
    let text = SMALL.replace(
        "type = \"request\"\nname = \"get\"\n[[expect]]",
        "type = \"probe\"\nname = \"get\"\n[[expect]]",
    );
    let text = text.replace("size = 85\n", "timestamp = \"older\"\n");
    let Kind::Probe(to, probe) = &parse(&text).trials[0].runs[0].traffic[1].kind else { panic!("{text}") };
    assert_eq!((to.port, probe.source.to_string()), (80, "10.77.1.254".to_owned()));
    for (keys, problem) in [
        ("type = \"probe\"\nfamily = 6", "IPv4"),
        ("type = \"probe\"\nsource = \"10.77.1.2\"", "the host's own"),
        ("type = \"probe\"\ntimestamp = \"old\"", "older"),
        ("type = \"reuse\"\nsequence = \"before\"", "behind"),
        ("type = \"clients\"\nclocks = []", "names no clock"),
        ("type = \"clients\"\nclocks = \"own\"", "clocks"),
        ("type = \"serve\"\nname = \"few\"\nworkers = 0", "1 to 64"),
    ] {
        let wrong = wrong_step(keys);
        assert!(wrong.contains(problem), "{keys}: {wrong}");
    }
}

#[test]
fn a_step_that_cannot_be_is_refused() {
    let step = |keys: &str| problems(&SMALL.replace("type = \"request\"", keys));
    for (keys, problem) in [
        ("type = \"talk\"\nkeepalive = \"1500ms\"", "whole seconds"),
        ("type = \"talk\"\nkeepalive = \"0s\"", "whole seconds"),
        ("type = \"talk\"\ncount = 0", "count"),
        ("type = \"udp\"\nanswer = \"last\"", "latest"),
        ("type = \"serve\"\necho = true\nsink = true", "a sink or an echo"),
        ("type = \"serve\"\necho = true\nresponse = [5]", "a sink sends no answer"),
    ] {
        let said = step(keys);
        assert!(said.contains(problem), "{keys}: {said}");
    }
}
