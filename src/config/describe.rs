//! A stage in one line for people.

mod models;
mod rewrite;
mod tcp;

use std::fmt;

use ipnet::IpNet;

use crate::pipeline::params::{
    BlackoutParams, BottleneckParams, Correlated, CorruptArea, DelayParams, Discipline, Distribution, Excess,
    FragmentSelect, GilbertElliott, ImpairmentParams, LinkLayer, ListedLossParams, LossModel, MtuAction,
    MtuParams, NetemParams, RateParams, ReorderParams, ReplayEnd, Scope, Select, ServiceParams, SlotGap,
    StageParams, StateLoss, Trigger,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Bytes, Probability};

/// Prints a stage as one sentence without its name: `loss 1% of wire packets, each independently; only tcp`.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a>(&'a StageParams);

/// What `stage` does, to which packets and when.
pub fn describe(stage: &StageParams) -> Description<'_> {
    Description(stage)
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&impairment(&self.0.impairment))?;
        for (word, parts) in [("only", select(&self.0.select)), ("when", trigger(&self.0.trigger))] {
            if !parts.is_empty() {
                write!(f, "; {word} {}", parts.join(", "))?;
            }
        }
        Ok(())
    }
}

fn impairment(impairment: &ImpairmentParams) -> String {
    match impairment {
        ImpairmentParams::Loss(loss) => {
            let mark = if loss.ecn { ", marking ECN-capable ones instead" } else { "" };
            format!("loss {} of wire packets, each independently{mark}", loss.probability)
        }
        ImpairmentParams::ListedLoss(params) => listed_loss(params),
        ImpairmentParams::Drop => "drop".to_owned(),
        ImpairmentParams::Pattern(params) => models::pattern(params),
        ImpairmentParams::DelayModel(params) => models::delay(params),
        ImpairmentParams::Delay(params) => delay(params),
        ImpairmentParams::Rate(params) => rate(params),
        ImpairmentParams::Bottleneck(params) => bottleneck(params),
        ImpairmentParams::Replay(replay) => {
            let end = match replay.end {
                ReplayEnd::Loop => "over and over",
                ReplayEnd::Hold => "then the last row stays",
                ReplayEnd::Clear => "then nothing is done any more",
            };
            format!(
                "replay {} rows of delay, rate, loss and limit in {}, {end}",
                replay.rows.len(),
                replay.period
            )
        }
        ImpairmentParams::Nat(place) if place.outward => {
            "nat: the source becomes an address outside".to_owned()
        }
        ImpairmentParams::Nat(_) => "nat: the destination becomes the host inside".to_owned(),
        ImpairmentParams::Mtu(params) => mtu(params),
        ImpairmentParams::Mss(mss) if mss.set => format!("mss set to {} in every SYN", mss.mss),
        ImpairmentParams::Mss(mss) => format!("mss clamped to {} in every SYN", mss.mss),
        ImpairmentParams::Duplicate(duplicate) => {
            let copies = if duplicate.copies == 1 { "once" } else { &format!("{} times", duplicate.copies) };
            format!("duplicate {} of wire packets {copies}", duplicate.probability)
        }
        ImpairmentParams::Corrupt(corrupt) => {
            let bits = if corrupt.bits == 1 { "1 bit" } else { &format!("{} bits", corrupt.bits) };
            let area = match corrupt.area {
                CorruptArea::Transport => "the transport header or payload",
                CorruptArea::Header => "the headers",
                CorruptArea::Payload => "the payload",
                CorruptArea::Any => "the packet",
            };
            let checksum =
                if corrupt.fix_checksum { "checksums made right again" } else { "checksums left wrong" };
            format!("corrupt {bits} of {area} in {} of wire packets, {checksum}", corrupt.probability)
        }
        ImpairmentParams::Reorder(params) => reorder(params),
        ImpairmentParams::FragmentFilter => "fragment-filter: drop every fragment but the first".to_owned(),
        ImpairmentParams::Blackout(params) => blackout(params),
        ImpairmentParams::PawsPerHost(params) => format!(
            "paws-per-host: drop SYNs behind the timestamp of the host's last FIN{}, for {}",
            if params.require_timestamp { " or without one" } else { "" },
            params.window
        ),
        ImpairmentParams::Timestamps(params) => tcp::timestamps(params),
        ImpairmentParams::RstOrder(params) => tcp::rst_order(params),
        ImpairmentParams::Tcp(params) => rewrite::tcp(params),
        ImpairmentParams::Inject(params) => rewrite::inject(params),
        ImpairmentParams::Netem(params) => netem(params),
    }
}

