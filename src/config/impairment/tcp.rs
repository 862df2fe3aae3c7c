//! The keys of the stages that know TCP.

use crate::config::impairment::positive;
use crate::config::reader::Table;
use crate::pipeline::params::{HeldAcks, RstOrderParams, RstPlace, TimestampSet, TimestampsParams};
use crate::pipeline::time::Duration;

/// How long a segment waits for a RST, or a RST for a segment, unless it is said: less than it takes a SYN-ACK to be sent
/// again (1 s, RFC 6298 section 2).
pub(in crate::config) const RST_TIMEOUT: Duration = Duration::from_millis(500);

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
pub(super) fn timestamps(table: &mut Table<'_>) -> Option<TimestampsParams> {
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
    Some(TimestampsParams { set, translate })
}

/// `rst`, `acks` and `timeout`.
pub(super) fn rst_order(table: &mut Table<'_>) -> Option<RstOrderParams> {
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
    Some(RstOrderParams { rst, acks: acks?, timeout: timeout? })
}
