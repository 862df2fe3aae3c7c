//! `faultwire completions`: scripts with which shells complete a command line, including the stages of the running
//! instance.

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, EnvCompleter, Shells};
use clap_complete::{ArgValueCompleter, CompletionCandidate};
use serde_json::Value;

use crate::cli::args::Args;
use crate::cli::whom::Whom;
use crate::cli::{fail, out};
use crate::control::Client;

/// The environment variable that asks for completions; its value is the shell's name.
const VARIABLE: &str = "FAULTWIRE_COMPLETE";

/// Whether bash asks.
static IS_BASH: OnceLock<bool> = OnceLock::new();

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(faultwire completions bash)     # now; in ~/.bashrc: from now on
  faultwire completions zsh > ~/.zfunc/_faultwire     # a folder of $fpath
  faultwire completions fish > ~/.config/fish/completions/faultwire.fish

While a command line is typed, the script asks faultwire for options, cases,
instances, and the stages and paths of the running instance.")]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shell {
    /// Bash, 4.4 or later
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// Prints the script of a shell.
pub(super) fn completions(args: &Completions) -> ExitCode {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let mut script = Vec::new();
    let own = "faultwire";
    let written = Shells::builtins()
        .completer(name)
        .map(|shell: &dyn EnvCompleter| shell.write_registration(VARIABLE, own, own, own, &mut script));
    match written {
        Some(Ok(())) => {
            out::print(String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Some(Err(error)) => fail(1, error),
        None => fail(1, format!("there is no script for {name}")),
    }
}

/// If a shell asks for completions, prints them and ends the process.
pub(super) fn answer() {
    if let Some(shell) = std::env::var_os(VARIABLE) {
        // It is removed from the environment before completers run.
        let _ = IS_BASH.set(shell == "bash");
        CompleteEnv::with_factory(Args::command).var(VARIABLE).bin("faultwire").complete();
    }
}

/// Completes the names of stages: `PATH/STAGE`, or `STAGE` if that is unique.
pub(super) fn of_stages() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let stages = ask("/v1/stages");
        // The returning direction of a stage cannot be changed by itself.
        let own: Vec<&Value> = list(&stages).iter().filter(|stage| stage["type"] != "back").collect();
        let name = |stage: &Value| stage["name"].as_str().unwrap_or_default().to_owned();
        let alone =
            own.iter().filter(|one| own.iter().filter(|other| other["name"] == one["name"]).count() == 1);
        let ids = own.iter().map(|stage| (stage["id"].as_str().unwrap_or_default().to_owned(), *stage));
        let names = alone.map(|stage| (name(stage), *stage));
        let all = ids.chain(names).map(|(word, stage)| (word, stage["text"].as_str().map(str::to_owned)));
        matching(current, all)
    })
}

/// Completes the names of paths.
pub(super) fn of_paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let paths = ask("/v1/paths");
        let names = list(&paths).iter().filter_map(|path| path["name"].as_str());
        matching(current, names.map(|name| (name.to_owned(), None)))
    })
}

/// Completes the names of running instances.
pub(super) fn of_instances() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        matching(current, Client::all().iter().map(|client| (client.name(), None)))
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The answer of the instance that the command line names so far; `None` if there is no instance.
fn ask(resource: &str) -> Value {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let named = words.windows(2).filter(|two| two[0] == name).map(|two| two[1].clone());
        let joined =
            words.iter().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
        named.chain(joined).last()
    };
    let whom = Whom {
        control: option("--control").and_then(|name| name.parse().ok()),
        token_file: option("--token-file").map(Into::into),
    };
    whom.client().and_then(|client| client.get(resource)).unwrap_or_default()
}

/// The candidates that begin with the typed text.
fn matching(
    current: &OsStr,
    all: impl Iterator<Item = (String, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy().replace(['\\', '\'', '"'], "");
    // Zsh and fish quote inserted text themselves.
    let is_bash = IS_BASH.get().is_some_and(|is_bash| *is_bash);
    let candidate = |(word, help): (String, Option<String>)| {
        let word = if is_bash { word.replace('>', "\\>") } else { word };
        CompletionCandidate::new(word).help(help.map(Into::into))
    };
    all.filter(|(word, _)| word.starts_with(&typed)).map(candidate).collect()
}
