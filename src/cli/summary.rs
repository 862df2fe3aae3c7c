//! The result of a run: a table for people, JSON for programs, and a live line.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::config::Plan;
use crate::engine::network::{Attached, Summary};
use crate::engine::{self, NatReport, PathReport, Report};
use crate::lab::report::layout::wrap;
use crate::pipeline::aim::ordinals::Ordinals;
use crate::pipeline::counters::{Amount, Drops};
use crate::pipeline::time::{Duration, Instant};

/// If more than one scheduled packet in a thousand was later than this, the host did not keep up.
const LATE: Duration = Duration::from_millis(1);
/// With fewer scheduled packets, a single pause of the host would decide.
const ENOUGH: u64 = 5_000;

/// Names for the indices of a summary.
#[derive(Debug, Clone)]
pub(super) struct Names {
    ports: Vec<String>,
    devices: Vec<String>,
    seed: u64,
}

impl Names {
    pub(super) fn of(plan: &Plan, seed: u64) -> Self {
        let ports = plan.ports.iter().map(|port| port.name.clone()).collect();
        let devices = plan.ports.iter().map(|port| port.device.clone()).collect();
        Self { ports, devices, seed }
    }

    /// The same with the ports of the attached devices.
    pub(super) fn with_attached(mut self, attached: &[Attached]) -> Self {
        for port in attached {
            self.ports.extend([port.name.clone(), format!("{}/network", port.name)]);
            self.devices.extend_from_slice(port.taps());
        }
        self
    }

    /// The names of a wire: its ends, and the devices whose queues lead to faultwire.
    pub(super) fn of_wire(devices: &[String; 2], seed: u64) -> Self {
        Self { ports: ["target", "network"].map(str::to_owned).into(), devices: devices.to_vec(), seed }
    }
}

impl Names {
    /// Seed of all draws.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }
}

/// What faults did, in wire packets: "packets: 3 dropped, 20 delayed"; `None` if they did nothing.
pub(super) fn acted(summary: &Summary) -> Option<String> {
    // The totals also have what a stage dropped that was removed during the run.
    let mut sums = [split(&summary.total.counters.drops).0.packets, 0, 0, 0];
    for stage in summary.total.paths.iter().flat_map(|path| &path.stages) {
        let c = &stage.counters;
        let created = c.created.packets + c.answered.packets;
        for (sum, packets) in sums[1..].iter_mut().zip([c.delayed.packets, created, c.rewritten.packets]) {
            *sum += packets;
        }
    }
    let words = sums.into_iter().zip(["dropped", "delayed", "created", "rewritten"]);
    let words: Vec<String> =
        words.filter(|(sum, _)| *sum > 0).map(|(sum, what)| format!("{sum} {what}")).collect();
    (!words.is_empty()).then(|| format!("packets: {}", words.join(", ")))
}

/// One line: rates since `before`, and what was lost so far.
pub(super) fn live_line(summary: &Summary, now: Instant, before: Option<&(Instant, Summary)>) -> String {
    let counters = &summary.total.counters;
    let (start, sent) =
        before.map_or_else(Default::default, |(at, summary)| (*at, summary.total.counters.sent));
    let seconds = now.since(start).as_secs_f64().max(1e-9);
    let packets = (counters.sent.packets - sent.packets) as f64 / seconds;
    let bits = (counters.sent.bytes - sent.bytes) as f64 * 8.0 / seconds;
    let (ordered, other) = split(&counters.drops);
    let carried = match (summary.total.carried.packets, counters.sent.packets) {
        (0, _) | (_, 0) => String::new(),
        (carried, sent) => format!("  in the kernel {:.1} %", carried as f64 * 100.0 / sent as f64),
    };
    format!(
        "{:>4.0}s  {} packets/s  {}bit/s  dropped {} as ordered, {} otherwise  held {}{carried}",
        now.since(Instant::ZERO).as_secs_f64(),
        si(packets).trim_end(),
        si(bits),
        ordered.packets,
        other.packets,
        summary.total.held.packets
    )
}

fn si(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0} "),
    }
}

/// Drops that the configuration ordered, and all others.
fn split(drops: &Drops) -> (Amount, Amount) {
    let mut sums = (Amount::default(), Amount::default());
    for (reason, amount) in drops.iter() {
        if reason.is_ordered() {
            sums.0 += amount;
        } else {
            sums.1 += amount;
        }
    }
    sums
}

/// The table that ends a run, in lines of at most so many columns, but for single words.
pub(super) fn table(summary: &Summary, names: &Names, columns: usize) -> String {
    let mut out = String::new();
    write_table(&mut out, summary, names, columns).expect("writing to a string");
    out
}

/// Columns of a name, of packets and of bytes.
const TOTALS: [usize; 3] = [34, 14, 18];

