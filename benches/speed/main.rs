//! Forwarding speed between two namespaces, against a bare pump with the same offloads, in one run.
//!
//! Absolute figures drift with the machine and its neighbours, ratios of neighbours in time do not: each round measures
//! a subject and its base one after the other, and what is reported is the median of the rounds' ratios, with their
//! range. TCP is measured with each congestion control that the kernel has of cubic and bbr, cubic first.
//!
//! `cargo bench --bench speed -- --rounds 9 --seconds 2 [--json]`; `--smoke` (or cargo's `--test`) only shows that it
//! works. Needs root, as whatever makes devices; without it fails and says so.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with the reason")]

mod memory;
mod peers;
mod pump;
mod rate;
mod rows;
mod subject;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use crate::peers::{Faults, Peer};
use crate::rows::{Load, ROWS, Row};
use crate::subject::{Hosts, Subject};
use crate::traffic::Congestion;

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
    /// How that stream sends
    #[arg(long, hide = true, default_value = "cubic")]
    congestion: Congestion,
    /// Only the cost of a held packet of this size, in this process
    #[arg(long, hide = true)]
    held: Option<u64>,
    /// Only the ratios whose names have this text
    #[arg(long, value_name = "TEXT")]
    row: Option<String>,
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
    /// As cargo calls it
    #[arg(long, hide = true)]
    test: bool,
}

fn main() {
    let mut args = Args::parse();
    if args.smoke || args.test {
        (args.rounds, args.seconds) = (1, 0.2);
    }
    if let Some(to) = args.stream {
        peers::stream(to, args.congestion, args.seconds);
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
    for row in ROWS.iter().filter(|row| args.row.as_ref().is_none_or(|text| row.name.contains(text))) {
        compare(row, &args, &mut results);
    }
    if args.row.is_some() {
        if args.json {
            println!("{:#}", json!({ "ratios": results }));
        }
        return;
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

fn compare(row: &Row, args: &Args, results: &mut Vec<serde_json::Value>) {
    let span = Duration::from_secs_f64(args.seconds);
    let mut measured = |ratio: &Ratio<'_>, measure: &dyn Fn(Subject) -> f64| {
        results.push(paired(ratio, args, || measure(row.subject), || measure(row.base)));
    };
    let ratio = Ratio { name: row.name, means: row.means, target: row.target, congestion: None };
    match row.load {
        Load::Udp => measured(&ratio, &|subject| through(subject, |hosts| traffic::udp(hosts, span))),
        Load::Tcp => {
            for congestion in Congestion::available() {
                // Targets are for what nearly every host uses.
                let target = ratio.target.filter(|_| congestion == Congestion::Cubic);
                let ratio = Ratio { congestion: Some(congestion), target, ..ratio };
                let tcp = |subject| through(subject, |hosts| traffic::tcp(hosts, congestion, span));
                measured(&ratio, &tcp);
            }
        }
    }
}

/// faultwire's `exec` against each peer that is installed.
fn compare_peers(args: &Args, results: &mut Vec<serde_json::Value>) {
    let span = Duration::from_secs_f64(args.seconds);
    for peer in [Peer::Rattan] {
        if !peer.is_here() {
            eprintln!("{} is not installed: not compared", peer.name());
            continue;
        }
        for (faults, what) in [(Faults::Loss, "0.01 % loss"), (Faults::Delay, "10 ms each way")] {
            for congestion in Congestion::available() {
                let rate = |peer: Peer| {
                    let rate = peers::measure(peer, faults, congestion, span);
                    rate.unwrap_or_else(|error| panic!("{}: {error}", peer.name()))
                };
                let ratio = Ratio {
                    name: &format!("TCP, {what}: exec / {}", peer.name()),
                    means: "the same stream through the same fault, each program with its own defaults",
                    target: (congestion == Congestion::Cubic).then_some(8.0),
                    congestion: Some(congestion),
                };
                results.push(paired(&ratio, args, || rate(Peer::Faultwire), || rate(peer)));
            }
        }
    }
}

/// What is said of a ratio beside its numbers.
#[derive(Clone, Copy)]
struct Ratio<'a> {
    name: &'a str,
    means: &'a str,
    target: Option<f64>,
    /// Of TCP; UDP has none.
    congestion: Option<Congestion>,
}

/// The ratios of two measurements that follow each other, as often as there are rounds.
fn paired(
    ratio: &Ratio<'_>,
    args: &Args,
    subject: impl Fn() -> f64,
    base: impl Fn() -> f64,
) -> serde_json::Value {
    let (mut ratios, mut rates, mut bases) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        // Who goes first alternates: neither gets the quieter half.
        let early = (round % 2 == 0).then(&base);
        let rate = subject();
        let base = early.unwrap_or_else(&base);
        ratios.push(rate / base);
        rates.push(rate);
        bases.push(base);
    }
    ratios.sort_by(f64::total_cmp);
    let (low, median, high) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    let (rate, base) = (middle(rates), middle(bases));
    let congestion = ratio.congestion.map(Congestion::name);
    if !args.json {
        let target = ratio.target.map_or(String::new(), |target| format!("  target {target}"));
        let absolute = match congestion {
            Some(_) => format!("{:.2} / {:.2} Gbit/s", rate * 8.0 / 1e9, base * 8.0 / 1e9),
            None => format!("{:.0} / {:.0} kpps", rate / 1e3, base / 1e3),
        };
        let name = format!("{:<6} {}", congestion.unwrap_or_default(), ratio.name);
        println!("{name:<50} {median:.3} ({low:.3} .. {high:.3})  [{absolute}]{target}");
        if ratio.congestion != Some(Congestion::Bbr) {
            println!("       {}", ratio.means);
        }
    }
    json!({
        "name": ratio.name, "means": ratio.means, "congestion_control": congestion, "median": median,
        "low": low, "high": high, "target": ratio.target, "rounds": args.rounds, "rate_per_s": rate,
        "base_rate_per_s": base,
    })
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What `load` measures while `subject` forwards between two new hosts.
fn through(subject: Subject, load: impl Fn(&Hosts) -> f64) -> f64 {
    let hosts = Hosts::new();
    let running = subject.start(&hosts);
    let rate = load(&hosts);
    drop(running);
    rate
}
