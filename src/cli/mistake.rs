//! A wrong command line: clap's answer, and what clap cannot know.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::{json, out};
use crate::config::spec;

/// Prints what clap says and what would be right. Help and version are answered too, with exit code 0.
pub(super) fn answer(error: &clap::Error) -> ExitCode {
    // Nobody is left to be told if this fails.
    let _ = error.print();
    let cure = cure(error);
    if let Some(cure) = &cure {
        out::note_line(format_args!("\n{cure}"));
    }
    let code = u8::try_from(error.exit_code()).unwrap_or(super::WRONG);
    if code != 0 {
        let message = format!("{error}\n{}", cure.unwrap_or_default());
        json::refused(std::env::args_os(), code, message.trim());
    }
    ExitCode::from(code)
}

/// A cure for faults that stand where no option takes them: `exec delay 50ms -- true`; and for a file that stands behind --json.
fn cure(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut words = std::env::args().skip_while(|before| before != "--json").skip(1);
    if error.kind() == ErrorKind::UnknownArgument && words.next().is_some_and(|behind| behind == *word) {
        return Some(format!("The file of --json stands behind an equals sign: --json={word}"));
    }
    (error.kind() == ErrorKind::UnknownArgument && spec::words().any(|known| known == word)).then(|| {
        format!(
            "Faults are the value of --both, --up or --down, in quotes: faultwire exec --both '{word} ...' -- COMMAND"
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Args;

    fn cure_of(line: &str) -> Option<String> {
        cure(&Args::try_parse_from(format!("faultwire {line}").split(' ')).unwrap_err())
    }

    #[test]
    fn faults_without_their_option_are_answered_by_it() {
        for line in ["exec delay 50ms -- true", "exec loss -- true", "attach --container web rate 1mbit"] {
            assert!(cure_of(line).is_some_and(|text| text.contains("--both")), "{line}");
        }
        for line in ["exec ls -- true", "exec --dealy -- true", "run", "--help"] {
            assert_eq!(cure_of(line), None, "{line}");
        }
    }
}
