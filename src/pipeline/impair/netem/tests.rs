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
    for text in ["loss gemodel 1% 10%", "loss state 1% 10% 5% 20% 1%", "loss gemodel 1% 10% duplicate 100%"] {
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
    let mut run = line(NetemParams { rate: Some(rate), delay: Some(delay(10, 0)), ..NetemParams::default() });
    run.feed(Instant::ZERO, &Spec::udp(72).frame());
    run.feed(Instant::ZERO, &Spec::udp(72).frame());
    run.finish();
    assert_eq!(run.times(), [11_000_000, 12_000_000]);
}

#[test]
fn the_limit_counts_what_waits_and_lets_in_as_it_leaves() {
    let mut run = line(NetemParams { limit: Some(3), delay: Some(delay(10, 0)), ..NetemParams::default() });
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
