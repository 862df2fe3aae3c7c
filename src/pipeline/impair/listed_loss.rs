//! Loss of the packets whose numbers are in a list.
//!
//! Model: the wire packets that reach the stage are counted from 1, in each flow or on the whole path in order of
//! arrival. Packets whose number is listed are dropped. With `ecn`, an ECN-capable packet is marked CE instead (RFC
//! 3168).
//! Never delays, reorders or copies a packet.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Numbers, Scope};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::shared::Alone;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// See [`crate::pipeline::params::ImpairmentParams::ListedLoss`].
#[derive(Debug, Clone, PartialEq)]
pub struct ListedLossParams {
    /// The numbers of the packets, counted from 1.
    pub list: Arc<Numbers>,
    /// Whether each flow is counted by itself, or the path.
    pub scope: Scope,
    /// Mark ECN-capable packets CE instead of dropping them.
    pub ecn: bool,
}

impl fmt::Display for ListedLossParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ecn { ", marking ECN-capable ones instead" } else { "" };
        let counted = match self.scope {
            Scope::Flow => "each flow",
            Scope::Path => "the path",
        };
        let (first, last) = self.list.bounds().unwrap_or_default();
        let which = match (self.list.count(), last) {
            (1, _) => format!("packet {first}"),
            (_, u64::MAX) => format!("packets of a list from {first} on without end"),
            (count, _) => format!("{count} listed packets from {first} to {last}"),
        };
        write!(f, "loss of {which} of {counted}{mark}")
    }
}

impl Blueprint for ListedLossParams {
    type Stage = ListedLoss;

    fn build(&self, setting: &Setting) -> Self::Stage {
        ListedLoss::new(self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

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
    Path(Arc<Alone>),
}

impl ListedLoss {
    /// A loss that has seen nothing yet.
    pub fn new(params: &ListedLossParams, setting: &Setting) -> Self {
        let seen = match params.scope {
            Scope::Flow => Seen::Flow(PerFlow::new(setting.flows)),
            Scope::Path => Seen::Path(setting.shared.state()),
        };
        Self { list: Arc::clone(&params.list), ecn: params.ecn, seen }
    }
}

/// Takes the next numbers of the path. Workers that race for them take turns.
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
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let (count, hit) = match &mut self.seen {
            Seen::Flow(flows) => {
                let seen = flows.of(packet.flow);
                let (count, hit) = self.list.run(*seen + 1, limit);
                *seen += u64::from(count);
                (count, hit)
            }
            Seen::Path(seen) => take(&seen.0, &self.list, limit),
        };
        let action = if hit { Action::lose(packet, self.ecn) } else { Action::PASS };
        Verdict::new(count, action)
    }

    fn rewrite(&mut self, packet: &mut Packet, (): (), _now: Instant) -> bool {
        packet.mark_congestion()
    }

    fn quiet(&self, ahead: &Ahead) -> Quiet {
        let Seen::Flow(flows) = &self.seen else { return Quiet::NO_MORE };
        match self.list.run(flows.peek(ahead.flow) + 1, u32::MAX) {
            (_, true) => Quiet::NO_MORE,
            (count, false) => Quiet::packets(count.into()),
        }
    }

    fn passed(&mut self, ahead: &Ahead, count: u64) {
        if let Seen::Flow(flows) = &mut self.seen {
            *flows.of(ahead.flow) += count;
        }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for ListedLossParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let ranges = prop::collection::vec((1..6_u64, 0..5_u64), 0..8);
        let scope = prop::sample::select(vec![Scope::Flow, Scope::Path]);
        (ranges, scope, any::<bool>())
            .prop_map(|(ranges, scope, ecn)| {
                let (mut list, mut end) = (Numbers::default(), 0);
                for (gap, more) in ranges {
                    list.push(end + gap, end + gap + more).expect("a rising range");
                    end += gap + more;
                }
                Self { list: Arc::new(list), scope, ecn }
            })
            .boxed()
    }

    fn shares_state(&self) -> bool {
        self.scope == Scope::Path
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
