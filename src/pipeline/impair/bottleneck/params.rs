//! Parameters of a link with a queue of its own.

use std::fmt;
use std::sync::Arc;

use crate::pipeline::impair::bottleneck::Bottleneck;
use crate::pipeline::impair::{Blueprint, Directions, Place, Setting, text};
use crate::pipeline::link::capacity::{Opportunities, RateSteps};
use crate::pipeline::params::Share;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Bytes, Probability, Rate};

/// See [`crate::pipeline::params::ImpairmentParams::Bottleneck`].
#[derive(Debug, Clone, PartialEq)]
pub struct BottleneckParams {
    /// When the link can send, and how much.
    pub service: ServiceParams,
    /// Bytes that each packet costs on top of its IP length.
    pub overhead: i32,
    /// Largest number of wire packets in the queue, including the one being sent; `None`: no limit.
    pub packets: Option<u64>,
    /// Largest number of bytes in the queue, with overhead; `None`: no limit.
    pub bytes: Option<u64>,
    /// Which packets are dropped, and when.
    pub discipline: Discipline,
    /// Several paths go through this link.
    pub share: Option<Share>,
}

/// When a link can send how much.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceParams {
    /// At a rate.
    Rate(Rate),
    /// At a rate, behind a bucket of tokens for so many bytes.
    Bucket(Rate, u64, Option<PeakParams>),
    /// At a rate that changes with time.
    Steps(Arc<RateSteps>),
    /// A number of bytes at given times: a trace of Mahimahi.
    Opportunities(Arc<Opportunities>),
}

/// Limits how fast a burst leaves a token bucket: a second bucket, as tbf has with `peakrate` and `mtu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakParams {
    /// The rate of the second bucket, above the rate itself.
    pub rate: Rate,
    /// The size of the second bucket: bytes that leave at once.
    pub mtu: u64,
}

/// Which packets a queue drops, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Discipline {
    /// What comes to a full queue.
    TailDrop,
    /// The oldest, to make room for what comes to a full queue.
    HeadDrop,
    /// Controlled delay, RFC 8289; a full queue drops at its tail.
    CoDel(CoDelParams),
    /// Proportional integral controller enhanced, RFC 8033; a full queue drops at its tail.
    Pie(PieParams),
    /// Random early detection, Floyd and Jacobson 1993; a full queue drops at its tail.
    Red(RedParams),
}

/// Parameters of CoDel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoDelParams {
    /// Standing queue delay that is acceptable; 5 ms by default.
    pub target: Duration,
    /// How long it must be exceeded, about a worst-case RTT; 100 ms by default.
    pub interval: Duration,
    /// Mark ECN-capable packets instead of dropping them.
    pub ecn: bool,
}

impl Default for CoDelParams {
    fn default() -> Self {
        Self { target: Duration::from_millis(5), interval: Duration::from_millis(100), ecn: false }
    }
}

/// Parameters of PIE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieParams {
    /// Queue delay that is aimed at; 15 ms by default.
    pub target: Duration,
    /// Time between two updates of the drop probability; 15 ms by default.
    pub update: Duration,
    /// Burst that passes unharmed after an idle time; 150 ms by default.
    pub burst: Duration,
    /// Mark ECN-capable packets instead of dropping them while the probability is below 10 %.
    pub ecn: bool,
}

impl Default for PieParams {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { target: ms(15), update: ms(15), burst: ms(150), ecn: false }
    }
}

/// Parameters of RED, in wire packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RedParams {
    /// Mean queue below which nothing is dropped.
    pub min: f64,
    /// Mean queue at which the probability is `probability`; from here to twice this it rises to 1 ("gentle").
    pub max: f64,
    /// Drop probability at `max`; 10 % by default.
    pub probability: Probability,
    /// Weight of a new sample of the queue in its mean, 0 to 1; 0.002 by default.
    pub weight: f64,
    /// Mark ECN-capable packets instead of dropping them below twice `max`.
    pub ecn: bool,
}

impl RedParams {
    /// RED between these two limits, with the defaults for everything else.
    pub fn between(min: f64, max: f64) -> Self {
        let probability = Probability::new(0.1).unwrap_or(Probability::ONE);
        Self { min, max, probability, weight: 0.002, ecn: false }
    }
}

impl fmt::Display for BottleneckParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = text::queue(self.packets, self.bytes, None);
        let (overhead, share) = (text::overhead(self.overhead), text::share(self.share));
        write!(f, "{}{overhead}, {queue}, {}{share}", self.service, self.discipline)
    }
}

