use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn ms(times: &[u64]) -> Vec<Duration> {
    times.iter().map(|&time| Duration::from_millis(time)).collect()
}

fn at(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

fn trace(times: &[u64], repeats: bool) -> Service {
    Service::Opportunities(Arc::new(Opportunities::new(ms(times), 1_504, repeats).unwrap()))
}

/// Sends packets of these arrival times (us) and sizes one after the other; when each has left, in us.
fn sent(service: &Service, packets: &[(u64, u64)]) -> Vec<u64> {
    let (mut service, mut clock) = (service.clone(), 0);
    let send = |&(arrival, bytes): &(u64, u64)| {
        (clock, service) = service.after(clock, service.at(at(arrival)), bytes);
        service.ends(clock).as_nanos() / 1_000
    };
    packets.iter().map(send).collect()
}

#[test]
fn an_opportunity_carries_one_full_packet_or_several_small_ones() {
    let trace = trace(&[1, 2, 2, 5], true);
    let full = |arrival| (arrival, 1_504);
    assert_eq!(
        sent(&trace, &[full(0), full(0), full(0), full(0), full(0)]),
        [1_000, 2_000, 2_000, 5_000, 6_000]
    );
    assert_eq!(sent(&trace, &[(0, 700), (0, 700), (0, 700)]), [1_000, 1_000, 2_000]);
    assert_eq!(sent(&trace, &[(0, 3_000), (0, 8)]), [2_000, 2_000]);
    assert_eq!(sent(&trace, &[(0, 3_008), (0, 1)]), [2_000, 2_000]);
}

/// An opportunity that no packet used is lost, and so is the rest of one when the queue runs empty.
#[test]
fn opportunities_are_lost_while_nothing_waits() {
    let trace = trace(&[1, 2, 2, 5], true);
    assert_eq!(sent(&trace, &[(1_500, 1_504), (1_600, 1_504), (3_000, 1_504)]), [2_000, 2_000, 5_000]);
    // At the very time of an opportunity it is too late for it.
    assert_eq!(sent(&trace, &[(1_000, 10)]), [2_000]);
    assert_eq!(sent(&trace, &[(0, 10), (1_000, 10)]), [1_000, 2_000]);
    assert_eq!(sent(&trace, &[(5_000, 10), (6_000, 10)]), [6_000, 7_000]);
}

#[test]
fn without_repetition_nothing_leaves_after_the_end() {
    let trace = trace(&[1, 2], false);
    let far = Instant::FAR.as_nanos() / 1_000;
    assert_eq!(sent(&trace, &[(0, 1_504), (0, 1_504), (0, 1)]), [1_000, 2_000, far]);
    assert_eq!(sent(&trace, &[(9_000, 1)]), [far]);
}

/// 8 Mbit/s and 300 bytes: what the bucket holds goes at once, then a byte a microsecond; a rest fills it again, and a
/// packet larger than the bucket waits for what is missing.
#[test]
fn a_bucket_gives_its_burst_at_once_and_then_the_rate() {
    let bucket = Service::bucket(Rate::from_bits_per_sec(8_000_000).unwrap(), 300);
    let hundred = |arrival| (arrival, 100);
    let packets = [0, 0, 0, 0, 0, 1_000, 1_000, 1_000, 1_000].map(hundred);
    let left = sent(&bucket, &packets);
    // A time before the arrival means at once.
    let left: Vec<u64> = left.iter().zip(packets).map(|(left, (came, _))| *left.max(&came)).collect();
    assert_eq!(left, [0, 0, 0, 100, 200, 1_000, 1_000, 1_000, 1_100]);
    assert_eq!(sent(&bucket, &[(0, 500)]), [200]);
}

#[test]
fn what_is_no_trace_is_refused() {
    let refused = |times: &[u64]| Opportunities::new(ms(times), 1_504, true).unwrap_err();
    assert_eq!(refused(&[]), NoTrace::Empty);
    assert_eq!(refused(&[0, 0]), NoTrace::NoTime);
    assert_eq!(refused(&[3, 4, 2]), NoTrace::Backwards(2));
    assert!((Opportunities::new(ms(&[1]), 1_504, true).unwrap().mean_rate() - 12_032_000.0).abs() < 1.0);
}

fn steps(steps: &[(u64, u64)], repeats: bool) -> Option<RateSteps> {
    let step = |&(millis, bits): &(u64, u64)| (Duration::from_millis(millis), Rate::from_bits_per_sec(bits));
    RateSteps::new(&steps.iter().map(step).collect::<Vec<_>>(), repeats)
}

/// A bit a second, in steps of two nanoseconds: 1,500 bytes take 6,000 million periods.
#[test]
fn periods_without_number_take_no_time() {
    let step = Duration::from_nanos(1);
    let slow = RateSteps::new(&[(step, None), (step, Rate::from_bits_per_sec(1))], true).unwrap();
    let service = Service::Steps(Arc::new(slow), 0);
    assert_eq!(service.ends(service.after(0, 0, 1_500).0).as_nanos(), 2 * 12_000 * 1_000_000_000);
    assert_eq!(service.ends(service.after(1, 1, 1_500).0).as_nanos(), 2 * 12_000 * 1_000_000_000);
}

/// 8 Mbit/s is a byte a microsecond.
#[test]
fn a_packet_goes_on_at_the_new_rate() {
    let once = Service::Steps(Arc::new(steps(&[(1, 8_000_000), (2, 0), (1, 16_000_000)], false).unwrap()), 0);
    assert_eq!(sent(&once, &[(0, 600), (0, 600), (0, 2_000)]), [600, 3_100, 4_100]);
    assert_eq!(sent(&once, &[(2_000, 100), (1_000_000, 1_000)]), [3_050, 1_000_500]);
    let again = Service::Steps(Arc::new(steps(&[(1, 8_000_000), (1, 0)], true).unwrap()), 0);
    assert_eq!(sent(&again, &[(0, 2_500), (5_500, 10)]), [4_500, 6_010]);
}

/// Rates that a packet needs many turns of are walked a turn at once: this would take for ever step by step.
#[test]
fn a_packet_may_take_any_number_of_turns() {
    let ns = Duration::from_nanos;
    let one = Rate::from_bits_per_sec(1);
    // One bit a second, for one nanosecond of each two: 8 bits take 16 seconds.
    let table = RateSteps::new(&[(ns(1), one), (ns(1), None)], true).unwrap();
    let service = Service::Steps(Arc::new(table), 0);
    assert_eq!(sent(&service, &[(0, 1), (0, 1)]), [15_999_999, 31_999_999]);
    let (clock, _) = service.after(0, 0, u64::MAX);
    assert_eq!(service.ends(clock), Instant::FAR);
}

/// The same service, five hundred years after the start of the run.
#[test]
fn services_are_exact_however_late_it_is() {
    let late = Instant::from_nanos(500 * 365 * 86_400 * 1_000_000_000);
    let rate = Rate::from_bits_per_sec(1_000_000).unwrap();
    let second = Duration::from_secs(1);
    let stepped = RateSteps::new(&[(second, Some(rate)), (second, Some(rate))], true).unwrap();
    for service in [Service::Rate(rate, 0), Service::Steps(Arc::new(stepped), 0)] {
        let (mut service, mut clock) = (service, 0);
        for number in 1..=1_000 {
            (clock, service) = service.after(clock, service.at(late), 1_250);
            assert_eq!(service.ends(clock).since(late), Duration::from_millis(10 * number));
        }
    }
    let trace = trace(&[1, 2, 2, 5], true);
    let (clock, _) = trace.after(0, trace.at(late), 1_504);
    assert!(trace.ends(clock).since(late) <= Duration::from_millis(5), "{:?}", trace.ends(clock));
    assert!(trace.ends(clock) > late);
}

#[test]
fn steps_that_would_stop_for_ever_are_refused() {
    assert_eq!(steps(&[], true), None);
    assert_eq!(steps(&[(0, 1)], true), None);
    assert_eq!(steps(&[(1, 8), (1, 0)], false), None);
    assert_eq!(steps(&[(1, 0), (1, 0)], true), None);
    assert!(steps(&[(1, 8), (1, 0)], true).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// As a simulation that goes from one opportunity to the next and keeps a queue.
    #[test]
    fn opportunities_are_as_simulated(
        mut times in proptest::collection::vec(0..30_u64, 1..12),
        packets in proptest::collection::vec((0..4_u64, 1..4_000_u64), 1..25),
    ) {
        times.sort_unstable();
        prop_assume!(times.last() != Some(&0));
        let mut arrival = 0;
        let packets: Vec<_> = packets.into_iter().map(|(gap, bytes)| { arrival += gap * 500; (arrival, bytes) }).collect();
        let period = *times.last().unwrap();
        let mut expected = Vec::new();
        let mut queue = std::collections::VecDeque::new();
        let mut coming = packets.iter().copied().peekable();
        for turn in 0.. {
            for time in times.iter().map(|time| (turn * period + time) * 1_000) {
                while let Some(packet) = coming.next_if(|packet| packet.0 < time) { queue.push_back(packet.1); }
                let mut left = 1_504;
                while let Some(first) = queue.front_mut() {
                    let part = left.min(*first);
                    (*first, left) = (*first - part, left - part);
                    if *first > 0 { break; }
                    queue.pop_front();
                    expected.push(time);
                    if left == 0 { break; }
                }
            }
            if expected.len() == packets.len() { break; }
        }
        prop_assert_eq!(sent(&trace(&times, true), &packets), expected);
    }

    /// A rate that never changes, in steps or not, is the same.
    #[test]
    fn equal_steps_are_a_rate(bits in 1_000..10_000_000_000_u64, packets in proptest::collection::vec((0..3_000_u64, 1..9_000_u64), 1..30)) {
        let mut arrival = 0;
        let packets: Vec<_> = packets.into_iter().map(|(gap, bytes)| { arrival += gap; (arrival, bytes) }).collect();
        let constant = sent(&Service::Rate(Rate::from_bits_per_sec(bits).unwrap(), 0), &packets);
        let stepped = sent(&Service::Steps(Arc::new(steps(&[(1, bits), (3, bits)], true).unwrap()), 0), &packets);
        prop_assert_eq!(constant, stepped);
    }
}
