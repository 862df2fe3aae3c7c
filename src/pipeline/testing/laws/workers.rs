//! What becomes of a flow does not depend on the number of workers.
//!
//! Exempt are stages whose flows share something by intention (`Lawful::shares_state`): the queue and clock of a link (`rate`,
//! `dualpi2`, `replay`, netem with a rate, a limit or slots, or in its own mode), what is known of a host (`paws-per-host`), and
//! counts over a path (`scope = "path"`). In the order in which packets come, counts and hosts are the same on many workers: the
//! second law. A link is not: each worker has a queue of its own, and rounds by itself, so that times differ by a nanosecond.
//! Damage is exempt, since it can make a packet look like one of another flow, which another worker has. Translators have one
//! worker.

use proptest::collection::vec;
use proptest::prelude::*;

use super::stages::stages;
use super::traffic::both_ways;
use super::{as_is, damages, shares_state};
use crate::pipeline::counters::{RouterCounters, StageCounters};
use crate::pipeline::params::{Identity, ImpairmentParams, RouterParams, StageParams};
use crate::pipeline::router::Router;
use crate::pipeline::testing::frame::Extra;
use crate::pipeline::testing::{Run, Spec, Wire};
use crate::pipeline::time::{Duration, Instant};

/// So many flows to a service in each family, and one more that comes in fragments: each can have a worker of its own.
const FLOWS: u16 = 7;
const FIRST_PORT: u16 = 40_000;
const MANY: usize = 16;

/// In which order the workers take their packets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    /// As the packets come.
    Arrival,
    /// Each worker takes all of its packets before the next worker takes one.
    InTurn,
}

/// The worker of a flow, as devices spread flows over queues: both directions of a flow have one worker.
fn worker(spec: &Spec, count: usize) -> usize {
    (2 * usize::from(spec.source_port - FIRST_PORT) + usize::from(spec.v6)) % count
}

/// Of all workers together: what left, when and by which port, and the counters.
type Outcome = (Vec<Wire>, RouterCounters, Vec<StageCounters>);

fn outcome(params: &RouterParams, traffic: &[(u64, Spec)], count: usize, order: Order) -> Outcome {
    let shared = Router::shared(params);
    let mut workers: Vec<Run> = (0..count).map(|_| Run::worker(params, &shared)).collect();
    let mut packets = Vec::new();
    let mut at = Instant::ZERO;
    for (gap, spec) in traffic {
        at += Duration::from_nanos(*gap);
        packets.push((worker(spec, count), at, spec));
    }
    if order == Order::InTurn {
        packets.sort_by_key(|(worker, ..)| *worker);
    }
    for (worker, at, spec) in packets {
        if order == Order::Arrival {
            for run in &mut workers {
                run.advance(at);
            }
        }
        for frame in as_is(spec) {
            workers[worker].feed_by(spec.back.into(), at, &frame);
        }
    }
    let mut sum: Outcome = Default::default();
    sum.2.resize(params.paths[0].seats.len(), StageCounters::default());
    for mut run in workers {
        run.finish();
        sum.0.extend(run.wires());
        sum.1 += run.router.counters();
        for (number, counters) in sum.2.iter_mut().enumerate() {
            *counters += run.stage(number);
        }
    }
    sum.0.sort_by(|a, b| (a.at, a.port, &a.bytes).cmp(&(b.at, b.port, &b.bytes)));
    sum
}

/// Packets of many flows, in both directions. Fragments of all flows between two hosts are one flow, so that one alone has any.
fn many_flows() -> impl Strategy<Value = Vec<(u64, Spec)>> {
    (both_ways(), vec(0..FLOWS, 20)).prop_map(|(traffic, flows)| {
        let of = |((gap, spec), flow): ((u64, Spec), u16)| {
            let flow = if matches!(spec.extra, Extra::Fragments(_)) { FLOWS } else { flow };
            (gap, spec.with_source_port(FIRST_PORT + flow))
        };
        traffic.into_iter().zip(flows).map(of).collect()
    })
}

/// Whether it is a link, of which each worker has a part for itself.
fn is_link(stage: &StageParams) -> bool {
    matches!(
        stage.impairment,
        ImpairmentParams::Rate(_)
            | ImpairmentParams::Bottleneck(_)
            | ImpairmentParams::DualPi2(_)
            | ImpairmentParams::Replay(_)
            | ImpairmentParams::Netem(_)
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_global_rejects: 1_000_000, ..ProptestConfig::default() })]

    /// Flows that are called by their addresses and ports fare alike however far the workers are apart. The service's flows are
    /// numbered in the order in which they come.
    #[test]
    fn flows_fare_alike_on_one_worker_and_on_many(
        stages in stages(), traffic in many_flows(), by_tuple in any::<bool>(), few in 2..5_usize,
    ) {
        prop_assume!(!shares_state(&stages) && !damages(&stages));
        let (identity, order) =
            if by_tuple { (Identity::Tuple, Order::InTurn) } else { (Identity::Service, Order::Arrival) };
        let params = RouterParams { identity, ..Run::params(1, stages) };
        let one = outcome(&params, &traffic, 1, Order::Arrival);
        for count in [few, MANY] {
            prop_assert_eq!(&outcome(&params, &traffic, count, order), &one);
        }
    }

    /// The numbers that workers share are one: a stage that comes first counts alike on one worker and on many.
    #[test]
    fn what_workers_share_is_one(stages in stages(), traffic in many_flows()) {
        let first = stages[..1].to_vec();
        prop_assume!(shares_state(&first) && !damages(&first) && !is_link(&first[0]));
        let params = Run::params(1, first);
        let one = outcome(&params, &traffic, 1, Order::Arrival);
        prop_assert_eq!(outcome(&params, &traffic, MANY, Order::Arrival), one);
    }
}
