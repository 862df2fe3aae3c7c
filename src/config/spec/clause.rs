//! Clauses of a spec: `tcp port 6379: loss 5%; udp: delay 10ms`.
//!
//! A clause is a condition, a colon, and the faults for packets that meet the condition; a clause without a condition
//! applies to all packets. Clauses are independent of each other: a packet passes the stages of each clause whose
//! condition it meets, in the order of the clauses.

use std::ops::Range;

use crate::config::expression;
use crate::config::spec::lexer::{Token, Tokens};
use crate::config::spec::words::{self, is_word};
use crate::config::spec::{Files, Spec, SpecProblem, name_apart};
use crate::pipeline::params::{ImpairmentParams, Select, StageParams};

/// Reads a whole spec.
pub(super) fn read(spec: &str, files: Files) -> Result<Spec, Vec<SpecProblem>> {
    let mut whole = Spec::default();
    let mut problems = Vec::new();
    for range in clauses(spec) {
        match clause(spec, range.clone(), files) {
            Ok(read) if read.seed.is_some() && whole.seed.is_some() => {
                let what = "\"seed\" was already given".to_owned();
                problems.push(SpecProblem { at: range, what, hint: "a run has one seed".to_owned() });
            }
            Ok(read) => {
                whole.stages.extend(read.stages);
                whole.seed = whole.seed.or(read.seed);
                whole.warnings.extend(read.warnings);
            }
            Err(more) => problems.extend(more),
        }
    }
    name_apart(&mut whole.stages);
    if problems.is_empty() { Ok(whole) } else { Err(problems) }
}

/// The bytes of each clause, without the semicolons between them.
fn clauses(spec: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    spec.split(';').map(move |clause| {
        let range = start..start + clause.len();
        start = range.end + 1;
        range
    })
}

fn clause(spec: &str, range: Range<usize>, files: Files) -> Result<Spec, Vec<SpecProblem>> {
    let tokens = Tokens::new(spec, range.clone());
    // A clause that begins with the word of a fault has no condition, even if a file name in it ends with a colon.
    let has_condition = tokens.peek().is_some_and(|first| !is_word(first.text));
    let Some((select, colon)) =
        has_condition.then(|| condition(spec, range.start, &tokens)).transpose()?.flatten()
    else {
        if let Some(problem) = tokens.peek().and_then(|first| unfinished(first, &spec[range])) {
            return Err(vec![problem]);
        }
        return words::read(tokens, files).map(warned);
    };
    let mut read = words::read(Tokens::new(spec, colon + 1..range.end), files)?;
    if read.stages.is_empty() {
        let what = "this condition has no fault".to_owned();
        let hint = "write a fault behind the colon, as in \"tcp port 6379: loss 5%\"".to_owned();
        return Err(vec![SpecProblem { at: colon..colon + 1, what, hint }]);
    }
    for stage in &mut read.stages {
        aim(stage, &select, range.start..colon)?;
    }
    Ok(read)
}

/// The condition of a clause that begins at `start`, and the place of the colon after it, if there is one.
fn condition(
    spec: &str,
    start: usize,
    tokens: &Tokens<'_>,
) -> Result<Option<(Select, usize)>, Vec<SpecProblem>> {
    let mut first = None;
    // An address such as `fd00::` ends with a colon too.
    for colon in tokens.colons() {
        match expression::parse(&spec[start..colon]) {
            Ok(select) => return Ok(Some((select, colon))),
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or(Ok(None), |error| {
        let at = start + error.at().start..start + error.at().end;
        let hint = "as in \"tcp port 6379: loss 5%\"".to_owned();
        Err(vec![SpecProblem { at, what: error.what().to_owned(), hint }])
    })
}

fn aim(stage: &mut StageParams, select: &Select, at: Range<usize>) -> Result<(), Vec<SpecProblem>> {
    if expression::narrow(&mut stage.select, select) {
        return Ok(());
    }
    let what = format!("\"{}\" acts on none of these packets", stage.name);
    Err(vec![SpecProblem { at, what, hint: "change the condition, or the fault".to_owned() }])
}

/// The error for a clause that begins with a condition but has no colon.
fn unfinished(first: &Token<'_>, clause: &str) -> Option<SpecProblem> {
    let begins = first.text.split(['(', ':']).find(|part| !part.is_empty()).unwrap_or(first.text);
    if !expression::WORDS.contains(&begins) {
        return None;
    }
    let (what, hint) = if clause.contains(':') {
        (
            "the colon behind a condition ends a word",
            "write a space behind it, as in \"tcp port 6379: loss 5%\"",
        )
    } else {
        ("a condition ends with a colon", "as in \"tcp port 6379: loss 5%\"")
    };
    Some(first.problem(what.to_owned(), hint))
}

/// The warning of a `drop` for all packets.
pub(crate) const UNAIMED_DROP: &str =
    "drop without a condition lets no packet pass; aim it, as in \"tcp port 5432: drop\"";

/// Adds a warning for a `drop` that lets no packet pass.
fn warned(mut read: Spec) -> Spec {
    if read.stages.iter().any(|stage| matches!(stage.impairment, ImpairmentParams::Drop(_))) {
        read.warnings.push(UNAIMED_DROP.to_owned());
    }
    read
}

/// Whether a word begins a condition, and therefore a new clause after a semicolon.
pub(super) fn begins_condition(token: &Token<'_>) -> bool {
    let text = token.text.trim_start_matches('(');
    // `icmp` alone is an argument of `mtu`.
    expression::WORDS.contains(&text) && text != "icmp" || text.ends_with(':')
}
