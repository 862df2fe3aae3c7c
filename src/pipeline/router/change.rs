//! Changing the paths of a router while packets are under way.
//!
//! A stage that stays as it is keeps all its state. One whose parameters change begins anew under its old name: draws are those of
//! its key, the flow and the packet's index, so they do not shift. If a stage that changes or goes holds packets, these leave first, by
//! the stages that they know; what comes meanwhile waits in front of the path. So no packet is lost, overtaken or decided about
//! twice because of a change.

use super::{Egress, Event, Router, SharedState, add_returns, build};
use crate::pipeline::aim::flow::FlowTable;
use crate::pipeline::counters::{Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{ImpairmentParams, PathParams, RouterParams, StageParams, growth, limits};
use crate::pipeline::router::path::{Entry, Path, Survives};
use crate::pipeline::time::Instant;

/// What cannot be changed while packets are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Ports, routes, translators, seed, or which pairs of ports have paths.
    #[error(
        "only the stages of the paths that there are can change while packets are under way (and a stage that works in both \
         directions needs a path in each)"
    )]
    Fixed,
    /// A place of a translator.
    #[error(
        "a stage of type nat can be neither added, changed, moved nor removed while packets are under way"
    )]
    Translator,
    /// Stages of a path that shares a link with others.
    #[error("the stages of paths that share a link cannot change while packets are under way")]
    Shared,
    /// More stages than a path has room for.
    #[error("a path has at most {} stages", limits::STAGES)]
    Long,
    /// Copies of copies.
    #[error("the stages of a path would make more than {} packets of one on average", limits::GROWTH)]
    Copies,
}

/// Paths for one worker's router in place of those that it has: made ready elsewhere, so that it costs the worker little.
#[derive(Debug)]
pub struct Change {
    /// Those of the configuration.
    paths: Vec<Path>,
    /// What the router has given up.
    ended: Vec<Path>,
    /// No stage goes on, not even one that stays as it is.
    renews: bool,
}

impl Change {
    /// From `old`, which the router was built from or changed to last, to `new`. All workers' changes are made with the same `shared`,
    /// which is that of `new`.
    ///
    /// # Errors
    /// If something else than stages differs.
    pub fn new(old: &RouterParams, new: &RouterParams, shared: &SharedState) -> Result<Self, ChangeError> {
        let bare = |params: &RouterParams| {
            let mut bare = params.clone();
            bare.paths.iter_mut().for_each(|path| path.stages.clear());
            bare
        };
        if bare(old) != bare(new) {
            return Err(ChangeError::Fixed);
        }
        if places(old) != places(new) {
            return Err(ChangeError::Translator);
        }
        if new.paths.iter().any(|path| path.stages.len() > limits::STAGES) {
            return Err(ChangeError::Long);
        }
        let grows = |path: &PathParams| {
            path.stages.iter().any(|stage| growth(&path.stages, stage.trigger.phase) > limits::GROWTH)
        };
        if new.paths.iter().any(grows) {
            return Err(ChangeError::Copies);
        }
        // The queue of a shared link lives in one path, and the seats of the others lead there.
        let has_share = |path: &PathParams| path.stages.iter().any(|stage| stage.share().is_some());
        let mut changed = old.paths.iter().zip(&new.paths).filter(|(old, new)| old.stages != new.stages);
        if changed.any(|(old, new)| has_share(old) || has_share(new)) {
            return Err(ChangeError::Shared);
        }
        let (mut paths, _) = build(new, shared, FlowTable::capacity_for(new.flows));
        // A path that leads back, and no pair had before, would change the route of flows that are known.
        let ends = |paths: &[Path]| paths.iter().map(|path| (path.from, path.to)).collect::<Vec<_>>();
        if ends(&build(old, &Router::shared(old), 1).0) != ends(&paths) {
            return Err(ChangeError::Fixed);
        }
        paths.truncate(new.paths.len());
        Ok(Self { paths, ended: Vec::new(), renews: false })
    }

