//! The words of a spec and their arguments, and how they combine into stages.

use std::ops::{Range, RangeInclusive};

use crate::config::impairment::TYPES;
use crate::config::spec::arguments::Arguments;
use crate::config::spec::lexer::{Token, Tokens};
use crate::config::spec::{Spec, SpecProblem, units};
use crate::config::suggest;
use crate::config::trace;
use crate::pipeline::params::{
    DelayParams, Distribution, ImpairmentParams, MssParams, MtuAction, MtuParams, NetemParams,
    RstOrderParams, Select, StageParams, TimestampsParams, Trigger,
};
use crate::pipeline::service::Opportunities;
use crate::pipeline::time::Duration;

/// Every word, as the allowed ones are listed.
pub(crate) const ALL: &[&str] = &[
    "delay",
    "distribution",
    "loss",
    "ecn",
    "duplicate",
    "corrupt",
    "reorder",
    "gap",
    "rate",
    "slot",
    "linklayer",
    "limit",
    "seed",
    "mtu",
    "overhead",
    "mss",
    "trace",
    "timestamps",
    "rst-order",
];

/// What may follow some of the words.
const OPTIONS: &[(&str, &[&str])] = &[
    ("loss", &["random", "state", "gemodel"]),
    ("mtu", &["drop", "icmp", "fragment"]),
    ("mss", &["set"]),
    ("trace", &["once"]),
    ("slot", &["packets", "bytes"]),
    ("linklayer", &["ethernet", "ip"]),
    ("timestamps", &["zero", "constant", "offset", "random-offset", "freeze", "strip", "rst"]),
    ("rst-order", &["first", "last"]),
];

/// Smallest MTU of IPv4 (RFC 791 section 3.1) and largest of any IP packet.
pub(in crate::config) const MTU: RangeInclusive<u32> = 68..=65_535;

/// Reads a whole spec.
pub(super) fn read(spec: &str) -> Result<Spec, Vec<SpecProblem>> {
    let mut words = Words::default();
    let mut tokens = Tokens::new(spec);
    while let Some(token) = tokens.next() {
        if let Err(problem) = words.word(&token, &mut tokens) {
            words.problems.push(problem);
            // The arguments of a word that was not understood mean nothing: go on at the next known one.
            while tokens.peek().is_some_and(|next| canonical(next.text).is_none()) {
                tokens.next();
            }
        }
    }
    words.finish()
}

/// The word under its usual name, if it is one.
fn canonical(text: &str) -> Option<&'static str> {
    match text {
        "latency" => return Some("delay"),
        "drop" => return Some("loss"),
        _ => {}
    }
    ALL.iter().copied().find(|&word| word == text)
}

