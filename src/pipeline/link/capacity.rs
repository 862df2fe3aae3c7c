//! When a link can send, and how much: at a rate, at a rate that changes, or at given times.
//!
//! Each kind counts what it has sent in a clock of its own, one 64-bit number that the workers share: nanoseconds for
//! the rates (see `link`), bytes for opportunities. A packet that comes to an idle link starts at [`Service::at`] its
//! arrival; capacity before that is lost. A packet that had to wait starts where the one before it ended.

use crate::pipeline::link::turn::{Turn, carried_at, round_up, spend, work};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;

/// A link's service, with what it needs to go on exactly.
#[derive(Debug, Clone)]
pub enum Service {
    /// A constant rate, and the work that rounding has carried over.
    Rate(Rate, u64),
    /// A constant rate behind a bucket of tokens: so many bytes go at once after a rest. Rate, the work that rounding put
    /// off, and the time of the bucket in nanoseconds.
    Bucket(Rate, u64, u64),
    /// A changing rate, and the work that rounding has carried over.
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

    /// The time at which the packet that was sent last, and ends at `clock`, has left.
    pub fn ends(&self, clock: u64) -> Instant {
        match self {
            Self::Rate(_, carried) | Self::Steps(_, carried) => round_up(clock, *carried),
            // It leaves as a whole once there are tokens for all of it.
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

/// Times at which a number of bytes can be delivered, repeated: what a Mahimahi trace describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opportunities {
    /// Non-decreasing, not empty, the last one not zero.
    times: Vec<Duration>,
    /// Bytes of each opportunity.
    bytes: u64,
    /// Starts again after the last time, which is then time zero; otherwise nothing is sent after it.
    repeats: bool,
}

/// Why times are not a valid trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTrace {
    /// There are no times.
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
        // Time zero of the next round is the last time of this one.
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
    /// The start of each rate in nanoseconds, and the rate in bits per second (0: nothing passes). The first starts
    /// at 0.
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

    /// The clock after `left` of work that begins at `clock`, and the work that rounding carries over.
    fn after(&self, mut clock: u64, mut left: u128) -> (u64, u64) {
        if let Some((period, total)) = self.period
            && let Some(turns) = left.saturating_sub(1).checked_div(total)
        {
            // Whole rounds, wherever in a round they begin; some work is left for the last one.
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
                // The work that is carried over is less than the rate, which has 64 bits.
                return (clock.saturating_add(time), (left % rate) as u64);
            }
            left -= room;
            clock = end;
        }
    }
}

#[cfg(test)]
mod tests;
