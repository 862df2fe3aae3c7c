//! Forwarding speed between two namespaces, against a bare pump with the same offloads, in one run.
//!
//! Absolute figures drift with the machine and its neighbours, ratios of neighbours in time do not: each round measures
//! all subjects one after the other, and what is reported is the median of the rounds' ratios, with their range.
//!
//! `cargo bench --bench speed -- --rounds 9 --seconds 2 [--json]`; `--smoke` (or cargo's `--test`) only shows that it
//! works. Needs root, as whatever makes devices; without it fails and says so.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with the reason")]

mod memory;
mod peers;
mod pump;
mod rate;
mod subject;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use crate::peers::{Faults, Peer};
use crate::subject::{Hosts, Stages, Subject};

#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
struct Args {
    /// Rounds; each measures every subject once
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Ratios as JSON on standard output
    #[arg(long)]
    json: bool,
    /// One short round
    #[arg(long)]
    smoke: bool,
    /// Minutes of mixed traffic through delay, jitter and loss, for the growth of memory; 0: not measured
    #[arg(long, default_value_t = 0.0)]
    soak: f64,
    /// Also against other emulators, those of them that are installed: rattan (in $PATH or at
    /// $RATTAN)
    #[arg(long)]
    peers: bool,
    /// Only how exactly limited links keep their rate, each for `--seconds`
    #[arg(long)]
    rates: bool,
    /// Only one TCP stream to this address, for `--seconds`: what runs inside an emulator
    #[arg(long, hide = true)]
    stream: Option<SocketAddr>,
    /// Only the cost of a held packet of this size, in this process
    #[arg(long, hide = true)]
    held: Option<u64>,
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
    /// As cargo calls it
    #[arg(long, hide = true)]
    test: bool,
}

