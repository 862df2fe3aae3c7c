//! Any chain of stages, each with a selection and a trigger.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{impairment, tame};
use crate::pipeline::impair::*;
use crate::pipeline::params::{
    FragmentSelect, Opened, Phase, QuicSelect, Scope, Segment, Select, StageParams, Transmission, Trigger,
};
use crate::pipeline::testing::strategy::{duration, probability};

fn selection() -> impl Strategy<Value = Select> {
    let some = (
        select(vec![vec![], vec![6], vec![17], vec![6, 17]]),
        select(vec![(0, 0), (0x10, 0), (0x08, 0), (0, 0x01)]),
        option::of((40..1_500_u32).prop_map(|low| (low, 1_500))),
        option::of((0..1_000_u32).prop_map(|high| (0, high))),
        option::of(select(vec![FragmentSelect::None, FragmentSelect::Later])),
    )
        .prop_map(|(protocols, (set, unset), ip_length, payload_length, fragment)| Select {
            protocols,
            tcp_flags_set: set,
            tcp_flags_unset: unset,
            ip_length,
            payload_length,
            fragment,
            ..Select::default()
        });
    prop_oneof![2 => Just(Select::default()), 2 => some, 1 => aimed()]
}

/// At what a segment is and was, or at QUIC.
fn aimed() -> impl Strategy<Value = Select> {
    let kinds = [
        Segment::Syn,
        Segment::SynAck,
        Segment::Fin,
        Segment::Rst,
        Segment::Data,
        Segment::PureAck,
        Segment::Sack,
        Segment::NewData,
        Segment::Retransmission,
        Segment::HandshakeAck,
        Segment::Established,
    ];
    let transmission = option::of((1..12_u64, any::<bool>()));
    let short = option::of((0..1_000_u32).prop_map(|high| (0, high)));
    let opened = option::of(select(vec![Opened::Before, Opened::After]));
    let segment = (vec(select(kinds.to_vec()), 0..3), transmission, short, opened).prop_map(
        |(segments, transmission, payload_length, opened)| Select {
            segments: segments.into_iter().collect(),
            transmission: transmission.map(|(of, again)| Transmission { of, again }),
            opened,
            payload_length,
            ..Select::default()
        },
    );
    // The payload of test packets counts up: some of it looks like QUIC.
    let quic = (0..64_u8, vec(vec(any::<u8>(), 1..2), 0..2)).prop_map(|(packets, destinations)| Select {
        quic: Some(QuicSelect { packets, destinations }),
        ..Select::default()
    });
    prop_oneof![3 => segment, 1 => quic]
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let counts = (
        vec(1..40_u64, 0..4),
        option::of(1..6_u64),
        option::of(1..40_u64),
        option::of(1..20_u64),
        option::of(1..20_u64),
        option::of(probability()),
    );
    let times = (option::of(duration()), option::of(duration()), select(vec![Scope::Flow, Scope::Path]));
    let bytes = (option::of(1..100_000_u64), option::of(1..100_000_u64));
    let phase = option::of(
        (1..3_u8, duration(), option::of(duration()), option::of(duration()))
            .prop_map(|(number, from, until, period)| Phase { number, from, until, period }),
    );
    let some = (counts, times, bytes, phase).prop_map(
        |((mut nth, every, first, after, times, probability), (from, until, scope), bytes, phase)| {
            nth.sort_unstable();
            nth.dedup();
            let (first_bytes, after_bytes) = bytes;
            let packets = Trigger { probability, nth, every, first, after, times, ..Trigger::default() };
            let when = Trigger { first_bytes, after_bytes, from, until, scope, phase, ..Trigger::default() };
            if scope == Scope::Path && when.counts_bytes() {
                return when;
            }
            Trigger { first_bytes, after_bytes, from, until, scope, phase, ..packets }
        },
    );
    prop_oneof![Just(Trigger::default()), some]
}

pub(in crate::pipeline) fn stages() -> impl Strategy<Value = Vec<StageParams>> {
    let one = (selection(), trigger(), impairment());
    vec(one, 1..4).prop_map(|stages| {
        let named =
            |(number, (select, trigger, impairment)): (usize, (Select, Trigger, ImpairmentParams))| {
                StageParams { name: format!("stage-{number}"), select, trigger, impairment }
            };
        stages.into_iter().enumerate().map(named).collect()
    })
}

/// Stages that are not meant to reorder or damage, on every packet: one that is held only sometimes is overtaken.
pub(super) fn ordered_stages() -> impl Strategy<Value = Vec<StageParams>> {
    let tame =
        |impairment| tame(impairment).unwrap_or(ImpairmentParams::FragmentFilter(FragmentFilterParams));
    vec(impairment().prop_map(tame), 1..4).prop_map(|impairments| {
        let named = |(number, impairment)| StageParams {
            name: format!("stage-{number}"),
            select: Select::default(),
            trigger: Trigger::default(),
            impairment,
        };
        impairments.into_iter().enumerate().map(named).collect()
    })
}
