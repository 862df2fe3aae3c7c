//! A rate with a queue of its own, or one that changes with time: `rate 10mbit queue 100ms codel steps 10s 100% 5s 20%`.
//!
//! tc's `rate` shares its `limit` with the delay line. With `queue` or `steps`, the rate becomes a stage of type
//! `rate` in front of the netem stage.

use std::sync::Arc;

use crate::config::spec::arguments::Arguments;
use crate::config::spec::words::at;
use crate::config::spec::{SpecProblem, units};
use crate::pipeline::link::capacity::RateSteps;
use crate::pipeline::params::{
    BottleneckParams, CoDelParams, Discipline, Excess, ImpairmentParams, NetemRate, PieParams, RateParams,
    RedParams, ServiceParams, StageParams,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate, UnitError, saturating};

/// What may follow the depth of a queue.
pub(super) const DISCIPLINES: &[&str] =
    &["tail-drop", "head-drop", "codel", "pie", "red", "target", "interval", "ecn"];

/// The words that make one link together.
pub(super) const WORDS: [&str; 3] = ["rate", "queue", "steps"];

/// Default queue length, in packets, of a rate without a limit, as of a device.
pub(in crate::config) const DEFAULT_QUEUE: u64 = 1_000;

/// What has been read of a link, without its rate.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) queue: Option<Queue>,
    pub(super) steps: Option<Steps>,
}

#[derive(Debug, Clone, Copy)]
enum Depth {
    Packets(u64),
    Bytes(u64),
    Time(Duration),
}

/// `DEPTH [DISCIPLINE]`.
#[derive(Debug)]
pub(super) struct Queue {
    depth: Depth,
    discipline: Discipline,
}

/// `TIME SPEED ... [repeat]`.
#[derive(Debug)]
pub(super) struct Steps {
    steps: Vec<(Duration, Speed)>,
    repeats: bool,
}

/// How fast a link is in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) enum Speed {
    /// Nothing passes.
    Stopped,
    Rate(Rate),
    /// A share of the link's rate.
    Share(Probability),
}

impl Speed {
    /// The rate, if the link's rate is `whole`; `None` if nothing passes. An error if there is no `whole` for a
    /// share.
    pub(in crate::config) fn of(self, whole: Option<Rate>) -> Result<Option<Rate>, ()> {
        match (self, whole) {
            (Self::Stopped, _) => Ok(None),
            (Self::Rate(rate), _) => Ok(Some(rate)),
            (Self::Share(share), Some(whole)) => {
                let bits = (whole.bits_per_sec() as f64 * share.as_f64()).round();
                Ok(Rate::from_bits_per_sec(saturating(bits)))
            }
            (Self::Share(_), None) => Err(()),
        }
    }
}

/// `50%`, or a rate that `rate` reads.
pub(in crate::config) fn speed(
    text: &str,
    rate: impl Fn(&str) -> Result<Rate, UnitError>,
) -> Result<Speed, UnitError> {
    match text {
        "stopped" => Ok(Speed::Stopped),
        _ if text.ends_with('%') => text.parse().map(Speed::Share),
        _ => rate(text).map(Speed::Rate),
    }
}

/// Reads what follows `queue`.
pub(super) fn queue(arguments: &mut Arguments<'_, '_>) -> Result<Queue, SpecProblem> {
    const EXAMPLE: &str = "queue 100ms, queue 64kb or queue 100";
    let Some(token) = arguments.tokens.next_number() else {
        return Err(arguments.missing("a depth: a time, bytes or packets", EXAMPLE));
    };
    let is_count = token.text.bytes().all(|byte| byte.is_ascii_digit());
    let depth = if token.text.ends_with('s') {
        units::time(token.text).map(Depth::Time)
    } else {
        units::size(token.text).map(if is_count { Depth::Packets } else { Depth::Bytes })
    };
    let depth = depth.map_err(|error| at(&token, error.what, format!("as in \"{EXAMPLE}\"")))?;
    let fits = match depth {
        Depth::Packets(count) | Depth::Bytes(count) => (1..=u64::from(u32::MAX)).contains(&count),
        Depth::Time(time) => !time.is_zero(),
    };
    if !fits {
        let hint = format!("more than 0, and at most {} packets or bytes", u32::MAX);
        return Err(at(&token, format!("\"{}\" is out of range", token.text), hint));
    }
    Ok(Queue { depth, discipline: discipline(arguments)? })
}

fn discipline(arguments: &mut Arguments<'_, '_>) -> Result<Discipline, SpecProblem> {
    if arguments.flag("head-drop") {
        return Ok(Discipline::HeadDrop);
    }
    if arguments.flag("codel") {
        let usual = CoDelParams::default();
        let target = time(arguments, "target", usual.target)?;
        let interval = time(arguments, "interval", usual.interval)?;
        return Ok(Discipline::CoDel(CoDelParams { target, interval, ecn: arguments.flag("ecn") }));
    }
    if arguments.flag("pie") {
        let usual = PieParams::default();
        let target = time(arguments, "target", usual.target)?;
        return Ok(Discipline::Pie(PieParams { target, ecn: arguments.flag("ecn"), ..usual }));
    }
    if arguments.flag("red") {
        return red(arguments).map(Discipline::Red);
    }
    arguments.flag("tail-drop");
    Ok(Discipline::TailDrop)
}

/// `[target TIME]`, and the like.
fn time(
    arguments: &mut Arguments<'_, '_>,
    word: &'static str,
    usual: Duration,
) -> Result<Duration, SpecProblem> {
    if !arguments.flag(word) {
        return Ok(usual);
    }
    arguments.required(units::span, &format!("a time behind \"{word}\""), "queue 100ms codel target 5ms")
}