fn listed_loss(loss: &ListedLossParams) -> String {
    let mark = if loss.ecn { ", marking ECN-capable ones instead" } else { "" };
    let counted = match loss.scope {
        Scope::Flow => "each flow",
        Scope::Path => "the path",
    };
    let (first, last) = loss.list.bounds().unwrap_or_default();
    let which = match (loss.list.count(), last) {
        (1, _) => format!("packet {first}"),
        (_, u64::MAX) => format!("packets of a list from {first} on without end"),
        (count, _) => format!("{count} listed packets from {first} to {last}"),
    };
    format!("loss of {which} of {counted}{mark}")
}

fn delay(delay: &DelayParams) -> String {
    if !delay.jitter.is_zero() {
        let shape = match delay.distribution {
            Distribution::Uniform => "uniform",
            Distribution::Normal => "normal",
            Distribution::Table(table) => table.name(),
        };
        let order = if delay.reorder { "order not kept" } else { "order kept" };
        return format!("delay {} ± {} ({shape}), {order}", delay.delay, delay.jitter);
    }
    format!("delay {}", delay.delay)
}

fn rate(rate: &RateParams) -> String {
    let overhead = match rate.overhead {
        0 => String::new(),
        bytes => format!(", {bytes:+} bytes per packet"),
    };
    let excess = match rate.excess {
        Excess::Police { burst } => format!("drop what exceeds it after a burst of {}", Bytes(burst)),
        Excess::Queue { packets, bytes, time } => queue(packets, bytes, time),
    };
    format!("rate {}{overhead}, {excess}", rate.rate)
}

