//! Output on the standard streams. Nothing here panics, whatever the streams are connected to.
//!
//! - If the reader has closed the pipe (`| head`), only the output ends: the command continues silently, with its usual exit
//!   code.
//! - Any other failure of standard output, such as a full disk, is remembered and reported at the end: [`verdict`] then gives
//!   the exit code for that.
//! - Failures of standard error are ignored.

mod colour;

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::libc;

use crate::lab::report::layout::{COLUMNS, wrap};

/// Text is never fitted to fewer columns.
const NARROWEST: usize = 20;

/// The first failure of standard output.
static FAILURE: Mutex<Option<Failure>> = Mutex::new(None);

enum Failure {
    /// The reader has closed the pipe.
    Gone,
    /// Any other error.
    Broken(io::Error),
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The width of the terminal, if it is one.
    fn terminal(self) -> Option<usize> {
        let size = match self {
            Self::Stdout => terminal_size::terminal_size_of(io::stdout()),
            Self::Stderr => terminal_size::terminal_size_of(io::stderr()),
        };
        // A terminal whose size was never set reports 0.
        size.map(|(width, _)| usize::from(width.0)).filter(|&width| width > 0)
    }

    /// The width for tables and drawings.
    pub(super) fn columns(self) -> usize {
        self.terminal().unwrap_or(COLUMNS).max(NARROWEST)
    }

    /// `text` as it is shown: safe for terminals, no wider than the terminal, and coloured if wanted.
    fn dress(self, text: &str) -> String {
        let text = printable(text);
        let text = match self.terminal() {
            Some(columns) => Cow::Owned(wrap(&text, columns.max(NARROWEST))),
            None => text,
        };
        if colour::is_wanted(self) { colour::paint(&text) } else { text.into_owned() }
    }
}

/// Writes `text` for people to standard output.
pub(super) fn print(text: impl Display) {
    write_out(&Stream::Stdout.dress(&text.to_string()));
}

/// Writes `text` to standard output without line breaks of our own: for programs, or to be copied.
pub(super) fn raw(text: impl Display) {
    write_out(&printable(&text.to_string()));
}

fn write_out(text: &str) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    *failure = match written {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Some(Failure::Gone),
        Err(error) => Some(Failure::Broken(error)),
    };
}

/// Whether standard output has no reader any more, or failed.
pub(super) fn is_closed() -> bool {
    FAILURE.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// The same text without terminal control sequences: control characters except line ends and tabs are written as
/// `\u001b`, as in JSON. Titles of case files and the output of programs come from others.
fn printable(text: &str) -> Cow<'_, str> {
    let plain = |letter: char| !letter.is_control() || letter == '\n' || letter == '\t';
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if plain(letter) {
            clean.push(letter);
        } else {
            write!(clean, "\\u{:04x}", u32::from(letter)).expect("writing to a string");
        }
    }
    Cow::Owned(clean)
}

/// Writes a line for people to standard output.
pub(super) fn line(text: impl Display) {
    print(format_args!("{text}\n"));
}

/// Writes `text` for people to standard error.
pub(super) fn note(text: impl Display) {
    let text = Stream::Stderr.dress(&text.to_string());
    // There is no one to report to.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes `text`, which the user has requested, to standard error.
///
/// # Errors
/// If it cannot be written.
pub(super) fn report(text: impl Display) -> io::Result<()> {
    let text = Stream::Stderr.dress(&text.to_string());
    io::stderr().lock().write_all(text.as_bytes())
}

/// Writes `text` to standard error without line breaks of our own: for programs, or to be copied.
pub(super) fn note_raw(text: impl Display) {
    let _ = io::stderr().lock().write_all(printable(&text.to_string()).as_bytes());
}

/// Writes a line to standard error.
pub(super) fn note_line(text: impl Display) {
    note(format_args!("{text}\n"));
}

/// Why standard output could not be written, if it failed. After this call nothing more is written to it, and
/// [`verdict`] does not report it.
pub(super) fn failure() -> Option<io::Error> {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    match failure.take()? {
        Failure::Broken(error) => {
            *failure = Some(Failure::Gone);
            Some(error)
        }
        Failure::Gone => {
            *failure = Some(Failure::Gone);
            None
        }
    }
}

/// The exit code of the process: `code`, or `broken` if standard output could not be written.
pub(super) fn verdict(code: ExitCode, broken: ExitCode) -> ExitCode {
    match FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(Failure::Broken(error)) => {
            note_line(format_args!("faultwire: standard output cannot be written: {error}"));
            broken
        }
        Some(Failure::Gone) | None => code,
    }
}

/// A line on the terminal of standard error that is overwritten again and again.
///
/// It never waits for the terminal: a terminal that is stopped by Ctrl-S, or does not read, misses some lines.
#[derive(Debug)]
pub(super) struct LiveLine(File);

impl LiveLine {
    /// `None` if standard error is not a terminal, or the terminal cannot be opened again.
    pub(super) fn open() -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        // It is opened again, because other processes use the inherited descriptor: making that one non-blocking
        // would affect them.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/2").ok().map(Self)
    }

    /// Replaces the line by as much of `text` as fits.
    pub(super) fn show(&mut self, text: impl Display) {
        // A full line would make the terminal begin a new one.
        let room = Stream::Stderr.columns() - 1;
        let text: String = text.to_string().chars().take(room).collect();
        // A single write: a terminal accepts all of it, or nothing.
        let _ = self.0.write(format!("\r\x1b[K{text}").as_bytes());
    }

    /// Removes the line.
    pub(super) fn clear(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(printable("10 % loss ──►\n\tthere"), "10 % loss ──►\n\tthere");
        let evil = "a\u{1b}]0;title\u{7}b\u{9b}31m\rc";
        assert_eq!(printable(evil), "a\\u001b]0;title\\u0007b\\u009b31m\\u000dc");
        let json = serde_json::json!({ "title": evil }).to_string();
        let read: serde_json::Value = serde_json::from_str(&printable(&json)).unwrap();
        assert_eq!(read["title"], evil);
    }
}
