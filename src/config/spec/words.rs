//! The words of a spec and their arguments, and how they combine into stages.

use std::ops::{Range, RangeInclusive};

use crate::config::impairment::WORDS;
use crate::config::spec::arguments::Arguments;
use crate::config::spec::clause::begins_condition;
use crate::config::spec::lexer::{Token, Tokens};
use crate::config::spec::link::{self, Link};
use crate::config::spec::{Files, Spec, SpecProblem, units};
use crate::config::stage::types;
use crate::config::suggest;
use crate::pipeline::params::{
    DelayParams, Distribution, ImpairmentParams, MtuAction, MtuParams, NetemParams, Select, StageParams,
    Trigger,
};
use crate::pipeline::time::Duration;

/// A word that becomes a stage of its own.
#[derive(Debug)]
pub(in crate::config) struct Word {
    /// The word itself.
    pub(in crate::config) name: &'static str,
    /// What may follow it, except values.
    pub(in crate::config) options: &'static [&'static str],
    /// Its syntax for help texts.
    pub(in crate::config) usage: &'static str,
    /// Reads its arguments.
    pub(in crate::config) read: fn(&mut Arguments<'_, '_>) -> Result<StageParams, SpecProblem>,
}

/// Reads the arguments of a word.
type Read = fn(&mut Words, &mut Arguments<'_, '_>) -> Result<(), SpecProblem>;

/// tc's words, and the words that together make one hop or link: what may follow, and how it is read.
const LINE: &[(&str, &[&str], Read)] = &[
    ("delay", &[], Words::delay),
    ("distribution", &[], |words, arguments| {
        set(&mut words.distribution, arguments.distribution().map(Some))
    }),
    ("loss", &["random", "state", "gemodel"], |words, arguments| {
        set(&mut words.netem.loss, arguments.loss())
    }),
    ("ecn", &[], |words, _| set(&mut words.netem.ecn, Ok(true))),
    ("duplicate", &[], |words, arguments| set(&mut words.netem.duplicate, arguments.correlated())),
    ("corrupt", &[], |words, arguments| set(&mut words.netem.corrupt, arguments.correlated())),
    ("reorder", &[], |words, arguments| set(&mut words.netem.reorder, arguments.correlated())),
    ("gap", &[], |words, arguments| set(&mut words.netem.gap, arguments.count(1..=u32::MAX, "gap 5"))),
    ("rate", &[], |words, arguments| {
        let rate = arguments.rate(&mut words.warning);
        set(&mut words.netem.rate, rate.map(Some))
    }),
    ("queue", link::DISCIPLINES, |words, arguments| {
        set(&mut words.link.queue, link::queue(arguments).map(Some))
    }),
    ("steps", &["stopped", "repeat"], |words, arguments| {
        set(&mut words.link.steps, link::steps(arguments).map(Some))
    }),
    ("slot", &["packets", "bytes"], |words, arguments| {
        set(&mut words.netem.slot, arguments.slot().map(Some))
    }),
    ("linklayer", &["ethernet", "ip"], |words, arguments| {
        set(&mut words.netem.link_layer, arguments.link_layer().map(Some))
    }),
    ("limit", &[], |words, arguments| set(&mut words.netem.limit, arguments.size("limit 1000").map(Some))),
    ("seed", &[], |words, arguments| set(&mut words.seed, arguments.count(0..=u64::MAX, "seed 7").map(Some))),
    ("mtu", &["drop", "icmp", "fragment"], |words, arguments| {
        let mtu = arguments.count(MTU, "mtu 1400");
        set(&mut words.mtu, mtu.map(|mtu| Some((mtu, arguments.action()))))
    }),
    ("overhead", &[], |words, arguments| {
        set(&mut words.overhead, arguments.count(0..=*MTU.end(), "overhead 50"))
    }),
];

fn set<T>(place: &mut T, value: Result<T, SpecProblem>) -> Result<(), SpecProblem> {
    *place = value?;
    Ok(())
}

/// All words, for messages that list the allowed ones.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    LINE.iter().map(|word| word.0).chain(WORDS.iter().map(|word| word.name))
}

/// The syntax of each word that becomes a stage of its own, one per line.
pub fn usages() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|word| word.usage)
}

/// The words with what may follow them.
fn options() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    let line = LINE.iter().map(|&(word, options, _)| (word, options));
    line.chain(WORDS.iter().map(|word| (word.name, word.options)))
}

/// Smallest MTU of IPv4 (RFC 791 section 3.1) and largest of any IP packet.
pub(in crate::config) const MTU: RangeInclusive<u32> = 68..=65_535;

