//! The examples of README.md and docs/attach.md, run as they are written.
//!
//! A block of a document is what stands between fences with the language `text`, or is indented by four spaces. Each block is in the
//! table below, which says how it is checked. What runs has its own namespaces for processes, mounts and the network, so that fixed
//! names and ports disturb nobody, and nothing is left.

use std::path::Path;
use std::process::Output;

use crate::system::common::{Folder, Terminal, faultwire, said, tool};

/// How a block is checked.
#[derive(Debug, Clone, Copy)]
enum How {
    /// No commands.
    NoCommands,
    /// Builds or installs: what it names must exist. What follows `--` is an example for faultwire.
    Cargo,
    /// The commands end without an error.
    Ends,
    /// The same, for a command that asks a running instance.
    Asks,
    /// The command runs until Ctrl-C, which comes when it has printed this.
    GoesOn(&'static str),
    /// It needs something that this machine lacks. The command is understood and refused with these words.
    Lacks(&'static str),
    /// It needs something that a test cannot create.
    NotRun(&'static str),
}

use How::{Asks, Cargo, Ends, GoesOn, Lacks, NoCommands, NotRun};

/// The blocks of each document, by their beginning.
const README: [(&str, How); 17] = [
    ("cargo run --profile quick", Cargo),
    ("mtu-100-receive: The receiver", NoCommands),
    ("cargo install --locked --path .", Cargo),
    ("rustup target add", Cargo),
    ("$ faultwire exec --seed 11", Ends),
    ("faultwire exec --both 'delay 50ms' -- faultwire exec", GoesOn("bytes from 198.18.0.2")),
    ("faultwire exec --reach internet", Ends),
    ("faultwire exec --both 'delay 20ms; tcp port 6379", Ends),
    ("faultwire attach --container web", Lacks("there is no running container \"web\"")),
    ("faultwire ctl set up/netem", Asks),
    ("faultwire toxiproxy --listen", GoesOn("Ctrl-C ends it")),
    ("faultwire pcap in.pcap", Ends),
    ("faultwire check configs/dsl.toml", GoesOn("forwarding between")),
    ("mkfifo ready", Ends),
    ("host A ── TUN", NoCommands),
    ("testbed/run", NotRun("it is what runs this test")),
    ("src/pipeline", NoCommands),
];

const ATTACH: [(&str, How); 10] = [
    ("faultwire attach --container web --both", Lacks("there is no running container \"web\"")),
    ("tcp | udp | icmp", NoCommands),
    ("faultwire attach --container web --down 'rate", Lacks("there is no running container \"web\"")),
    ("faultwire attach --container 3f2a91c04d11", Lacks("there is no running container \"3f2a91c04d11\"")),
    ("faultwire attach --container \"$(crictl", NotRun("it needs a node of Kubernetes")),
    ("rustup target add", Cargo),
    ("faultwire attach --pid \"$(systemctl", NotRun("it needs systemd with a service in a namespace")),
    ("faultwire attach --container web --match", Lacks("there is no running container \"web\"")),
    ("faultwire attach --dev eth0", GoesOn("Ctrl-C detaches")),
    ("faultwire attach --container web --down 'loss", Lacks("there is no running container \"web\"")),
];

/// A host with `lo`, a way out by `eth0`, and no network behind it.
const HOST: &str = "mount -t tmpfs none /run; ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; \
                    ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.2; ";

/// The blocks of a document, without fences and indentation.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let (mut all, mut block, mut fence) = (Vec::new(), Vec::new(), None::<&str>);
    for line in text.lines().chain([""]) {
        let inside = match fence {
            Some(_) if line == "```" => {
                fence = None;
                None
            }
            Some(language) => (language == "text").then_some(line),
            None if line.starts_with("```") => {
                fence = line.strip_prefix("```");
                None
            }
            None => line.strip_prefix("    "),
        };
        match inside {
            Some(line) => block.push(line),
            None if !block.is_empty() => all.push(std::mem::take(&mut block)),
            None => {}
        }
    }
    all
}

/// A folder with the files that the examples use.
fn folder() -> Folder {
    let (folder, tree) = (Folder::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
    std::os::unix::fs::symlink(tree.join("configs"), folder.path.join("configs")).unwrap();
    std::fs::copy(tree.join("testbed/captures/protocols.pcap"), folder.path.join("in.pcap")).unwrap();
    std::fs::write(folder.path.join("test.sh"), "#!/bin/sh\nping -q -c 1 $FAULTWIRE_HOST\n").unwrap();
    assert!(tool("chmod").args(["+x", &folder.file("test.sh")]).status().unwrap().success());
    folder
}

/// The words that run a script on a host of its own, where `faultwire` is the binary under test.
fn words(folder: &Folder, script: &str) -> Vec<String> {
    drop(faultwire());
    let binary = Path::new(env!("CARGO_BIN_EXE_faultwire")).parent().unwrap().display();
    let script = format!("cd {}; PATH={binary}:$PATH; {HOST}\n{script}", folder.path.display());
    let options = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    options.into_iter().chain(["bash", "-euo", "pipefail", "-c", &script]).map(str::to_owned).collect()
}

fn run(script: &str) -> Output {
    let folder = folder();
    let words = words(&folder, script);
    tool(&words[0]).args(&words[1..]).output().expect("unshare is installed (util-linux)")
}

/// Presses Ctrl-C when these words have been printed.
fn interrupt(script: &str, said_first: &str) {
    let folder = folder();
    let words = words(&folder, script);
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&words.iter().map(String::as_str).collect::<Vec<_>>());
    terminal.wait_for(said_first);
    terminal.ctrl_c();
    let rest = terminal.rest();
    // A shell that is ended by Ctrl-C has exit code 130.
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 130)), "{script}: {code:?} {rest}");
}

