//! A line of tc-netem, as one stage, in netem's order of decisions.
//!
//! Model: each wire packet is drawn for duplication, then for loss (a packet that is both leaves exactly one copy; with
//! `ecn` loss marks instead), then for corruption of one bit. Then `limit` counts everything that this stage holds. Then
//! it is sent at the rate, and then it takes its delay, unless it is chosen to overtake.
//! A copy is drawn for by itself, but not copied again. Without a `limit` a rate has a queue of 1,000 packets, in which
//! those on the line do not count.
//!
//! Differs from the kernel's netem, always to what the line says:
//! - acts on the wire packets of a GSO train, not on the train;
//! - correlation keeps the marginal probability ([`CorrelatedChance`]);
//! - jitter keeps the order within a flow: it wanders slowly enough ([`crate::pipeline::random::wander`]), so that neighbours have at
//!   least the correlation asked for; a packet that would still overtake leaves with its predecessor, and is counted;
//! - rate and delay do not absorb each other: a packet leaves one delay after its last bit was sent;
//! - state is per flow, but for the rate and the limit, which are the path's.

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
    /// To what it says.
    Exact(Box<Netem>),
    /// As the kernel makes it.
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
    /// Whether a jitter that may reorder repeats its predecessor's draw.
    repeat: Option<Chance>,
    ecn: bool,
    limit: Option<u64>,
    gap: u32,
    delay: Option<DelayParams>,
    rate: Option<(Serialiser, NetemRate)>,
    /// Bytes of the link layer that count.
    link_header: u32,
    /// Packets that may wait for the rate, if the line has no limit.
    queue: Option<u64>,
    /// Of the wandering delay.
    pace: Option<Pace>,
    clamped: u64,
    slots: Option<Slots>,
    keys: Keys,
    state: Arc<State>,
    flows: PerFlow<Flow>,
}

/// What all workers share of it.
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
    /// When each of the last `count` packets has been sent, in the place of its number modulo `count`, which is always the
    /// same; made when first asked for.
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

    /// Whether one packet is lost. A chain that has not begun does so in any state, as often as it is in it.
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
    /// Of a chain that has begun.
    state: Option<loss_chain::State>,
}

/// Each decision has its own draws.
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