impl fmt::Display for ServiceParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "rate {rate}"),
            Self::Bucket(rate, burst, peak) => {
                write!(f, "rate {rate} after a burst of {}", Bytes(*burst))?;
                peak.map_or(Ok(()), |peak| {
                    write!(f, " at no more than {} ({} at once)", peak.rate, Bytes(peak.mtu))
                })
            }
            Self::Steps(steps) => write!(f, "rate in {}", steps.summary()),
            Self::Opportunities(times) => write!(
                f,
                "rate by a trace of {} delivery opportunities in {}, {:.3} Mbit/s on average",
                times.count(),
                times.period(),
                times.mean_rate() / 1e6
            ),
        }
    }
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ecn = |on: bool| if on { ", marking ECN-capable packets instead" } else { "" };
        match self {
            Self::TailDrop => f.write_str("drop at the tail"),
            Self::HeadDrop => f.write_str("drop at the head"),
            Self::CoDel(codel) => {
                write!(f, "CoDel (target {}, interval {}){}", codel.target, codel.interval, ecn(codel.ecn))
            }
            Self::Pie(pie) => {
                write!(f, "PIE (target {}, update {}){}", pie.target, pie.update, ecn(pie.ecn))
            }
            Self::Red(red) => write!(
                f,
                "RED (from {} to {} packets up to {}, weight {}){}",
                red.min,
                red.max,
                red.probability,
                red.weight,
                ecn(red.ecn)
            ),
        }
    }
}

impl Blueprint for BottleneckParams {
    type Stage = Box<Bottleneck>;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Box::new(Bottleneck::new(self, setting))
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod lawful {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::testing::laws::Lawful;
    use crate::pipeline::testing::strategy::{duration, probability, rate};

    fn service() -> impl Strategy<Value = ServiceParams> {
        let steps = vec((duration(), option::of(rate())), 1..5).prop_map(|steps| {
            // The last one stays: something passes in the end.
            let last = Rate::from_bits_per_sec(1_000_000).expect("a rate");
            let timed =
                |(duration, rate): &(Duration, Option<Rate>)| (*duration + Duration::from_nanos(1), *rate);
            let steps: Vec<_> =
                steps.iter().map(timed).chain([(Duration::from_nanos(1), Some(last))]).collect();
            ServiceParams::Steps(Arc::new(RateSteps::new(&steps, false).expect("a last rate")))
        });
        let times = vec(0..20_u64, 1..20).prop_map(|mut times| {
            times.sort_unstable();
            let times = times.into_iter().map(|time| Duration::from_millis(time + 1)).collect();
            let times = Opportunities::new(times, 1_504, true).expect("rising times");
            ServiceParams::Opportunities(Arc::new(times))
        });
        let peak = option::of((rate(), 68..5_000_u64))
            .prop_map(|peak| peak.map(|(rate, mtu)| PeakParams { rate, mtu }));
        let bucket = (rate(), 68..50_000_u64, peak)
            .prop_map(|(rate, burst, peak)| ServiceParams::Bucket(rate, burst, peak));
        prop_oneof![rate().prop_map(ServiceParams::Rate), bucket, steps, times]
    }

    fn discipline() -> impl Strategy<Value = Discipline> {
        let above_zero = || (1..20_000_000_u64).prop_map(Duration::from_nanos);
        prop_oneof![
            Just(Discipline::TailDrop),
            Just(Discipline::HeadDrop),
            (above_zero(), above_zero(), any::<bool>())
                .prop_map(|(target, interval, ecn)| Discipline::CoDel(CoDelParams { target, interval, ecn })),
            (above_zero(), above_zero(), duration(), any::<bool>()).prop_map(
                |(target, update, burst, ecn)| Discipline::Pie(PieParams { target, update, burst, ecn })
            ),
            (0.0..5.0, 0.1..9.0, probability(), 0.001..1.0, any::<bool>()).prop_map(
                |(min, above, probability, weight, ecn)| {
                    Discipline::Red(RedParams { min, max: min + above, probability, weight, ecn })
                }
            ),
        ]
    }

    impl Lawful for BottleneckParams {
        fn strategy() -> BoxedStrategy<Self> {
            let limits = (option::of(1..50_u64), option::of(1_500..50_000_u64));
            (service(), -20..60_i32, limits, discipline())
                .prop_map(|(service, overhead, (packets, bytes), discipline)| Self {
                    service,
                    overhead,
                    packets,
                    bytes,
                    discipline,
                    share: None,
                })
                .boxed()
        }

        fn shares_state(&self) -> bool {
            true
        }
    }
}
