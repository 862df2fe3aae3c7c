//! How exactly a limited link keeps its rate, seen from the socket behind it.

use std::time::Duration;

use faultwire::lab::traffic::udp::{Receiver, Udp};
use serde_json::json;

use crate::subject::{Hosts, router};

/// Rates that are measured, in bits a second.
const RATES: [u64; 5] = [1_000_000, 10_000_000, 100_000_000, 200_000_000, 1_000_000_000];
/// Bytes of each IP packet.
const SIZE: u64 = 1_500;
/// Headers of IP and UDP.
const HEADERS: u32 = 28;
/// What must have ended before nothing more is thought to come.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures each rate for about `span`.
pub(crate) fn errors(span: Duration, quiet: bool) -> Vec<serde_json::Value> {
    RATES.iter().map(|&bits| error(bits, span, quiet)).collect()
}

/// The mean rate from the first arrival to the last against `bits`, while the link always has work.
fn error(bits: u64, span: Duration, quiet: bool) -> serde_json::Value {
    let count = (bits as f64 * span.as_secs_f64() / 8.0 / SIZE as f64).max(20.0) as u64;
    let hosts = Hosts::new();
    let network = router(&format!("rate {bits}bit limit {count}"), true, &hosts);
    let receiver = hosts.right.run(|| Receiver::start(7, SETTLE, None).unwrap()).unwrap();
    let udp = Udp {
        count,
        size: SIZE as u32 - HEADERS,
        interval: Duration::ZERO,
        df: true,
        gso: 40,
        settle: SETTLE,
        answer: None,
    };
    hosts.left.run(|| udp.send("10.66.2.2:7".parse().unwrap()).unwrap()).unwrap();
    let arrivals = receiver.finish();
    let summary = network.stop().unwrap();
    assert_eq!(arrivals.len() as u64, summary.total.counters.sent.packets, "the receiver took all that left");
    let sent = (arrivals.len() as u64 - 1) * SIZE * 8;
    let time = arrivals[arrivals.len() - 1].at - arrivals[0].at;
    let percent = (sent as f64 * 1e9 / time as f64 / bits as f64 - 1.0) * 100.0;
    let late = |permille: f64| summary.total.lateness.value_at_quantile(permille);
    if !quiet {
        println!(
            "rate {:>5} Mbit/s: {percent:+.5} % over {} packets in {:.3} s  [left late by: p50 {} us, p99.9 {} us]",
            bits / 1_000_000,
            arrivals.len(),
            time as f64 / 1e9,
            late(0.5) / 1_000,
            late(0.999) / 1_000
        );
    }
    json!({ "bits_per_s": bits, "packets": arrivals.len(), "error_percent": percent })
}