/// The part of a line that is the same in every run, without times.
fn without_times(line: &str) -> &str {
    let line = line.find('│').map_or(line, |at| &line[at..]);
    let ends = ["time ", "mdev = "].iter().find_map(|before| line.find(before).map(|at| at + before.len()));
    ends.map_or(line, |end| &line[..end])
}

/// The output has all lines that the document shows, except for those that stand for omitted lines.
fn assert_shown(shown: &[&str], done: &Output) {
    let text = said(done);
    assert!(done.status.success(), "{text}");
    let all: Vec<&str> = text.lines().map(without_times).collect();
    let stands_for_others = |line: &&&str| line.trim_start().starts_with(['…', '.']);
    for line in shown.iter().filter(|line| !stands_for_others(line)) {
        assert!(all.contains(&without_times(line)), "{line:?} is not said any more:\n{text}");
    }
}

/// The parts of a command of cargo or rustup exist; faultwire's arguments, if it starts it.
fn assert_builds(line: &str) -> Option<&str> {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    let (own, arguments) = line.split_once(" -- ").map_or((line, None), |(own, rest)| (own, Some(rest)));
    let mut words = own.split(' ').skip(2);
    while let Some(word) = words.next() {
        let is_so = match word {
            "--locked" => Path::new("Cargo.lock").exists(),
            "--path" => words.next() == Some(".") && manifest.contains("[[bin]]\nname = \"faultwire\""),
            "--profile" => manifest.contains(&format!("[profile.{}]", words.next().unwrap())),
            "--release" => manifest.contains("[profile.release]"),
            "target" => words.next() == Some("add"),
            "--target" | "add" => {
                let known = tool("rustc").args(["--print", "target-list"]).output().unwrap();
                let target = words.next().unwrap();
                said(&known).lines().any(|line| line == target)
            }
            _ => false,
        };
        assert!(is_so, "{word} of `{line}`");
    }
    arguments
}

/// Runs the blocks of a document, each of which is in its table, in the same order.
fn check(document: &str, table: &[(&str, How)]) {
    let text = std::fs::read_to_string(document).unwrap();
    let blocks = blocks(&text);
    let first = |block: &Vec<&str>| block[0].to_owned();
    assert_eq!(blocks.len(), table.len(), "{document}: {:#?}", blocks.iter().map(first).collect::<Vec<_>>());
    // The output of the block before.
    let mut before = None::<Output>;
    for (block, (begins, how)) in blocks.iter().zip(table) {
        assert!(block[0].starts_with(begins), "{document}: {:?} is not the block {begins:?}", block[0]);
        let script = block.join("\n");
        let said_before = before.take();
        match how {
            NoCommands => {
                if let Some(done) = said_before {
                    assert_shown(block, &done);
                }
            }
            NotRun(reason) => assert!(!reason.is_empty()),
            Cargo => {
                let arguments: Vec<&str> = block.iter().filter_map(|line| assert_builds(line)).collect();
                before = arguments.first().map(|arguments| run(&format!("faultwire {arguments}")));
            }
            Ends => match block[0].strip_prefix("$ ") {
                Some(command) => assert_shown(&block[1..], &run(command)),
                None => assert_shown(&[], &run(&script)),
            },
            Asks => {
                let instance = format!(
                    "cat >script <<'END'\n{script}\nEND\nfaultwire exec --both 'loss 0%' -- bash -e script"
                );
                let done = run(&instance);
                assert_shown(&[], &done);
            }
            GoesOn(words) => interrupt(&script, words),
            Lacks(words) => {
                let done = run(&script);
                let text = said(&done);
                assert!(!done.status.success() && text.contains(words), "{script}: {text}");
            }
        }
    }
}

#[test]
fn every_example_of_the_readme_works_as_it_is_written() {
    check("README.md", &README);
}

#[test]
fn every_example_of_attach_works_as_it_is_written() {
    check("docs/attach.md", &ATTACH);
}