/// Reads the words of one clause.
pub(super) fn read(mut tokens: Tokens<'_>, files: Files) -> Result<Spec, Vec<SpecProblem>> {
    let mut words = Words { files, ..Words::default() };
    while let Some(token) = tokens.next() {
        if let Err(problem) = words.word(&token, &mut tokens) {
            words.problems.push(problem);
            // The arguments of an unknown word mean nothing: continue at the next known word.
            while tokens.peek().is_some_and(|next| canonical(next.text).is_none()) {
                tokens.next();
            }
        }
    }
    words.finish()
}

/// Whether a clause with this beginning begins with a fault.
pub(super) fn is_word(text: &str) -> bool {
    canonical(text).is_some()
}

/// The word under its usual name, if it is one.
fn canonical(text: &str) -> Option<&'static str> {
    match text {
        "latency" => return Some("delay"),
        "drop" => return Some("loss"),
        _ => {}
    }
    all().find(|&word| word == text)
}

/// The word as which tc would read this one: the first of its words with this beginning.
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

/// A shorter delay without a unit is probably not meant.
const SHORT: Duration = Duration::from_millis(1);

/// tc's old word for loss, and faultwire's word for a stage that drops every packet.
const DROP: &str = "drop";

/// What has been read so far.
#[derive(Debug, Default)]
struct Words {
    files: Files,
    netem: NetemParams,
    distribution: Option<Distribution>,
    mtu: Option<(u32, MtuAction)>,
    overhead: u32,
    /// The words that make a link of its own out of a rate.
    link: Link,
    /// The stages of their own, by their words.
    own: Vec<StageParams>,
    seed: Option<u64>,
    warning: Option<String>,
    /// The words that were given, in order, with their positions.
    seen: Vec<(&'static str, Range<usize>)>,
    problems: Vec<SpecProblem>,
}

impl Words {
    fn word(&mut self, token: &Token<'_>, tokens: &mut Tokens<'_>) -> Result<(), SpecProblem> {
        let Some(mut word) = canonical(token.text) else {
            return Err(unknown(token));
        };
        // tc's `drop 1%` is a loss; without a share, it drops everything.
        if token.text == DROP && !tokens.begins_loss(0) {
            word = DROP;
        }
        let mut arguments = Arguments { word: token.text, tokens, files: self.files };
        if self.place(word).is_some() {
            // Its arguments follow: none of them is a word of its own.
            let _ = Self::default().arguments(word, &mut arguments);
            return Err(at(token, format!("\"{}\" was already given", token.text), "give each word once"));
        }
        self.seen.push((word, token.at.clone()));
        self.arguments(word, &mut arguments)
    }

    /// Reads what follows `word`.
    fn arguments(&mut self, word: &str, arguments: &mut Arguments<'_, '_>) -> Result<(), SpecProblem> {
        if let Some((_, _, read)) = LINE.iter().find(|line| line.0 == word) {
            return read(self, arguments);
        }
        for own in WORDS.iter().filter(|own| own.name == word) {
            self.own.push((own.read)(arguments)?);
        }
        Ok(())
    }

