//! Points at a part of a text, on two lines that fit a terminal of 80 columns.

use std::ops::Range;

/// Letters of a line: 80 columns have them, with an indentation of two.
pub(super) const MOST: usize = 76;
/// Letters before the part, at most, where not the whole text is shown.
const BEFORE: usize = 24;
/// Stands for what is not shown.
const MORE: &str = "…";

/// A text and the carets under a part of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pointed {
    /// The text on one line; of a long one what is around the part.
    pub(super) line: String,
    /// Blanks and carets.
    pub(super) carets: String,
}

/// The text on one line: line ends and tabs would put the carets elsewhere.
pub(super) fn flat(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Points at the bytes `at` of `text`.
pub(super) fn pointed(text: &str, at: Range<usize>) -> Pointed {
    let letters: Vec<char> = flat(text).chars().collect();
    let count = |end: usize| text.get(..end).map_or(0, |before| before.chars().count());
    let (start, end) = (count(at.start), count(at.end));
    let (mut first, mut last) = (0, letters.len());
    if letters.len() > MOST {
        let wanted = start.saturating_sub(BEFORE);
        // Where a word begins.
        let begins = |&at: &usize| at == 0 || letters[at - 1] == ' ';
        first = (wanted..=start).find(begins).unwrap_or(wanted);
        last = (first + MOST - 4).min(letters.len());
        let ends = |&at: &usize| at == letters.len() || letters[at] == ' ';
        last = (end.min(last)..=last).rev().find(ends).unwrap_or(last);
    }
    let before = if first > 0 { format!("{MORE} ") } else { String::new() };
    let after = if last < letters.len() { format!(" {MORE}") } else { String::new() };
    let shown: String = letters[first..last].iter().collect();
    let indent = before.chars().count() + start - first;
    let carets = end.min(last).saturating_sub(start).max(1);
    Pointed {
        line: format!("{before}{shown}{after}"),
        carets: format!("{:indent$}{}", "", "^".repeat(carets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, part: &str) -> [String; 2] {
        let at = text.find(part).unwrap();
        let Pointed { line, carets } = pointed(text, at..at + part.len());
        [line, carets]
    }

    #[test]
    fn a_short_text_is_whole() {
        assert_eq!(shown("loss\t1% dely 2ms", "dely"), ["loss 1% dely 2ms", "        ^^^^"]);
        let Pointed { line, carets } = pointed("loss", 4..4);
        assert_eq!([line, carets], ["loss", "    ^"], "at the end");
    }

    #[test]
    fn of_a_long_text_the_surroundings_are_shown() {
        let text = format!("delay 1ms {} bogus {}", "loss 1%; ".repeat(20), "corrupt 1%; ".repeat(20));
        let [line, carets] = shown(&text, "bogus");
        assert!(line.starts_with("… loss") || line.starts_with("… 1%;"), "{line}");
        assert!(line.ends_with("; …") || line.ends_with("corrupt …"), "{line}");
        assert!(line.chars().count() <= MOST, "{line}");
        assert_eq!(carets.chars().count() - 5, line[..line.find("bogus").unwrap()].chars().count());
    }

    #[test]
    fn a_word_that_is_longer_than_a_line_is_cut_with_its_carets() {
        for text in ["x".repeat(200), format!("delay 1ms distribution /{} loss 1%", "tmp/".repeat(60))] {
            let word = text.split(' ').max_by_key(|word| word.len()).unwrap();
            let [line, carets] = shown(&text, word);
            assert!(line.chars().count() <= MOST && carets.chars().count() <= MOST, "{line}\n{carets}");
        }
    }
}
