//! `faultwire top` in a terminal: tmux keeps the screen that it draws.

use std::process::Output;

use nix::sys::signal::Signal;

use crate::system::common::{Running, Scratch, config, output, said, tool, unique, until};

/// A terminal of this size in which `command` runs; it goes with the test.
pub(crate) struct Terminal(String);

impl Terminal {
    pub(crate) fn new(columns: u32, rows: u32, command: &str) -> Self {
        let terminal = Self(unique());
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let made =
            terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, command]);
        assert!(made.status.success(), "{}", said(&made));
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let tmux = tool("tmux").args(["-L", &self.0]).args(arguments).output();
        tmux.expect("tmux is installed (testbed/run does that)")
    }

    /// The content of the screen, with the sequences for colours.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p", "-e"]).stdout).unwrap()
    }

    pub(crate) fn type_key(&self, key: &str) {
        assert!(self.tmux(&["send-keys", key]).status.success());
    }

    fn has_ended(&self) -> bool {
        !self.tmux(&["has-session"]).status.success()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A router that loses 30 %, by the name `control`, and a client's namespace.
fn lossy(control: &str) -> (Running, String) {
    let (left, right) = (unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 1ms loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let running = Running::with(Scratch::file(&text), [left.clone(), right], &["--control", control]);
    (running, left)
}

fn ping(left: &str, count: &str) -> Output {
    let ping = ["ping", "-q", "-c", count, "-i", "0.002", "-W", "1", "10.88.2.2"];
    Running::inside(left, &ping).output().expect("ping is installed (testbed/run does that)")
}

#[test]
fn top_shows_a_run_in_a_terminal_of_any_width_and_ends_by_a_key() {
    let control = unique();
    let (running, left) = lossy(&control);
    // Shorter than the time to get the numbers: keys must still work.
    let command = format!("{} top --control {control} --interval 5ms", env!("CARGO_BIN_EXE_faultwire"));
    let (wide, narrow) = (Terminal::new(80, 24, &command), Terminal::new(40, 24, &command));
    assert!(said(&ping(&left, "100")).contains("100 packets transmitted"));
    for (terminal, columns) in [(&wide, 80), (&narrow, 40)] {
        until("the drops are shown", || terminal.screen().contains("left>right/netem 0."));
        let screen = terminal.screen();
        let parts = [
            "faultwire run",
            "received ",
            "held ",
            "dropped as ordered",
            "delay p50",
            "delay p99",
            "seen/s",
            "pkts/s",
            "ICMP 10.88.1.2",
            "latest drops",
        ];
        for part in parts {
            assert!(screen.contains(part), "{part}:\n{screen}");
        }
        let plain = screen
            .replace("\u{1b}[1m", "")
            .replace("\u{1b}[7m", "")
            .replace("\u{1b}[0m", "")
            .replace("\u{1b}[39m", "");
        assert!(!plain.contains('\u{1b}'), "NO_COLOR: {screen:?}");
        assert!(plain.lines().all(|line| line.chars().count() <= columns), "{screen}");
        assert!(plain.lines().any(|line| line.starts_with(">left>right/netem ")), "{screen}");
    }
    // A terminal that accepts no output blocks neither the router nor the end of the view.
    narrow.type_key("C-s");
    assert!(said(&ping(&left, "50")).contains("50 packets transmitted"));
    for terminal in [&narrow, &wide] {
        terminal.type_key("q");
        until("the view has ended", || terminal.has_ended());
    }
    let summary = running.stop(Signal::SIGTERM);
    assert!(summary["dropped"]["loss"]["packets"].as_u64().unwrap() > 10);
}

/// Keys select a stage, pause it, change a parameter and set a mark; refusals are shown.
#[test]
fn top_steers_by_keys() {
    let (control, left, right) = (unique(), unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"mtu 1400; delay 1ms loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let running = Running::with(Scratch::file(&text), [left, right], &["--control", &control]);
    let client = faultwire::control::Client::find(Some(&control.parse().unwrap())).unwrap();
    let mut events = client.events("kinds=changed,marked").unwrap();
    let mut next = || events.next().unwrap().unwrap();
    assert_eq!(next()["kind"], "listening");
    let command = format!("{} top --control {control} --interval 3600s", env!("CARGO_BIN_EXE_faultwire"));
    let terminal = Terminal::new(80, 24, &command);
    let keys = |keys: &[&str]| keys.iter().for_each(|key| terminal.type_key(key));
    // Before the first interval is over, only keys change the screen.
    keys(&["Down"]);
    until("the second stage is chosen", || terminal.screen().contains(">left>right/netem"));
    keys(&["p"]);
    assert_eq!(next()["text"], "pause left>right/netem");
    let is_paused = |line: &str| line.contains(">left>right/netem") && line.contains(" paused ");
    until("it is shown as paused", || terminal.screen().lines().any(is_paused));
    keys(&["p"]);
    assert_eq!(next()["text"], "resume left>right/netem");
    keys(&["s", "loss=5%", "Enter"]);
    assert_eq!(next()["text"], "set left>right/netem loss=5%");
    keys(&["Up", "s", "mtu=60"]);
    until("the line is shown", || {
        terminal.screen().contains("set left>right/mtu (SPEC or KEY=VALUE): mtu=60_")
    });
    keys(&["Enter"]);
    until("why not is shown", || terminal.screen().contains("set.mtu: it is a number from 68"));
    keys(&["m", "here", "Enter"]);
    let mark = next();
    assert_eq!((&mark["kind"], &mark["text"]), (&"marked".into(), &"here".into()));
    keys(&["q"]);
    until("the view has ended", || terminal.has_ended());
    let _ = running.stop(Signal::SIGTERM);
}

#[test]
fn top_prints_frames_without_a_terminal_and_ends_with_the_run() {
    let control = unique();
    let (running, left) = lossy(&control);
    assert!(said(&ping(&left, "50")).contains("50 packets transmitted"));
    let once = output(&["top", "--control", &control, "--once", "--interval", "20ms"]);
    let text = String::from_utf8(once.stdout).unwrap();
    assert!(once.status.success() && text.starts_with("faultwire run") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("left>right/netem") && text.contains("dropped as ordered"), "{text}");
    let arguments = ["top", "--control", &control, "--interval", "20ms"];
    let mut follows = tool(env!("CARGO_BIN_EXE_faultwire"));
    let follows =
        follows.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let follows = follows.spawn().unwrap();
    running.stop(Signal::SIGTERM);
    let ended = follows.wait_with_output().unwrap();
    let said_last = said(&ended);
    let nobody = said_last.contains("has ended") || said_last.contains("cannot ask");
    assert!(nobody, "{said_last}");
    let missing = output(&["top", "--control", &control, "--once"]);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));
    let wrong = output(&["top", "--interval", "0s"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
}
