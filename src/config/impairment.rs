//! The keys of each type of stage.

#![expect(clippy::unnecessary_wraps, reason = "all readers are of one shape")]

mod loss;
mod pattern;
mod rate;
mod rewrite;
mod tcp;

use loss::loss;
use rate::{TRACE, rate};
use rewrite::{inject, tcp};
use tcp::{RST_ORDER, TIMESTAMPS, rst_order, timestamps};

use std::sync::Arc;

use crate::config::distribution;
use crate::config::reader::{Table, Value};
use crate::config::spec::{self, MTU, Word};
use crate::config::stage::read_spec;
use crate::config::trace;
use crate::pipeline::impair::{DualPi2Params, for_each_stage};
use crate::pipeline::params::{
    BlackoutParams, CorruptArea, CorruptParams, DelayParams, Distribution, DropParams, DuplicateParams,
    FragmentFilterParams, ImpairmentParams, MssParams, MtuAction, MtuParams, PatternFault, PawsPerHostParams,
    ReorderParams, ReplayEnd, ReplayParams, Trigger,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// Reads the keys of a type of stage. `None` if a required one is missing or wrong.
pub(super) type Reader = fn(&mut Table<'_>, &Trigger) -> Option<ImpairmentParams>;

macro_rules! readers {
    ($($kind:ident $name:literal { $($forms:tt)* })*) => {
        /// The reader of each type of stage: the function of its name in this module.
        pub(super) const READERS: &[(&str, Reader)] = &[$(($name, $kind)),*];
    };
}

for_each_stage!(readers);

/// The words of a spec that are stages of their own.
pub(super) const WORDS: &[Word] = &[MSS, TRACE, TIMESTAMPS, RST_ORDER, DUALPI2, BLACKOUT, DROP];

const MSS: Word = Word {
    name: "mss",
    options: &["set"],
    usage: "mss BYTES [set]",
    read: |arguments| {
        let mss = MssParams { mss: arguments.count(1..=u16::MAX, "mss 1360")?, set: arguments.flag("set") };
        Ok(spec::stage("mss", ImpairmentParams::Mss(mss)))
    },
};

const DROP: Word = Word {
    name: "drop",
    options: &[],
    usage: "drop (everything; aim it by a condition)",
    read: |_| Ok(spec::stage("drop", ImpairmentParams::Drop(DropParams))),
};

fn drop(_table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    Some(ImpairmentParams::Drop(DropParams))
}

fn delay(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    match pattern::delay(table) {
        pattern::Found::Read(model) => model,
        pattern::Found::Nothing(_) => Some(ImpairmentParams::Delay(line(table)?)),
    }
}

fn mss(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let mss = table.required("mss", "1360").and_then(|value| value.integer(1..=u16::MAX));
    let set = table.flag("set", false);
    Some(ImpairmentParams::Mss(MssParams { mss: mss?, set }))
}

/// The defaults of an L4S bottleneck: Linux' limit, RFC 9332's target, a step of 1 ms.
const fn l4s(rate: Rate) -> DualPi2Params {
    let (target, threshold) = (Duration::from_millis(15), Duration::from_millis(1));
    DualPi2Params { rate, overhead: 0, packets: 10_000, target, threshold }
}

/// `dualpi2 RATE [THRESHOLD]`.
const DUALPI2: Word = Word {
    name: "dualpi2",
    options: &[],
    usage: "dualpi2 RATE [THRESHOLD] (a bottleneck with an L4S queue)",
    read: |arguments| {
        let mut params = l4s(arguments.required(spec::units::rate, "a rate", "dualpi2 40mbit")?);
        params.threshold = arguments.optional(spec::units::time)?.unwrap_or(params.threshold);
        Ok(spec::stage("dualpi2", ImpairmentParams::DualPi2(params)))
    },
};

fn dualpi2(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let rate = table.required("rate", "\"40 Mbit/s\"").and_then(|value| value.quantity());
    let overhead = table.integer("overhead", -65_535..=65_535).unwrap_or(0);
    let packets = table.integer("packets", 1..=u64::from(u32::MAX));
    let target = table.value("target").and_then(|value| positive(&value));
    let threshold = table.quantity("threshold");
    let usual = l4s(rate?);
    Some(ImpairmentParams::DualPi2(DualPi2Params {
        overhead,
        packets: packets.unwrap_or(usual.packets),
        target: target.unwrap_or(usual.target),
        threshold: threshold.unwrap_or(usual.threshold),
        ..usual
    }))
}

fn fragment_filter(_table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    Some(ImpairmentParams::FragmentFilter(FragmentFilterParams))
}

fn paws_per_host(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    Some(ImpairmentParams::PawsPerHost(PawsPerHostParams {
        window: table.quantity("window").unwrap_or(Duration::from_secs(60)),
        require_timestamp: table.flag("require_timestamp", false),
    }))
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
                    "scope has no effect without a pattern",
                    "remove scope, or write pattern = [\"1%\", \"50%\"]",
                );
            }
            let (probability, copies) = (probability(table, trigger), table.integer("copies", 1..=1_000));
            let (probability, copies) = (probability?, copies.unwrap_or(1));
            Some(ImpairmentParams::Duplicate(DuplicateParams { probability, copies }))
        }
    }
}

