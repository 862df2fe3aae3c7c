//! A link whose delay, rate, loss and limit follow a table in time, as a trace in TheaterQ's format.
//!
//! Model: time begins with the first packet. The row for the time of its arrival decides about a packet: it is lost
//! with the row's probability, dropped if as many packets are held as the row's limit allows, sent at the row's rate
//! after those before it, and delayed by the row's latency and jitter. Order is kept within a route, so packets of a
//! row with another route may overtake; route 0 keeps no order. After the last row, the table begins again, the last
//! row stays, or packets pass unchanged. All workers share the state of the path.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::link::state::enter;
use crate::pipeline::link::turn::Turn;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::{Chance, StageKey};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::{Probability, Rate};

/// See [`crate::pipeline::params::ImpairmentParams::Replay`].
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayParams {
    /// The rows; at least one, and the first begins at zero.
    pub rows: Arc<Vec<ReplayRow>>,
    /// How long all rows together last, above zero.
    pub period: Duration,
    /// What happens after that.
    pub end: ReplayEnd,
}

/// The settings for a part of the time, counted from the first packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplayRow {
    /// When it begins.
    pub from: Duration,
    /// Propagation delay.
    pub latency: Duration,
    /// Half-width of a uniform jitter around it.
    pub jitter: Duration,
    /// Rate of the link; `None`: no limit.
    pub rate: Option<Rate>,
    /// Loss probability of each packet.
    pub loss: Probability,
    /// Largest number of packets held; `None`: any number.
    pub limit: Option<u64>,
    /// Probability of a copy.
    pub duplicate: Probability,
    /// How much later than the packet the copy leaves.
    pub duplicate_delay: Duration,
    /// Packets of one route keep their order; those of route 0 need not.
    pub route: u32,
}

/// What happens after the last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayEnd {
    /// The table begins again.
    #[default]
    Loop,
    /// The last row stays.
    Hold,
    /// Packets pass unchanged.
    Clear,
}

impl fmt::Display for ReplayParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end {
            ReplayEnd::Loop => "over and over",
            ReplayEnd::Hold => "then the last row stays",
            ReplayEnd::Clear => "then nothing is done any more",
        };
        write!(f, "replay {} rows of delay, rate, loss and limit in {}, {end}", self.rows.len(), self.period)
    }
}

impl Blueprint for ReplayParams {
    type Stage = Box<Replay>;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Box::new(Replay::new(self, setting))
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }

    /// The average of the row that makes most copies.
    fn extra_packets(&self) -> f64 {
        self.rows.iter().map(|row| row.duplicate.as_f64()).fold(0.0, f64::max)
    }
}

/// State shared by all workers.
#[derive(Debug, Default)]
#[repr(align(128))]
struct State {
    /// Wire packets that are held.
    packets: AtomicU64,
    /// When the link is free.
    clock: AtomicU64,
    /// The time of the first packet plus one; 0: none yet.
    started: AtomicU64,
    /// The route of the last packet.
    route: AtomicU64,
    /// When it departs.
    last: AtomicU64,
}

/// A link by a table.
#[derive(Debug)]
pub struct Replay {
    params: ReplayParams,
    key: StageKey,
    state: Arc<State>,
    /// The part of the link's work that rounding has left for the next packet.
    carried: u64,
}

impl Replay {
    /// The table of `params`, at its beginning.
    pub fn new(params: &ReplayParams, setting: &Setting) -> Self {
        Self { params: params.clone(), key: setting.key, state: setting.shared.state(), carried: 0 }
    }

