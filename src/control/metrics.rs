//! Metrics for Prometheus: text format 0.0.4.

use std::fmt::Write;

use crate::control::instance::Instance;
use crate::control::view::{Moment, paths};
use crate::engine::{PathReport, Report, Spread, StageReport};
use crate::net::LinkStats;
use crate::pipeline::counters::{Amount, Reason, StageCounters};

/// The type of the answer.
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

/// What an amount is counted in, and its number.
type Unit = (&'static str, fn(Amount) -> u64);

const UNITS: [Unit; 2] = [("packets", |a| a.packets), ("bytes", |a| a.bytes)];

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
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP faultwire_{name} {help}\n# TYPE faultwire_{name} {kind}");
    }

    /// A sample with the labels of [`Labels`], and one more.
    fn sample(
        &mut self,
        name: &str,
        labels: &str,
        more: Option<(&str, &str)>,
        value: impl std::fmt::Display,
    ) {
        self.out.push_str("faultwire_");
        self.out.push_str(name);
        if !labels.is_empty() || more.is_some() {
            self.out.push('{');
            self.out.push_str(labels);
            if let Some((label, text)) = more {
                put(&mut self.out, labels.is_empty(), label, text);
            }
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", None, value);
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

/// Labels as they are in a sample. A stage has the same in many samples: they are escaped once.
fn labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (at, (label, text)) in labels.iter().enumerate() {
        put(&mut out, at == 0, label, text);
    }
    out
}

/// Appends a label.
fn put(out: &mut String, is_first: bool, label: &str, text: &str) {
    if !is_first {
        out.push(',');
    }
    out.push_str(label);
    out.push_str("=\"");
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn router(page: &mut Page, instance: &Instance, moment: &Moment) {
    let counters = &moment.total.counters;
    page.family("info", "gauge", "What runs");
    let (seed, version) = (instance.params.seed.to_string(), env!("CARGO_PKG_VERSION"));
    let info = labels(&[("version", version), ("command", instance.command), ("seed", &seed)]);
    page.sample("info", &info, None, 1);
    page.single("uptime_seconds", "gauge", "Time since the start of the run", moment.at_ns as f64 / 1e9);
    page.amount("received", "read from devices", counters.received);
    page.amount("created", "made by the router or its stages", counters.created);
    page.amount("sent", "written to devices", counters.sent);
    let words = |reason: Reason| if reason.is_ordered() { "true" } else { "false" };
    for (unit, of) in UNITS {
        let name = format!("dropped_{unit}_total");
        page.family(
            &name,
            "counter",
            &format!("Dropped wire {unit} by reason, as ordered by the configuration or not"),
        );
        for reason in Reason::ALL {
            let labels = labels(&[("reason", reason.name()), ("ordered", words(reason))]);
            page.sample(&name, &labels, None, of(counters.drops.of(reason)));
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
    let all: Vec<(&StageReport, String)> = paths(instance, total)
        .flat_map(|path| {
            let path_name = path.names.name.as_str();
            let of_stage = |(seat, stage): (usize, &StageReport)| {
                labels(&[("path", path_name), ("stage", &*stage.name), ("type", path.kind(seat))])
            };
            let labels: Vec<_> = path.report.stages.iter().enumerate().map(of_stage).collect();
            path.report.stages.iter().zip(labels)
        })
        .collect();
    for (word, help, of) in STAGE_COUNTERS {
        for (unit, number) in UNITS {
            let name = format!("stage_{word}_{unit}_total");
            page.family(&name, "counter", &format!("Wire {unit} that {help}"));
            for (stage, labels) in &all {
                page.sample(&name, labels, None, number(of(&stage.counters)));
            }
        }
    }
    for (unit, number) in UNITS {
        let name = format!("stage_dropped_{unit}_total");
        page.family(&name, "counter", &format!("Wire {unit} dropped by the stage"));
        for (stage, labels) in &all {
            for (reason, amount) in stage.counters.drops.iter() {
                page.sample(&name, labels, Some(("reason", reason.name())), number(amount));
            }
        }
    }
    page.family("stage_longest_wait_seconds", "gauge", "The longest wait that the stage decided");
    for (stage, labels) in &all {
        let wait = stage.counters.longest_wait.as_secs_f64();
        page.sample("stage_longest_wait_seconds", labels, None, wait);
    }
    page.family("stage_held_packets", "gauge", "Wire packets that wait in the stage");
    for (stage, labels) in &all {
        page.sample("stage_held_packets", labels, None, stage.held);
    }
}

fn lateness(page: &mut Page, total: &Report) {
    let name = "lateness_seconds";
    page.family(name, "summary", "How long after its time each scheduled packet left");
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    for (label, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)] {
        let value = seconds(total.lateness.value_at_quantile(quantile));
        page.sample(name, "", Some(("quantile", label)), value);
    }
    let count = total.lateness.len();
    page.sample("lateness_seconds_sum", "", None, total.lateness.mean() * count as f64 / 1e9);
    page.sample("lateness_seconds_count", "", None, count);
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
            let (labels, spread) = (labels(&[("path", path.names.name.as_str())]), of(path.report));
            for bits in BOUNDS {
                let bound = ((1_u64 << bits) as f64 / 1e9).to_string();
                page.sample(&format!("{name}_bucket"), &labels, Some(("le", &bound)), spread.count_to(bits));
            }
            let count = spread.count();
            page.sample(&format!("{name}_bucket"), &labels, Some(("le", "+Inf")), count);
            page.sample(&format!("{name}_sum"), &labels, None, spread.sum_seconds());
            page.sample(&format!("{name}_count"), &labels, None, count);
        }
    }
}

fn nats(page: &mut Page, total: &Report) {
    if total.nats.is_empty() {
        return;
    }
    page.family("nat_sessions", "gauge", "Sessions of a translator");
    for nat in &total.nats {
        page.sample("nat_sessions", "", Some(("nat", &nat.name)), nat.fill.sessions);
    }
    page.family("nat_places", "gauge", "Sessions that a translator has room for");
    for nat in &total.nats {
        page.sample("nat_places", "", Some(("nat", &nat.name)), nat.fill.places);
    }
    page.family("nat_refused_packets_total", "counter", "Packets refused for lack of room or ports");
    for nat in &total.nats {
        page.sample("nat_refused_packets_total", "", Some(("nat", &nat.name)), nat.fill.refused);
    }
}

fn devices(page: &mut Page, instance: &Instance, links: &[Option<LinkStats>]) {
    for (word, help, of) in DEVICE_COUNTERS {
        let name = format!("device_{word}_total");
        page.family(&name, "counter", &format!("The kernel's count for the device of a port: {help}"));
        for (device, link) in instance.devices.iter().zip(links) {
            let Some(link) = link else { continue };
            let labels = labels(&[("port", &device.port), ("device", &device.name)]);
            page.sample(&name, &labels, None, of(link));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        let two = labels(&[("a", "q\"\\\n"), ("b", "")]);
        page.sample("x", &two, None, 1.5);
        page.sample("y", "", None, 2);
        page.sample("z", &two, Some(("c", "\\")), 3);
        page.sample("z", "", Some(("c", "d")), 4);
        let two = r#"a="q\"\\\n",b="""#;
        let expected = format!(
            "faultwire_x{{{two}}} 1.5\nfaultwire_y 2\nfaultwire_z{{{two},c=\"\\\\\"}} 3\nfaultwire_z{{c=\"d\"}} 4\n"
        );
        assert_eq!(page.out, expected);
    }
}
