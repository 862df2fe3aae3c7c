//! Words of a spec and where they stand.

use std::ops::Range;

use crate::config::spec::SpecProblem;

/// A word between spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Token<'a> {
    pub(in crate::config) text: &'a str,
    /// Its bytes in the spec.
    pub(super) at: Range<usize>,
}

impl Token<'_> {
    /// What is wrong with it, and what would be right.
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
    pub(super) fn new(spec: &'a str) -> Self {
        let tokens = spec.split_whitespace().map(|text| {
            // `text` is a part of `spec`, so the difference of the addresses is its place.
            let start = text.as_ptr() as usize - spec.as_ptr() as usize;
            Token { text, at: start..start + text.len() }
        });
        Self { list: tokens.collect(), next: 0, end: spec.trim_end().len() }
    }

    pub(super) fn peek(&self) -> Option<&Token<'a>> {
        self.list.get(self.next)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.list.get(self.next).cloned();
        self.next += usize::from(token.is_some());
        token
    }

    /// The next token if it begins as a number does.
    pub(super) fn next_number(&mut self) -> Option<Token<'a>> {
        let number =
            |text: &str| text.starts_with(|first: char| first.is_ascii_digit() || ".+-".contains(first));
        if self.peek().is_some_and(|token| number(token.text)) { self.next() } else { None }
    }

    /// The place behind the last word.
    pub(super) fn end(&self) -> Range<usize> {
        self.end..self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_place() {
        let mut tokens = Tokens::new("  delay\t10ms ");
        assert_eq!(tokens.next(), Some(Token { text: "delay", at: 2..7 }));
        assert_eq!(tokens.next_number(), Some(Token { text: "10ms", at: 8..12 }));
        assert_eq!(tokens.next(), None);
        assert_eq!(tokens.end(), 12..12);
    }
}
