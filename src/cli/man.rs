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
    let mut whole = Args::command();
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
