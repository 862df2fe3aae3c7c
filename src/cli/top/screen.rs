//! The terminal that shows the frames, or standard output if there is none. A terminal that accepts no output misses
//! frames.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::cli::out;
use crate::cli::top::USUAL;
use crate::cli::top::view::{Line, Size};

/// Switches to the alternate screen without a cursor, and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Where frames are shown.
pub(super) struct Screen {
    terminal: Option<File>,
    keys: Option<Keys>,
    has_colour: bool,
}

/// Keys that are typed, one by one.
struct Keys {
    input: File,
    before: Termios,
}

impl Screen {
    /// The terminal of standard output, unless plain text is wanted or there is none.
    pub(super) fn open(as_text: bool) -> Self {
        let terminal = if as_text || !io::stdout().is_terminal() { None } else { reopen(1, false) };
        let mut screen = Self {
            keys: terminal.as_ref().and_then(|_| Keys::open()),
            terminal,
            has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        screen.put(ENTER);
        screen
    }

    /// The descriptor that is readable when a key is typed.
    pub(super) fn keys(&self) -> Option<&File> {
        self.keys.as_ref().map(|keys| &keys.input)
    }

    /// Whether a terminal shows the frames; keys can be typed in it.
    pub(super) const fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// What was typed since the last call.
    pub(super) fn typed(&mut self) -> Vec<u8> {
        let Some(keys) = &mut self.keys else { return Vec::new() };
        let mut typed = [0; 256];
        match keys.input.read(&mut typed) {
            // There is no more input.
            Ok(0) => {
                self.keys = None;
                Vec::new()
            }
            Ok(count) => typed[..count].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    /// The available size.
    pub(super) fn size(&self) -> Size {
        let size = self.terminal.as_ref().and_then(terminal_size::terminal_size_of);
        size.map_or(USUAL, |(columns, rows)| Size { columns: columns.0.into(), rows: rows.0.into() })
    }

    /// Shows a frame.
    pub(super) fn show(&mut self, frame: &[Line]) {
        if self.terminal.is_none() {
            let lines: Vec<&str> = frame.iter().map(|line| line.text.as_str()).collect();
            out::line(format_args!("{}\n", lines.join("\n").trim_end()));
            return;
        }
        let mut text = String::from("\x1b[H");
        for (at, line) in frame.iter().enumerate() {
            let end = if at == 0 { "" } else { "\r\n" };
            let (on, off) = match line.mark.filter(|_| self.has_colour) {
                Some(mark) => (mark.sequence(), "\x1b[0m"),
                None => ("", ""),
            };
            for part in [end, on, &line.text, off, "\x1b[K"] {
                text.push_str(part);
            }
        }
        text.push_str("\x1b[J");
        self.put(text.as_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(terminal) = &mut self.terminal {
            // What the terminal does not accept now, the next frame shows.
            let _ = terminal.write(bytes);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.put(LEAVE);
        if let Some(keys) = &self.keys {
            let _ = tcsetattr(&keys.input, SetArg::TCSANOW, &keys.before);
        }
    }
}

impl Keys {
    fn open() -> Option<Self> {
        let input = Some(io::stdin()).filter(IsTerminal::is_terminal).and_then(|_| reopen(0, true))?;
        let before = tcgetattr(input.as_fd()).ok()?;
        let mut each = before.clone();
        each.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(input.as_fd(), SetArg::TCSANOW, &each).ok()?;
        Some(Self { input, before })
    }
}

/// The terminal, opened again as non-blocking: other processes use the inherited descriptor.
fn reopen(number: i32, reads: bool) -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(reads).write(!reads).custom_flags(flags).open(format!("/proc/self/fd/{number}")).ok()
}
