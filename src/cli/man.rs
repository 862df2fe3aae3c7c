//! `faultwire man`: the manual, made from what `--help` says.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::args::Args;
use crate::cli::{WRONG, fail, out};

/// Options of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  faultwire man | man -l -
  faultwire man ctl set | man -l -
  faultwire man --dir /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The page of this command [default: that of faultwire itself]
    #[arg(value_name = "COMMAND")]
    pub(super) words: Vec<String>,
    /// Write all pages into this folder, each with the name of its command
    #[arg(long, value_name = "DIR", conflicts_with = "words")]
    pub(super) dir: Option<PathBuf>,
}

/// Prints a page, or writes all.
pub(super) fn man(args: &Man) -> ExitCode {
    // `help` repeats every command below it.
    let mut whole = without_help(Args::command());
    whole.build();
    if let Some(folder) = &args.dir {
        let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(whole, folder));
        return match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, format!("{}: {error}", folder.display())),
        };
    }
    let mut command = &whole;
    for word in &args.words {
        match command.find_subcommand(word) {
            Some(found) => command = found,
            None => return fail(WRONG, format!("there is no command {word}; faultwire --help lists them")),
        }
    }
    let mut page = Vec::new();
    match clap_mangen::Man::new(command.clone()).render(&mut page) {
        Ok(()) => {
            out::print(String::from_utf8_lossy(&page));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}

/// A command whose commands, all the way down, have no `help` among them.
fn without_help(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = command.disable_help_subcommand(true);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command: &clap::Command) -> Vec<String> {
        let below = command.get_subcommands().flat_map(names);
        std::iter::once(command.get_name().to_owned()).chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_and_none_has_two() {
        let mut whole = without_help(Args::command());
        whole.build();
        let names = names(&whole);
        assert!(!names.iter().any(|name| name == "help"), "{names:?}");
        for name in ["faultwire", "exec", "ctl", "set", "case", "explain"] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
    }
}
