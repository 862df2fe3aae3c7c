//! A line of tc-netem, as one stage, in netem's order of decisions.
//!
//! Model: each wire packet is drawn for duplication, then for loss (a packet that is both leaves exactly one copy;
//! with `ecn`, loss marks instead), then for corruption of one bit. Then `limit` counts everything that this stage
//! holds. Then the packet is sent at the rate, and then delayed, unless it is selected to overtake. A copy has its
//! own draws, but is not copied again. Without a `limit`, a rate has a queue of 1,000 packets before the delay.
//!
//! Differs from the kernel's netem, always towards what the line says:
//! - it acts on the wire packets of a GSO train, not on the train;
//! - correlation keeps the marginal probability ([`CorrelatedChance`]);
//! - jitter keeps the order within a flow: the delay wanders so slowly ([`crate::pipeline::random::wander`]) that
//!   neighbours have at least the requested correlation; a packet that would still overtake its predecessor leaves
//!   together with it, and is counted;
//! - rate and delay do not absorb each other: a packet leaves one delay after its last bit was sent;
//! - each flow has its own state, except that the path has one rate and one limit.

mod ahead;
mod blueprint;
mod kernel;
mod params;
mod traps;

pub use params::{LinkLayer, Mode, NetemParams, NetemRate, Slot, SlotGap, TC_LIMIT};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::counters::Reason;
use crate::pipeline::damage::damage;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::dispatch::dispatch;
use crate::pipeline::link::serialiser::Serialiser;
use crate::pipeline::link::slots::Slots;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{CorruptArea, DelayParams, GilbertElliott, LossModel, StateLoss};
use crate::pipeline::random::correlated::{CorrelatedChance, Memory};
use crate::pipeline::random::loss_chain;
use crate::pipeline::random::rng::{Chance, Draw, StageKey, Stream};
use crate::pipeline::random::wander::{Pace, Wander};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// A netem line, in either mode.
#[derive(Debug)]
pub enum NetemLine {
    /// What the line says.
    Exact(Box<Netem>),
    /// As the kernel carries it out.
    Kernel(Box<kernel::KernelNetem>),
}

dispatch!(NetemLine, LinePlan { Exact(Box<Netem>), Kernel(Box<kernel::KernelNetem>) });

/// A whole netem line.
#[derive(Debug)]
pub struct Netem {
    duplicate: CorrelatedChance,
    loss: Loss,
    corrupt: CorrelatedChance,
    reorder: CorrelatedChance,
    /// With jitter that may reorder: the chance that a packet repeats its predecessor's draw.
    repeat: Option<Chance>,
    ecn: bool,
    limit: Option<u64>,
    gap: u32,
    delay: Option<DelayParams>,
    rate: Option<(Serialiser, NetemRate)>,
    /// Bytes of the link-layer header that count.
    link_header: u32,
    /// Packets that may wait for the rate, if the line has no limit.
    queue: Option<u64>,
    /// How fast the delay wanders.
    pace: Option<Pace>,
    clamped: u64,
    slots: Option<Slots>,
    keys: Keys,
    state: Arc<State>,
    flows: PerFlow<Flow>,
}

/// State shared by all workers.
#[derive(Debug, Default)]
#[repr(align(128))]
struct State {
    /// Wire packets that are held, if their number is limited.
    packets: AtomicU64,
    /// When the link of the rate is free.
    clock: AtomicU64,
    /// Packets that the rate has taken.
    sent: AtomicU64,
    /// See [`State::ends`].
    ends: OnceLock<Box<[AtomicU64]>>,
}

impl State {
    /// When each of the last `count` packets has been sent, at the index of its number modulo `count`. `count` must
    /// always be the same. Made at the first call.
    fn ends(&self, count: u64) -> &[AtomicU64] {
        self.ends.get_or_init(|| (0..count).map(|_| AtomicU64::default()).collect())
    }
}

/// How packets are lost.
#[derive(Debug)]
enum Loss {
    Random(CorrelatedChance),
    State(StateLoss),
    GilbertElliott(GilbertElliott),
}

impl Loss {
    const fn has_memory(&self) -> bool {
        match self {
            Self::Random(chance) => chance.has_memory(),
            Self::State(_) | Self::GilbertElliott(_) => true,
        }
    }

