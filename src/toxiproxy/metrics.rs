//! Bytes that each proxy received and sent, for Prometheus.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::toxiproxy::proxy::Shown;
use crate::toxiproxy::toxic::Direction;

/// The type of the answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The bytes of a proxy, by direction.
#[derive(Debug, Default)]
pub(super) struct Counts {
    received: [AtomicU64; 2],
    sent: [AtomicU64; 2],
}

impl Counts {
    /// From the client (upstream) or from the upstream (downstream).
    pub(super) fn received(&self, direction: Direction) -> &AtomicU64 {
        &self.received[direction as usize]
    }

    /// To the upstream (upstream) or to the client (downstream).
    pub(super) fn sent(&self, direction: Direction) -> &AtomicU64 {
        &self.sent[direction as usize]
    }
}

/// The whole text.
pub(super) fn text(proxies: &[Arc<Shown>]) -> String {
    let mut text = String::new();
    for what in ["received", "sent"] {
        let name = format!("toxiproxy_proxy_{what}_bytes_total");
        let end = if what == "sent" { "to" } else { "from" };
        let _ = writeln!(
            text,
            "# HELP {name} The total number of bytes {what} {end} the ends of a proxy, by direction"
        );
        let _ = writeln!(text, "# TYPE {name} counter");
        for proxy in proxies {
            for direction in Direction::BOTH {
                let count = match what {
                    "sent" => proxy.counts.sent(direction),
                    _ => proxy.counts.received(direction),
                };
                let [listener, label, upstream] =
                    [&proxy.listen, &proxy.name, &proxy.upstream].map(|text| escaped(text));
                let _ = writeln!(
                    text,
                    "{name}{{direction=\"{}\",listener=\"{listener}\",proxy=\"{label}\",upstream=\"{upstream}\"}} {}",
                    direction.name(),
                    count.load(Ordering::Relaxed)
                );
            }
        }
    }
    text
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
