//! The problems of a file: all of them, each with its place, the key, and how to write it correctly.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A place in a file, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Character in the line.
    pub column: usize,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: String,
    /// The place; `None` if the problem concerns the file as a whole.
    pub place: Option<Place>,
    /// The key, as `path[0].stage[2].rate` (counted from 0); empty if there is none.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// How to write it correctly; may be empty.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// All problems of a file, in the order of its lines. Prints one problem per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The problems; at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub struct Problems {
    file: String,
    text: String,
    /// Where each line of the text begins.
    lines: Vec<usize>,
    list: RefCell<Vec<Problem>>,
    /// The problems found so far.
    known: RefCell<HashSet<Problem>>,
    /// Settings that are allowed but probably not meant.
    warnings: RefCell<Vec<String>>,
    /// Every key that a reader asked for, without indices: the reference must show all of them.
    #[cfg(test)]
    pub(super) asked: RefCell<std::collections::BTreeSet<String>>,
}

impl Problems {
    /// A collector without problems, for the file `file` with the content `text`.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self {
            file: file.into(),
            text,
            lines,
            list: RefCell::default(),
            known: RefCell::default(),
            warnings: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    /// Adds a problem: `span` (bytes of the text) is its place, `key` is the key, `what` is wrong, and `hint` says
    /// how to write it correctly.
    pub fn add(&self, span: &Range<usize>, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        let problem = Problem {
            file: self.file.clone(),
            place: Some(self.place(span.start)),
            key: key.to_owned(),
            what: what.into(),
            hint: hint.into(),
        };
        // The common keys of a link are read once for each direction.
        if self.known.borrow_mut().insert(problem.clone()) {
            self.list.borrow_mut().push(problem);
        }
    }

    /// Adds a warning about the value of `key`, once.
    pub(super) fn warn(&self, key: &str, what: &str) {
        let warning = format!("{key}: {what}");
        if !self.warnings.borrow().contains(&warning) {
            self.warnings.borrow_mut().push(warning);
        }
    }

    /// The warnings so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// The directory of the file; the working directory if the name has none.
    pub(super) fn directory(&self) -> PathBuf {
        Path::new(&self.file).parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// Whether there are no problems so far.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// The text between these bytes; empty if they are outside of the text.
    pub(super) fn text(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// `value`, if it could be read and there is no problem.
    ///
    /// # Errors
    /// All problems.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        let mut problems = self.list.into_inner();
        if let Some(value) = value.filter(|_| problems.is_empty()) {
            return Ok(value);
        }
        // The sort is stable: problems of one place stay in the order in which they were found.
        problems.sort_by_key(|problem| problem.place);
        Err(ConfigError { problems })
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = self.lines[line - 1];
        let before = self.text.get(start..offset).unwrap_or_else(|| &self.text[start..]);
        Place { line, column: before.chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_in_the_order_of_lines() {
        let problems = Problems::new("x.toml", "a = 1\nµ = \"ü\"\n");
        problems.add(&(11..12), "b", "is odd", "be even");
        problems.add(&(0..1), "", "is first", "");
        let text = problems.finish(Some(())).unwrap_err().to_string();
        assert_eq!(text, "x.toml:1:1: is first\nx.toml:2:5: b: is odd (be even)");
    }

    #[test]
    fn no_problem_is_no_error() {
        assert_eq!(Problems::new("x", "").finish(Some(7)), Ok(7));
    }
}
