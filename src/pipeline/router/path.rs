//! One direction between two ports: its stages, each behind its gate, and their counters.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::pipeline::aim::gate::Gate;
use crate::pipeline::counters::{Reason, StageCounters};
use crate::pipeline::impair::{Impairment, Setting};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{NatPlace, PathParams, Phase, SeatParams};
use crate::pipeline::random::rng::{Draw, StageKey};
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Emission, Stage};
use crate::pipeline::time::Instant;

/// Which seat of which path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId {
    /// Index of the path in [`crate::pipeline::router::Router::paths`].
    pub path: u16,
    /// Index in [`Path::seats`].
    pub seat: u16,
}

/// What a packet meets at a seat.
#[derive(Debug)]
pub(crate) enum Occupant {
    /// A stage.
    Stage(Impairment),
    /// The other direction of a stage at that seat of the opposite path. Both directions of a connection belong to one worker, so
    /// both seats do, too.
    Back(SeatId),
    /// The queue of a link that several paths share: it is at that seat.
    Guest(SeatId),
    /// A translator, which belongs to the router and is asked at this seat.
    Translator(NatPlace),
}

impl Occupant {
    /// The stage at this seat.
    pub(crate) const fn stage(&self) -> Option<&Impairment> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Back(_) | Self::Guest(_) | Self::Translator(_) => None,
        }
    }

    /// As [`Self::stage`], to be called.
    #[inline]
    pub(crate) const fn stage_mut(&mut self) -> Option<&mut Impairment> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Back(_) | Self::Guest(_) | Self::Translator(_) => None,
        }
    }
}

/// What the copies of a seat on all workers share.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedSeat {
    /// Of its stage; of a link that several paths share, theirs too.
    pub(crate) stage: Shared,
    /// Of its gate, of this path alone.
    pub(crate) gate: Shared,
}

/// A place in a path: its stage or translator, its gate, and its counters.
#[derive(Debug)]
pub struct Seat {
    /// Its name in reports, which share it.
    pub name: Arc<str>,
    /// What it did.
    pub counters: StageCounters,
    pub(crate) gate: Gate,
    pub(crate) occupant: Occupant,
    /// Wire packets that wait here.
    pub(crate) held: u64,
    /// Packets of several seats wait with the stage that lives here.
    pub(crate) has_guests: bool,
    /// Reused by the stage's outlet.
    pub(crate) emissions: Vec<Emission>,
}

impl Seat {
    /// Nothing has happened there yet.
    fn new(name: &str, gate: Gate, occupant: Occupant) -> Self {
        Self {
            name: name.into(),
            counters: StageCounters::default(),
            gate,
            occupant,
            held: 0,
            has_guests: false,
            emissions: Vec::new(),
        }
    }

    /// The draw that decided that the first wire packet of `packet` is dropped for `reason`, if one did.
    pub(crate) fn drawn(&self, reason: Reason, packet: &Packet) -> Option<Draw> {
        match reason {
            Reason::Loss => self.occupant.stage()?.drawn(packet),
            Reason::Drop => self.gate.drawn(packet),
            _ => None,
        }
    }

    /// A packet that waited here goes on.
    #[inline]
    pub(crate) fn released(&mut self, packet: &Packet, now: Instant) {
        if let Some(stage) = self.occupant.stage_mut() {
            stage.released(packet, now);
        }
    }

    /// The other direction of the stage `name` that lives at `home`.
    pub(crate) fn back(name: &str, home: SeatId) -> Self {
        Self::new(&format!("{name}/back"), Gate::open(), Occupant::Back(home))
    }
}

/// The seats that packets pass from one port to another.
#[derive(Debug)]
pub struct Path {
    /// Index of the port they come in by.
    pub from: u16,
    /// Index of the port they leave by.
    pub to: u16,
    /// In order.
    pub seats: Vec<Seat>,
    /// The phases that its stages name.
    phases: Vec<Phase>,
    translator: Option<(usize, NatPlace)>,
    pub(crate) entry: Entry,
    /// There is something to look at before a packet enters: phases, or a closed entry.
    pub(crate) looks_first: bool,
    /// The configuration names it, with stages or without.
    pub(crate) is_configured: bool,
    /// What its own seats, which are the first, were built from.
    pub(crate) params: Vec<SeatParams>,
}

/// The entry of a path. Packets wait in front of it while the path is frozen. They also wait before a change until the stages that
/// end hold nothing, so that no packet is lost or overtaken because of the change.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) is_frozen: bool,
    /// What the path becomes once it holds nothing.
    pub(crate) pending: Option<Box<Path>>,
    pub(crate) queue: VecDeque<Packet>,
    /// For each of the path's own seats, the part of it that may continue in the pending change; empty: everything.
    pub(crate) survives: Vec<Survives>,
}

/// The part of a stage that may continue in a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survives {
    pub(crate) stage: bool,
    pub(crate) gate: bool,
}

