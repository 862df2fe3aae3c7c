//! Numbers of a run as JSON, with the same keys in every output.

use serde_json::{Map, Value, json};

use crate::engine::report::{NatReport, Report, StageReport};
use crate::engine::times::Spread;
use crate::net::LinkStats;
use crate::pipeline::counters::{Amount, Drops, Reason};

/// The totals, without paths.
pub fn totals(report: &Report) -> Value {
    let counters = &report.counters;
    let at = |quantile| report.lateness.value_at_quantile(quantile);
    json!({
        "conserved": report.is_conserved(),
        "received": counters.received,
        "created": counters.created,
        "sent": counters.sent,
        "passed_in_kernel": report.carried,
        "dropped": drops(&counters.drops),
        "held": report.held,
        "icmp": { "sent": counters.icmp_sent, "withheld": counters.icmp_withheld },
        "evicted_flows": report.evicted_flows,
        "connections": {
            "named": report.named.connections, "close": report.named.close, "shared": report.named.shared,
        },
        "nats": report.nats.iter().map(nat).collect::<Vec<_>>(),
        "lateness_ns": {
            "count": report.lateness.len(), "p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999),
            "max": report.lateness.max(),
        },
    })
}

/// How full a translator's table is.
pub fn nat(NatReport { name, fill }: &NatReport) -> Value {
    json!({
        "name": name, "sessions": fill.sessions, "peak": fill.peak, "table_size": fill.places,
        "refused": fill.refused,
    })
}

/// What a stage did.
pub fn stage(stage: &StageReport) -> Value {
    let c = &stage.counters;
    json!({
        "name": &*stage.name, "seen": c.seen, "acted": c.acted(), "dropped": drops(&c.drops),
        "created": c.created, "answered": c.answered, "rewritten": c.rewritten, "delayed": c.delayed, "clamped": c.clamped,
        "longest_wait_ns": c.longest_wait.as_nanos(), "held_packets": stage.held,
    })
}

/// How times are spread, in nanoseconds.
pub fn spread(spread: &Spread) -> Value {
    let at = |part| spread.quantile(part);
    json!({
        "count": spread.count(), "p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "max": spread.max(),
    })
}

/// Drops by the names of their reasons.
fn drops(drops: &Drops) -> Value {
    let reason = |(reason, amount): (Reason, Amount)| {
        let value =
            json!({ "packets": amount.packets, "bytes": amount.bytes, "ordered": reason.is_ordered() });
        (reason.name().to_owned(), value)
    };
    Value::Object(drops.iter().map(reason).collect::<Map<_, _>>())
}

/// The kernel's counters of the device that belongs to port `name`.
pub fn link(link: &LinkStats, name: &str) -> Value {
    json!({
        "name": name,
        "device": {
            "tx_packets": link.tx_packets, "tx_dropped": link.tx_dropped,
            "rx_packets": link.rx_packets, "rx_dropped": link.rx_dropped,
        },
    })
}