fn queue(packets: Option<u64>, bytes: Option<u64>, time: Option<Duration>) -> String {
    let limits = [
        packets.map(|packets| format!("{packets} packets")),
        bytes.map(|bytes| Bytes(bytes).to_string()),
        time.map(|time| time.to_string()),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    match limits.as_slice() {
        [] => "queue without limit".to_owned(),
        limits => format!("queue of at most {}", limits.join(" and ")),
    }
}

fn bottleneck(link: &BottleneckParams) -> String {
    let service = match &link.service {
        ServiceParams::Rate(rate) => format!("rate {rate}"),
        ServiceParams::Bucket(rate, burst, peak) => {
            let peak = peak.map_or(String::new(), |peak| {
                format!(" at no more than {} ({} at once)", peak.rate, Bytes(peak.mtu))
            });
            format!("rate {rate} after a burst of {}{peak}", Bytes(*burst))
        }
        ServiceParams::Steps(steps) => format!("rate in {}", steps.summary()),
        ServiceParams::Opportunities(times) => {
            let mean = times.mean_rate() / 1e6;
            let (count, period) = (times.count(), times.period());
            format!(
                "rate by a trace of {count} delivery opportunities in {period}, {mean:.3} Mbit/s on average"
            )
        }
    };
    let ecn = |on: bool| if on { ", marking ECN-capable packets instead" } else { "" };
    let discipline = match link.discipline {
        Discipline::TailDrop => "drop at the tail".to_owned(),
        Discipline::HeadDrop => "drop at the head".to_owned(),
        Discipline::CoDel(codel) => {
            format!("CoDel (target {}, interval {}){}", codel.target, codel.interval, ecn(codel.ecn))
        }
        Discipline::Pie(pie) => format!("PIE (target {}, update {}){}", pie.target, pie.update, ecn(pie.ecn)),
        Discipline::Red(red) => format!(
            "RED (from {} to {} packets up to {}, weight {}){}",
            red.min,
            red.max,
            red.probability,
            red.weight,
            ecn(red.ecn)
        ),
    };
    let overhead = match link.overhead {
        0 => String::new(),
        bytes => format!(", {bytes:+} bytes per packet"),
    };
    format!("{service}{overhead}, {}, {discipline}", queue(link.packets, link.bytes, None))
}

fn mtu(mtu: &MtuParams) -> String {
    let action = match mtu.action {
        MtuAction::Drop => "drop larger packets silently",
        MtuAction::Icmp => "drop larger packets and answer ICMP",
        MtuAction::Fragment => "fragment larger packets, answer ICMP where that is forbidden",
    };
    match mtu.overhead {
        0 => format!("mtu {}: {action}", mtu.mtu),
        bytes => format!("mtu {} less {bytes} bytes of tunnels = {}: {action}", mtu.mtu, mtu.mtu - bytes),
    }
}

fn reorder(reorder: &ReorderParams) -> String {
    match *reorder {
        ReorderParams::Overtake { probability, gap, delay } => {
            let gap = if gap == 1 { String::new() } else { format!("one in {gap} with ") };
            format!("reorder: {gap}{probability} leave at once, all others after {delay}")
        }
        ReorderParams::Displace { probability, by, timeout } => {
            format!(
                "reorder: {probability} are put behind the next {by} of their flow, at most {timeout} late"
            )
        }
    }
}

fn blackout(blackout: &BlackoutParams) -> String {
    let hold = if blackout.hold { ", holding what comes" } else { "" };
    let text = format!("blackout from {} for {}{hold}", blackout.start, blackout.down);
    match blackout.up {
        Some(up) => format!("{text}, again after {up} up"),
        None => text,
    }
}

/// In netem's own words, so that a reader who knows them can compare.
fn netem(netem: &NetemParams) -> String {
    let mut words = vec!["netem".to_owned()];
    if let Some(params) = &netem.delay {
        words.push(delay(params));
        words.extend(correlation(netem.delay_correlation));
    }
    words.extend(loss(&netem.loss));
    let chances = [("duplicate", netem.duplicate), ("corrupt", netem.corrupt), ("reorder", netem.reorder)];
    for (word, chance) in chances.into_iter().filter(|(_, chance)| *chance != Correlated::default()) {
        words.push(format!("{word} {}", chance.probability));
        words.extend(correlation(chance.correlation));
    }
    words.extend((netem.gap > 1).then(|| format!("gap {}", netem.gap)));
    words.extend(netem.ecn.then(|| "ecn".to_owned()));
    if let Some(rate) = &netem.rate {
        words.push(format!("rate {}", rate.rate));
        if (rate.packet_overhead, rate.cell_size, rate.cell_overhead) != (0, 0, 0) {
            let (packet, size, cell) = (rate.packet_overhead, rate.cell_size, rate.cell_overhead);
            words.push(format!("({packet:+} bytes per packet, cells of {size} {cell:+})"));
        }
    }
    words.extend(netem.link_layer.map(|layer| match layer {
        LinkLayer::Ethernet => "linklayer ethernet".to_owned(),
        LinkLayer::Ip => "linklayer ip".to_owned(),
    }));
    words.extend(netem.slot.map(|slot| {
        let gap = match slot.gap {
            SlotGap::Uniform(least, most) => format!("{least} to {most}"),
            SlotGap::Distribution(_, delay, jitter) => format!("{delay} ± {jitter}"),
        };
        let most = [(slot.packets, "packets"), (slot.bytes, "bytes")];
        let most: Vec<String> =
            most.iter().filter_map(|(most, what)| Some(format!(", {} {what}", (*most)?))).collect();
        format!("slots {gap} apart{}", most.concat())
    }));
    words.extend(netem.limit.map(|limit| format!("limit {limit}")));
    words.extend(netem.queue().map(|queue| format!("queue of {queue} packets")));
    words.join(" ")
}

fn loss(loss: &LossModel) -> Vec<String> {
    match loss {
        LossModel::Random(chance) if *chance == Correlated::default() => Vec::new(),
        LossModel::Random(chance) => {
            let mut words = vec![format!("loss {}", chance.probability)];
            words.extend(correlation(chance.correlation));
            words
        }
        LossModel::State(StateLoss { p13, p31, p32, p23, p14 }) => {
            vec![format!("loss state {p13} {p31} {p32} {p23} {p14}")]
        }
        LossModel::GilbertElliott(GilbertElliott { p, r, bad, good }) => {
            vec![format!("loss gemodel {p} {r} {bad} {good}")]
        }
    }
}

fn correlation(correlation: Probability) -> Option<String> {
    (correlation != Probability::ZERO).then(|| format!("(correlation {correlation})"))
}

fn select(select: &Select) -> Vec<String> {
    let mut conditions = Vec::new();
    let mut add = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            conditions.push(format!("{name}{}", values.join("|")));
        }
    };
    let ports = |list: &[(u16, u16)]| list.iter().map(|&range| span(range)).collect();
    let prefixes = |list: &[IpNet]| list.iter().map(ToString::to_string).collect();
    let numbers = |list: &[u8]| list.iter().map(ToString::to_string).collect();
    add("", select.protocols.iter().map(|&protocol| super::select::protocol_name(protocol)).collect());
    add("from ", prefixes(&select.source));
    add("to ", prefixes(&select.destination));
    add("source port ", ports(&select.source_ports));
    add("destination port ", ports(&select.destination_ports));
    add("port ", ports(&select.ports));
    let flags = super::select::flag_names(select.tcp_flags_set, select.tcp_flags_unset);
    add("TCP flags ", if flags.is_empty() { Vec::new() } else { vec![flags] });
    add("IP length ", select.ip_length.map(span).into_iter().collect());
    add("payload length ", select.payload_length.map(span).into_iter().collect());
    let which = select.fragment.map(|fragment| match fragment {
        FragmentSelect::None => "whole packets",
        FragmentSelect::Any => "fragments",
        FragmentSelect::First => "first fragments",
        FragmentSelect::Later => "later fragments",
    });
    add("", which.map(str::to_owned).into_iter().collect());
    add("DSCP ", numbers(&select.dscp));
    add("ECN ", numbers(&select.ecn));
    conditions.extend(super::select::describe(select));
    conditions
}

