//! Runs a command with seed after seed, until it fails.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Asked, Ended, ending, run};
use crate::cli::exec::around::Around;
use crate::cli::out;
use crate::cli::signals::Signals;

/// How a series ended.
enum How {
    /// None failed.
    Passed,
    /// The last one failed.
    Failed,
    /// A run that was interrupted neither passed nor failed.
    Interrupted(Signal),
}

/// Runs the command with as many seeds as requested, each on a fresh link. Returns the exit code of the first run
/// that fails; 0 if none does.
pub(super) fn series(asked: Asked<'_>) -> anyhow::Result<ExitCode> {
    let around = Around::find(asked.args)?;
    let signals = Signals::watch()?;
    let args = asked.args;
    let first = asked.faults.seed(args.seed);
    let (how, passed, last) = under_seeds(asked, &around, &signals, first)?;
    // From here on, a signal ends faultwire even if its output is blocked.
    drop(signals);
    let code = last.as_ref().map_or(0, Ended::exit_code);
    let mut again = None;
    let (words, code) = match how {
        How::Passed => (format!("{}: none failed", runs(passed, first)), code),
        How::Failed => {
            let line: Vec<OsString> = std::env::args_os().collect();
            let count = if passed == 1 { "1 run".to_owned() } else { format!("{passed} runs") };
            match last.as_ref().and_then(Ended::line) {
                Some(said) => {
                    again = Some(self::again(&line, first.wrapping_add(passed)));
                    (format!("{said}, after {count} without failure; this runs it again:"), code)
                }
                // The reason has been printed already, and the seed is not the cause.
                None => (format!("the command was not started, after {count} without failure"), code),
            }
        }
        How::Interrupted(signal) => {
            let words = format!("ended by {signal} after {}: none failed", runs(passed, first));
            (words, if code == 0 { 128 + signal as u8 } else { code })
        }
    };
    if let (true, Some(ended)) = (args.summary, &last) {
        ended.tell()?;
    }
    if let Some(ended) = &last {
        ended.advise(args);
    }
    // The line to copy is the last one.
    out::note_line(format_args!("faultwire: {words}"));
    if let Some(line) = &again {
        out::note_raw(format_args!("{line}\n"));
    }
    if let Some(ended) = &last {
        let mut json = ended.json();
        let failed = again.is_some().then(|| ended.names.seed());
        json["series"] = json!({ "passed": passed, "failed_seed": failed, "again": again });
        ended.write(json)?;
    }
    Ok(ExitCode::from(code))
}

/// How the series ended, how many runs had passed, and the last run.
fn under_seeds(
    asked: Asked<'_>,
    around: &Around,
    signals: &Signals,
    first: u64,
) -> anyhow::Result<(How, u64, Option<Ended>)> {
    let args = asked.args;
    let most = args.seeds.map_or(u64::MAX, std::num::NonZeroU64::get);
    let of = args.seeds.map_or_else(String::new, |most| format!(" of {most}"));
    let mut last: Option<Ended> = None;
    for passed in 0..most {
        if let Some(signal) = pending(signals)? {
            return Ok((How::Interrupted(signal), passed, last));
        }
        let seed = first.wrapping_add(passed);
        out::note_line(format_args!("faultwire: run {}{of}, seed {seed}", passed + 1));
        let ended = run(asked, around, signals, seed)?;
        if let Some(signal) = ended.interrupted {
            return Ok((How::Interrupted(signal), passed, Some(ended)));
        }
        if ended.code != 0 {
            return Ok((How::Failed, passed, Some(ended)));
        }
        last = Some(ended);
    }
    Ok((How::Passed, most, last))
}

fn runs(count: u64, first: u64) -> String {
    match count {
        0 => "no whole run".to_owned(),
        1 => format!("1 run, seed {first}"),
        _ => format!("{count} runs, seeds {first} to {}", first.wrapping_add(count - 1)),
    }
}

/// A signal to end that came while no command was running.
fn pending(signals: &Signals) -> nix::Result<Option<Signal>> {
    while let Some(received) = signals.wait(0)? {
        if let Some(signal) = ending(received.signal) {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}

/// The command line `line`, which asked for several seeds, for this seed alone, quoted for a shell.
fn again(line: &[OsString], seed: u64) -> String {
    let mut words = line.iter().map(OsString::as_os_str);
    let mut out: Vec<String> = words.by_ref().take(2).map(quoted).collect();
    out.push(format!("--seed {seed}"));
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => {
                out.push("--".to_owned());
                out.extend(words.by_ref().map(quoted));
            }
            b"--until-failure" => {}
            b"--seed" | b"--seeds" => {
                words.next();
            }
            other if other.starts_with(b"--seed=") || other.starts_with(b"--seeds=") => {}
            _ => out.push(quoted(word)),
        }
    }
    out.join(" ")
}

/// A word, quoted for a shell.
fn quoted(word: &OsStr) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.as_bytes().iter().all(is_plain) => text.to_owned(),
        Some(text) => format!("'{}'", text.replace('\'', r"'\''")),
        // Bash, zsh and ksh know this form; it can hold any bytes.
        None => {
            let bytes: Vec<String> = word.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("$'{}'", bytes.concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_line_that_runs_it_again_has_one_seed_and_all_else() {
        let all = line(&[
            "/opt/my bin/faultwire",
            "exec",
            "--seeds",
            "9",
            "--both",
            "loss 20%",
            "--seed=4",
            "--",
            "sh",
            "-c",
            "echo 'a' --seeds $X",
            "--seeds",
            "",
        ]);
        assert_eq!(
            again(&all, 12),
            r"'/opt/my bin/faultwire' exec --seed 12 --both 'loss 20%' -- sh -c 'echo '\''a'\'' --seeds $X' --seeds ''"
        );
        let all = line(&["faultwire", "exec", "--until-failure", "--seed", "7", "--", "true"]);
        assert_eq!(again(&all, 8), "faultwire exec --seed 8 -- true");
    }

    /// A shell reads every word as it was.
    #[test]
    fn a_shell_reads_what_was_quoted() {
        let words = line(&["a b", "it's", "$HOME `x` \\ \"", "", "*", "-n", "ä\n"]);
        let script =
            format!("printf '%s\\0' {}", words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" "));
        let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
        let expected: Vec<u8> =
            words.iter().flat_map(|word| [word.as_bytes(), b"\0".as_slice()].concat()).collect();
        assert_eq!(said, expected);
    }
}
