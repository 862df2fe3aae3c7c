//! Changing the paths of a router while it forwards packets.
//!
//! A stage that stays as it is keeps all its state. A stage whose parameters change starts again under its old name. Draws depend on
//! the stage's key, the flow and the packet's index, so they do not shift. If a stage that changes or is removed holds packets, these
//! packets leave first, through the old stages. New packets wait in front of the path meanwhile. So no packet is lost, overtaken or
//! decided about twice because of a change.

use std::sync::Arc;

use super::{Egress, Event, Router, SharedState, add_returns, build};
use crate::pipeline::aim::flow::FlowTable;
use crate::pipeline::counters::{Reason, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{PathParams, RouterParams, SeatParams, growth, limits};
use crate::pipeline::router::path::{Entry, Path, Survives};
use crate::pipeline::time::Instant;

/// Why a router cannot be changed while it forwards packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Ports, routes, translators, seed, or which pairs of ports have paths.
    #[error(
        "only the stages of the paths that there are can change while packets are under way (and a stage that works in both \
         directions needs a path in each)"
    )]
    Fixed,
    /// The seat of a translator.
    #[error(
        "a stage of type nat can be neither added, changed, moved nor removed while packets are under way"
    )]
    Translator,
    /// Stages of a path that shares a link with others.
    #[error("the stages of paths that share a link cannot change while packets are under way")]
    Shared,
    /// More stages than a path may have.
    #[error("a path has at most {} stages", limits::STAGES)]
    Long,
    /// Stages that make copies of copies.
    #[error("the stages of a path would make more than {} packets of one on average", limits::GROWTH)]
    Copies,
}

/// New paths for one worker's router. They are built on another thread, so that the change costs the worker little time.
#[derive(Debug)]
pub struct Change {
    /// The new paths of the configuration.
    pub(super) paths: Vec<Path>,
    /// Old paths that the router has replaced.
    ended: Vec<Path>,
}

impl Change {
    /// A change from `old`, from which the router was built or to which it was changed last, to `new`. The changes of all workers are
    /// built with the same `shared`, which belongs to `new`.
    ///
    /// # Errors
    /// If anything but stages differs.
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
        // The queue of a shared link is in one path, and the seats of the other paths refer to it.
        let has_share = |path: &PathParams| path.stages().any(|stage| stage.share().is_some());
        let mut changed = old.paths.iter().zip(&new.paths).filter(|(old, new)| old.seats != new.seats);
        if changed.any(|(old, new)| has_share(old) || has_share(new)) {
            return Err(ChangeError::Shared);
        }
        let (mut paths, _) = build(new, shared, FlowTable::capacity_for(new.flows));
        // A path for a pair of ports that had none would change the route of known flows.
        let ends = |paths: &[Path]| paths.iter().map(|path| (path.from, path.to)).collect::<Vec<_>>();
        if ends(&build(old, &Router::shared(old), 1).0) != ends(&paths) {
            return Err(ChangeError::Fixed);
        }
        paths.truncate(new.paths.len());
        Ok(Self { paths, ended: Vec::new() })
    }
}

/// The seats of translators in each path.
fn places(params: &RouterParams) -> Vec<Vec<(usize, &SeatParams)>> {
    let is_translator = |(_, seat): &(usize, &SeatParams)| seat.stage().is_none();
    params.paths.iter().map(|path| path.seats.iter().enumerate().filter(is_translator).collect()).collect()
}

impl Router {
    /// Replaces the paths by those of `change`, each path as soon as the stages that end hold nothing. The old paths are left in
    /// `change`, to be dropped on another thread.
    pub fn change<E: Egress>(&mut self, change: &mut Change, now: Instant, egress: &mut E) {
        // Packets that are due pass the old stages.
        self.poll(now, egress);
        change.ended.append(&mut self.ended);
        for (number, new) in std::mem::take(&mut change.paths).into_iter().enumerate() {
            let path = &mut self.paths[number];
            let superseded = path.entry.pending.take();
            if superseded.is_none() && path.params == new.params {
                change.ended.push(new);
            } else {
                // Another worker may already have carried out a change that still waits here. A stage that ended there must end here
                // too. Otherwise the workers would no longer share the state of that stage.
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

    /// Closes the entry of path `number`, or opens it and lets the waiting packets enter.
    pub fn freeze<E: Egress>(&mut self, number: u16, is_frozen: bool, now: Instant, egress: &mut E) {
        self.poll(now, egress);
        self.paths[usize::from(number)].entry.is_frozen = is_frozen;
        self.enter(number, now, egress);
    }

    /// Carries out the pending change of path `number`, if this is possible now. Then lets waiting packets enter the path, if its
    /// entry is open.
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

    /// Path `number` becomes `new` and keeps its stages that continue.
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
                    // Only stages that continue hold packets.
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

    /// Renews the second seats of stages that work in both directions, for the present stages.
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

    /// Lets all packets that wait in front of paths enter, whatever they wait for.
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
    /// Of the present seats, only those that are also in `seats` may continue in a later change.
    fn survive(&mut self, seats: &[SeatParams]) {
        self.entry.survives.resize(self.params.len(), Survives::default());
        for (own, survives) in self.params.iter().zip(&mut self.entry.survives) {
            let other = seats.iter().find(|other| other.name() == own.name());
            survives.stage &= other == Some(own);
            survives.gate &= other.is_some_and(|other| has_same_gate(own, other));
        }
    }

    /// For each of the path's own seats its index in `new`, if it continues there.
    pub(super) fn successors(&self, new: &Self) -> impl Iterator<Item = Option<usize>> {
        let survives = |at: usize| self.entry.survives.get(at).copied().unwrap_or_default().stage;
        self.params
            .iter()
            .enumerate()
            .map(move |(at, seat)| new.params.iter().position(|other| other == seat).filter(|_| survives(at)))
    }
}

/// Whether `path` can become `new` now: only stages that continue, in the same order, hold packets.
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
