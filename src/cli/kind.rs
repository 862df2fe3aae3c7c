//! Which command a file is for, so that a file given to the wrong one is answered by the right one.

use std::path::Path;

/// Keys that only case files have.
const CASE: [&str; 7] = ["story", "fault", "traffic", "expect", "control", "explain", "sweep"];

/// What a file of faultwire's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A configuration: `run`, `check`, `pcap --config`.
    Config,
    /// A case: `case run`, `case explain`.
    Case,
}

/// What the file is for, if it can be read and its keys tell.
pub(super) fn of(file: &Path) -> Option<Kind> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    if CASE.iter().any(|key| table.contains_key(*key)) {
        Some(Kind::Case)
    } else {
        table.contains_key("port").then_some(Kind::Config)
    }
}

/// What to say instead of `error` about a file that is for another command.
pub(super) fn or_other_command(file: &Path, wanted: Kind, error: &impl std::fmt::Display) -> String {
    let shown = file.display();
    match of(file) {
        Some(Kind::Case) if wanted == Kind::Config => {
            format!("{shown} is a case, not a configuration: use `faultwire case run {shown}`")
        }
        Some(Kind::Config) if wanted == Kind::Case => {
            format!("{shown} is a configuration, not a case: use `faultwire run {shown}`")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_what_they_are_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        assert_eq!(of(&root.join("dsl.toml")), Some(Kind::Config));
        assert_eq!(of(&root.join("reference.toml")), Some(Kind::Config));
        for entry in std::fs::read_dir(root.join("cases")).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(of(&path), Some(Kind::Case), "{}", path.display());
        }
        assert_eq!(of(&root.join("cases")), None);
    }

    #[test]
    fn a_file_for_another_command_is_answered_by_its_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let text = or_other_command(&root.join("cases/mss-clamp.toml"), Kind::Config, &"wrong");
        assert!(text.contains("`faultwire case run"), "{text}");
        let text = or_other_command(&root.join("dsl.toml"), Kind::Case, &"wrong");
        assert!(text.contains("`faultwire run"), "{text}");
        assert_eq!(or_other_command(&root.join("dsl.toml"), Kind::Config, &"wrong"), "wrong");
    }
}
