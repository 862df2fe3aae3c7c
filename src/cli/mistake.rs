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

/// Prints clap's message and a hint. Help and version are printed too, with exit code 0.
pub(super) fn answer(mut error: clap::Error) -> ExitCode {
    let cure = cure(&error);
    if is_negative(&error) {
        // "Use '-- -1'" would turn the value into a command.
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(Vec::new()));
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

/// A hint for an argument that no option takes: `exec delay 50ms -- true`, `exec ls`, `--seed -1`, a file after
/// --json.
fn cure(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    if is_negative(error) {
        return Some(format!("{word} stands where a value does, and values must not be negative"));
    }
    if word.starts_with('-') {
        return None;
    }
    let args = || std::env::args().skip(1);
    if args().skip_while(|before| before != "--json").nth(1).is_some_and(|behind| behind == *word) {
        return Some(format!("The file of --json stands behind an equals sign: --json={word}"));
    }
    if spec::words().any(|known| known == word) {
        let line = format!("faultwire exec --both '{word} ...' -- COMMAND");
        return Some(format!("Faults are the value of --both, --up or --down, in quotes: {line}"));
    }
    // The usage of no other command has these dashes.
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
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

    fn error_of(line: &str) -> clap::Error {
        Args::try_parse_from(format!("faultwire {line}").split(' ')).unwrap_err()
    }

    fn cure_of(line: &str) -> Option<String> {
        cure(&error_of(line))
    }

    #[test]
    fn faults_without_their_option_are_answered_by_it() {
        for line in ["exec delay 50ms -- true", "exec loss -- true", "attach --container web rate 1mbit"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("--both")), "{line}");
        }
        for line in ["attach ls", "exec --dealy -- true", "exec --json --nope", "run", "--help"] {
            assert_eq!(cure_of(line), None, "{line}");
        }
    }

    #[test]
    fn a_command_without_dashes_and_a_negative_number_have_cures_of_their_own() {
        for line in ["exec ls", "exec --summary ls -- true"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("faultwire exec -- ls")), "{line}");
        }
        for line in ["exec --seed -1 -- true", "exec --linger -1s -- true", "run x --ready-fd -1"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("must not be negative")), "{line}");
        }
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
