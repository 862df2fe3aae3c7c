//! The commands. Output for people goes to the terminal, and with `--json` for programs.
//!
//! Exit codes: 0 done; 1 something failed, or a case did, or standard output could not be written; 2 the command line or
//! a file is wrong. `exec` exits with the code of its command, and with 125 if the network around it could not be made, as
//! `env` and `timeout` do. Only `out` writes to the standard streams.

// Numbers from outside are converted here: each conversion is checked, or a comment says why this is not needed.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod args;
mod attach;
mod bench;
mod case;
mod check;
mod cni;
mod completions;
mod ctl;
mod doctor;
mod exec;
mod faults;
mod journal;
mod json;
mod kind;
mod log;
mod man;
mod mistake;
mod out;
mod pcap;
mod ready;
mod run;
mod serving;
mod session;
mod signals;
mod subnets;
mod summary;
mod top;
mod toxiproxy;
mod watching;
mod whom;

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

/// The command line or a file is wrong.
const WRONG: u8 = 2;

/// Runs the command line and returns the exit code of the process.
pub fn main() -> ExitCode {
    // The parent process is determined first, before anything takes time.
    let parent = nix::unistd::getppid();
    if cni::is_plugin() {
        return out::verdict(cni::cni(), ExitCode::FAILURE);
    }
    completions::answer();
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return mistake::answer(error),
    };
    if let Some((command, json)) = args.command.json()
        && let Err(error) = json::open(command, json)
    {
        return fail(WRONG, reasons(&error));
    }
    signals::wait_for_children();
    let is_exec = matches!(args.command, args::Command::Exec(_));
    let code = match args.command {
        args::Command::Check(args) => check::check(&args),
        args::Command::Run(args) => run::run(&args, parent),
        args::Command::Exec(args) => exec::exec(&args),
        args::Command::Attach(args) => attach::attach(&args),
        args::Command::Bench(args) => bench::bench(&args),
        args::Command::Cni => cni::cni(),
        args::Command::Completions(args) => completions::completions(&args),
        args::Command::Man(args) => man::man(&args),
        args::Command::Ctl(args) => ctl::ctl(&args),
        args::Command::Doctor(args) => doctor::doctor(&args),
        args::Command::Pcap(args) => pcap::pcap(&args),
        args::Command::Journal(args) => journal::journal(&args),
        args::Command::Top(args) => top::top(&args),
        args::Command::Toxiproxy(args) => toxiproxy::toxiproxy(&args, parent),
        args::Command::Case(command) => case::case(&command),
    };
    // As for all other outputs of `exec`: the exit code of a failed command is kept.
    let broken = match code {
        code if is_exec && code == ExitCode::SUCCESS => exec::NO_NETWORK.into(),
        code if is_exec => code,
        _ => ExitCode::FAILURE,
    };
    out::verdict(code, broken)
}

/// Reports an error, as JSON too if that is wanted, and returns `code`.
fn fail(code: u8, error: impl Display) -> ExitCode {
    let error = error.to_string();
    if let Err(unwritten) = json::failure(code, &error) {
        out::note_line(format_args!("faultwire: {}", reasons(&unwritten)));
    }
    out::note_line(format_args!("faultwire: {error}"));
    ExitCode::from(code)
}

/// Whether two names mean the same regular file, which need not exist yet. `-` is a stream, not a file.
fn is_same(one: &Path, other: &Path) -> bool {
    let is_stream = |path: &Path| path == Path::new("-");
    if is_stream(one) || is_stream(other) {
        return false;
    }
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()),
        (Err(_), Err(_)) => one == other || place(one).is_some_and(|one| place(other) == Some(one)),
        _ => false,
    }
}

/// Where a file would be created: its folder, with all names resolved, and its name there.
fn place(path: &Path) -> Option<(PathBuf, &OsStr)> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Some((folder.canonicalize().ok()?, path.file_name()?))
}

/// The error and its causes, down to the first. A cause that the text before it already names is left out.
fn reasons(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    })
}

/// A seed for a run without one. It is short enough to be typed again.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hash maps get their keys from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_named_twice() {
        let cause = || std::io::Error::other("no room");
        let named = anyhow::Error::from(cause()).context("cannot write a: no room");
        assert_eq!(reasons(&named), "cannot write a: no room");
        let unnamed = anyhow::Error::from(cause()).context("cannot write a").context("stopped");
        assert_eq!(reasons(&unnamed), "stopped: cannot write a: no room");
    }
}
