//! Every byte that `pcap` writes for a seed: digests of captures through paths, against those that are committed in
//! `testbed/digest/expected.txt`.
//!
//! A change that is not meant to change behaviour leaves the digests unchanged. Otherwise `FAULTWIRE_DIGEST=write
//! cargo test --test digest` writes them again, and the changelog says why. Needs no root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines of words for `--spec`.
const SPECS: [&str; 22] = [
    "loss 20%",
    "loss 10% 50%",
    "loss gemodel 10% 30% 80% 1%",
    "loss state 10% 40% 20% 60% 1%",
    "loss 30% ecn",
    "duplicate 30%",
    "corrupt 30%",
    "delay 5ms",
    "delay 5ms 3ms",
    "delay 5ms 3ms 25% distribution normal",
    "delay 5ms 3ms distribution pareto",
    "delay 5ms reorder 50% gap 2",
    "rate 1mbit limit 10",
    "rate 1mbit 38 48 5 delay 2ms",
    "slot 1ms 3ms packets 4 delay 2ms",
    "mtu 600",
    "mtu 600 icmp",
    "mtu 600 fragment",
    "mss 536 overhead 20",
    "timestamps random-offset",
    "rst-order last 5ms",
    "mtu 900 fragment mss 700 delay 3ms 1ms loss 5% duplicate 5% corrupt 5% reorder 10% rate 5mbit limit 50",
];

/// Stages for `--config`, which have no words in a spec.
const STAGES: [&str; 16] = [
    r#"{ type = "loss", pattern = ["10%", "60%", "0%"] }"#,
    r#"{ type = "loss", indices = [1, "4-6", 12], scope = "path" }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", queue = { packets = 9, discipline = "head-drop" } }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "codel" } }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "pie" } }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "red", min = 5, max = 15 } }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", police = { burst = "6 kB" } }"#,
    r#"{ type = "rate", rate = "1 Mbit/s", burst = "6 kB" }"#,
    r#"{ type = "corrupt", probability = "50%", fix_checksum = true }"#,
    r#"{ type = "reorder", kind = "displace", probability = "40%", by = 2, timeout = "5ms" }"#,
    r#"{ type = "drop", match = { protocol = "tcp" }, trigger = { every = 3 } }"#,
    r#"{ type = "fragment-filter" }"#,
    r#"{ type = "tcp", window_max = 100, strip = ["sack", "timestamps"], ecn = "bleach" }"#,
    r#"{ type = "inject", kind = "rst", sequence = "stale", trigger = { every = 5 } }"#,
    r#"{ type = "inject", kind = "dup-ack", trigger = { every = 4 } }"#,
    r#"{ type = "paws-per-host" }"#,
];

/// Captures; more are made below.
const CAPTURES: [&str; 6] =
    ["ipv6-empty.pcap", "ipv6-too-big.pcap", "ng_meta.pcapng", "order.pcap", "protocols.pcap", "tso0.pcap"];

/// FNV-1a of 64 bits.
fn digest(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("faultwire-digest-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A conversation of four TCP connections and four UDP flows, IPv4 and IPv6, with trains, fragments and resets.
fn conversation(path: &Path) {
    use etherparse::PacketBuilder;
    let mut file = Vec::new();
    // Nanoseconds, raw IP.
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        file.extend(word.to_le_bytes());
    }
    let mut time = 1_700_000_000_000_000_000_u64;
    for round in 0..60_u32 {
        for flow in 0..8_u16 {
            // Some come at the same instant.
            time += u64::from((round * 7 + u32::from(flow) * 3) % 5) * 100_000;
            let size = [0, 100, 536, 1_400, 1_448, 4_344][usize::from(flow + round as u16) % 6];
            let payload: Vec<u8> = (0..size).map(|at| (at as u32 ^ round) as u8).collect();
            let (source, number) = (40_000 + flow, 1_000 + round * 5_000);
            let v4 = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64);
            let v6 = PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64);
            let mut bytes = Vec::new();
            match (flow % 4, round) {
                (0, 0) => {
                    let mss = [etherparse::TcpOptionElement::MaximumSegmentSize(1_460)];
                    v4.tcp(source, 443, number, 1_000).syn().options(&mss).unwrap().write(&mut bytes, &[])
                }
                (0, 59) => v4.tcp(source, 443, number, 1_000).rst().write(&mut bytes, &[]),
                (0, _) => {
                    let stamp = [etherparse::TcpOptionElement::Timestamp(round, 7)];
                    let tcp = v4.tcp(source, 443, number, 1_000).ack(9).options(&stamp).unwrap();
                    tcp.write(&mut bytes, &payload)
                }
                (1, _) => v6.tcp(source, 443, number, 1_000).ack(9).write(&mut bytes, &payload),
                (2, _) => v4.udp(source, 53).write(&mut bytes, &payload),
                _ => v6.udp(source, 53).write(&mut bytes, &payload),
            }
            .unwrap();
            let length = bytes.len() as u32;
            for word in [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(bytes);
        }
    }
    fs::write(path, file).unwrap();
}

