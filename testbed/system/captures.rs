//! Captures that other programs made, compared with tshark: faultwire reads what tshark reads, and a path without
//! faults leaves it unchanged.
//!
//! `FAULTWIRE_CAPTURES` names folders of more captures, with a colon between two.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::system::common::{output, said};
use crate::system::pcap::Folder;

/// The folders where Debian's packages put captures.
const FOLDERS: [&str; 3] = ["/usr/share/doc", "/usr/share/scapy", "/usr/lib/python3/dist-packages"];
const ENDINGS: [&str; 6] = [".pcap", ".pcapng", ".cap", ".ntar", ".pcap.gz", ".pcapng.gz"];
/// What is the same of a packet before and after: length on the wire, length in the file, comment, interface, and its bytes by
/// what tshark makes of them.
const FIELDS: [&str; 7] = [
    "frame.len",
    "frame.cap_len",
    "frame.comment",
    "frame.interface_name",
    "frame.protocols",
    "ip.id",
    "tcp.seq_raw",
];

/// The fields of each packet, its time first, and whether tshark read the file to its end.
fn read(file: &Path) -> (Vec<Vec<String>>, bool) {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args([
        "-T",
        "fields",
        "-E",
        "occurrence=f",
        "-e",
        "frame.time_epoch",
    ]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is installed (testbed/run does that)");
    let text = String::from_utf8_lossy(&output.stdout);
    // tshark's word for an interface without a name, in pcapng; in pcap it says nothing.
    let field = |text: &str| if text == "unknown" { String::new() } else { text.to_owned() };
    let packets = text.lines().map(|line| line.split('\t').map(field).collect()).collect();
    (packets, output.status.success())
}

fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if kind.is_dir() {
            captures(&path, found);
        } else if kind.is_file() && ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// Times in nanoseconds as they leave: none before an earlier one. `None` if one is before 1970, after what 64 bits count,
/// or no time.
fn as_they_leave(packets: &mut [Vec<String>]) -> Option<()> {
    let mut latest = 0;
    for packet in packets {
        let (seconds, fraction) = packet[0].split_once('.')?;
        // tshark's word for a fraction of more than a second, which it takes modulo 32 bits.
        if fraction.len() > 9 {
            return None;
        }
        let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
        let nanos = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)?;
        latest = nanos.max(latest);
        packet[0] = latest.to_string();
    }
    Some(())
}

/// Whether a pcap file tells a time by a fraction of a second or more. tshark counts it modulo 2^32 nanoseconds.
fn has_wide_fraction(file: &Path) -> bool {
    let bytes = std::fs::read(file).unwrap();
    let (is_big, most) = match bytes.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1]) => (false, 1_000_000),
        Some([0xa1, 0xb2, 0xc3, 0xd4]) => (true, 1_000_000),
        Some([0x4d, 0x3c, 0xb2, 0xa1]) => (false, 1_000_000_000),
        Some([0xa1, 0xb2, 0x3c, 0x4d]) => (true, 1_000_000_000),
        _ => return false,
    };
    let word = |at: usize| {
        let word = *bytes.get(at..)?.first_chunk()?;
        Some(if is_big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    };
    let mut at = 24;
    while let (Some(fraction), Some(length)) = (word(at + 4), word(at + 8)) {
        if fraction >= most {
            return true;
        }
        at += 16 + length as usize;
    }
    false
}

/// The differences between how faultwire and tshark read this capture.
fn flaw(file: &Path, folder: &Folder) -> Result<Option<&'static str>, String> {
    let (mut expected, whole) = read(file);
    let [out, lost] = ["out.pcapng", "lost.pcapng"].map(|name| folder.file(name));
    let input = file.to_str().unwrap();
    let done = output(&["pcap", input, &out, "--spec", "", "--dropped", &lost, "--json"]);
    let text = said(&done);
    if done.status.code() == Some(2) {
        let known = text.contains("link type")
            || text.contains("is not a capture")
            || text.contains("is broken after packet 0")
            || text.contains("of which nothing is known");
        return if known { Ok(Some("refused")) } else { Err(text) };
    }
    if has_wide_fraction(file) || as_they_leave(&mut expected).is_none() {
        return Ok(Some("with times that no capture of nanoseconds has"));
    }
    if whole != done.status.success() {
        return Err(format!("tshark read it to its end: {whole}; {text}"));
    }
    let json: serde_json::Value = serde_json::from_str(text.split("\nfaultwire: ").next().unwrap())
        .map_err(|error| format!("{error}: {text}"))?;
    if json["capture"]["packets"] != expected.len() {
        return Err(format!("tshark reads {} packets: {text}", expected.len()));
    }
    // Packets that are not IP are dropped with that reason; all others leave.
    let mut counts: HashMap<Vec<String>, i64> = HashMap::new();
    for packet in expected {
        *counts.entry(packet).or_default() += 1;
    }
    for (file, ours) in [(&out, ""), (&lost, "dropped: malformed")] {
        let (mut packets, _) = read(Path::new(file));
        as_they_leave(&mut packets).ok_or("it leaves at no possible time")?;
        for mut packet in packets {
            if packet[3] == ours {
                packet[3].clear();
            }
            *counts.entry(packet).or_default() -= 1;
        }
    }
    match counts.iter().find(|count| *count.1 != 0) {
        None => Ok(None),
        Some((packet, count)) => Err(format!("{count} of {packet:?}\n{text}")),
    }
}

#[test]
fn what_tshark_reads_is_read_and_leaves_as_it_came() {
    let mut files = Vec::new();
    let more = std::env::var("FAULTWIRE_CAPTURES").unwrap_or_default();
    for folder in FOLDERS.into_iter().chain(more.split(':').filter(|folder| !folder.is_empty())) {
        captures(Path::new(folder), &mut files);
    }
    captures(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed/captures"), &mut files);
    files.sort();
    let folder = Folder::new();
    let (mut same, mut others) = (0, HashMap::<_, u32>::new());
    let mut wrong = Vec::new();
    for file in &files {
        match flaw(file, &folder) {
            Ok(None) => same += 1,
            Ok(Some(why)) => *others.entry(why).or_default() += 1,
            Err(text) => wrong.push(format!("{}: {text}", file.display())),
        }
    }
    println!("{same} captures are the same; {others:?}");
    assert!(wrong.is_empty(), "{} of {} captures:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    assert!(same >= 4, "only {same} captures were found");
}
