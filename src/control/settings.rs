//! Single parameters of stages, by the keys that they have in a configuration file: `probability`, `delay`,
//! `queue.packets`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::config::suggest::hint;
use crate::control::answer::Refusal;
use crate::control::words::{WORDS, say};
use crate::pipeline::impair::{BottleneckParams, NetemParams, ServiceParams};
use crate::pipeline::params::{
    DelayParams, Distribution, Excess, ImpairmentParams, LossModel, RateParams, ReorderParams,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate, UnitError};

/// A parameter that can be set by itself.
enum Setting<'a> {
    Chance(&'a mut Probability),
    Time(&'a mut Duration),
    /// A time greater than zero.
    Span(&'a mut Duration),
    MaybeSpan(&'a mut Option<Duration>),
    Rate(&'a mut Rate),
    Flag(&'a mut bool),
    Small(&'a mut u16, RangeInclusive<i64>),
    Count(&'a mut u32, RangeInclusive<i64>),
    Large(&'a mut u64, RangeInclusive<i64>),
    MaybeLarge(&'a mut Option<u64>, RangeInclusive<i64>),
    Signed(&'a mut i32, RangeInclusive<i64>),
}

/// A 32-bit number that is not 0.
const SOME: RangeInclusive<i64> = 1..=0xffff_ffff;
/// Bytes that a link adds to a packet.
const OVERHEAD: RangeInclusive<i64> = -65_535..=65_535;

/// Sets the parameters that `wanted` names.
///
/// The meaning of a key depends on the stage before the change, so the order of the keys makes no difference.
pub(super) fn set(
    impairment: &mut ImpairmentParams,
    wanted: &BTreeMap<String, Value>,
) -> Result<(), Refusal> {
    let words: Vec<&str> = wanted.keys().map(|key| word(impairment, key)).collect();
    if let ImpairmentParams::Netem(netem) = impairment {
        make_room(netem, &|key| words.contains(&key));
    }
    for (number, ((key, value), word)) in wanted.iter().zip(&words).enumerate() {
        let refuse = |what: String| Refusal::bad(format!("set.{key}"), what);
        if words[..number].contains(word) {
            return Err(refuse(format!("{key} is {word} here, which is given, too")));
        }
        if let (ImpairmentParams::Netem(netem), Some(text)) = (&mut *impairment, value.as_str())
            && WORDS.contains(word)
            && (text.trim().contains(char::is_whitespace) || !netem_has(netem, word))
        {
            say(netem, word, text).map_err(refuse)?;
            continue;
        }
        let mut settings = settings(impairment);
        let Some(place) = settings.iter().position(|(name, _)| name == word) else {
            let known = keys(impairment);
            let what = match &known[..] {
                [] => "of this stage no key can be set by itself: give a whole spec".to_owned(),
                known => format!("of this stage there is no such key to set ({})", hint(key, known)),
            };
            return Err(refuse(what));
        };
        settings[place].1.take(value).map_err(refuse)?;
    }
    if let ImpairmentParams::Mtu(mtu) = impairment
        && mtu.mtu < mtu.overhead + 68
    {
        let what =
            format!("an overhead of {} leaves less than 68 bytes of an MTU of {}", mtu.overhead, mtu.mtu);
        return Err(Refusal::bad("set.mtu", what));
    }
    Ok(())
}

/// The keys of parameters that can be set, also of those that the stage does not have yet.
fn keys(impairment: &ImpairmentParams) -> Vec<&'static str> {
    let mut roomy = impairment.clone();
    if let ImpairmentParams::Netem(netem) = &mut roomy {
        make_room(netem, &|_| true);
    }
    let mut keys: Vec<&str> = settings(&mut roomy).into_iter().map(|(key, _)| key).collect();
    if matches!(impairment, ImpairmentParams::Netem(_)) {
        keys.extend(WORDS.iter().filter(|word| !settings(&mut roomy).iter().any(|(key, _)| key == *word)));
    }
    keys
}

/// Whether a word of this netem line has a number that can be set by itself.
fn netem_has(netem: &mut NetemParams, word: &str) -> bool {
    self::netem(netem).iter().any(|(key, _)| *key == word)
}

/// The parameters that can be set, with their values.
pub(super) fn shown(impairment: &ImpairmentParams) -> Map<String, Value> {
    let mut impairment = impairment.clone();
    settings(&mut impairment).into_iter().map(|(key, setting)| (key.to_owned(), setting.json())).collect()
}

impl Setting<'_> {
    fn take(&mut self, value: &Value) -> Result<(), String> {
        match self {
            Self::Chance(chance) => **chance = quantity(value, "5%")?,
            Self::Time(time) => **time = quantity(value, "10ms")?,
            Self::Span(time) => **time = span(value)?,
            Self::MaybeSpan(time) => **time = Some(span(value)?),
            Self::Rate(rate) => **rate = quantity(value, "10 Mbit/s")?,
            Self::Flag(flag) => **flag = value.as_bool().ok_or("it is true or false")?,
            Self::Small(number, range) => **number = within(value, range)?,
            Self::Count(number, range) => **number = within(value, range)?,
            Self::Large(number, range) => **number = within(value, range)?,
            Self::MaybeLarge(number, range) => **number = Some(within(value, range)?),
            Self::Signed(number, range) => **number = within(value, range)?,
        }
        Ok(())
    }

    fn json(&self) -> Value {
        match self {
            Self::Chance(chance) => chance.to_string().into(),
            Self::Time(time) | Self::Span(time) => time.to_string().into(),
            Self::MaybeSpan(time) => time.map(|time| time.to_string()).into(),
            Self::Rate(rate) => rate.to_string().into(),
            Self::Flag(flag) => (**flag).into(),
            Self::Small(number, _) => (**number).into(),
            Self::Count(number, _) => (**number).into(),
            Self::Large(number, _) => (**number).into(),
            Self::MaybeLarge(number, _) => (**number).into(),
            Self::Signed(number, _) => (**number).into(),
        }
    }
}

fn quantity<T: FromStr<Err = UnitError>>(value: &Value, example: &str) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| format!("it is a text with a unit, as \"{example}\""))?;
    text.parse().map_err(|error: UnitError| error.to_string())
}

fn span(value: &Value) -> Result<Duration, String> {
    let time: Duration = quantity(value, "2s")?;
    if time.is_zero() { Err("it is longer than 0s".to_owned()) } else { Ok(time) }
}

fn within<T: TryFrom<i64> + Display>(value: &Value, range: &RangeInclusive<i64>) -> Result<T, String> {
    let number = value.as_i64().filter(|number| range.contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("it is a number from {} to {}", range.start(), range.end()))
}

fn settings(impairment: &mut ImpairmentParams) -> Vec<(&'static str, Setting<'_>)> {
    use Setting::{Chance, Count, Flag, Large, MaybeSpan, Rate, Signed, Small, Span, Time};
    match impairment {
        ImpairmentParams::Loss(p) => {
            vec![("probability", Chance(&mut p.probability)), ("ecn", Flag(&mut p.ecn))]
        }
        ImpairmentParams::Delay(p) => delay(p),
        ImpairmentParams::Rate(p) => rate(p),
        ImpairmentParams::Bottleneck(p) => bottleneck(p),
        ImpairmentParams::DualPi2(p) => vec![
            ("rate", Rate(&mut p.rate)),
            ("overhead", Signed(&mut p.overhead, OVERHEAD)),
            ("packets", Large(&mut p.packets, SOME)),
            ("target", Span(&mut p.target)),
            ("threshold", Time(&mut p.threshold)),
        ],
        ImpairmentParams::Mtu(p) => {
            vec![("mtu", Count(&mut p.mtu, 68..=65_535)), ("overhead", Count(&mut p.overhead, 0..=65_535))]
        }
        ImpairmentParams::Mss(p) => {
            vec![("mss", Small(&mut p.mss, 1..=65_535)), ("set", Flag(&mut p.set))]
        }
        ImpairmentParams::Duplicate(p) => {
            vec![("probability", Chance(&mut p.probability)), ("copies", Count(&mut p.copies, 1..=1_000))]
        }
        ImpairmentParams::Corrupt(p) => vec![
            ("probability", Chance(&mut p.probability)),
            ("bits", Count(&mut p.bits, 1..=64)),
            ("fix_checksum", Flag(&mut p.fix_checksum)),
        ],
        ImpairmentParams::Reorder(ReorderParams::Overtake { probability, gap, delay }) => {
            vec![("probability", Chance(probability)), ("gap", Count(gap, SOME)), ("delay", Time(delay))]
        }
        ImpairmentParams::Reorder(ReorderParams::Displace { probability, by, timeout }) => vec![
            ("probability", Chance(probability)),
            ("by", Count(by, 1..=1_000_000)),
            ("timeout", Time(timeout)),
        ],
        ImpairmentParams::Blackout(p) => vec![
            ("start", Time(&mut p.start)),
            ("down", Span(&mut p.down)),
            ("up", MaybeSpan(&mut p.up)),
            ("hold", Flag(&mut p.hold)),
        ],
        ImpairmentParams::PawsPerHost(p) => {
            vec![("window", Time(&mut p.window)), ("require_timestamp", Flag(&mut p.require_timestamp))]
        }
        ImpairmentParams::Netem(p) => netem(p),
        _ => Vec::new(),
    }
}

fn delay(params: &mut DelayParams) -> Vec<(&'static str, Setting<'_>)> {
    vec![
        ("delay", Setting::Time(&mut params.delay)),
        ("jitter", Setting::Time(&mut params.jitter)),
        ("reorder", Setting::Flag(&mut params.reorder)),
    ]
}

fn rate(params: &mut RateParams) -> Vec<(&'static str, Setting<'_>)> {
    let mut all = vec![
        ("rate", Setting::Rate(&mut params.rate)),
        ("overhead", Setting::Signed(&mut params.overhead, OVERHEAD)),
    ];
    if let Excess::Queue { packets, bytes, time } = &mut params.excess {
        all.push(("queue.packets", Setting::MaybeLarge(packets, SOME)));
        all.push(("queue.bytes", Setting::MaybeLarge(bytes, SOME)));
        all.push(("queue.time", Setting::MaybeSpan(time)));
    }
    all
}

fn bottleneck(params: &mut BottleneckParams) -> Vec<(&'static str, Setting<'_>)> {
    let mut all = vec![("queue.packets", Setting::MaybeLarge(&mut params.packets, SOME))];
    if let ServiceParams::Rate(rate) = &mut params.service {
        all.push(("rate", Setting::Rate(rate)));
    }
    all
}

/// tc-netem's words.
fn netem(params: &mut NetemParams) -> Vec<(&'static str, Setting<'_>)> {
    let mut all = vec![
        ("duplicate", Setting::Chance(&mut params.duplicate.probability)),
        ("corrupt", Setting::Chance(&mut params.corrupt.probability)),
        ("ecn", Setting::Flag(&mut params.ecn)),
        ("limit", Setting::MaybeLarge(&mut params.limit, SOME)),
    ];
    if params.gap > 0 {
        all.push(("reorder", Setting::Chance(&mut params.reorder.probability)));
    }
    if let LossModel::Random(loss) = &mut params.loss {
        all.push(("loss", Setting::Chance(&mut loss.probability)));
    }
    if let Some(delay) = &mut params.delay {
        all.push(("delay", Setting::Time(&mut delay.delay)));
        all.push(("jitter", Setting::Time(&mut delay.jitter)));
    }
    if let Some(rate) = &mut params.rate {
        all.push(("rate", Setting::Rate(&mut rate.rate)));
    }
    all
}

/// A delay that is not set yet starts as zero.
fn make_room(netem: &mut NetemParams, wants: &dyn Fn(&str) -> bool) {
    if netem.delay.is_none() && (wants("delay") || wants("jitter")) {
        let (delay, jitter) = (Duration::ZERO, Duration::ZERO);
        let distribution = Distribution::Uniform;
        netem.delay = Some(DelayParams { delay, jitter, distribution, reorder: false, half_life: None });
    }
}

/// If loss is the only probability of a netem line, it can also be set as `probability`, as in a stage of type loss.
fn word<'k>(impairment: &ImpairmentParams, key: &'k str) -> &'k str {
    if let (ImpairmentParams::Netem(netem), "probability") = (impairment, key) {
        let others = [netem.duplicate, netem.corrupt, netem.reorder];
        if others.iter().all(|other| other.probability == Probability::ZERO) {
            return "loss";
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::spec;

    fn of(text: &str) -> ImpairmentParams {
        spec::parse(text).unwrap().stages.remove(0).impairment
    }

    fn changed(text: &str, wanted: &Value) -> Result<ImpairmentParams, Refusal> {
        let mut impairment = of(text);
        let wanted = wanted.as_object().unwrap().clone().into_iter().collect();
        set(&mut impairment, &wanted).map(|()| impairment)
    }

    /// What is set by a key is what a whole spec would have said, and nothing else changes.
    #[test]
    fn one_key_changes_one_parameter() {
        for (before, wanted, after) in [
            ("loss 1%", json!({ "probability": "5%" }), "loss 5%"),
            ("loss 1% 25%", json!({ "loss": "5%" }), "loss 5% 25%"),
            ("loss 1%", json!({ "delay": "20ms", "probability": "5%" }), "loss 5% delay 20ms"),
            // A word with its model, correlation or distribution.
            ("loss 1% delay 5ms", json!({ "loss": "gemodel 1% 10%" }), "loss gemodel 1% 10% delay 5ms"),
            ("loss gemodel 1% 10% delay 5ms", json!({ "loss": "5%" }), "loss 5% delay 5ms"),
            (
                "loss 1%",
                json!({ "delay": "9ms 2ms distribution normal", "loss": "2%" }),
                "loss 2% delay 9ms 2ms distribution normal",
            ),
            (
                "delay 5ms 1ms",
                json!({ "duplicate": "2% 50%", "corrupt": "1% 5%" }),
                "delay 5ms 1ms duplicate 2% 50% corrupt 1% 5%",
            ),
            ("delay 5ms", json!({ "slot": "1ms 2ms" }), "delay 5ms slot 1ms 2ms"),
            // The chance that there was, whatever comes with it.
            ("loss 1%", json!({ "duplicate": "2%", "probability": "5%" }), "loss 5% duplicate 2%"),
            (
                "delay 10ms 2ms distribution normal",
                json!({ "delay": "30ms" }),
                "delay 30ms 2ms distribution normal",
            ),
            ("rate 1mbit", json!({ "rate": "2 Mbit/s" }), "rate 2mbit"),
            ("mtu 1400 icmp", json!({ "mtu": 1300 }), "mtu 1300 icmp"),
            ("mss 1360", json!({ "mss": 1200, "set": true }), "mss 1200 set"),
            ("dualpi2 40mbit", json!({ "rate": "20 Mbit/s", "threshold": "2ms" }), "dualpi2 20mbit 2ms"),
            ("blackout 2s", json!({ "up": "8s", "hold": true }), "blackout 2s up 8s hold"),
        ] {
            assert_eq!(changed(before, &wanted), Ok(of(after)), "{before}");
        }
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        for (before, wanted, field, words) in [
            ("loss 1%", json!({ "probabilty": "5%" }), "set.probabilty", "\"duplicate\"?"),
            ("loss 1%", json!({ "foo": 1 }), "set.foo", "loss, delay, jitter"),
            ("loss 1%", json!({ "loss": "1%", "probability": "5%" }), "set.probability", "given, too"),
            (
                "loss 1% duplicate 1%",
                json!({ "duplicate": "0%", "probability": "5%" }),
                "set.probability",
                "no such",
            ),
            ("mtu 1400", json!({ "mtu": 60 }), "set.mtu", "from 68 to 65535"),
            ("mtu 1400", json!({ "mtu": 100, "overhead": 50 }), "set.mtu", "less than 68 bytes"),
            ("mtu 1400", json!({ "mtu": "1400" }), "set.mtu", "a number"),
            ("loss 1%", json!({ "loss": "5" }), "set.loss", "no %"),
            ("loss 1%", json!({ "loss": "5% delay 5ms" }), "set.loss", "nothing else"),
            ("loss 1%", json!({ "loss": "gemodel much" }), "set.loss", "much"),
            ("loss 1%", json!({ "loss": "5% seed 3" }), "set.loss", "nothing else"),
            ("loss 1%", json!({ "ecn": "yes" }), "set.ecn", "true or false"),
            ("blackout 2s", json!({ "down": "0s" }), "set.down", "longer"),
            ("duplicate 1% loss 1%", json!({ "probability": "5%" }), "set.probability", "no such key"),
            ("drop", json!({ "probability": "5%" }), "set.probability", "whole spec"),
        ] {
            let refusal = changed(before, &wanted).unwrap_err();
            assert_eq!(refusal.field, field);
            assert!(field == "set.probabilty" || refusal.what.contains(words), "{refusal:?}");
        }
    }

    /// What is shown of a stage can be set again, and changes nothing but what rounding loses.
    #[test]
    fn what_is_shown_can_be_set() {
        for text in [
            "loss 1% delay 10ms 2ms duplicate 1% rate 1mbit reorder 5%",
            "mtu 1400",
            "mss 1360",
            "dualpi2 40mbit",
            "rate 10mbit queue 100ms codel",
            "rate 10mbit queue 100",
            "blackout 2s up 8s",
        ] {
            let mut shown = shown(&of(text));
            assert!(!shown.is_empty(), "{text}");
            shown.retain(|_, value| !value.is_null());
            assert_eq!(changed(text, &Value::Object(shown)), Ok(of(text)), "{text}");
        }
    }
}
