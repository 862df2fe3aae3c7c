//! The numbers as Prometheus reads them: text format 0.0.4.

use std::fmt::Write;

use crate::control::instance::Instance;
use crate::control::view::{Moment, paths};
use crate::engine::{PathReport, Report, Spread, StageReport};
use crate::net::LinkStats;
use crate::pipeline::counters::{Amount, Reason, StageCounters};

/// What is answered is of this type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A counter of a stage, its name and what it means.
type StageCounter = (&'static str, &'static str, fn(&StageCounters) -> Amount);

const STAGE_COUNTERS: [StageCounter; 6] = [
    ("seen", "reached the stage", |c| c.seen),
    ("acted", "were selected and triggered at the stage", StageCounters::acted),
    ("delayed", "were made to wait by the stage", |c| c.delayed),
    ("created", "were made by the stage", |c| c.created),
    ("answered", "were made by the stage and sent back", |c| c.answered),
    ("rewritten", "were changed by the stage", |c| c.rewritten),
];

/// A number of a device, its name and what it means.
type DeviceCounter = (&'static str, &'static str, fn(&LinkStats) -> u64);

const DEVICE_COUNTERS: [DeviceCounter; 8] = [
    ("tx_packets", "packets or trains that the host sent", |l| l.tx_packets),
    ("tx_bytes", "bytes that the host sent", |l| l.tx_bytes),
    ("tx_dropped", "lost because the queue was full", |l| l.tx_dropped),
    ("tx_errors", "errors while sending", |l| l.tx_errors),
    ("rx_packets", "packets or trains that the host received", |l| l.rx_packets),
    ("rx_bytes", "bytes that the host received", |l| l.rx_bytes),
    ("rx_dropped", "dropped on the way into the host", |l| l.rx_dropped),
    ("rx_errors", "errors while receiving", |l| l.rx_errors),
];

/// The whole text.
pub(super) fn text(instance: &Instance, moment: &Moment, links: &[Option<LinkStats>]) -> String {
    let mut page = Page::default();
    router(&mut page, instance, moment);
    stages(&mut page, instance, &moment.total);
    lateness(&mut page, &moment.total);
    times(&mut page, instance, &moment.total);
    nats(&mut page, &moment.total);
    devices(&mut page, instance, links);
    page.out
}

