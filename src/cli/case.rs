//! `faultwire case`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::args::{CaseCommand, CaseRun};
use crate::cli::{WRONG, fail};
use crate::config::ConfigError;
use crate::lab::case::Case;
use crate::lab::report::CaseStory;
use crate::lab::run::run_case;
use crate::net::privilege;

/// The cases that come with faultwire, by name: they are in the program, so that it needs no files beside it.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// Lists or runs cases.
pub(super) fn case(command: &CaseCommand) -> ExitCode {
    match command {
        CaseCommand::List { json } => list(*json),
        CaseCommand::Run(args) => run(args),
    }
}

fn list(json: bool) -> ExitCode {
    let cases = BUILT_IN.iter().map(|(name, _)| built_in(name)).collect::<Result<Vec<_>, _>>();
    let cases: Vec<Case> = match cases {
        Ok(cases) => cases.into_iter().flatten().collect(),
        Err(error) => return fail(WRONG, error),
    };
    if json {
        let list: Vec<_> =
            cases.iter().map(|case| json!({ "name": case.name, "title": case.title })).collect();
        println!("{:#}", json!(list));
    } else {
        let width = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
        for case in cases {
            println!("{:<width$}  {}", case.name, case.title);
        }
    }
    ExitCode::SUCCESS
}

fn run(args: &CaseRun) -> ExitCode {
    let cases = match chosen(args) {
        Ok(cases) => cases,
        Err(error) => return fail(WRONG, error),
    };
    // Before any thread is started: this may make a user namespace.
    if let Err(error) = privilege::acquire() {
        return fail(1, error);
    }
    let mut stories = Vec::new();
    for mut case in cases {
        case.seed = args.seed.unwrap_or(case.seed);
        let progress = |trial: &str| eprintln!("running {} ({trial})", case.name);
        let story = match run_case(&case, progress) {
            Ok(story) => story,
            Err(error) => return fail(1, format!("case {}: {error}", case.name)),
        };
        if !args.json {
            print_story(&story, args);
        }
        stories.push(story);
    }
    finish(&stories, args)
}

fn print_story(story: &CaseStory, args: &CaseRun) {
    // Many cases: one line each, and the whole story of those that fail.
    if args.brief() && story.pass() {
        println!("PASS {}: {}", story.name, story.title);
    } else {
        println!("{story}");
    }
}

fn finish(stories: &[CaseStory], args: &CaseRun) -> ExitCode {
    let failed = stories.iter().filter(|story| !story.pass()).count();
    if args.json {
        match serde_json::to_string_pretty(&json!({ "pass": failed == 0, "cases": stories })) {
            Ok(text) => println!("{text}"),
            Err(error) => return fail(1, error),
        }
    } else if stories.len() > 1 {
        println!("{} passed, {failed} failed", stories.len() - failed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the command line names, every mistake in it at once.
fn chosen(args: &CaseRun) -> Result<Vec<Case>, String> {
    let names: Vec<PathBuf> = if args.all {
        BUILT_IN.iter().map(|(name, _)| PathBuf::from(name)).collect()
    } else {
        args.cases.clone()
    };
    let (cases, errors): (Vec<_>, Vec<_>) = names.iter().map(|name| find(name)).partition(Result::is_ok);
    if errors.is_empty() {
        return Ok(cases.into_iter().flatten().collect());
    }
    Err(errors.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n"))
}

/// A built-in case by its name, or a file by its path.
fn find(name: &Path) -> Result<Case, String> {
    let known = name.to_str().map(built_in).transpose().map_err(|error| error.to_string())?.flatten();
    if let Some(case) = known {
        return Ok(case);
    }
    if !name.exists() && name.extension().is_none() {
        let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let hint = crate::config::suggest::hint(&name.to_string_lossy(), &names);
        return Err(format!(
            "there is no case \"{}\" ({hint}; `faultwire case list` shows all)",
            name.display()
        ));
    }
    Case::load(name).map_err(|error| error.to_string())
}

fn built_in(name: &str) -> Result<Option<Case>, ConfigError> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    found.map(|(name, text)| Case::parse(text, &format!("configs/cases/{name}.toml"), name)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_that_comes_with_it_can_be_read_and_has_a_control() {
        assert!(BUILT_IN.len() >= 17, "{} cases", BUILT_IN.len());
        for (name, _) in BUILT_IN {
            let case = built_in(name).unwrap().unwrap();
            assert!(case.trials.iter().any(|trial| trial.control.is_some()), "{name} has no control");
        }
    }

    #[test]
    fn a_mistyped_name_gets_the_name_that_was_meant() {
        let error = find(Path::new("mss-clmp")).unwrap_err();
        assert!(error.contains("mss-clamp"), "{error}");
    }
}
