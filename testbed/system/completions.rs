//! Completions as shells ask for them, and the manual.

use std::time::Duration;

use faultwire::control::Client;
use faultwire::lab::clock::{Deadline, pause};
use serde_json::json;

use crate::system::common::{Folder, Running, Scratch, config, output, said, tool, unique};
use crate::system::top::Terminal;

/// The completions that bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
        mkdir "$FOLDER/bin" 2>/dev/null; ln -sf "$FAULTWIRE" "$FOLDER/bin/faultwire"; PATH=$FOLDER/bin:$PATH
        source <(faultwire completions bash) || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        function=$(complete -p faultwire | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" faultwire "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let folder = Folder::new();
    let mut bash = tool("bash");
    bash.args(["-c", script, "bash"])
        .args(words)
        .env("FAULTWIRE", env!("CARGO_BIN_EXE_faultwire"))
        .env("FOLDER", &folder.path);
    let output = bash.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes_commands_and_the_stages_of_the_run() {
    assert!(offered(&["faultwire", "ct"]).contains(&"ctl".to_owned()), "{:?}", offered(&["faultwire", "ct"]));
    assert!(offered(&["faultwire", "ctl", "--js"]).contains(&"--json".to_owned()));
    let (control, left, right) = (unique(), unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"mtu 1400; delay 1ms loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let _running = Running::with(Scratch::file(&text), [left, right], &["--control", &control]);
    let stages = offered(&["faultwire", "ctl", "--control", &control, "pause", ""]);
    for stage in ["left\\>right/mtu", "left\\>right/netem", "mtu", "netem"] {
        assert!(stages.contains(&stage.to_owned()), "{stage}: {stages:?}");
    }
    assert_eq!(offered(&["faultwire", "ctl", "--control", &control, "pause", "m"]), ["mtu"]);
    assert_eq!(offered(&["faultwire", "ctl", "--control", &control, "freeze", "l"]), ["left\\>right"]);
    let instances = offered(&["faultwire", "ctl", "show", "--control", &control[..4]]);
    assert!(instances.contains(&control), "{instances:?}");
    // It is not an error that no instance runs.
    assert_eq!(
        offered(&["faultwire", "ctl", "--control", "nobody-is-called-so", "pause", "m"]),
        [] as [&str; 0]
    );
}

/// Typed into each shell, in a terminal: the beginning of a stage's name, the key Tab, and Enter.
#[test]
fn every_shell_completes_stages_of_the_run() {
    let (control, left, right) = (unique(), unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"mtu 1400; delay 1ms loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let _running = Running::with(Scratch::file(&text), [left, right], &["--control", &control]);
    let client = Client::find(Some(&control.parse().unwrap())).unwrap();
    let is_paused = || client.get("/v1/stages").unwrap()[1]["paused"] == true;
    let folder = Folder::new();
    let home = folder.path.to_str().unwrap();
    for (shell, start) in [
        ("bash --norc --noprofile -i", "source <(faultwire completions bash)"),
        ("zsh -f -i", "autoload -U compinit; compinit -u -D; source <(faultwire completions zsh)"),
        ("fish --no-config -i", "faultwire completions fish | source"),
    ] {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_faultwire"));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let terminal = Terminal::new(120, 30, &format!("env HOME={home} PATH={path} TERM=xterm {shell}"));
        for key in [start, "Enter", &format!("faultwire ctl --control {control} pause ne"), "Tab", "Enter"] {
            terminal.type_key(key);
        }
        let deadline = Deadline::after(Duration::from_mins(1));
        while !is_paused() {
            assert!(deadline.left().is_some(), "{shell} does not complete:\n{}", terminal.screen());
            pause(Duration::from_millis(5));
        }
        client
            .send("PATCH", "/v1/paths/left%3Eright/stages/netem", Some(&json!({ "paused": false })), None)
            .unwrap();
    }
}

/// Each command has a page, whose options are those of its help.
#[test]
fn the_manual_has_what_the_help_has() {
    let folder = Folder::new();
    let written = output(&["man", "--dir", folder.path.to_str().unwrap()]);
    assert!(written.status.success(), "{}", said(&written));
    for words in
        [&[][..], &["run"], &["exec"], &["ctl"], &["ctl", "set"], &["case", "run"], &["top"], &["man"]]
    {
        let page = output(&[&["man"], words].concat());
        let page = String::from_utf8(page.stdout).unwrap();
        assert!(page.contains(".TH faultwire"), "{page}");
        let name = [&["faultwire"], words].concat().join("-");
        let file = std::fs::read_to_string(folder.path.join(format!("{name}.1"))).unwrap();
        assert_eq!(file, page, "{name}");
        let help = output(&[words, &["--help"]].concat());
        let help = String::from_utf8(help.stdout).unwrap();
        let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        for option in options.filter_map(|rest| rest.split([' ', '=', '[']).next()) {
            assert!(page.contains(&option.replace('-', "\\-")), "{name}: {option}");
        }
    }
    let unknown = output(&["man", "fly"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
}