    /// The same change, but also stages that stay as they are begin anew.
    #[must_use]
    pub fn renewing(self) -> Self {
        Self { renews: true, ..self }
    }
}

/// The places of translators in each path.
fn places(params: &RouterParams) -> Vec<Vec<(usize, &StageParams)>> {
    let is_nat = |(_, stage): &(usize, &StageParams)| matches!(stage.impairment, ImpairmentParams::Nat(_));
    params.paths.iter().map(|path| path.stages.iter().enumerate().filter(is_nat).collect()).collect()
}

impl Router {
    /// Puts the paths of `change` in place of those that there are, each as soon as the stages that end hold nothing. What the
    /// router gives up is left in `change`, to be dropped elsewhere.
    pub fn change<E: Egress>(&mut self, change: &mut Change, now: Instant, egress: &mut E) {
        // What is due has met the old stages.
        self.poll(now, egress);
        change.ended.append(&mut self.ended);
        for (number, new) in std::mem::take(&mut change.paths).into_iter().enumerate() {
            let path = &mut self.paths[number];
            let superseded = path.entry.pending.take();
            if superseded.is_none() && path.stages == new.stages && !change.renews {
                change.ended.push(new);
            } else {
                // Another worker may have carried out already what still waits here. What ended there ends here too, or the workers
                // would share the state of a stage with each other no more.
                if let Some(superseded) = &superseded {
                    path.survive(&superseded.stages);
                }
                if change.renews {
                    path.survive(&[]);
                }
                path.entry.pending = Some(Box::new(new));
                change.ended.extend(superseded.map(|superseded| *superseded));
            }
            self.enter(number as u16, now, egress);
        }
        change.ended.append(&mut self.ended);
    }

    /// From now on nothing enters path `number`, or what waits in front of it does.
    pub fn freeze<E: Egress>(&mut self, number: u16, is_frozen: bool, now: Instant, egress: &mut E) {
        self.poll(now, egress);
        self.paths[usize::from(number)].entry.is_frozen = is_frozen;
        self.enter(number, now, egress);
    }

    /// Carries out a change of path `number` that can be by now, and lets enter what waits in front of the path if nothing speaks
    /// against it any more.
    pub(super) fn enter<E: Egress>(&mut self, number: u16, now: Instant, egress: &mut E) {
        let path = &mut self.paths[usize::from(number)];
        if let Some(new) = path.entry.pending.take() {
            if may_become(path, &new) {
                self.switch(number, *new);
            } else {
                path.entry.pending = Some(new);
            }
        }
        let path = &mut self.paths[usize::from(number)];
        path.look();
        if path.entry.is_frozen || path.entry.pending.is_some() {
            return;
        }
        let queue = std::mem::take(&mut path.entry.queue);
        path.look();
        for mut packet in queue {
            self.release(&packet);
            packet.set_waited();
            self.run(&mut packet, 0, now, egress);
            self.pool.give(packet.into_buffer());
        }
    }

    /// Path `number` becomes `new`, with what goes on of it.
    fn switch(&mut self, number: u16, mut new: Path) {
        let path = &mut self.paths[usize::from(number)];
        std::mem::swap(path, &mut new);
        let mut old = new;
        path.entry = std::mem::take(&mut old.entry);
        let survives = std::mem::take(&mut path.entry.survives);
        let survives = |at: usize| survives.get(at).copied().unwrap_or_default();
        let mut seats = vec![None; old.seats.len()];
        for (at, stage) in path.stages.iter().enumerate() {
            let Some(before) = old.stages.iter().position(|known| known.name == stage.name) else { continue };
            let survives = survives(before);
            if survives.stage && old.stages[before] == *stage {
                std::mem::swap(&mut path.seats[at], &mut old.seats[before]);
                seats[before] = Some(at as u16);
                continue;
            }
            path.seats[at].counters = old.seats[before].counters;
            if survives.gate && has_same_gate(&old.stages[before], stage) {
                std::mem::swap(&mut path.seats[at].gate, &mut old.seats[before].gate);
            }
        }
        self.schedule.change(|_, rank, event| {
            match event {
                Event::Resume(packet) if packet.path == number => {
                    // Only stages that go on hold anything.
                    packet.seat = seats[usize::from(packet.seat)].unwrap_or(packet.seat);
                }
                Event::Wake(at) if at.path == number => match seats[usize::from(at.seat)] {
                    Some(seat) => at.seat = seat,
                    None => *event = Event::Nothing,
                },
                _ => return,
            }
            *rank = event.rank();
        });
        self.ended.push(old);
        self.renew_returns();
    }

