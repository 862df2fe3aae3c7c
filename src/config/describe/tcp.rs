//! The stages that know TCP, in words.

use crate::pipeline::params::{HeldAcks, RstOrderParams, RstPlace, TimestampSet, TimestampsParams};

pub(super) fn timestamps(params: &TimestampsParams) -> String {
    let what = match params.set {
        TimestampSet::Constant(value) => format!("TSval set to {value}"),
        TimestampSet::Offset(offset) => format!("TSval shifted by {}", offset.cast_signed()),
        TimestampSet::RandomOffset => "TSval shifted by an offset drawn for each connection".to_owned(),
        TimestampSet::Freeze => "TSval stays at the connection's first".to_owned(),
        TimestampSet::Strip => "the option replaced by NOPs".to_owned(),
    };
    let back = if params.translates() { ", TSecr translated back" } else { "" };
    format!("timestamps: {what}{back}")
}

pub(super) fn rst_order(params: &RstOrderParams) -> String {
    let what = match (params.rst, params.acks) {
        (RstPlace::First, HeldAcks::Handshake) => "a RST overtakes the last ACK of the handshake",
        (RstPlace::First, HeldAcks::All) => "a RST overtakes the ACKs before it",
        (RstPlace::Last, _) => "a RST comes behind the next segment",
    };
    format!("rst-order: {what}, which waits at most {}", params.timeout)
        .replace("segment, which waits", "segment, and waits")
}
