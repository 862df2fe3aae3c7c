//! `faultwire case`.

mod recording;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::args::{CaseCommand, CaseExplain, CaseList, CaseRun};
use crate::cli::case::recording::Recording;
use crate::cli::json::{self, Json};
use crate::cli::kind;
use crate::cli::out::Stream;
use crate::cli::{WRONG, fail, out, reasons};
use crate::config::Kind;
use crate::lab::case::Case;
use crate::lab::catalogue;
use crate::lab::report::CaseStory;
use crate::lab::report::layout::fill;
use crate::lab::report::page::{book, page};
use crate::lab::run::record_case;
use crate::net::privilege;

/// Lists, explains or runs cases.
pub(super) fn case(command: &CaseCommand) -> ExitCode {
    match command {
        CaseCommand::List(args) => list(args),
        CaseCommand::Explain(args) => explain(args),
        CaseCommand::Run(args) => run(args),
    }
}

fn list(args: &CaseList) -> ExitCode {
    let cases = match catalogue::cases() {
        Ok(cases) => cases,
        Err(error) => return fail(WRONG, error),
    };
    let list: Vec<_> = cases.iter().map(|case| json!({ "name": case.name, "title": case.title })).collect();
    if let Err(error) = json::result(json!({ "cases": list })) {
        return fail(1, reasons(&error));
    }
    if !args.json.is_on_stdout() {
        let width = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
        for case in cases {
            out::line(format_args!("{:<width$}  {}", case.name, case.title));
        }
    }
    ExitCode::SUCCESS
}

fn explain(args: &CaseExplain) -> ExitCode {
    let text = match &args.case {
        Some(name) => find(name).map(|case| page(&case, 1)),
        None => catalogue::cases()
            .map(|cases| book(catalogue::CHAPTERS, &cases))
            .map_err(|error| error.to_string()),
    };
    match text {
        Ok(text) => {
            if let Err(error) = json::result(json!({ "markdown": text })) {
                return fail(1, reasons(&error));
            }
            if args.json.is_on_stdout() {
                return ExitCode::SUCCESS;
            }
            // A file has the lines of the case's own file.
            match args.case {
                Some(_) => out::print(fill(&text, Stream::Stdout.columns())),
                None => out::raw(text),
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(WRONG, error),
    }
}

fn run(args: &CaseRun) -> ExitCode {
    let cases = match chosen(args).and_then(|cases| args.watching.check().map(|()| cases)) {
        Ok(cases) => cases,
        Err(error) => return fail(WRONG, error),
    };
    // Done before any thread is started: this may create a user namespace.
    if let Err(error) = privilege::acquire() {
        return fail(1, error);
    }
    let mut results = Vec::new();
    let mut recording = Recording::new(&args.watching);
    let many = cases.len() > 1;
    for mut case in cases {
        case.seed = args.seed.unwrap_or(case.seed);
        recording.case(many.then_some(case.name.as_str()));
        let result = run_one(&case, &mut recording);
        if !args.json.is_on_stdout() {
            out::line(said(&result, args.brief()));
        }
        results.push(result);
    }
    let code = finish(&results, &args.json);
    if recording.has_failed() { ExitCode::FAILURE } else { code }
}

/// The result of a case.
enum Ran {
    /// It ran to its end.
    Whole(CaseStory),
    /// The network or traffic could not be created, so nothing was observed.
    Broken { name: String, title: String, error: String },
}

impl Ran {
    fn pass(&self) -> bool {
        matches!(self, Self::Whole(story) if story.pass())
    }

    fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }

    fn json(&self) -> serde_json::Result<serde_json::Value> {
        match self {
            Self::Whole(story) => serde_json::to_value(story),
            Self::Broken { name, title, error } => {
                Ok(json!({ "name": name, "title": title, "broken": error }))
            }
        }
    }
}

/// Runs a case. If it fails to run, the other cases still run.
fn run_one(case: &Case, recording: &mut Recording<'_>) -> Ran {
    let progress = |trial: &str| out::note_line(format_args!("running {} ({trial})", case.name));
    let ran = catch_unwind(AssertUnwindSafe(|| record_case(case, progress, recording)));
    let error = match ran {
        Ok(Ok(story)) => return Ran::Whole(story),
        Ok(Err(error)) => error.to_string(),
        // The panic message has said where.
        Err(_) => "a panic; this is a bug in faultwire".to_owned(),
    };
    Ran::Broken { name: case.name.clone(), title: case.title.clone(), error }
}

/// One line for each of many cases, and the whole story of those that fail.
fn said(result: &Ran, brief: bool) -> String {
    match result {
        Ran::Broken { name, title, error } => format!("BROKEN {name}: {title}\n       {error}"),
        Ran::Whole(story) if brief && story.pass() => {
            let blind = match story.not_observable() {
                0 => String::new(),
                count => format!(" ({count} expectations not observable here)"),
            };
            format!("PASS {}: {}{blind}", story.name, story.title)
        }
        Ran::Whole(story) => story.text(Stream::Stdout.columns()),
    }
}

fn finish(results: &[Ran], json: &Json) -> ExitCode {
    let passed = results.iter().filter(|result| result.pass()).count();
    let broken = results.iter().filter(|result| result.is_broken()).count();
    let failed = results.len() - passed - broken;
    let pass = passed == results.len();
    let cases = match results.iter().map(Ran::json).collect::<Result<Vec<_>, _>>() {
        Ok(cases) => cases,
        Err(error) => return fail(1, error),
    };
    let all = json!({ "pass": pass, "passed": passed, "failed": failed, "broken": broken, "cases": cases });
    if let Err(error) = json::result(all) {
        return fail(1, reasons(&error));
    }
    if results.len() > 1 && !json.is_on_stdout() {
        let broken = if broken > 0 { format!(", {broken} broken") } else { String::new() };
        out::line(format_args!("{passed} passed, {failed} failed{broken}"));
    }
    if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The cases that the command line names; all errors in it are reported at once.
fn chosen(args: &CaseRun) -> Result<Vec<Case>, String> {
    let names: Vec<PathBuf> =
        if args.all { catalogue::names().map(PathBuf::from).collect() } else { args.cases.clone() };
    let (cases, errors): (Vec<_>, Vec<_>) = names.iter().map(|name| find(name)).partition(Result::is_ok);
    if errors.is_empty() {
        return Ok(cases.into_iter().flatten().collect());
    }
    Err(errors.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n"))
}

/// A built-in case by its name, or a file by its path.
fn find(name: &Path) -> Result<Case, String> {
    let known = name.to_str().map(catalogue::case).transpose().map_err(|error| error.to_string())?.flatten();
    if let Some(case) = known {
        return Ok(case);
    }
    if !name.exists() && name.extension().is_none() {
        let names: Vec<_> = catalogue::names().collect();
        let hint = crate::config::suggest::hint(&name.to_string_lossy(), &names);
        return Err(format!(
            "there is no case \"{}\" ({hint}; `faultwire case list` shows all)",
            name.display()
        ));
    }
    let stem = name.file_stem().unwrap_or_default().to_string_lossy();
    kind::load(name, Kind::Case, |text, shown| Case::parse(text, shown, &stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_gets_the_name_that_was_meant() {
        let error = find(Path::new("mss-clmp")).unwrap_err();
        assert!(error.contains("mss-clamp"), "{error}");
    }
}