    /// The index of the row for `now`; `None` after the end.
    fn row(&self, now: Instant) -> Option<usize> {
        let nanos = now.as_nanos();
        let begin = |started: u64| (started == 0).then_some(nanos.saturating_add(1));
        let memory = &self.state.started;
        let started = match memory.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin) {
            Ok(_) => nanos,
            Err(started) => started - 1,
        };
        let (since, period) = (nanos.saturating_sub(started), self.params.period.as_nanos().max(1));
        let at = match self.params.end {
            _ if since < period => since,
            ReplayEnd::Loop => since % period,
            ReplayEnd::Hold => period - 1,
            ReplayEnd::Clear => return None,
        };
        let index = self.params.rows.partition_point(|row| row.from.as_nanos() <= at);
        Some(index.saturating_sub(1))
    }

    fn admit(&self, limit: Option<u64>) -> bool {
        enter(&self.state.packets, 1, limit)
    }

    /// When a packet leaves that comes at `now`.
    fn departure(&mut self, packet: &Packet, row: &ReplayRow, now: Instant) -> Instant {
        let sent = row.rate.map_or(now, |rate| {
            let bytes = packet.wire_length(0).into();
            let turn = |free| Turn::new(rate, free, self.carried, now.as_nanos(), bytes);
            let clock = &self.state.clock;
            let send = |free| Some(turn(free).end);
            let free = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, send).unwrap_or_default();
            let turn = turn(free);
            self.carried = turn.carried;
            turn.left()
        });
        let (latency, jitter) = (row.latency.as_nanos(), row.jitter.as_nanos());
        let word = packet.stream(self.key.part(1)).word(packet.index, 0);
        let offset = (u128::from(word) * (2 * u128::from(jitter) + 1)) >> 64;
        let delay = (u128::from(latency) + offset).saturating_sub(u128::from(jitter));
        let due = sent + Duration::from_nanos(u64::try_from(delay).unwrap_or(u64::MAX));
        self.ordered(row.route, due)
    }

    /// `due`, or the departure of the packet before on the same route if that is later.
    fn ordered(&self, route: u32, due: Instant) -> Instant {
        let last = &self.state.last;
        let same = self.state.route.swap(route.into(), Ordering::AcqRel) == u64::from(route);
        if route == 0 || !same {
            last.store(due.as_nanos(), Ordering::Release);
            return due;
        }
        let before = last.fetch_max(due.as_nanos(), Ordering::AcqRel);
        due.max(Instant::from_nanos(before))
    }
}

impl Stage for Replay {
    /// The index of the row that applies to a packet of which a copy is made.
    type Plan = usize;

    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<usize> {
        let Some(at) = self.row(now) else { return Verdict::new(limit, Action::PASS) };
        let row = self.params.rows[at];
        let hits = |chance, part| Chance::new(chance).hit(packet.stream(self.key.part(part)), packet.index);
        if row.loss > Probability::ZERO && hits(row.loss, 2) {
            return Verdict::new(1, Action::drop(Reason::Loss));
        }
        if row.duplicate > Probability::ZERO && hits(row.duplicate, 3) {
            return Verdict::new(1, Action::Take(at));
        }
        if !self.admit(row.limit) {
            return Verdict::new(1, Action::drop(Reason::Limit));
        }
        Verdict::new(1, Action::hold(self.departure(packet, &row, now)))
    }

    fn take(&mut self, packet: &mut Packet, at: usize, now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        let row = self.params.rows[at];
        if !self.admit(row.limit) {
            return out.drop(packet, Reason::Limit);
        }
        let copy = out.copy(&packet, self.key.salt(1));
        let due = self.departure(&packet, &row, now);
        out.hold(packet, due);
        if self.admit(row.limit) {
            out.hold(copy, due + row.duplicate_delay);
        } else {
            out.drop(copy, Reason::Limit);
        }
    }

    fn released(&mut self, packet: &Packet, _now: Instant) {
        self.state.packets.fetch_sub(packet.wires().into(), Ordering::AcqRel);
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for ReplayParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{duration, probability, rate};
        let chances = (probability(), probability());
        let limit = prop::option::of(1..50_u64);
        let row = (duration(), duration(), duration(), prop::option::of(rate()), chances, limit, 0..3_u32);
        let end = prop::sample::select(vec![ReplayEnd::Loop, ReplayEnd::Hold, ReplayEnd::Clear]);
        (prop::collection::vec(row, 1..5), end)
            .prop_map(|(parts, end)| {
                let mut from = Duration::ZERO;
                let mut rows = Vec::new();
                for (keep, latency, jitter, rate, (loss, duplicate), limit, route) in parts {
                    rows.push(ReplayRow {
                        from,
                        latency,
                        jitter,
                        rate,
                        loss,
                        limit,
                        duplicate,
                        duplicate_delay: jitter,
                        route,
                    });
                    from = from + keep + Duration::from_nanos(1);
                }
                Self { rows: Arc::new(rows), period: from, end }
            })
            .boxed()
    }

