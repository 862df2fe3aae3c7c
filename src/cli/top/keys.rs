//! Keys that are typed while frames are shown.

use std::mem;

/// Maximum length of a typed line, in characters.
const LONGEST: usize = 1_000;

/// A command that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// End.
    End,
    /// Pause the chosen stage, or let it act again.
    Pause,
    /// Change what the chosen stage does: a spec, or `key=value`.
    Set(String),
    /// Mark this moment.
    Mark(String),
}

/// The purpose of a typed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Set,
    Mark,
}

/// Which stage is chosen, and the line that is being typed.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Its number among all stages.
    pub(super) chosen: usize,
    line: Option<(Line, String)>,
    /// The result of the last command.
    pub(super) said: String,
    /// Bytes of an incomplete sequence or character.
    begun: Vec<u8>,
}

impl Keys {
    /// Handles typed bytes, with this number of stages; returns the commands.
    pub(super) fn typed(&mut self, bytes: &[u8], stages: usize) -> Vec<Wish> {
        let mut bytes = [mem::take(&mut self.begun), bytes.to_vec()].concat();
        let mut wishes = Vec::new();
        while !bytes.is_empty() {
            let Some((key, length)) = key(&bytes) else {
                self.begun = bytes;
                break;
            };
            bytes.drain(..length);
            wishes.extend(self.press(key, stages));
        }
        wishes
    }

    fn press(&mut self, key: Key, stages: usize) -> Option<Wish> {
        if let Some((line, mut text)) = self.line.take() {
            match key {
                Key::Enter => return wish(line, text),
                Key::Escape => return None,
                Key::Back => drop(text.pop()),
                Key::Letter(letter) if text.chars().count() < LONGEST => text.push(letter),
                _ => {}
            }
            self.line = Some((line, text));
            return None;
        }
        self.said.clear();
        match key {
            Key::Letter('q' | 'Q') => return Some(Wish::End),
            Key::Letter('p' | ' ') if stages > 0 => return Some(Wish::Pause),
            Key::Letter('s') if stages > 0 => self.line = Some((Line::Set, String::new())),
            Key::Letter('m') => self.line = Some((Line::Mark, String::new())),
            Key::Up | Key::Letter('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Down | Key::Letter('j') => self.chosen = (self.chosen + 1).min(stages.saturating_sub(1)),
            _ => {}
        }
        None
    }

    /// The last line of a frame: the typed text, the last result, or the available keys.
    pub(super) fn line(&self, stage: &str) -> String {
        match &self.line {
            Some((Line::Set, text)) => format!("set {stage} (SPEC or KEY=VALUE): {text}_"),
            Some((Line::Mark, text)) => format!("mark: {text}_"),
            None if self.said.is_empty() => {
                "keys: up/down choose a stage, p pause, s set, m mark, q end".to_owned()
            }
            None => self.said.clone(),
        }
    }
}

fn wish(line: Line, text: String) -> Option<Wish> {
    match line {
        Line::Set => (!text.trim().is_empty()).then_some(Wish::Set(text)),
        Line::Mark if text.trim().is_empty() => Some(Wish::Mark("mark".to_owned())),
        Line::Mark => Some(Wish::Mark(text)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Letter(char),
    Enter,
    Escape,
    Back,
    Up,
    Down,
    Other,
}

/// The first key and its bytes; `None` if it is incomplete.
fn key(bytes: &[u8]) -> Option<(Key, usize)> {
    let one = |key| Some((key, 1));
    match bytes {
        [b'\r' | b'\n', ..] => one(Key::Enter),
        [8 | 0x7f, ..] => one(Key::Back),
        [0x1b, b'[' | b'O', rest @ ..] => {
            let end = rest.iter().position(u8::is_ascii_alphabetic)?;
            let key = match rest[end] {
                b'A' => Key::Up,
                b'B' => Key::Down,
                _ => Key::Other,
            };
            Some((key, end + 3))
        }
        // The bytes of an arrow key come together: ESC alone is the key ESC.
        [0x1b, ..] => one(Key::Escape),
        [control, ..] if control.is_ascii_control() => one(Key::Other),
        _ => letter(bytes),
    }
}

fn letter(bytes: &[u8]) -> Option<(Key, usize)> {
    let whole = match bytes[0] {
        0x00..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        // The middle of a character.
        _ => return Some((Key::Other, 1)),
    };
    let text = bytes.get(..whole)?;
    let letter = std::str::from_utf8(text).ok().and_then(|text| text.chars().next());
    // The next byte may begin another key.
    Some(letter.map_or((Key::Other, 1), |letter| (Key::Letter(letter), whole)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_choose_pause_set_and_mark() {
        let mut keys = Keys::default();
        assert_eq!(keys.typed(b"\x1b[B\x1b[Bj\x1b[A", 3), []);
        assert_eq!(keys.chosen, 1);
        assert_eq!(keys.typed(b"p", 3), [Wish::Pause]);
        assert_eq!(keys.typed(b"sloss 6\x7f5%", 3), []);
        assert_eq!(keys.line("up/loss"), "set up/loss (SPEC or KEY=VALUE): loss 5%_");
        // Letters of a line are no keys, and none chooses.
        assert_eq!(keys.typed(b" q\x1b[A\r", 3), [Wish::Set("loss 5% q".into())]);
        assert_eq!((keys.chosen, keys.typed(b"mx\x1b", 3)), (1, vec![]));
        assert_eq!(keys.typed("m\u{fc}\r".as_bytes(), 3), [Wish::Mark("\u{fc}".into())]);
        assert_eq!(keys.typed(b"m\rq", 3), [Wish::Mark("mark".into()), Wish::End]);
        // There may be no stage at all.
        assert_eq!(Keys::default().typed(b"ps\x1b[Bq", 0), [Wish::End]);
    }

    proptest! {
        /// However what is typed is cut into pieces, it asks for the same.
        #[test]
        fn pieces_make_a_whole(text in "[a-z=\u{e4}\u{20ac}]{0,20}", cuts in proptest::collection::vec(1..4_usize, 0..40)) {
            let typed = format!("m{text}x\r\x1b[Bq");
            let mut keys = Keys::default();
            let (mut rest, mut wishes) = (typed.as_bytes(), Vec::new());
            for cut in cuts {
                // ESC alone is a key of its own.
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                if piece.last() == Some(&0x1b) {
                    break;
                }
                wishes.extend(keys.typed(piece, 2));
                rest = behind;
            }
            wishes.extend(keys.typed(rest, 2));
            prop_assert_eq!(wishes, [Wish::Mark(format!("{text}x")), Wish::End]);
            prop_assert_eq!(keys.chosen, 1);
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..100), stages in 0..4_usize) {
            let mut keys = Keys::default();
            keys.typed(&bytes, stages);
            prop_assert!(keys.chosen <= stages.saturating_sub(1));
            prop_assert!(keys.begun.len() <= bytes.len());
        }
    }
}
