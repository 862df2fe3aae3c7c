//! The output of every command with `--json`, checked against docs/json.schema.json.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::system::common::{Folder, Foreign, Running, Scratch, config, ip, output, said, tool, unique};

fn schema() -> jsonschema::Validator {
    let text = std::fs::read_to_string("docs/json.schema.json").unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// The document of `command`, which must be all of `text`.
fn document(text: &str, command: &str) -> Value {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let wrong: Vec<String> = schema()
        .iter_errors(&document)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert_eq!(wrong, [""; 0], "{command}: {document:#}");
    assert_eq!(document["command"], command, "{document}");
    document
}

/// The document on standard output; the document in a file must be the same.
fn result(command: &str, arguments: &[&str], code: i32) -> Value {
    let behind = arguments.iter().position(|word| *word == "--").unwrap_or(arguments.len());
    let run = |option: &str| {
        let line = [&arguments[..behind], &[option], &arguments[behind..]].concat();
        let output = output(&line);
        assert_eq!(output.status.code(), Some(code), "{line:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = Folder::new();
    let file = folder.file("x.json");
    std::fs::write(&file, "x".repeat(1 << 20)).unwrap();
    run(&format!("--json={file}"));
    let written = document(&std::fs::read_to_string(&file).unwrap(), command);
    assert_eq!(written.get("error").is_some(), code == 2 || code == 127, "{written}");
    document(&run("--json"), command)
}

#[test]
fn every_command_without_a_network_has_a_document() {
    let found = result("check", &["check", "configs/reference.toml"], 0);
    assert!(found["paths"][0]["stages"][0]["does"].is_string(), "{found}");
    result("check", &["check", "configs/attach.toml"], 0);
    result("check", &["check", "--explain", "delay 10ms"], 0);
    result("case list", &["case", "list"], 0);
    result("case explain", &["case", "explain", "mss-clamp"], 0);
    result("bench", &["bench", "configs/dsl.toml", "--memory", "--time", "10ms"], 0);
    let folder = Folder::new();
    let out = folder.file("out.pcap");
    result("pcap", &["pcap", "testbed/captures/protocols.pcap", &out, "--spec", "loss 50%"], 0);
    let doctor = output(&["doctor", "--json"]);
    document(&String::from_utf8(doctor.stdout).unwrap(), "doctor");
}

/// The document has the same hint as the message on standard error.
#[test]
fn a_mistake_has_its_cure_in_the_document() {
    for (line, cure) in [
        (&["exec", "delay", "50ms", "--json"][..], "--both"),
        (&["exec", "ls", "--json"], "faultwire exec -- ls"),
        (&["exec", "--json", "ls"], "--json=ls"),
        (&["exec", "--json", "--seed", "-1", "--", "true"], "must not be negative"),
    ] {
        let ended = output(line);
        assert_eq!(ended.status.code(), Some(2), "{line:?}: {}", said(&ended));
        let told = document(&String::from_utf8(ended.stdout.clone()).unwrap(), "exec");
        assert!(told["error"].to_string().contains(cure), "{line:?}: {told}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains(cure), "{line:?}: {}", said(&ended));
    }
}

/// `ctl watch | head -1`: the reader ends, which is not an error.
#[test]
fn watching_ends_when_nobody_reads() {
    let (left, right) = (unique(), unique());
    let control = unique();
    let text = config(&left, &right, "", "");
    let running = Running::with(Scratch::file(&text), [left, right], &["--control", &control]);
    let of = ["--control", control.as_str()];
    for more in [&[][..], &["--json"]] {
        let mut watch = tool(env!("CARGO_BIN_EXE_faultwire"));
        watch.args(["ctl", "watch", "--kinds", "marked"]).args(more).args(of);
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        drop(lines);
        let marked = output(&[&["ctl", "mark", "unread"][..], &of[..]].concat());
        assert!(marked.status.success(), "{}", said(&marked));
        let ended = watch.wait_with_output().unwrap();
        assert_eq!(
            (ended.status.code(), &*String::from_utf8_lossy(&ended.stderr)),
            (Some(0), ""),
            "{more:?}"
        );
    }
    running.stop(Signal::SIGTERM);
}

#[test]
fn every_command_with_a_network_has_a_document() {
    let (left, right) = (unique(), unique());
    let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 1ms loss 30%\"\n";
    let file = Scratch::file(&config(&left, &right, "", path));
    result("run", &["run", file.path(), "--duration", "10ms"], 0);
    assert_eq!(result("exec", &["exec", "--both", "loss 1%", "--", "true"], 0)["exit_code"], 0);
    let series = result("exec", &["exec", "--seeds", "2", "--", "false"], 1);
    assert_eq!((&series["series"]["passed"], &series["exit_code"]), (&0.into(), &1.into()));
    let series = result("exec", &["exec", "--seeds", "2", "--", "true"], 0);
    assert_eq!(series["series"], json!({ "passed": 2, "failed_seed": null, "again": null }));
    result("case run", &["case", "run", "mss-clamp"], 0);
    let target = Foreign::new();
    ip(&["-n", &target.0, "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    ip(&["-n", &target.0, "link", "set", "v0", "up"]);
    let attach = ["attach", "--netns", &target.0, "--dev", "v0", "--both", "tcp: loss 1%"];
    result("attach", &[&attach[..], &["--for", "10ms"]].concat(), 0);
    result("attach", &[&attach[..], &["--dry-run"]].concat(), 0);
    // The exit code reports the missing hits.
    let missed = output(&[&attach[..], &["--for", "10ms", "--expect-hit", "1", "--json"]].concat());
    assert_eq!(missed.status.code(), Some(3), "{}", said(&missed));
    assert_eq!(document(&String::from_utf8(missed.stdout).unwrap(), "attach")["hit"], 0);
}

#[test]
fn ctl_and_journals_have_documents() {
    let control = unique();
    let (left, right) = (unique(), unique());
    let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", path);
    let running = Running::with(Scratch::file(&text), [left, right], &["--control", &control]);
    let of = ["--control", control.as_str()];
    for line in [
        &["ctl", "ls"][..],
        &["ctl", "show"],
        &["ctl", "set", "netem", "loss 1%"],
        &["ctl", "pause", "netem"],
        &["ctl", "resume", "netem"],
        &["ctl", "add", "left>right", "delay 1ms"],
        &["ctl", "freeze", "left:right"],
        &["ctl", "release", "left>right"],
        &["ctl", "apply", "left:right=loss 30%"],
        &["ctl", "mark", "here"],
        &["ctl", "flows"],
        &["ctl", "at", "+1h", "pause", "netem"],
        &["ctl", "schedule"],
    ] {
        let answer = result("ctl", &[line, &of[..]].concat(), 0);
        assert!(answer.as_object().unwrap().len() > 2, "{line:?}: {answer}");
    }
    result("ctl", &[&["ctl", "rm", "nothing"][..], &of[..]].concat(), 2);
    let cancelled = output(&[&["ctl", "cancel", "1", "--json"][..], &of[..]].concat());
    document(&String::from_utf8(cancelled.stdout).unwrap(), "ctl");
    // One line for each event; the first one says that it listens.
    let mut watch = tool(env!("CARGO_BIN_EXE_faultwire"));
    watch.args(["ctl", "watch", "--json", "--kinds", "marked"]).args(of);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(document(&lines.next().unwrap(), "ctl")["kind"], "listening");
    result("ctl", &[&["ctl", "mark", "seen"][..], &of[..]].concat(), 0);
    let marks: Vec<String> = lines.by_ref().take(2).collect();
    for line in &marks {
        assert_eq!(document(line, "ctl")["text"], "seen");
    }
    running.stop(Signal::SIGTERM);
    assert_eq!(lines.next(), None);
    watch.wait().unwrap();
    let folder = Folder::new();
    let journal = folder.file("j.fwj");
    let ping = "ping -q -c 20 -i 0.01 -W 1 $FAULTWIRE_HOST >/dev/null; true";
    let recorded = output(&["exec", "--both", "loss 50%", "--journal", &journal, "--", "sh", "-c", ping]);
    assert!(recorded.status.success(), "{}", said(&recorded));
    let lines = output(&["journal", &journal, "--json"]);
    let lines = String::from_utf8(lines.stdout).unwrap();
    assert!(lines.lines().count() > 3, "{lines}");
    lines.lines().for_each(|line| assert_eq!(document(line, "journal")["kind"], "dropped"));
}

#[test]
fn what_goes_wrong_is_a_document_too() {
    for (command, line, code) in [
        ("run", &["run", "no/such/file"][..], 2),
        ("check", &["check", "configs/cases/mss-clamp.toml"], 2),
        ("exec", &["exec", "--both", "lss 1%", "--", "true"], 2),
        ("exec", &["exec", "--", "/no/such/program"], 127),
        ("case run", &["case", "run", "mss-clmp"], 2),
        ("journal", &["journal", "Cargo.toml"], 2),
        ("attach", &["attach", "--netns", "no-such", "--both", "loss 1%"], 2),
        // Refused by the parser of the command line.
        ("run", &["run"], 2),
        ("faultwire", &["rnu", "x"], 2),
        ("exec", &["exec", "delay", "50ms", "--", "true"], 2),
    ] {
        let said = result(command, line, code);
        assert_eq!(said["error"]["code"], code, "{said}");
        assert!(said["error"]["message"].as_str().unwrap().len() > 10, "{said}");
    }
    // The file must follow an equals sign.
    let wrong = output(&["exec", "--json", "x.json", "--", "true"]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("--json=x.json"), "{}", said(&wrong));
}
