//! Packets that leave faultwire, captured by tcpdump and checked by tshark: neither program knows how they were made.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::system::common::{Running, said, tool, unique};

/// The payload of the last datagram of a test.
const LAST: &str = "the very last datagram of this capture";

/// tcpdump on a host's device, from the moment that this exists.
pub(crate) struct Tcpdump {
    child: Child,
    pub(crate) file: PathBuf,
}

impl Tcpdump {
    pub(crate) fn start(netns: &str, device: &str) -> Self {
        let file = std::env::temp_dir().join(format!("faultwire-{}.pcap", unique()));
        // Small slots: in immediate mode the kernel's ring holds few of full size.
        let arguments = [
            "tcpdump",
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "4096",
            "-B",
            "32768",
            "-Z",
            "root",
            "-i",
            device,
            "-w",
        ];
        let mut child = Running::inside(netns, &arguments)
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is installed (testbed/run does that)");
        let mut heard = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !heard.contains("listening on") {
            assert!(stderr.read_line(&mut heard).unwrap() > 0, "tcpdump: {heard}");
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, file }
    }

    /// Waits until the last datagram is in the file.
    pub(crate) fn finish(&mut self, running: &Running) {
        let script = format!("printf '{LAST}' > /dev/udp/10.88.2.2/9");
        let deadline = faultwire::lab::clock::Deadline::after(std::time::Duration::from_mins(1));
        let seen = |file: &Path| {
            let bytes = std::fs::read(file).unwrap();
            bytes.windows(LAST.len()).any(|window| window == LAST.as_bytes())
        };
        while !seen(&self.file) {
            // The datagram may be lost, like every packet here.
            assert!(Running::inside(&running.left, &["bash", "-c", &script]).status().unwrap().success());
            assert!(deadline.left().is_some(), "tcpdump did not see the last datagram");
        }
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
    }

    /// The packets that a display filter selects, one line each.
    fn filter(&self, filter: &str) -> Vec<String> {
        let output = tool("tshark")
            .args(["-n", "-r", self.file.to_str().unwrap(), "-Y", filter])
            .args(["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
            .args(["-o", "udp.check_checksum:TRUE"])
            .output()
            .expect("tshark is installed (testbed/run does that)");
        assert!(output.status.success(), "tshark: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect()
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

const BAD: &str = "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || \
                   icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || _ws.malformed";

/// Without offloads, every packet on the device is as on a wire, with complete checksums.
fn captured(stages: &str, traffic: &[&[&str]]) -> (Tcpdump, serde_json::Value) {
    let running = Running::without_offload(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\n{stages}"));
    let mut tcpdump = Tcpdump::start(&running.right, "fw-right");
    let mut server = Running::inside(&running.right, &["iperf3", "-s", "--forceflush"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("iperf3 is installed (testbed/run does that)");
    let mut heard = String::new();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    while !heard.contains("listening") {
        assert!(stdout.read_line(&mut heard).unwrap() > 0, "iperf3: {heard}");
    }
    for command in traffic {
        let output = Running::inside(&running.left, command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", said(&output));
    }
    tcpdump.finish(&running);
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).unwrap();
    server.wait().unwrap();
    (tcpdump, running.stop(Signal::SIGTERM))
}

#[test]
fn rewritten_copied_and_cut_packets_have_good_checksums() {
    let (tcpdump, summary) = captured(
        "spec = \"mss 700 duplicate 10% reorder 10% delay 1ms\"\n[[path.stage]]\ntype = \"mtu\"\nmtu = 600\naction = \"fragment\"\n",
        &[
            &["iperf3", "-c", "10.88.2.2", "-n", "300K"],
            &["iperf3", "-c", "fd88:2::2", "-n", "400K", "-M", "500"],
            &["ping", "-c", "20", "-i", "0.002", "-s", "2000", "10.88.2.2"],
        ],
    );
    assert_eq!(summary["conserved"], true);
    let bad = tcpdump.filter(&format!("({BAD}) && (ip.src == 10.88.1.2 || ipv6.src == fd88:1::2)"));
    assert!(bad.is_empty(), "{bad:#?}");
    // The capture must contain these packets; otherwise the check above proves nothing.
    let syn = tcpdump.filter("tcp.flags == 0x002 && ip.src == 10.88.1.2");
    assert!(!syn.is_empty() && syn.iter().all(|line| line.contains("MSS=700")), "{syn:#?}");
    let v6 = tcpdump.filter("tcp.len > 0 && ipv6.src == fd88:1::2");
    assert!(v6.len() > 20, "{}", v6.len());
    let whole = tcpdump.filter("icmp.type == 8 && ip.src == 10.88.1.2 && data.len == 1992");
    assert!(whole.len() >= 20, "reassembled pings: {whole:#?}");
    assert!(!tcpdump.filter("tcp.analysis.retransmission || tcp.analysis.out_of_order").is_empty());
    let large = tcpdump.filter("ip.len > 600 && ip.src == 10.88.1.2");
    assert!(large.is_empty(), "{large:#?}");
}

/// The same check finds damage where a stage causes damage.
#[test]
fn damaged_packets_have_bad_checksums_and_as_many_as_were_counted() {
    let (tcpdump, summary) = captured(
        "[[path.stage]]\ntype = \"corrupt\"\nprobability = \"20%\"\n",
        &[&["ping", "-q", "-c", "300", "-i", "0.002", "-s", "100", "10.88.2.2"]],
    );
    let damaged = summary["paths"][0]["stages"][0]["rewritten"]["packets"].as_u64().unwrap();
    let bad = tcpdump.filter(&format!("({BAD}) && !(ip.src == 10.88.2.2)")).len() as u64;
    assert!(damaged > 20 && bad <= damaged, "{bad} bad of {damaged} damaged");
    // A flipped bit of a header field may make another valid-looking protocol; that is rare.
    assert!(bad * 10 >= damaged * 8, "{bad} bad of {damaged} damaged");
}
