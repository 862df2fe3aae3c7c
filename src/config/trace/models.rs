//! Bandwidth models as JSON, in the format of the netem-trace library: a sequence of rates, each for a time.
//!
//! The library itself is not used: a pattern without length makes it recurse forever. Random values of a model are
//! drawn from the model's `seed`, but not with the library's generator.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error, Visitor};

use crate::pipeline::link::capacity::RateSteps;
use crate::pipeline::normal_quantile;
use crate::pipeline::random::rng::{StageKey, Stream};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Rate, saturating, split_number};

/// Maximum number of steps that are made from a model: more than a day at 100 ms.
pub(super) const MOST_STEPS: usize = 1_000_000;
/// Maximum depth of patterns within patterns.
pub(super) const MOST_DEPTH: usize = 32;

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bandwidth(f64);

/// A model by its name in the library.
#[derive(Debug, Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the names of the format")]
enum Model {
    StaticBwConfig(Static),
    NormalizedBwConfig(Normalized),
    SawtoothBwConfig(Sawtooth),
    RepeatedBwPatternConfig(Repeated),
    TraceBwConfig(Trace),
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Static {
    bw: Bandwidth,
    duration: Span,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Normalized {
    mean: Bandwidth,
    std_dev: Bandwidth,
    lower_bound: Option<Bandwidth>,
    upper_bound: Option<Bandwidth>,
    duration: Span,
    step: Span,
    seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sawtooth {
    bottom: Bandwidth,
    top: Bandwidth,
    interval: Span,
    duty_ratio: f64,
    duration: Span,
    step: Span,
    seed: u64,
    std_dev: Bandwidth,
    lower_noise_bound: Option<Bandwidth>,
    upper_noise_bound: Option<Bandwidth>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Repeated {
    pattern: Vec<Model>,
    /// 0: repeats forever.
    count: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Trace {
    pattern: Vec<(Span, Vec<Bandwidth>)>,
}

const MBIT: f64 = 1e6;

impl Default for Static {
    fn default() -> Self {
        Self { bw: Bandwidth(12.0 * MBIT), duration: Span::SECOND }
    }
}

impl Default for Normalized {
    fn default() -> Self {
        Self {
            mean: Bandwidth(12.0 * MBIT),
            std_dev: Bandwidth(0.0),
            lower_bound: None,
            upper_bound: None,
            duration: Span::SECOND,
            step: Span(Duration::from_millis(1)),
            seed: 42,
        }
    }
}

impl Default for Sawtooth {
    fn default() -> Self {
        Self {
            bottom: Bandwidth(0.0),
            top: Bandwidth(12.0 * MBIT),
            interval: Span::SECOND,
            duty_ratio: 0.5,
            duration: Span::SECOND,
            step: Span(Duration::from_millis(1)),
            seed: 42,
            std_dev: Bandwidth(0.0),
            lower_noise_bound: None,
            upper_noise_bound: None,
        }
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    pub(super) const SECOND: Self = Self(Duration::from_secs(1));
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            gbps: u64,
            bps: u64,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Bandwidth;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"12Mbps\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bandwidth, E> {
                bits(text)
                    .map(Bandwidth)
                    .ok_or_else(|| E::custom(format!("{text:?} is not a rate; try \"12Mbps\"")))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Bandwidth, A::Error> {
                let parts = Parts::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Bandwidth(parts.gbps as f64 * 1e9 + parts.bps as f64))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            secs: u64,
            nanos: u64,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"100ms\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                // Several parts, as in "1m 30s", add up.
                let parts = text.split_whitespace().map(str::parse::<Duration>);
                let sum = parts.map(Result::ok).try_fold(Duration::ZERO, |sum, part| Some(sum + part?));
                let sum = sum.filter(|_| !text.trim().is_empty());
                sum.map(Span).ok_or_else(|| E::custom(format!("{text:?} is not a time; try \"100ms\"")))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Span, A::Error> {
                let parts = Parts::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let nanos = parts.secs.saturating_mul(1_000_000_000).saturating_add(parts.nanos);
                Ok(Span(Duration::from_nanos(nanos)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `12Mbps`, the format's syntax: bits, in powers of a thousand; may be zero.
fn bits(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 5] =
        [("bps", 1.0), ("kbps", 1e3), ("mbps", 1e6), ("gbps", 1e9), ("tbps", 1e12)];
    let (number, unit) = split_number(text.trim())?;
    let unit = unit.trim().to_lowercase();
    let (_, factor) = UNITS.iter().find(|known| known.0 == unit)?;
    (number >= 0.0).then_some(number * factor)
}

/// The steps of the model in `text`; repeated if the model or `repeats` says so.
pub(super) fn steps(text: &str, repeats: Option<bool>) -> Result<RateSteps, String> {
    let model: Model =
        serde_json::from_str(text).map_err(|error| format!("is not a bandwidth model: {error}"))?;
    let mut steps = Steps { list: Vec::new() };
    let endless = match &model {
        Model::RepeatedBwPatternConfig(repeated) => repeated.count == 0,
        _ => false,
    };
    steps.add(&model, true, 0)?;
    RateSteps::new(&steps.list, repeats.unwrap_or(endless)).ok_or_else(|| {
        "would block all packets at the end: it has no step, or ends with a rate of 0".to_owned()
    })
}

struct Steps {
    list: Vec<(Duration, Option<Rate>)>,
}

impl Steps {
    fn push(&mut self, bits: f64, span: Duration) -> Result<(), String> {
        if span.is_zero() {
            return Ok(());
        }
        if self.list.len() == MOST_STEPS {
            return Err(format!("has more than {MOST_STEPS} steps"));
        }
        self.list.push((span, Rate::from_bits_per_sec(saturating(bits))));
        Ok(())
    }

    /// Adds the steps of `model`; of an endless one, a single round, which is everything if it is the `outermost`
    /// model.
    fn add(&mut self, model: &Model, outermost: bool, depth: usize) -> Result<(), String> {
        if depth > MOST_DEPTH {
            return Err(format!("has patterns more than {MOST_DEPTH} deep"));
        }
        match model {
            Model::StaticBwConfig(model) => self.push(model.bw.0, model.duration.0),
            Model::NormalizedBwConfig(model) => {
                let stream = noise(model.seed);
                let (low, high) = (bound(model.lower_bound, 0.0), bound(model.upper_bound, f64::MAX));
                self.sampled(model.duration, model.step, |index, _| {
                    (model.mean.0 + model.std_dev.0 * normal(stream, index)).max(low).min(high)
                })
            }
            Model::SawtoothBwConfig(model) => {
                let stream = noise(model.seed);
                let interval = model.interval.0.as_secs_f64().max(1e-9);
                let turn = interval * model.duty_ratio.clamp(0.0, 1.0);
                self.sampled(model.duration, model.step, |index, at| {
                    let into = at % interval;
                    let span = model.top.0 - model.bottom.0;
                    let base = if into < turn {
                        model.bottom.0 + span * into / turn
                    } else {
                        model.top.0 - span * (into - turn) / (interval - turn).max(1e-9)
                    };
                    let noise = model.std_dev.0 * normal(stream, index);
                    let high = bound(model.upper_noise_bound, f64::MAX);
                    base + noise.min(high).max(-bound(model.lower_noise_bound, f64::MAX))
                })
            }
            Model::RepeatedBwPatternConfig(model) if model.count == 0 && !outermost => {
                Err("has a pattern without end (count 0) inside another: the patterns after it would never be reached"
                    .to_owned())
            }
            Model::RepeatedBwPatternConfig(model) => {
                for _ in 0..model.count.max(1) {
                    let before = self.list.len();
                    for part in &model.pattern {
                        self.add(part, false, depth + 1)?;
                    }
                    // A pattern without length gives no steps, however often it is repeated.
                    if self.list.len() == before {
                        break;
                    }
                }
                Ok(())
            }
            Model::TraceBwConfig(model) => {
                for (span, rates) in &model.pattern {
                    for rate in rates {
                        self.push(rate.0, span.0)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// A rate for each `step`, from the step's number and its time in seconds.
    fn sampled(&mut self, duration: Span, step: Span, rate: impl Fn(u64, f64) -> f64) -> Result<(), String> {
        if step.0.is_zero() {
            return Err("has a step without length".to_owned());
        }
        let (mut at, mut index) = (Duration::ZERO, 0);
        while at < duration.0 {
            let left = Duration::from_nanos(duration.0.as_nanos() - at.as_nanos());
            self.push(rate(index, at.as_secs_f64()), left.min(step.0))?;
            at = at + step.0;
            index += 1;
        }
        Ok(())
    }
}

fn bound(bound: Option<Bandwidth>, default: f64) -> f64 {
    bound.map_or(default, |bound| bound.0)
}

fn noise(seed: u64) -> Stream {
    StageKey::new(seed, "bandwidth").stream(0, 0)
}

fn normal(stream: Stream, index: u64) -> f64 {
    normal_quantile(stream.unit(index, 0).max(1e-12))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match steps(text, None) {
            Ok(steps) => steps.summary(),
            Err(error) => error,
        }
    }

    /// The library's own example, in both of its notations.
    #[test]
    fn patterns_are_read_in_both_notations() {
        let human = r#"{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{"bw":"12Mbps","duration":"1s"}},
            {"StaticBwConfig":{"bw":"24Mbps","duration":"1s 500ms"}}],"count":2}}"#;
        assert_eq!(said(human), "4 steps (12 Mbit/s, 24 Mbit/s, 12 Mbit/s, 24 Mbit/s), the last one stays");
        let parts = r#"{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{"bw":{"gbps":1,"bps":5000000},
            "duration":{"secs":0,"nanos":5000000}}}],"count":0}}"#;
        assert_eq!(said(parts), "1 steps (1.005 Gbit/s), again every 5ms");
        let trace = r#"{"TraceBwConfig":{"pattern":[["25ms",["10Mbps","20Mbps"]],["2ms",["1Mbps"]]]}}"#;
        assert_eq!(said(trace), "3 steps (10 Mbit/s, 20 Mbit/s, 1 Mbit/s), the last one stays");
        assert_eq!(said(r#"{"StaticBwConfig":{}}"#), "1 steps (12 Mbit/s), the last one stays");
    }

    #[test]
    fn a_sawtooth_goes_up_and_down() {
        let text = r#"{"SawtoothBwConfig":{"bottom":"10Mbps","top":"20Mbps","interval":"4s","duty_ratio":0.5,
            "duration":"5s","step":"1s"}}"#;
        assert_eq!(
            said(text),
            "5 steps (10 Mbit/s, 15 Mbit/s, 20 Mbit/s, 15 Mbit/s, ...), the last one stays"
        );
    }

    #[test]
    fn noise_is_normal_within_its_bounds_and_the_same_by_the_seed() {
        let text = |seed: u64| {
            format!(
                r#"{{"NormalizedBwConfig":{{"mean":"100Mbps","std_dev":"10Mbps","lower_bound":"95Mbps","duration":"1s",
                "step":"1ms","seed":{seed}}}}}"#
            )
        };
        let of = |seed| steps(&text(seed), None).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_nothing_hangs() {
        let deep = format!(
            "{}{{\"StaticBwConfig\":{{}}}}{}",
            r#"{"RepeatedBwPatternConfig":{"count":1,"pattern":["#.repeat(40),
            "]}}".repeat(40)
        );
        for (text, word) in [
            ("", "is not a bandwidth model"),
            ("{}", "is not a bandwidth model"),
            (r#"{"StaticBwConfig":{"bw":"fast"}}"#, "\"fast\" is not a rate"),
            (r#"{"StaticBwConfig":{"duration":"long"}}"#, "\"long\" is not a time"),
            (r#"{"StaticBwConfig":{"speed":1}}"#, "unknown field `speed`"),
            (r#"{"StaticBwConfig":{"bw":"0Mbps"}}"#, "block all packets"),
            (
                r#"{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{"duration":"0s"}}],"count":0}}"#,
                "block all packets",
            ),
            (
                r#"{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{"duration":"0s"}}],"count":99999999999}}"#,
                "block all packets",
            ),
            (
                r#"{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{}}],"count":99999999999}}"#,
                "more than 1000000 steps",
            ),
            (r#"{"NormalizedBwConfig":{"step":"0s"}}"#, "without length"),
            (deep.as_str(), "more than 32 deep"),
        ] {
            assert!(said(text).contains(word), "{text}: {}", said(text));
        }
        let inner = r#"{"RepeatedBwPatternConfig":{"pattern":[{"RepeatedBwPatternConfig":{"pattern":[{"StaticBwConfig":{}}]}}],"count":1}}"#;
        assert!(said(inner).contains("inside another"), "{}", said(inner));
    }
}
