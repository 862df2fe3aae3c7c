//! When a link can send how much: at a rate, at a rate that changes, or at given times.
//!
//! Each kind counts what it has given in a clock of its own, one 64-bit number that the workers share: nanoseconds for the
//! rates (see `link`), bytes for opportunities. A packet that comes to an idle link starts at
//! [`Service::at`] its arrival; what the link could have sent before is lost. One that had to wait starts where the one
//! before it ended.

use crate::pipeline::link::turn::{Turn, carried_at, round_up, spend, work};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;

/// A link's service, with what it needs to go on exactly.
#[derive(Debug, Clone)]
pub enum Service {
    /// A constant rate, and the work that rounding put off.
    Rate(Rate, u64),
    /// A constant rate behind a bucket of tokens: so many bytes go at once after a rest. Rate, the work that rounding put
    /// off, and the time of the bucket in nanoseconds.
    Bucket(Rate, u64, u64),
    /// A changing rate, and the work that rounding put off.
    Steps(std::sync::Arc<RateSteps>, u64),
    /// Given times.
    Opportunities(std::sync::Arc<Opportunities>),
}

impl Service {
    /// A rate behind a bucket of `burst` bytes.
    pub fn bucket(rate: Rate, burst: u64) -> Self {
        Self::Bucket(rate, 0, spend(rate, work(burst)).0)
    }

    /// The clock for work that comes at `now` to an idle link.
    pub fn at(&self, now: Instant) -> u64 {
        match self {
            Self::Rate(..) | Self::Bucket(..) | Self::Steps(..) => now.as_nanos(),
            Self::Opportunities(times) => times.until(now).saturating_mul(times.bytes),
        }
    }

    /// The first time at which the link, free at `free` of its clock, works on what came at `from`; [`Instant::FAR`] if
    /// never.
    pub fn starts(&self, free: u64, from: u64) -> Instant {
        let clock = free.max(from);
        match self {
            Self::Rate(_, carried) | Self::Steps(_, carried) => {
                round_up(clock, carried_at(free, *carried, from))
            }
            Self::Bucket(_, carried, burst) => {
                round_up(clock.saturating_sub(*burst), carried_at(free, *carried, from))
            }
            Self::Opportunities(times) => times.nth(clock / times.bytes),
        }
    }

    /// The time at which what was sent last, and ends at `clock`, has left.
    pub fn ends(&self, clock: u64) -> Instant {
        match self {
            Self::Rate(_, carried) | Self::Steps(_, carried) => round_up(clock, *carried),
            // It goes as a whole once there are tokens for all of it.
            Self::Bucket(_, carried, burst) => round_up(clock.saturating_sub(*burst), *carried),
            Self::Opportunities(times) => {
                clock.div_ceil(times.bytes).checked_sub(1).map_or(Instant::ZERO, |index| times.nth(index))
            }
        }
    }

    /// The clock after `bytes` that came at `from` to a link that is free at `free`, and this service after them.
    #[must_use]
    pub fn after(&self, free: u64, from: u64, bytes: u64) -> (u64, Self) {
        let turn = |rate, carried| Turn::new(rate, free, carried, from, bytes);
        match self {
            Self::Rate(rate, carried) => {
                let turn = turn(*rate, *carried);
                (turn.end, Self::Rate(*rate, turn.carried))
            }
            Self::Bucket(rate, carried, burst) => {
                let turn = turn(*rate, *carried);
                (turn.end, Self::Bucket(*rate, turn.carried, *burst))
            }
            Self::Steps(steps, carried) => {
                let put_off = carried_at(free, *carried, from);
                let (end, carried) = steps.after(free.max(from), work(bytes) + u128::from(put_off));
                (end, Self::Steps(std::sync::Arc::clone(steps), carried))
            }
            Self::Opportunities(_) => (free.max(from).saturating_add(bytes), self.clone()),
        }
    }

    /// About how long a packet of 1,000 bytes takes on average.
    pub fn typical(&self) -> Duration {
        match self {
            Self::Rate(rate, _) | Self::Bucket(rate, ..) => {
                Duration::from_nanos(8_000_000_000_000 / rate.bits_per_sec())
            }
            Self::Steps(steps, _) => Duration::from_nanos(8_000_000_000_000 / steps.highest().max(1)),
            Self::Opportunities(times) => {
                Duration::from_nanos(times.period().as_nanos() / times.times.len() as u64)
            }
        }
    }
}

/// Times at which a number of bytes can be delivered, over and over: what a Mahimahi trace describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opportunities {
    /// Non-decreasing, not empty, the last one not zero.
    times: Vec<Duration>,
    /// Bytes of each.
    bytes: u64,
    /// Starts again after the last one, which is then time zero; otherwise nothing is sent any more.
    repeats: bool,
}

/// Why times are no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTrace {
    /// There is none.
    #[error("has no delivery opportunity: at least one line with a time in milliseconds is needed")]
    Empty,
    /// The trace takes no time.
    #[error("ends at time 0, so that it would repeat without end: the last time must be above 0")]
    NoTime,
    /// A time before the one before it; its index.
    #[error("goes back in time: times must not decrease")]
    Backwards(usize),
}

