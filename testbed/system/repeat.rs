//! The same seed gives the same verdicts when the same is run again: by clients on ephemeral ports, and offline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};

use crate::system::common::{faultwire, output, said};
use crate::system::pcap::{Folder, tshark};

/// The number of runs that must agree.
const RUNS: usize = 10;

/// Whether each packet passed, by the name of its flow and its number in it.
type Verdicts = BTreeMap<(String, u64), bool>;

fn verdicts(journal: &str) -> Verdicts {
    let ended = output(&["journal", journal, "--json"]);
    assert!(ended.status.success(), "{}", said(&ended));
    let mut verdicts = Verdicts::new();
    for line in String::from_utf8(ended.stdout).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let passed = match record["kind"].as_str().unwrap() {
            "sent" => true,
            "dropped" => false,
            _ => continue,
        };
        let flow = record["flow_id"].as_str().unwrap();
        let (first, count) = (record["index"].as_u64().unwrap(), record["packets"].as_u64().unwrap());
        verdicts.extend((first..first + count).map(|index| ((flow.to_owned(), index), passed)));
    }
    verdicts
}

/// Runs the command under a seed.
fn verdicts_of(seed: &str, port: u16, command: &[&str]) -> Verdicts {
    let folder = Folder::new();
    let journal = folder.file("journal");
    let ended = faultwire()
        .args([
            "exec",
            "--seed",
            seed,
            "--both",
            "loss 10%",
            "--journal",
            &journal,
            "--journal-mode",
            "all",
            "--",
        ])
        .args(command)
        .env("PORT", port.to_string())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    verdicts(&journal)
}

/// Every packet that two runs have in common, at least so many, has the same verdict in both.
fn same_every_time(port: u16, command: &[&str], least: usize, after: impl Fn()) {
    let verdicts_of = |seed: &str| {
        let seen = verdicts_of(seed, port, command);
        after();
        seen
    };
    let first = verdicts_of("5");
    assert!(first.values().any(|passed| !passed), "nothing was lost: {first:?}");
    let common = |other: &Verdicts| first.keys().filter(|key| other.contains_key(*key)).count();
    let differ = |other: &Verdicts| {
        first.iter().any(|(key, verdict)| other.get(key).is_some_and(|other| other != verdict))
    };
    for run in 1..RUNS {
        let again = verdicts_of("5");
        // The command may end before all answers are there.
        assert!(common(&again) >= least, "{command:?}, run {run}:\n{first:?}\n{again:?}");
        assert!(!differ(&again), "{command:?}, run {run}:\n{first:?}\n{again:?}");
    }
    assert!((6..9).any(|seed| differ(&verdicts_of(&seed.to_string()))), "{first:?}");
}

/// Answers HTTP requests, and echoes everything else.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Ok(());
        }
        heard.extend(&buffer[..size]);
        if !heard.starts_with(b"GET") {
            stream.write_all(&buffer[..size])?;
        } else if heard.ends_with(b"\r\n\r\n") {
            heard.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
    }
}

/// A TCP server of this host, as long as the tests run.
///
/// What it could not deliver in one run must not arrive in the next one, whose client has the same address: its connections end
/// by a RST, and [`Server::forget`] ends those that are left.
struct Server {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&open);
        std::thread::spawn(move || {
            // An aborted connection is not an error of the server.
            for stream in listener.incoming().flatten() {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
                all.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || answer(stream));
            }
        });
        Self { port, open }
    }

    /// Ends all connections that were accepted.
    fn forget(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // Its thread reads the end, and closes the last descriptor.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

#[test]
fn tcp_of_an_ephemeral_port_meets_the_same_losses_in_every_run() {
    let script = "import os, socket
s = socket.create_connection((os.environ['FAULTWIRE_HOST'], int(os.environ['PORT'])))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for n in range(20):
    s.sendall(b'%08d' % n)
    got = b''
    while len(got) < 8: got += s.recv(8 - len(got))";
    let server = Server::start();
    same_every_time(server.port, &["python3", "-c", script], 20, || server.forget());
}

#[test]
fn curl_meets_the_same_losses_in_every_run() {
    // Twelve requests on one connection: its packets are numbered through.
    let script = "curl -s -o /dev/null \"http://$FAULTWIRE_HOST:$PORT/[1-12]\"";
    let server = Server::start();
    same_every_time(server.port, &["sh", "-c", script], 12, || server.forget());
}

#[test]
fn udp_of_an_ephemeral_port_meets_the_same_losses_in_every_run() {
    let echo = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((size, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..size], from);
        }
    });
    let script = "import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(60): s.sendto(b'%08d' % n, (os.environ['FAULTWIRE_HOST'], int(os.environ['PORT'])))";
    same_every_time(port, &["python3", "-c", script], 40, || ());
}

/// A capture of raw IPv4: datagrams of two sockets of a client in turn to one service, numbered by their IP identification.
fn capture(client: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut file = Vec::new();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    file.extend(words(&[0xA1B2_C3D4, 0x0004_0002, 0, 0, 65_535, 101]));
    for number in 0..200_u16 {
        let mut header =
            etherparse::Ipv4Header::new(8 + 4, 64, etherparse::IpNumber::UDP, client, [10, 9, 9, 9]).unwrap();
        header.identification = number;
        header.header_checksum = header.calc_header_checksum();
        let payload = u32::from(number).to_be_bytes();
        let udp = etherparse::UdpHeader::with_ipv4_checksum(
            ports[usize::from(number % 2)],
            5_300,
            &header,
            &payload,
        );
        let packet = [&header.to_bytes()[..], &udp.unwrap().to_bytes(), &payload].concat();
        let length = packet.len() as u32;
        file.extend(words(&[1_700_000_000, u32::from(number) * 1_000, length, length]));
        file.extend(packet);
    }
    file
}

/// A capture from elsewhere, of a client with another address and other ports, loses the same packets.
#[test]
fn captures_of_the_same_traffic_meet_the_same_losses() {
    let folder = Folder::new();
    let (from, to) = (folder.file("in.pcap"), folder.file("out.pcap"));
    let left = |seed: &str, client, ports| {
        std::fs::write(&from, capture(client, ports)).unwrap();
        let ended = output(&["pcap", &from, &to, "--seed", seed, "--spec", "loss 20%"]);
        assert!(ended.status.success(), "{}", said(&ended));
        tshark(&to, "udp", &["ip.id"]).into_iter().collect::<BTreeSet<_>>()
    };
    let first = left("5", [10, 0, 0, 5], [40_001, 40_002]);
    // Five standard deviations around 160 of 200.
    assert!((131..=189).contains(&first.len()), "{}", first.len());
    for (client, ports) in [([10, 0, 0, 5], [51_000, 33_000]), ([192, 168, 7, 9], [40_002, 60_999])] {
        assert_eq!(left("5", client, ports), first);
    }
    assert_ne!(left("6", [10, 0, 0, 5], [40_001, 40_002]), first);
}
