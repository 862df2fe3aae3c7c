//! A tc-netem line as the kernel carries it out, even where this differs from what the line says.
//!
//! Model, in netem's order: duplicate (the copy passes all steps, but is not copied again), loss or mark, corrupt one
//! bit, `limit` over all that is held, then reorder, or delay and rate. All flows share one state, as they share one
//! qdisc. Correlation averages random numbers ([`crate::pipeline::random::kernel`]). Jitter reorders. A rate absorbs
//! the delay of queued packets. With slots, waiting packets form a queue in order of their due times; its head leaves
//! once it is due and the slot is open.
//!
//! A router with this stage has one worker, so that the state depends on the order of arrival alone.
//!
//! Differs from the kernel: it acts on the wire packets of a train, where netem treats the train as one packet; its
//! random numbers are drawn by packet, not in sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::counters::Reason;
use crate::pipeline::damage::damage;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::netem::{NetemParams, TC_LIMIT, cost};
use crate::pipeline::link::slots::Queue;
use crate::pipeline::link::state::enter;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Correlated, CorruptArea, Distribution, LossModel};
use crate::pipeline::random::distribution::Table;
use crate::pipeline::random::kernel::{Sequence, happens, share};
use crate::pipeline::random::loss_chain;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::{Action, Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};

/// netem as the kernel carries it out.
#[derive(Debug)]
pub struct KernelNetem {
    params: NetemParams,
    duplicate: Draw,
    loss: Draw,
    corrupt: Draw,
    reorder: Draw,
    jitter: Draw,
    table: Option<Table>,
    chain: StageKey,
    bit: StageKey,
    copy: StageKey,
    /// Packets that wait for a slot, if there are slots.
    queue: Option<Queue>,
    state: Arc<State>,
}

/// State shared by all workers: what netem keeps in its qdisc.
#[derive(Debug, Default)]
#[repr(align(128))]
struct State {
    /// Packets in the queue.
    packets: AtomicU64,
    /// The latest due time of these packets.
    due: AtomicU64,
    /// Packets since the last that was reordered.
    counter: AtomicU64,
    /// The state of the loss chain.
    chain: AtomicU64,
    /// The last number of each correlated sequence, at the index [`Draw::number_of`].
    sequences: [AtomicU64; 5],
}

/// One correlated decision.
#[derive(Debug)]
struct Draw {
    share: u32,
    sequence: Sequence,
    key: StageKey,
    /// The index of its sequence.
    number_of: usize,
}

impl Draw {
    fn new(chance: Correlated, key: StageKey, number_of: usize) -> Self {
        let sequence = Sequence::new(chance.correlation);
        Self { share: share(chance.probability), sequence, key: key.part(number_of as u64), number_of }
    }

    fn number(&self, packet: &Packet, state: &State) -> u32 {
        let fresh = (packet.stream(self.key).word(packet.index, 0) >> 32) as u32;
        self.sequence.next(&state.sequences[self.number_of], fresh)
    }

    fn hits(&self, packet: &Packet, state: &State) -> bool {
        // netem draws only if the share is not 0.
        self.share != 0 && happens(self.share, self.number(packet, state))
    }
}

impl KernelNetem {
    /// The stage that `params` describe.
    pub fn new(params: &NetemParams, setting: &Setting) -> Self {
        let draw = |chance: Correlated, number_of: usize| Draw::new(chance, setting.key, number_of);
        let random = match params.loss {
            LossModel::Random(chance) => chance,
            LossModel::State(_) | LossModel::GilbertElliott(_) => Correlated::default(),
        };
        let jitter = Correlated { correlation: params.delay_correlation, ..Correlated::default() };
        let table = params.delay.as_ref().and_then(|delay| match &delay.distribution {
            Distribution::Uniform => None,
            Distribution::Normal => Some(Table::normal()),
            Distribution::Table(table) => Some(Table::clone(table)),
        });
        Self {
            duplicate: draw(params.duplicate, 0),
            loss: draw(random, 1),
            corrupt: draw(params.corrupt, 2),
            reorder: draw(params.reorder, 3),
            jitter: draw(jitter, 4),
            table,
            chain: setting.key.part(10),
            bit: setting.key.part(11),
            copy: setting.key.part(12),
            queue: params.slot.clone().map(|slot| Queue::new(slot, setting.key.part(13))),
            state: setting.shared.state(),
            params: params.clone(),
        }
    }

