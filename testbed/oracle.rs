//! Mode netem against what the kernel's netem did: the same lines and the same sends, compared in distribution.
//!
//! Each comparison is of the means of two series, ours and the kernel's. Their error is taken from the means of fifty parts
//! of each series, so that it counts what the packets of a series have in common; six standard deviations of it are
//! allowed, and where the kernel's own path takes time, that as well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::cast_precision_loss, reason = "numbers of packets and microseconds")]

use std::path::Path;

use faultwire::config::spec;
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::{Offload, Packet};
use faultwire::pipeline::params::{
    IcmpParams, Identity, ImpairmentParams, Mode, PathParams, PortParams, RouterParams,
};
use faultwire::pipeline::pool::HEADROOM;
use faultwire::pipeline::router::{Egress, Router};
use faultwire::pipeline::time::{Duration, Instant};

/// What the path and the timers of the kernel that was measured add to a delay, in us.
const PATH: f64 = 25.0;

/// A packet that was received.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: usize,
    /// In us.
    delay: f64,
    ce: bool,
}

/// One row of the measurements: what mode netem and the kernel did with the same packets, sent at the same times.
struct Row {
    file: &'static str,
    line: String,
    packets: usize,
    /// In us.
    gap: u64,
    ours: Vec<Arrival>,
    kernel: Vec<Arrival>,
}

/// `packets` datagrams with `payload` bytes, one every `gap` us.
fn row(file: &'static str, line: &str, packets: usize, gap: u64, payload: usize) -> Row {
    let ours = ours(line, packets, gap, payload);
    Row { file, line: line.to_owned(), packets, gap, ours, kernel: kernel(file) }
}

fn kernel(file: &str) -> Vec<Arrival> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testbed/oracle/{file}.xz"));
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = Vec::new();
    lzma_rs::xz_decompress(&mut packed.as_slice(), &mut text).unwrap();
    let line = |line: &str| {
        let numbers: Vec<usize> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Arrival { number: numbers[0], delay: numbers[1] as f64, ce: numbers.get(2) == Some(&3) }
    };
    String::from_utf8(text).unwrap().lines().filter(|line| !line.is_empty()).map(line).collect()
}

fn ours(line: &str, packets: usize, gap: u64, payload: usize) -> Vec<Arrival> {
    let mut router = router(line);
    let mut sink = Sink { gap, arrivals: Vec::new() };
    let mut buffer = router.pool.scratch();
    for number in 0..packets {
        let now = Instant::ZERO + Duration::from_micros(number as u64 * gap);
        advance(&mut router, now, &mut sink);
        let bytes = packet(number as u32, payload);
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(&bytes);
        router.receive(0, &mut buffer, bytes.len(), Offload::default(), now, &mut sink);
    }
    while let Some(due) = router.next_due() {
        router.poll(due, &mut sink);
    }
    sink.arrivals
}

impl Row {
    const fn both(&self) -> [&Vec<Arrival>; 2] {
        [&self.ours, &self.kernel]
    }

    /// Compares what `series` makes of ours and of the kernel's.
    fn compare(&self, what: &str, slack: f64, series: impl Fn(&[Arrival]) -> Vec<f64>) {
        let [ours, kernel] = self.both().map(|arrivals| series(arrivals));
        let ([mine, my_error], [its, its_error]) = (mean_and_error(&ours), mean_and_error(&kernel));
        let bound = slack + 6.0 * my_error.hypot(its_error);
        println!("{} {what}: {mine:.5}, kernel {its:.5}, allowed {bound:.5}", self.file);
        assert!((mine - its).abs() <= bound, "{}: {what} {mine}, the kernel's {its} ± {bound}", self.line);
    }

    /// The share of the packets sent for which `is` holds of the arrivals of each.
    fn share(&self, what: &str, is: impl Fn(&[Arrival]) -> bool) {
        self.compare(what, 0.0, |arrivals| {
            let each = self.by_number(arrivals);
            each.iter().map(|arrivals| f64::from(u8::from(is(arrivals)))).collect()
        });
    }

    fn by_number(&self, arrivals: &[Arrival]) -> Vec<Vec<Arrival>> {
        let mut each = vec![Vec::new(); self.packets];
        for arrival in arrivals {
            each[arrival.number].push(*arrival);
        }
        each
    }

