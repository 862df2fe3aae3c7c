//! `faultwire case`.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::args::{CaseCommand, CaseExplain, CaseRun};
use crate::cli::{WRONG, fail};
use crate::lab::case::Case;
use crate::lab::catalogue;
use crate::lab::report::CaseStory;
use crate::lab::report::page::{book, page};
use crate::lab::run::run_case;
use crate::net::privilege;

/// Lists, explains or runs cases.
pub(super) fn case(command: &CaseCommand) -> ExitCode {
    match command {
        CaseCommand::List { json } => list(*json),
        CaseCommand::Explain(args) => explain(args),
        CaseCommand::Run(args) => run(args),
    }
}

fn list(json: bool) -> ExitCode {
    let cases = match catalogue::cases() {
        Ok(cases) => cases,
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

fn explain(args: &CaseExplain) -> ExitCode {
    let text = match &args.case {
        Some(name) => find(name).map(|case| page(&case, 1)),
        None => catalogue::cases()
            .map(|cases| book(catalogue::CHAPTERS, &cases))
            .map_err(|error| error.to_string()),
    };
    match text {
        // Whoever reads a book by `| head` may close it.
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(1, error),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => fail(WRONG, error),
    }
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
        let blind = match story.not_observable() {
            0 => String::new(),
            count => format!(" ({count} expectations not observable here)"),
        };
        println!("PASS {}: {}{blind}", story.name, story.title);
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
    Case::load(name).map_err(|error| error.to_string())
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
