//! The cache, with programs and TAP played in memory: whatever comes in whatever order, every flow fares as if all of its
//! packets had been shown to the router.

use std::collections::{HashMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::bpf::flows::{FlowTable, Sight};
use crate::config::spec;
use crate::engine::cache::{FlowCaches, STEP};
use crate::engine::listeners::Listeners;
use crate::journal::{Kind, Lane, Taps};
use crate::pipeline::counters::{RouterCounters, StageCounters};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{RouterParams, StageParams, Trigger};
use crate::pipeline::pool::HEADROOM;
use crate::pipeline::testing::{Frame, Run, Spec};
use crate::pipeline::time::Duration;
use crate::pipeline::wire::tcp::flag;

const UP: usize = 0;

/// The source port of a flow, and what left of it.
type Flow = (u16, Vec<Vec<u8>>);

/// Seen as the programs see it.
fn read(frame: &Frame) -> Option<Sight> {
    let Seen { key, is_counted, .. } = Seen::read(&frame.bytes)?;
    let buffer = [vec![0; HEADROOM], frame.bytes.clone()].concat();
    let packet = Packet::parse(buffer.into_boxed_slice(), frame.bytes.len(), frame.offload, 0).ok()?;
    let is_plain = packet.tcp_flags().is_none_or(|flags| flags & (flag::SYN | flag::FIN | flag::RST) == 0);
    let longest = packet.wire_length(0).into();
    let sequence = frame.bytes[24..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
    let data = packet.payload_length();
    let (key, amount) = (KeyWords::of(&key, UP), packet.amount());
    is_counted.then_some(Sight { key, amount, longest, is_plain, sequence, data })
}

/// The number that [`frame`] has put into it.
fn step(frame: &Frame) -> u32 {
    u32::from_be_bytes(*frame.bytes[28..].first_chunk().unwrap())
}

/// A target that sends, the hook, the queue of the TAP, and the worker.
struct Machine {
    run: Run,
    table: FlowTable,
    cache: FlowCache,
    queue: VecDeque<Frame>,
    now: Instant,
    passed: usize,
    /// Follows the flows, as a journal does.
    listeners: Listeners,
    /// Of each packet that was read: number of the step that sent it, and which transmission it is.
    transmissions: Vec<(u32, u8)>,
}

impl Machine {
    fn new(stages: &[StageParams], sets: usize) -> Self {
        Self::with(stages, FlowTable::in_memory(sets, false))
    }

    fn with(stages: &[StageParams], table: FlowTable) -> Self {
        let (run, cache) = (Run::new(stages.to_vec()), FlowCache::new(table.clone(), End::wire(0, 0).into()));
        let lane = Lane { follows: true, ..Lane::of(&[Kind::Dropped]) };
        Self {
            run,
            table,
            cache,
            queue: VecDeque::new(),
            now: Instant::ZERO,
            passed: 0,
            listeners: Listeners::new(vec![Taps::unheard(vec![lane]).tap(64)]),
            transmissions: Vec::new(),
        }
    }

    fn send(&mut self, frame: Frame) {
        let passes = read(&frame).is_some_and(|sight| self.table.pass(sight));
        if passes {
            self.run.carry(self.now, &frame);
            self.passed += 1;
        } else {
            self.queue.push_back(frame);
        }
    }

    /// The worker reads a frame.
    fn work(&mut self) -> bool {
        let Some(frame) = self.queue.pop_front() else { return false };
        let arrived = self.cache.arrived(UP, &frame.bytes, &mut self.run.router, self.now);
        if let Some(passed) = arrived.passed {
            self.listeners.passed(passed);
        }
        if let Some(flow) = self.run.inject(self.now, &frame) {
            let buffer = [vec![0; HEADROOM], frame.bytes.clone()].concat();
            let packet = Packet::parse(buffer.into_boxed_slice(), frame.bytes.len(), frame.offload, 0);
            let mut packet = packet.unwrap();
            packet.flow = flow;
            self.transmissions.push((step(&frame), self.listeners.transmission(&packet)));
            let end = self.listeners.end(flow);
            let passed = self.cache.injected(UP, arrived, (flow, end), &mut self.run.router, self.now);
            if let Some(passed) = passed {
                self.listeners.passed(passed);
            }
        }
        true
    }

    fn settle(&mut self) -> Settled {
        self.cache.settle(&[0; 2], &mut self.run.router, self.now)
    }

    fn sweep(&mut self, closes: bool) {
        let members = 0..self.cache.members();
        self.cache.sweep(members, closes, &mut self.run.router, self.now);
    }

    /// Reads all and tells all; what left, each flow for itself, and what was counted.
    fn finish(&mut self) -> (Vec<Flow>, RouterCounters, Vec<StageCounters>) {
        while self.work() {}
        self.sweep(false);
        self.run.finish();
        let mut flows: Vec<Flow> = Vec::new();
        for wire in self.run.wires() {
            let port = u16::from_be_bytes([wire.bytes[20], wire.bytes[21]]);
            match flows.iter_mut().find(|(of, _)| *of == port) {
                Some((_, wires)) => wires.push(wire.bytes),
                None => flows.push((port, vec![wire.bytes])),
            }
        }
        flows.sort_by_key(|(port, _)| *port);
        let seats = self.run.router.paths()[0].seats.iter().map(|seat| seat.counters).collect();
        (flows, *self.run.router.counters(), seats)
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A packet or train of a flow, with these TCP flags; what it sends is new, or what a step so many steps ago could send.
    Send(u16, u16, u8, u32),
    /// The worker reads so many frames.
    Work(u8),
    /// It has read all that there is, and opens what it can.
    Settle,
    /// It closes all flows, and may open them again.
    Pause,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![30 => Just(flag::ACK), 1 => Just(flag::SYN), 1 => Just(flag::FIN | flag::ACK)];
    let again = prop_oneof![12 => Just(0), 1 => 1..30_u32];
    let step = prop_oneof![
        6 => (prop_oneof![4 => 1..4_u16, 1 => 1..12_u16], 1..30_u16, flags, again)
            .prop_map(|(flow, wires, flags, again)| Step::Send(flow, wires, flags, again)),
        2 => (1..4_u8).prop_map(Step::Work),
        3 => Just(Step::Settle),
        1 => Just(Step::Pause),
    ];
    vec(step, 20..200)
}

fn stages() -> impl Strategy<Value = Vec<StageParams>> {
    let specs = ["loss 1%", "loss 0.1%", "loss gemodel 1% 30%", "duplicate 1%", "mtu 90 drop", "delay 1ms"];
    let triggers = [
        Trigger::default(),
        Trigger { nth: vec![40, 300], ..Trigger::default() },
        Trigger { every: Some(100), ..Trigger::default() },
        Trigger { first: Some(3), ..Trigger::default() },
    ];
    let one = (0..specs.len(), proptest::sample::select(triggers.to_vec()), any::<bool>());
    vec(one, 1..3).prop_map(move |chosen| {
        let stage = |(number, (spec, trigger, is_aimed)): (usize, (usize, Trigger, bool))| {
            let mut stage = spec::parse(specs[spec]).unwrap().stages.remove(0);
            stage.name = format!("stage-{number}");
            stage.trigger = trigger;
            if is_aimed {
                stage.select.source_ports = vec![(1, 1)];
            }
            stage
        };
        chosen.into_iter().enumerate().map(stage).collect()
    })
}

/// The frame that a step sends, with its number in the acknowledgement.
fn frame(flow: u16, wires: u16, flags: u8, number: u32) -> Frame {
    sent(flow, wires, flags, number, number * 1_000)
}

fn sent(flow: u16, wires: u16, flags: u8, acknowledgement: u32, sequence: u32) -> Frame {
    let spec = Spec {
        sequence,
        acknowledgement,
        flags,
        ..Spec::tcp(usize::from(wires) * 10).with_source_port(flow)
    };
    if wires > 1 && flags & flag::SYN == 0 { spec.train(10).frame() } else { spec.frame() }
}

/// Plays the steps; whether packets may stay in the kernel, and whether somebody follows the flows.
fn play(stages: &[StageParams], steps: &[Step], is_cached: bool, follows: bool) -> Machine {
    let mut machine = Machine::with(stages, FlowTable::in_memory(1, follows));
    for (number, step) in (0_u32..).zip(steps) {
        // Stages that look at the clock must not see another time in the two runs.
        match *step {
            Step::Send(flow, wires, flags, again) => {
                // The numbers begin again in the middle, as sequence numbers do.
                let sequence = (u32::MAX - 50_000).wrapping_add(number.saturating_sub(again) * 1_000);
                machine.send(sent(flow, wires, flags, number, sequence));
                if !is_cached {
                    machine.work();
                }
            }
            Step::Work(count) => {
                for _ in 0..count {
                    machine.work();
                }
            }
            Step::Settle if is_cached => {
                while machine.work() {}
                machine.settle();
            }
            Step::Pause if is_cached => {
                machine.cache.pause();
                machine.sweep(true);
                machine.cache.resume();
            }
            Step::Settle | Step::Pause => {}
        }
    }
    machine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_fares_and_counts_as_if_detoured(
        stages in stages(),
        steps in steps(),
        follows in any::<bool>(),
    ) {
        let [mut shown, mut cached] = [false, true].map(|is_cached| play(&stages, &steps, is_cached, follows));
        prop_assert_eq!(shown.passed, 0);
        if follows {
            while cached.work() {}
            let all: HashMap<u32, u8> = shown.transmissions.iter().copied().collect();
            for (number, transmission) in &cached.transmissions {
                prop_assert_eq!(transmission, &all[number], "step {}", number);
            }
            let again = all.iter().filter(|(_, transmission)| **transmission > 1);
            let shown = |number: &&u32| cached.transmissions.iter().any(|(other, _)| other == *number);
            prop_assert!(again.map(|(number, _)| number).all(|number| shown(&number)), "what is sent again is seen");
        }
        let (shown, cached) = (shown.finish(), cached.finish());
        prop_assert_eq!(cached.0, shown.0, "what leaves of each flow, in its order");
        prop_assert_eq!(cached.1, shown.1);
        prop_assert_eq!(cached.2, shown.2);
    }
}

fn loss(spec: &str) -> Vec<StageParams> {
    spec::parse(spec).unwrap().stages
}

/// Of 10,000 packets with 0.1 % loss ten detours are expected, each with what waits behind it.
#[test]
fn only_hits_are_detoured() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    for number in 0..10_000 {
        machine.send(frame(1, 1, flag::ACK, number));
        if machine.work() {
            machine.settle();
        }
    }
    // Five deviations of a binomial count; three packets before the first opening; and half as many again for the ends of
    // what is looked ahead.
    assert!((9_950..10_000).contains(&machine.passed), "{}", machine.passed);
    assert_eq!(machine.run.router.counters().received.packets + unread(&machine), 10_000);
    assert_eq!(machine.run.router.carried().packets + unread(&machine), machine.passed as u64);
}

/// Wire packets that have passed and that the core does not know of.
fn unread(machine: &Machine) -> u64 {
    let members = machine.cache.members.iter();
    members.map(|member| machine.table.entry(member.entry).state().passed() - member.told.packets).sum()
}

/// A packet that is on its way when the worker looks keeps the flow closed.
#[test]
fn nothing_overtakes_what_waits_in_the_queue() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    for number in 0..3 {
        machine.send(frame(1, 1, flag::ACK, number));
        machine.work();
    }
    machine.send(frame(1, 1, flag::ACK, 3));
    assert_eq!(machine.settle(), Settled::NotYet, "a detour is not read yet");
    machine.send(frame(1, 1, flag::ACK, 4));
    assert_eq!((machine.passed, machine.queue.len()), (0, 2));
    while machine.work() {}
    assert_eq!(machine.settle(), Settled::Whole);
    machine.send(frame(1, 1, flag::ACK, 5));
    assert_eq!(machine.passed, 1);
}

/// A detour that the TAP had no room for does not keep its flow closed for ever, however busy it is.
#[test]
fn a_lost_detour_is_given_up() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    for number in 0..3 {
        machine.send(frame(1, 1, flag::ACK, number));
        machine.work();
    }
    machine.send(frame(1, 1, flag::ACK, 3));
    machine.queue.clear();
    for number in 4..60 {
        machine.now += Duration::from_millis(1);
        machine.send(frame(1, 1, flag::ACK, number));
        machine.work();
        machine.settle();
    }
    assert!((30..40).contains(&machine.passed), "{} after 20 ms", machine.passed);
}

