//! The keys of the stages that read TCP headers.

use crate::config::impairment::positive;
use crate::config::reader::Table;
use crate::config::spec::{self, Word, units};
use crate::pipeline::params::{
    HeldAcks, ImpairmentParams, RstOrderParams, RstPlace, Select, StageParams, TimestampSet,
    TimestampsParams, Trigger,
};
use crate::pipeline::time::Duration;
use crate::pipeline::wire::tcp::flag;

/// Default for how long a segment waits for a RST, or a RST for a segment: less than the retransmission timeout of a
/// SYN-ACK (1 s, RFC 6298 section 2).
const RST_TIMEOUT: Duration = Duration::from_millis(500);

/// What `set` of a timestamps stage can be.
#[derive(Clone, Copy)]
enum Set {
    Zero,
    Constant,
    Offset,
    RandomOffset,
    Freeze,
    Strip,
}

/// `set`, `value` and `translate`.
pub(super) fn timestamps(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    const SETS: &[(&str, Set)] = &[
        ("zero", Set::Zero),
        ("constant", Set::Constant),
        ("offset", Set::Offset),
        ("random-offset", Set::RandomOffset),
        ("freeze", Set::Freeze),
        ("strip", Set::Strip),
    ];
    let set = table.required("set", "\"random-offset\"").and_then(|value| value.choice(SETS));
    let value = table.value("value");
    let translate = table.flag("translate", true);
    let set = set?;
    if let (Some(value), Set::Zero | Set::RandomOffset | Set::Freeze | Set::Strip) = (&value, set) {
        value.problem("only a constant or an offset has a value", "remove it");
    }
    let missing = || table.problem("a constant and an offset need a value", "write value = -5000");
    if value.is_none() && matches!(set, Set::Constant | Set::Offset) {
        missing();
        return None;
    }
    let set = match (set, value) {
        (Set::Constant, Some(value)) => TimestampSet::Constant(value.integer(0..=u32::MAX)?),
        (Set::Offset, Some(value)) => {
            TimestampSet::Offset(value.integer(i32::MIN..=i32::MAX)?.cast_unsigned())
        }
        (Set::RandomOffset, _) => TimestampSet::RandomOffset,
        (Set::Freeze, _) => TimestampSet::Freeze,
        (Set::Strip, _) => TimestampSet::Strip,
        _ => TimestampSet::Constant(0),
    };
    Some(ImpairmentParams::Timestamps(TimestampsParams { set, translate }))
}

/// `rst`, `acks` and `timeout`.
pub(super) fn rst_order(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let rst = table.value("rst").map_or(Some(RstPlace::First), |value| {
        value.choice(&[("first", RstPlace::First), ("last", RstPlace::Last)])
    });
    let acks = table.value("acks");
    let timeout = table.value("timeout").map_or(Some(RST_TIMEOUT), |value| positive(&value));
    let rst = rst?;
    if let (Some(value), RstPlace::Last) = (&acks, rst) {
        value.problem("no ACK waits where the RST comes last", "remove it");
    }
    let acks = acks.map_or(Some(HeldAcks::Handshake), |value| {
        value.choice(&[("handshake", HeldAcks::Handshake), ("all", HeldAcks::All)])
    });
    Some(ImpairmentParams::RstOrder(RstOrderParams { rst, acks: acks?, timeout: timeout? }))
}

/// `zero | constant N | offset N | random-offset | freeze | strip`, then `[rst]`.
pub(super) const TIMESTAMPS: Word = Word {
    name: "timestamps",
    options: &["zero", "constant", "offset", "random-offset", "freeze", "strip", "rst"],
    usage: "timestamps zero|constant N|offset N|random-offset|freeze|strip [rst]",
    read: |arguments| {
        let set = if arguments.flag("zero") {
            TimestampSet::Constant(0)
        } else if arguments.flag("constant") {
            TimestampSet::Constant(arguments.count(0..=u32::MAX, "timestamps constant 1")?)
        } else if arguments.flag("offset") {
            let offset = arguments.count(i32::MIN..=i32::MAX, "timestamps offset -5000")?;
            TimestampSet::Offset(offset.cast_unsigned())
        } else if arguments.flag("random-offset") {
            TimestampSet::RandomOffset
        } else if arguments.flag("freeze") {
            TimestampSet::Freeze
        } else if arguments.flag("strip") {
            TimestampSet::Strip
        } else {
            let what = "zero, constant N, offset N, random-offset, freeze or strip";
            return Err(arguments.missing(what, "timestamps zero rst"));
        };
        let tcp_flags_set = if arguments.flag("rst") { flag::RST } else { 0 };
        let params = TimestampsParams { set, translate: true };
        let stage = spec::stage("timestamps", ImpairmentParams::Timestamps(params));
        Ok(StageParams { select: Select { tcp_flags_set, ..Select::default() }, ..stage })
    },
};

/// `[first | last] [TIMEOUT]`.
pub(super) const RST_ORDER: Word = Word {
    name: "rst-order",
    options: &["first", "last"],
    usage: "rst-order [first|last] [TIMEOUT]",
    read: |arguments| {
        let rst = if arguments.flag("last") {
            RstPlace::Last
        } else {
            arguments.flag("first");
            RstPlace::First
        };
        let timeout = arguments.optional(units::time)?.unwrap_or(RST_TIMEOUT);
        let params = RstOrderParams { rst, acks: HeldAcks::Handshake, timeout };
        Ok(spec::stage("rst-order", ImpairmentParams::RstOrder(params)))
    },
};
