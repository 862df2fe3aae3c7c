//! Losses or copies with a probability that depends on how many came in a row before.
//!
//! Model: a packet is hit with the first probability of the pattern if the packet before it was not hit, with the
//! second if it was, with the third if the last two were, and so on. The last probability applies to all longer rows,
//! so a last probability of 0 limits a burst. The pattern may change with time. Packets that are hit are dropped (or
//! marked CE, RFC 3168), or copied. The row is counted in each flow, or on the whole path in order of arrival; in the
//! second case the draws depend on the order of arrival too.
//! Never delays, reorders or alters a packet.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Scope, Timetable};
use crate::pipeline::random::rng::{StageKey, Stream};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::shared::Alone;
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// See [`crate::pipeline::params::ImpairmentParams::Pattern`].
#[derive(Debug, Clone, PartialEq)]
pub struct PatternParams {
    /// At each time, the probabilities that a packet is hit: after one that was not hit, after one that was, after
    /// two in a row, and so on. The last one applies to all longer rows. At least one.
    pub patterns: Arc<Timetable<Vec<Probability>>>,
    /// What happens to a packet that is hit.
    pub fault: PatternFault,
    /// Whether each flow is followed by itself, or the path.
    pub scope: Scope,
}

/// What a pattern does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternFault {
    /// Drops; with `ecn` marks ECN-capable packets CE instead.
    Loss {
        /// Marks.
        ecn: bool,
    },
    /// Makes a copy.
    Duplicate,
}

impl fmt::Display for PatternParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            PatternFault::Loss { ecn: false } => "loss",
            PatternFault::Loss { ecn: true } => "loss (marking ECN-capable ones instead)",
            PatternFault::Duplicate => "copies",
        };
        let row = match self.scope {
            Scope::Flow => "each flow",
            Scope::Path => "the path",
        };
        let pattern = |chances: &Vec<_>| {
            let chances: Vec<String> =
                chances.iter().take(Timetable::<()>::SHOWN).map(ToString::to_string).collect();
            chances.join(" then ")
        };
        let patterns = self.patterns.summary(pattern);
        write!(f, "{what} of {patterns}, by how many of {row} were hit in a row before")
    }
}

impl Blueprint for PatternParams {
    type Stage = Pattern;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Pattern::new(self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }

    /// The average at the pattern's highest probability.
    fn extra_packets(&self) -> f64 {
        let chances = self.patterns.values().flatten().map(|chance| chance.as_f64());
        if self.fault == PatternFault::Duplicate { chances.fold(0.0, f64::max) } else { 0.0 }
    }
}

/// Hits wire packets by a pattern.
#[derive(Debug)]
pub struct Pattern {
    patterns: Arc<Timetable<Vec<Probability>>>,
    fault: PatternFault,
    key: StageKey,
    row: Row,
}

/// How many packets have been hit in a row.
#[derive(Debug)]
enum Row {
    Flow(PerFlow<u64>),
    Path(Arc<Alone>),
}

impl Pattern {
    /// A pattern with the draws of `setting`; no packet was hit before.
    pub fn new(params: &PatternParams, setting: &Setting) -> Self {
        let row = match params.scope {
            Scope::Flow => Row::Flow(PerFlow::new(setting.flows)),
            Scope::Path => Row::Path(setting.shared.state()),
        };
        Self { patterns: Arc::clone(&params.patterns), fault: params.fault, key: setting.key, row }
    }
}

/// After `row` hits: how many of the next packets, at most `limit`, get the same answer, and whether they are hit.
/// Hits are returned one by one.
fn run(pattern: &[Probability], row: u64, limit: u32, draw: impl Fn(u32) -> f64) -> (u32, bool) {
    let chance = |row: u64| {
        let last = pattern.len().saturating_sub(1) as u64;
        pattern.get(row.min(last) as usize).map_or(0.0, |chance| chance.as_f64())
    };
    if draw(0) < chance(row) {
        return (1, true);
    }
    let first = chance(0);
    let missed = (1..limit).take_while(|&packet| draw(packet) >= first).count();
    (1 + missed as u32, false)
}

