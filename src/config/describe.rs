//! Describes a stage in one line.

use std::fmt;

use ipnet::IpNet;

use crate::pipeline::params::{FragmentSelect, NatPlace, Scope, SeatParams, Select, StageParams, Trigger};
use crate::pipeline::units::Bytes;

/// Prints a stage as one sentence without its name: `loss 1% of wire packets, each independently; only tcp`. Or a translator.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a>(Described<'a>);

#[derive(Debug, Clone, Copy)]
enum Described<'a> {
    Stage(&'a StageParams),
    Translator(&'a NatPlace),
}

/// Describes what `stage` does, to which packets and when.
pub const fn describe(stage: &StageParams) -> Description<'_> {
    Description(Described::Stage(stage))
}

/// Describes what happens at `seat`.
pub const fn describe_seat(seat: &SeatParams) -> Description<'_> {
    match seat {
        SeatParams::Stage(stage) => describe(stage),
        SeatParams::Translator { place, .. } => Description(Described::Translator(place)),
    }
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.0 {
            Described::Stage(stage) => stage,
            Described::Translator(place) => return place.fmt(f),
        };
        stage.impairment.fmt(f)?;
        for (word, parts) in [("only", conditions(&stage.select)), ("when", trigger(&stage.trigger))] {
            if !parts.is_empty() {
                write!(f, "; {word} {}", parts.join(", "))?;
            }
        }
        Ok(())
    }
}

/// The conditions of a selection in words; none if it takes every packet.
pub(super) fn conditions(select: &Select) -> Vec<String> {
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
    add("from or to ", prefixes(&select.addresses));
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
    conditions.extend(select.except.iter().map(exception));
    conditions
}

/// The negation of `except`: `not (tcp, port 22)`; a double negation is removed.
fn exception(except: &Select) -> String {
    let Some(inner) = nots(except) else { return format!("not ({})", conditions(except).join(", ")) };
    // A packet is left if one of the selections in `inner` matches it.
    let denied: Option<Vec<_>> = inner.iter().map(|one| nots(one).filter(|nots| nots.len() == 1)).collect();
    match (inner, denied) {
        ([one], _) => conditions(one).join(", "),
        (_, Some(all)) => {
            let all: Vec<_> = all.iter().flat_map(|one| conditions(&one[0])).collect();
            format!("not ({})", all.join(", "))
        }
        (some, None) => {
            let each: Vec<_> = some.iter().map(|one| format!("({})", conditions(one).join(", "))).collect();
            each.join(" or ")
        }
    }
}

/// The exceptions of a selection that has no other conditions.
fn nots(select: &Select) -> Option<&[Select]> {
    let others = Select { except: Vec::new(), ..select.clone() };
    (others.is_any() && !select.except.is_empty()).then_some(&select.except)
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
    parts.extend(trigger.first_bytes.map(|first| format!("within the first {}", Bytes(first))));
    parts.extend(trigger.after_bytes.map(|after| format!("after {}", Bytes(after))));
    if trigger.counts_packets() || trigger.counts_bytes() {
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
    use crate::config::{SeatDraft, spec};
    use crate::pipeline::params::{
        ImpairmentParams, InjectParams, InjectTo, Injected, RstSequence, TcpParams, WindowRewrite,
    };

    fn of(spec: &str) -> Vec<String> {
        spec::parse(spec).unwrap().stages.iter().map(|stage| describe(stage).to_string()).collect()
    }

    #[test]
    fn expressions_say_what_they_take() {
        for (expression, expected) in [
            ("tcp port 22", "tcp, port 22"),
            ("not tcp port 22", "not (tcp, port 22)"),
            ("tcp not port 22", "tcp, not (port 22)"),
            ("tcp port 1 or udp", "(tcp, port 1) or (udp)"),
            ("not (tcp or udp)", "not (tcp), not (udp)"),
        ] {
            let chosen = crate::config::expression::parse(expression).unwrap();
            assert_eq!(conditions(&chosen).join(", "), expected, "{expression}");
        }
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
            Some(crate::config::read_seats(&[root.value("stage").unwrap()]))
        });
        let stages: Vec<StageParams> =
            stages.unwrap().into_iter().filter_map(SeatDraft::into_stage).collect();
        let lines: Vec<String> = stages.iter().map(|stage| describe(stage).to_string()).collect();
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

    #[test]
    fn everything_that_is_changed_is_said() {
        let params = TcpParams {
            window: Some(WindowRewrite::Max(100)),
            strip: vec![4, 5],
            window_scale: Some(2),
            bleach_ecn: true,
            refuse_ecn: true,
            clear_urgent: true,
        };
        assert_eq!(
            ImpairmentParams::Tcp(params).to_string(),
            "tcp: window field clamped to 100; sack-permitted, sack replaced by NOPs; window scale set to 2 in every SYN \
             that has one; ECN field set to Not-ECT; ECN neither offered nor accepted in SYNs; urgent data made ordinary"
        );
        let zero = TcpParams { window: Some(WindowRewrite::Set(0)), ..TcpParams::default() };
        assert_eq!(ImpairmentParams::Tcp(zero).to_string(), "tcp: window set to zero");
    }

    #[test]
    fn what_is_forged_and_for_whom_is_said() {
        let rst = Injected::Rst(RstSequence::Stale(7));
        assert_eq!(
            ImpairmentParams::Inject(InjectParams { kind: rst, to: InjectTo::Sender, count: 2 }).to_string(),
            "inject at each segment back to its sender: a RST 7 bytes below the next sequence number, 2 times"
        );
        assert_eq!(
            ImpairmentParams::Inject(InjectParams {
                kind: Injected::DuplicateAck,
                to: InjectTo::Receiver,
                count: 1
            })
            .to_string(),
            "inject behind each segment to its receiver: its acknowledgement again, without data"
        );
    }
}
