use std::sync::Arc;

use super::*;
use crate::pipeline::link::capacity::Opportunities;
use crate::pipeline::params::{CoDelParams, ImpairmentParams, PeakParams, PieParams, RedParams};
use crate::pipeline::testing::{Run, Spec, stage};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// 8 Mbit/s: a byte a microsecond.
fn rate() -> ServiceParams {
    ServiceParams::Rate(Rate::from_bits_per_sec(8_000_000).unwrap())
}

fn run(service: ServiceParams, packets: Option<u64>, discipline: Discipline) -> Run {
    let params = BottleneckParams { service, overhead: 0, packets, bytes: None, discipline, share: None };
    Run::new(vec![stage(ImpairmentParams::Bottleneck(Box::new(params)))])
}

fn at(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

fn micros(run: &Run) -> Vec<u64> {
    run.times().iter().map(|time| time / 1_000).collect()
}

/// The sequence numbers of what left, in order.
fn sequences(run: &Run) -> Vec<u32> {
    run.wires().iter().map(|wire| u32::from_be_bytes(wire.bytes[24..28].try_into().unwrap())).collect()
}

/// With 40 bytes of headers, 60 of payload make packets of 100.
fn numbered(number: u32) -> Spec {
    Spec { sequence: number, ..Spec::tcp(60) }
}

#[test]
fn at_a_rate_packets_leave_as_from_a_rate_stage() {
    let mut run = run(rate(), None, Discipline::TailDrop);
    run.feed(at(7), &Spec::tcp(60).frame());
    run.feed(at(7), &Spec::tcp(60 * 2 + 10).train(60).frame());
    run.feed(at(50), &Spec::tcp(60).with_source_port(9).frame());
    run.feed(at(1_000), &Spec::tcp(60).frame());
    run.finish();
    assert_eq!(micros(&run), [107, 207, 307, 357, 457, 1_100]);
}

#[test]
fn a_full_queue_drops_at_its_tail_or_at_its_head() {
    for (discipline, left) in [(Discipline::TailDrop, [0, 1, 2]), (Discipline::HeadDrop, [0, 3, 4])] {
        let mut run = run(rate(), Some(3), discipline);
        for number in 0..5 {
            run.feed(at(0), &numbered(number).frame());
        }
        run.finish();
        assert_eq!(sequences(&run), left, "{discipline:?}: the one being sent is out of reach");
        assert_eq!((micros(&run), run.dropped(Reason::QueueFull)), (vec![100, 200, 300], 2));
    }
}

/// A packet whose bytes do not fit is not counted as a waiting packet either.
#[test]
fn what_is_refused_for_its_bytes_takes_no_place() {
    let discipline = Discipline::TailDrop;
    let params = BottleneckParams {
        service: rate(),
        overhead: 0,
        packets: Some(4),
        bytes: Some(250),
        discipline,
        share: None,
    };
    let mut run = Run::new(vec![stage(ImpairmentParams::Bottleneck(Box::new(params)))]);
    for _ in 0..9 {
        run.feed(at(0), &Spec::tcp(60).frame());
    }
    for _ in 0..4 {
        run.feed(at(1_000), &Spec::tcp(0).frame());
    }
    run.finish();
    assert_eq!(
        (micros(&run), run.dropped(Reason::QueueFull)),
        (vec![100, 200, 1_040, 1_080, 1_120, 1_160], 7)
    );
}

/// Alone at the link, a packet waits in its queue until the link is free, where the discipline still reaches it.
#[test]
fn the_head_is_in_reach_until_its_opportunity() {
    let times = vec![Duration::from_millis(1)];
    let trace = ServiceParams::Opportunities(Arc::new(Opportunities::new(times, 1_500, true).unwrap()));
    let mut run = run(trace, Some(2), Discipline::HeadDrop);
    for number in 0..3 {
        run.feed(at(0), &numbered(number).frame());
    }
    assert_eq!(run.router.scheduled(), 1, "one wake-up is asked for, whoever comes");
    run.finish();
    assert_eq!((sequences(&run), run.dropped(Reason::QueueFull)), (vec![1, 2], 1));
}

#[test]
fn a_trace_is_followed_opportunity_by_opportunity() {
    let times = [1, 2, 2, 5].map(Duration::from_millis).to_vec();
    let trace = ServiceParams::Opportunities(Arc::new(Opportunities::new(times, 1_500, true).unwrap()));
    let mut run = run(trace, Some(5), Discipline::TailDrop);
    for (micros, payload) in
        [(0, 1_460), (0, 700), (0, 700), (0, 700), (1_500, 1_460), (1_500, 1_460), (6_500, 1)]
    {
        run.feed(at(micros), &Spec::tcp(payload).frame());
    }
    run.finish();
    // 1500 | 740 740 20 | 720, 780 of the next | 720 of it, and 780 of the one at 6; what is left of that is lost.
    assert_eq!(micros(&run), [1_000, 2_000, 2_000, 2_000, 5_000, 6_000, 7_000]);
}

/// Twice the rate for two seconds: CoDel keeps the delay near its target, where tail drop fills the queue.
#[test]
fn codel_bounds_the_delay_of_a_standing_queue() {
    let codel =
        CoDelParams { target: Duration::from_millis(5), interval: Duration::from_millis(100), ecn: false };
    let worst = |discipline| {
        let mut run = run(rate(), Some(1_000), discipline);
        // 10 % above the rate of a full-size packet in 1.5 ms; no sender backs off, so the delay sinks slowly.
        for number in 0..15_000_u64 {
            run.feed(at(number * 1_365), &Spec { sequence: number as u32, ..Spec::tcp(1_460) }.frame());
        }
        run.finish();
        let delays = sequences(&run).into_iter().zip(micros(&run)).skip(5_000);
        let worst = delays.map(|(number, left)| left - u64::from(number) * 1_365).max().unwrap();
        (worst, run.dropped(Reason::Aqm), run.dropped(Reason::QueueFull))
    };
    let (tail, none, full) = worst(Discipline::TailDrop);
    assert!(tail >= 1_490_000 && none == 0 && full > 300, "{tail} {none} {full}");
    let (codel, early, full) = worst(Discipline::CoDel(codel));
    assert!(codel < tail / 2 && early > 500 && full == 0, "{codel} {early} {full}");
}

/// PIE holds the delay near its target by dropping what is too much (RFC 8033, section 4: an open loop here, as above).
#[test]
fn pie_holds_the_delay_near_its_target() {
    let pie = PieParams {
        target: Duration::from_millis(15),
        update: Duration::from_millis(15),
        burst: Duration::from_millis(150),
        ecn: false,
    };
    let mut run = run(rate(), Some(1_000), Discipline::Pie(pie));
    for number in 0..40_000_u64 {
        run.feed(at(number * 1_200), &Spec { sequence: number as u32, ..Spec::tcp(1_460) }.frame());
    }
    run.finish();
    let delays: Vec<u64> = (sequences(&run).into_iter().zip(micros(&run)))
        .skip(20_000)
        .map(|(number, left)| left - u64::from(number) * 1_200)
        .collect();
    let mean = delays.iter().sum::<u64>() / delays.len() as u64;
    assert!((10_000..20_000).contains(&mean), "mean delay {mean} us");
    // 1 in 5 is too much.
    let share = run.dropped(Reason::Aqm) as f64 / 40_000.0;
    assert!((0.17..0.22).contains(&share) && run.dropped(Reason::QueueFull) == 0, "{share}");
}

#[test]
fn what_can_be_marked_is_marked_instead_of_dropped() {
    let red =
        RedParams { min: 2.0, max: 5.0, probability: Probability::new(0.5).unwrap(), weight: 1.0, ecn: true };
    let mut run = run(rate(), None, Discipline::Red(red));
    for number in 0..9 {
        run.feed(at(0), &Spec { traffic_class: 2, ..numbered(number) }.frame());
    }
    run.finish();
    let marked = run.wires().iter().filter(|wire| wire.bytes[1] & 3 == 3).count();
    assert_eq!((run.wires().len(), run.dropped(Reason::Aqm)), (9, 0));
    assert!(marked >= 2 && marked as u64 == run.stage(0).rewritten.packets, "{marked}");
    assert!(run.wires().iter().all(|wire| crate::pipeline::testing::flaw(&wire.bytes).is_none()));
}

/// Two workers on one link: together they get its rate, each its share, and neither more than the limit.
#[test]
fn workers_share_the_link() {
    let params = BottleneckParams {
        service: rate(),
        overhead: 0,
        packets: Some(10),
        bytes: None,
        discipline: Discipline::TailDrop,
        share: None,
    };
    let router = Run::params(1, vec![stage(ImpairmentParams::Bottleneck(Box::new(params)))]);
    let shared = crate::pipeline::router::Router::shared(&router);
    let mut workers = [Run::worker(&router, &shared), Run::worker(&router, &shared)];
    for turn in 0..1_000 {
        for (number, worker) in workers.iter_mut().enumerate() {
            // Each alone would fill the link.
            worker.feed(at(turn * 100), &Spec::tcp(60).with_source_port(number as u16 + 1).frame());
        }
    }
    for worker in &mut workers {
        worker.finish();
    }
    let sent: Vec<usize> = workers.iter().map(|worker| worker.wires().len()).collect();
    assert!((1_000..=1_010).contains(&(sent[0] + sent[1])), "{sent:?}");
    assert!(sent.iter().all(|&sent| sent > 300), "{sent:?}");
}

/// 8 Mbit/s with a bucket of 300 bytes, and a peak of 16 Mbit/s with one of 100: the burst goes a packet each 50 us, and the
/// rate holds once it is over. Tokens left at 150 us: 300 - 300 + 150, at 200 us: 150 - 100 + 50.
#[test]
fn a_peak_spreads_the_burst() {
    let rate = |bits| Rate::from_bits_per_sec(bits).unwrap();
    let peak = PeakParams { rate: rate(16_000_000), mtu: 100 };
    let bucket = |peak| ServiceParams::Bucket(rate(8_000_000), 300, peak);
    for (peak, first, again) in [
        (None, [0, 0, 0, 100, 200, 300], [1_000, 1_000, 1_000, 1_100]),
        (Some(peak), [0, 50, 100, 150, 200, 300], [1_000, 1_050, 1_100, 1_150]),
        // Twice as much at once.
        (Some(PeakParams { mtu: 200, ..peak }), [0, 0, 50, 100, 200, 300], [1_000, 1_000, 1_050, 1_100]),
    ] {
        let mut run = run(bucket(peak), None, Discipline::TailDrop);
        run.feed(at(0), &Spec::tcp(6 * 60).train(60).frame());
        for number in 0..4 {
            run.feed(at(1_000), &numbered(number).frame());
        }
        run.finish();
        assert_eq!(micros(&run), [&first[..], &again].concat(), "{peak:?}");
    }
}

/// With every discipline, a sender that ignores congestion and sends too much keeps the link busy: packets of all sizes at
/// 1.1 to 10 times the rate. Of 5 s the last 4 count; RED may need the first for its mean to come down from above twice `max`.
#[test]
fn persistent_overload_fills_the_link() {
    let ms = Duration::from_millis;
    let red = |min, max, weight| {
        let probability = Probability::new(0.1).unwrap();
        Discipline::Red(RedParams { min, max, probability, weight, ecn: false })
    };
    for discipline in [
        Discipline::TailDrop,
        Discipline::HeadDrop,
        Discipline::CoDel(CoDelParams { target: ms(5), interval: ms(100), ecn: false }),
        Discipline::Pie(PieParams { target: ms(15), update: ms(15), burst: ms(150), ecn: false }),
        red(5.0, 15.0, 0.002),
        red(5.0, 15.0, 0.02),
        red(30.0, 90.0, 0.002),
        red(1.0, 3.0, 1.0),
    ] {
        for (size, load) in [(100, 1.5), (1_000, 1.1), (1_000, 1.5), (1_000, 10.0), (1_500, 3.0)] {
            let mut run = run(rate(), Some(1_000), discipline);
            let frame = Spec::udp(size - 28).frame();
            let gap = size as f64 / load;
            for number in 0..(5_000_000.0 / gap) as u64 {
                run.feed(at((number as f64 * gap) as u64), &frame);
            }
            let times = micros(&run);
            let sent = times.iter().filter(|&&time| time >= 1_000_000).count();
            let (sent, room) = (sent as f64, 4_000_000.0 / size as f64);
            assert!(sent > 0.98 * room, "{discipline:?}, {size} bytes at {load}: {sent} of {room}");
            assert!(sent <= room + 1.0, "{discipline:?}, {size} bytes at {load}: {sent} of {room}");
        }
    }
}