    fn losses(&self) {
        self.share("lost", <[Arrival]>::is_empty);
        // Mean lengths of runs follow from the share of packets that are lost after one that was not.
        self.compare("runs of losses begun", 0.0, |arrivals| {
            let lost: Vec<bool> = self.by_number(arrivals).iter().map(Vec::is_empty).collect();
            lost.windows(2).map(|pair| f64::from(u8::from(!pair[0] && pair[1]))).collect()
        });
        self.compare("losses two apart", 0.0, |arrivals| {
            let lost: Vec<bool> = self.by_number(arrivals).iter().map(Vec::is_empty).collect();
            lost.windows(3).map(|three| f64::from(u8::from(three[0] && three[2]))).collect()
        });
    }

    fn copies(&self) {
        self.share("received twice", |arrivals| arrivals.len() > 1);
    }

    /// Mean, spread, quantiles and neighbourhood of the delays, and how many come late.
    fn delays(&self) {
        let delays = |arrivals: &[Arrival]| -> Vec<f64> {
            self.by_number(arrivals).iter().flatten().map(|arrival| arrival.delay).collect()
        };
        self.compare("mean delay", PATH, delays);
        let centre = mean_and_error(&delays(&self.kernel))[0];
        self.compare("mean distance from the mean", PATH, |arrivals| {
            delays(arrivals).iter().map(|delay| (delay - centre).abs()).collect()
        });
        let mut sorted = delays(&self.kernel);
        sorted.sort_by(f64::total_cmp);
        for share in [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99] {
            let value = sorted[(share * sorted.len() as f64) as usize];
            // Within twice the path's time of the quantile, on either side.
            let below = |limit: f64| {
                let [ours, kernel] = self.both().map(|arrivals| {
                    let below: Vec<f64> =
                        delays(arrivals).iter().map(|d| f64::from(u8::from(*d <= limit))).collect();
                    mean_and_error(&below)
                });
                (ours, kernel[1])
            };
            let ([low, low_error], error) = below(value - 2.0 * PATH);
            let ([high, high_error], _) = below(value + 2.0 * PATH);
            println!("{} share at the kernel's {share}: {low:.4} to {high:.4}", self.file);
            assert!(
                low - 6.0 * low_error.hypot(error) <= share && share <= high + 6.0 * high_error.hypot(error),
                "{}: {low} to {high} are at most {value} us, in the kernel {share}",
                self.line
            );
        }
        self.compare("product of neighbours", PATH * PATH, |arrivals| {
            delays(arrivals).windows(2).map(|pair| (pair[0] - centre) * (pair[1] - centre)).collect()
        });
    }

    /// The share of packets that come after one that was sent later.
    fn reordering(&self) {
        self.compare("late", 0.0, |arrivals| {
            let mut highest = 0;
            let late = |arrival: &Arrival| {
                let is_late = arrival.number < highest;
                highest = highest.max(arrival.number);
                f64::from(u8::from(is_late))
            };
            arrivals.iter().map(late).collect()
        });
    }

    /// The same packets, each at the same time, but for what the path takes.
    fn exactly(&self) {
        let [ours, kernel] = self.both();
        assert_eq!(ours.len(), kernel.len(), "{}", self.line);
        for (mine, its) in ours.iter().zip(kernel) {
            assert_eq!(mine.number, its.number, "{}", self.line);
            assert!(
                (-PATH..=3.0 * PATH).contains(&(its.delay - mine.delay)),
                "{}: {mine:?}, the kernel's {its:?}",
                self.line
            );
        }
    }

    /// Sizes of bursts and the time between them; packets that arrive within 400 us of each other are of one.
    fn bursts(&self) {
        let bursts = |arrivals: &[Arrival]| {
            let mut bursts: Vec<(f64, f64)> = Vec::new();
            let mut last = f64::NEG_INFINITY;
            for arrival in arrivals {
                let at = (arrival.number as u64 * self.gap) as f64 + arrival.delay;
                match bursts.last_mut() {
                    Some(burst) if at - last < 400.0 => burst.1 += 1.0,
                    _ => bursts.push((at, 1.0)),
                }
                last = at;
            }
            bursts
        };
        let gaps = |arrivals: &[Arrival]| -> Vec<f64> {
            bursts(arrivals).windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
        };
        self.compare("size of a burst", 0.0, |arrivals| {
            bursts(arrivals).iter().map(|burst| burst.1).collect()
        });
        self.compare("time between bursts", PATH, gaps);
        let centre = mean_and_error(&gaps(&self.kernel))[0];
        self.compare("distance from it", PATH, |arrivals| {
            gaps(arrivals).iter().map(|gap| (gap - centre).abs()).collect()
        });
    }
}