    fn delay(&mut self, arguments: &mut Arguments<'_, '_>) -> Result<(), SpecProblem> {
        let bare = arguments
            .tokens
            .peek()
            .filter(|token| units::is_bare(token.text))
            .map(|token| token.text.to_owned());
        let delay = arguments.required(units::time, "a time", "delay 100ms")?;
        if let Some(number) = bare.filter(|_| !delay.is_zero() && delay < SHORT) {
            let what = format!(
                "delay {number} is {delay}, as tc reads it; write \"{number}ms\" if milliseconds are meant"
            );
            self.warning.get_or_insert(what);
        }
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
        let jitter = self.netem.delay.as_ref().is_some_and(|delay| !delay.jitter.is_zero());
        let delay = self.netem.delay.as_ref().is_some_and(|delay| !delay.delay.is_zero());
        let rules = [
            ("distribution", "delay", jitter, "a jitter to shape", "delay 100ms 10ms distribution normal"),
            ("ecn", "loss", self.place("loss").is_some(), "a loss to mark instead", "loss 1% ecn"),
            ("reorder", "delay", delay, "a delay to overtake", "delay 10ms reorder 25%"),
            ("gap", "reorder", self.place("reorder").is_some(), "a reorder", "delay 10ms reorder 25% gap 5"),
        ];
        for (word, other, holds, what, example) in rules {
            // If the other word is there but could not be read, this has been reported.
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
        let (mut netem, is_link) = (false, self.link.is_asked());
        for (word, at) in self.seen.clone() {
            if is_link && link::WORDS.contains(&word) {
                if stages.iter().all(|stage| stage.name != "rate") {
                    stages.extend(self.rate());
                }
            } else if WORDS.iter().any(|own| own.name == word) {
                stages.extend(self.own.extract_if(.., |stage| stage.name == word));
            } else if !["mtu", "overhead", "seed"].contains(&word) {
                netem = true;
            } else if word != "seed" && stages.iter().all(|stage| stage.name != "mtu") {
                let mtu = self.hop(at);
                stages.push(stage("mtu", ImpairmentParams::Mtu(mtu)));
            }
        }
        if netem {
            stages.push(stage("netem", ImpairmentParams::Netem(Box::new(self.netem()))));
        }
        stages
    }

    /// The hop that `mtu` and `overhead` describe together.
    fn hop(&mut self, at: Range<usize>) -> MtuParams {
        let (mtu, action) = self.mtu.unwrap_or((1_500, MtuAction::Drop));
        let left = i64::from(mtu) - i64::from(self.overhead);
        if left < i64::from(*MTU.start()) {
            let what = format!("\"overhead\" leaves {left} bytes of an MTU of {mtu}");
            let at = self.place("overhead").unwrap_or(at);
            self.problems.push(SpecProblem { at, what, hint: "at least 68 must be left".to_owned() });
        }
        MtuParams { mtu, overhead: self.overhead, action }
    }

    /// The link that `rate`, `queue` and `steps` describe together.
    fn rate(&mut self) -> Option<StageParams> {
        let made = self.link.stage(self.netem.rate.as_ref());
        let limit = self.place("limit").map(|at| {
            let what = "\"limit\" belongs to tc's rate, not to a rate with its own queue".to_owned();
            SpecProblem { at, what, hint: "write queue N instead".to_owned() }
        });
        let flaw = made.as_ref().err().map(|(word, (what, hint))| {
            let at = self.place(word).unwrap_or_default();
            SpecProblem { at, what: what.clone(), hint: (*hint).to_owned() }
        });
        // A rate that could not be read has been reported.
        let told = !self.problems.is_empty();
        self.problems.extend(limit.into_iter().chain(flaw.filter(|_| !told)));
        made.ok()
    }

    fn netem(&self) -> NetemParams {
        let mut netem = self.netem.clone();
        if self.link.is_asked() {
            netem.rate = None;
        }
        if let (Some(delay), Some(distribution)) = (&mut netem.delay, &self.distribution) {
            delay.distribution = distribution.clone();
        }
        if self.place("reorder").is_some() && netem.gap == 0 {
            netem.gap = 1;
        }
        netem
    }
}

/// A stage that acts on all packets, always.
pub(in crate::config) fn stage(name: &str, impairment: ImpairmentParams) -> StageParams {
    StageParams { name: name.to_owned(), select: Select::default(), trigger: Trigger::default(), impairment }
}

pub(super) fn at(token: &Token<'_>, what: String, hint: impl Into<String>) -> SpecProblem {
    SpecProblem { at: token.at.clone(), what, hint: hint.into() }
}

fn unknown(token: &Token<'_>) -> SpecProblem {
    let text = token.text;
    if begins_condition(token) {
        let what = format!("\"{text}\" is part of a condition; conditions are at the beginning of a clause");
        return at(token, what, "separate clauses by semicolons: \"delay 10ms; tcp port 6379: loss 5%\"");
    }
    if let Some(word) = abbreviated(text)
        && suggest::nearest(text, all()).is_none()
    {
        let what = format!("\"{text}\" is short for \"{word}\" in tc");
        return at(token, what, "write the word in full");
    }
    if units::is_unit(text) {
        let what = format!("\"{text}\" is a unit that stands alone");
        return at(token, what, format!("write it directly behind its number, as in \"5{text}\""));
    }
    if text == "netem" {
        return at(
            token,
            "\"netem\" is not needed".to_owned(),
            "write only what follows it in tc: \"delay 50ms\"",
        );
    }
    if types().any(|name| name == text) {
        let what = format!("\"{text}\" is a stage of configuration files, not a word");
        return at(token, what, format!("write type = \"{text}\" in a stage of a file"));
    }
    if let Some((word, _)) = options().find(|(_, options)| options.contains(&text)) {
        return at(token, format!("\"{text}\" cannot be used alone"), format!("write it behind \"{word}\""));
    }
    let options = options().flat_map(|(_, options)| options.iter().copied());
    let near = suggest::nearest(text, all().chain(options));
    let allowed = || format!("allowed: {}", all().collect::<Vec<_>>().join(", "));
    let hint = near.map_or_else(allowed, |near| format!("did you mean \"{near}\"?"));
    at(token, format!("\"{text}\" is not a known word"), hint)
}
