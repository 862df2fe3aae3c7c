//! The laws of design and of [`crate::pipeline::stage`], as properties of every stage, alone and in chains.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::pipeline::counters::{Amount, Reason};
use crate::pipeline::impair::*;
use crate::pipeline::params::{
    CustomParams, Distribution, FragmentSelect, Identity, Opened, Phase, QuicSelect, RouterParams, Scope,
    Segment, Select, StageParams, Transmission, Trigger,
};
use crate::pipeline::testing::frame::Extra;
use crate::pipeline::testing::strategy::{GRID, duration, probability};
use crate::pipeline::testing::{Frame, Run, Spec, Wire, flaw};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Probability;

/// How the laws draw the parameters of a stage, and what its nature excuses it from.
pub(crate) trait Lawful: Blueprint + 'static {
    /// Any parameters.
    fn strategy() -> BoxedStrategy<Self>;

    /// The same where it keeps the order of each flow, and all bytes; `None`: it never does.
    fn tame(self) -> Option<Self> {
        Some(self)
    }

    /// Whether it makes packets invalid.
    fn damages(&self) -> bool {
        false
    }

    /// Whether the flows of a path share something by intention: a queue, a count over the path.
    fn shares_state(&self) -> bool {
        false
    }
}

impl<L: Lawful> Lawful for Box<L> {
    fn strategy() -> BoxedStrategy<Self> {
        L::strategy().prop_map(Box::new).boxed()
    }

    fn tame(self) -> Option<Self> {
        (*self).tame().map(Box::new)
    }

    fn damages(&self) -> bool {
        (**self).damages()
    }

    fn shares_state(&self) -> bool {
        (**self).shares_state()
    }
}

macro_rules! lawful {
    ($($kind:ident $name:literal { $($form:ident($params:ty)),* $(,)? })*) => {
        /// Every impairment.
        fn impairment() -> impl Strategy<Value = ImpairmentParams> {
            proptest::strategy::Union::new([
                $($(<$params>::strategy().prop_map(ImpairmentParams::$form).boxed(),)*)*
                CustomParams::strategy().prop_map(ImpairmentParams::Custom).boxed(),
            ])
        }

        fn tame(impairment: ImpairmentParams) -> Option<ImpairmentParams> {
            match impairment {
                $($(ImpairmentParams::$form(params) => params.tame().map(ImpairmentParams::$form),)*)*
                ImpairmentParams::Custom(params) => params.tame().map(ImpairmentParams::Custom),
            }
        }

        fn damages(stages: &[StageParams]) -> bool {
            stages.iter().any(|stage| match &stage.impairment {
                $($(ImpairmentParams::$form(params) => params.damages(),)*)*
                ImpairmentParams::Custom(params) => params.damages(),
            })
        }

        /// What the flows of a path share by intention.
        fn shares_state(stages: &[StageParams]) -> bool {
            stages.iter().any(|stage| stage.trigger.scope == Scope::Path || match &stage.impairment {
                $($(ImpairmentParams::$form(params) => params.shares_state(),)*)*
                ImpairmentParams::Custom(params) => params.shares_state(),
            })
        }
    };
}

for_each_stage!(lawful);

/// Time between two packets, less than `most` nanoseconds.
fn gap(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 1 => 0..most, 1 => (0..most / GRID).prop_map(|ticks| ticks * GRID)]
}

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
fn both_ways() -> impl Strategy<Value = Vec<(u64, Spec)>> {
    vec((gap(5_000_000), packet(), any::<bool>()), 1..20).prop_map(|packets| {
        packets.into_iter().map(|(gap, spec, back)| (gap, Spec { back, ..spec })).collect()
    })
}

/// Packets and the time since the one before.
pub(in crate::pipeline) fn traffic() -> impl Strategy<Value = Vec<(u64, Spec)>> {
    vec((gap(5_000_000), packet()), 1..20)
}

fn run(stages: Vec<StageParams>, traffic: &[(u64, Spec)], frames: impl Fn(&Spec) -> Vec<Frame>) -> Run {
    run_by(Identity::Service, stages, traffic, frames)
}

fn run_by(
    identity: Identity,
    stages: Vec<StageParams>,
    traffic: &[(u64, Spec)],
    frames: impl Fn(&Spec) -> Vec<Frame>,
) -> Run {
    let mut run = Run::built(&RouterParams { identity, ..Run::params(1, stages) });
    let mut at = Instant::ZERO;
    for (gap, spec) in traffic {
        at += Duration::from_nanos(*gap);
        for frame in frames(spec) {
            run.feed_by(spec.back.into(), at, &frame);
        }
    }
    run
}

fn as_is(spec: &Spec) -> Vec<Frame> {
    spec.frames()
}

fn segmented(spec: &Spec) -> Vec<Frame> {
    spec.frames().iter().flat_map(Frame::wires).map(Frame::plain).collect()
}