    /// Whether one packet is lost. A chain that has not begun draws its first state from the chain's stationary
    /// distribution.
    fn hit(&self, stream: Stream, index: u64, memory: &mut LossMemory) -> bool {
        match self {
            Self::Random(chance) => chance.hit(stream, index, &mut memory.random),
            Self::State(chain) => {
                let state =
                    memory.state.get_or_insert_with(|| loss_chain::any_of_four(chain, stream.word(index, 2)));
                loss_chain::four_states(chain, state, stream.word(index, 0))
            }
            Self::GilbertElliott(chain) => {
                let state =
                    memory.state.get_or_insert_with(|| loss_chain::any_of_two(chain, stream.word(index, 2)));
                loss_chain::two_states(chain, state, [stream.word(index, 0), stream.word(index, 1)])
            }
        }
    }
}

/// What a flow remembers of its losses.
#[derive(Debug, Clone, Copy, Default)]
struct LossMemory {
    random: Memory,
    /// State of the loss chain, if it has begun.
    state: Option<loss_chain::State>,
}

/// Each decision has its own draw key.
#[derive(Debug)]
struct Keys {
    duplicate: StageKey,
    loss: StageKey,
    corrupt: StageKey,
    bit: StageKey,
    reorder: StageKey,
    jitter: StageKey,
    repeat: StageKey,
    slot: StageKey,
}

/// What a flow remembers.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    duplicate: Memory,
    loss: LossMemory,
    corrupt: Memory,
    reorder: Memory,
    jitter: Option<u64>,
    wander: Wander,
    /// Departure of the last packet that was delayed.
    last: Instant,
    /// Packets delayed since one was chosen to overtake.
    waited: u32,
}

/// The decisions about one wire packet, except its timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    duplicate: bool,
    mark: bool,
    corrupt: bool,
}

impl Netem {
    /// The stage that `params` describe.
    pub fn new(params: &NetemParams, setting: &Setting) -> Self {
        let state: Arc<State> = setting.shared.state();
        // Made now, so that the first packet does not have to.
        params.queue().map(|queue| state.ends(queue).len());
        let key = |number| setting.key.part(number);
        let repeat = params.delay_correlation;
        Self {
            duplicate: CorrelatedChance::new(params.duplicate),
            loss: match params.loss {
                LossModel::Random(chance) => Loss::Random(CorrelatedChance::new(chance)),
                LossModel::State(chain) => Loss::State(chain),
                LossModel::GilbertElliott(chain) => Loss::GilbertElliott(chain),
            },
            corrupt: CorrelatedChance::new(params.corrupt),
            reorder: CorrelatedChance::new(params.reorder),
            repeat: (repeat > Probability::ZERO).then(|| Chance::new(repeat)),
            ecn: params.ecn,
            limit: params.limit,
            gap: params.gap,
            delay: params.delay.clone(),
            rate: params.rate.map(|rate| (Serialiser::new(rate.rate), rate)),
            link_header: params.link_header(),
            queue: params.queue(),
            pace: params.delay.as_ref().map(|delay| Pace::new(delay, params.delay_correlation)),
            clamped: 0,
            slots: params.slot.clone().map(Slots::new),
            keys: Keys {
                duplicate: key(0),
                loss: key(1),
                corrupt: key(2),
                bit: key(3),
                reorder: key(4),
                jitter: key(5),
                repeat: key(6),
                slot: key(7),
            },
            state,
            flows: PerFlow::new(setting.flows),
        }
    }

