//! All output on a terminal fits its width and is coloured, unless colours are turned off.

use std::process::Stdio;

use crate::system::common::{Folder, Scratch, Terminal, config, faultwire, output, said, unique};

const BINARY: &str = env!("CARGO_BIN_EXE_faultwire");

/// The output of the binary on a terminal of this width.
fn on_terminal(columns: u16, coloured: bool, arguments: &[&str]) -> String {
    let mut terminal = Terminal::of_size(columns, 24);
    let unset = if coloured { ["-u", "NO_COLOR"] } else { ["-u", "CLICOLOR"] };
    let line = [&["env", unset[0], unset[1], "TERM=xterm", BINARY], arguments].concat();
    let mut child = terminal.spawn(&line);
    let said = terminal.rest();
    child.wait().unwrap();
    said
}

/// The text without colours, and without what a live line says until something else is written over it.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for line in text.replace("\r\n", "\n").lines() {
        let mut rest = line.rsplit('\r').next().unwrap_or_default();
        while let Some(at) = rest.find('\u{1b}') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let end =
                rest.find(|letter: char| letter.is_ascii_alphabetic()).expect("an escape sequence ends");
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        out.push('\n');
    }
    out
}

/// The lines that are too wide, except for single long words, such as a path, which stay whole.
fn too_wide(text: &str, columns: u16) -> Vec<&str> {
    // The line of usage is clap's, which does not break it; it has room in 80 columns.
    let is_wide = |line: &&str| {
        let is_usage = columns < 80 && line.starts_with("Usage: ");
        line.chars().count() > columns.into()
            && line.trim_start_matches([' ', '-']).contains(' ')
            && !is_usage
    };
    text.lines().filter(is_wide).collect()
}

fn assert_fits(arguments: &[&str], words: &str) {
    for columns in [80, 40] {
        let text = plain(&on_terminal(columns, false, arguments));
        assert!(
            text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words),
            "{arguments:?}: {text}"
        );
        // Code that users copy is not wrapped.
        let prose = text.lines().filter(|line| {
            !(arguments[0] == "case" && line.starts_with("    ") && arguments[1] == "explain")
        });
        let prose: String = prose.flat_map(|line| [line, "\n"]).collect();
        assert_eq!(too_wide(&prose, columns), [""; 0], "{columns} columns: {arguments:?}");
    }
}

#[test]
fn every_help_fits() {
    let all = said(&output(&["--help"]));
    let listed = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()))
        .collect();
    assert!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        assert_fits(&[command, "--help"], "Usage:");
    }
    for line in [&["--help"][..], &["case", "run", "--help"], &["ctl", "set", "--help"]] {
        assert_fits(line, "Usage:");
    }
}

#[test]
fn what_is_read_about_cases_and_configurations_fits() {
    assert_fits(&["case", "list"], "mtu-100-receive");
    assert_fits(&["case", "explain", "mtu-blackhole-tunnel"], "How to cure it");
    assert_fits(&["check", "configs/reference.toml"], "path ");
    assert_fits(&["check", "--mode", "netem", "--explain", "delay 10ms 50ms loss 1% 25%"], "warning:");
    assert_fits(&["doctor"], "capabilities");
}

#[test]
fn the_story_of_a_case_fits() {
    assert_fits(&["case", "run", "mtu-100-receive"], "PASS mtu-100-receive");
}

#[test]
fn summaries_fit() {
    let faults = "delay 1ms loss 30%; mtu 1400 icmp";
    let ping = "ping -q -c 20 -i 0.01 -W 1 $FAULTWIRE_HOST >/dev/null; true";
    assert_fits(&["exec", "--both", faults, "--summary", "--", "sh", "-c", ping], "all accounted for");
    let (left, right) = (unique(), unique());
    let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 1ms loss 30%\"\n";
    let file = Scratch::file(&config(&left, &right, "", path));
    assert_fits(&["run", file.path(), "--duration", "1200ms"], "all accounted for");
    assert_fits(&["bench", file.path(), "--memory", "--time", "20ms"], "path left -> right");
    let folder = Folder::new();
    let (sent, journal) = (folder.file("out.pcap"), folder.file("j.fwj"));
    let capture = "testbed/captures/protocols.pcap";
    assert_fits(&["pcap", capture, &sent, "--spec", "delay 1ms loss 30%"], "all accounted for");
    let line = ["exec", "--both", "loss 30%", "--journal", &journal, "--", "sh", "-c", ping];
    assert!(output(&line).status.success());
    assert_fits(&["journal", &journal], "dropped");
}

#[test]
fn what_is_wrong_is_said_within_the_width() {
    let wrong = "seed = 1\n[[port]]\nname = \"a\"\nadresses = \"10.0.1.2/24\"\n[[path]]\nfrom = \"a\"\nto = \"b\"\n\
                 stage = [{ type = \"loss\", probability = \"300%\" }]\n";
    let file = Scratch::file(wrong);
    assert_fits(&["check", file.path()], "adresses");
    assert_fits(&["exec", "--both", "lss 1%", "--", "true"], "lss");
    assert_fits(&["exec", "delay", "50ms", "--", "true"], "--both");
    assert_fits(&["run", "no/such/file.toml"], "no/such/file.toml");
    assert_fits(&["case", "run", "mtu-100"], "mtu-100-receive");
}

/// A long line of words would be broken, with the carets under another word, or behind the edge.
#[test]
fn carets_stand_under_what_they_mean() {
    let many =
        "delay 20ms 10ms loss 1% reorder 5% gap 5 corrupt 0.1% duplicate 1% rate 10mbit bogus limit 100";
    let path = format!("delay 20ms 10ms distribution /tmp{}", "/not-there".repeat(7));
    let aimed = format!("tcp port 443 {}and prt 1: loss 1%", "and not host 192.0.2.1 ".repeat(4));
    for (faults, word) in
        [("lss 1%", "lss"), (many, "bogus"), (path.as_str(), "/tmp/not-there/"), (aimed.as_str(), "prt")]
    {
        let text = plain(&on_terminal(80, false, &["check", "--explain", faults]));
        let lines: Vec<&str> = text.lines().collect();
        let carets = lines.iter().position(|line| line.trim_start().starts_with('^')).expect(&text);
        let column = |text: &str, what: &str| text.find(what).map(|at| text[..at].chars().count());
        assert_eq!(column(lines[carets], "^"), column(lines[carets - 1], word), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let line = ["case", "run", "--all", "no-such-option"];
    assert!(on_terminal(80, true, &line).contains('\u{1b}'), "clap's own");
    let line = ["check", "--mode", "netem", "--explain", "loss 1% 25%"];
    assert!(on_terminal(80, true, &line).contains("\u{1b}[33mwarning:\u{1b}[0m"));
    assert!(!on_terminal(80, false, &line).contains('\u{1b}'), "NO_COLOR");
    let piped = |variable: &str, value: &str| {
        let mut command = faultwire();
        command.env_remove("NO_COLOR").env(variable, value).args(line).stdin(Stdio::null());
        said(&command.output().unwrap())
    };
    assert!(!piped("TERM", "xterm").contains('\u{1b}'), "a pipe");
    assert!(piped("CLICOLOR_FORCE", "1").contains('\u{1b}'), "forced");
    // Piped output has whole lines, for grep.
    let lines = piped("TERM", "xterm");
    assert!(lines.lines().any(|line| line.chars().count() > 80), "{lines}");
}
