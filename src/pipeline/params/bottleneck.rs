//! Parameters of a link with a queue of its own.

use std::sync::Arc;

use crate::pipeline::service::{Opportunities, RateSteps};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// See [`super::ImpairmentParams::Bottleneck`].
#[derive(Debug, Clone, PartialEq)]
pub struct BottleneckParams {
    /// When the link can send how much.
    pub service: ServiceParams,
    /// Bytes that each packet costs on top of its IP length.
    pub overhead: i32,
    /// What may wait, in wire packets, the one being sent included; `None`: no limit.
    pub packets: Option<u64>,
    /// What may wait in bytes, with overhead; `None`: no limit.
    pub bytes: Option<u64>,
    /// Who is dropped, and when.
    pub discipline: Discipline,
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

/// How fast a burst goes out of a bucket of tokens at the most: a second bucket, as tbf has with `peakrate` and `mtu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakParams {
    /// Above the rate itself.
    pub rate: Rate,
    /// Bytes that go at once even so.
    pub mtu: u64,
}

/// Whom a queue drops, and when.
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

/// Parameters of RED, in wire packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RedParams {
    /// Mean queue below which nothing is dropped.
    pub min: f64,
    /// Mean queue at which the probability is `probability`; from here to twice this it rises to 1 ("gentle").
    pub max: f64,
    /// At `max`; 10 % by default.
    pub probability: Probability,
    /// Weight of a new sample of the queue in its mean, 0 to 1; 0.002 by default.
    pub weight: f64,
    /// Mark ECN-capable packets instead of dropping them below twice `max`.
    pub ecn: bool,
}
