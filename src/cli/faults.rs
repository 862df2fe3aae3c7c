//! The specs of the two directions, as `exec` and `attach` take them.

use crate::cli::{out, random_seed};
use crate::config::plan::set_mode;
use crate::config::spec::{self, Files, Spec, SpecError};
use crate::pipeline::params::Mode;

/// The faults for packets that go up, and for those that come down.
pub(super) struct Faults {
    pub(super) up: Spec,
    pub(super) down: Spec,
}

impl Faults {
    /// The spec of `both`, followed by that of each direction; the specs may only name these files. If something else aims the
    /// faults (`is_aimed`), those without a condition are not warned of.
    pub(super) fn parse(
        up: Option<&str>,
        down: Option<&str>,
        both: Option<&str>,
        mode: Mode,
        files: Files,
        is_aimed: bool,
    ) -> Result<Self, SpecError> {
        let read = |text: Option<&str>| -> Result<Spec, SpecError> {
            let mut read = text.map_or_else(|| Ok(Spec::default()), |text| spec(text, mode, files))?;
            read.warnings.retain(|warning| !is_aimed || warning != spec::UNAIMED_DROP);
            Ok(read)
        };
        let both = read(both)?;
        let faults = Self { up: both.clone().then(read(up)?), down: both.then(read(down)?) };
        warn(&[&faults.up, &faults.down]);
        Ok(faults)
    }

    /// The seed that is given, that of a spec, or a random one.
    pub(super) fn seed(&self, given: Option<u64>) -> u64 {
        given.or(self.up.seed).or(self.down.seed).unwrap_or_else(random_seed)
    }
}

/// Reads a spec for `mode`, and says what is allowed in it but probably not meant.
pub(super) fn read(text: &str, mode: Mode) -> Result<Spec, SpecError> {
    let spec = spec(text, mode, Files::Any)?;
    warn(&[&spec]);
    Ok(spec)
}

fn spec(text: &str, mode: Mode, files: Files) -> Result<Spec, SpecError> {
    let mut spec = spec::parse_with(text, files)?;
    set_mode(&mut spec.stages, mode);
    Ok(spec)
}

/// Prints each warning about `specs` once.
fn warn(specs: &[&Spec]) {
    let mut said: Vec<String> = Vec::new();
    for warning in specs.iter().flat_map(|spec| spec.lint()) {
        if !said.contains(&warning) {
            out::note_line(format_args!("warning: {warning}"));
            said.push(warning);
        }
    }
}
