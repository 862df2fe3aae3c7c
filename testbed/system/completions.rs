//! Completions as shells ask for them, and the manual.

use std::process::Command;

use crate::system::common::{Folder, Running, Scratch, config, output, said, tool, unique};

/// What bash offers for the last of these words.
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
    // Nobody to ask is no mistake.
    assert_eq!(
        offered(&["faultwire", "ctl", "--control", "nobody-is-called-so", "pause", "m"]),
        [] as [&str; 0]
    );
}

/// Zsh and fish read their scripts, where they are installed; all are printed.
#[test]
fn every_shell_has_a_script_that_it_accepts() {
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = output(&["completions", shell]);
        assert!(script.status.success() && script.stdout.len() > 100, "{}", said(&script));
        assert!(String::from_utf8_lossy(&script.stdout).contains("FAULTWIRE_COMPLETE"), "{}", said(&script));
        let file = Scratch::file(&String::from_utf8(script.stdout).unwrap());
        match Command::new(shell).args([check, file.path()]).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", said(&output)),
            Err(error) => {
                assert!(shell != "bash", "{error}");
                eprintln!("{shell} is not installed: its script was not tried");
            }
        }
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