fn write_table(out: &mut String, summary: &Summary, names: &Names, columns: usize) -> std::fmt::Result {
    let report = &summary.total;
    let counters = &report.counters;
    let [label_width, packets, bytes] = TOTALS;
    let fits = label_width + packets + bytes <= columns;
    if fits {
        writeln!(
            out,
            "{:<label_width$}{:>packets$}{:>bytes$}",
            "wire packets and bytes", "packets", "bytes"
        )?;
    }
    let mut row = |label: &str, amount: Amount| {
        if fits {
            writeln!(out, "{label:<label_width$}{:>packets$}{:>bytes$}", amount.packets, amount.bytes)
        } else {
            let text = format!("{label}: {} packets, {} bytes", amount.packets, amount.bytes);
            writeln!(out, "{}", wrap(&text, columns))
        }
    };
    row("received", counters.received)?;
    row("created (copies, fragments, ICMP)", counters.created)?;
    row("sent", counters.sent)?;
    if report.carried.packets > 0 {
        row("  of these, passed in the kernel", report.carried)?;
    }
    for (reason, amount) in counters.drops.iter() {
        let order = if reason.is_ordered() { "as ordered" } else { "not ordered" };
        row(&format!("dropped: {} ({order})", reason.name()), amount)?;
    }
    if report.held.packets > 0 {
        row("held", report.held)?;
    }
    let verdict = if report.is_conserved() { "all accounted for" } else { "NOT ALL ACCOUNTED FOR (a bug)" };
    let verdict = format!("received + created = sent + dropped + held: {verdict}");
    writeln!(out, "{}", wrap(&verdict, columns))?;
    for path in &report.paths {
        writeln!(out, "\n{} -> {}", names.ports[path.from], names.ports[path.to])?;
        out.push_str(&stages(path, columns));
    }
    writeln!(out)?;
    for NatReport { name, fill } in &report.nats {
        writeln!(
            out,
            "{name}: {} sessions, {} at most of {}; {} packets refused for lack of room or ports",
            fill.sessions, fill.peak, fill.places, fill.refused
        )?;
    }
    write_lateness(out, report)?;
    for notice in notices(summary, names) {
        writeln!(out, "notice: {notice}")?;
    }
    writeln!(out, "seed {}", names.seed)
}

/// What the stages of a path did: a table, or a sentence for each where it has no room.
fn stages(path: &PathReport, columns: usize) -> String {
    const TITLES: [&str; 6] = ["seen", "acted on", "dropped", "delayed", "created", "rewritten"];
    let counted = path.stages.iter().map(|stage| {
        let c = &stage.counters;
        let created = c.created.packets + c.answered.packets;
        let amounts = [c.seen, c.acted(), c.drops.total(), c.delayed].map(|amount| amount.packets);
        let [seen, acted, dropped, delayed] = amounts;
        (&*stage.name, [seen, acted, dropped, delayed, created, c.rewritten.packets])
    });
    let rows: Vec<(&str, [u64; 6])> = counted.collect();
    let name = rows.iter().map(|(name, _)| name.chars().count() + 2).max().unwrap_or(0).max(12);
    let width = |at: usize, gap: usize| {
        let numbers = rows.iter().map(|(_, row)| row[at].to_string().len());
        numbers.max().unwrap_or(0).max(TITLES[at].len()) + gap
    };
    let widths = |gap| -> Vec<usize> { (0..TITLES.len()).map(|at| width(at, gap)).collect() };
    let fitting =
        [4, 3, 2].map(widths).into_iter().find(|widths| 2 + name + widths.iter().sum::<usize>() <= columns);
    let mut text = String::new();
    let mut write = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("writing to a string");
    if let Some(widths) = fitting {
        write(format_args!("  {:<name$}", "stage"));
        TITLES.iter().zip(&widths).for_each(|(title, width)| write(format_args!("{title:>width$}")));
        for (stage, row) in &rows {
            write(format_args!("\n  {stage:<name$}"));
            row.iter().zip(&widths).for_each(|(number, width)| write(format_args!("{number:>width$}")));
        }
        write(format_args!("\n"));
        return text;
    }
    for (stage, row) in &rows {
        let numbers = row.iter().zip(TITLES).enumerate().filter(|(at, (number, _))| *at == 0 || **number > 0);
        let numbers: Vec<String> = numbers.map(|(_, (number, title))| format!("{title} {number}")).collect();
        write(format_args!("{}\n", wrap(&format!("  {stage}: {}", numbers.join(", ")), columns)));
    }
    text
}

fn write_lateness(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.lateness.is_empty() {
        return Ok(());
    }
    let at = |quantile| Duration::from_nanos(report.lateness.value_at_quantile(quantile));
    let max = Duration::from_nanos(report.lateness.max());
    writeln!(
        out,
        "scheduled packets left late by: p50 {}, p99 {}, p99.9 {}, max {max}",
        at(0.5),
        at(0.99),
        at(0.999)
    )
}

