//! SIGKILL at random moments of `run`, `exec`, `attach` and `case run`, and what is left afterwards.
//!
//! `FAULTWIRE_KILLS` says how often each is killed. All of it happens in namespaces of this process, so that the whole state of
//! the host can be compared: links, addresses, routes, rules, mounts, files and processes.
//!
//! What may be left, by design:
//! - of `run` with `create = true`, and only until the next start: the names of its namespaces in /run/netns, which are
//!   mounts, and their records in /run/faultwire;
//! - of `case run`: an empty tracefs instance, until the next case that looks at drop reasons (not looked at here, since
//!   the trace is the machine's and other tests use it);
//! - of `run`, `exec` and `attach`: the file of the control socket, and of its token, until the next start.
//!
//! Journals and captures are read after each kill: all of their whole blocks must be good.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use faultwire::lab::clock::{self, Deadline};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Kills of each command, unless the environment says otherwise.
const KILLS: u64 = 4;
/// A variable in the environment of all processes of this test, with the test's own id.
const MARK: &str = "FAULTWIRE_KILL_TEST";
/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    // cargo and its friends ask what there is to run.
    if std::env::args().any(|argument| argument == "--list") {
        println!("kill: test");
        return;
    }
    if let Err(closed) = faultwire::net::privilege::check() {
        panic!("this test makes namespaces: {closed}");
    }
    // Wherever the tree is, also where the namespace of the test has another folder.
    program();
    enter();
    let kills =
        std::env::var("FAULTWIRE_KILLS").map_or(KILLS, |count| count.parse().expect("a number of kills"));
    let config = PathBuf::from("/run/kill.toml");
    fs::write(&config, CONFIG).unwrap();
    let config = config.to_str().unwrap();
    let veths = PathBuf::from("/run/kill-veth.toml");
    let text = CONFIG.replace("workers = 2", "").replace("[[port]]", "[[port]]\nkind = \"veth\"");
    fs::write(&veths, text).unwrap();
    let veths = veths.to_str().unwrap();
    let subjects = [
        Subject { name: "run", arguments: &["run", config, "--json"], files: true, records: false },
        Subject {
            name: "run with veth ports",
            arguments: &["run", veths, "--json"],
            files: true,
            records: false,
        },
        Subject {
            name: "exec",
            arguments: &["exec", "--device", "tun", "--both", "delay 1ms", "--", "sleep", "0.3"],
            files: false,
            records: false,
        },
        Subject {
            name: "exec with veth pairs",
            arguments: &["exec", "--device", "veth", "--both", "delay 1ms", "--", "sleep", "0.3"],
            files: false,
            records: false,
        },
        Subject {
            name: "case",
            arguments: &["case", "run", "no-route", "mss-clamp"],
            files: false,
            records: false,
        },
        Subject {
            name: "run that records",
            arguments: &["run", config, "--json"],
            files: true,
            records: true,
        },
        Subject {
            name: "attach that records",
            arguments: &["attach", "--dev", "kill0", "--both", "delay 1ms", "--for", "300ms"],
            files: false,
            records: true,
        },
        Subject {
            name: "exec that records",
            arguments: &["exec", "--both", "delay 1ms", "--", "sh", "-c", PING],
            files: false,
            records: true,
        },
        Subject {
            name: "exec with a way out",
            arguments: &["exec", "--reach", "host-networks", "--both", "delay 1ms", "--", "sleep", "0.3"],
            files: false,
            records: false,
        },
    ];
    for file in [JOURNAL, CAPTURE] {
        fs::write(file, "").unwrap();
    }
    // Whatever the first start makes for good (the mount of /run/netns) is there before.
    swept();
    let mut random = 7;
    for subject in &subjects {
        let span = subject.span();
        let mut left = 0;
        for _ in 0..kills {
            random = step(random);
            left += usize::from(subject.kill(span.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)));
        }
        println!(
            "{}: killed {kills} times within {span:?}; {left} times the next start had names to remove",
            subject.name
        );
    }
    println!("test result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", subjects.len());
}

