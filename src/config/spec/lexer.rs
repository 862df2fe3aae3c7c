//! The words of a spec and their positions.

use std::ops::Range;

use crate::config::spec::SpecProblem;

/// A word between spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Token<'a> {
    pub(in crate::config) text: &'a str,
    /// Its position in the spec, in bytes.
    pub(super) at: Range<usize>,
}

impl Token<'_> {
    /// An error about this word: what is wrong, and how to write it correctly.
    pub(in crate::config) fn problem(&self, what: String, hint: impl Into<String>) -> SpecProblem {
        SpecProblem { at: self.at.clone(), what, hint: hint.into() }
    }
}

/// The words of a spec, read from left to right.
#[derive(Debug)]
pub(in crate::config) struct Tokens<'a> {
    list: Vec<Token<'a>>,
    next: usize,
    end: usize,
}

impl<'a> Tokens<'a> {
    /// The words of a part of `spec`; their positions are those in the whole.
    pub(super) fn new(spec: &'a str, part: Range<usize>) -> Self {
        let text = &spec[part.clone()];
        let tokens = text.split_whitespace().map(|text| {
            // `text` is a part of `spec`, so the difference of the addresses is its place.
            let start = text.as_ptr() as usize - spec.as_ptr() as usize;
            Token { text, at: start..start + text.len() }
        });
        Self { list: tokens.collect(), next: 0, end: part.start + text.trim_end().len() }
    }

    /// The positions of the colons that end a word.
    pub(super) fn colons(&self) -> impl Iterator<Item = usize> {
        self.list.iter().filter(|token| token.text.ends_with(':')).map(|token| token.at.end - 1)
    }

    pub(super) fn peek(&self) -> Option<&Token<'a>> {
        self.list.get(self.next)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.list.get(self.next).cloned();
        self.next += usize::from(token.is_some());
        token
    }

    /// Whether the word after `skipped` others says how much is lost: a share, or a model.
    pub(super) fn begins_loss(&self, skipped: usize) -> bool {
        self.list
            .get(self.next + skipped)
            .is_some_and(|word| is_number(word.text) || ["random", "state", "gemodel"].contains(&word.text))
    }

    /// The next token if it begins as a number does.
    pub(super) fn next_number(&mut self) -> Option<Token<'a>> {
        if self.peek().is_some_and(|token| is_number(token.text)) { self.next() } else { None }
    }

    /// The position after the last word.
    pub(super) fn end(&self) -> Range<usize> {
        self.end..self.end
    }
}

/// Whether a word begins as a number does.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit() || ".+-".contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_place() {
        let mut tokens = Tokens::new("  delay\t10ms ; x", 0..13);
        assert_eq!(tokens.next(), Some(Token { text: "delay", at: 2..7 }));
        assert_eq!(tokens.next_number(), Some(Token { text: "10ms", at: 8..12 }));
        assert_eq!(tokens.next(), None);
        assert_eq!(tokens.end(), 12..12);
    }
}