/// Families of samples.
#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP faultwire_{name} {help}\n# TYPE faultwire_{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{line}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.out, "faultwire_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if at == 0 { "{" } else { "," });
            for letter in text.chars() {
                match letter {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{end} {value}"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Two counters, of packets and of bytes.
    fn amount(&mut self, name: &str, help: &str, amount: Amount) {
        self.single(
            &format!("{name}_packets_total"),
            "counter",
            &format!("Wire packets {help}"),
            amount.packets,
        );
        self.single(&format!("{name}_bytes_total"), "counter", &format!("Bytes {help}"), amount.bytes);
    }
}

fn router(page: &mut Page, instance: &Instance, moment: &Moment) {
    let counters = &moment.total.counters;
    page.family("info", "gauge", "What runs");
    let (seed, version) = (instance.params.seed.to_string(), env!("CARGO_PKG_VERSION"));
    page.sample("info", &[("version", version), ("command", instance.command), ("seed", &seed)], 1);
    page.single("uptime_seconds", "gauge", "Time since the start of the run", moment.at_ns as f64 / 1e9);
    page.amount("received", "read from devices", counters.received);
    page.amount("created", "made by the router or its stages", counters.created);
    page.amount("sent", "written to devices", counters.sent);
    let words = |reason: Reason| if reason.is_ordered() { "true" } else { "false" };
    for (unit, of) in [("packets", (|a: Amount| a.packets) as fn(Amount) -> u64), ("bytes", |a| a.bytes)] {
        let name = format!("dropped_{unit}_total");
        page.family(
            &name,
            "counter",
            &format!("Dropped wire {unit} by reason, as ordered by the configuration or not"),
        );
        for reason in Reason::ALL {
            let labels = [("reason", reason.name()), ("ordered", words(reason))];
            page.sample(&name, &labels, of(counters.drops.of(reason)));
        }
    }
    page.single("held_packets", "gauge", "Wire packets that wait", moment.total.held.packets);
    page.single("held_bytes", "gauge", "Bytes that wait", moment.total.held.bytes);
    page.single("icmp_sent_total", "counter", "ICMP errors sent", counters.icmp_sent);
    page.single("icmp_withheld_total", "counter", "ICMP errors withheld", counters.icmp_withheld);
    let evicted = "Flows forgotten for lack of room";
    page.single("evicted_flows_total", "counter", evicted, moment.total.evicted_flows);
}

fn stages(page: &mut Page, instance: &Instance, total: &Report) {
    let all: Vec<(&str, &'static str, &StageReport)> = paths(instance, total)
        .flat_map(|path| {
            let stage = |(seat, stage)| (path.names.name.as_str(), path.kind(seat), stage);
            path.report.stages.iter().enumerate().map(stage).collect::<Vec<_>>()
        })
        .collect();
    let labels = |(path, kind, stage): &(&'_ str, &'static str, &'_ StageReport)| {
        [("path", (*path).to_owned()), ("stage", stage.name.clone()), ("type", (*kind).to_owned())]
    };
    let labels: Vec<_> = all.iter().map(labels).collect();
    let each = || all.iter().map(|(.., stage)| &stage.counters).zip(&labels);
    for (word, help, of) in STAGE_COUNTERS {
        for (unit, number) in
            [("packets", (|a: Amount| a.packets) as fn(Amount) -> u64), ("bytes", |a| a.bytes)]
        {
            let name = format!("stage_{word}_{unit}_total");
            page.family(&name, "counter", &format!("Wire {unit} that {help}"));
            for (counters, labels) in each() {
                let labels = labels.each_ref().map(|(label, text)| (*label, text.as_str()));
                page.sample(&name, &labels, number(of(counters)));
            }
        }
    }
    for (unit, number) in [("packets", (|a: Amount| a.packets) as fn(Amount) -> u64), ("bytes", |a| a.bytes)]
    {
        let name = format!("stage_dropped_{unit}_total");
        page.family(&name, "counter", &format!("Wire {unit} dropped by the stage"));
        for (counters, labels) in each() {
            let [path, stage, kind] = labels.each_ref().map(|(label, text)| (*label, text.as_str()));
            for (reason, amount) in counters.drops.iter() {
                page.sample(&name, &[path, stage, kind, ("reason", reason.name())], number(amount));
            }
        }
    }
    page.family("stage_longest_wait_seconds", "gauge", "The longest wait that the stage decided");
    for (counters, labels) in each() {
        let labels = labels.each_ref().map(|(label, text)| (*label, text.as_str()));
        page.sample("stage_longest_wait_seconds", &labels, counters.longest_wait.as_secs_f64());
    }
    page.family("stage_held_packets", "gauge", "Wire packets that wait in the stage");
    for ((.., stage), labels) in all.iter().zip(&labels) {
        let labels = labels.each_ref().map(|(label, text)| (*label, text.as_str()));
        page.sample("stage_held_packets", &labels, stage.held);
    }
}

fn lateness(page: &mut Page, total: &Report) {
    let name = "lateness_seconds";
    page.family(name, "summary", "How long after its time each scheduled packet left");
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    for (label, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)] {
        page.sample(name, &[("quantile", label)], seconds(total.lateness.value_at_quantile(quantile)));
    }
    let count = total.lateness.len();
    page.sample("lateness_seconds_sum", &[], total.lateness.mean() * count as f64 / 1e9);
    page.sample("lateness_seconds_count", &[], count);
}

/// Bounds of the buckets of times: powers of two of a nanosecond, 16 us to 34 s.
const BOUNDS: std::ops::RangeInclusive<u32> = 14..=35;

/// A histogram of each path, its name and what it means.
type PathTimes = (&'static str, &'static str, fn(&PathReport) -> &Spread);

const PATH_TIMES: [PathTimes; 2] = [
    ("path_delay_seconds", "From the arrival of a packet until it left its path", |path| &path.delay),
    ("path_lateness_seconds", "How long after its time a packet left that had waited", |path| &path.lateness),
];

fn times(page: &mut Page, instance: &Instance, total: &Report) {
    for (name, help, of) in PATH_TIMES {
        page.family(name, "histogram", help);
        for path in paths(instance, total) {
            let (label, spread) = (("path", path.names.name.as_str()), of(path.report));
            for bits in BOUNDS {
                let bound = ((1_u64 << bits) as f64 / 1e9).to_string();
                page.sample(&format!("{name}_bucket"), &[label, ("le", &bound)], spread.count_to(bits));
            }
            let count = spread.count();
            page.sample(&format!("{name}_bucket"), &[label, ("le", "+Inf")], count);
            page.sample(&format!("{name}_sum"), &[label], spread.sum_seconds());
            page.sample(&format!("{name}_count"), &[label], count);
        }
    }
}

fn nats(page: &mut Page, total: &Report) {
    if total.nats.is_empty() {
        return;
    }
    page.family("nat_sessions", "gauge", "Sessions of a translator");
    for nat in &total.nats {
        page.sample("nat_sessions", &[("nat", &nat.name)], nat.fill.sessions);
    }
    page.family("nat_places", "gauge", "Sessions that a translator has room for");
    for nat in &total.nats {
        page.sample("nat_places", &[("nat", &nat.name)], nat.fill.places);
    }
    page.family("nat_refused_packets_total", "counter", "Packets refused for lack of room or ports");
    for nat in &total.nats {
        page.sample("nat_refused_packets_total", &[("nat", &nat.name)], nat.fill.refused);
    }
}

fn devices(page: &mut Page, instance: &Instance, links: &[Option<LinkStats>]) {
    for (word, help, of) in DEVICE_COUNTERS {
        let name = format!("device_{word}_total");
        page.family(&name, "counter", &format!("The kernel's count for the device of a port: {help}"));
        for (device, link) in instance.devices.iter().zip(links) {
            let Some(link) = link else { continue };
            page.sample(&name, &[("port", &device.port), ("device", &device.name)], of(link));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("x", &[("a", "q\"\\\n"), ("b", "")], 1.5);
        page.sample("y", &[], 2);
        assert_eq!(page.out, "faultwire_x{a=\"q\\\"\\\\\\n\",b=\"\"} 1.5\nfaultwire_y 2\n");
    }
}