    /// How many packets get the same decisions, and which; `None`: lost.
    fn draw(&mut self, packet: &Packet, limit: u32) -> (u32, Option<Fate>) {
        let (index, limit) = (packet.index, if self.has_memory() { 1 } else { limit });
        let memory = self.flows.of(packet.flow);
        let mut count = limit;
        let mut ask = |chance: &CorrelatedChance, key: StageKey, memory: &mut Memory| {
            let stream = packet.stream(key);
            if chance.has_memory() {
                return chance.hit(stream, index, memory);
            }
            let (run, hit) = chance.run(stream, index, count);
            count = run;
            hit
        };
        let duplicate = ask(&self.duplicate, self.keys.duplicate, &mut memory.duplicate);
        let hit = match &self.loss {
            Loss::Random(chance) => ask(chance, self.keys.loss, &mut memory.loss.random),
            chain => chain.hit(packet.stream(self.keys.loss), index, &mut memory.loss),
        };
        let mark = hit && self.ecn && packet.is_ecn_capable();
        let lost = hit && !mark;
        if lost && !duplicate {
            return (count, None);
        }
        let corrupt = ask(&self.corrupt, self.keys.corrupt, &mut memory.corrupt);
        (count, Some(Fate { duplicate: duplicate && !lost, mark, corrupt }))
    }

    /// Whether a draw depends on the one before.
    const fn has_memory(&self) -> bool {
        self.loss.has_memory() || self.duplicate.has_memory() || self.corrupt.has_memory()
    }

    /// The decisions about a copy: without memory, and never copied again.
    fn draw_copy(&self, copy: &Packet) -> Option<Fate> {
        let ask = |chance: &CorrelatedChance, key| chance.run(copy.stream(key), copy.index, 1).1;
        // For a copy, the chain begins anew.
        let loss = match &self.loss {
            Loss::Random(chance) => ask(chance, self.keys.loss),
            chain => chain.hit(copy.stream(self.keys.loss), copy.index, &mut LossMemory::default()),
        };
        let mark = loss && self.ecn && copy.is_ecn_capable();
        let corrupt = ask(&self.corrupt, self.keys.corrupt);
        (!loss || mark).then_some(Fate { duplicate: false, mark, corrupt })
    }

    /// Whether each wire packet has its own departure time.
    fn times_each(&self) -> bool {
        self.rate.is_some()
            || self.slots.is_some()
            || self.gap > 0
            || self.delay.as_ref().is_some_and(|delay| !delay.jitter.is_zero())
    }

    /// How many of `count` packets there is room for; they count as held from now on.
    fn admit(&self, count: u32, now: Instant) -> u32 {
        let held = &self.state.packets;
        let Some(limit) = self.limit else { return if self.has_room(now) { count } else { 0 } };
        let enter = |now: u64| (now < limit).then(|| now + u64::from(count).min(limit - now));
        match held.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(before) => u64::from(count).min(limit - before) as u32,
            Err(_) => 0,
        }
    }

    /// Whether the queue of the rate has room for a packet that comes at `now`: the packet that came one queue length
    /// before it must have been sent.
    fn has_room(&self, now: Instant) -> bool {
        let Some(queue) = self.queue else { return true };
        let next = self.state.sent.load(Ordering::Acquire) % queue;
        self.state.ends(queue)[next as usize].load(Ordering::Acquire) <= now.as_nanos()
    }

    /// Records that the rate has taken a packet, which will have been sent at `end`.
    fn enqueued(&self, end: Instant) {
        let Some(queue) = self.queue else { return };
        let number = self.state.sent.fetch_add(1, Ordering::AcqRel) % queue;
        self.state.ends(queue)[number as usize].store(end.as_nanos(), Ordering::Release);
    }

    /// When the first wire packet of `packet` leaves.
    fn departure(&mut self, packet: &Packet, now: Instant) -> Instant {
        let due = self.due(packet, now);
        let Some(slots) = &mut self.slots else { return due };
        let stream = packet.stream(self.keys.slot);
        let words = [stream.word(packet.index, 0), stream.word(packet.index, 1)];
        slots.departure(due, (packet.wire_length(0) + self.link_header).into(), words)
    }

    /// When the packet would leave if there were no slots.
    fn due(&mut self, packet: &Packet, now: Instant) -> Instant {
        let sent = match &mut self.rate {
            Some((link, rate)) => {
                link.send(&self.state.clock, cost(packet.wire_length(0) + self.link_header, rate), now).end
            }
            None => now,
        };
        self.enqueued(sent);
        let Some(delay) = &self.delay else { return sent };
        let flow = self.flows.of(packet.flow);
        if self.gap > 0 {
            let stream = packet.stream(self.keys.reorder);
            let is_candidate = flow.waited + 1 >= self.gap;
            if is_candidate && self.reorder.hit(stream, packet.index, &mut flow.reorder) {
                flow.waited = 0;
                return sent;
            }
            flow.waited = flow.waited.saturating_add(1);
        }
        if delay.jitter.is_zero() {
            return sent + delay.delay;
        }
        let repeats = self
            .repeat
            .as_ref()
            .is_some_and(|chance| chance.hit(packet.stream(self.keys.repeat), packet.index));
        let stream = packet.stream(self.keys.jitter);
        let first = stream.word(packet.index, 0);
        let word = match self.pace {
            Some(pace) if !delay.reorder => {
                flow.wander.uniform(pace, sent, [first, stream.word(packet.index, 1)])
            }
            _ => flow.jitter.filter(|_| repeats).unwrap_or(first),
        };
        flow.jitter = Some(word);
        let due = sent + delay.draw(word);
        if delay.reorder {
            return due;
        }
        self.clamped += u64::from(due < flow.last);
        flow.last = flow.last.max(due);
        flow.last
    }

    /// Whether packets wait at all: those that do not wait are not held.
    fn waits(&self) -> bool {
        self.delay.is_some() || self.rate.is_some() || self.slots.is_some()
    }

    /// Sends a packet that was taken.
    fn send(&mut self, mut packet: Packet, fate: Fate, now: Instant, out: &mut Outlet<'_>) {
        if fate.mark {
            out.mark(&mut packet);
        }
        let stream = packet.stream(self.keys.bit);
        if fate.corrupt {
            out.rewrite(&mut packet, |packet| damage(packet, CorruptArea::Any, 1, false, stream));
        }
        if !self.waits() {
            return out.forward(packet);
        }
        if self.admit(1, now) == 0 {
            return out.drop(packet, Reason::Limit);
        }
        let due = self.departure(&packet, now);
        out.hold(packet, due);
    }
}