/// The word that tc takes this for, the first of its words that begins so.
fn abbreviated(text: &str) -> Option<&'static str> {
    const TC: [&str; 14] = [
        "limit",
        "latency",
        "delay",
        "loss",
        "drop",
        "ecn",
        "reorder",
        "corrupt",
        "gap",
        "duplicate",
        "distribution",
        "rate",
        "slot",
        "seed",
    ];
    TC.into_iter().find(|word| word.starts_with(text))
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Words {
    netem: NetemParams,
    distribution: Option<Distribution>,
    mtu: Option<(u32, MtuAction)>,
    overhead: u32,
    mss: Option<MssParams>,
    trace: Option<Opportunities>,
    timestamps: Option<(TimestampsParams, Select)>,
    rst_order: Option<RstOrderParams>,
    seed: Option<u64>,
    warning: Option<String>,
    /// The words given, in order, with their places.
    seen: Vec<(&'static str, Range<usize>)>,
    problems: Vec<SpecProblem>,
}

impl Words {
    fn word(&mut self, token: &Token<'_>, tokens: &mut Tokens<'_>) -> Result<(), SpecProblem> {
        let Some(word) = canonical(token.text) else {
            return Err(unknown(token));
        };
        let mut arguments = Arguments { word: token.text, tokens };
        if self.place(word).is_some() {
            // Its arguments are its own: none of them is a word that stands alone.
            let _ = Self::default().arguments(word, &mut arguments);
            return Err(at(token, format!("\"{}\" was already given", token.text), "give each word once"));
        }
        self.seen.push((word, token.at.clone()));
        self.arguments(word, &mut arguments)
    }

    /// Reads what follows `word`.
    fn arguments(&mut self, word: &str, arguments: &mut Arguments<'_, '_>) -> Result<(), SpecProblem> {
        match word {
            "delay" => self.delay(arguments)?,
            "distribution" => self.distribution = Some(arguments.distribution()?),
            "loss" => self.netem.loss = arguments.loss()?,
            "ecn" => self.netem.ecn = true,
            "duplicate" => self.netem.duplicate = arguments.correlated()?,
            "corrupt" => self.netem.corrupt = arguments.correlated()?,
            "reorder" => self.netem.reorder = arguments.correlated()?,
            "gap" => self.netem.gap = arguments.count(1..=u32::MAX, "gap 5")?,
            "rate" => self.netem.rate = Some(arguments.rate(&mut self.warning)?),
            "slot" => self.netem.slot = Some(arguments.slot()?),
            "linklayer" => self.netem.link_layer = Some(arguments.link_layer()?),
            "limit" => self.netem.limit = Some(arguments.size("limit 1000")?),
            "seed" => self.seed = Some(arguments.count(0..=u64::MAX, "seed 7")?),
            "mtu" => self.mtu = Some((arguments.count(MTU, "mtu 1400")?, arguments.action())),
            "overhead" => self.overhead = arguments.count(0..=*MTU.end(), "overhead 50")?,
            "trace" => self.trace = Some(arguments.trace()?),
            "timestamps" => self.timestamps = Some(arguments.timestamps()?),
            "rst-order" => self.rst_order = Some(arguments.rst_order()?),
            _ => self.mss = Some(arguments.mss()?),
        }
        Ok(())
    }

    fn delay(&mut self, arguments: &mut Arguments<'_, '_>) -> Result<(), SpecProblem> {
        let delay = arguments.required(units::time, "a time", "delay 100ms")?;
        let jitter = arguments.optional(units::time)?;
        if jitter.is_some() {
            self.netem.delay_correlation = arguments.optional(units::percent)?.unwrap_or_default();
        }
        let jitter = jitter.unwrap_or(Duration::ZERO);
        self.netem.delay = Some(DelayParams {
            delay,
            jitter,
            distribution: Distribution::Uniform,
            reorder: false,
            half_life: None,
        });
        Ok(())
    }

    fn place(&self, word: &str) -> Option<Range<usize>> {
        self.seen.iter().find(|seen| seen.0 == word).map(|seen| seen.1.clone())
    }

    /// Applies the rules between words and makes the stages.
    fn finish(mut self) -> Result<Spec, Vec<SpecProblem>> {
        self.check_netem();
        let stages = self.stages();
        if self.problems.is_empty() {
            Ok(Spec { stages, seed: self.seed, warnings: self.warning.into_iter().collect() })
        } else {
            Err(self.problems)
        }
    }

    /// tc's own rules.
    fn check_netem(&mut self) {
        let jitter = self.netem.delay.is_some_and(|delay| !delay.jitter.is_zero());
        let delay = self.netem.delay.is_some_and(|delay| !delay.delay.is_zero());
        let rules = [
            ("distribution", "delay", jitter, "a jitter to shape", "delay 100ms 10ms distribution normal"),
            ("ecn", "loss", self.place("loss").is_some(), "a loss to mark instead", "loss 1% ecn"),
            ("reorder", "delay", delay, "a delay to overtake", "delay 10ms reorder 25%"),
            ("gap", "reorder", self.place("reorder").is_some(), "a reorder", "delay 10ms reorder 25% gap 5"),
        ];
        for (word, other, holds, what, example) in rules {
            // If the other word is there but could not be read, that has been said.
            let told = self.place(other).is_some() && !self.problems.is_empty();
            if let Some(at) = self.place(word)
                && !holds
                && !told
            {
                let what = format!("\"{word}\" needs {what}");
                self.problems.push(SpecProblem { at, what, hint: format!("as in \"{example}\"") });
            }
        }
    }

    fn stages(&mut self) -> Vec<StageParams> {
        let mut stages: Vec<StageParams> = Vec::new();
        let mut netem = false;
        for (word, at) in self.seen.clone() {
            match word {
                "mtu" | "overhead" if stages.iter().all(|stage| stage.name != "mtu") => {
                    let mtu = self.link(at);
                    stages.push(stage("mtu", ImpairmentParams::Mtu(mtu)));
                }
                "mss" => stages.extend(self.mss.map(|mss| stage("mss", ImpairmentParams::Mss(mss)))),
                "trace" => {
                    let link = self.trace.take().map(trace::unlimited);
                    stages.extend(link.map(|link| stage("trace", link)));
                }
                "timestamps" => stages.extend(self.timestamps.take().map(|(params, select)| StageParams {
                    select,
                    ..stage("timestamps", ImpairmentParams::Timestamps(params))
                })),
                "rst-order" => stages.extend(
                    self.rst_order.map(|params| stage("rst-order", ImpairmentParams::RstOrder(params))),
                ),
                "mtu" | "overhead" | "seed" => {}
                _ => netem = true,
            }
        }
        if netem {
            stages.push(stage("netem", ImpairmentParams::Netem(Box::new(self.netem()))));
        }
        stages
    }

    /// The hop that `mtu` and `overhead` describe together.
    fn link(&mut self, at: Range<usize>) -> MtuParams {
        let (mtu, action) = self.mtu.unwrap_or((1_500, MtuAction::Drop));
        let left = i64::from(mtu) - i64::from(self.overhead);
        if left < i64::from(*MTU.start()) {
            let what = format!("\"overhead\" leaves {left} bytes of an MTU of {mtu}");
            let at = self.place("overhead").unwrap_or(at);
            self.problems.push(SpecProblem { at, what, hint: "at least 68 must be left".to_owned() });
        }
        MtuParams { mtu, overhead: self.overhead, action }
    }

    fn netem(&self) -> NetemParams {
        let mut netem = self.netem.clone();
        if let (Some(delay), Some(distribution)) = (&mut netem.delay, self.distribution) {
            delay.distribution = distribution;
        }
        if self.place("reorder").is_some() && netem.gap == 0 {
            netem.gap = 1;
        }
        netem
    }
}

/// A stage on all packets, always.
fn stage(name: &str, impairment: ImpairmentParams) -> StageParams {
    StageParams { name: name.to_owned(), select: Select::default(), trigger: Trigger::default(), impairment }
}

pub(super) fn at(token: &Token<'_>, what: String, hint: impl Into<String>) -> SpecProblem {
    SpecProblem { at: token.at.clone(), what, hint: hint.into() }
}

fn unknown(token: &Token<'_>) -> SpecProblem {
    let text = token.text;
    if let Some(word) = abbreviated(text)
        && suggest::nearest(text, ALL.iter().copied()).is_none()
    {
        let what = format!("\"{text}\" is short for \"{word}\" in tc");
        return at(token, what, "write the word in full");
    }
    if TYPES.contains(&text) {
        let what = format!("\"{text}\" is a stage of configuration files, not a word");
        return at(token, what, format!("write type = \"{text}\" in a stage of a file"));
    }
    if let Some((word, _)) = OPTIONS.iter().find(|(_, options)| options.contains(&text)) {
        return at(token, format!("\"{text}\" does not stand alone"), format!("write it behind \"{word}\""));
    }
    let options = OPTIONS.iter().flat_map(|(_, options)| options.iter());
    let near = suggest::nearest(text, ALL.iter().chain(options).copied());
    let hint = near
        .map_or_else(|| format!("allowed: {}", ALL.join(", ")), |near| format!("did you mean \"{near}\"?"));
    at(token, format!("\"{text}\" is not a known word"), hint)
}