/// Bits of the path's word that hold the row; the others count the packets that came before.
const ROW_BITS: u32 = 24;
const MOST_IN_ROW: u64 = (1 << ROW_BITS) - 1;

/// Takes the path's next packets by their row and number; workers that race for them take turns.
fn take(word: &AtomicU64, decide: impl Fn(u64, u64) -> (u32, bool)) -> (u32, bool) {
    let mut before = word.load(Ordering::Acquire);
    loop {
        let (row, number) = (before & MOST_IN_ROW, before >> ROW_BITS);
        let (count, hit) = decide(row, number);
        let row = if hit { (row + 1).min(MOST_IN_ROW) } else { 0 };
        let after = (number + u64::from(count)) << ROW_BITS | row;
        match word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return (count, hit),
            Err(now) => before = now,
        }
    }
}

impl Stage for Pattern {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        let pattern = self.patterns.at(now);
        let decide = |row: u64, stream: Stream, first: u64| {
            run(pattern, row, limit, |wire| stream.unit(first + u64::from(wire), 0))
        };
        let (count, hit) = match &mut self.row {
            Row::Flow(flows) => {
                let row = flows.of(packet.flow);
                let (count, hit) = decide(*row, packet.stream(self.key), packet.index);
                *row = if hit { row.saturating_add(1) } else { 0 };
                (count, hit)
            }
            Row::Path(word) => take(&word.0, |row, number| decide(row, self.key.stream(0, 0), number)),
        };
        let action = match (hit, self.fault) {
            (false, _) => Action::PASS,
            (true, PatternFault::Loss { ecn }) => Action::lose(packet, ecn),
            (true, PatternFault::Duplicate) => Action::TAKE,
        };
        Verdict::new(count, action)
    }

    fn rewrite(&mut self, packet: &mut Packet, (): (), _now: Instant) -> bool {
        packet.mark_congestion()
    }

    fn take(&mut self, packet: &mut Packet, (): (), _now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        let copy = out.copy(&packet, self.key.salt(1));
        out.forward(packet);
        out.forward(copy);
    }

    /// Only for a pattern that does not change with time.
    fn quiet(&self, ahead: &Ahead) -> Quiet {
        let (Row::Flow(flows), 1) = (&self.row, self.patterns.values().len()) else {
            return Quiet::NO_MORE;
        };
        let stream = ahead.stream(self.key);
        let draw = |wire: u32| stream.unit(ahead.index + u64::from(wire), 0);
        match run(self.patterns.at(ahead.now), flows.peek(ahead.flow), Quiet::STEPS, draw) {
            (_, true) => Quiet::NO_MORE,
            (count, false) => Quiet::packets(count.into()),
        }
    }

    fn passed(&mut self, ahead: &Ahead, _count: u64) {
        if let Row::Flow(flows) = &mut self.row {
            *flows.of(ahead.flow) = 0;
        }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for PatternParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::probability;
        use crate::pipeline::time::Duration;
        let fault = prop::sample::select(vec![
            PatternFault::Loss { ecn: false },
            PatternFault::Loss { ecn: true },
            PatternFault::Duplicate,
        ]);
        let part = (1..20_000_000_u64, prop::collection::vec(probability(), 1..4));
        let scope = prop::sample::select(vec![Scope::Flow, Scope::Path]);
        (prop::collection::vec(part, 1..4), any::<bool>(), fault, scope)
            .prop_map(|(parts, repeats, fault, scope)| {
                let parts =
                    parts.into_iter().map(|(time, pattern)| (Duration::from_nanos(time), pattern)).collect();
                let patterns = Arc::new(Timetable::new(parts, repeats).expect("parts that last"));
                Self { patterns, fault, scope }
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
    use crate::pipeline::time::Duration;

    const LOSS: PatternFault = PatternFault::Loss { ecn: false };

    fn pattern(chances: &[f64]) -> Vec<Probability> {
        chances.iter().map(|&chance| Probability::new(chance).unwrap()).collect()
    }

    fn run_of(patterns: Timetable<Vec<Probability>>, fault: PatternFault, scope: Scope) -> Run {
        let params = PatternParams { patterns: Arc::new(patterns), fault, scope };
        Run::new(vec![stage(ImpairmentParams::Pattern(params))])
    }

    /// Payload lengths of what left: packets are told apart by them.
    fn left(run: &Run) -> Vec<usize> {
        run.wires().iter().map(|wire| wire.bytes.len() - 40).collect()
    }

    /// Certain probabilities make a schedule: hit, hit, not hit, and again.
    #[test]
    fn the_row_of_hits_chooses_the_probability() {
        for (chances, lost) in [
            (&[1.0, 1.0, 0.0][..], vec![1, 2, 4, 5, 7]),
            (&[1.0, 0.0], vec![1, 3, 5, 7]),
            (&[0.0, 1.0], vec![]),
            (&[1.0], vec![1, 2, 3, 4, 5, 6, 7]),
        ] {
            for scope in [Scope::Flow, Scope::Path] {
                let mut run = run_of(Timetable::constant(pattern(chances)), LOSS, scope);
                for payload in 1..=7 {
                    run.feed(Instant::ZERO, &Spec::tcp(payload).frame());
                }
                let expected: Vec<usize> = (1..=7).filter(|number| !lost.contains(number)).collect();
                assert_eq!(left(&run), expected, "{chances:?} {scope:?}");
            }
        }
    }

    #[test]
    fn rows_are_those_of_a_flow_or_of_the_path() {
        for (scope, expected) in [(Scope::Flow, vec![2, 12]), (Scope::Path, vec![11, 12])] {
            let mut run = run_of(Timetable::constant(pattern(&[1.0, 0.0])), LOSS, scope);
            for (port, payload) in [(1, 1), (2, 11), (1, 2), (2, 12)] {
                run.feed(Instant::ZERO, &Spec::tcp(payload).with_source_port(port).frame());
            }
            assert_eq!(left(&run), expected, "{scope:?}");
        }
    }

    #[test]
    fn patterns_change_with_time_and_copies_are_made_by_them() {
        let ms = Duration::from_millis;
        let patterns = vec![(ms(10), pattern(&[0.0])), (ms(10), pattern(&[1.0, 0.0]))];
        let mut run = run_of(Timetable::new(patterns, true).unwrap(), PatternFault::Duplicate, Scope::Flow);
        for (millis, payload) in [(0, 1), (10, 2), (11, 3), (12, 4), (21, 5)] {
            run.feed(Instant::ZERO + ms(millis), &Spec::tcp(payload).frame());
        }
        assert_eq!(left(&run), [1, 2, 2, 3, 4, 4, 5]);
        assert_eq!(run.stage(0).created.packets, 2);
    }

    /// With 10 % after a packet that came through and 60 % after a loss, the share in the long run is 0.1 / (0.1 + 0.4) = 20 %, and
    /// bursts have a mean length of 1 / (1 - 0.6) = 2.5. Five standard deviations of a chain whose correlation is 0.5:
    /// the variance is three times that of independent packets.
    #[test]
    fn share_and_bursts_are_those_of_the_chain() {
        let n = 40_000_u32;
        let mut run = run_of(Timetable::constant(pattern(&[0.1, 0.6])), LOSS, Scope::Flow);
        let (mut bursts, mut before) = (0_u32, false);
        for turn in 0..n {
            let lost = run.dropped(Reason::Loss);
            run.feed(Instant::ZERO + Duration::from_micros(turn.into()), &Spec::udp(1).frame());
            let hit = run.dropped(Reason::Loss) > lost;
            bursts += u32::from(hit && !before);
            before = hit;
        }
        let lost = run.dropped(Reason::Loss) as f64;
        let sigma = (f64::from(n) * 0.2 * 0.8 * 3.0).sqrt();
        assert!((lost - f64::from(n) * 0.2).abs() <= 5.0 * sigma, "{lost}");
        // A geometric length of mean 2.5 has a variance of 0.6 / 0.16.
        let mean = lost / f64::from(bursts);
        assert!((mean - 2.5).abs() <= 5.0 * (0.6 / 0.16 / f64::from(bursts)).sqrt(), "{mean}");
    }
}