    /// The second seats of stages that work in both directions, for the stages that there are now.
    fn renew_returns(&mut self) {
        let mut counted: Vec<(usize, String, StageCounters)> = Vec::new();
        for (number, path) in self.paths.iter_mut().enumerate() {
            let backs = path.seats.drain(path.stages.len()..);
            counted.extend(backs.map(|seat| (number, seat.name, seat.counters)));
        }
        let configured = self.paths.iter().take_while(|path| path.is_configured).count();
        add_returns(configured, &mut self.pairs, &mut self.paths);
        for (number, path) in self.paths.iter_mut().enumerate() {
            for seat in &mut path.seats[path.stages.len()..] {
                let known = counted.iter().find(|(of, name, _)| (*of, name) == (number, &seat.name));
                seat.counters = known.map_or(seat.counters, |(.., counters)| *counters);
            }
        }
    }

    /// A packet or train that may not enter its path yet.
    #[inline(never)]
    pub(super) fn wait_to_enter<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        let path = packet.path;
        if self.paths[usize::from(path)].entry.queue.len() >= Entry::MOST {
            return self.drop_whole(packet, None, Reason::Limit, now, egress);
        }
        let packet = packet.take(&mut self.pool);
        self.held += packet.amount();
        self.paths[usize::from(path)].entry.queue.push_back(packet);
    }

    /// Lets all enter that waits in front of paths, whatever it waits for.
    pub(super) fn open_all<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        for number in 0..self.paths.len() {
            let entry = &mut self.paths[number].entry;
            entry.is_frozen = false;
            self.ended.extend(entry.pending.take().map(|pending| *pending));
            self.enter(number as u16, now, egress);
        }
    }
}

/// Whether the gates of two stages let the same packets through.
fn has_same_gate(one: &StageParams, other: &StageParams) -> bool {
    (&one.select, &one.trigger) == (&other.select, &other.trigger)
}

impl Path {
    /// Of the stages that there are, only those that are also in `stages` may go on in a later change.
    fn survive(&mut self, stages: &[StageParams]) {
        self.entry.survives.resize(self.stages.len(), Survives::default());
        for (own, survives) in self.stages.iter().zip(&mut self.entry.survives) {
            let other = stages.iter().find(|other| other.name == own.name);
            survives.stage &= other == Some(own);
            survives.gate &= other.is_some_and(|other| has_same_gate(own, other));
        }
    }
}

