//! The keys of each type of stage.

mod loss;
mod pattern;
mod rate;
mod rewrite;
mod tcp;

pub(super) use tcp::RST_TIMEOUT;

use std::sync::Arc;

use crate::config::distribution;
use crate::config::reader::{Table, Value};
use crate::config::spec::MTU;
use crate::config::stage::read_spec;
use crate::config::trace;
use crate::pipeline::params::{
    BlackoutParams, CorruptArea, CorruptParams, DelayParams, Distribution, DropParams, DuplicateParams,
    FragmentFilterParams, ImpairmentParams, MssParams, MtuAction, MtuParams, PatternFault, PawsPerHostParams,
    ReorderParams, ReplayEnd, ReplayParams, Trigger,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

/// Every type of stage.
pub(super) const TYPES: &[&str] = &[
    "loss",
    "drop",
    "delay",
    "rate",
    "mtu",
    "mss",
    "duplicate",
    "corrupt",
    "reorder",
    "fragment-filter",
    "blackout",
    "replay",
    "paws-per-host",
    "timestamps",
    "rst-order",
    "nat",
    "tcp",
    "inject",
    "netem",
];

/// Reads the keys of the type `kind`, one of [`TYPES`]. `None` if one that it needs is missing or wrong.
pub(super) fn read_impairment(
    kind: &str,
    table: &mut Table<'_>,
    trigger: &Trigger,
) -> Option<ImpairmentParams> {
    Some(match kind {
        "loss" => loss::read(table, trigger)?,
        "drop" => ImpairmentParams::Drop(DropParams),
        "delay" => match pattern::delay(table) {
            pattern::Found::Read(model) => model?,
            pattern::Found::Nothing(_) => ImpairmentParams::Delay(delay(table)?),
        },
        "rate" => rate::read(table)?,
        "mtu" => ImpairmentParams::Mtu(mtu(table)?),
        "mss" => {
            let mss = table.required("mss", "1360").and_then(|value| value.integer(1..=u16::MAX));
            let set = table.flag("set", false);
            ImpairmentParams::Mss(MssParams { mss: mss?, set })
        }
        "duplicate" => duplicate(table, trigger)?,
        "corrupt" => ImpairmentParams::Corrupt(corrupt(table, trigger)?),
        "reorder" => ImpairmentParams::Reorder(reorder(table, trigger)?),
        "fragment-filter" => ImpairmentParams::FragmentFilter(FragmentFilterParams),
        "replay" => ImpairmentParams::Replay(replay(table)?),
        "blackout" => ImpairmentParams::Blackout(blackout(table)?),
        "paws-per-host" => ImpairmentParams::PawsPerHost(PawsPerHostParams {
            window: table.quantity("window").unwrap_or(Duration::from_secs(60)),
            require_timestamp: table.flag("require_timestamp", false),
        }),
        "timestamps" => ImpairmentParams::Timestamps(tcp::timestamps(table)?),
        "rst-order" => ImpairmentParams::RstOrder(tcp::rst_order(table)?),
        "nat" => ImpairmentParams::Nat(crate::config::nat::SOMEWHERE),
        "tcp" => ImpairmentParams::Tcp(rewrite::tcp(table)?),
        "inject" => ImpairmentParams::Inject(rewrite::inject(table)?),
        _ => netem(&table.required("spec", "\"delay 10ms loss 1%\"")?)?,
    })
}

/// Needed, but where a trigger says when the stage acts: then it acts always by itself.
fn probability(table: &mut Table<'_>, trigger: &Trigger) -> Option<Probability> {
    if *trigger == Trigger::default() {
        return table.required("probability", "\"1%\"")?.quantity();
    }
    table.value("probability").map_or(Some(Probability::ONE), |value| value.quantity())
}

fn duplicate(table: &mut Table<'_>, trigger: &Trigger) -> Option<ImpairmentParams> {
    match pattern::read(table, PatternFault::Duplicate) {
        pattern::Found::Read(read) => read,
        pattern::Found::Nothing(scope) => {
            if let Some(scope) = scope {
                scope.problem(
                    "there is no pattern to count for",
                    "remove scope, or write pattern = [\"1%\", \"50%\"]",
                );
            }
            let (probability, copies) = (probability(table, trigger), table.integer("copies", 1..=1_000));
            let (probability, copies) = (probability?, copies.unwrap_or(1));
            Some(ImpairmentParams::Duplicate(DuplicateParams { probability, copies }))
        }
    }
}

fn delay(table: &mut Table<'_>) -> Option<DelayParams> {
    let delay = table.required("delay", "\"10ms\"").and_then(|value| value.quantity());
    let jitter = table.quantity("jitter").unwrap_or(Duration::ZERO);
    let distribution = table.value("distribution");
    let reorder = table.flag("reorder", false);
    let half_life = table.value("half_life");
    if let Some(value) = &half_life
        && (reorder || jitter.is_zero())
    {
        value.problem(
            "only a jitter that keeps the order wanders",
            "remove half_life, or write jitter without reorder",
        );
    }
    let half_life = half_life.and_then(|value| positive(&value));
    if let Some(value) = &distribution
        && jitter.is_zero()
    {
        value.problem("there is no jitter to shape", "write jitter = \"1ms\"");
    }
    let shape = |value: Value<'_>| {
        let found = distribution::find(value.text()?, &value.directory());
        found.map_err(|(what, hint)| value.problem(what, hint)).ok()
    };
    let distribution = distribution.map_or(Some(Distribution::Uniform), shape)?;
    Some(DelayParams { delay: delay?, jitter, distribution, reorder, half_life })
}

