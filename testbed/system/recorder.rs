//! `--pcap` of a running router, read by tshark: against the summary, and with the fields of the Lua file in contrib.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{
    Folder, Running, Scratch, Services, config, faultwire, output, said, send, tool, unique,
};

/// A wire packet as tshark shows it.
#[derive(Debug, Clone)]
struct Wire {
    /// Port and side: `host/in`.
    interface: String,
    id: String,
    verdict: String,
    length: u64,
    /// Of the IPv4 header, TCP and UDP: 0 is a bad one.
    checksums: [String; 3],
    comment: String,
}

impl Wire {
    fn side(&self) -> &str {
        self.interface.rsplit('/').next().unwrap()
    }
}

/// Runs tshark on a file, which must be whole; the lines it prints.
fn tshark(file: &Path, arguments: &[&str]) -> Vec<String> {
    let checks = ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"];
    let checks = checks.iter().flat_map(|check| ["-o", check]);
    let ended = tool("tshark").arg("-r").arg(file).args(checks).args(arguments).output();
    let ended = ended.expect("tshark is installed (testbed/run does that)");
    let noted =
        String::from_utf8_lossy(&ended.stderr).replace("Running as user \"root\" and group \"root\".", "");
    let noted = noted.replace("This could be dangerous.", "");
    assert!(ended.status.success() && noted.trim().is_empty(), "{}", said(&ended));
    String::from_utf8(ended.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The packets of a file, none of them malformed.
fn wires(file: &Path) -> Vec<Wire> {
    assert_eq!(tshark(file, &["-Y", "_ws.malformed || !ip && !ipv6"]), [""; 0]);
    let fields = [
        "frame.interface_name",
        "frame.packet_id",
        "frame.verdict.ebpf_tc",
        "frame.len",
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "frame.comment",
    ];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let arguments: Vec<&str> = ["-T", "fields", "-E", "occurrence=f"].into_iter().chain(fields).collect();
    let wire = |line: String| {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut next = || parts.next().unwrap();
        Wire {
            interface: next(),
            id: next(),
            verdict: next(),
            length: next().parse().unwrap(),
            checksums: [next(), next(), next()],
            comment: next(),
        }
    };
    tshark(file, &arguments).into_iter().map(wire).collect()
}

/// Packets and bytes of a side.
fn amount(wires: &[Wire], side: &str) -> (u64, u64) {
    let of_side = wires.iter().filter(|wire| wire.side() == side);
    of_side.fold((0, 0), |(packets, bytes), wire| (packets + 1, bytes + wire.length))
}

/// The capture has the packets that the summary counts, except for malformed ones.
fn agree(wires: &[Wire], summary: &Value) {
    let counted = |amount: &Value| (amount["packets"].as_u64().unwrap(), amount["bytes"].as_u64().unwrap());
    let mut dropped = (0, 0);
    let mut malformed = (0, 0);
    for (reason, amount) in summary["dropped"].as_object().unwrap() {
        let sum = if reason == "malformed" { &mut malformed } else { &mut dropped };
        let (packets, bytes) = counted(amount);
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    let (packets, bytes) = counted(&summary["received"]);
    assert_eq!(amount(wires, "in"), (packets - malformed.0, bytes - malformed.1));
    assert_eq!(amount(wires, "out"), counted(&summary["sent"]));
    assert_eq!(amount(wires, "dropped"), dropped);
}

/// `exec` with a capture, faults each way, and traffic in trains; its summary.
fn captured(folder: &Folder, options: &[&str], faults: [&str; 2]) -> Value {
    let services = Services::start();
    let (capture, json) = (folder.file("c.pcapng"), folder.file("json"));
    let option = format!("--json={json}");
    let [up, down] = faults;
    let mut arguments = vec![
        "exec", "--seed", "4", "--linger", "60s", "--up", up, "--down", down, "--pcap", &capture, &option,
    ];
    let script = services.script();
    arguments.extend(options);
    arguments.extend(["--", "bash", "-c", &script]);
    let ended = output(&arguments);
    assert!(ended.status.success(), "{}", said(&ended));
    assert!(!said(&ended).contains("lacks"), "{}", said(&ended));
    services.end();
    serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap()
}

#[test]
fn a_capture_adds_up_to_the_summary() {
    let folder = Folder::new();
    let summary = captured(&folder, &[], ["loss 5% delay 2ms", "duplicate 10%"]);
    let wires = wires(&folder.path.join("c.pcapng"));
    agree(&wires, &summary);
    for wire in &wires {
        assert!(wire.checksums.iter().all(|status| status != "0"), "a bad checksum: {wire:?}");
        let verdict = match wire.side() {
            "in" => "",
            "out" => "0",
            _ => "2",
        };
        assert_eq!(wire.verdict, verdict, "{wire:?}");
    }
    let came: HashSet<&str> = ids(&wires, "in").collect();
    let (mut joined, mut copies) = (0, 0);
    for wire in wires.iter().filter(|wire| wire.side() != "in" && !wire.id.is_empty()) {
        joined += u64::from(came.contains(wire.id.as_str()));
        copies += u64::from(wire.comment.contains("down/netem: created"));
    }
    assert!(joined > 200 && copies > 0, "{joined} {copies}");
    let lost: Vec<&Wire> = wires.iter().filter(|wire| wire.comment.contains("up/netem: dropped")).collect();
    assert_eq!(lost.len() as u64, summary["dropped"]["loss"]["packets"]);
    for wire in lost {
        let (value, rest) =
            wire.comment.strip_prefix("up/netem: dropped, ").unwrap().split_once(" < ").unwrap();
        assert!(value.parse::<f64>().unwrap() < 0.05, "{wire:?}");
        assert!(
            rest.starts_with("0.05") && rest.contains("(flow ") && rest.contains(", packet "),
            "{wire:?}"
        );
    }
    assert!(wires.iter().any(|wire| wire.comment.contains("up: sent, held 2.")), "no wait is told");
}

fn ids<'w>(wires: &'w [Wire], side: &'w str) -> impl Iterator<Item = &'w str> {
    wires.iter().filter(move |wire| wire.side() == side).map(|wire| wire.id.as_str())
}

/// In Wireshark, users filter and sort by what happened to the packets.
#[test]
fn the_lua_file_has_verdict_stage_and_held_time() {
    let folder = Folder::new();
    let summary = captured(&folder, &[], ["loss 5% delay 2ms", "delay 1ms"]);
    let script = format!("lua_script:{}/contrib/wireshark/faultwire.lua", env!("CARGO_MANIFEST_DIR"));
    let file = folder.path.join("c.pcapng");
    let filtered = |filter: &str, fields: &[&str]| {
        let fields = fields.iter().flat_map(|field| ["-e", field]);
        let arguments: Vec<&str> =
            ["-X", &script, "-Y", filter, "-T", "fields"].into_iter().chain(fields).collect();
        tshark(&file, &arguments)
    };
    let lost = filtered(
        "faultwire.verdict == \"dropped\" && faultwire.stage == \"up/netem\"",
        &["faultwire.reason"],
    );
    assert_eq!(lost.len() as u64, summary["dropped"]["loss"]["packets"]);
    assert!(lost.iter().all(|reason| reason.contains(" < 0.05")), "{lost:?}");
    let sent =
        filtered("faultwire.verdict == \"sent\"", &["faultwire.held", "faultwire.flow", "faultwire.port"]);
    assert_eq!(sent.len() as u64, summary["sent"]["packets"]);
    let mut held: HashMap<&str, Vec<f64>> = HashMap::new();
    for line in &sent {
        let parts: Vec<&str> = line.split('\t').collect();
        if !parts[0].is_empty() {
            held.entry(parts[2]).or_default().push(parts[0].parse().unwrap());
        }
    }
    // To the host by way of `up`, to the command by `down`.
    for (port, least) in [("host", 0.002), ("cmd", 0.001)] {
        let times = &held[port];
        assert!(times.iter().all(|time| *time >= least) && times.len() > 10, "{port}: {times:?}");
    }
    let info = tshark(&file, &["-X", &script, "-Y", "faultwire.verdict == \"dropped\""]);
    assert!(info.iter().all(|line| line.contains("[dropped by ")), "{info:?}");
}

#[test]
fn captures_are_rotated_and_old_files_removed() {
    let folder = Folder::new();
    captured(&folder, &["--pcap-rotate", "100kB", "--pcap-keep", "2"], ["loss 1%", "delay 1ms"]);
    let mut files: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder.path).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let Some(number) = name.strip_prefix("c").and_then(|rest| rest.strip_suffix(".pcapng")) else {
            continue;
        };
        let number = number.strip_prefix('-').map_or(1, |number| number.parse().unwrap());
        files.insert(number, entry.metadata().unwrap().len());
        assert!(!wires(&entry.path()).is_empty(), "{name}");
    }
    // 200,000 bytes arrived and left.
    let last = *files.last_key_value().unwrap().0;
    assert!(last >= 4, "{files:?}");
    assert_eq!(files.keys().copied().collect::<Vec<_>>(), [last - 1, last]);
    assert!((100_000..170_000).contains(&files[&(last - 1)]), "{files:?}");
}

/// A file with this snapshot length can be read, however short its packets are.
#[test]
fn a_capture_of_drops_has_no_other_packets_and_what_was_cut_is_told() {
    let folder = Folder::new();
    let options = ["--pcap-mode", "drops", "--pcap-snaplen", "60", "--pcap-match", "udp"];
    let summary = captured(&folder, &options, ["loss 20%", "delay 1ms"]);
    let file = folder.path.join("c.pcapng");
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.cap_len", "-e", "udp.dstport"];
    let lines = tshark(&file, &fields);
    assert!(
        !lines.is_empty() && (lines.len() as u64) < summary["dropped"]["loss"]["packets"].as_u64().unwrap()
    );
    for line in lines {
        let parts: Vec<&str> = line.split('\t').collect();
        assert!(parts[0].ends_with("/dropped") && !parts[2].is_empty(), "{line}");
        assert!(parts[1].parse::<u32>().unwrap() <= 60, "{line}");
    }
}

/// Number of packets in a file, and of missing packets according to its statistics. Only lengths and types of blocks are read.
fn counted(file: &[u8]) -> (u64, u64) {
    let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    let (mut at, mut packets, mut missing) = (0, 0, 0);
    while at < file.len() {
        match word(at) {
            6 => packets += 1,
            // The number of an interface, a time, and one option (isb_ifdrop) of eight bytes.
            5 => {
                assert_eq!(word(at + 20), 5 | 8 << 16);
                missing += u64::from_le_bytes(*file[at + 24..].first_chunk().unwrap());
            }
            _ => {}
        }
        at += word(at + 4) as usize;
    }
    assert_eq!(at, file.len(), "the last block is not whole");
    (packets, missing)
}

/// Number of packets that a capture should have: all that arrived, left or were dropped, except malformed ones.
fn expected(summary: &Value) -> u64 {
    let packets = |amount: &Value| amount["packets"].as_u64().unwrap();
    let dropped = summary["dropped"].as_object().unwrap();
    // They count as received and as dropped.
    let malformed = dropped.get("malformed").map_or(0, packets);
    let dropped: u64 = dropped.values().map(packets).sum();
    packets(&summary["received"]) + packets(&summary["sent"]) + dropped - 2 * malformed
}

/// Runs `exec` with a capture. Its command sends `bytes` bytes to this host by TCP. `received` is called when all have arrived. Returns
/// the messages of `exec` and its summary.
fn streamed(capture: &str, json: &str, faults: &str, bytes: u64, received: impl FnOnce()) -> (String, Value) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("head -c {bytes} /dev/zero >/dev/tcp/$FAULTWIRE_HOST/{port}");
    let option = format!("--json={json}");
    let arguments = ["exec", "--seed", "4", "--linger", "60s", "--up", faults, "--pcap", capture, &option];
    let ended = std::thread::scope(|scope| {
        let exec = scope.spawn(|| {
            let ended = output(&[&arguments[..], &["--", "bash", "-c", &script]].concat());
            // If the command has not connected, this ends the wait for it.
            let _ = TcpStream::connect(("127.0.0.1", port));
            ended
        });
        let mut stream = listener.accept().unwrap().0;
        assert_eq!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap(), bytes);
        received();
        exec.join().unwrap()
    });
    assert!(ended.status.success(), "{}", said(&ended));
    (said(&ended), serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap())
}