    fn is_lost(&self, packet: &Packet) -> bool {
        let stream = packet.stream(self.chain);
        let words = [stream.word(packet.index, 0), stream.word(packet.index, 1)];
        let decide = |state: &mut loss_chain::State| match &self.params.loss {
            LossModel::Random(_) => false,
            LossModel::State(chain) => loss_chain::four_states(chain, state, words[0]),
            LossModel::GilbertElliott(chain) => loss_chain::two_states(chain, state, words),
        };
        if let LossModel::Random(_) = self.params.loss {
            return self.loss.hits(packet, &self.state);
        }
        let step = |state: u64| {
            let mut state = state as loss_chain::State;
            decide(&mut state);
            Some(state.into())
        };
        let memory = &self.state.chain;
        let before = memory.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).unwrap_or_default();
        decide(&mut (before as loss_chain::State))
    }

    fn enqueue(&mut self, mut packet: Packet, may_copy: bool, now: Instant, out: &mut Outlet<'_>) {
        let copies = may_copy && self.duplicate.hits(&packet, &self.state);
        let lost = self.is_lost(&packet);
        let marks = lost && self.params.ecn && packet.is_ecn_capable();
        if marks {
            out.mark(&mut packet);
        }
        match (lost && !marks, copies) {
            (true, false) => return out.drop(packet, Reason::Loss),
            (false, true) => {
                let copy = out.copy(&packet, self.copy.salt(1));
                self.enqueue(copy, false, now, out);
            }
            // Lost and copied at once: one packet is left.
            (true, true) | (false, false) => {}
        }
        let stream = packet.stream(self.bit);
        if self.corrupt.hits(&packet, &self.state) {
            out.rewrite(&mut packet, |packet| damage(packet, CorruptArea::Any, 1, false, stream));
        }
        let limit = self.params.limit.unwrap_or(TC_LIMIT);
        if !enter(&self.state.packets, 1, Some(limit)) {
            return out.drop(packet, Reason::Limit);
        }
        let due = self.departure(&packet, now);
        match (&mut self.queue, due) {
            (Some(queue), Some(due)) => {
                let bytes = packet.wire_length(0) + self.params.link_header();
                queue.push(due, out.keep(packet), bytes.into());
            }
            // A packet that overtakes does not wait for a slot either.
            (_, due) => out.hold(packet, due.unwrap_or(now)),
        }
    }

    /// Sends the packets that may leave at `now`.
    fn serve(&mut self, now: Instant, out: &mut Outlet<'_>) {
        let Some(queue) = &mut self.queue else { return };
        while let Some(packet) = queue.pop(now) {
            self.state.packets.fetch_sub(1, Ordering::AcqRel);
            let packet = out.unkeep(packet);
            out.forward(packet);
        }
        if let Some(at) = queue.next_wake() {
            out.wake_at(at);
        }
    }

    /// When the packet is due, or `None` if it overtakes; it counts as held already.
    fn departure(&self, packet: &Packet, now: Instant) -> Option<Instant> {
        let gap = u64::from(self.params.gap);
        let counter = &self.state.counter;
        let is_candidate = gap > 0 && counter.load(Ordering::Acquire) >= gap - 1;
        // Not "happens": here netem compares the other way round, so that a reorder probability of 0 still draws.
        if is_candidate && self.reorder.share >= self.reorder.number(packet, &self.state) {
            counter.store(0, Ordering::Release);
            return None;
        }
        counter.fetch_add(1, Ordering::AcqRel);
        let (mut delay, mut base) = (self.delay(packet), now);
        if let Some(rate) = &self.params.rate {
            let held_before = self.state.packets.load(Ordering::Acquire) > 1;
            let last = Instant::from_nanos(self.state.due.load(Ordering::Acquire));
            if held_before && last > now {
                delay = (delay - last.since(now).as_nanos() as i64).max(0);
                base = last;
            }
            let nanos = u128::from(cost(packet.wire_length(0) + self.params.link_header(), rate))
                * 8_000_000_000
                / u128::from(rate.rate.bits_per_sec());
            delay = delay.saturating_add(nanos as i64);
        }
        let due = base + Duration::from_nanos(delay.max(0) as u64);
        self.state.due.fetch_max(due.as_nanos(), Ordering::AcqRel);
        Some(due)
    }

    /// netem's `tabledist`, in nanoseconds.
    fn delay(&self, packet: &Packet) -> i64 {
        let Some(delay) = &self.params.delay else { return 0 };
        let (mean, sigma) = (delay.delay.as_nanos() as i64, delay.jitter.as_nanos() as i64);
        if sigma == 0 {
            return mean;
        }
        let number = self.jitter.number(packet, &self.state);
        match &self.table {
            None => i64::from(number) % (2 * sigma) + mean - sigma,
            Some(table) => {
                let entries = table.entries();
                Table::scaled(entries[number as usize % entries.len()], sigma) + mean
            }
        }
    }
}