fn by_port(run: &Run, port: u16) -> Vec<Wire> {
    run.wires().into_iter().filter(|wire| wire.port == port).collect()
}

/// Stages that are not meant to reorder or damage, on every packet: one that is held only sometimes is overtaken.
fn ordered_stages() -> impl Strategy<Value = Vec<StageParams>> {
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

/// Packets and trains of ten bytes of payload each, and the time since the one before.
fn numbered() -> impl Strategy<Value = Vec<(u64, usize)>> {
    vec((gap(4_000_000), prop_oneof![3 => Just(1), 1 => 2..12_usize]), 1..40)
}

/// One flow in which the sequence number tells the packet.
fn with_sequences(sends: &[(u64, usize)]) -> Vec<(u64, Spec)> {
    let mut next = 0;
    let number = |&(gap, count): &(u64, usize)| {
        let spec = Spec { sequence: next, ..Spec::tcp(10 * count) };
        next += 10 * count as u32;
        (gap, if count > 1 { spec.train(10) } else { spec })
    };
    sends.iter().map(number).collect()
}

fn sequence(wire: &Wire) -> u32 {
    u32::from_be_bytes(wire.bytes[24..28].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_global_rejects: 1_000_000, ..ProptestConfig::default() })]

    /// A train fares exactly as the wire packets that it stands for, and is counted so.
    #[test]
    fn trains_fare_as_their_segments(stages in stages(), traffic in both_ways()) {
        let mut whole = run(stages.clone(), &traffic, as_is);
        let mut cut = run(stages.clone(), &traffic, segmented);
        whole.finish();
        cut.finish();
        for port in [0, 1] {
            prop_assert_eq!(by_port(&whole, port), by_port(&cut, port));
        }
        prop_assert_eq!(whole.router.counters(), cut.router.counters());
        for stage in 0..stages.len() {
            prop_assert_eq!(whole.stage(stage), cut.stage(stage));
        }
    }

    /// received + created = sent + dropped + held, checked after every step by [`Run`], and once everything is out.
    #[test]
    fn nothing_is_lost_without_a_reason(stages in stages(), traffic in both_ways(), early in any::<bool>()) {
        let mut run = run(stages, &traffic, as_is);
        if !early {
            run.finish();
        }
        run.shut_down();
    }

    /// What a stage saw and made, less what it dropped, is what the next one saw, and at last what left.
    #[test]
    fn every_stage_accounts_for_what_it_saw(stages in stages(), traffic in traffic()) {
        let mut run = run(stages.clone(), &traffic, as_is);
        run.finish();
        let mut left = run.router.counters().received;
        for stage in 0..stages.len() {
            let counters = run.stage(stage);
            prop_assert_eq!(counters.seen, left);
            left += counters.created;
            let dropped = counters.drops.total();
            left = Amount { packets: left.packets - dropped.packets, bytes: left.bytes - dropped.bytes };
        }
        let sent = by_port(&run, 1);
        let bytes = sent.iter().map(|wire| wire.bytes.len() as u64).sum();
        prop_assert_eq!(left, Amount { packets: sent.len() as u64, bytes });
    }

    /// Only stages that say so make packets; fragments are of the packet that was cut.
    #[test]
    fn only_stages_that_say_so_make_packets(stages in stages(), traffic in both_ways()) {
        let mut run = run(stages.clone(), &traffic, as_is);
        run.finish();
        for (number, stage) in stages.iter().enumerate() {
            let counters = run.stage(number);
            let makes = counters.created.packets + counters.answered.packets;
            let cut = counters.drops.of(Reason::Fragmented).packets;
            prop_assert!(makes == 0 || cut > 0 || stage.impairment.extra_packets() > 0.0, "{stage:?}");
        }
    }

    /// What leaves has right lengths and checksums, unless a fault meant to break them.
    #[test]
    fn what_leaves_is_valid(stages in stages(), traffic in both_ways()) {
        prop_assume!(!damages(&stages));
        let mut run = run(stages, &traffic, as_is);
        run.finish();
        for wire in run.wires() {
            prop_assert_eq!(flaw(&wire.bytes), None);
        }
    }

    /// The same seed gives the same result; another stage in front that lets everything pass changes nothing.
    #[test]
    fn the_seed_decides(stages in stages(), traffic in traffic()) {
        let mut once = run(stages.clone(), &traffic, as_is);
        let mut more = vec![StageParams {
            name: "idle".into(),
            select: Select::default(),
            trigger: Trigger::default(),
            impairment: ImpairmentParams::Loss(LossParams { probability: Probability::ZERO, ecn: false }),
        }];
        more.extend(stages);
        let mut again = run(more, &traffic, as_is);
        once.finish();
        again.finish();
        prop_assert_eq!(once.wires(), again.wires());
    }

    /// Other flows on the path change nothing for a flow: those to other services, or, by tuples, any.
    #[test]
    fn flows_do_not_disturb_each_other(
        stages in stages(), traffic in traffic(), keep in any::<Index>(), by_tuple in any::<bool>(),
    ) {
        // Damage can make a packet look like another flow's.
        prop_assume!(!shares_state(&stages) && !damages(&stages));
        // Fragments have no ports: those of all flows between two addresses are one.
        let identity = if by_tuple { Identity::Tuple } else { Identity::Service };
        let alter = |spec: Spec| {
            let destination_port = if by_tuple { spec.destination_port } else { spec.source_port ^ 0x4000 };
            Spec { extra: Extra::Nothing, destination_port, ..spec }
        };
        let traffic: Vec<_> = traffic.into_iter().map(|(gap, spec)| (gap, alter(spec))).collect();
        let kept = traffic[keep.index(traffic.len())].1.clone();
        let same = |spec: &Spec| (spec.v6, spec.udp, spec.source_port) == (kept.v6, kept.udp, kept.source_port);
        let alone = |spec: &Spec| if same(spec) { as_is(spec) } else { Vec::new() };
        let mut among = run_by(identity, stages.clone(), &traffic, as_is);
        let mut alone = run_by(identity, stages, &traffic, alone);
        among.finish();
        alone.finish();
        let flow = |wires: Vec<Wire>| wires.into_iter().filter(|wire| belongs(&wire.bytes, &kept)).collect::<Vec<_>>();
        prop_assert_eq!(flow(by_port(&among, 1)), flow(by_port(&alone, 1)));
    }

    /// Order within each flow is kept by everything that is not meant to reorder, of single packets and in trains.
    #[test]
    fn order_is_kept(stages in ordered_stages(), sends in numbered(), flows in vec(0..3_u16, 40)) {
        let traffic: Vec<_> = (with_sequences(&sends).into_iter().zip(flows))
            .map(|((gap, spec), flow)| (gap, spec.with_source_port(40_000 + flow)))
            .collect();
        let mut run = run(stages, &traffic, as_is);
        run.finish();
        for flow in 0..3_u16 {
            let of_flow = |wire: &&Wire| wire.bytes[20..22] == (40_000 + flow).to_be_bytes();
            let order: Vec<u32> = by_port(&run, 1).iter().filter(of_flow).map(sequence).collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
    }

    /// Wherever in a path it stands, and whatever else is there, a delay holds every packet at least that long.
    #[test]
    fn nothing_is_delayed_less_than_asked(
        stages in ordered_stages(), sends in numbered(), delay in duration(), place in any::<Index>(),
    ) {
        let mut stages = stages;
        let params = DelayParams { delay, jitter: Duration::ZERO, distribution: Distribution::Uniform, reorder: false, half_life: None };
        let at = place.index(stages.len() + 1);
        stages.insert(at, crate::pipeline::testing::stage(ImpairmentParams::Delay(params)));
        let traffic = with_sequences(&sends);
        let mut run = run(stages, &traffic, as_is);
        run.finish();
        let mut came = Vec::new();
        let mut now = Instant::ZERO;
        for (gap, spec) in &traffic {
            now += Duration::from_nanos(*gap);
            came.push((spec.sequence, now));
        }
        for wire in by_port(&run, 1) {
            let number = sequence(&wire);
            let (_, at) = came[came.partition_point(|(first, _)| *first <= number) - 1];
            prop_assert!(wire.at >= at + delay, "{} left at {:?}, came at {:?}", number, wire.at, at);
        }
    }

    /// Nothing leaves before it came: the number of wire packets that have left never runs ahead, and time only goes on
    /// (which [`Run`] checks).
    #[test]
    fn nothing_leaves_before_it_came(stages in stages(), traffic in traffic()) {
        let mut at = Instant::ZERO;
        let mut run = Run::new(stages);
        for (gap, spec) in &traffic {
            at += Duration::from_nanos(*gap);
            run.advance(at);
            let before = run.wires().len();
            for frame in spec.frames() {
                run.feed(at, &frame);
            }
            prop_assert!(run.wires()[before..].iter().all(|wire| wire.at >= at));
        }
    }
}

/// Whether a wire packet is of the flow of `spec`.
fn belongs(bytes: &[u8], spec: &Spec) -> bool {
    let header = if spec.v6 { 40 } else { 20 };
    let version = if spec.v6 { 6 } else { 4 };
    let protocol = if spec.udp { 17 } else { 6 };
    bytes[0] >> 4 == version
        && bytes[if spec.v6 { 6 } else { 9 }] == protocol
        && bytes.len() >= header + 2
        && bytes[header..header + 2] == spec.source_port.to_be_bytes()
}