/// A stream of 300 Mbit/s. All of it fits into the ring, so no packet may be missing in the file, even on a slow machine.
#[test]
fn a_capture_of_a_paced_stream_is_complete() {
    let folder = Folder::new();
    let (capture, json) = (folder.file("c.pcapng"), folder.file("json"));
    let (text, summary) = streamed(&capture, &json, "loss 0.1% rate 300mbit", 12 << 20, || {});
    assert!(!text.contains("lacks"), "{text}");
    let wires = wires(Path::new(&capture));
    agree(&wires, &summary);
    assert!(summary["dropped"]["loss"]["packets"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(counted(&std::fs::read(&capture).unwrap()), (expected(&summary), 0));
    assert!(wires.iter().all(|wire| wire.checksums.iter().all(|status| status != "0")));
}

/// The file is a pipe that is read only after the stream has ended. Packets are forwarded meanwhile, and each packet that does not fit
/// into the ring is counted.
#[test]
fn what_a_capture_lacks_is_counted_to_the_packet() {
    /// More than fits into the ring and the pipe.
    const BYTES: u64 = 160 << 20;
    let folder = Folder::new();
    let (capture, json) = (folder.file("pipe"), folder.file("json"));
    nix::unistd::mkfifo(Path::new(&capture), nix::sys::stat::Mode::S_IRUSR).unwrap();
    // A pipe can be opened for writing only if it has a reader.
    let mut pipe = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&capture).unwrap();
    let mut file = Vec::new();
    let (text, summary) = streamed(&capture, &json, "loss 0.01%", BYTES, || {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        pipe.read_to_end(&mut file).unwrap();
    });
    let (packets, missing) = counted(&file);
    assert!(packets > 0 && missing > 0, "{packets} {missing}");
    assert_eq!(packets + missing, expected(&summary), "{text}");
    assert_eq!(summary["conserved"], true);
    assert!(text.contains(&format!("the capture lacks {missing} packets: ")), "{text}");
}

/// Forwarding continues, the error is reported once, and what was written before can be read.
#[test]
fn a_full_disk_ends_the_capture_and_not_the_run() {
    let folder = Folder::small();
    let capture = folder.file("c.pcapng");
    // First as much as fits, until it is written; then more than the disk can hold.
    let script = format!(
        "ping -q -c 20 -i 0.002 $FAULTWIRE_HOST && until [ $(stat -c %s {capture}) -gt 4000 ]; do :; done; \
         ping -q -f -c 400 -s 1000 $FAULTWIRE_HOST"
    );
    let ended = output(&["exec", "--pcap", &capture, "--summary", "--", "sh", "-c", &script]);
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(125), "{text}");
    assert!(text.contains("400 received"), "{text}");
    assert_eq!(text.matches("the capture ends early").count(), 1, "{text}");
    assert!(wires(Path::new(&capture)).len() >= 40);
}

