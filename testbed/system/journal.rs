//! `--journal` end to end: the journal agrees with the summary.

use std::path::Path;
use std::process::Output;

use faultwire::lab::check::binomial_interval;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{Folder, Running, Scratch, Services, config, output, said, tool, unique};

/// The records of a journal, and the numbers of its packets; what was said besides.
fn read(file: &str) -> (Vec<Value>, String) {
    let printed = output(&["journal", file, "--json"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let text = String::from_utf8(printed.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (records, String::from_utf8_lossy(&printed.stderr).into_owned())
}

/// Packets of the records that meet a condition.
fn packets(records: &[Value], meets: impl Fn(&Value) -> bool) -> u64 {
    records.iter().filter(|record| meets(record)).map(|record| record["packets"].as_u64().unwrap()).sum()
}

/// `exec` with a journal of this mode, under loss.
fn lossy(folder: &Folder, mode: &str) -> (Value, Vec<Value>, [u16; 2]) {
    faulty(folder, mode, "loss 5%")
}

/// `exec` with a journal of this mode, with these faults on the way up.
fn faulty(folder: &Folder, mode: &str, faults: &str) -> (Value, Vec<Value>, [u16; 2]) {
    let services = Services::start();
    let (journal, summary) = (folder.file("journal"), folder.file("json"));
    let option = format!("--json={summary}");
    let arguments = [
        "exec",
        "--seed",
        "4",
        "--linger",
        "60s",
        "--up",
        faults,
        "--journal",
        &journal,
        "--journal-mode",
        mode,
        &option,
    ];
    let ended = output(&[&arguments[..], &["--", "bash", "-c", &services.script()]].concat());
    assert!(ended.status.success(), "{}", said(&ended));
    let ports = services.end();
    let (records, noted) = read(&journal);
    assert_eq!(noted, "", "nothing is lost, and the file is whole");
    let summary = serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap();
    (summary, records, ports)
}

fn lost(records: &[Value]) -> u64 {
    packets(records, |record| record["kind"] == "dropped" && record["reason"] == "loss")
}

/// The drops are those of the summary, reason by reason; only malformed packets have no record.
fn agree(summary: &Value, records: &[Value]) {
    for (reason, amount) in summary["dropped"].as_object().unwrap() {
        let recorded =
            packets(records, |record| record["kind"] == "dropped" && record["reason"] == reason.as_str());
        assert!(reason == "malformed" || amount["packets"] == recorded, "{reason}: {recorded}, {amount}");
    }
}

/// What the loss dropped by the summary.
fn lost_by_summary(summary: &Value) -> u64 {
    let path = summary["paths"].as_array().unwrap().iter().find(|path| path["from"] == "cmd").unwrap();
    path["stages"][0]["dropped"]["loss"]["packets"].as_u64().unwrap()
}

/// Every record of a flow has addresses, and those of the services have their ports.
fn are_addressed(records: &[Value], [udp, tcp]: [u16; 2]) {
    for record in records.iter().filter(|record| record["flow_id"] != "0000000000000000") {
        assert!(record["source"].is_string(), "{record}");
    }
    for (protocol, port) in [("UDP", udp), ("TCP", tcp)] {
        let to = format!(":{port}");
        let is_of_service = |record: &&Value| {
            record["protocol"] == protocol && record["destination"].as_str().unwrap().ends_with(&to)
        };
        assert!(records.iter().any(|record| is_of_service(&record)), "no {protocol} to port {port}");
    }
}

#[test]
fn a_journal_of_drops_has_each_drop_of_the_summary() {
    let (summary, records, ports) = lossy(&Folder::new(), "drops");
    assert!(lost(&records) > 0);
    assert_eq!(lost(&records), lost_by_summary(&summary));
    agree(&summary, &records);
    assert!(records.iter().all(|record| record["kind"] == "dropped"));
    for drop in records.iter().filter(|record| record["reason"] == "loss") {
        assert_eq!(drop["place"], "up/netem");
        let draw = &drop["draw"];
        assert!(draw["value"].as_f64().unwrap() < draw["threshold"].as_f64().unwrap(), "{drop}");
    }
    are_addressed(&records, ports);
}

#[test]
fn a_journal_of_all_adds_up_to_the_summary() {
    let (summary, records, ports) = lossy(&Folder::new(), "all");
    assert_eq!(lost(&records), lost_by_summary(&summary));
    agree(&summary, &records);
    for kind in ["received", "created", "sent"] {
        assert_eq!(packets(&records, |record| record["kind"] == kind), summary[kind]["packets"], "{kind}");
    }
    are_addressed(&records, ports);
}

/// What a stage of the path `up` did, according to the summary.
fn done(summary: &Value, what: &str) -> u64 {
    let path = summary["paths"].as_array().unwrap().iter().find(|path| path["from"] == "cmd").unwrap();
    let stages = path["stages"].as_array().unwrap().iter();
    stages.map(|stage| stage[what]["packets"].as_u64().unwrap()).sum()
}

/// Copies, changed bits and what waits in a queue are told as the summary counts them, with the headers before a change.
#[test]
fn a_journal_of_all_tells_what_stages_do_to_packets() {
    let folder = Folder::new();
    let (summary, records, _) = faulty(&folder, "all", "duplicate 20% corrupt 10% dualpi2 20mbit");
    let on_way_up = |record: &Value, kind: &str| {
        record["kind"] == kind && record["place"].as_str().unwrap().starts_with("up/")
    };
    for (kind, counted) in [("created", "created"), ("rewritten", "rewritten"), ("held", "delayed")] {
        let (told, counted) = (packets(&records, |record| on_way_up(record, kind)), done(&summary, counted));
        assert!(told == counted && told > 0, "{kind}: {told}, {counted}");
    }
    let released = packets(&records, |record| on_way_up(record, "released"));
    assert_eq!(released, packets(&records, |record| on_way_up(record, "held")));
    for record in records.iter().filter(|record| record["kind"] == "rewritten") {
        let (before, after) = (record["before"].as_str().unwrap(), record["after"].as_str().unwrap());
        assert_eq!(before.len(), after.len());
    }
    assert!(
        records.iter().any(|record| on_way_up(record, "rewritten") && record["before"] != record["after"])
    );
}

#[test]
fn a_sampled_journal_has_one_in_n_with_addresses() {
    let (summary, records, ports) = lossy(&Folder::new(), "1/4");
    let number = |record: &Value| u64::from_str_radix(record["packet_id"].as_str().unwrap(), 16).unwrap();
    assert!(records.iter().all(|record| number(record) % 4 == 0));
    assert!(lost(&records) < lost_by_summary(&summary));
    let received = summary["received"]["packets"].as_u64().unwrap();
    // Packets without a flow have number 0.
    let none = packets(&records, |record| record["kind"] == "received" && number(record) == 0);
    let sampled = packets(&records, |record| record["kind"] == "received" && number(record) != 0);
    let (low, high) = binomial_interval(received - none, 0.25);
    assert!((low..=high).contains(&sampled), "{sampled} of {received}");
    are_addressed(&records, ports);
}

/// Forwarding continues, the error is reported once, and what was written before can be read.
#[test]
fn a_full_disk_ends_the_journal_and_not_the_run() {
    let folder = Folder::small();
    let (journal, ping) = (folder.file("journal"), "ping -q -f -c 400 $FAULTWIRE_HOST");
    // First as much as fits, until it is written; then more than the disk can hold.
    let script = format!(
        "ping -q -c 20 -i 0.002 $FAULTWIRE_HOST && until [ $(stat -c %s {journal}) -gt 4000 ]; do :; done && {ping}"
    );
    let arguments =
        ["exec", "--journal", &journal, "--journal-mode", "all", "--summary", "--", "sh", "-c", &script];
    let ended = output(&arguments);
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(125), "{text}");
    assert!(text.contains("400 received"), "{text}");
    assert_eq!(text.matches("the journal ends early").count(), 1, "{text}");
    let (records, noted) = read(&journal);
    assert!(packets(&records, |record| record["kind"] == "received") >= 10, "{}", records.len());
    assert!(noted.contains("ends in the middle"), "{noted}");
    let length = std::fs::metadata(&journal).unwrap().len();
    assert!(length <= 64 << 10);
}

#[test]
fn run_writes_a_journal() {
    let folder = Folder::new();
    let journal = folder.file("journal");
    let (left, right) = (unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let running = Running::with(Scratch::file(&text), [left.clone(), right], &["--journal", &journal]);
    let ping = ["ping", "-q", "-c", "200", "-i", "0.002", "-W", "1", "10.88.2.2"];
    let ping: Output =
        Running::inside(&left, &ping).output().expect("ping is installed (testbed/run does that)");
    assert!(said(&ping).contains("200 packets transmitted"), "{}", said(&ping));
    let summary = running.stop(Signal::SIGTERM);
    let (records, _) = read(&journal);
    assert!(lost(&records) > 0);
    agree(&summary, &records);
    let places = |record: &&Value| record["place"] == "left>right/netem";
    assert_eq!(records.iter().filter(places).count() as u64, lost(&records));
}

/// Wrong options and files end with exit code 2, and an old journal stays as it was.
#[test]
fn wrong_options_of_a_journal_are_refused_before_anything_is_made() {
    let folder = Folder::new();
    let (journal, made) = (folder.file("journal"), folder.file("made"));
    std::fs::write(&journal, "old").unwrap();
    let config = Scratch::file(&config(&unique(), &unique(), "", ""));
    let missing = folder.file("none/journal");
    let twice = folder.file("./journal");
    let document = format!("--json={twice}");
    let linked = folder.file("linked");
    std::fs::hard_link(&journal, &linked).unwrap();
    let (fresh, again) = (folder.file("fresh"), folder.file("./fresh"));
    let symlink = folder.file("symlink");
    std::os::unix::fs::symlink(&journal, &symlink).unwrap();
    let wrong: [&[&str]; 8] = [
        &["--journal", &journal, "--pcap", &linked],
        &["--journal", &journal, "--pcap", &symlink],
        &["--journal", &fresh, "--pcap", &again],
        &["--journal", &journal, "--journal-match", "tcp port nonsense"],
        &["--journal", &journal, "--journal-path", "nowhere"],
        &["--journal", &missing],
        &["--journal", &journal, "--pcap", &twice],
        &["--pcap", &journal, "--pcap-rotate", "1M", "--journal", &twice],
    ];
    for options in wrong {
        for (command, rest) in [
            (&["exec"][..], &["--", "touch", &made][..]),
            (&["run", config.path()], &[]),
            (&["attach", "--dev", "lo", "--yes", "--both", "loss 1%"], &[]),
        ] {
            let ended = output(&[command, options, rest].concat());
            assert_eq!(ended.status.code(), Some(2), "{command:?} {options:?}: {}", said(&ended));
            let is_twice = options.contains(&"--pcap");
            assert_eq!(said(&ended).contains("given twice"), is_twice, "{options:?}: {}", said(&ended));
        }
    }
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "old");
    for option in ["--journal", "--pcap"] {
        let ended = output(&["exec", &document, option, &journal, "--", "touch", &made]);
        assert_eq!(ended.status.code(), Some(2), "{option}: {}", said(&ended));
        let told: Value = serde_json::from_slice(&std::fs::read(&journal).unwrap()).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("given twice: {option} and --json")), "{message}");
    }
    assert!(!Path::new(&made).exists() && !Path::new(&fresh).exists());
}

