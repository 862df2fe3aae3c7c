//! Loss of the packets of a list.
//!
//! Model: the wire packets that reach the stage are counted from 1, each flow by itself or the whole path in order of arrival;
//! those whose number is listed are dropped. With `ecn`, an ECN-capable packet is marked CE instead (RFC 3168).
//! Never delays, reorders or copies a packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{ListedLossParams, Numbers, Scope};
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Drops, or marks, the wire packets whose numbers are listed.
#[derive(Debug)]
pub struct ListedLoss {
    list: Arc<Numbers>,
    ecn: bool,
    seen: Seen,
}

/// How many packets there have been.
#[derive(Debug)]
enum Seen {
    Flow(PerFlow<u64>),
    Path(Shared),
}

impl ListedLoss {
    /// A loss that has seen nothing yet.
    pub fn new(params: &ListedLossParams, setting: &Setting) -> Self {
        let seen = match params.scope {
            Scope::Flow => Seen::Flow(PerFlow::new(setting.flows)),
            Scope::Path => Seen::Path(Shared::clone(&setting.shared)),
        };
        Self { list: Arc::clone(&params.list), ecn: params.ecn, seen }
    }
}

/// Takes the next numbers of the path; workers that race for them take turns.
fn take(seen: &AtomicU64, list: &Numbers, limit: u32) -> (u32, bool) {
    let mut before = seen.load(Ordering::Acquire);
    loop {
        let (count, hit) = list.run(before + 1, limit);
        let after = before + u64::from(count);
        match seen.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return (count, hit),
            Err(now) => before = now,
        }
    }
}

impl Stage for ListedLoss {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let (count, hit) = match &mut self.seen {
            Seen::Flow(flows) => {
                let seen = flows.of(packet.flow);
                let (count, hit) = self.list.run(*seen + 1, limit);
                *seen += u64::from(count);
                (count, hit)
            }
            // `counts` is the trigger's.
            Seen::Path(shared) => take(&shared.packets, &self.list, limit),
        };
        let action = if hit { Action::lose(packet, self.ecn) } else { Action::Pass };
        Verdict::new(count, action)
    }

    fn rewrite(&mut self, packet: &mut Packet, _now: Instant) -> bool {
        packet.mark_congestion()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::counters::Reason;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};

    fn run(ranges: &[(u64, u64)], scope: Scope, ecn: bool) -> Run {
        let mut list = Numbers::default();
        for &(first, last) in ranges {
            list.push(first, last).unwrap();
        }
        let params = ListedLossParams { list: Arc::new(list), scope, ecn };
        Run::new(vec![stage(ImpairmentParams::ListedLoss(params))])
    }

    /// Payload lengths of what left: packets are told apart by them.
    fn left(run: &Run) -> Vec<usize> {
        run.wires().iter().map(|wire| wire.bytes.len() - 40).collect()
    }

    #[test]
    fn a_train_loses_the_segments_whose_numbers_are_listed() {
        let mut run = run(&[(1, 1), (4, 5), (9, 9)], Scope::Flow, false);
        run.feed(Instant::ZERO, &Spec::tcp(7).frame());
        // Numbers 2 to 7, the last of which is shorter.
        run.feed(Instant::ZERO, &Spec::tcp(5 * 100 + 60).train(100).frame());
        for payload in [8, 9, 10] {
            run.feed(Instant::ZERO, &Spec::tcp(payload).frame());
        }
        run.finish();
        assert_eq!(left(&run), [100, 100, 100, 60, 8, 10]);
        assert_eq!(run.dropped(Reason::Loss), 4);
    }

    #[test]
    fn each_flow_is_counted_by_itself_or_the_path_as_one() {
        for (scope, expected) in [(Scope::Flow, vec![1, 11, 3, 13]), (Scope::Path, vec![1, 2, 12, 3, 13])] {
            let mut run = run(&[(2, 2)], scope, false);
            for (port, payload) in [(1, 1), (2, 11), (1, 2), (2, 12), (1, 3), (2, 13)] {
                run.feed(Instant::ZERO, &Spec::tcp(payload).with_source_port(port).frame());
            }
            run.finish();
            assert_eq!(left(&run), expected, "{scope:?}");
        }
    }

    #[test]
    fn with_ecn_the_capable_are_marked() {
        let mut run = run(&[(1, 2)], Scope::Flow, true);
        run.feed(Instant::ZERO, &Spec { traffic_class: 2, ..Spec::tcp(1) }.frame());
        run.feed(Instant::ZERO, &Spec::tcp(2).frame());
        run.finish();
        assert_eq!((left(&run), run.wires()[0].bytes[1]), (vec![1], 3));
    }
}