/// While everything has to be shown nothing passes, and afterwards flows go on as before.
#[test]
fn a_pause_takes_flows_back() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    let send = |machine: &mut Machine, count: u32| {
        for number in 0..count {
            machine.send(frame(1, 1, flag::ACK, number));
            machine.work();
            machine.settle();
        }
        std::mem::take(&mut machine.passed)
    };
    assert!(send(&mut machine, 10) > 0);
    machine.cache.pause();
    machine.sweep(true);
    assert_eq!(send(&mut machine, 10_000), 0);
    machine.cache.resume();
    assert!(send(&mut machine, 10) > 0);
    assert_eq!(machine.run.router.counters().received.packets + unread(&machine), 10_020);
}

/// Frames that faultwire has written and that have not come by the hook keep flows closed, until they are lost.
#[test]
fn flows_wait_for_what_was_written() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    for number in 0..3 {
        machine.send(frame(1, 1, flag::ACK, number));
        machine.work();
    }
    let settle = |machine: &mut Machine, written| {
        machine.cache.settle(&[0, written], &mut machine.run.router, machine.now)
    };
    assert_eq!(settle(&mut machine, 3), Settled::NotYet);
    machine.table.come_back(UP, 3);
    assert_eq!(settle(&mut machine, 3), Settled::Whole);
    machine.send(frame(1, 1, flag::FIN, 3));
    machine.work();
    assert_eq!(settle(&mut machine, 4), Settled::NotYet);
    machine.now += Duration::from_millis(21);
    assert_eq!(settle(&mut machine, 4), Settled::Whole, "it does not come any more");
    assert_eq!(settle(&mut machine, 4), Settled::Whole);
}

