//! `--json[=FILE]`: one document for programs, or a line for each record, with the same envelope in every command.
//!
//! docs/json.md describes the content, and docs/json.schema.json the structure. A change that breaks readers
//! increases [`VERSION`].

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::{is_same, out};

/// Version of the schema.
const VERSION: u32 = 1;

/// The option.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Json {
    /// Print the result, or what went wrong, as JSON: to standard output, or to FILE; see docs/json.md
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", global = true)]
    json: Option<PathBuf>,
}

impl Json {
    /// For options of clap's that cannot be flattened.
    pub(super) const fn of(json: Option<PathBuf>) -> Self {
        Self { json }
    }

    /// Whether it is given.
    pub(super) const fn is_wanted(&self) -> bool {
        self.json.is_some()
    }

    /// Whether it replaces the text on standard output.
    pub(super) fn is_on_stdout(&self) -> bool {
        self.json.as_deref() == Some(Path::new(STDOUT))
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|path| *path != Path::new(STDOUT))
    }
}

/// Standard output.
const STDOUT: &str = "-";

/// The destination of the document, and the command that it is about.
struct Door {
    command: &'static str,
    /// `None`: standard output.
    file: Option<(File, PathBuf)>,
    /// Something was written: nothing else may be written.
    is_written: bool,
    /// Packets go to standard output.
    on_stderr: bool,
}

static DOOR: Mutex<Option<Door>> = Mutex::new(None);

/// From now on, results and errors of `command` go where `json` says, if it is given.
///
/// # Errors
/// If the file cannot be written. The old content stays until there is something to write.
pub(super) fn open(command: &'static str, json: &Json) -> anyhow::Result<()> {
    if !json.is_wanted() {
        return Ok(());
    }
    let open = |path: &Path| -> anyhow::Result<(File, PathBuf)> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok((file, path.to_owned()))
    };
    let file = json.file().map(open).transpose()?;
    *door() = Some(Door { command, file, is_written: false, on_stderr: false });
    Ok(())
}

/// Whether the document goes to this file.
pub(super) fn goes_to(path: &Path) -> bool {
    let door = door();
    let file = door.as_ref().and_then(|door| door.file.as_ref());
    file.is_some_and(|(_, file)| is_same(file, path))
}

/// Standard output is used for something else: text for it goes to standard error.
pub(super) fn spare_stdout() {
    if let Some(door) = door().as_mut() {
        door.on_stderr = true;
    }
}

/// Writes the result, if it is wanted. The fields of the envelope are added to an object.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn result(mut value: Value) -> anyhow::Result<()> {
    let mut door = door();
    let Some(door) = door.as_mut().filter(|door| !door.is_written) else { return Ok(()) };
    door.is_written = true;
    seal(&mut value, door.command);
    door.write(&format!("{value:#}\n"), true)
}

/// Writes an error with its exit code, unless a result has been written.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn failure(code: u8, message: &str) -> anyhow::Result<()> {
    result(json!({ "error": { "code": code, "message": message } }))
}

/// Writes one of many records, as a line.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn record(mut value: Value) -> anyhow::Result<()> {
    let mut door = door();
    let Some(door) = door.as_mut() else { return Ok(()) };
    let is_first = !std::mem::replace(&mut door.is_written, true);
    seal(&mut value, door.command);
    door.write(&format!("{value}\n"), is_first)
}

/// Reports an error of clap as JSON, if the command line asks for it: the option has not been parsed then.
pub(super) fn refused(line: impl Iterator<Item = std::ffi::OsString>, code: u8, message: &str) {
    let words: Vec<String> = line
        .skip(1)
        .take_while(|word| word != "--")
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let asked = words.iter().find_map(|word| match word.strip_prefix("--json")? {
        "" => Some(Json::of(Some(STDOUT.into()))),
        rest => rest.strip_prefix('=').map(|file| Json::of(Some(file.into()))),
    });
    let known = COMMANDS.iter().find(|name| words.first().is_some_and(|word| word == *name));
    if let Some(json) = asked
        && open(known.unwrap_or(&"faultwire"), &json).is_ok()
    {
        // clap's own message is on standard error in any case.
        let _ = failure(code, message);
    }
}

/// The commands that have the option.
const COMMANDS: [&str; 10] =
    ["check", "run", "exec", "attach", "bench", "ctl", "doctor", "pcap", "journal", "case"];

fn door() -> std::sync::MutexGuard<'static, Option<Door>> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the envelope.
fn seal(value: &mut Value, command: &str) {
    if !value.is_object() {
        *value = json!({ "answer": value.take() });
    }
    value["schema_version"] = VERSION.into();
    value["command"] = command.into();
}

impl Door {
    fn write(&mut self, text: &str, is_first: bool) -> anyhow::Result<()> {
        match &mut self.file {
            None if self.on_stderr => out::note_raw(text),
            None => out::raw(text),
            Some((file, path)) => {
                let mut written = || {
                    // A device or a pipe cannot be truncated.
                    if is_first && file.metadata()?.is_file() {
                        file.set_len(0)?;
                    }
                    file.write_all(text.as_bytes())
                };
                written().with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}