/// Standard output is for the summary or the command.
#[test]
fn no_journal_goes_to_standard_output() {
    let folder = Folder::new();
    let config = Scratch::file(&config(&unique(), &unique(), "", ""));
    for (command, rest) in [
        (&["exec"][..], &["--", "true"][..]),
        (&["run", config.path()], &[]),
        (&["case", "run", "mtu-100-receive"], &[]),
    ] {
        let arguments = [command, &["--journal", "-"], rest].concat();
        let mut faultwire = tool(env!("CARGO_BIN_EXE_faultwire"));
        let ended = faultwire.args(&arguments).current_dir(&folder.path).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", said(&ended));
        assert!(said(&ended).contains("goes to a file"), "{}", said(&ended));
        assert_eq!(std::fs::read_dir(&folder.path).unwrap().count(), 0);
    }
}

/// A filter that no record can match is an error, not an empty result.
#[test]
fn filters_with_unknown_names_are_refused() {
    let folder = Folder::new();
    lossy(&folder, "drops");
    let journal = folder.file("journal");
    for (option, value, hint) in [
        ("--reason", "los", "did you mean \"loss\"?"),
        ("--place", "up/netme", "did you mean \"up/netem\"?"),
        ("--flow", "99999", "there are flows 1 to"),
    ] {
        let printed = output(&["journal", &journal, option, value]);
        assert_eq!(printed.status.code(), Some(2), "{option}: {}", said(&printed));
        assert!(said(&printed).contains(hint), "{option}: {}", said(&printed));
    }
    for (options, hint) in [
        (&["--packet", "0"][..], "0 is not in 1.."),
        (&["--flow", "0"], "0 is not in 1.."),
        (&["--from", "2s", "--until", "1s"], "--until 1s is not after --from 2s"),
        (&["--from", "1s", "--until", "1s"], "--until 1s is not after --from 1s"),
    ] {
        let printed = output(&[&["journal", &journal], options].concat());
        assert_eq!(printed.status.code(), Some(2), "{options:?}: {}", said(&printed));
        assert!(said(&printed).contains(hint), "{options:?}: {}", said(&printed));
    }
    // Valid filters that match no record give an empty result with a message.
    for options in
        [&["--reason", "aqm", "--place", "down"][..], &["--packet", "999999"], &["--from", "99999s"]]
    {
        let printed = output(&[&["journal", &journal], options].concat());
        assert!(printed.status.success() && printed.stdout.is_empty(), "{}", said(&printed));
        assert!(said(&printed).contains("no record is as asked for"), "{options:?}: {}", said(&printed));
    }
    let piped = tool(env!("CARGO_BIN_EXE_faultwire"))
        .args(["journal", "-", "--json"])
        .stdin(std::fs::File::open(&journal).unwrap())
        .output()
        .unwrap();
    assert_eq!(piped.stdout, output(&["journal", &journal, "--json"]).stdout);
}

/// A case has a file for each router, and its report lists the most important drops.
#[test]
fn cases_are_recorded() {
    let folder = Folder::new();
    let (journal, control) = (folder.file("case.fwj"), folder.file("case-control-1.fwj"));
    let ended = output(&["case", "run", "mtu-100-receive", "--journal", &journal]);
    assert!(ended.status.success(), "{}", said(&ended));
    let dropped = |file: &str| packets(&read(file).0, |record| record["reason"] == "mtu_silent");
    assert!(dropped(&journal) > 5);
    assert_eq!(dropped(&control), 0);
    let story = String::from_utf8(ended.stdout).unwrap();
    let drop = "client>server/mtu: dropped, mtu_silent (TCP 10.77.1.2:";
    assert!(story.contains("what mattered most") && story.contains(drop), "{story}");

    let full = Folder::small();
    let filler = vec![0_u8; 60 << 10];
    std::fs::write(full.file("filler"), filler).unwrap();
    let ended = output(&[
        "case",
        "run",
        "mtu-100-receive",
        "--journal",
        &full.file("journal"),
        "--journal-mode",
        "all",
    ]);
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    assert!(said(&ended).contains("the journal ends early"), "{}", said(&ended));
}