/// `MIN MAX [P%] [ecn]`.
fn red(arguments: &mut Arguments<'_, '_>) -> Result<RedParams, SpecProblem> {
    const EXAMPLE: &str = "queue 100 red 5 15 10%";
    let min: u32 = arguments.count(0..=1_000_000, EXAMPLE)?;
    let start = arguments.place();
    let max: u32 = arguments.count(1..=1_000_000, EXAMPLE)?;
    if max <= min {
        let (what, hint) = (format!("{max} is not above {min}"), format!("as in \"{EXAMPLE}\""));
        return Err(SpecProblem { at: start..arguments.place(), what, hint });
    }
    let usual = RedParams::between(min.into(), max.into());
    let probability = arguments.optional(units::percent)?.unwrap_or(usual.probability);
    Ok(RedParams { probability, ecn: arguments.flag("ecn"), ..usual })
}

/// Reads what follows `steps`.
pub(super) fn steps(arguments: &mut Arguments<'_, '_>) -> Result<Steps, SpecProblem> {
    const EXAMPLE: &str = "steps 10s 100% 5s 20% repeat";
    let mut steps = Vec::new();
    while let Some(length) = arguments.optional(units::span)? {
        let speed = if arguments.flag("stopped") {
            Speed::Stopped
        } else {
            let read = |text: &str| speed(text, units::rate);
            arguments.required(read, "a share or a rate for each time", EXAMPLE)?
        };
        steps.push((length, speed));
    }
    if steps.is_empty() {
        return Err(arguments.missing("times and shares of the rate", EXAMPLE));
    }
    Ok(Steps { steps, repeats: arguments.flag("repeat") })
}

/// An error in a link: what is wrong, and how to write it correctly.
type Flaw = (String, &'static str);

impl Link {
    /// Whether more than tc's `rate` was given.
    pub(super) const fn is_asked(&self) -> bool {
        self.queue.is_some() || self.steps.is_some()
    }

    /// The stage made from tc's `rate` and the other words; or the word that is wrong, and why.
    pub(super) fn stage(&self, rate: Option<&NetemRate>) -> Result<StageParams, (&'static str, Flaw)> {
        let cells = rate.is_some_and(|rate| rate.cell_size != 0 || rate.cell_overhead != 0);
        if cells {
            let what = "cells belong to tc's rate, without queue and steps".to_owned();
            return Err(("rate", (what, "write the overhead alone, as in \"rate 10mbit 38 queue 100ms\"")));
        }
        let overhead = rate.map_or(0, |rate| rate.packet_overhead);
        let (whole, usual) = (rate.map(|rate| rate.rate), Depth::Packets(DEFAULT_QUEUE));
        let (depth, discipline) = self
            .queue
            .as_ref()
            .map_or((usual, Discipline::TailDrop), |queue| (queue.depth, queue.discipline));
        let impairment = match (&self.steps, whole) {
            (Some(steps), _) => {
                let service =
                    ServiceParams::Steps(Arc::new(steps.table(whole).map_err(|flaw| ("steps", flaw))?));
                bottleneck(service, overhead, None, depth, discipline)?
            }
            (None, Some(rate)) if discipline == Discipline::TailDrop => {
                let (packets, bytes, time) = match depth {
                    Depth::Packets(packets) => (Some(packets), None, None),
                    Depth::Bytes(bytes) => (None, Some(bytes), None),
                    Depth::Time(time) => (None, None, Some(time)),
                };
                let excess = Excess::Queue { packets, bytes, time };
                ImpairmentParams::Rate(RateParams { rate, excess, overhead, share: None })
            }
            (None, Some(rate)) => {
                bottleneck(ServiceParams::Rate(rate), overhead, Some(rate), depth, discipline)?
            }
            (None, None) => {
                let what = "\"queue\" needs a rate".to_owned();
                return Err(("queue", (what, "as in \"rate 10mbit queue 100ms\"")));
            }
        };
        Ok(super::stage("rate", impairment))
    }
}

/// A queue with a discipline. A depth given as a time is converted to bytes at the constant rate.
fn bottleneck(
    service: ServiceParams,
    overhead: i32,
    rate: Option<Rate>,
    depth: Depth,
    discipline: Discipline,
) -> Result<ImpairmentParams, (&'static str, Flaw)> {
    let (packets, bytes) = match (depth, rate) {
        (Depth::Packets(packets), _) => (Some(packets), None),
        (Depth::Bytes(bytes), _) => (None, Some(bytes)),
        (Depth::Time(time), Some(rate)) => {
            let bits = u128::from(rate.bits_per_sec()) * u128::from(time.as_nanos()) / 1_000_000_000;
            (None, Some(u64::try_from(bits / 8).unwrap_or(u64::MAX).max(1)))
        }
        (Depth::Time(_), None) => {
            let what = "a time can limit a queue only at a constant rate".to_owned();
            return Err(("queue", (what, "limit bytes or packets, as in \"queue 64kb\"")));
        }
    };
    let params = BottleneckParams { service, overhead, packets, bytes, discipline, share: None };
    Ok(ImpairmentParams::Bottleneck(Box::new(params)))
}

impl Steps {
    fn table(&self, whole: Option<Rate>) -> Result<RateSteps, Flaw> {
        let of = |&(length, speed): &(Duration, Speed)| speed.of(whole).map(|rate| (length, rate));
        let steps = self.steps.iter().map(of).collect::<Result<Vec<_>, ()>>().map_err(|()| {
            let what = "a share needs the rate that it is a share of".to_owned();
            (what, "as in \"rate 10mbit steps 10s 100% 5s 20%\"")
        })?;
        RateSteps::new(&steps, self.repeats).ok_or_else(|| {
            let what = "these steps block all packets at the end".to_owned();
            (what, "end with a rate or a share above 0%, or write repeat behind one")
        })
    }
}
