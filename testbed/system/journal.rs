//! `--journal` end to end: what the journal says against what the summary counts.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use faultwire::lab::check::binomial_interval;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::{Running, Scratch, config, output, said, tool, unique};

/// A folder of this test's own, that goes with it.
struct Folder {
    path: PathBuf,
    is_mounted: bool,
}

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique());
        // Fails if there is anything of that name.
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self { path, is_mounted: false }
    }

    /// One with room for 64 KiB.
    fn small() -> Self {
        let mut folder = Self::new();
        let mount =
            tool("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&folder.path).output().unwrap();
        assert!(mount.status.success(), "{}", said(&mount));
        folder.is_mounted = true;
        folder
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = tool("umount").arg(&self.path).status();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The records of a journal, and the numbers of its packets; what was said besides.
fn read(file: &str) -> (Vec<Value>, String) {
    let printed = output(&["journal", file, "--json"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let text = String::from_utf8(printed.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (records, String::from_utf8_lossy(&printed.stderr).into_owned())
}

/// Packets of the records that meet a condition.
fn packets(records: &[Value], meets: impl Fn(&Value) -> bool) -> u64 {
    records.iter().filter(|record| meets(record)).map(|record| record["packets"].as_u64().unwrap()).sum()
}

/// A UDP and a TCP service on this host; the TCP one reads one connection to its end.
struct Services {
    udp: u16,
    tcp: u16,
    _socket: UdpSocket,
    reader: std::thread::JoinHandle<usize>,
}

impl Services {
    fn start() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let (udp, tcp) = (socket.local_addr().unwrap().port(), listener.local_addr().unwrap().port());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap()
        });
        Self { udp, tcp, _socket: socket, reader }
    }

    /// Sends 300 datagrams of one flow and 200,000 bytes.
    fn script(&self) -> String {
        format!(
            "exec 3>/dev/udp/$FAULTWIRE_HOST/{}; for i in $(seq 300); do echo $i >&3; done; \
             head -c 200000 /dev/zero >/dev/tcp/$FAULTWIRE_HOST/{}",
            self.udp, self.tcp
        )
    }
}

/// `exec` with a journal of this mode, under loss.
fn lossy(folder: &Folder, mode: &str) -> (Value, Vec<Value>, [u16; 2]) {
    let services = Services::start();
    let (journal, summary) = (folder.file("journal"), folder.file("json"));
    let arguments = [
        "exec",
        "--seed",
        "4",
        "--linger",
        "60s",
        "--up",
        "loss 5%",
        "--journal",
        &journal,
        "--journal-mode",
        mode,
        "--json",
        &summary,
    ];
    let ended = output(&[&arguments[..], &["--", "bash", "-c", &services.script()]].concat());
    assert!(ended.status.success(), "{}", said(&ended));
    assert_eq!(services.reader.join().unwrap(), 200_000);
    let (records, noted) = read(&journal);
    assert_eq!(noted, "", "nothing is lost, and the file is whole");
    let summary = serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap();
    (summary, records, [services.udp, services.tcp])
}

fn lost(records: &[Value]) -> u64 {
    packets(records, |record| record["kind"] == "dropped" && record["reason"] == "loss")
}

/// The drops are those of the summary, reason by reason; only malformed packets have no record.
fn agree(summary: &Value, records: &[Value]) {
    for (reason, amount) in summary["dropped"].as_object().unwrap() {
        let recorded =
            packets(records, |record| record["kind"] == "dropped" && record["reason"] == reason.as_str());
        assert!(reason == "malformed" || amount["packets"] == recorded, "{reason}: {recorded}, {amount}");
    }
}

/// What the loss dropped by the summary.
fn lost_by_summary(summary: &Value) -> u64 {
    let path = summary["paths"].as_array().unwrap().iter().find(|path| path["from"] == "cmd").unwrap();
    path["stages"][0]["dropped"]["loss"]["packets"].as_u64().unwrap()
}

/// Every record of a flow has addresses, and those of the services have their ports.
fn are_addressed(records: &[Value], [udp, tcp]: [u16; 2]) {
    for record in records.iter().filter(|record| record["flow_id"] != "0000000000000000") {
        assert!(record["source"].is_string(), "{record}");
    }
    for (protocol, port) in [("UDP", udp), ("TCP", tcp)] {
        let to = format!(":{port}");
        let is_of_service = |record: &&Value| {
            record["protocol"] == protocol && record["destination"].as_str().unwrap().ends_with(&to)
        };
        assert!(records.iter().any(|record| is_of_service(&record)), "no {protocol} to port {port}");
    }
}

#[test]
fn a_journal_of_drops_has_each_drop_of_the_summary() {
    let (summary, records, ports) = lossy(&Folder::new(), "drops");
    assert!(lost(&records) > 0);
    assert_eq!(lost(&records), lost_by_summary(&summary));
    agree(&summary, &records);
    assert!(records.iter().all(|record| record["kind"] == "dropped"));
    for drop in records.iter().filter(|record| record["reason"] == "loss") {
        assert_eq!(drop["place"], "up/netem");
        let draw = &drop["draw"];
        assert!(draw["value"].as_f64().unwrap() < draw["threshold"].as_f64().unwrap(), "{drop}");
    }
    are_addressed(&records, ports);
}

#[test]
fn a_journal_of_all_adds_up_to_the_summary() {
    let (summary, records, ports) = lossy(&Folder::new(), "all");
    assert_eq!(lost(&records), lost_by_summary(&summary));
    agree(&summary, &records);
    for kind in ["received", "created", "sent"] {
        assert_eq!(packets(&records, |record| record["kind"] == kind), summary[kind]["packets"], "{kind}");
    }
    are_addressed(&records, ports);
}

#[test]
fn a_sampled_journal_has_one_in_n_with_addresses() {
    let (summary, records, ports) = lossy(&Folder::new(), "1/4");
    let number = |record: &Value| u64::from_str_radix(record["packet_id"].as_str().unwrap(), 16).unwrap();
    assert!(records.iter().all(|record| number(record) % 4 == 0));
    assert!(lost(&records) < lost_by_summary(&summary));
    let received = summary["received"]["packets"].as_u64().unwrap();
    // What is of no flow has number 0.
    let none = packets(&records, |record| record["kind"] == "received" && number(record) == 0);
    let sampled = packets(&records, |record| record["kind"] == "received" && number(record) != 0);
    let (low, high) = binomial_interval(received - none, 0.25);
    assert!((low..=high).contains(&sampled), "{sampled} of {received}");
    are_addressed(&records, ports);
}

/// Forwarding goes on, it is said once, and what was written before is read.
#[test]
fn a_full_disk_ends_the_journal_and_not_the_run() {
    let folder = Folder::small();
    let (journal, ping) = (folder.file("journal"), "ping -q -f -c 400 $FAULTWIRE_HOST");
    // First as much as fits, until it is there; then more than the disk has room for.
    let script = format!(
        "ping -q -c 20 -i 0.002 $FAULTWIRE_HOST && until [ $(stat -c %s {journal}) -gt 4000 ]; do :; done && {ping}"
    );
    let arguments =
        ["exec", "--journal", &journal, "--journal-mode", "all", "--summary", "--", "sh", "-c", &script];
    let ended = output(&arguments);
    let text = said(&ended);
    assert!(ended.status.success() && text.contains("400 received"), "{text}");
    assert_eq!(text.matches("the journal ends early").count(), 1, "{text}");
    let (records, noted) = read(&journal);
    assert!(packets(&records, |record| record["kind"] == "received") >= 10, "{}", records.len());
    assert!(noted.contains("ends in the middle"), "{noted}");
    let length = std::fs::metadata(&journal).unwrap().len();
    assert!(length <= 64 << 10);
}

#[test]
fn run_writes_a_journal() {
    let folder = Folder::new();
    let journal = folder.file("journal");
    let (left, right) = (unique(), unique());
    let paths = "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 30%\"\n";
    let text = config(&left, &right, "seed = 5", paths);
    let running = Running::with(Scratch::file(&text), [left.clone(), right], &["--journal", &journal]);
    let ping = ["ping", "-q", "-c", "200", "-i", "0.002", "-W", "1", "10.88.2.2"];
    let ping: Output =
        Running::inside(&left, &ping).output().expect("ping is installed (testbed/run does that)");
    assert!(said(&ping).contains("200 packets transmitted"), "{}", said(&ping));
    let summary = running.stop(Signal::SIGTERM);
    let (records, _) = read(&journal);
    assert!(lost(&records) > 0);
    agree(&summary, &records);
    let places = |record: &&Value| record["place"] == "left>right/netem";
    assert_eq!(records.iter().filter(places).count() as u64, lost(&records));
}

/// Wrong options and files end with exit code 2, and an old journal stays as it was.
#[test]
fn wrong_options_of_a_journal_are_refused_before_anything_is_made() {
    let folder = Folder::new();
    let (journal, made) = (folder.file("journal"), folder.file("made"));
    std::fs::write(&journal, "old").unwrap();
    let config = Scratch::file(&config(&unique(), &unique(), "", ""));
    let missing = folder.file("none/journal");
    let wrong: [&[&str]; 3] = [
        &["--journal", &journal, "--journal-match", "tcp port nonsense"],
        &["--journal", &journal, "--journal-path", "nowhere"],
        &["--journal", &missing],
    ];
    for options in wrong {
        for (command, rest) in [
            (&["exec"][..], &["--", "touch", &made][..]),
            (&["run", config.path()], &[]),
            (&["attach", "--dev", "lo", "--yes", "--both", "loss 1%"], &[]),
        ] {
            let ended = output(&[command, options, rest].concat());
            assert_eq!(ended.status.code(), Some(2), "{command:?} {options:?}: {}", said(&ended));
        }
    }
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "old");
    assert!(!Path::new(&made).exists());
}
