//! Colours lines by their text, after control characters from others have been removed.

use std::fmt::Write;
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use super::Stream;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const CARE: Style = AnsiColor::Yellow.on_default();
const LOST: Style = AnsiColor::Red.on_default();
const HEAD: Style = Style::new().bold();

/// Words at the beginning of a line.
const WORDS: [(&str, Style); 9] = [
    ("PASS", GOOD),
    ("ok ", GOOD),
    ("FAIL", BAD),
    ("BROKEN", BAD),
    ("NO ", BAD),
    ("warning:", CARE),
    ("notice:", CARE),
    ("n/a ", CARE),
    ("faultwire:", HEAD),
];

/// Whether this stream is coloured: if it is a terminal that can, unless `NO_COLOR` is set; `CLICOLOR_FORCE` colours files too.
pub(super) fn is_wanted(stream: Stream) -> bool {
    let choice = match stream {
        Stream::Stdout => AutoStream::choice(&io::stdout()),
        Stream::Stderr => AutoStream::choice(&io::stderr()),
    };
    choice != ColorChoice::Never
}

/// Colours each line.
pub(super) fn paint(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let body = line.trim_start();
        let lead = &line[..line.len() - body.len()];
        let (style, styled) = if line.starts_with("── ") || line.starts_with('#') {
            (HEAD, body)
        } else if let Some(&(word, style)) = WORDS.iter().find(|(word, _)| body.starts_with(word)) {
            (style, word.trim_end())
        } else if body.contains('✗') {
            (LOST, body)
        } else {
            (Style::new(), "")
        };
        let rest = &body[styled.len()..];
        out.push_str(lead);
        if !styled.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(out, "{style}{styled}{style:#}");
        }
        out.push_str(rest);
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_colours_are_added() {
        let text = "PASS a\n  FAIL b\n── the case ──\n 0.1 │─ 1: UDP ──✗ loss │\nplain: PASS\nwarning: x";
        let painted = paint(text);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), text);
        for part in [
            "\u{1b}[32mPASS\u{1b}[0m a",
            "FAIL\u{1b}[0m b",
            "\u{1b}[33mwarning:\u{1b}[0m x",
            "\nplain: PASS\n",
        ] {
            assert!(painted.contains(part), "{part:?} is missing in {painted:?}");
        }
    }
}