const CONFIG: &str = "duration = \"300ms\"\nworkers = 2\n\
    [[port]]\nname = \"left\"\nnetns = \"kill-left\"\ncreate = true\naddresses = [\"10.88.1.2/24\", \"fd88:1::2/64\"]\n\
    routes = [\"default\"]\n\
    [[port]]\nname = \"right\"\nnetns = \"kill-right\"\ncreate = true\naddresses = [\"10.88.2.2/24\", \"fd88:2::2/64\"]\n\
    routes = [\"default\"]\n\
    [[port]]\nname = \"host\"\naddresses = [\"10.88.3.2/24\"]\nroutes = [\"10.88.0.0/16\"]\n\
    [[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 10ms loss 1%\"\n";

/// Fills both files of a run that records.
const PING: &str = "ping -q -c 60 -i 0.005 $FAULTWIRE_HOST > /dev/null";
/// What is recorded goes here.
const JOURNAL: &str = "/tmp/kill.fwj";
const CAPTURE: &str = "/tmp/kill.pcapng";
/// All outputs at once, and a listener.
const RECORDS: [&str; 8] =
    ["--journal", JOURNAL, "--journal-mode", "all", "--pcap", CAPTURE, "--control-listen", "0"];

/// The next state of a linear congruential generator (Knuth's constants).
fn step(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Namespaces of our own for network and mounts, with a `/run` and a `/tmp` that nobody else has.
fn enter() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for folder in ["/run", "/tmp"] {
        mount(Some("kill"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    ip(&["link", "set", "lo", "up"]);
    // A network, which a way out needs, and what is attached to; its ends talk about their addresses.
    ip(&["link", "add", "kill0", "type", "veth", "peer", "name", "kill1"]);
    // An address that IPv6 gives them by itself would be tentative when the network is first looked at, and later not.
    for device in ["kill0", "kill1"] {
        ip(&["link", "set", device, "addrgenmode", "none"]);
    }
    ip(&["addr", "add", "10.88.7.1/24", "dev", "kill0"]);
    ip(&["link", "set", "kill0", "up"]);
    ip(&["link", "set", "kill1", "up"]);
    // Until the kernel has found that nobody else has their addresses, the state changes by itself.
    let deadline = Deadline::after(PATIENCE);
    while ip(&["addr"]).contains("tentative") && deadline.left().is_some() {
        clock::pause(Duration::from_millis(5));
    }
}

fn ip(arguments: &[&str]) -> String {
    let output =
        Command::new("ip").args(arguments).output().expect("iproute2 is installed (testbed/run does that)");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program under test, by a descriptor that was opened before its folder was covered.
fn program() -> Command {
    static FILE: OnceLock<fs::File> = OnceLock::new();
    let file = FILE.get_or_init(|| fs::File::open(env!("CARGO_BIN_EXE_faultwire")).unwrap());
    Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A command that is killed.
struct Subject<'a> {
    name: &'static str,
    arguments: &'a [&'a str],
    /// It makes named namespaces, which the next start removes.
    files: bool,
    /// It writes a journal and a capture, and listens for requests.
    records: bool,
}

impl Subject<'_> {
    fn start(&self) -> Child {
        let (records, command) = (if self.records { &RECORDS[..] } else { &[] }, self.arguments);
        program()
            .arg(command[0])
            .args(records)
            .args(&command[1..])
            .env(MARK, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// How long it takes when it is left alone.
    fn span(&self) -> Duration {
        let before = clock::now();
        let status = self.start().wait().unwrap();
        assert!(status.success(), "{}: {status}", self.name);
        clock::now() - before
    }

    /// Kills one that has run for `after`. Whether the next start had something to remove.
    fn kill(&self, after: Duration) -> bool {
        let before = State::now();
        let mut child = self.start();
        // Not to wait for anything: the moment is what is chosen.
        clock::pause(after);
        child.kill().unwrap();
        child.wait().unwrap();
        gone();
        settled(&before);
        if self.records {
            journal_is_good(&format!("{} killed after {after:?}", self.name));
            capture_is_good(&format!("{} killed after {after:?}", self.name));
        }
        let mut state = State::now();
        let names = fs::read_dir("/run/netns").map_or(0, Iterator::count);
        let (sockets, records) = run_files();
        if !self.files {
            assert_eq!((names, records), (0, 0), "{} killed after {after:?} left namespaces", self.name);
        }
        // The control socket of a killed instance is a file that the next start removes.
        if self.files || sockets > 0 {
            swept();
            state = State::now();
            assert_eq!(run_files(), (0, 0), "{} killed after {after:?}: left by the next start", self.name);
        }
        state.equals(&before, &format!("{} killed after {after:?}", self.name));
        names + records > 0
    }
}

/// A journal is read to its last whole block; there is none if nothing was begun.
fn journal_is_good(what: &str) {
    if fs::metadata(JOURNAL).unwrap().len() == 0 {
        return;
    }
    let read = program().args(["journal", JOURNAL]).output().unwrap();
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success() && !said.contains("damaged"), "{what}: {said}");
}

/// Each block of the capture that is whole has the same length at both ends, and the last one ends where the next would begin, or is
/// cut.
fn capture_is_good(what: &str) {
    let bytes = fs::read(CAPTURE).unwrap();
    let word =
        |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()) as usize);
    let mut at = 0;
    while let Some(length) = word(at + 4) {
        assert!(length >= 12 && length % 4 == 0, "{what}: a block of {length} bytes at {at}");
        if at + length > bytes.len() {
            break;
        }
        assert_eq!(word(at + length - 4), Some(length), "{what}: the block at {at} of the capture");
        at += length;
    }
    assert!(bytes.is_empty() || bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "{what}: no capture");
}

/// Control sockets and their tokens, and records of namespaces.
fn run_files() -> (usize, usize) {
    let files = fs::read_dir("/run/faultwire").into_iter().flatten().flatten();
    let is_control = |file: &fs::DirEntry| {
        let is_token = file.path().extension().is_some_and(|extension| extension == "token");
        is_token || file.file_type().is_ok_and(|kind| kind.is_socket())
    };
    let (sockets, records): (Vec<_>, Vec<_>) = files.partition(is_control);
    (sockets.len(), records.len())
}

/// Starts `run` once more, to its end: it removes what a killed one left, and itself.
fn swept() {
    let status = program()
        .args(["run", "/run/kill.toml", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the start after a kill: {status}");
}

/// Waits until the kernel has removed what it removes by itself: namespaces that nobody uses, and veth pairs with them. If
/// something stays, the comparison says what.
fn settled(before: &State) {
    let deadline = Deadline::after(PATIENCE);
    while State::now().network != before.network && deadline.left().is_some() {
        clock::pause(Duration::from_millis(5));
    }
}

/// Waits until no process of the test is left; what has no end of its own fails.
fn gone() {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let left = marked();
        if left.is_empty() {
            return;
        }
        assert!(deadline.left().is_some(), "processes are left: {left:?}");
        clock::pause(Duration::from_millis(2));
    }
}

/// Command lines of the processes that carry our mark.
fn marked() -> Vec<String> {
    let mark = format!("{MARK}={}", std::process::id());
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let ours = processes.filter(|process| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    });
    ours.map(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    })
    .collect()
}

/// All of the host that a command could have changed.
#[derive(Debug, PartialEq, Eq)]
struct State {
    network: Vec<String>,
    mounts: String,
    files: BTreeSet<PathBuf>,
}

impl State {
    fn now() -> Self {
        let network = [
            &["-o", "link"][..],
            &["-o", "address"],
            &["route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["rule"],
            &["-6", "rule"],
        ];
        let mut files = BTreeSet::new();
        for folder in ["/run", "/tmp"] {
            list(Path::new(folder), &mut files);
        }
        Self {
            network: network.map(ip).into(),
            mounts: fs::read_to_string("/proc/self/mounts").unwrap(),
            files,
        }
    }

    fn equals(&self, before: &Self, what: &str) {
        assert_eq!(self.network, before.network, "{what}: the network is not as it was");
        assert_eq!(self.mounts, before.mounts, "{what}: mounts are not as they were");
        let added: Vec<_> = self.files.difference(&before.files).collect();
        assert!(added.is_empty(), "{what}: files are left: {added:?}");
    }
}

fn list(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, found);
        }
        found.insert(path);
    }
}