/// More flows than have room: those without are detoured, those with an entry keep it while they send.
#[test]
fn a_flood_of_flows_leaves_those_in_peace_that_send() {
    let mut machine = Machine::new(&loss("loss 0.1%"), 1);
    for flow in 1..=200_u16 {
        for number in 0..3 {
            machine.send(frame(1, 1, flag::ACK, u32::from(flow) * 10 + number));
            machine.send(frame(flow + 1, 1, flag::ACK, number));
            while machine.work() {}
            machine.settle();
        }
    }
    assert_eq!(machine.cache.members.len(), WAYS);
    let of_first = machine.cache.find(UP, &Seen::read(&frame(1, 1, flag::ACK, 0).bytes).unwrap().key);
    assert!(of_first.is_some_and(|number| machine.cache.members[number].is_open));
    let (flows, counters, _) = machine.finish();
    assert_eq!(counters.received.packets, 1_200);
    assert_eq!(flows.len(), 201);
}

/// The flows of a large table are closed a few at a time, come back a few at a time, and none is forgotten: a packet waits for one
/// step, however many there are.
#[test]
fn many_flows_come_back_in_steps() {
    const FLOWS: u16 = 1_000;
    // So many sets that almost every flow finds a way free.
    let mut machine = Machine::new(&loss("loss 0.1%"), 512);
    machine.run = Run::built(&RouterParams { flows: 4_096, ..Run::params(1, loss("loss 0.1%")) });
    for flow in 1..=FLOWS {
        for number in 0..3 {
            machine.send(frame(flow, 1, flag::ACK, number));
        }
        while machine.work() {}
        while machine.settle() != Settled::Whole {}
    }
    let open = |machine: &Machine| machine.cache.members.iter().filter(|member| member.is_open).count();
    let before = open(&machine);
    assert!(before > usize::from(FLOWS) * 9 / 10, "{before}");
    let mut caches = FlowCaches { caches: vec![machine.cache], of_port: Vec::new() };
    let mut sweep = caches.pause();
    let (mut left, mut steps) = (before, 0);
    loop {
        let is_done = caches.step(&mut sweep, &mut machine.run.router, machine.now);
        let members = &caches.caches[0].members;
        let open = members.iter().filter(|member| member.is_open).count();
        assert!(left - open <= STEP, "{left} {open}");
        (left, steps) = (open, steps + 1);
        if is_done {
            assert_eq!((left, steps), (0, members.len().div_ceil(STEP)));
            break;
        }
    }
    machine.cache = caches.caches.remove(0);
    machine.cache.resume();
    let (mut turns, mut last, mut sent) = (0, 0, u64::from(FLOWS) * 3);
    loop {
        // Traffic opens flows that the steps come to later.
        for number in 0..3 {
            for flow in FLOWS - 20..=FLOWS {
                machine.send(frame(flow, 1, flag::ACK, number));
                sent += 1;
            }
        }
        while machine.work() {}
        let settled = machine.settle();
        turns += 1;
        assert!(open(&machine) <= last + BATCH);
        last = open(&machine);
        if settled != Settled::InPart {
            assert_eq!(settled, Settled::Whole);
            break;
        }
    }
    assert!(last >= before - 21, "{last} of {before}: some of those that sent may have been hit");
    assert!(turns >= before / BATCH, "{turns}");
    assert_eq!(machine.run.router.counters().received.packets + unread(&machine), sent);
}

