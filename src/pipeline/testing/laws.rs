//! The laws of design and of [`crate::pipeline::stage`], as properties of every stage, alone and in chains.

mod stages;
mod traffic;
mod workers;

pub(in crate::pipeline) use stages::stages;
pub(in crate::pipeline) use traffic::{packet, traffic};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use self::stages::ordered_stages;
use self::traffic::{both_ways, numbered, sequence, with_sequences};
use crate::pipeline::counters::{Amount, Reason};
use crate::pipeline::impair::*;
use crate::pipeline::params::{
    CustomParams, Distribution, Identity, RouterParams, Scope, Select, StageParams, Trigger,
};
use crate::pipeline::testing::frame::Extra;
use crate::pipeline::testing::strategy::duration;
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

    /// Whatever their parameters.
    #[test]
    fn few_stages_have_traps(params in impairment(), ipv6 in any::<bool>()) {
        let traps = params.traps(&Place { mtu: Some(1_500), ipv6 });
        let may_have = ["rate", "mtu", "dualpi2", "netem"].contains(&params.type_name());
        prop_assert!(may_have || traps.is_empty(), "{:?}: {:?}", params, traps);
        prop_assert!(!traps.iter().any(String::is_empty), "{:?}", params);
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