impl Opportunities {
    /// `bytes`, at least 1, at each of `times`.
    ///
    /// # Errors
    /// If there are none, they decrease, or the last one is zero.
    pub fn new(times: Vec<Duration>, bytes: u64, repeats: bool) -> Result<Self, NoTrace> {
        if let Some(before) = times.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(NoTrace::Backwards(before + 1));
        }
        match times.last() {
            None => Err(NoTrace::Empty),
            Some(last) if last.is_zero() => Err(NoTrace::NoTime),
            Some(_) => Ok(Self { times, bytes: bytes.max(1), repeats }),
        }
    }

    /// Mean rate in bits per second.
    pub fn mean_rate(&self) -> f64 {
        self.times.len() as f64 * self.bytes as f64 * 8.0 / self.period().as_secs_f64()
    }

    /// How many there are before it starts again.
    pub const fn count(&self) -> usize {
        self.times.len()
    }

    /// Bytes of each.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long it lasts.
    pub fn period(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }

    /// How many there have been at or before `now`.
    pub fn until(&self, now: Instant) -> u64 {
        let (period, count) = (self.period().as_nanos(), self.times.len() as u64);
        let now = now.as_nanos();
        if !self.repeats && now >= period {
            return count;
        }
        // Time zero of the next turn is the last time of this one.
        let (turns, within) = (now / period, Duration::from_nanos(now % period));
        turns * count + self.times.partition_point(|&time| time <= within) as u64
    }

    /// The time of opportunity `index`, counted from 0.
    pub fn nth(&self, index: u64) -> Instant {
        let count = self.times.len() as u64;
        if !self.repeats && index >= count {
            return Instant::FAR;
        }
        let turns = (index / count).saturating_mul(self.period().as_nanos());
        Instant::from_nanos(turns.saturating_add(self.times[(index % count) as usize].as_nanos()))
    }
}

/// A rate that changes at given times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateSteps {
    /// From when on, in nanoseconds, and the rate in bits per second (0: nothing passes). The first starts at 0.
    steps: Vec<(u64, u64)>,
    /// Starts again after this time in nanoseconds, in which this work can be done; otherwise the last rate stays.
    period: Option<(u64, u128)>,
}

impl RateSteps {
    /// Each rate for its duration; with `repeats` over and over, otherwise the last one stays. A rate of `None` stops the
    /// link.
    ///
    /// `None` if there is no step, one lasts no time, or nothing would ever pass again.
    pub fn new(steps: &[(Duration, Option<Rate>)], repeats: bool) -> Option<Self> {
        let (mut start, mut total) = (0_u64, 0_u128);
        let mut table = Vec::with_capacity(steps.len());
        for (duration, rate) in steps {
            if duration.is_zero() {
                return None;
            }
            let rate = rate.map_or(0, Rate::bits_per_sec);
            table.push((start, rate));
            let end = start.saturating_add(duration.as_nanos());
            total = total.saturating_add(u128::from(end - start) * u128::from(rate));
            start = end;
        }
        let goes_on = if repeats { table.iter().any(|step| step.1 > 0) } else { table.last()?.1 > 0 };
        goes_on.then_some(Self { steps: table, period: repeats.then_some((start, total)) })
    }

    /// In words: how many, how fast, for how long.
    pub fn summary(&self) -> String {
        let name = |bits: u64| match Rate::from_bits_per_sec(bits) {
            Some(rate) => rate.to_string(),
            None => "stopped".to_owned(),
        };
        let shown: Vec<String> = self.steps.iter().take(4).map(|step| name(step.1)).collect();
        let more = if self.steps.len() > 4 { ", ..." } else { "" };
        let end = match self.period {
            Some((period, _)) => format!("again every {}", Duration::from_nanos(period)),
            None => "the last one stays".to_owned(),
        };
        format!("{} steps ({}{more}), {end}", self.steps.len(), shown.join(", "))
    }

    fn highest(&self) -> u64 {
        self.steps.iter().map(|step| step.1).max().unwrap_or(0)
    }

    /// The clock after `left` of work that begins at `clock`, and the work that rounding puts off.
    fn after(&self, mut clock: u64, mut left: u128) -> (u64, u64) {
        if let Some((period, total)) = self.period
            && let Some(turns) = left.saturating_sub(1).checked_div(total)
        {
            // Whole turns, wherever in one they begin; some work is left for the last.
            let span = u64::try_from(turns).unwrap_or(u64::MAX).saturating_mul(period);
            let Some(after) = clock.checked_add(span) else { return (u64::MAX, 0) };
            clock = after;
            left -= turns * total;
        }
        loop {
            let base = self.period.map_or(0, |(period, _)| clock - clock % period);
            let index = self.steps.partition_point(|step| step.0 <= clock - base) - 1;
            let rate = u128::from(self.steps[index].1);
            let end = match self.steps.get(index + 1) {
                Some(next) => base.saturating_add(next.0),
                None => self.period.map_or(u64::MAX, |(period, _)| base.saturating_add(period)),
            };
            let room = u128::from(end - clock) * rate;
            if room >= left || end == u64::MAX {
                let Some(time) = left.checked_div(rate) else { return (u64::MAX, 0) };
                let time = u64::try_from(time).unwrap_or(u64::MAX);
                // What is put off is less than the rate, which has 64 bits.
                return (clock.saturating_add(time), (left % rate) as u64);
            }
            left -= room;
            clock = end;
        }
    }
}

#[cfg(test)]
mod tests {
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
        let step =
            |&(millis, bits): &(u64, u64)| (Duration::from_millis(millis), Rate::from_bits_per_sec(bits));
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
        let once =
            Service::Steps(Arc::new(steps(&[(1, 8_000_000), (2, 0), (1, 16_000_000)], false).unwrap()), 0);
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
}
