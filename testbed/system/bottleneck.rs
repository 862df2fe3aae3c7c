//! Links of limited rate under TCP streams of the real kernel: queueing delay, marks and speed.

use std::collections::BTreeMap;
use std::time::Duration;

use faultwire::lab::observe::counters::Counters;
use faultwire::lab::traffic::udp::{Arrival, Receiver, Udp};
use faultwire::net::{Netns, sysctl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::system::common::Running;
use crate::system::third_party::{left, serve};

/// One stream to each of the ports at the same time, in Reno's plain slow start, which fills any queue. Nobody closes before
/// all has arrived: segments without payload, which are not ECN-capable, never meet a queue. The smoothed RTTs of each, in us.
const SENDERS: &str = "import socket, sys, threading\n\
    def send(port):\n    s = socket.socket()\n    \
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b'reno')\n    \
    s.connect(('10.88.2.2', port))\n    rtts = []\n    \
    for _ in range(BYTES // 10000):\n        s.sendall(bytes(10000))\n        \
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)\n        \
    rtts.append(int.from_bytes(info[68:72], sys.byteorder))\n    \
    s.recv(9)\n    rtts.sort()\n    print(port, rtts[len(rtts) // 2], rtts[-1])\n\
    all = [threading.Thread(target=send, args=(port,)) for port in PORTS]\n\
    [one.start() for one in all]\n\
    [one.join() for one in all]\n";

/// Reads this number of bytes from each connection, then reports it.
const TAKERS: &str = "import socket, threading\n\
    def take(c):\n    left = BYTES\n    \
    while left: left -= len(c.recv(65536))\n    \
    c.sendall(b'all here')\n    c.recv(9)\n\
    def listen(port):\n    s = socket.create_server(('', port))\n    \
    while True:\n        c, _ = s.accept()\n        \
    threading.Thread(target=take, args=(c,), daemon=True).start()\n\
    for port in PORTS[1:]: threading.Thread(target=listen, args=(port,), daemon=True).start()\n\
    listen(PORTS[0])\n";

/// The first of the ports that have a stage each.
const PORT: u16 = 5001;

/// A link of 10 Mbit/s for the stream to each port, with these queues, and 10 ms each way.
fn links(queues: &[&str]) -> String {
    let stage = |(port, queue): (u16, &&str)| {
        format!(
            "[[path.stage]]\ntype = \"rate\"\nname = \"to-{port}\"\nrate = \"10 Mbit/s\"\n\
             queue = {{ {queue} }}\nmatch = {{ destination_port = {port} }}\n"
        )
    };
    let stages: Vec<String> = (PORT..).zip(queues).map(stage).collect();
    let path = |from, to| format!("[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\nspec = \"delay 10ms\"\n");
    path("right", "left") + &path("left", "right") + &stages.concat()
}

/// Streams through all links at once; the median and the highest smoothed RTT of each, in ms.
fn stream(running: &Running, count: u16, bytes: u32) -> Vec<(f64, f64)> {
    let ports: Vec<u16> = (PORT..PORT + count).collect();
    let script = |text: &str| format!("PORTS = {ports:?}\nBYTES = {bytes}\n{text}");
    let _server = serve(running, &["python3", "-c", &script(TAKERS)], PORT);
    let said = left(running, &["python3", "-c", &script(SENDERS)]);
    let line = |line: &str| {
        let words: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        (words[0] as u16, (words[1] / 1e3, words[2] / 1e3))
    };
    let rtts: BTreeMap<u16, (f64, f64)> = said.lines().map(line).collect();
    rtts.into_values().collect()
}

fn counters(netns: &str) -> Counters {
    Netns::named(netns).unwrap().run(Counters::read).unwrap().unwrap()
}

/// Packets of the summary's stage for `port`: dropped by its discipline, dropped for want of room, marked.
fn fates(summary: &Value, port: u16) -> [u64; 3] {
    let name = format!("to-{port}");
    let mut stages =
        summary["paths"].as_array().unwrap().iter().flat_map(|path| path["stages"].as_array().unwrap());
    let stage = stages.find(|stage| stage["name"] == name.as_str()).unwrap();
    let packets = |value: &Value| value["packets"].as_u64().unwrap_or(0);
    [
        packets(&stage["dropped"]["aqm"]),
        packets(&stage["dropped"]["queue_full"]),
        packets(&stage["rewritten"]),
    ]
}

/// At 10 Mbit/s 200 packets of 1,500 bytes wait for 240 ms. Reno halves its window only when the queue is full.
#[test]
fn a_fifo_stands_full_where_codel_and_pie_keep_the_queue_short() {
    let running = Running::start(
        "seed = 1",
        &links(&[
            "packets = 200",
            "packets = 2000, discipline = \"codel\", ecn = true",
            "packets = 2000, discipline = \"pie\"",
        ]),
    );
    let rtts = stream(&running, 3, 6_000_000);
    // ECN was not negotiated, so no packet may be marked.
    let marked = counters(&running.right).value("IpExt.InCEPkts").unwrap();
    let summary = running.stop(Signal::SIGTERM);
    let [fifo, codel, pie] = [0, 1, 2].map(|index| fates(&summary, PORT + index));
    assert!(fifo[0] == 0 && fifo[1] > 0, "{fifo:?}");
    assert!(codel[0] > 0 && codel[1] == 0, "{codel:?}");
    assert!(pie[0] > 0 && pie[1] == 0, "{pie:?}");
    assert_eq!((fifo[2], codel[2], pie[2], marked), (0, 0, 0, 0));
    // The link is never early: the packet that came last to the full queue waited that long, however fast the host is.
    assert!(rtts[0].1 > 120.0, "the fifo stood full: {rtts:?}");
    assert!(rtts[1].0 * 2.0 < rtts[0].0, "CoDel: {rtts:?}");
    assert!(rtts[2].0 * 2.0 < rtts[0].0, "PIE: {rtts:?}");
}

#[test]
fn with_ecn_congestion_is_marked_and_the_receiver_sees_each_mark() {
    let running = Running::start(
        "seed = 1",
        &links(&[
            "packets = 2000, discipline = \"codel\", ecn = true",
            "packets = 2000, discipline = \"red\", min = 5, max = 200, probability = \"50%\", weight = 0.02, ecn = true",
        ]),
    );
    for netns in [&running.left, &running.right] {
        sysctl::write(&Netns::named(netns).unwrap(), "ipv4/tcp_ecn", "1").unwrap();
    }
    stream(&running, 2, 4_000_000);
    let (sender, receiver) = (counters(&running.left), counters(&running.right));
    let summary = running.stop(Signal::SIGTERM);
    let [codel, red] = [0, 1].map(|index| fates(&summary, PORT + index));
    assert!(codel[2] > 0 && red[2] > 0, "both mark: {codel:?} {red:?}");
    assert_eq!(receiver.value("IpExt.InCEPkts"), Some(codel[2] + red[2]), "each mark arrives");
    assert!(sender.value("TcpExt.TCPDeliveredCE").unwrap() > 0, "and the sender is told");
    // Retransmissions are not ECN-capable; only these may be dropped.
    let again = sender.value("Tcp.RetransSegs").unwrap();
    assert!(codel[0] + red[0] <= again, "{codel:?} {red:?}, {again} sent again");
    assert_eq!((codel[1], red[1]), (0, 0));
}

/// How much slower than `bits` a second (faster, if negative) these packets of `size` bytes came.
///
/// Each came when it was due or later, by as much as the host was late. Least late of the first quarter is compared with least
/// late of the last: a wrong rate parts them, a slow host does not unless it is slow for all of hundreds of packets.
fn rate_error(arrivals: &[Arrival], size: u64, bits: u64) -> f64 {
    let work = |count: usize| count as f64 * size as f64 * 8.0 * 1e9 / bits as f64;
    let late = |index: usize| arrivals[index].at as f64 - work(index);
    let soonest = |range: std::ops::Range<usize>| range.min_by(|a, b| late(*a).total_cmp(&late(*b))).unwrap();
    let count = arrivals.len();
    let (first, last) = (soonest(0..count / 4), soonest(count * 3 / 4..count));
    (late(last) - late(first)) / work(last - first)
}

/// All packets are held until they have all come, and then let go at once: the link has work from the first to the last.
#[test]
fn a_serialiser_sends_at_its_rate() {
    const SIZE: u64 = 1_500;
    for bits in [2_000_000, 20_000_000] {
        let faults = format!(
            "[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [\n\
             {{ type = \"blackout\", down = \"3s\", hold = true }},\n\
             {{ type = \"rate\", rate = \"{bits} bit/s\", queue = {{ packets = 100000 }} }}]\n"
        );
        let running = Running::start("", &faults);
        let [left, right] = [&running.left, &running.right].map(|name| Netns::named(name).unwrap());
        let receiver = right.run(|| Receiver::start(7, Duration::from_secs(5), None).unwrap()).unwrap();
        let count = bits * 2 / 8 / SIZE;
        let udp = Udp {
            count,
            size: SIZE as u32 - 28,
            interval: Duration::ZERO,
            df: true,
            gso: 40,
            settle: Duration::from_secs(5),
            answer: None,
        };
        left.run(|| udp.send("10.88.2.2:7".parse().unwrap()).unwrap()).unwrap();
        let arrivals = receiver.finish();
        let summary = running.stop(Signal::SIGTERM);
        assert_eq!(arrivals.len() as u64, count, "{summary:#}");
        let error = rate_error(&arrivals, SIZE, bits);
        // The two packets compared are half of the time or more apart. By so much they may be late, as the router itself says.
        let late = summary["lateness_ns"]["max"].as_f64().unwrap() / 1e9;
        assert!(error.abs() <= 0.005 + late, "{bits} bit/s: {:.3} % too slow, {late} s late", error * 100.0);
    }
}
