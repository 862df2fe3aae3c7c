//! Faults in one line: tc-netem's own words and a few of faultwire's. docs/grammar.md has the grammar.
//!
//! A line is made of clauses, separated by semicolons, each with a condition in front of it or none (`clause`).
//!
//! `delay 100ms 10ms loss 1%` means what it means to `tc qdisc ... netem`: the words may come in any order, and what they
//! ask for happens in netem's order of decisions. faultwire's words (`mtu 1400 icmp`, `overhead 50`, `mss 1360`) become
//! stages of their own before it, in the order in which they are written.
//!
//! Differs from tc:
//! - a percentage needs its sign (tc takes `loss 30` for 30 %);
//! - a word may be given once (tc takes the last);
//! - `limit` defaults to tc's 1000 packets only where there is a `rate`: a pure delay line has no hidden limit that cuts
//!   the throughput;
//! - jitter keeps the order of a flow;
//! - a correlation keeps the probability that was asked for (netem's arithmetic falls far below it).

mod arguments;
mod clause;
#[cfg(test)]
mod grammar;
mod lexer;
mod link;
pub(super) mod units;
mod words;

pub(super) use link::{DEFAULT_QUEUE, Speed, speed};
pub(super) use words::{MTU, Word, stage};

#[cfg(feature = "cli")]
pub(crate) use words::all as words;

#[cfg(feature = "cli")]
pub(crate) use clause::UNAIMED_DROP;
pub use words::usages;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::config::pointer::{self, Pointed};
use crate::pipeline::impair::Place;
use crate::pipeline::params::StageParams;

/// What a spec asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spec {
    /// The stages of faultwire's own words in the order written, then one netem stage if there are netem words.
    pub stages: Vec<StageParams>,
    /// The `seed` word.
    pub seed: Option<u64>,
    /// Warnings about settings that were probably not meant.
    pub warnings: Vec<String>,
}

impl Spec {
    /// Appends the stages of `other`. If both have a seed, the first one is used.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.stages.extend(other.stages);
        name_apart(&mut self.stages);
        self.warnings.extend(other.warnings);
        self.seed = self.seed.or(other.seed);
        self
    }

    /// Warnings about settings that are allowed but probably not meant: of the words, and of each stage.
    pub fn lint(&self) -> Vec<String> {
        let traps = |stage: &StageParams| stage.impairment.traps(&Place::default());
        self.warnings.iter().cloned().chain(self.stages.iter().flat_map(traps)).collect()
    }
}

/// Which files the words of a spec may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Files {
    /// All files: the author of the spec may read whatever faultwire may read.
    #[default]
    Any,
    /// No files, for a spec whose author has no access to this host. Distributions that tc's packages install can
    /// still be used by name.
    Named,
}

/// One problem of a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    /// The bytes of the spec that the problem is about; empty, at its end, if something is missing there.
    pub at: Range<usize>,
    /// What is wrong.
    pub what: String,
    /// How to write it correctly.
    pub hint: String,
}

/// All problems of a spec. Prints the spec, and under it a caret and a sentence for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The text.
    pub spec: String,
    /// The problems in the order of the text; at least one.
    pub problems: Vec<SpecProblem>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// After up to this many columns of carets there is room for a sentence in the same line.
        const ROOMY: usize = 40;
        // The spec begins on a new line, whatever text is before it.
        write!(f, "the faults are not understood:")?;
        let is_whole = self.spec.chars().count() <= pointer::MOST;
        if is_whole {
            write!(f, "\n  {}", pointer::flat(&self.spec))?;
        }
        for SpecProblem { at, what, hint } in &self.problems {
            let Pointed { line, carets } = pointer::pointed(&self.spec, at.clone());
            if !is_whole {
                write!(f, "\n  {line}")?;
            }
            let space = if carets.len() <= ROOMY { " " } else { "\n    " };
            write!(f, "\n  {carets}{space}{what} ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Gives stages of the same name numbers: `netem`, `netem-2`, `netem-3`.
fn name_apart(stages: &mut [StageParams]) {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for stage in stages {
        let kind = kind_of(&stage.name).to_owned();
        let number = numbers.entry(kind.clone()).or_insert(0);
        *number += 1;
        stage.name = if *number == 1 { kind } else { format!("{kind}-{number}") };
    }
}

/// The name of a spec's stage without its distinguishing number.
pub(super) fn kind_of(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((kind, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kind,
        _ => name,
    }
}

/// Reads a spec. An empty spec has no stages.
///
/// # Errors
/// Every word that is not understood, each with its place and what was expected.
pub fn parse(spec: &str) -> Result<Spec, SpecError> {
    parse_with(spec, Files::Any)
}

/// Reads a spec that may only name these files.
///
/// # Errors
/// As [`parse`], and every word that names a file that is not allowed; this file is not accessed.
pub fn parse_with(spec: &str, files: Files) -> Result<Spec, SpecError> {
    clause::read(spec, files).map_err(|mut problems| {
        problems.sort_by_key(|problem| problem.at.start);
        SpecError { spec: spec.to_owned(), problems }
    })
}

#[cfg(test)]
mod tests;
