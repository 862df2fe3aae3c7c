//! An invalid command line: clap's message, and hints that clap cannot give.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::{json, out};
use crate::config::spec;

/// The standard library's messages about numbers, and clearer ones.
const PLAIN: [(&str, &str); 5] = [
    ("invalid digit found in string", "not a whole number"),
    ("number would be zero for non-zero type", "must be at least 1"),
    ("number too large to fit in target type", "too large"),
    ("number too small to fit in target type", "too small"),
    ("cannot parse integer from empty string", "a number is missing"),
];

/// Where the names of cases are.
const CASES: &str = "`faultwire case list` shows all cases";

/// Prints clap's message and a hint. Help and version are printed too, with exit code 0.
pub(super) fn answer(mut error: clap::Error) -> ExitCode {
    let line: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let cure = cure(&error, &line);
    if cure.is_some() {
        // "Use '-- -1'" would turn the value into a command.
        error.remove(ContextKind::Suggested);
    }
    let said = error.to_string();
    let plain = PLAIN.iter().fold(said.clone(), |said, (raw, plain)| said.replace(raw, plain));
    if plain == said {
        // If this fails, there is no one to report to.
        let _ = error.print();
    } else {
        out::note(&plain);
    }
    if let Some(cure) = &cure {
        out::note_line(format_args!("\n{cure}"));
    }
    let code = u8::try_from(error.exit_code()).unwrap_or(super::WRONG);
    if code != 0 {
        let message = format!("{plain}\n{}", cure.unwrap_or_default());
        json::refused(std::env::args_os(), code, message.trim());
    }
    ExitCode::from(code)
}

/// A hint, if the command line shows what was meant: `exec delay 50ms -- true`, `exec --both delay 50ms -- true`, `exec ls`,
/// `exec --delay 50ms`, `--seed -1`, a file after --json, `case NAME`. `line` is the whole command line.
fn cure(error: &clap::Error, line: &[String]) -> Option<String> {
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if error.kind() == ErrorKind::MissingRequiredArgument && usage.contains("faultwire case ") {
        return Some(CASES.to_owned());
    }
    if error.kind() == ErrorKind::InvalidSubcommand && usage.contains("faultwire case ") {
        let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
        return Some(format!("A case is run by: faultwire case run {word}. {CASES}"));
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    if is_negative(error) {
        return Some(format!("{word} stands where a value does, and values must not be negative"));
    }
    let before: Vec<&str> = line.iter().map(String::as_str).take_while(|one| one != word).collect();
    if before.last() == Some(&"--json") && !word.starts_with('-') {
        return Some(format!("The file of --json stands behind an equals sign: --json={word}"));
    }
    let as_value = |faults: &str| {
        let line = format!("faultwire exec --both '{faults}' -- COMMAND");
        Some(format!("Faults are the value of --both, --up or --down, in quotes: {line}"))
    };
    let is_fault = |text: &str| spec::words().any(|known| known == text);
    match word.split_once(' ') {
        Some((first, _)) if is_fault(first) => return as_value(word),
        _ if is_fault(word) => return as_value(&format!("{word} ...")),
        _ => {}
    }
    if let Some(name) = word.strip_prefix("--") {
        return is_fault(name).then(|| as_value(&format!("{name} ..."))).flatten();
    }
    if let [.., "--both" | "--up" | "--down" | "--spec" | "--explain", value] = before[..]
        && is_fault(value)
        && spec::parse(value).is_err()
    {
        return as_value(&format!("{value} {word} ..."));
    }
    // The usage of no other command has these dashes.
    usage
        .contains("[-- <CMD>")
        .then(|| format!("The command stands behind two dashes: faultwire exec -- {word} ..."))
}

/// Whether the error is about a value such as -1, which looks like an option.
fn is_negative(error: &clap::Error) -> bool {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return false };
    let digits = word.strip_prefix('-').unwrap_or_default();
    error.kind() == ErrorKind::UnknownArgument && digits.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use clap::Parser;

    use super::*;
    use crate::cli::args::Args;

    /// The hint for a command line; `_` in a word stands for a space.
    fn cure_of(line: &str) -> Option<String> {
        let line: Vec<String> =
            format!("faultwire {line}").split(' ').map(|word| word.replace('_', " ")).collect();
        cure(&Args::try_parse_from(&line).unwrap_err(), &line)
    }

    #[test]
    fn faults_without_their_option_are_answered_by_it() {
        for line in ["exec delay 50ms -- true", "exec loss -- true", "attach --container web rate 1mbit"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("--both")), "{line}");
        }
        for line in [
            "exec --both delay 50ms -- true",
            "attach --up loss 1%",
            "exec loss_5% -- true",
            "exec --delay 50ms",
        ] {
            assert!(cure_of(line).is_some_and(|text| text.contains("in quotes")), "{line}");
        }
        assert!(cure_of("exec --both delay 50ms -- x").is_some_and(|text| text.contains("'delay 50ms ...'")));
        for line in ["attach ls", "exec --dealy -- true", "exec --json --nope", "run", "--help"] {
            assert_eq!(cure_of(line), None, "{line}");
        }
    }

    #[test]
    fn a_command_without_dashes_and_a_negative_number_have_cures_of_their_own() {
        for line in
            ["exec ls", "exec --summary ls -- true", "exec --both drop ls", "exec --both delay_5ms ls"]
        {
            assert!(cure_of(line).is_some_and(|text| text.contains("faultwire exec -- ls")), "{line}");
        }
        for line in ["exec --seed -1 -- true", "exec --linger -1s -- true", "run x --ready-fd -1"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("must not be negative")), "{line}");
        }
    }

    #[test]
    fn a_case_without_its_command_or_name_is_answered_by_how_to_run_it() {
        assert!(cure_of("case mtu-blackhole").is_some_and(|text| text.contains("case run mtu-blackhole. `")));
        for line in ["case run", "case explain"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("case list")), "{line}");
        }
        assert_eq!(cure_of("rum"), None);
    }

    #[test]
    fn a_file_behind_json_is_answered_by_the_equals_sign() {
        assert!(cure_of("ctl show --json out.json").is_some_and(|text| text.contains("--json=out.json")));
    }

    /// As the standard library of this compiler says it.
    #[test]
    fn no_raw_text_of_a_number_is_left() {
        let raw = [
            "x".parse::<u64>().unwrap_err().to_string(),
            "0".parse::<NonZeroU64>().unwrap_err().to_string(),
            "300".parse::<u8>().unwrap_err().to_string(),
            "-300".parse::<i8>().unwrap_err().to_string(),
            "".parse::<u64>().unwrap_err().to_string(),
        ];
        for (said, (known, _)) in raw.iter().zip(PLAIN) {
            assert_eq!(said, known);
        }
    }
}