fn span<T: PartialEq + fmt::Display>((low, high): (T, T)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn trigger(trigger: &Trigger) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(trigger.probability.map(|probability| format!("drawn with {probability}")));
    let nth: Vec<String> = trigger.nth.iter().map(|number| format!("#{number}")).collect();
    parts.extend((!nth.is_empty()).then(|| format!("packet {}", nth.join("|"))));
    parts.extend(trigger.every.map(|every| format!("one in {every}")));
    parts.extend(trigger.first.map(|first| format!("among the first {first} packets")));
    parts.extend(trigger.after.map(|after| format!("after {after} packets")));
    parts.extend(
        trigger
            .times
            .map(|times| if times == 1 { "once".to_owned() } else { format!("at most {times} times") }),
    );
    let counts = !trigger.nth.is_empty()
        || [trigger.every, trigger.first, trigger.after, trigger.times].iter().any(Option::is_some);
    if counts {
        let scope = match trigger.scope {
            Scope::Flow => "counted per flow",
            Scope::Path => "counted over the path",
        };
        parts.push(scope.to_owned());
    }
    parts.extend(trigger.from.map(|from| format!("from {from}")));
    parts.extend(trigger.until.map(|until| format!("until {until}")));
    parts.extend(trigger.phase.map(|phase| {
        let until = phase.until.map_or(String::new(), |until| format!(" to {until}"));
        let period = phase.period.map_or(String::new(), |period| format!(", again every {period}"));
        format!("in phase {} (from {}{until}{period})", phase.number, phase.from)
    }));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;

    fn of(spec: &str) -> Vec<String> {
        spec::parse(spec).unwrap().stages.iter().map(|stage| describe(stage).to_string()).collect()
    }

    #[test]
    fn a_match_and_a_trigger_say_which_and_when() {
        let text = r#"
            [[stage]]
            type = "loss"
            match = { protocol = "tcp", destination_port = ["80", "8000-8100"], tcp_flags = "syn,!ack", fragment = "none" }
            trigger = { nth = [2, 3], times = 1, scope = "path", from = "1s" }
            [[stage]]
            type = "corrupt"
            probability = "0.1%"
            match = { source = "10.0.0.0/8", ip_length = "100-", dscp = "ef" }
        "#;
        let stages = crate::config::reader::document(text, "x", |root| {
            Some(crate::config::read_stages(&[root.value("stage").unwrap()]))
        });
        let lines: Vec<String> = stages.unwrap().iter().map(|stage| describe(stage).to_string()).collect();
        assert_eq!(
            lines,
            [
                "loss 100% of wire packets, each independently; only tcp, destination port 80|8000-8100, \
                 TCP flags syn,!ack, whole packets; when packet #2|#3, once, counted over the path, from 1s",
                "corrupt 1 bit of the transport header or payload in 0.1% of wire packets, checksums left wrong; \
                 only from 10.0.0.0/8, IP length 100-65535, DSCP 46",
            ]
        );
    }

    #[test]
    fn a_spec_reads_back_as_sentences() {
        assert_eq!(
            of("mtu 1400 icmp overhead 50 mss 1360 delay 100ms 10ms 25% loss 1% rate 1.5mbit"),
            [
                "mtu 1400 less 50 bytes of tunnels = 1350: drop larger packets and answer ICMP",
                "mss clamped to 1360 in every SYN",
                "netem delay 100ms ± 10ms (uniform), order kept (correlation 25%) loss 1% rate 1.5 Mbit/s queue of 1000 packets",
            ]
        );
    }
}