/// Whether `path` can become `new` now: what its stages hold is held by such as go on, in the same order.
fn may_become(path: &Path, new: &Path) -> bool {
    if path.is_empty() {
        return true;
    }
    let survives = |at: usize| path.entry.survives.get(at).copied().unwrap_or_default().stage;
    let place = |(at, stage): (usize, &StageParams)| {
        new.stages.iter().position(|other| other == stage).filter(|_| survives(at))
    };
    let places: Vec<_> = path.stages.iter().enumerate().map(place).collect();
    let goes_on = path.seats.iter().zip(&places).all(|(seat, place)| seat.held == 0 || place.is_some());
    goes_on && places.iter().flatten().is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::pipeline::counters::Amount;
    use crate::pipeline::params::Trigger;
    use crate::pipeline::testing::{Run, Spec, Wire};
    use crate::pipeline::time::Duration;
    use proptest::prelude::*;

    fn params(text: &str) -> RouterParams {
        Run::params(1, named(text))
    }

    /// Stages of several specs, named after their place.
    fn named(text: &str) -> Vec<StageParams> {
        let parse = |(at, text): (usize, &str)| {
            let mut stages = spec::parse(text).unwrap_or_else(|error| panic!("{error}")).stages;
            for (number, stage) in stages.iter_mut().enumerate() {
                stage.name = format!("s{at}.{number}");
            }
            stages
        };
        text.split('|').enumerate().flat_map(parse).collect()
    }

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Packet `number` of one of three connections: its payload says which.
    fn packet(number: u32) -> Spec {
        let payload = number.to_be_bytes().repeat(25);
        Spec { source_port: 4000 + (number % 3) as u16, payload, ..Spec::udp(0) }
    }

    fn number(wire: &Wire) -> u32 {
        let end = wire.bytes.len();
        u32::from_be_bytes(wire.bytes[end - 4..].try_into().unwrap())
    }

    /// A packet every 300 us, and before each `change` with its number.
    fn load(run: &mut Run, packets: u32, mut change: impl FnMut(&mut Run, u32)) {
        for at in 0..packets {
            let now = Instant::ZERO + Duration::from_micros(300 * u64::from(at));
            run.advance(now);
            change(run, at);
            run.feed(now, &packet(at).frame());
        }
        run.finish();
        assert_eq!(run.router.held(), Amount::default());
    }

    /// Packets of each connection leave in the order in which they came.
    fn assert_in_order(wires: &[Wire]) {
        let mut last = [None; 3];
        for wire in wires {
            let number = number(wire);
            let last = &mut last[number as usize % 3];
            assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
            *last = Some(number);
        }
    }

    const PATHS: [&str; 12] = [
        "delay 5ms",
        "delay 20ms",
        "delay 5ms 2ms",
        "rate 3mbit|delay 2ms",
        "rate 30mbit limit 10000|delay 2ms",
        "delay 3ms loss 20%",
        "loss 20% 50%|delay 2ms|mtu 1400 icmp",
        "delay 2ms duplicate 10%",
        "mss 1360|delay 5ms",
        "",
        "delay 1ms rate 5mbit",
        "loss gemodel 5% 20%|delay 4ms|delay 1ms",
    ];

    proptest! {
        // Each case is some hundred packets.
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// A change of nothing changes nothing: the same bytes at the same times, and the same counters.
        #[test]
        fn a_change_of_nothing_changes_nothing(path in 0..PATHS.len(), every in 1..40_u32) {
            let params = params(PATHS[path]);
            let mut plain = Run::built(&params);
            load(&mut plain, 250, |_, _| {});
            let mut changed = Run::built(&params);
            load(&mut changed, 250, |run, at| {
                if at % every == 0 {
                    run.change(&params, &params);
                }
            });
            prop_assert_eq!(plain.wires(), changed.wires());
            prop_assert_eq!(plain.router.counters(), changed.router.counters());
            let seats = |run: &Run| run.router.paths()[0].seats.iter().map(|seat| seat.counters).collect::<Vec<_>>();
            prop_assert_eq!(seats(&plain), seats(&changed));
        }

        /// Whatever is changed into whatever, again and again under load: nothing is lost but by loss that is asked for, nothing
        /// overtakes, and all is accounted for (which `Run` checks at each step).
        #[test]
        fn changes_lose_and_reorder_nothing(steps in proptest::collection::vec(0..PATHS.len(), 1..60), every in 1..20_u32) {
            let mut current = params(PATHS[0]);
            let mut run = Run::built(&current);
            let mut steps = steps.into_iter().cycle();
            let mut lossy = false;
            load(&mut run, 400, |run, at| {
                if at % every == 0 {
                    let text = PATHS[steps.next().unwrap()];
                    lossy |= text.contains("loss");
                    let next = params(text);
                    run.change(&current, &next);
                    current = next;
                }
            });
            let drops = run.router.counters().drops;
            prop_assert_eq!(drops.total(), drops.of(Reason::Loss), "{:?}", drops);
            prop_assert!(lossy || drops.total().packets == 0);
            let mut seen = std::collections::HashSet::new();
            let originals: Vec<Wire> = run.wires().into_iter().filter(|wire| seen.insert(number(wire))).collect();
            assert_in_order(&originals);
        }
    }

    /// A thousand changes of the stage before it shift no draw of a loss.
    #[test]
    fn a_stage_that_stays_draws_the_same() {
        let paths = ["delay 1ms|loss 10%", "delay 2ms|loss 10%"].map(params);
        let left = |change: bool| {
            let mut run = Run::built(&paths[0]);
            load(&mut run, 1000, |run, at| {
                if change {
                    let at = at as usize;
                    run.change(&paths[at % 2], &paths[(at + 1) % 2]);
                }
            });
            assert_in_order(&run.wires());
            run.wires().iter().map(number).collect::<Vec<_>>()
        };
        let plain = left(false);
        assert!((850..950).contains(&plain.len()), "{}", plain.len());
        assert_eq!(plain, left(true));
    }

    /// What is held has met its stages: not again, and not those that were put before it.
    #[test]
    fn what_is_held_meets_no_stage_twice() {
        let mut run = Run::built(&params("|delay 50ms"));
        run.feed(ms(0), &packet(0).frame());
        run.change(&params("|delay 50ms"), &params("loss 100%|delay 80ms"));
        run.feed(ms(1), &packet(1).frame());
        assert_eq!(run.router.held().packets, 2);
        run.finish();
        assert_eq!(run.times(), [50_000_000]);
        assert_eq!(run.dropped(Reason::Loss), 1);
    }

    /// A shorter delay is that of new packets, which do not overtake the old ones.
    #[test]
    fn counters_go_on_and_new_packets_meet_the_new_stage() {
        let (old, new) = (params("delay 50ms"), params("delay 10ms"));
        let mut run = Run::built(&old);
        run.feed(ms(0), &packet(0).frame());
        run.change(&old, &new);
        run.feed(ms(1), &packet(1).frame());
        run.feed(ms(200), &packet(2).frame());
        run.finish();
        assert_eq!(run.times(), [50_000_000, 60_000_000, 210_000_000]);
        assert_eq!(run.stage(0).seen.packets, 3);
        assert_eq!(run.stage(0).delayed.packets, 3);
    }

    /// What is held leaves in order, and a change that follows takes effect with the next packet.
    #[test]
    fn a_flush_lets_go_and_the_stages_stay() {
        let (old, new) = (params("rate 1mbit limit 100|delay 10s"), params("delay 10ms"));
        let mut run = Run::built(&old);
        for at in 0..20 {
            run.feed(ms(u64::from(at)), &packet(at).frame());
        }
        run.flush();
        assert_eq!((run.wires().len(), run.router.held().packets), (20, 0));
        run.feed(ms(60_000), &packet(20).frame());
        assert_eq!(run.router.held().packets, 1);
        run.flush();
        run.change(&old, &new);
        run.feed(ms(80_000), &packet(21).frame());
        run.finish();
        // The last one met the new stage.
        assert_eq!((run.wires().len(), run.times()[21]), (22, 80_010_000_000));
        assert_in_order(&run.wires());
    }

    /// What is flushed meets the stages behind at times that have not come yet. A link that stays must not wait for them.
    #[test]
    fn a_link_that_stays_is_free_after_a_flush() {
        let (old, new) = (params("delay 60s|rate 8mbit limit 100"), params("|rate 8mbit limit 100"));
        let mut run = Run::built(&old);
        for at in 0..20 {
            run.feed(ms(u64::from(at)), &packet(at).frame());
        }
        run.flush();
        assert_eq!(run.router.held().packets, 0);
        run.change_to(Change::new(&old, &new, &Router::shared(&new)).unwrap().renewing());
        run.feed(ms(30), &packet(20).frame());
        run.finish();
        let sent = run.times()[20];
        assert!((30_000_000..31_000_000).contains(&sent), "{sent}");
    }

    /// A change and its reverse, of which one worker makes both at once and the other, whose stages hold packets, later: they share
    /// the clock of one link afterwards as before.
    #[test]
    fn workers_share_a_link_after_a_change_and_back() {
        for between in ["delay 50ms|mtu 1400", "delay 50ms|rate 4mbit limit 100"] {
            let (with, without) = (params("delay 50ms|rate 8mbit limit 100"), params(between));
            let shared = Router::shared(&with);
            let [mut idle, mut busy] = [(); 2].map(|()| Run::worker(&with, &shared));
            busy.feed(ms(0), &packet(0).frame());
            busy.advance(ms(50));
            assert_eq!(busy.router.held().packets, 1, "on the link");
            for (old, new) in [(&with, &without), (&without, &with)] {
                let shared = Router::shared(new);
                for run in [&mut idle, &mut busy] {
                    run.advance(ms(50));
                    run.change_to(Change::new(old, new, &shared).unwrap());
                }
            }
            for run in [&mut idle, &mut busy] {
                run.feed(ms(100), &packet(3).frame());
                run.finish();
            }
            let [one, other] = [idle.times(), busy.times()].map(|times| *times.last().unwrap());
            assert_eq!(other - one, u64::from(packet(3).frame().bytes.len() as u32) * 1_000, "{between}");
        }
    }

    #[test]
    fn a_frozen_path_holds_and_releases_in_order() {
        let params = params("delay 5ms");
        let mut run = Run::built(&params);
        run.feed(ms(0), &packet(0).frame());
        run.freeze(true);
        for at in 1..50 {
            run.feed(ms(u64::from(at)), &packet(at).frame());
        }
        // Also across a change.
        run.change(&params, &params);
        assert_eq!((run.times(), run.router.held().packets), (vec![5_000_000], 49));
        run.advance(ms(100));
        run.freeze(false);
        run.feed(ms(101), &packet(50).frame());
        run.finish();
        assert_in_order(&run.wires());
        assert_eq!(run.wires().len(), 51);
        assert_eq!(run.times()[1..3], [105_000_000; 2]);
        // What waits at the end is accounted for.
        run.freeze(true);
        run.feed(ms(300), &packet(51).frame());
        run.shut_down();
        assert_eq!(run.dropped(Reason::Shutdown), 1);
    }

    #[test]
    fn what_cannot_change_is_refused() {
        let old = params("delay 1ms");
        let refused = |new: &RouterParams| Change::new(&old, new, &Router::shared(new)).unwrap_err();
        for new in [
            RouterParams { seed: 2, ..old.clone() },
            RouterParams { paths: Vec::new(), ..old.clone() },
            RouterParams { ports: old.ports[..1].to_vec(), ..old.clone() },
        ] {
            assert_eq!(refused(&new), ChangeError::Fixed);
        }
        let many = (0..=limits::STAGES).map(|at| StageParams {
            name: format!("s{at}"),
            trigger: Trigger::default(),
            ..old.paths[0].stages[0].clone()
        });
        let mut long = old.clone();
        long.paths[0].stages = many.collect();
        assert_eq!(refused(&long), ChangeError::Long);
        // Two to the power of 14.
        assert_eq!(refused(&params(&["duplicate 100%"; 14].join("|"))), ChangeError::Copies);
    }
}
