//! Models of delay, loss and copies as JSON, in the format of the netem-trace library: a sequence of values, each for
//! a time.

use serde::Deserialize;

use super::models::{MOST_DEPTH, MOST_STEPS, Span};
use crate::pipeline::params::Timetable;
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

/// Maximum number of probabilities in a pattern.
const MOST_CHANCES: usize = 1_000;

/// A model by its name in the library.
#[derive(Debug, Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the names of the format")]
enum Model {
    StaticDelayConfig(StaticDelay),
    RepeatedDelayPatternConfig(Repeated),
    StaticLossConfig(StaticLoss),
    RepeatedLossPatternConfig(Repeated),
    StaticDuplicateConfig(StaticDuplicate),
    RepeatedDuplicatePatternConfig(Repeated),
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StaticDelay {
    delay: Span,
    duration: Span,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StaticLoss {
    loss: Vec<f64>,
    duration: Span,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StaticDuplicate {
    duplicate: Vec<f64>,
    duration: Span,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Repeated {
    pattern: Vec<Model>,
    /// 0: repeats forever.
    count: u64,
}

// The library's defaults.

impl Default for StaticDelay {
    fn default() -> Self {
        Self { delay: Span(Duration::from_millis(10)), duration: Span::SECOND }
    }
}

impl Default for StaticLoss {
    fn default() -> Self {
        Self { loss: vec![0.1, 0.2], duration: Span::SECOND }
    }
}

impl Default for StaticDuplicate {
    fn default() -> Self {
        Self { duplicate: vec![0.1, 0.2], duration: Span::SECOND }
    }
}

/// The quantity that a model describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delay,
    Loss,
    Duplicate,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::Duplicate => "copies",
        }
    }
}

impl Model {
    const fn kind(&self) -> Kind {
        match self {
            Self::StaticDelayConfig(_) | Self::RepeatedDelayPatternConfig(_) => Kind::Delay,
            Self::StaticLossConfig(_) | Self::RepeatedLossPatternConfig(_) => Kind::Loss,
            Self::StaticDuplicateConfig(_) | Self::RepeatedDuplicatePatternConfig(_) => Kind::Duplicate,
        }
    }

