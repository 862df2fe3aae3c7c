//! Turns toxics into stages.
//!
//! The stages act on packets with the mark of connections that are open at both ends ([`MARK`]), so opening a
//! connection is not delayed. Toxiproxy behaves in the same way: a client's connection is established as soon as the
//! proxy has accepted it.

use std::sync::Arc;

use crate::config::spec::{self, Files};
use crate::pipeline::params::{
    BlackoutParams, DelayParams, Distribution, DropParams, Excess, ImpairmentParams, LossParams,
    PatternFault, PatternParams, RateParams, Scope, Segment, Segments, Select, StageParams, Timetable,
    Trigger,
};
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};
use crate::toxiproxy::class::{self, CLASSES};
use crate::toxiproxy::toxic::{Attributes, Direction, Toxic};

/// The DSCP of packets on which toxics act.
pub(super) const MARK: u8 = 42;

/// Headers of a segment with data: IPv4, TCP, and the timestamps that Linux sends. A rate limit counts the data
/// without them.
const HEADERS: i32 = 52;

/// Minimum size of the queue of a rate limit, in bytes; otherwise a second of the rate.
const LEAST_QUEUE: u64 = 128 << 10;

/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The stages of the toxics of one direction, in the toxics' order; `key` is the proxy's draw key.
pub(super) fn of(
    toxics: &[Toxic],
    direction: Direction,
    key: &dyn Fn(&Toxic) -> StageKey,
) -> Vec<StageParams> {
    let mut stages: Vec<StageParams> = Vec::new();
    for toxic in toxics.iter().filter(|toxic| toxic.stream == direction) {
        let hit = class::hit(key(toxic), toxic.toxicity);
        if hit.is_empty() {
            continue;
        }
        let mut select = Select { dscp: vec![MARK], ..Select::default() };
        if hit.len() < usize::from(CLASSES) {
            let clients = class::prefixes(&hit);
            match direction {
                Direction::Upstream => select.source = clients,
                Direction::Downstream => select.destination = clients,
            }
        }
        for (number, stage) in of_toxic(toxic).into_iter().enumerate() {
            let name = name_of(toxic, number);
            let select = both(&select, &stage.select);
            stages.push(StageParams { name, select, ..stage });
        }
    }
    stages
}

/// The name of a toxic's stage. Draws depend on it: a toxic of the same name draws the same. No two stages have the same name,
/// whatever the toxics are called.
fn name_of(toxic: &Toxic, number: usize) -> String {
    let name = toxic.name.replace('#', "##");
    if number == 0 { name } else { format!("{name}#{}", number + 1) }
}

/// What one toxic does to the packets that it hits.
fn of_toxic(toxic: &Toxic) -> Vec<StageParams> {
    let stage = |segments, impairment| {
        let select = Select { segments, ..Select::default() };
        vec![StageParams { name: String::new(), select, trigger: Trigger::default(), impairment }]
    };
    let any = Segments::NONE;
    // Pure ACKs belong to the other stream.
    let stream = Segments::NONE.with(Segment::Data).with(Segment::Fin);
    match &toxic.attributes {
        // The relays implement these toxics.
        Attributes::Noop {} | Attributes::Slicer { .. } | Attributes::LimitData { .. } => Vec::new(),
        Attributes::Latency { latency, jitter } => stage(any, delay(millis(*latency), millis(*jitter))),
        Attributes::Bandwidth { rate } => match rate_of(*rate) {
            Some(rate) => stage(any, limit(rate)),
            None => stage(stream, hold()),
        },
        Attributes::SlowClose { delay: time } => {
            stage(Segments::NONE.with(Segment::Fin), delay(millis(*time), Duration::ZERO))
        }
        Attributes::Timeout { .. } | Attributes::ResetPeer { .. } => {
            stage(stream, ImpairmentParams::Drop(DropParams))
        }
        Attributes::PacketLoss { loss_rate, correlation } => stage(any, loss(*loss_rate, *correlation)),
        // The spec has been parsed before.
        Attributes::Faults { spec } => {
            spec::parse_with(spec, Files::Named).map(|read| read.stages).unwrap_or_default()
        }
    }
}

/// The conjunction of both selections. A spec selects by its own conditions; if it has none about addresses, those of
/// the toxic apply.
fn both(toxic: &Select, stage: &Select) -> Select {
    if *stage == Select::default() {
        return toxic.clone();
    }
    let own = |own: &[_], other: &[_]| if own.is_empty() { other.to_vec() } else { own.to_vec() };
    Select {
        dscp: toxic.dscp.clone(),
        source: own(&toxic.source, &stage.source),
        destination: own(&toxic.destination, &stage.destination),
        ..stage.clone()
    }
}

fn millis(given: i64) -> Duration {
    Duration::from_millis(u64::try_from(given).unwrap_or(0)).min(FOREVER)
}

fn delay(delay: Duration, jitter: Duration) -> ImpairmentParams {
    let distribution = Distribution::Uniform;
    ImpairmentParams::Delay(DelayParams { delay, jitter, distribution, reorder: false, half_life: None })
}