    /// One route, and no copies: those come later than what follows their originals. At the end of its table it would let
    /// everything pass.
    fn tame(self) -> Option<Self> {
        let one = |row: &ReplayRow| ReplayRow { route: 1, duplicate: Probability::ZERO, ..*row };
        let rows = Arc::new(self.rows.iter().map(one).collect());
        let end = if self.end == ReplayEnd::Clear { ReplayEnd::Hold } else { self.end };
        Some(Self { rows, end, ..self })
    }

    fn shares_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::units::{Probability, Rate};

    fn row(from: u64, latency: u64) -> ReplayRow {
        ReplayRow {
            from: Duration::from_millis(from),
            latency: Duration::from_millis(latency),
            jitter: Duration::ZERO,
            rate: None,
            loss: Probability::ZERO,
            limit: None,
            duplicate: Probability::ZERO,
            duplicate_delay: Duration::ZERO,
            route: 1,
        }
    }

    /// When packets of 100 bytes that come at these times (ms) leave, in ms.
    fn times(rows: Vec<ReplayRow>, period: u64, end: ReplayEnd, at: &[u64]) -> (Vec<u64>, Run) {
        let params = ReplayParams { rows: Arc::new(rows), period: Duration::from_millis(period), end };
        let mut run = Run::new(vec![stage(ImpairmentParams::Replay(params))]);
        for at in at {
            run.feed(Instant::ZERO + Duration::from_millis(*at), &Spec::udp(72).frame());
        }
        run.finish();
        (run.times().iter().map(|time| time / 1_000_000).collect(), run)
    }

    /// Time begins with the first packet, at 50.
    #[test]
    fn rows_follow_each_other_from_the_first_packet_on() {
        let rows = || vec![row(0, 10), row(100, 20)];
        let at = [50, 149, 150, 249, 250, 350];
        assert_eq!(times(rows(), 200, ReplayEnd::Loop, &at).0, [60, 159, 170, 269, 269, 370]);
        assert_eq!(times(rows(), 200, ReplayEnd::Hold, &at).0, [60, 159, 170, 269, 270, 370]);
        assert_eq!(times(rows(), 200, ReplayEnd::Clear, &at).0, [60, 159, 170, 250, 269, 350]);
    }

    #[test]
    fn order_is_kept_within_a_route_only() {
        let later = |route| ReplayRow { route, ..row(100, 5) };
        let at = [0, 99, 100];
        assert_eq!(times(vec![row(0, 50), later(1)], 200, ReplayEnd::Hold, &at).0, [50, 149, 149]);
        assert_eq!(times(vec![row(0, 50), later(2)], 200, ReplayEnd::Hold, &at).0, [50, 105, 149]);
        assert_eq!(times(vec![row(0, 50), later(0)], 200, ReplayEnd::Hold, &at).0, [50, 105, 149]);
    }

    #[test]
    fn rate_limit_loss_and_copies_are_the_rows() {
        let slow = ReplayRow { rate: Rate::from_bits_per_sec(800_000), limit: Some(3), ..row(0, 10) };
        let (left, run) = times(vec![slow], 1_000, ReplayEnd::Hold, &[0, 0, 0, 0, 20]);
        assert_eq!((left, run.dropped(Reason::Limit)), (vec![11, 12, 13, 31], 1));
        let lossy = ReplayRow { loss: Probability::ONE, ..row(100, 0) };
        let (left, run) = times(vec![row(0, 1), lossy], 200, ReplayEnd::Hold, &[0, 150]);
        assert_eq!((left, run.dropped(Reason::Loss)), (vec![1], 1));
        let twice =
            ReplayRow { duplicate: Probability::ONE, duplicate_delay: Duration::from_millis(7), ..row(0, 3) };
        let (left, run) = times(vec![twice], 200, ReplayEnd::Hold, &[0]);
        assert_eq!((left, run.stage(0).created.packets), (vec![3, 10], 1));
        let later = ReplayRow { from: Duration::from_millis(100), ..twice };
        let (left, _) = times(vec![row(0, 1), later], 200, ReplayEnd::Hold, &[0, 150]);
        assert_eq!(left, [1, 153, 160]);
    }
}