/// Warns if this host did not keep up: more than one packet in a thousand left late, and there were enough to exclude
/// a single pause.
fn too_late(lateness: &Histogram<u64>) -> Option<String> {
    let all = lateness.len();
    let late = all - lateness.count_between(0, LATE.as_nanos());
    (all >= ENOUGH && late.saturating_mul(1_000) > all).then(|| {
        format!(
            "this host did not keep up: {late} of {all} scheduled packets left more than {LATE} late; delays and rates of \
             this run are not the network's alone"
        )
    })
}

/// Notices about what makes results wrong.
fn notices(summary: &Summary, names: &Names) -> Vec<String> {
    let mut notices = Vec::new();
    let report = &summary.total;
    notices.extend(too_late(&report.lateness));
    for (link, (port, device)) in summary.links.iter().zip(names.ports.iter().zip(&names.devices)) {
        if link.tx_dropped > 0 {
            notices.push(format!(
                "port {port}: {} packets or trains were lost before faultwire could read them: the queue of {device} \
                 was full (raise txqueuelen, or send slower)",
                link.tx_dropped
            ));
        }
    }
    if summary.unlogged > 0 {
        notices.push(format!(
            "the logs lack at least {} lines: this host did not write them as fast as packets came",
            summary.unlogged
        ));
    }
    if report.evicted_flows > 0 {
        notices.push(format!(
            "{} flows were forgotten for lack of room (raise `flows`); their random decisions started anew",
            report.evicted_flows
        ));
    }
    // A capture has one order, whatever its timestamps.
    if report.named.close > 0 && !report.paths.is_empty() && !summary.links.is_empty() {
        notices.push(format!(
            "{} of {} connections came within 1 ms of another to the same service: which of them is first, and so which \
             random decisions are whose, may differ in the next run",
            report.named.close, report.named.connections
        ));
    }
    if report.named.shared > 0 {
        notices.push(format!(
            "{} connections were numbered together with those of other services: there are more than {} services",
            report.named.shared,
            Ordinals::SERVICES
        ));
    }
    for path in &report.paths {
        for stage in path.stages.iter().filter(|stage| stage.counters.clamped > 0) {
            notices.push(format!(
                "stage {} of {} -> {}: {} of {} packets left with their predecessor to keep the order; their delay is \
                 longer than drawn",
                stage.name,
                names.ports[path.from],
                names.ports[path.to],
                stage.counters.clamped,
                stage.counters.acted().packets
            ));
        }
    }
    notices
}

/// The same as JSON.
pub(super) fn json(summary: &Summary, names: &Names) -> Value {
    let report = &summary.total;
    let paths = report.paths.iter().map(|path| {
        let mut value = json!({
            "from": names.ports[path.from], "to": names.ports[path.to],
            "stages": path.stages.iter().map(engine::json::stage).collect::<Vec<_>>(),
        });
        // A capture has its times in its packets.
        if !summary.workers.is_empty() {
            value["delay_ns"] = engine::json::spread(&path.delay);
            value["lateness_ns"] = engine::json::spread(&path.lateness);
        }
        value
    });
    let mut value = engine::json::totals(report);
    value["seed"] = names.seed.into();
    value["workers"] = summary.workers.len().into();
    value["paths"] = paths.collect();
    let ports = summary.links.iter().zip(&names.ports);
    value["ports"] = ports.map(|(link, name)| engine::json::link(link, name)).collect();
    value["notices"] = notices(summary, names).into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Spread, StageReport};
    use crate::pipeline::counters::StageCounters;

    #[test]
    fn the_stages_fit_the_width() {
        let counters =
            |packets| StageCounters { seen: Amount { packets, bytes: 1 }, ..StageCounters::default() };
        let stage =
            |name: &str, packets| StageReport { name: name.into(), counters: counters(packets), held: 0 };
        for (name, packets) in
            [("loss", 7), ("loss", u64::MAX), ("a-stage-with-quite-a-long-name/back", 123_456)]
        {
            let path = PathReport {
                from: 0,
                to: 1,
                stages: vec![stage(name, packets), stage("b", 0)],
                delay: Spread::default(),
                lateness: Spread::default(),
            };
            for columns in [40, 80, 120] {
                let text = stages(&path, columns);
                assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
                assert!(text.contains(&packets.to_string()), "{text}");
            }
        }
    }

    fn said(in_time: u64, late: u64) -> Option<String> {
        let mut lateness = Histogram::new(3).unwrap();
        lateness.record_n(50_000, in_time).unwrap();
        lateness.record_n(4_000_000, late).unwrap();
        too_late(&lateness)
    }

    #[test]
    fn a_host_that_is_late_is_told_of_only_with_enough_packets() {
        assert_eq!(said(0, 0), None);
        assert_eq!(said(0, 6), None, "six packets tell nothing");
        assert_eq!(said(4_998, 1), None);
        assert_eq!(said(9_990, 10), None, "one in a thousand is not more");
        let text = said(9_990, 11).unwrap();
        assert!(text.contains("11 of 10001 scheduled packets left more than 1ms late"), "{text}");
        assert!(said(0, 5_000).is_some());
    }
}