/// A delay that is not a model.
fn line(table: &mut Table<'_>) -> Option<DelayParams> {
    let delay = table.required("delay", "\"10ms\"").and_then(|value| value.quantity());
    let jitter = table.quantity("jitter").unwrap_or(Duration::ZERO);
    let distribution = table.value("distribution");
    let reorder = table.flag("reorder", false);
    let half_life = table.value("half_life");
    if let Some(value) = &half_life
        && (reorder || jitter.is_zero())
    {
        value.problem(
            "half_life has no effect without jitter, or with reorder",
            "remove half_life, or write jitter without reorder",
        );
    }
    let half_life = half_life.and_then(|value| positive(&value));
    if let Some(value) = &distribution
        && jitter.is_zero()
    {
        value.problem("distribution has no effect without jitter", "write jitter = \"1ms\"");
    }
    let shape = |value: Value<'_>| {
        let found = distribution::find(value.text()?, Some(&value.directory()));
        found.map_err(|(what, hint)| value.problem(what, hint)).ok()
    };
    let distribution = distribution.map_or(Some(Distribution::Uniform), shape)?;
    Some(DelayParams { delay: delay?, jitter, distribution, reorder, half_life })
}

fn mtu(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
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
    Some(ImpairmentParams::Mtu(MtuParams { mtu, overhead: bytes, action }))
}

fn corrupt(table: &mut Table<'_>, trigger: &Trigger) -> Option<ImpairmentParams> {
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
    let probability = probability?;
    Some(ImpairmentParams::Corrupt(CorruptParams { probability, bits, area, fix_checksum }))
}

fn reorder(table: &mut Table<'_>, trigger: &Trigger) -> Option<ImpairmentParams> {
    const KINDS: &[(&str, bool)] = &[("overtake", true), ("displace", false)];
    let kind = table.required("kind", "\"displace\"").and_then(|value| value.choice(KINDS));
    let probability = probability(table, trigger);
    let params = if kind? {
        let delay = table.required("delay", "\"10ms\"").and_then(|value| value.quantity());
        let gap = table.integer("gap", 1..=u32::MAX).unwrap_or(1);
        ReorderParams::Overtake { probability: probability?, gap, delay: delay? }
    } else {
        let by = table.integer("by", 1..=1_000_000).unwrap_or(1);
        let timeout = table.quantity("timeout").unwrap_or(Duration::from_millis(100));
        ReorderParams::Displace { probability: probability?, by, timeout }
    };
    Some(ImpairmentParams::Reorder(params))
}

/// `blackout DOWN [at START] [up UP] [hold]`.
const BLACKOUT: Word = Word {
    name: "blackout",
    options: &["at", "up", "hold"],
    usage: "blackout DOWN [at TIME] [up TIME] [hold] (a link that is down)",
    read: |arguments| {
        const EXAMPLE: &str = "blackout 2s at 10s up 8s hold";
        let down = arguments.required(spec::units::span, "how long the link is down", EXAMPLE)?;
        let (mut start, mut up) = (Duration::ZERO, None);
        if arguments.flag("at") {
            start = arguments.required(spec::units::time, "a time behind \"at\"", EXAMPLE)?;
        }
        if arguments.flag("up") {
            up = Some(arguments.required(spec::units::span, "a time behind \"up\"", EXAMPLE)?);
        }
        let blackout = BlackoutParams { start, down, up, hold: arguments.flag("hold") };
        Ok(spec::stage("blackout", ImpairmentParams::Blackout(blackout)))
    },
};

fn blackout(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let start = table.quantity("start").unwrap_or(Duration::ZERO);
    let down = table.required("down", "\"2s\"").and_then(|value| positive(&value));
    let up = table.value("up").and_then(|value| positive(&value));
    let hold = table.flag("hold", false);
    Some(ImpairmentParams::Blackout(BlackoutParams { start, down: down?, up, hold }))
}

fn replay(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    const ENDS: &[(&str, ReplayEnd)] =
        &[("loop", ReplayEnd::Loop), ("hold", ReplayEnd::Hold), ("clear", ReplayEnd::Clear)];
    let file = table.required("file", "\"path.csv\"").and_then(|value| trace::table(&value));
    let end = table.value("end").and_then(|value| value.choice(ENDS)).unwrap_or_default();
    let (rows, period) = file?;
    Some(ImpairmentParams::Replay(ReplayParams { rows: Arc::new(rows), period, end }))
}

/// A time greater than zero.
pub(super) fn positive(value: &Value<'_>) -> Option<Duration> {
    let time: Duration = value.quantity()?;
    if time.is_zero() {
        value.problem("is too short", "more than 0s");
        return None;
    }
    Some(time)
}

fn netem(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let value = table.required("spec", "\"delay 10ms loss 1%\"")?;
    let stages = read_spec(&value).stages;
    let netems = stages.iter().filter(|stage| matches!(stage.impairment, ImpairmentParams::Netem(_))).count();
    if netems > 1 || netems == 1 && stages.iter().any(|stage| !stage.select.is_any()) {
        value.problem(
            "a netem stage is one clause without a condition",
            "write match = { ... } beside the spec",
        );
        return None;
    }
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