/// What one run of `pcap` wrote and said.
fn run(folder: &Path, capture: &Path, faults: &[&str], seed: &str) -> u64 {
    let file = |name: &str| folder.join(name).display().to_string();
    let outputs = [file("out.pcapng"), file("dropped.pcapng"), file("answers.pcap"), file("log")];
    for output in &outputs {
        let _ = fs::remove_file(output);
    }
    let [out, dropped, answers, log] = &outputs;
    let output = Command::new(env!("CARGO_BIN_EXE_faultwire"))
        .args(["pcap", &capture.display().to_string(), out, "--seed", seed])
        .args(["--dropped", dropped, "--answers", answers, "--log", log])
        .args(faults)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {faults:?}: {said}", capture.display());
    outputs.iter().fold(EMPTY, |sum, output| {
        let bytes = fs::read(output).unwrap_or_else(|error| panic!("{output}: {error}"));
        // The log names the command, and so this folder.
        let text = String::from_utf8_lossy(&bytes);
        if output == log {
            let lines = text.lines().filter(|line| !line.contains("command"));
            return lines.fold(sum, |sum, line| digest(sum, line.as_bytes()));
        }
        digest(sum, &bytes)
    })
}

/// Every run: its name and its digest.
fn digests() -> BTreeMap<String, u64> {
    let folder = Folder::new();
    let made = folder.0.join("conversation.pcap");
    conversation(&made);
    let seeds = root().join("testbed/fuzz/seeds/capture");
    let mut captures: Vec<_> = CAPTURES.iter().map(|name| seeds.join(name)).collect();
    captures.push(made);
    let config = folder.0.join("path.toml");
    let mut digests = BTreeMap::new();
    for capture in &captures {
        let name = capture.file_name().unwrap().to_str().unwrap();
        for spec in SPECS {
            for (mode, words) in
                [("exact", vec!["--spec", spec]), ("netem", vec!["--spec", spec, "--mode", "netem"])]
            {
                let sum = run(&folder.0, capture, &words, "7");
                digests.insert(format!("{name} | {spec} | {mode}"), sum);
            }
        }
        for stage in STAGES {
            let ports = "[[port]]\nname = \"a\"\n[[port]]\nname = \"b\"\n";
            let text = format!("{ports}[[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{stage}]\n");
            fs::write(&config, text).unwrap();
            let words = ["--config", config.to_str().unwrap()];
            digests.insert(format!("{name} | {stage}"), run(&folder.0, capture, &words, "7"));
        }
    }
    digests
}

#[test]
fn every_byte_of_pcap_is_as_committed() {
    let file = root().join("testbed/digest/expected.txt");
    let found = digests();
    let mut text = String::new();
    for (name, sum) in &found {
        writeln!(text, "{sum:016x}  {name}").unwrap();
    }
    if std::env::var("FAULTWIRE_DIGEST").is_ok_and(|what| what == "write") {
        fs::write(&file, text).unwrap();
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let differing: Vec<_> =
        text.lines().filter(|line| !committed.lines().any(|other| other == *line)).collect();
    assert!(
        differing.is_empty() && committed.lines().count() == found.len(),
        "{} of {} runs differ from {} (which has {}); if that is meant, write it anew with FAULTWIRE_DIGEST=write and \
         say why in the changelog:\n{}",
        differing.len(),
        found.len(),
        file.display(),
        committed.lines().count(),
        differing.join("\n")
    );
}