impl Default for Survives {
    fn default() -> Self {
        Self { stage: true, gate: true }
    }
}

impl Entry {
    /// Packets or trains that wait at most; more are dropped.
    pub(crate) const MOST: usize = 1 << 17;

    /// Whether arriving packets have to wait.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_frozen || self.pending.is_some() || !self.queue.is_empty()
    }
}

impl Path {
    /// Where nothing happens.
    pub(crate) const fn empty(from: u16, to: u16) -> Self {
        Self {
            from,
            to,
            seats: Vec::new(),
            phases: Vec::new(),
            translator: None,
            entry: Entry { is_frozen: false, pending: None, queue: VecDeque::new(), survives: Vec::new() },
            looks_first: false,
            params: Vec::new(),
            is_configured: false,
        }
    }

    /// The translator that stands in it, and at which seat.
    pub(crate) const fn translator(&self) -> Option<(usize, NatPlace)> {
        self.translator
    }

    /// The entry has changed.
    pub(crate) fn look(&mut self) {
        self.looks_first = !self.phases.is_empty() || self.entry.is_closed();
    }

    /// Whether stages hold nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.iter().all(|seat| seat.held == 0)
    }

    /// The number of the phase at `now`; 0 if there is none.
    pub(crate) fn phase(&self, now: Instant) -> u8 {
        self.phases.iter().find(|phase| phase.is_at(now)).map_or(0, |phase| phase.number)
    }

    /// Builds one worker's copy of the path of that index. `names` are the ports' names, which the draws depend on; `shared` has an
    /// entry a seat.
    pub(crate) fn new(
        index: u16,
        params: &PathParams,
        seed: u64,
        names: (&str, &str),
        flows: usize,
        shared: &[SharedSeat],
    ) -> Self {
        let seat = |(seat, shared): (&SeatParams, &SharedSeat)| match seat {
            SeatParams::Translator { name, place } => {
                Seat::new(name, Gate::open(), Occupant::Translator(*place))
            }
            SeatParams::Stage(stage) => {
                let key = |part: &str| {
                    StageKey::new(seed, &format!("{}>{}/{}{part}", names.0, names.1, stage.name))
                };
                let setting =
                    Setting { key: key(""), path: index, shared: Shared::clone(&shared.stage), flows };
                let gate = Gate::new(&stage.select, &stage.trigger, key("/trigger"), &shared.gate, flows);
                let occupant = Occupant::Stage(Impairment::new(&stage.impairment, &setting));
                Seat { emissions: Vec::with_capacity(16), ..Seat::new(&stage.name, gate, occupant) }
            }
        };
        let mut phases: Vec<Phase> = params.stages().filter_map(|stage| stage.trigger.phase).collect();
        phases.dedup();
        let seats: Vec<Seat> = params.seats.iter().zip(shared).map(seat).collect();
        let place = |seat: &SeatParams| match seat {
            SeatParams::Translator { place, .. } => Some(*place),
            SeatParams::Stage(_) => None,
        };
        let translator = params.seats.iter().enumerate().find_map(|(at, seat)| Some((at, place(seat)?)));
        let (from, to) = (params.from as u16, params.to as u16);
        let looks_first = !phases.is_empty();
        Self {
            phases,
            translator,
            from,
            to,
            seats,
            entry: Entry::default(),
            looks_first,
            params: params.seats.clone(),
            is_configured: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::spec;
    use crate::pipeline::params::{Phase, StageParams};
    use crate::pipeline::testing::{Run, Spec};
    use crate::pipeline::time::{Duration, Instant};

    fn phase(number: u8, from: u64, until: u64, text: &str) -> StageParams {
        let ms = Duration::from_millis;
        let mut stage = spec::parse(text).unwrap().stages.remove(0);
        stage.name = format!("phase-{number}");
        stage.trigger.phase =
            Some(Phase { number, from: ms(from), until: Some(ms(until)), period: Some(ms(300)) });
        stage
    }

    /// A packet that came late in a phase and is held into the next one is not held again there, nor after the last phase
    /// by the first; its fragments are of its phase too.
    #[test]
    fn a_packet_is_of_the_phase_in_which_it_came() {
        let stages = vec![
            phase(1, 0, 100, "delay 50ms"),
            phase(2, 100, 200, "mtu 600 fragment"),
            phase(2, 100, 200, "delay 70ms"),
            phase(3, 200, 300, "delay 90ms"),
        ];
        let mut run = Run::new(stages);
        for at in [0, 90, 110, 290, 310] {
            let length = if at == 110 { 900 } else { 10 };
            let spec = Spec { dont_fragment: false, ..Spec::udp(length) };
            run.feed(Instant::ZERO + Duration::from_millis(at), &spec.frame());
        }
        run.finish();
        let times: Vec<u64> = run.times().iter().map(|time| time / 1_000_000).collect();
        assert_eq!(times, [50, 140, 180, 180, 360, 380], "{:?}", run.router.counters());
    }
}