/// Something follows the flows. The first two packets of each of so many flows have been shown, and the flows are open.
fn followed(flows: u16) -> Machine {
    let mut machine = Machine::with(&loss("mtu 9000 drop"), FlowTable::in_memory(1, true));
    for flow in 1..=flows {
        for number in 0..2 {
            machine.send(sent(flow, 1, flag::ACK, number, 10 * number));
            machine.work();
        }
        while machine.settle() != Settled::Whole {}
    }
    assert_eq!(machine.passed, 0);
    machine.transmissions.clear();
    machine
}

/// Sends ten bytes; which transmission they are, if they are shown.
fn transmission(machine: &mut Machine, flow: u16, flags: u8, sequence: u32) -> Option<u8> {
    machine.send(sent(flow, 1, flags, 0, sequence));
    machine.work().then(|| machine.transmissions.pop().unwrap().1)
}

/// A flow that is closed and opened again without a packet.
#[test]
fn what_passed_before_a_pause_is_not_forgotten() {
    let mut machine = followed(1);
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 30), None);
    machine.cache.pause();
    machine.sweep(true);
    machine.cache.resume();
    assert_eq!(machine.settle(), Settled::Whole);
    assert!(machine.cache.members[0].is_open);
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 30), Some(2));
    assert_eq!(transmission(&mut machine, 1, flag::FIN, 40), Some(1));
}