/// One ratio that is measured: `subject` to `base`.
struct Comparison {
    name: &'static str,
    subject: Subject,
    base: Subject,
    load: Load,
    target: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Load {
    /// Bytes a second of one TCP stream.
    Tcp,
    /// 64-byte datagrams a second that reach the receiver's socket.
    Udp,
}

const COMPARISONS: [Comparison; 6] = [
    Comparison {
        name: "TCP, three idle stages / bare pump",
        subject: Subject::Router(Stages::Idle),
        base: Subject::Pump,
        load: Load::Tcp,
        target: Some(0.95),
    },
    Comparison {
        name: "64 B UDP, three idle stages / bare pump",
        subject: Subject::Router(Stages::Idle),
        base: Subject::Pump,
        load: Load::Udp,
        target: Some(0.95),
    },
    Comparison {
        name: "TCP, 0.01 % loss / three idle stages",
        subject: Subject::Router(Stages::Loss),
        base: Subject::Router(Stages::Idle),
        load: Load::Tcp,
        target: None,
    },
    Comparison {
        name: "TCP, 10 ms each way / three idle stages",
        subject: Subject::Router(Stages::Delay),
        base: Subject::Router(Stages::Idle),
        load: Load::Tcp,
        target: None,
    },
    Comparison {
        name: "TCP, timestamps and nat / three idle stages",
        subject: Subject::Router(Stages::Nat),
        base: Subject::Router(Stages::Idle),
        load: Load::Tcp,
        target: Some(0.8),
    },
    Comparison {
        name: "TCP, offload off / three idle stages",
        subject: Subject::Router(Stages::NoOffload),
        base: Subject::Router(Stages::Idle),
        load: Load::Tcp,
        target: None,
    },
];

fn main() {
    let mut args = Args::parse();
    if args.smoke || args.test {
        (args.rounds, args.seconds) = (1, 0.2);
    }
    if let Some(to) = args.stream {
        peers::stream(to, args.seconds);
        return;
    }
    if let Err(closed) = faultwire::net::privilege::check() {
        eprintln!("this bench makes namespaces and TUN devices: {closed}");
        std::process::exit(1);
    }
    if let Some(size) = args.held {
        println!("{}", memory::held(size));
        return;
    }
    let span = Duration::from_secs_f64(args.seconds);
    if args.rates {
        let errors = rate::errors(span, args.json);
        if args.json {
            println!("{:#}", json!({ "rates": errors }));
        }
        return;
    }
    let mut results = Vec::new();
    for comparison in &COMPARISONS {
        results.push(compare(comparison, &args));
    }
    if args.peers {
        compare_peers(&args, &mut results);
    }
    let rates = rate::errors(span, args.json);
    let held = memory::per_held_packet();
    let soak = (args.soak > 0.0).then(|| memory::soak(Duration::from_secs_f64(args.soak * 60.0)));
    if args.json {
        println!(
            "{:#}",
            json!({ "ratios": results, "rates": rates, "held_packet_overhead_bytes": held, "soak": soak })
        );
        return;
    }
    for (size, overhead) in &held {
        println!("a held packet of {size} bytes costs them and {overhead:.1} more (target: at most 128)");
    }
    if let Some((start, end)) = soak {
        println!("resident after a minute {start} KiB, at the end {end} KiB");
    }
}

fn compare(comparison: &Comparison, args: &Args) -> serde_json::Value {
    let span = Duration::from_secs_f64(args.seconds);
    let subject = || measure(comparison.subject, comparison.load, span);
    let base = || measure(comparison.base, comparison.load, span);
    paired(comparison.name, comparison.load, comparison.target, args, subject, base)
}

/// faultwire's `exec` against each peer that is installed.
fn compare_peers(args: &Args, results: &mut Vec<serde_json::Value>) {
    let span = Duration::from_secs_f64(args.seconds);
    for (peer, target) in [(Peer::Rattan, 8.0)] {
        if !peer.is_here() {
            eprintln!("{} is not installed: not compared", peer.name());
            continue;
        }
        for (faults, what) in [(Faults::Loss, "0.01 % loss"), (Faults::Delay, "10 ms each way")] {
            let name = format!("TCP, {what}: exec / {}", peer.name());
            let rate = |peer: Peer| {
                let rate = peers::measure(peer, faults, span);
                rate.unwrap_or_else(|error| panic!("{}: {error}", peer.name()))
            };
            let ratio = paired(&name, Load::Tcp, Some(target), args, || rate(Peer::Faultwire), || rate(peer));
            results.push(ratio);
        }
    }
}

/// The ratios of two measurements that follow each other, as often as there are rounds.
fn paired(
    name: &str,
    load: Load,
    target: Option<f64>,
    args: &Args,
    subject: impl Fn() -> f64,
    base: impl Fn() -> f64,
) -> serde_json::Value {
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        // Who goes first alternates: neither gets the quieter half.
        let early = (round % 2 == 0).then(&base);
        let rate = subject();
        ratios.push(rate / early.unwrap_or_else(&base));
        rates.push(rate);
    }
    ratios.sort_by(f64::total_cmp);
    rates.sort_by(f64::total_cmp);
    let (low, median, high) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    let rate = rates[rates.len() / 2];
    if !args.json {
        let target = target.map_or(String::new(), |target| format!("  target {target}"));
        let unit = match load {
            Load::Tcp => format!("{:.2} Gbit/s", rate * 8.0 / 1e9),
            Load::Udp => format!("{:.0} kpps", rate / 1e3),
        };
        println!("{name:<42} {median:.3} ({low:.3} .. {high:.3}){target}  [{unit}]");
    }
    json!({
        "name": name, "median": median, "low": low, "high": high, "target": target,
        "rounds": args.rounds, "rate_per_s": rate,
    })
}

fn measure(subject: Subject, load: Load, span: Duration) -> f64 {
    let hosts = Hosts::new();
    let running = subject.start(&hosts);
    let rate = match load {
        Load::Tcp => traffic::tcp(&hosts, span),
        Load::Udp => traffic::udp(&hosts, span),
    };
    drop(running);
    rate
}
