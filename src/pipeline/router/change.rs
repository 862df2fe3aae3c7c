//! Changing the paths of a router while packets are under way.
//!
//! A stage that stays as it is keeps all its state. One whose parameters change begins anew under its old name: draws are those of
//! its key, the flow and the packet's index, so they do not shift. If a stage that changes or goes holds packets, these leave first, by
//! the stages that they know; what comes meanwhile waits in front of the path. So no packet is lost, overtaken or decided about
//! twice because of a change.

use std::sync::Arc;

use super::{Egress, Event, Router, SharedState, add_returns, build};
use crate::pipeline::aim::flow::FlowTable;
use crate::pipeline::counters::{Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{PathParams, RouterParams, SeatParams, growth, limits};
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
    pub(super) paths: Vec<Path>,
    /// What the router has given up.
    ended: Vec<Path>,
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
            bare.paths.iter_mut().for_each(|path| path.seats.clear());
            bare
        };
        if bare(old) != bare(new) {
            return Err(ChangeError::Fixed);
        }
        if places(old) != places(new) {
            return Err(ChangeError::Translator);
        }
        if new.paths.iter().any(|path| path.seats.len() > limits::STAGES) {
            return Err(ChangeError::Long);
        }
        let grows = |path: &PathParams| {
            path.stages().any(|stage| growth(path.stages(), stage.trigger.phase) > limits::GROWTH)
        };
        if new.paths.iter().any(grows) {
            return Err(ChangeError::Copies);
        }
        // The queue of a shared link lives in one path, and the seats of the others lead there.
        let has_share = |path: &PathParams| path.stages().any(|stage| stage.share().is_some());
        let mut changed = old.paths.iter().zip(&new.paths).filter(|(old, new)| old.seats != new.seats);
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
        Ok(Self { paths, ended: Vec::new() })
    }
}

/// The places of translators in each path.
fn places(params: &RouterParams) -> Vec<Vec<(usize, &SeatParams)>> {
    let is_translator = |(_, seat): &(usize, &SeatParams)| seat.stage().is_none();
    params.paths.iter().map(|path| path.seats.iter().enumerate().filter(is_translator).collect()).collect()
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
            if superseded.is_none() && path.params == new.params {
                change.ended.push(new);
            } else {
                // Another worker may have carried out already what still waits here. What ended there ends here too, or the workers
                // would share the state of a stage with each other no more.
                if let Some(superseded) = &superseded {
                    path.survive(&superseded.params);
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
        for (at, seat) in path.params.iter().enumerate() {
            let Some(before) = old.params.iter().position(|known| known.name() == seat.name()) else {
                continue;
            };
            let survives = survives(before);
            if survives.stage && old.params[before] == *seat {
                std::mem::swap(&mut path.seats[at], &mut old.seats[before]);
                seats[before] = Some(at as u16);
                continue;
            }
            path.seats[at].counters = old.seats[before].counters;
            if survives.gate && has_same_gate(&old.params[before], seat) {
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
        let mut counted: Vec<(usize, Arc<str>, StageCounters)> = Vec::new();
        for (number, path) in self.paths.iter_mut().enumerate() {
            let backs = path.seats.drain(path.params.len()..);
            counted.extend(backs.map(|seat| (number, seat.name, seat.counters)));
        }
        let configured = self.paths.iter().take_while(|path| path.is_configured).count();
        add_returns(configured, &mut self.pairs, &mut self.paths);
        for (number, path) in self.paths.iter_mut().enumerate() {
            for seat in &mut path.seats[path.params.len()..] {
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

/// Whether the gates of two seats let the same packets through.
fn has_same_gate(one: &SeatParams, other: &SeatParams) -> bool {
    match (one, other) {
        (SeatParams::Stage(one), SeatParams::Stage(other)) => {
            (&one.select, &one.trigger) == (&other.select, &other.trigger)
        }
        _ => one.stage().is_none() && other.stage().is_none(),
    }
}

impl Path {
    /// Of the seats that there are, only those that are also in `seats` may go on in a later change.
    fn survive(&mut self, seats: &[SeatParams]) {
        self.entry.survives.resize(self.params.len(), Survives::default());
        for (own, survives) in self.params.iter().zip(&mut self.entry.survives) {
            let other = seats.iter().find(|other| other.name() == own.name());
            survives.stage &= other == Some(own);
            survives.gate &= other.is_some_and(|other| has_same_gate(own, other));
        }
    }

    /// For each of its own seats its place in `new`, if it goes on there.
    pub(super) fn successors(&self, new: &Self) -> impl Iterator<Item = Option<usize>> {
        let survives = |at: usize| self.entry.survives.get(at).copied().unwrap_or_default().stage;
        self.params
            .iter()
            .enumerate()
            .map(move |(at, seat)| new.params.iter().position(|other| other == seat).filter(|_| survives(at)))
    }
}

/// Whether `path` can become `new` now: what its stages hold is held by such as go on, in the same order.
fn may_become(path: &Path, new: &Path) -> bool {
    if path.is_empty() {
        return true;
    }
    let places: Vec<_> = path.successors(new).collect();
    let goes_on = path.seats.iter().zip(&places).all(|(seat, place)| seat.held == 0 || place.is_some());
    goes_on && places.iter().flatten().is_sorted()
}

#[cfg(test)]
mod tests;
