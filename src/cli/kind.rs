//! If a file is given to the wrong command, the error names the right command.

use std::path::Path;

use crate::config::{self, ConfigError, Kind};

/// The result of `parse` for the file, whose name in messages is its second argument; or an error: about the file, or
/// that another command takes this kind of file.
pub(super) fn load<T>(
    file: &Path,
    wanted: Kind,
    parse: impl FnOnce(&str, &str) -> Result<T, ConfigError>,
) -> Result<T, String> {
    let text = config::read(file).map_err(|error| error.to_string())?;
    parse(&text, &file.display().to_string()).map_err(|error| or_other_command(file, &text, wanted, &error))
}

/// The message instead of `error`, if a file with this text is for another command.
pub(super) fn or_other_command(file: &Path, text: &str, wanted: Kind, error: &ConfigError) -> String {
    match Kind::of(text) {
        Some(kind) if kind != wanted => {
            let shown = file.display();
            format!(
                "{shown} is {}, not {}: use `faultwire {} {shown}`",
                name(kind),
                name(wanted),
                command(kind)
            )
        }
        _ => error.to_string(),
    }
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Config => "a configuration",
        Kind::Case => "a case",
        Kind::Wire => "a file of faults for attach",
    }
}

const fn command(kind: Kind) -> &'static str {
    match kind {
        Kind::Config => "run",
        Kind::Case => "case run",
        Kind::Wire => "attach --config",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_another_command_is_answered_by_its_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let files = [
            ("cases/mss-clamp.toml", Kind::Case, "`faultwire case run "),
            ("dsl.toml", Kind::Config, "`faultwire run "),
            ("attach.toml", Kind::Wire, "`faultwire attach --config "),
        ];
        for (file, kind, command) in files {
            for wanted in [Kind::Config, Kind::Case, Kind::Wire] {
                let wrong = |_: &str, name: &str| config::parse("x = 1", name).map(drop);
                let said = load(&root.join(file), wanted, wrong).unwrap_err();
                assert_eq!(said.contains(command), kind != wanted, "{file} as {wanted:?}: {said}");
            }
        }
    }
}