/// A rate in 1000 bytes per second; `None` lets nothing pass.
fn rate_of(given: i64) -> Option<Rate> {
    let given = u64::try_from(given).ok()?;
    Rate::from_bits_per_sec(given.saturating_mul(8000).min(1 << 40))
}

fn limit(rate: Rate) -> ImpairmentParams {
    let queue = (rate.bits_per_sec() / 8).max(LEAST_QUEUE);
    let excess = Excess::Queue { packets: None, bytes: Some(queue), time: None };
    ImpairmentParams::Rate(RateParams { rate, excess, overhead: -HEADERS, share: None })
}

/// Lets nothing pass; everything that has come leaves when the stage is removed.
fn hold() -> ImpairmentParams {
    let (start, down) = (Duration::ZERO, FOREVER);
    ImpairmentParams::Blackout(BlackoutParams { start, down, up: None, hold: true })
}

fn loss(rate: f64, correlation: f64) -> ImpairmentParams {
    let chance = |p: f64| Probability::new(p.clamp(0.0, 1.0)).unwrap_or(Probability::ZERO);
    let correlation = correlation.clamp(0.0, 1.0);
    if correlation == 0.0 {
        return ImpairmentParams::Loss(LossParams { probability: chance(rate), ecn: false });
    }
    let pattern = vec![chance(rate), chance(rate.clamp(0.0, 1.0) + correlation)];
    ImpairmentParams::Pattern(PatternParams {
        patterns: Arc::new(Timetable::constant(pattern)),
        fault: PatternFault::Loss { ecn: false },
        scope: Scope::Flow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toxiproxy::body;

    fn toxic(text: &str) -> Toxic {
        let fields = body::object(body::value(text.as_bytes()).unwrap()).unwrap();
        Toxic::read(1, &fields, |_| false).unwrap()
    }

    fn stages(text: &str) -> Vec<StageParams> {
        let toxic = toxic(text);
        of(std::slice::from_ref(&toxic), toxic.stream, &|toxic| StageKey::new(1, &toxic.name))
    }

    #[test]
    fn each_toxic_is_the_stage_that_it_says() {
        for (text, described) in [
            (r#"{"type": "latency", "attributes": {"latency": 100}}"#, vec!["delay 100ms"]),
            (r#"{"type": "latency", "attributes": {"latency": -5}}"#, vec!["delay 0s"]),
            (
                r#"{"type": "bandwidth", "attributes": {"rate": 100}}"#,
                vec!["rate 800 kbit/s, -52 bytes per packet, queue of at most 128 KiB"],
            ),
            (r#"{"type": "slicer", "attributes": {"average_size": 10}}"#, vec![]),
            (r#"{"type": "limit_data", "attributes": {"bytes": 10}}"#, vec![]),
            (r#"{"type": "noop"}"#, vec![]),
            (r#"{"type": "latency", "toxicity": 0}"#, vec![]),
            (
                r#"{"type": "packet_loss", "attributes": {"loss_rate": 7}}"#,
                vec!["loss 100% of wire packets, each independently"],
            ),
        ] {
            let stages = stages(text);
            let said: Vec<String> = stages.iter().map(|stage| stage.impairment.to_string()).collect();
            assert_eq!(said, described, "{text}");
            assert!(stages.iter().all(|stage| stage.select.dscp == [MARK]));
        }
    }

    #[test]
    fn a_share_is_selected_by_the_client_s_end() {
        let up = stages(r#"{"type": "latency", "stream": "upstream", "toxicity": 0.25}"#).remove(0).select;
        assert!(!up.source.is_empty() && up.destination.is_empty());
        let down = stages(r#"{"type": "latency", "toxicity": 0.25}"#).remove(0).select;
        assert!(!down.destination.is_empty() && down.source.is_empty());
    }

    #[test]
    fn a_line_of_faults_keeps_its_own_conditions() {
        let text = r#"{"type": "faults", "name": "f", "attributes": {"spec": "mtu 1400 icmp delay 5ms"}}"#;
        let names: Vec<String> = stages(text).into_iter().map(|stage| stage.name).collect();
        assert_eq!(names, ["f", "f#2"]);
    }

    /// Two stages of one name would share their draws, and a change would take one for the other.
    #[test]
    fn stages_of_different_toxics_have_different_names() {
        let toxics = ["f", "f-2", "f#2", "f##2", "f#", "f#2#2", "#", "##"].map(|name| {
            toxic(&format!(
                r#"{{"type": "faults", "name": "{name}", "attributes": {{"spec": "mtu 1400 icmp delay 5ms mss 1360"}}}}"#
            ))
        });
        let stages = of(&toxics, Direction::Downstream, &|toxic| StageKey::new(1, &toxic.name));
        let names: std::collections::BTreeSet<&str> =
            stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names.len(), stages.len(), "{names:?}");
        assert_eq!(stages.len(), 3 * toxics.len());
    }

    #[test]
    fn a_rate_of_nothing_holds_everything() {
        for rate in ["0", "-1"] {
            let text = format!(r#"{{"type": "bandwidth", "attributes": {{"rate": {rate}}}}}"#);
            let stage = stages(&text).remove(0);
            assert!(matches!(
                stage.impairment,
                ImpairmentParams::Blackout(BlackoutParams { hold: true, .. })
            ));
        }
    }
}