/// A pipe whose reader does not read holds up the end of a run, until a signal comes.
#[test]
fn a_signal_ends_the_wait_for_a_file_that_takes_nothing() {
    let folder = Folder::new();
    for option in ["--pcap", "--journal"] {
        let pipe = folder.file(option);
        nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let reader = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&pipe).unwrap();
        fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mode = format!("{option}-mode=all");
        let ping = "ping -q -f -c 400 -s 1000 $FAULTWIRE_HOST";
        let mut exec = faultwire()
            .args(["exec", option, &pipe, &mode, "--", "sh", "-c", ping])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(exec.stderr.take().unwrap());
        // Its command has ended, and it waits.
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("is still being written; Ctrl-C ends that"), "{option}: {line}");
        send(&exec, Signal::SIGTERM);
        let text = std::io::read_to_string(stderr).unwrap();
        assert_eq!(exec.wait().unwrap().code(), Some(125), "{option}: {text}");
        assert!(text.contains("was not written to its end: a signal came first"), "{option}: {text}");
        drop(reader);
    }
}

/// The first packets that are written find room for a part of them: the file has those, and what it lacks is counted.
#[test]
fn a_capture_ends_with_the_last_packet_that_fits() {
    let folder = Folder::small();
    let capture = folder.file("c.pcapng");
    std::fs::write(folder.file("filler"), vec![0; 50 << 10]).unwrap();
    let ping = "ping -q -c 1 -W 60 -s 60000 $FAULTWIRE_HOST >&2";
    let arguments = ["exec", "--pcap", &capture, "--summary", "--json", "--", "sh", "-c", ping];
    let ended = output(&arguments);
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(125), "{text}");
    let summary: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let (packets, _) = counted(&std::fs::read(&capture).unwrap());
    assert!(packets > 0, "{text}");
    let missing = expected(&summary) - packets;
    assert!(text.contains(&format!("; {missing} packets were not written")), "{packets}: {text}");
    assert_eq!(wires(Path::new(&capture)).len() as u64, packets);
}

#[test]
fn run_and_cases_are_captured() {
    let folder = Folder::new();
    let capture = folder.file("run.pcapng");
    let (left, right) = (unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let running = Running::with(Scratch::file(&text), [left.clone(), right], &["--pcap", &capture]);
    let ping = ["ping", "-q", "-c", "100", "-i", "0.002", "-W", "1", "10.88.2.2"];
    let ping = Running::inside(&left, &ping).output().expect("ping is installed (testbed/run does that)");
    assert!(said(&ping).contains("100 packets transmitted"), "{}", said(&ping));
    agree(&wires(Path::new(&capture)), &running.stop(Signal::SIGTERM));

    let capture = folder.file("case.pcapng");
    let ended = output(&["case", "run", "mtu-100-receive", "--pcap", &capture]);
    assert!(ended.status.success(), "{}", said(&ended));
    let lost = |file: &str| {
        let wires = wires(&folder.path.join(file));
        wires.iter().filter(|wire| wire.comment.contains("client>server/mtu: dropped, mtu_silent")).count()
    };
    assert!(lost("case.pcapng") > 5);
    assert_eq!(lost("case-control-1.pcapng"), 0);
}