impl Stage for KernelNetem {
    type Plan = ();

    fn decide(&mut self, _packet: &Packet, _limit: u32, _now: Instant) -> Verdict {
        Verdict::new(1, Action::TAKE)
    }

    fn take(&mut self, packet: &mut Packet, (): (), now: Instant, out: &mut Outlet<'_>) {
        let packet = packet.take(out.pool);
        self.enqueue(packet, true, now, out);
        self.serve(now, out);
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        if self.queue.as_mut().is_some_and(|queue| queue.is_woken(now)) {
            self.serve(now, out);
        }
    }

    fn relinquish(&mut self) -> Option<Kept> {
        let packet = self.queue.as_mut()?.relinquish()?;
        self.state.packets.fetch_sub(1, Ordering::AcqRel);
        Some(packet)
    }

    fn released(&mut self, _packet: &Packet, _now: Instant) {
        self.state.packets.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::pipeline::params::{ImpairmentParams, Mode};
    use crate::pipeline::testing::{Run, Spec};

    /// A spec in netem's mode.
    fn run(text: &str) -> Run {
        let mut stages = spec::parse(text).unwrap().stages;
        for stage in &mut stages {
            if let ImpairmentParams::Netem(netem) = &mut stage.impairment {
                netem.mode = Mode::Netem;
            }
        }
        Run::new(stages)
    }

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// With 14 bytes of Ethernet and 28 of headers 58 of payload make 100.
    fn udp() -> Spec {
        Spec::udp(58)
    }

    /// A rate takes the delay of what is queued for its own: 100 bytes at 8 Mbit/s are 100 us. The first leaves after
    /// 1000 + 100; the second, at 50, finds 1050 of its 1000 us of delay absorbed, and leaves 100 later; the third, at
    /// 5000, finds an empty queue.
    #[test]
    fn a_rate_absorbs_the_delay_of_what_is_queued() {
        let mut run = run("delay 1ms rate 8mbit");
        for micros in [0, 50, 5_000] {
            run.feed(at(micros), &udp().frame());
        }
        run.finish();
        assert_eq!(run.times(), [1_100_000, 1_200_000, 6_100_000]);
    }

    /// On a link without Ethernet the IP length counts: 14 bytes less, 86 us.
    #[test]
    fn the_link_layer_decides_what_a_rate_counts() {
        for (text, micros) in [
            ("rate 8mbit", 100),
            ("rate 8mbit linklayer ethernet", 100),
            ("rate 8mbit linklayer ip", 86),
            ("rate 8mbit 24", 124),
        ] {
            let mut run = run(text);
            run.feed(at(0), &udp().frame());
            run.finish();
            assert_eq!(run.times(), [micros * 1_000], "{text}");
        }
    }

    /// Jitter reorders in front of slots as well: what is due first leaves first, all that are due in one slot together.
    #[test]
    fn slots_are_filled_in_order_of_due_times() {
        let mut run = run("delay 5ms 4ms slot 1ms 1ms");
        for number in 0..2_000_u32 {
            run.feed(at(u64::from(number) * 100), &Spec { sequence: number, ..Spec::tcp(10) }.frame());
        }
        run.finish();
        let wires = run.wires();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[24..28].try_into().unwrap());
        let order: Vec<u32> = wires.iter().map(|wire| number(&wire.bytes)).collect();
        let highest = order.iter().scan(0, |most, &number| Some(std::mem::replace(most, number.max(*most))));
        let late = order.iter().zip(highest).filter(|(number, highest)| *number < highest).count();
        // Two packets 100 us apart with delays that differ by up to 8 ms: nearly all have one before them that came later.
        assert!(order.len() == 2_000 && late > 1_200, "{late}");
        let mut times = run.times();
        times.dedup();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1_000_000), "a slot a millisecond");
    }

    /// Every second packet leaves at once: the one after one that was delayed.
    #[test]
    fn a_gap_counts_over_all_flows() {
        let mut run = run("delay 1ms reorder 100% gap 2");
        for number in 0..4_u64 {
            run.feed(at(number), &udp().with_source_port(1_000 + number as u16).frame());
        }
        run.finish();
        assert_eq!(run.times(), [1_000, 3_000, 1_000_000, 1_002_000]);
    }

    #[test]
    fn the_limit_counts_the_delay_line_and_is_1000_unless_given() {
        let mut run = run("delay 1s");
        for number in 0..1_500 {
            run.feed(at(number), &udp().frame());
        }
        assert_eq!(run.dropped(Reason::Limit), 500);
        run.finish();
        run.feed(at(3_000_000), &udp().frame());
        run.finish();
        assert_eq!(run.times().len(), 1_001);
    }

    #[test]
    fn jitter_reorders() {
        let mut run = run("delay 10ms 5ms");
        for number in 0..200_u32 {
            run.feed(at(u64::from(number) * 100), &Spec { sequence: number, ..Spec::tcp(10) }.frame());
        }
        run.finish();
        let order: Vec<u32> = run
            .wires()
            .iter()
            .map(|wire| u32::from_be_bytes(wire.bytes[24..28].try_into().unwrap()))
            .collect();
        assert!(order.len() == 200 && !order.is_sorted(), "{order:?}");
    }

    /// The share that is lost is netem's, not the one asked for, with the bounds of netem's own share of so many packets:
    /// neighbours are alike, which widens the binomial's spread by no more than (1 + ρ)/(1 - ρ).
    #[test]
    fn correlated_loss_is_as_rare_as_netems() {
        for (text, p, rho) in
            [("loss 30% 25%", 0.3, 0.25), ("loss 10% 25%", 0.1, 0.25), ("loss 20%", 0.2, 0.0)]
        {
            let mut run = run(text);
            for number in 0..20_000_u64 {
                run.feed(at(number), &udp().with_source_port((number % 5) as u16 + 1).frame());
            }
            let probability = |value: f64| crate::pipeline::units::Probability::new(value).unwrap();
            let share = crate::pipeline::random::kernel::realised_share(probability(p), probability(rho));
            let sigma = (20_000.0 * share * (1.0 - share) * (1.0 + rho) / (1.0 - rho)).sqrt();
            let lost = run.dropped(Reason::Loss) as f64;
            assert!((lost - 20_000.0 * share).abs() < 6.0 * sigma, "{text}: {lost} of 20000, not {share}");
        }
    }

    /// A packet that is duplicated and lost leaves one; a copy may be lost by itself, and is not copied again.
    #[test]
    fn decisions_add_up_as_netem_adds_them() {
        for (text, left) in [("duplicate 100%", 2), ("duplicate 100% loss 100%", 1), ("loss 100%", 0)] {
            let mut run = run(text);
            run.feed(at(0), &udp().frame());
            run.finish();
            assert_eq!(run.wires().len(), left, "{text}");
        }
    }

    /// The uniform jitter of netem by hand: a number modulo twice the jitter.
    #[test]
    fn jitter_spans_mean_plus_minus_jitter() {
        let mut run = run("delay 10ms 2ms");
        for number in 0..5_000_u64 {
            run.feed(at(number * 20_000), &udp().frame());
        }
        run.finish();
        let delays: Vec<u64> = run.times().iter().map(|time| time % 20_000_000).collect();
        let (low, high) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(
            (8_000_000..8_010_000).contains(low) && (11_990_000..12_000_000).contains(high),
            "{low} {high}"
        );
        let mean = delays.iter().sum::<u64>() as f64 / 5_000.0;
        // A standard deviation of 4 ms / sqrt(12).
        assert!((mean - 1e7).abs() < 6.0 * 4e6 / 12.0_f64.sqrt() / 5_000.0_f64.sqrt(), "{mean}");
    }
}
