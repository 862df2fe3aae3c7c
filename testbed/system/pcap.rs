//! `faultwire pcap`, on captures that tcpdump made, read by tshark.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::system::capture::Tcpdump;
use crate::system::common::{Running, Scratch, Terminal, faultwire, output, said, tool, unique};
use crate::system::run::{NUMBERED, numbered};

/// A folder that is removed at the end of the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("faultwire-{}", unique()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// These fields of every packet that the filter selects, one line each.
pub(crate) fn tshark(file: &str, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = tool("tshark");
    command.args(["-n", "-r", file, "-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is installed (testbed/run does that)");
    assert!(output.status.success(), "tshark: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect()
}

/// Raw IP datagrams with the number as payload, `gap` ms apart, as scapy writes them.
fn crafted(file: &str, link: &str, count: u32) {
    let script = format!(
        "from scapy.all import *\n\
         ps = [{link}IP(src='10.0.1.2', dst='10.0.2.2')/UDP(sport=4000, dport=9)/Raw(b'%08d' % i) for i in range({count})]\n\
         for i, p in enumerate(ps): p.time = 1700000000 + i * 0.001\n\
         wrpcap('{file}', ps)\n"
    );
    let output = tool("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "scapy (testbed/run installs it): {}", said(&output));
}

fn pcap(arguments: &[&str]) -> std::process::Output {
    output(&[&["pcap"], arguments].concat())
}

/// The same seed loses the same datagrams offline as it did on devices, between kernels.
#[test]
fn offline_loses_what_was_lost_online() {
    let faults = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 20% 25% delay 2ms 1ms\"\n";
    let running = Running::start("seed = 11", faults);
    let mut tcpdump = Tcpdump::start(&running.left, "fw-left");
    let online: Vec<Vec<u32>> = (0..4).map(|flow| numbered(&running, 41_000 + flow)).collect();
    tcpdump.finish(&running);
    running.stop(Signal::SIGTERM);
    let config =
        Scratch::file(&format!("{}{faults}", crate::system::common::config("l", "r", "seed = 11", "")));
    let folder = Folder::new();
    let out = folder.file("out.pcap");
    let capture = tcpdump.file.to_str().unwrap();
    let output = pcap(&[capture, &out, "--config", config.path(), "--from", "10.88.1.2/32"]);
    assert!(output.status.success(), "{}", said(&output));
    for (flow, online) in online.into_iter().enumerate() {
        let filter = format!("udp.srcport == {}", 41_000 + flow);
        let offline: Vec<u32> = tshark(&out, &filter, &["data"])
            .iter()
            .map(|data| u32::from_str_radix(data, 16).unwrap())
            .filter(|&number| number < NUMBERED)
            .collect();
        assert!(online.len() > 100 && online.len() < 200, "{online:?}");
        assert_eq!(offline, online, "flow {flow}");
    }
}

/// tshark reads the output: every packet once, sent or dropped, later by exactly the delay; the same bytes in each run.
#[test]
fn others_read_what_is_written() {
    let folder = Folder::new();
    for link in ["", "Ether()/", "Ether()/Dot1Q(vlan=7)/"] {
        let [input, out, again, lost] =
            ["in.pcap", "out.pcapng", "again.pcapng", "lost.pcapng"].map(|name| folder.file(name));
        crafted(&input, link, 500);
        let spec = ["--spec", "delay 5ms loss 30%", "--seed", "3", "--dropped", &lost];
        let output = pcap(&[&[input.as_str(), &out], &spec[..]].concat());
        assert!(output.status.success(), "{}", said(&output));
        assert!(pcap(&[&[input.as_str(), &again], &spec[..4]].concat()).status.success());
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "two runs differ");
        let fields = ["data.text", "frame.time_epoch", "data"];
        let (sent, dropped) = (tshark(&out, "udp", &fields), tshark(&lost, "udp", &fields));
        assert_eq!(sent.len() + dropped.len(), 500, "{link}");
        let (low, high) = faultwire::lab::check::binomial_interval(500, 0.3);
        assert!((low..=high).contains(&(dropped.len() as u64)), "{}", dropped.len());
        for line in &sent {
            let words: Vec<&str> = line.split('\t').collect();
            let text = String::from_utf8(hex(words[2])).unwrap();
            let number: u64 = text.parse().unwrap();
            let millis = number + 5;
            let expected = format!("{}.{:03}000000", 1_700_000_000 + millis / 1_000, millis % 1_000);
            assert_eq!(words[1], expected, "{line}");
        }
        let reasons = tshark(&lost, "frame.comment == \"dropped by netem: loss\"", &["frame.number"]);
        assert_eq!(reasons.len(), dropped.len());
        let bad = tshark(&out, "ip.checksum.status == 0 || udp.checksum.status == 0", &["frame.number"]);
        assert!(bad.is_empty(), "{bad:?}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

#[test]
fn a_capture_that_breaks_in_the_middle_is_processed_up_to_there() {
    let folder = Folder::new();
    let [input, out] = ["in.pcap", "out.pcap"].map(|name| folder.file(name));
    crafted(&input, "", 10);
    let whole = std::fs::read(&input).unwrap();
    std::fs::write(&input, &whole[..whole.len() - 5]).unwrap();
    let output = pcap(&[&input, &out, "--spec", "delay 1ms", "--json"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("broken after packet 9 (byte"), "{text}");
    assert_eq!(tshark(&out, "udp", &["frame.number"]).len(), 9);
}

/// Packets that were read before a signal leave as usual, and the message has their number.
#[test]
fn a_signal_ends_a_capture_in_good_order() {
    const PACKETS: u32 = 4_000;
    /// Bytes of a packet with its header in the file.
    const EACH: usize = 16 + 36;
    /// A pipe holds so many bytes, and the program reads so many at once: what it has not looked at yet is not read.
    const PIPE: usize = 1 << 16;
    let folder = Folder::new();
    let [input, out] = ["in.pcap", "out.pcap"].map(|name| folder.file(name));
    crafted(&input, "", PACKETS);
    let mut child = faultwire()
        .args(["pcap", "-", &out, "--spec", "delay 10ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // After this, all but the content of the pipe has been read; the pipe stays open.
    stdin.write_all(&std::fs::read(&input).unwrap()).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let read: u32 = text
        .split_once("read up to packet ")
        .and_then(|(_, rest)| rest.split_once(" only: ended by SIGINT; what was read was processed"))
        .and_then(|(number, _)| number.parse().ok())
        .expect(&text);
    assert!(read as usize >= (PACKETS as usize * EACH - 2 * PIPE) / EACH - 1, "{text}");
    let sent = tshark(&out, "udp", &["data.text", "data"]);
    assert_eq!(sent.len(), read as usize, "{text}");
    for (number, line) in sent.iter().enumerate() {
        let data = line.rsplit('\t').next().unwrap();
        assert_eq!(hex(data), format!("{number:08}").into_bytes());
    }
}

/// Ctrl-C on a terminal reaches tcpdump too, which then writes its last packets. They are read.
#[test]
fn what_writes_into_the_pipe_is_heard_to_its_end_after_ctrl_c() {
    let folder = Folder::new();
    let [input, out] = ["in.pcap", "out.pcap"].map(|name| folder.file(name));
    crafted(&input, "", 10);
    let mut terminal = Terminal::open();
    // A program that Ctrl-C ends says what it still has. It is ready when what it has said has been opened: by then Ctrl-C
    // does not end the reader any more. The shell itself outlives it: with it the terminal would hang up.
    let script = format!(
        "trap : INT; (head -c 300 {input}; trap 'tail -c +301 {input}; exit' INT; until [ -e {out} ]; do :; done; echo ready >&2; while :; do read x; done) \
         | {} pcap - {out} --spec 'delay 1ms'",
        env!("CARGO_BIN_EXE_faultwire")
    );
    drop(faultwire());
    let mut child = terminal.spawn(&["bash", "-c", &script]);
    terminal.wait_for("ready");
    terminal.ctrl_c();
    let text = terminal.rest();
    let _ = child.wait().unwrap();
    assert_eq!(tshark(&out, "udp", &["frame.number"]).len(), 10, "{text}");
    assert!(text.contains("10 packets in 0.009000 s"), "{text}");
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_is_written() {
    let folder = Folder::new();
    let [input, out] = ["in.pcap", "out.pcap"].map(|name| folder.file(name));
    crafted(&input, "", 1);
    let mut wifi = std::fs::read(&input).unwrap();
    wifi[20] = 105;
    let wifi_file = folder.file("wifi.pcap");
    std::fs::write(&wifi_file, wifi).unwrap();
    let empty = folder.file("empty.pcap");
    std::fs::write(&empty, b"").unwrap();
    let missing = folder.file("missing.pcap");
    let dsl = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/dsl.toml").display().to_string();
    for (arguments, word) in [
        (vec![wifi_file.as_str(), &out, "--spec", "delay 1ms"], "link type 105"),
        (vec![&empty, &out, "--spec", "delay 1ms"], "empty"),
        (vec![&missing, &out, "--spec", "delay 1ms"], "No such file"),
        (vec!["/etc/passwd", &out, "--spec", "delay 1ms"], "not a capture"),
        (vec![&input, &out, "--spec", "los 1%"], "\"loss\""),
        (vec![&input, &input, "--spec", "loss 1%"], "twice"),
        (vec![&input, &out, "--config", &dsl], "--path"),
        (vec![&input, &out, "--config", &dsl, "--path", "a:b"], "no path a:b; there are: left>right"),
        (vec![&input, &out], "--config"),
    ] {
        let output = pcap(&arguments);
        let text = said(&output);
        assert!(output.status.code() == Some(2) && text.contains(word), "{arguments:?}: {text}");
        assert!(!Path::new(&out).exists(), "{arguments:?} wrote something");
    }
}

/// From a pipe to a pipe, with the answers of a small hop: the datagrams have 36 bytes, fewer than any hop may take, so
/// larger ones are made of them.
#[test]
fn streams_and_answers_work() {
    let folder = Folder::new();
    let [input, answers] = ["in.pcap", "icmp.pcapng"].map(|name| folder.file(name));
    let script = format!(
        "from scapy.all import *\n\
         wrpcap('{input}', [Ether()/IP(src='10.0.1.2', dst='10.0.2.2', flags='DF')/UDP()/Raw(b'x' * n) for n in (10, 200, 20)])\n"
    );
    assert!(tool("/usr/bin/python3").args(["-c", &script]).status().unwrap().success());
    let binary = env!("CARGO_BIN_EXE_faultwire");
    let script = format!(
        "cat {input} | {binary} pcap - - --spec 'mtu 100 icmp' --answers {answers} | tcpdump -n -r - | wc -l"
    );
    let output = tool("sh").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).trim() == "2", "{}", said(&output));
    let told = tshark(&answers, "icmp.type == 3 && icmp.code == 4", &["ip.dst", "icmp.mtu"]);
    assert_eq!(told, ["10.0.1.2,10.0.2.2\t100"]);
}
