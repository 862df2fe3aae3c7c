//! Texts that people write. A refusal has to be one that can be shown.

use std::fmt::Write as _;

use faultwire::config::{self, ConfigError, describe, describe_seat, explain, warnings};
use faultwire::lab::case::Case;
use faultwire::pipeline::params::Mode;

/// What the text is taken for: a file whose neighbours are there.
const FILE: &str = "configs/fuzz.toml";

/// A whole configuration.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::parse(text, FILE) {
        Err(error) => shown(&error),
        Ok(plan) => {
            let mut said = String::new();
            for seat in plan.paths.iter().flat_map(|path| &path.seats) {
                write!(said, "{}", describe_seat(seat)).unwrap();
            }
            assert!(warnings(&plan).iter().all(|warning| !warning.is_empty()));
        }
    }
}

/// Words of tc-netem, and ours.
pub(crate) fn spec(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::spec::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(spec) => {
            for mode in [Mode::Exact, Mode::Netem] {
                let explanation = explain(&spec, mode);
                assert!(explanation.does.iter().chain(&explanation.warnings).all(|line| !line.is_empty()));
            }
            for stage in &spec.stages {
                assert!(!describe(stage).to_string().is_empty());
            }
        }
    }
}

/// A case. Read, not run.
pub(crate) fn case(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Case::parse(text, FILE, "fuzz") {
        shown(&error);
    }
}

fn shown(error: &ConfigError) {
    assert!(!error.problems.is_empty(), "refused without a problem");
    assert!(!error.to_string().is_empty());
}
