//! Notes: changes of a run's stages, and marks, made by people and programs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kind of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// A change was applied.
    Changed,
    /// A mark was set.
    Marked,
    /// A scheduled change was refused when its time came.
    Failed,
}

impl NoteKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Changed, Self::Marked, Self::Failed];

    /// Its name in the output for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Marked => "marked",
            Self::Failed => "failed",
        }
    }
}

/// A change or mark of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Time in nanoseconds since the start of the router; for a change, the time when all workers had applied it.
    pub at_ns: u64,
    /// Its kind.
    pub kind: NoteKind,
    /// The change in words, or the text of a mark.
    pub text: String,
    /// The version of the stages that a change made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The number of the scheduled change, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<u64>,
    /// The request of a change: `method`, `resource`, `body`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub request: Value,
}

impl Note {
    /// One line: `   1.500000  version 2: set up/loss: loss 5%`. Control characters are escaped, since a terminal obeys them.
    pub fn line(&self) -> String {
        let version = self.version.map_or_else(String::new, |version| format!(" to version {version}"));
        let schedule = self.schedule.map_or_else(String::new, |number| format!(" (schedule {number})"));
        let at = self.at_ns as f64 / 1e9;
        let text: String = self.text.chars().map(escaped).collect();
        format!("{at:>11.6}  {}{version}{schedule}: {text}", self.kind.name())
    }

    /// An object for a line.
    pub fn json(&self) -> Value {
        // All fields are plain data.
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn escaped(letter: char) -> String {
    if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::journal) fn note(text: &str) -> Note {
        let kind = NoteKind::Changed;
        let request = serde_json::json!({ "method": "DELETE" });
        Note { at_ns: 1_500_000_000, kind, text: text.into(), version: Some(2), schedule: None, request }
    }

    #[test]
    fn a_note_is_a_line_that_cannot_command_a_terminal() {
        assert_eq!(note("remove up/loss").line(), "   1.500000  changed to version 2: remove up/loss");
        let evil = note("a\u{1b}]0;title\u{7}\n\u{9b}31m");
        assert!(!evil.line().contains(char::is_control), "{}", evil.line());
        let planned = Note { schedule: Some(3), version: None, kind: NoteKind::Failed, ..note("x") };
        assert_eq!(planned.line(), "   1.500000  failed (schedule 3): x");
    }

    #[test]
    fn names_are_those_of_the_json() {
        for kind in NoteKind::ALL {
            assert_eq!(Note { kind, ..note("") }.json()["kind"], kind.name());
        }
    }
}