/// Sequence numbers are compared within half of their circle, which is 2 GiB.
#[test]
fn gigabytes_pass_in_the_kernel() {
    let mut machine = followed(1);
    let gigabytes = [1, 2, 3].map(|count| count << 30);
    for sequence in gigabytes {
        assert_eq!(transmission(&mut machine, 1, flag::ACK, sequence), None);
    }
    assert_eq!(transmission(&mut machine, 1, flag::FIN, (3 << 30) + 10), Some(1));
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 3 << 30), Some(2));
}

/// What the table knows of a flow stays as it was when the flow was closed.
#[test]
fn gigabytes_are_shown_after_some_data_has_passed() {
    let mut machine = followed(1);
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 30), None);
    machine.cache.pause();
    machine.sweep(true);
    for sequence in [40, 1 << 30, (2 << 30) + 100, 3 << 30] {
        assert_eq!(transmission(&mut machine, 1, flag::ACK, sequence), Some(1));
    }
}

/// Another flow gets the entry of a flow that is silent, and that goes on later.
#[test]
fn what_passed_is_known_when_another_flow_gets_the_entry() {
    let mut machine = followed(WAYS as u16);
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 30), None);
    let is_there = |machine: &Machine| {
        let key = Seen::read(&frame(1, 1, flag::ACK, 0).bytes).unwrap().key;
        machine.cache.find(UP, &key).is_some()
    };
    for number in 0..40 {
        transmission(&mut machine, 100, flag::ACK, 10 * number);
    }
    assert!(!is_there(&machine), "its entry is taken");
    assert_eq!(transmission(&mut machine, 1, flag::ACK, 30), Some(2));
}