/// The mean of a series, and its standard error by the means of fifty parts.
fn mean_and_error(series: &[f64]) -> [f64; 2] {
    const PARTS: usize = 50;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let all = mean(series);
    let means: Vec<f64> = series.chunks_exact(series.len() / PARTS).take(PARTS).map(mean).collect();
    let variance = means.iter().map(|part| (part - all).powi(2)).sum::<f64>() / (PARTS as f64 - 1.0);
    [all, (variance / PARTS as f64).sqrt()]
}

struct Sink {
    gap: u64,
    arrivals: Vec<Arrival>,
}

impl Egress for Sink {
    fn send(&mut self, _port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        let bytes = packet.bytes();
        // What is damaged the kernel on the other side drops.
        if sum(&bytes[..20]) == 0xffff && udp_sum(bytes) == 0xffff {
            let number = u32::from_be_bytes(bytes[28..32].try_into().unwrap()) as usize;
            let sent = (number as u64 * self.gap) as f64;
            let delay = due.as_nanos() as f64 / 1_000.0 - sent;
            self.arrivals.push(Arrival { number, delay, ce: bytes[1] & 3 == 3 });
        }
        Ok(())
    }
}

/// The folded sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn udp_sum(bytes: &[u8]) -> u16 {
    let mut pseudo = bytes[12..20].to_vec();
    pseudo.extend([0, bytes[9]]);
    pseudo.extend(((bytes.len() - 20) as u16).to_be_bytes());
    pseudo.extend(&bytes[20..]);
    sum(&pseudo)
}

/// A datagram with its number in front of its payload; ECN-capable.
fn packet(number: u32, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 28 + payload];
    let total = bytes.len() as u16;
    (bytes[0], bytes[1], bytes[8], bytes[9]) = (0x45, 2, 64, 17);
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[12..20].copy_from_slice(&[10, 0, 1, 2, 10, 0, 2, 2]);
    bytes[20..26].copy_from_slice(&[0x30, 0, 0x40, 0, 0, 0]);
    bytes[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    bytes[28..32].copy_from_slice(&number.to_be_bytes());
    let header = !sum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    let udp = !udp_sum(&bytes);
    bytes[26..28].copy_from_slice(&udp.to_be_bytes());
    bytes
}

fn router(line: &str) -> Router {
    let line = if line.contains("limit") { line.to_owned() } else { format!("{line} limit 1000000") };
    let mut stages = spec::parse(&line).unwrap_or_else(|problem| panic!("{line}: {problem:?}")).stages;
    for stage in &mut stages {
        if let ImpairmentParams::Netem(netem) = &mut stage.impairment {
            netem.mode = Mode::Netem;
        }
    }
    let port = |name: &str, net: &str| PortParams {
        name: name.into(),
        mtu: 1_500,
        addresses: vec![net.parse().unwrap()],
        router: Vec::new(),
    };
    let params = RouterParams {
        seed: 1,
        identity: Identity::default(),
        flows: 64,
        icmp: IcmpParams::default(),
        ports: vec![port("a", "10.0.1.2/24"), port("b", "10.0.2.2/24")],
        routes: Vec::new(),
        paths: vec![PathParams::new(0, 1, stages)],
        nats: Vec::new(),
    };
    Router::new(&params, &Router::shared(&params))
}

fn advance(router: &mut Router, to: Instant, sink: &mut Sink) {
    while let Some(due) = router.next_due().filter(|&due| due <= to) {
        router.poll(due, sink);
    }
}

#[test]
fn normal_jitter() {
    let row = row("dnormal", "delay 20ms 5ms distribution normal", 20_000, 200, 32);
    row.delays();
    row.reordering();
}

