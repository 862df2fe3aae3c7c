use super::*;
use crate::pipeline::packet::Offload;
use crate::pipeline::params::ImpairmentParams;
use crate::pipeline::pool::{HEADROOM, Pool};
use crate::pipeline::shared::Shared;
use crate::pipeline::testing::{Run, Spec, Wire, stage};

const ECT0: u8 = 2;
const ECT1: u8 = 1;

fn params(megabits: u64) -> DualPi2Params {
    DualPi2Params {
        rate: Rate::from_bits_per_sec(megabits * 1_000_000).unwrap(),
        overhead: 0,
        packets: 10_000,
        target: Duration::from_millis(15),
        threshold: Duration::from_millis(1),
    }
}

fn run(params: DualPi2Params) -> Run {
    Run::new(vec![stage(ImpairmentParams::DualPi2(params))])
}

fn at(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

/// 1,000 bytes: 1 ms at 8 Mbit/s.
fn packet(ecn: u8, number: u32) -> Spec {
    Spec { traffic_class: ecn, sequence: number, ..Spec::tcp(960) }
}

fn order(run: &Run) -> Vec<u32> {
    let number = |wire: &Wire| u32::from_be_bytes(wire.bytes[24..28].try_into().unwrap());
    run.wires().iter().map(number).collect()
}

fn ecn(run: &Run) -> Vec<u8> {
    run.wires().iter().map(|wire| wire.bytes[1] & 3).collect()
}

/// By hand, with Tupdate = 15 ms: alpha = 0.1 · 0.015 / 0.1² = 0.15, beta = 0.3 / 0.1 = 3.
#[test]
fn the_base_probability_follows_the_formula() {
    let mut controller = Controller::new(Duration::from_millis(15));
    assert!((controller.alpha() - 0.15).abs() < 1e-12 && (Controller::beta() - 3.0).abs() < 1e-12);
    controller.step(0.035);
    let first = 0.15 * 0.02 + 3.0 * 0.035;
    assert!((controller.p - first).abs() < 1e-12, "{}", controller.p);
    controller.step(0.025);
    let second = first + 0.15 * 0.01 - 3.0 * 0.01;
    assert!((controller.p - second).abs() < 1e-12, "{}", controller.p);
    // Empty queues: to nothing, not below.
    controller.catch_up(None, at(1_000_000));
    assert!(controller.p <= 0.0, "{}", controller.p);
    controller.catch_up(None, at(3_600_000_000));
    assert!(controller.next_update > at(3_600_000_000) && controller.next_update <= at(3_600_015_000));
}

/// `p_CL = 2 p` for L4S, `p_C = p²` for classic.
#[test]
fn the_two_queues_are_coupled() {
    let mut controller = Controller::new(Duration::from_millis(15));
    controller.p = 0.1;
    let stream = StageKey::new(1, "dualpi2").stream(1, 0);
    let n = 100_000_u64;
    let draws = |index| [stream.unit(index, 0), stream.unit(index, 1)];
    let classic = (0..n).filter(|&index| controller.classic(draws(index), false) == Fate::Drop).count();
    let (mean, deviation) = (n as f64 * 0.01, (n as f64 * 0.01 * 0.99).sqrt());
    assert!((classic as f64 - mean).abs() < 5.0 * deviation, "{classic}");
    let marked = (0..n).filter(|_| controller.l4s(false) == Fate::Mark).count();
    assert!((marked as f64 - 0.2 * n as f64).abs() <= 1.0, "{marked}");
    assert_eq!(controller.l4s(true), Fate::Mark, "above the step");
    assert_eq!(controller.classic([0.05, 0.09], true), Fate::Mark);
    assert_eq!(controller.classic([0.05, 0.11], true), Fate::Go);
}

/// From 2 p = 1 on both queues drop with p², whatever could be marked.
#[test]
fn overload_drops_in_both_queues() {
    let mut controller = Controller::new(Duration::from_millis(15));
    controller.p = 0.6;
    assert_eq!(controller.classic([0.1, 0.1], true), Fate::Drop);
    let fates: Vec<Fate> = (0..10_000).map(|_| controller.l4s(false)).collect();
    let dropped = fates.iter().filter(|&&fate| fate == Fate::Drop).count();
    assert!((dropped as f64 - 3_600.0).abs() <= 1.0, "{dropped}");
    assert!(fates.iter().all(|&fate| fate != Fate::Go));
}

#[test]
fn l4s_packets_pass_those_that_wait() {
    let mut run = run(params(8));
    for (number, ecn) in [0, ECT0, 0, ECT1, 3, 0].into_iter().enumerate() {
        run.feed(at(number as u64), &packet(ecn, number as u32).frame());
    }
    run.finish();
    assert_eq!(order(&run), [0, 3, 4, 1, 2, 5]);
}

/// With a target of 1 ms the head start is 2 ms.
#[test]
fn a_classic_packet_waits_no_longer_than_the_head_start() {
    let mut run = run(DualPi2Params { target: Duration::from_millis(1), ..params(8) });
    run.feed(at(0), &packet(ECT1, 0).frame());
    run.feed(at(1), &packet(0, 1).frame());
    // More L4S than the link takes.
    for number in 0..20 {
        run.feed(at(10 + 500 * number), &packet(ECT1, 100 + number as u32).frame());
    }
    run.finish();
    let place = order(&run).iter().position(|&number| number == 1).unwrap();
    // Those that came within 2 ms of it go first: at 10, 510, 1010 and 1510 us.
    assert_eq!(place, 5, "{:?}", order(&run));
}

#[test]
fn l4s_packets_are_marked_behind_the_step_but_never_the_last() {
    let mut run = run(params(8));
    for number in 0..4 {
        run.feed(at(0), &packet(ECT1, number).frame());
    }
    run.finish();
    // They wait 0, 1, 2 and 3 ms; the threshold of 1 ms is not exceeded by the second.
    assert_eq!(ecn(&run), [1, 1, 3, 1]);
    assert_eq!(run.stage(0).rewritten.packets, 1);
}

/// 12 Mbit/s that do not react into 10: the controller drops a sixth, and the delay is held near the target.
#[test]
fn the_classic_delay_is_held_near_the_target() {
    let mut run = run(params(10));
    let (gap, count) = (667, 45_000_u64);
    for number in 0..count {
        run.feed(at(number * gap), &packet(0, number as u32).frame());
    }
    run.finish();
    let late: Vec<f64> = run
        .wires()
        .iter()
        .zip(order(&run))
        .filter(|(_, number)| u64::from(*number) > count / 2)
        .map(|(wire, number)| wire.at.since(at(u64::from(number) * gap)).as_secs_f64())
        .collect();
    let mean = late.iter().sum::<f64>() / late.len() as f64;
    assert!((0.010..0.020).contains(&mean), "{mean}");
    assert!(run.dropped(Reason::Aqm) > count / 10 && run.dropped(Reason::QueueFull) == 0);
}

#[test]
fn full_queues_drop_what_comes() {
    let mut run = run(DualPi2Params { packets: 3, ..params(8) });
    for number in 0..5 {
        run.feed(at(0), &packet(if number % 2 == 0 { 0 } else { ECT1 }, number).frame());
    }
    run.finish();
    assert_eq!(run.dropped(Reason::QueueFull), 2);
}

#[test]
fn a_queue_shorter_than_the_target_is_a_trap() {
    let traps = |packets| DualPi2Params { packets, ..params(10) }.traps(&Place::default());
    assert!(traps(10_000).is_empty());
    assert_eq!(traps(5).len(), 1, "{:?}", traps(5));
}

fn alone(params: DualPi2Params) -> DualPi2 {
    DualPi2::new(
        params,
        &Setting { key: StageKey::new(1, "dualpi2"), path: 0, shared: Shared::default(), flows: 8 },
    )
}

fn waiting(ecn: u8, index: u64, since: Instant) -> Waiting {
    let frame = packet(ecn, 0).frame().bytes;
    let mut buffer = Pool::new().scratch();
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
    let mut packet = Packet::parse(buffer, frame.len(), Offload::default(), 0).unwrap();
    packet.index = index;
    Waiting { packet: Kept::uncounted(packet), since, bytes: 1_000, is_cleared: false }
}

/// The square of p by two draws of their own: of 20,000 packets at p = 0.2 800, with a standard deviation of 28.
#[test]
fn classic_packets_are_hit_with_the_square_and_marked_if_they_can_be() {
    for (ecn, hit) in [(0, Fate::Drop), (ECT0, Fate::Mark)] {
        let mut stage = alone(params(10)).queues;
        (stage.controller.p, stage.controller.next_update) = (0.2, Instant::FAR);
        let mut hits = 0_i32;
        for index in 0..20_000 {
            stage.classic.push_back(waiting(ecn, index, at(0)));
            let fate = stage.departure(&LinkState::default(), at(0));
            assert!(fate == Fate::Go || fate == hit);
            hits += i32::from(fate == hit);
            stage.classic.clear();
        }
        assert!((hits - 800).abs() < 150, "{hits}");
    }
}

#[test]
fn the_delay_is_that_of_the_queue_that_waits_longer() {
    for (classic, l4s) in [(0, 5), (5, 0)] {
        let mut stage = alone(params(10)).queues;
        stage.classic.push_back(waiting(0, 0, at(classic)));
        stage.l4s.push_back(waiting(ECT1, 0, at(l4s)));
        assert_eq!(stage.oldest(), Some(at(0)));
    }
}

#[test]
fn updates_come_in_bounds_and_late_ones_with_the_delay_of_their_time() {
    let update = |target| Controller::new(target).update.as_nanos();
    assert_eq!(update(Duration::from_millis(50)), 33_333_333);
    assert_eq!(update(Duration::from_micros(1)), 1_000_000);
    let mut controller = Controller::new(Duration::from_millis(15));
    controller.catch_up(Some(at(0)), at(45_000));
    assert!((controller.p - 0.14175).abs() < 1e-12);
}

#[test]
fn the_overhead_takes_time_too() {
    let mut run = run(DualPi2Params { overhead: 38, ..params(8) });
    run.feed(at(0), &packet(0, 0).frame());
    run.finish();
    assert_eq!(run.times(), [1_038_000]);
}

#[test]
fn workers_take_turns_on_the_link() {
    let params = Run::params(1, vec![stage(ImpairmentParams::DualPi2(params(8)))]);
    let shared = crate::pipeline::router::Router::shared(&params);
    let [mut one, mut two] = [(), ()].map(|()| Run::worker(&params, &shared));
    for number in 0..3 {
        one.feed(at(0), &packet(0, number).frame());
    }
    two.feed(at(0), &packet(0, 9).frame());
    one.finish();
    two.finish();
    assert_eq!((two.times(), one.times()), (vec![2_000_000], vec![1_000_000, 3_000_000, 4_000_000]));
}

/// At p = 0.5 the square is dropped in both queues: a quarter.
#[test]
fn overload_begins_at_one_half() {
    let mut controller = Controller::new(Duration::from_millis(15));
    controller.p = 0.5;
    let dropped = (0..10_000).filter(|_| controller.l4s(false) == Fate::Drop).count();
    assert!(dropped.abs_diff(2_500) <= 1);
}

#[test]
fn the_trap_begins_where_the_target_no_longer_fits() {
    let traps = |packets, mtu| {
        DualPi2Params { packets, ..params(10) }.traps(&Place { mtu, ..Place::default() }).len()
    };
    assert_eq!([traps(12, None), traps(13, None), traps(3, Some(9_000))], [1, 0, 0]);
}