fn mtu(table: &mut Table<'_>) -> Option<MtuParams> {
    const ACTIONS: &[(&str, MtuAction)] =
        &[("drop", MtuAction::Drop), ("icmp", MtuAction::Icmp), ("fragment", MtuAction::Fragment)];
    let mtu = table.required("mtu", "1400").and_then(|value| value.integer(MTU));
    let overhead = table.value("overhead");
    let action = table.value("action").and_then(|value| value.choice(ACTIONS)).unwrap_or_default();
    let bytes = match &overhead {
        Some(value) => value.integer(0..=*MTU.end()),
        None => Some(0),
    };
    let (mtu, bytes) = (mtu?, bytes?);
    let left = i64::from(mtu) - i64::from(bytes);
    if let Some(value) = overhead
        && left < i64::from(*MTU.start())
    {
        value.problem(format!("leaves {left} bytes of an MTU of {mtu}"), "at least 68 must be left");
        return None;
    }
    Some(MtuParams { mtu, overhead: bytes, action })
}

fn corrupt(table: &mut Table<'_>, trigger: &Trigger) -> Option<CorruptParams> {
    const AREAS: &[(&str, CorruptArea)] = &[
        ("transport", CorruptArea::Transport),
        ("header", CorruptArea::Header),
        ("payload", CorruptArea::Payload),
        ("any", CorruptArea::Any),
    ];
    let probability = probability(table, trigger);
    let bits = table.integer("bits", 1..=64).unwrap_or(1);
    let area = table.value("area").and_then(|value| value.choice(AREAS)).unwrap_or_default();
    let fix_checksum = table.flag("fix_checksum", false);
    Some(CorruptParams { probability: probability?, bits, area, fix_checksum })
}

fn reorder(table: &mut Table<'_>, trigger: &Trigger) -> Option<ReorderParams> {
    const KINDS: &[(&str, bool)] = &[("overtake", true), ("displace", false)];
    let kind = table.required("kind", "\"displace\"").and_then(|value| value.choice(KINDS));
    let probability = probability(table, trigger);
    if kind? {
        let delay = table.required("delay", "\"10ms\"").and_then(|value| value.quantity());
        let gap = table.integer("gap", 1..=u32::MAX).unwrap_or(1);
        Some(ReorderParams::Overtake { probability: probability?, gap, delay: delay? })
    } else {
        let by = table.integer("by", 1..=1_000_000).unwrap_or(1);
        let timeout = table.quantity("timeout").unwrap_or(Duration::from_millis(100));
        Some(ReorderParams::Displace { probability: probability?, by, timeout })
    }
}

fn blackout(table: &mut Table<'_>) -> Option<BlackoutParams> {
    let start = table.quantity("start").unwrap_or(Duration::ZERO);
    let down = table.required("down", "\"2s\"").and_then(|value| positive(&value));
    let up = table.value("up").and_then(|value| positive(&value));
    let hold = table.flag("hold", false);
    Some(BlackoutParams { start, down: down?, up, hold })
}

fn replay(table: &mut Table<'_>) -> Option<ReplayParams> {
    const ENDS: &[(&str, ReplayEnd)] =
        &[("loop", ReplayEnd::Loop), ("hold", ReplayEnd::Hold), ("clear", ReplayEnd::Clear)];
    let file = table.required("file", "\"path.csv\"").and_then(|value| trace::table(&value));
    let end = table.value("end").and_then(|value| value.choice(ENDS)).unwrap_or_default();
    let (rows, period) = file?;
    Some(ReplayParams { rows: Arc::new(rows), period, end })
}

/// A time that is not nothing.
pub(super) fn positive(value: &Value<'_>) -> Option<Duration> {
    let time: Duration = value.quantity()?;
    if time.is_zero() {
        value.problem("is no time at all", "more than 0s");
        return None;
    }
    Some(time)
}

fn netem(value: &Value<'_>) -> Option<ImpairmentParams> {
    let stages = read_spec(value).stages;
    let words_of_ours = stages.iter().any(|stage| !matches!(stage.impairment, ImpairmentParams::Netem(_)));
    if words_of_ours {
        value.problem(
            "a netem stage takes tc-netem's words only",
            "make mtu, overhead and mss stages of their own",
        );
    }
    let netem = stages.into_iter().next().map(|stage| stage.impairment);
    if netem.is_none() && value.as_text().is_some_and(|text| text.trim().is_empty()) {
        value.problem("asks for nothing", "try \"delay 10ms loss 1%\"");
    }
    netem
}