/// The correlation of a jitter neither narrows it nor makes neighbours alike.
#[test]
fn correlated_jitter() {
    let row = row("dncorr", "delay 20ms 5ms 50% distribution normal", 20_000, 200, 32);
    row.delays();
    row.reordering();
}

#[test]
fn jitter_of_a_file() {
    let folders =
        ["/usr/lib/tc", "/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/aarch64-linux-gnu/tc", "/usr/lib64/tc"];
    let files = folders.map(|folder| format!("{folder}/experimental.dist"));
    let file = files.iter().find(|file| Path::new(file).exists());
    let file = file.expect("experimental.dist of iproute2 is needed: apt-get install iproute2");
    let line = format!("delay 20ms 5ms distribution {file}");
    let row = row("dexper", &line, 20_000, 200, 32);
    row.delays();
    row.reordering();
}

#[test]
fn uniform_jitter() {
    let row = row("duniform", "delay 20ms 5ms", 20_000, 200, 32);
    row.delays();
    row.reordering();
}

#[test]
fn paretos_jitter() {
    let row = row("dpareto", "delay 20ms 5ms distribution pareto", 20_000, 200, 32);
    row.delays();
    row.reordering();
}

#[test]
fn jitter_of_pareto_and_normal() {
    let row = row("dparetonormal", "delay 20ms 5ms distribution paretonormal", 20_000, 200, 32);
    row.delays();
    row.reordering();
}

#[test]
fn gilbert_elliott() {
    row("ge3", "loss gemodel 5% 30% 50%", 60_000, 60, 32).losses();
}

#[test]
fn four_states() {
    row("state4", "loss state 5% 30% 20% 40% 2%", 60_000, 60, 32).losses();
}

#[test]
fn marks() {
    let row = row("ecn5", "loss 5% ecn", 60_000, 60, 32);
    row.losses();
    row.share("marked", |arrivals| arrivals.iter().any(|arrival| arrival.ce));
}

#[test]
fn copies_and_damage() {
    let row = row("dupcor", "duplicate 10% corrupt 5%", 40_000, 100, 32);
    row.copies();
    row.losses();
}

#[test]
fn correlated_copies() {
    let row = row("dup20l", "duplicate 20% 50% loss 0% 1%", 60_000, 60, 32);
    row.copies();
    row.losses();
}

#[test]
fn all_together() {
    let row = row("combo", "delay 5ms loss 3% duplicate 4% reorder 20%", 40_000, 60, 32);
    row.losses();
    row.copies();
    row.reordering();
    row.share("overtook", |arrivals| arrivals.first().is_some_and(|arrival| arrival.delay < 1_000.0));
}

#[test]
fn overtaking() {
    for (file, line) in [
        ("reord50g3", "delay 10ms reorder 50% gap 3"),
        ("reorder25c50", "delay 10ms reorder 25% 50%"),
        ("gapdefault", "delay 10ms reorder 30% gap 5"),
    ] {
        let row = row(file, line, 20_000, 200, 32);
        row.delays();
        row.reordering();
        row.share("overtook", |arrivals| arrivals[0].delay < 1_000.0);
    }
}

/// Cells and overheads count, and so does Ethernet's header: each packet leaves when the kernel's did.
#[test]
fn rates() {
    row("rateoc", "rate 5mbit 20 100 5", 6_000, 200, 200).exactly();
    row("ratedelay", "delay 20ms rate 3mbit", 6_000, 400, 200).exactly();
}

#[test]
fn limits() {
    let row = row("limrate", "rate 2mbit limit 50", 10_000, 200, 200);
    row.losses();
    let [ours, kernel] = row.both().map(Vec::len);
    assert!(ours.abs_diff(kernel) <= 1, "{ours}, the kernel's {kernel}");
    row.compare("delay of a full queue", 2.0 * PATH, |arrivals| {
        arrivals[200..].iter().map(|arrival| arrival.delay).collect()
    });
}

#[test]
fn slots() {
    row("slot", "slot 10ms 20ms packets 30", 6_000, 200, 32).bursts();
    row("slotdist", "slot distribution normal 10ms 3ms packets 20", 6_000, 200, 32).bursts();
    row("slotdelay", "delay 5ms slot 800us 1200us packets 3", 6_000, 200, 32).bursts();
}