/// What becomes of one wire packet, timing apart.
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
        // Made now, not by the first packet.
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

    /// How many packets are alike lost, and so on; `None` for lost.
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

    /// A copy's fate: without memory, and never copied again.
    fn draw_copy(&self, copy: &Packet) -> Option<Fate> {
        let ask = |chance: &CorrelatedChance, key| chance.run(copy.stream(key), copy.index, 1).1;
        // A chain meets a copy as if nothing had come before.
        let loss = match &self.loss {
            Loss::Random(chance) => ask(chance, self.keys.loss),
            chain => chain.hit(copy.stream(self.keys.loss), copy.index, &mut LossMemory::default()),
        };
        let mark = loss && self.ecn && copy.is_ecn_capable();
        let corrupt = ask(&self.corrupt, self.keys.corrupt);
        (!loss || mark).then_some(Fate { duplicate: false, mark, corrupt })
    }

    /// Whether each wire packet gets a time of its own.
    fn times_each(&self) -> bool {
        self.rate.is_some()
            || self.slots.is_some()
            || self.gap > 0
            || self.delay.as_ref().is_some_and(|delay| !delay.jitter.is_zero())
    }

    /// Room for how many of `count` packets, counted as held from now on.
    fn admit(&self, count: u32, now: Instant) -> u32 {
        let held = &self.state.packets;
        let Some(limit) = self.limit else { return if self.has_room(now) { count } else { 0 } };
        let enter = |now: u64| (now < limit).then(|| now + u64::from(count).min(limit - now));
        match held.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(before) => u64::from(count).min(limit - before) as u32,
            Err(_) => 0,
        }
    }

    /// Whether the queue of the rate has room for a packet that comes at `now`: the one that came a queue's length before it
    /// has been sent.
    fn has_room(&self, now: Instant) -> bool {
        let Some(queue) = self.queue else { return true };
        let next = self.state.sent.load(Ordering::Acquire) % queue;
        self.state.ends(queue)[next as usize].load(Ordering::Acquire) <= now.as_nanos()
    }

    /// The rate has taken a packet, which it will have sent at `end`.
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

    /// When it would leave without slots.
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

    /// What passes without waiting is not held.
    fn waits(&self) -> bool {
        self.delay.is_some() || self.rate.is_some() || self.slots.is_some()
    }

    /// Sends on a packet that was taken.
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

    fn quiet(&mut self, ahead: &Ahead) -> Quiet {
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
mod tests {
    use super::*;
    use crate::pipeline::params::{Correlated, Distribution, ImpairmentParams};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;
    use crate::pipeline::units::Rate;

    fn always() -> Correlated {
        Correlated { probability: Probability::ONE, correlation: Probability::ZERO }
    }

    fn line(params: NetemParams) -> Run {
        Run::new(vec![stage(ImpairmentParams::Netem(Box::new(params)))])
    }

    fn delay(millis: u64, jitter: u64) -> DelayParams {
        let (delay, jitter) = (Duration::from_millis(millis), Duration::from_millis(jitter));
        DelayParams { delay, jitter, distribution: Distribution::Uniform, reorder: false, half_life: None }
    }

    /// 12 Mbit/s and 10 ms of line: of 3,000 full-sized packets that come at once 1,000 find room in the queue; those on the
    /// line take none of it, so that as many as have been sent find room again.
    #[test]
    fn the_queue_of_a_rate_does_not_count_the_line() {
        let plain = NetemRate {
            rate: Rate::from_bits_per_sec(12_000_000).unwrap(),
            packet_overhead: 0,
            cell_size: 0,
            cell_overhead: 0,
        };
        for (limit, first, second) in [(None, 1_000, 500), (Some(1_000), 1_000, 490)] {
            let params =
                NetemParams { rate: Some(plain), delay: Some(delay(10, 0)), limit, ..NetemParams::default() };
            let mut run = line(params);
            let frame = Spec::udp(1_472).frame();
            (0..3_000).for_each(|_| run.feed(Instant::ZERO, &frame));
            assert_eq!(3_000 - run.dropped(Reason::Limit), first, "{limit:?}");
            let later = Instant::ZERO + Duration::from_millis(500);
            (0..3_000).for_each(|_| run.feed(later, &frame));
            assert_eq!(6_000 - run.dropped(Reason::Limit), first + second, "{limit:?}");
        }
    }

    /// The line is full of more than 1,000 packets: 500 Mbit/s with 100 ms carries 500 Mbit/s.
    #[test]
    fn a_long_line_carries_its_rate() {
        let mut run = Run::new(crate::config::spec::parse("rate 500mbit delay 100ms").unwrap().stages);
        let frame = Spec::udp(1_472).frame();
        // 40 packets of 24 us a millisecond would be 480; 60 are more than pass.
        for milli in 0..1_000 {
            let at = Instant::ZERO + Duration::from_millis(milli);
            (0..60).for_each(|_| run.feed(at, &frame));
        }
        run.advance(Instant::ZERO + Duration::from_millis(1_100));
        let bits = run.times().len() as f64 * 12_000.0;
        assert!((bits / 500e6 - 1.0).abs() < 0.001, "{bits}");
    }

    /// The share of losses of flows of 1, 3 and 10 packets is that of the chain, of the originals and of the copies alike. Packets
    /// of a flow are alike, so that the bound is that of so many flows: 6 standard deviations.
    #[test]
    fn short_flows_lose_as_much_as_long_ones() {
        for text in
            ["loss gemodel 1% 10%", "loss state 1% 10% 5% 20% 1%", "loss gemodel 1% 10% duplicate 100%"]
        {
            let stages = crate::config::spec::parse(text).unwrap().stages;
            let ImpairmentParams::Netem(netem) = &stages[0].impairment else { panic!("a netem line") };
            let share = match &netem.loss {
                LossModel::GilbertElliott(chain) => chain.loss_rate(),
                LossModel::State(chain) => chain.loss_rate(),
                LossModel::Random(_) => panic!("a chain"),
            };
            for length in [1, 3, 10] {
                let flows = 3_000_u32;
                let mut run = Run::new(stages.clone());
                for flow in 0..flows {
                    let ports = Spec::udp(1).with_source_port((flow + 1) as u16).frame();
                    (0..length).for_each(|_| run.feed(Instant::ZERO, &ports));
                }
                run.finish();
                let (came, created) = (flows * length, run.router.counters().created.packets as f64);
                let lost = run.dropped(Reason::Loss) as f64;
                // With duplication an original that is lost leaves one packet, and no copy is made.
                let shares = if created > 0.0 {
                    vec![1.0 - created / f64::from(came), lost / created]
                } else {
                    vec![lost / f64::from(came)]
                };
                let bound = 6.0 * (share * (1.0 - share) / f64::from(flows)).sqrt();
                assert!(
                    shares.iter().all(|seen| (seen - share).abs() < bound),
                    "{text}, {length} packets: {shares:?}, not {share} ± {bound}"
                );
            }
        }
    }

    /// Duplicated and lost at once leaves one copy.
    #[test]
    fn duplication_and_loss_add_up_as_netem_adds_them() {
        let never = Correlated::default();
        for (duplicate, loss, left) in
            [(never, never, 1), (always(), never, 2), (never, always(), 0), (always(), always(), 1)]
        {
            let loss = LossModel::Random(loss);
            let mut run = line(NetemParams { loss, duplicate, ..NetemParams::default() });
            run.feed(Instant::ZERO, &Spec::udp(10).frame());
            assert_eq!(run.wires().len(), left, "{duplicate:?} {loss:?}");
        }
    }

    /// 100 bytes of IP with 5 more are three cells of 48, each 53 on the wire: 159 bytes at 1,272 bit/s are a second.
    #[test]
    fn a_rate_counts_overhead_and_whole_cells() {
        let rate = NetemRate {
            rate: Rate::from_bits_per_sec(1_272).unwrap(),
            packet_overhead: 5,
            cell_size: 48,
            cell_overhead: 5,
        };
        let mut run = line(NetemParams { rate: Some(rate), ..NetemParams::default() });
        for _ in 0..3 {
            run.feed(Instant::ZERO, &Spec::udp(72).frame());
        }
        run.finish();
        assert_eq!(run.times(), [1_000_000_000, 2_000_000_000, 3_000_000_000]);
    }

    /// Neither absorbs the other: the second packet is late by both its wait and the delay.
    #[test]
    fn rate_and_delay_add_up() {
        let rate = NetemRate {
            rate: Rate::from_bits_per_sec(800_000).unwrap(),
            packet_overhead: 0,
            cell_size: 0,
            cell_overhead: 0,
        };
        let mut run =
            line(NetemParams { rate: Some(rate), delay: Some(delay(10, 0)), ..NetemParams::default() });
        run.feed(Instant::ZERO, &Spec::udp(72).frame());
        run.feed(Instant::ZERO, &Spec::udp(72).frame());
        run.finish();
        assert_eq!(run.times(), [11_000_000, 12_000_000]);
    }

    #[test]
    fn the_limit_counts_what_waits_and_lets_in_as_it_leaves() {
        let mut run =
            line(NetemParams { limit: Some(3), delay: Some(delay(10, 0)), ..NetemParams::default() });
        for millis in [0, 1, 2, 3, 10] {
            run.feed(Instant::ZERO + Duration::from_millis(millis), &Spec::udp(10).frame());
        }
        run.finish();
        assert_eq!(run.times(), [10_000_000, 11_000_000, 12_000_000, 20_000_000]);
        assert_eq!(run.dropped(Reason::Limit), 1);
    }

    #[test]
    fn the_gap_th_packet_leaves_at_once() {
        let params =
            NetemParams { delay: Some(delay(10, 0)), reorder: always(), gap: 3, ..NetemParams::default() };
        let mut run = line(params);
        for millis in 0..4 {
            run.feed(Instant::ZERO + Duration::from_millis(millis), &Spec::udp(10).frame());
        }
        run.finish();
        assert_eq!(run.times(), [2_000_000, 10_000_000, 11_000_000, 13_000_000]);
    }

    /// Packets far apart are never held back by their predecessors: uniform in delay ± jitter. The largest deviation of
    /// the distribution function from the uniform one is within Kolmogorov's bound for one in a million.
    #[test]
    fn jitter_has_the_distribution_asked_for() {
        let mut run = line(NetemParams { delay: Some(delay(10, 4)), ..NetemParams::default() });
        let n = 5_000_u64;
        for number in 0..n {
            run.feed(Instant::ZERO + Duration::from_millis(20 * number), &Spec::udp(10).frame());
        }
        run.finish();
        let mut delays: Vec<f64> =
            run.times().iter().enumerate().map(|(i, at)| (*at as f64 / 1e6) - 20.0 * i as f64).collect();
        delays.sort_by(f64::total_cmp);
        let expected = |delay: f64| ((delay - 6.0) / 8.0).clamp(0.0, 1.0);
        let gap = |(i, delay): (usize, &f64)| (expected(*delay) - i as f64 / n as f64).abs();
        let worst = delays.iter().enumerate().map(gap).fold(0.0, f64::max);
        assert!(worst < 2.7 / (n as f64).sqrt(), "{worst}");
    }

    /// With a correlation or without, packets 1 ms apart have the mean and the spread asked for (of the table, for pareto: it
    /// is cut at four spreads). The 1,000 flows are independent, packets of one flow nearly the same: bounds of 6 standard
    /// deviations for n = 1,000.
    #[test]
    fn correlated_jitter_has_the_mean_and_the_spread_asked_for() {
        for (text, mean, spread) in [
            ("delay 100ms 10ms 25% distribution normal", 100.0, 10.0),
            ("delay 100ms 10ms 95% distribution pareto", 99.665, 8.197),
        ] {
            let delays = delays_of_flows(text, 1_000, 20);
            let moment = |about: f64, power| {
                delays.iter().map(|delay| (delay - about).powi(power)).sum::<f64>() / delays.len() as f64
            };
            let seen = moment(0.0, 1);
            let variance = moment(seen, 2);
            let error = (variance / 1_000.0).sqrt();
            assert!((seen - mean).abs() < 6.0 * error, "{text}: mean {seen}, error {error}");
            let error = ((moment(seen, 4) - variance * variance) / 1_000.0).sqrt();
            assert!(
                (variance - spread * spread).abs() < 6.0 * error,
                "{text}: variance {variance}, error {error}"
            );
        }
    }

    /// Delays in milliseconds of so many packets of so many flows, 1 ms apart.
    fn delays_of_flows(text: &str, flows: u16, packets: u64) -> Vec<f64> {
        let mut params = Run::params(1, crate::config::spec::parse(text).unwrap().stages);
        params.flows = 4 * usize::from(flows);
        let mut run = Run::built(&params);
        for number in 0..packets {
            let at = Instant::ZERO + Duration::from_millis(number);
            // Ports of services, so that each is a flow of its own however flows are identified.
            let frame = |port| Spec { destination_port: 1_000 + port, ..Spec::udp(10) }.frame();
            (0..flows).for_each(|flow| run.feed(at, &frame(flow)));
        }
        run.finish();
        let mut seen = vec![0_u32; flows.into()];
        let mut delay = |wire: &crate::pipeline::testing::Wire| {
            let flow = usize::from(u16::from_be_bytes([wire.bytes[22], wire.bytes[23]]) - 1_000);
            seen[flow] += 1;
            wire.at.as_nanos() as f64 / 1e6 - f64::from(seen[flow] - 1)
        };
        run.wires().iter().map(&mut delay).collect()
    }

    #[test]
    fn loss_marks_where_that_is_asked_for_and_understood() {
        let mut run =
            line(NetemParams { loss: LossModel::Random(always()), ecn: true, ..NetemParams::default() });
        run.feed(Instant::ZERO, &Spec { traffic_class: 2, ..Spec::tcp(10) }.frame());
        run.feed(Instant::ZERO, &Spec { traffic_class: 0, ..Spec::tcp(10) }.frame());
        let wires = run.wires();
        assert_eq!((wires.len(), wires[0].bytes[1] & 3), (1, 3));
    }
}