impl Stage for Netem {
    type Plan = Fate;

    fn drawn(&self, packet: &Packet) -> Option<Draw> {
        let Loss::Random(chance) = &self.loss else { return None };
        chance.drawn(packet.stream(self.keys.loss), packet.index)
    }

    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<Fate> {
        let (count, fate) = self.draw(packet, limit);
        let Some(fate) = fate else { return Verdict::new(count, Action::drop(Reason::Loss)) };
        if fate != Fate::default() {
            return Verdict::new(1, Action::Take(fate));
        }
        if !self.waits() {
            return Verdict::new(count, Action::PASS);
        }
        let count = if self.times_each() { 1 } else { count };
        match self.admit(count, now) {
            0 => Verdict::new(count, Action::drop(Reason::Limit)),
            count => Verdict::new(count, Action::hold(self.departure(packet, now))),
        }
    }

    fn take(&mut self, packet: &mut Packet, fate: Fate, now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        let copy = fate.duplicate.then(|| out.copy(&packet, self.keys.duplicate.salt(1)));
        self.send(packet, fate, now, out);
        let Some(copy) = copy else { return };
        match self.draw_copy(&copy) {
            Some(fate) => self.send(copy, fate, now, out),
            None => out.drop(copy, Reason::Loss),
        }
    }

    fn clamped(&self) -> u64 {
        self.clamped
    }

    fn released(&mut self, packet: &Packet, _now: Instant) {
        if self.limit.is_some() {
            self.state.packets.fetch_sub(packet.wires().into(), Ordering::AcqRel);
        }
    }

    fn quiet(&self, ahead: &Ahead) -> Quiet {
        self.look_ahead(ahead)
    }

    fn passed(&mut self, ahead: &Ahead, count: u64) {
        self.skip(ahead, count);
    }
}

/// Bytes that a wire packet counts for: with overhead, and in whole cells where there are cells.
fn cost(length: u32, rate: &NetemRate) -> u64 {
    let length = u64::from(length.saturating_add_signed(rate.packet_overhead));
    if rate.cell_size == 0 {
        return length;
    }
    let cells = length.div_ceil(rate.cell_size.into());
    cells * u64::from(rate.cell_size.saturating_add_signed(rate.cell_overhead))
}

#[cfg(test)]
mod tests;