    const fn repeated(&self) -> Option<&Repeated> {
        match self {
            Self::RepeatedDelayPatternConfig(repeated)
            | Self::RepeatedLossPatternConfig(repeated)
            | Self::RepeatedDuplicatePatternConfig(repeated) => Some(repeated),
            _ => None,
        }
    }
}

/// The delays of the model in `text`; repeated if the model or `repeats` says so.
pub(super) fn delays(text: &str, repeats: Option<bool>) -> Result<Timetable<Duration>, String> {
    timetable(text, Kind::Delay, repeats, &|model| match model {
        Model::StaticDelayConfig(model) => Ok((model.duration.0, model.delay.0)),
        _ => Ok((Duration::ZERO, Duration::ZERO)),
    })
}

/// The patterns of a model of loss, as [`delays`].
pub(super) fn losses(text: &str, repeats: Option<bool>) -> Result<Timetable<Vec<Probability>>, String> {
    timetable(text, Kind::Loss, repeats, &|model| match model {
        Model::StaticLossConfig(model) => Ok((model.duration.0, chances(&model.loss)?)),
        _ => Ok((Duration::ZERO, Vec::new())),
    })
}

/// The patterns of a model of copies, as [`delays`].
pub(super) fn copies(text: &str, repeats: Option<bool>) -> Result<Timetable<Vec<Probability>>, String> {
    timetable(text, Kind::Duplicate, repeats, &|model| match model {
        Model::StaticDuplicateConfig(model) => Ok((model.duration.0, chances(&model.duplicate)?)),
        _ => Ok((Duration::ZERO, Vec::new())),
    })
}

fn chances(numbers: &[f64]) -> Result<Vec<Probability>, String> {
    if numbers.is_empty() || numbers.len() > MOST_CHANCES {
        return Err(format!(
            "has a pattern of {} probabilities; it must have 1 to {MOST_CHANCES}",
            numbers.len()
        ));
    }
    let chance = |&number: &f64| {
        Probability::new(number).ok_or_else(|| format!("has the probability {number}; it must be 0 to 1"))
    };
    numbers.iter().map(chance).collect()
}

fn timetable<T: Clone>(
    text: &str,
    kind: Kind,
    repeats: Option<bool>,
    value: &impl Fn(&Model) -> Result<(Duration, T), String>,
) -> Result<Timetable<T>, String> {
    let told = |error| format!("is not a model of {}: {error}", kind.name());
    let model: Model = serde_json::from_str(text).map_err(told)?;
    let mut values = Vec::new();
    add(&model, kind, 0, value, &mut values)?;
    let endless = model.repeated().is_some_and(|repeated| repeated.count == 0);
    Timetable::new(values, repeats.unwrap_or(endless)).ok_or_else(|| "has no step that lasts".to_owned())
}

/// Adds the values of `model`; of an endless one, a single round.
fn add<T: Clone>(
    model: &Model,
    kind: Kind,
    depth: usize,
    value: &impl Fn(&Model) -> Result<(Duration, T), String>,
    values: &mut Vec<(Duration, T)>,
) -> Result<(), String> {
    if depth > MOST_DEPTH {
        return Err(format!("has patterns more than {MOST_DEPTH} deep"));
    }
    if model.kind() != kind {
        return Err(format!("has a model of {}, not of {}", model.kind().name(), kind.name()));
    }
    let Some(repeated) = model.repeated() else {
        let step = value(model)?;
        if values.len() == MOST_STEPS {
            return Err(format!("has more than {MOST_STEPS} steps"));
        }
        // A value with no duration is skipped, as in the library.
        values.extend((!step.0.is_zero()).then_some(step));
        return Ok(());
    };
    if repeated.count == 0 && depth > 0 {
        return Err(
            "has a pattern without end (count 0) inside another: the patterns after it would never be reached".to_owned()
        );
    }
    for _ in 0..repeated.count.max(1) {
        let before = values.len();
        for inner in &repeated.pattern {
            add(inner, kind, depth + 1, value, values)?;
        }
        // Rounds without length would never end.
        if values.len() == before {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The library's own examples, in both of its notations.
    #[test]
    fn models_are_read_in_both_notations() {
        let human = r#"{"RepeatedDelayPatternConfig":{"pattern":[{"StaticDelayConfig":{"delay":"10ms","duration":"1s"}},
            {"StaticDelayConfig":{"delay":"20ms","duration":"1s"}}],"count":2}}"#;
        let parts = r#"{"RepeatedDelayPatternConfig":{"pattern":[{"StaticDelayConfig":{"delay":{"secs":0,"nanos":10000000},
            "duration":{"secs":1,"nanos":0}}},{"StaticDelayConfig":{"delay":{"secs":0,"nanos":20000000}}}],"count":2}}"#;
        let expected = Timetable::new([10, 20, 10, 20].map(|delay| (ms(1_000), ms(delay))).to_vec(), false);
        for text in [human, parts] {
            assert_eq!(delays(text, None).ok(), expected);
        }
        assert_eq!(delays(human, Some(true)).unwrap().period(), Some(ms(4_000)));
        let endless = human.replace("\"count\":2", "\"count\":0");
        assert_eq!(delays(&endless, None).unwrap().period(), Some(ms(2_000)));
        assert_eq!(delays(r#"{"StaticDelayConfig":{}}"#, None).unwrap().values().next(), Some(&ms(10)));
        let loss = losses(r#"{"StaticLossConfig":{"loss":[0.5,1],"duration":"3s"}}"#, None).unwrap();
        let half = Probability::new(0.5).unwrap();
        assert_eq!(loss.values().collect::<Vec<_>>(), [&vec![half, Probability::ONE]]);
        let default = copies(r#"{"StaticDuplicateConfig":{}}"#, None).unwrap();
        assert_eq!(default.values().next().map(Vec::len), Some(2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_nothing_hangs() {
        let said = |text: &str| losses(text, None).unwrap_err();
        let empty = r#"{"RepeatedLossPatternConfig":{"pattern":[{"StaticLossConfig":{"duration":"0s"}}],"count":99999999999}}"#;
        let long = empty.replace("0s", "1ms");
        let inner =
            r#"{"RepeatedLossPatternConfig":{"pattern":[{"RepeatedLossPatternConfig":{}}],"count":1}}"#;
        for (text, word) in [
            ("", "is not a model of loss"),
            ("{}", "is not a model of loss"),
            (r#"{"StaticBwConfig":{}}"#, "unknown variant `StaticBwConfig`"),
            (r#"{"StaticDelayConfig":{}}"#, "has a model of delay, not of loss"),
            (r#"{"RepeatedLossPatternConfig":{"pattern":[{"StaticDelayConfig":{}}]}}"#, "delay, not of loss"),
            (r#"{"StaticLossConfig":{"loss":[]}}"#, "pattern of 0"),
            (r#"{"StaticLossConfig":{"loss":[1.5]}}"#, "the probability 1.5"),
            (r#"{"StaticLossConfig":{"rate":[0.1]}}"#, "unknown field `rate`"),
            (r#"{"RepeatedLossPatternConfig":{}}"#, "no step that lasts"),
            (empty, "no step that lasts"),
            (long.as_str(), "more than 1000000 steps"),
            (inner, "inside another"),
        ] {
            assert!(said(text).contains(word), "{text}: {}", said(text));
        }
    }
}
