//! Any traffic of a few flows.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::pipeline::testing::frame::Extra;
use crate::pipeline::testing::strategy::GRID;
use crate::pipeline::testing::{Spec, Wire};

/// Time between two packets, less than `most` nanoseconds.
fn gap(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 1 => 0..most, 1 => (0..most / GRID).prop_map(|ticks| ticks * GRID)]
}

/// MSS, SACK permitted and window scale in a SYN, and timestamps wherever they may stand.
fn options(syn: bool, (place, value, echo): (u8, u32, u32)) -> Vec<u8> {
    let mut options = if syn { vec![1, 2, 4, 5, 0xb4, 4, 2, 3, 3, 7] } else { Vec::new() };
    if place < 4 {
        options.resize(options.len() + usize::from(place), 1);
        options.extend([8, 10].iter().chain(&value.to_be_bytes()).chain(&echo.to_be_bytes()));
    }
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// Near each other, so that data is sent again and numbers wrap, or anywhere.
fn sequence_number() -> impl Strategy<Value = u32> {
    prop_oneof![2 => (0..20_000_u32).prop_map(|number| number.wrapping_sub(9_000)), 1 => any::<u32>()]
}

/// SYN, RST, data, UDP; single, in trains or in fragments; with and without IP options; of three flows.
pub(in crate::pipeline) fn packet() -> impl Strategy<Value = Spec> {
    let flags = select(vec![0x10_u8, 0x18, 0x19, 0x90, 0x02, 0x98, 0x04, 0x14, 0xc2]);
    let kind = (any::<bool>(), any::<bool>(), 0..3_u16, flags);
    let shape = (
        0..9_000_usize,
        select(vec![0_u16, 1, 8, 500, 1_000, 1_448]),
        sequence_number(),
        any::<u16>(),
        0..4_u8,
    );
    let extra = prop_oneof![
        4 => Just(Extra::Nothing),
        1 => Just(Extra::Options),
        1 => (1..100_usize).prop_map(|eights| Extra::Fragments(eights * 8)),
    ];
    let reading = || select(vec![0_u32, 1, 2, 1_000, 0x8000_0000, u32::MAX]);
    let kind = (kind, extra, (0..8_u8, reading(), reading()));
    (kind, shape, any::<bool>(), any::<bool>()).prop_map(|((kind, extra, clock), shape, df, partial)| {
        let (v6, udp, flow, flags) = kind;
        let (length, segment, sequence, id, ecn) = shape;
        let syn = flags & 2 != 0;
        // Single packets fit an Ethernet frame; trains are longer; trains of tiny segments are kept short.
        let length = match segment {
            _ if syn && !udp => 0,
            0 if length % 3 == 0 => 0,
            0 => length % 1_400,
            1 | 8 => length % 200,
            _ => length,
        };
        let options = if udp { Vec::new() } else { options(syn, clock) };
        let base = if udp { Spec::udp(length) } else { Spec::tcp(length) };
        let spec = Spec {
            v6,
            flags,
            options,
            sequence,
            id,
            traffic_class: ecn,
            dont_fragment: df,
            partial,
            source_port: 40_000 + flow,
            extra,
            ..base
        };
        let is_train = !matches!(extra, Extra::Fragments(_)) && segment > 0;
        if is_train && length > usize::from(segment) { spec.train(segment) } else { spec }
    })
}

/// As [`traffic`], of both directions.
pub(super) fn both_ways() -> impl Strategy<Value = Vec<(u64, Spec)>> {
    vec((gap(5_000_000), packet(), any::<bool>()), 1..20).prop_map(|packets| {
        packets.into_iter().map(|(gap, spec, back)| (gap, Spec { back, ..spec })).collect()
    })
}

/// Packets and the time since the one before.
pub(in crate::pipeline) fn traffic() -> impl Strategy<Value = Vec<(u64, Spec)>> {
    vec((gap(5_000_000), packet()), 1..20)
}

/// Packets and trains of ten bytes of payload each, and the time since the one before.
pub(super) fn numbered() -> impl Strategy<Value = Vec<(u64, usize)>> {
    vec((gap(4_000_000), prop_oneof![3 => Just(1), 1 => 2..12_usize]), 1..40)
}

/// One flow in which the sequence number tells the packet.
pub(super) fn with_sequences(sends: &[(u64, usize)]) -> Vec<(u64, Spec)> {
    let mut next = 0;
    let number = |&(gap, count): &(u64, usize)| {
        let spec = Spec { sequence: next, ..Spec::tcp(10 * count) };
        next += 10 * count as u32;
        (gap, if count > 1 { spec.train(10) } else { spec })
    };
    sends.iter().map(number).collect()
}

pub(super) fn sequence(wire: &Wire) -> u32 {
    u32::from_be_bytes(wire.bytes[24..28].try_into().unwrap())
}
