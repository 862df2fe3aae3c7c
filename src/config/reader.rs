//! Reads a TOML document key by key and continues after an error, so that all errors are reported at once.
//!
//! serde would stop at the first error. Its rule is enforced here too: an unknown key is an error.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::problem::{ConfigError, Problems};
use crate::config::suggest;
use crate::pipeline::units::UnitError;

/// Reads `text`, the content of `file`, with `read`, which gets the document's table. Keys that `read` does not ask
/// for are problems. If there is any problem, there is no value.
///
/// # Errors
/// All problems of the text: its syntax errors, or else those of its keys and values.
pub fn document<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(&mut Table<'_>) -> Option<T>,
) -> Result<T, ConfigError> {
    rearranged(text, file, |_| (), read)
}

/// [`document`], after `arrange` has moved entries; they keep their places in the text.
///
/// # Errors
/// As [`document`].
pub fn rearranged<T>(
    text: &str,
    file: &str,
    arrange: impl FnOnce(&mut DeTable<'_>),
    read: impl FnOnce(&mut Table<'_>) -> Option<T>,
) -> Result<T, ConfigError> {
    let problems = Problems::new(file, text);
    let value = read_rearranged(text, &problems, arrange, read);
    problems.finish(value)
}

/// [`document`] with a collector that the caller provides.
#[cfg(test)]
pub(super) fn read_into<T>(
    text: &str,
    problems: &Problems,
    read: impl FnOnce(&mut Table<'_>) -> Option<T>,
) -> Option<T> {
    read_rearranged(text, problems, |_| (), read)
}

fn read_rearranged<T>(
    text: &str,
    problems: &Problems,
    arrange: impl FnOnce(&mut DeTable<'_>),
    read: impl FnOnce(&mut Table<'_>) -> Option<T>,
) -> Option<T> {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // The rest of a document with syntax errors is uncertain; problems in it would mislead.
        problems.add(&error.span().unwrap_or(0..0), "", error.message(), "not valid TOML");
    }
    if !errors.is_empty() {
        return None;
    }
    arrange(document.get_mut());
    let mut table =
        Table { problems, key: String::new(), span: 0..0, entries: document.get_ref(), asked: Vec::new() };
    let value = read(&mut table);
    table.finish();
    if value.is_none() && problems.is_empty() {
        problems.add(&(0..0), "", "cannot be read", "");
    }
    value
}

/// A table of the document.
#[derive(Debug)]
pub struct Table<'a> {
    problems: &'a Problems,
    key: String,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The warnings about its file so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.problems.warnings()
    }

    /// The value of `key`, if it is there.
    pub fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        let path = join(&self.key, key);
        #[cfg(test)]
        self.problems.asked.borrow_mut().insert(without_indices(&path));
        self.asked.push(key);
        self.entries.get(key).map(|value| Value {
            problems: self.problems,
            key: path,
            span: value.span(),
            content: value.get_ref(),
            skip: 0,
        })
    }

    /// The value of `key`; a problem if it is missing, with `example` as a suggestion.
    pub fn required(&mut self, key: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            let hint = format!("write {key} = {example}");
            self.problems.add(&self.span, &join(&self.key, key), "is missing", hint);
        }
        value
    }

    /// The items of the array of tables `key`; empty if it is not there.
    pub fn tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        self.value(key)
            .map(|value| value.items().iter().filter_map(Value::table).collect())
            .unwrap_or_default()
    }

    /// `true` or `false`, or `default`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key).and_then(|value| value.flag()).unwrap_or(default)
    }

    /// A quantity with its unit.
    pub fn quantity<T: FromStr<Err = UnitError>>(&mut self, key: &'static str) -> Option<T> {
        self.value(key)?.quantity()
    }

    /// A whole number within `range`.
    pub fn integer<T: Integer>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T> {
        self.value(key)?.integer(range)
    }

    /// The key of this table in the document.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Reports a problem with the table as a whole.
    pub fn problem(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.problems.add(&self.span, &self.key, what, hint);
    }

    /// Reports every key that was not asked for. Call it when the table has been read.
    pub fn finish(&self) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(&name) {
                let mut known = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                let hint = suggest::hint(name, &known);
                self.problems.add(&key.span(), &join(&self.key, name), "is not a known key", hint);
            }
        }
    }
}

/// A value of the document.
#[derive(Debug, Clone)]
pub struct Value<'a> {
    problems: &'a Problems,
    key: String,
    span: Range<usize>,
    content: &'a DeValue<'a>,
    /// Bytes at the front of a text that do not belong to it: the `!` of a negation.
    skip: usize,
}

/// Whole numbers that a document can hold.
pub trait Integer: TryFrom<i128> + PartialOrd + Display + Copy {}
impl<T: TryFrom<i128> + PartialOrd + Display + Copy> Integer for T {}

impl<'a> Value<'a> {
    /// The key of this value in the document.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Reports a problem with this value.
    pub fn problem(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.problems.add(&self.span, &self.key, what, hint);
    }

    /// Reports a problem with the bytes `within` of this value's text, if they can be located in the file.
    pub fn problem_within(&self, within: &Range<usize>, what: impl Into<String>, hint: impl Into<String>) {
        let raw = self.problems.text(&self.span);
        let verbatim =
            self.as_text().is_some_and(|text| raw.len() == text.len() + 2 && raw[1..].starts_with(text));
        let start = if verbatim { self.span.start + 1 + within.start } else { self.span.start };
        self.problems.add(&(start..start), &self.key, what, hint);
    }

    /// Warns of this value.
    pub fn warn(&self, what: &str) {
        self.problems.warn(&self.key, what);
    }

    /// The directory of the document's file, to which relative paths in it refer.
    pub fn directory(&self) -> PathBuf {
        self.problems.directory()
    }

    /// A problem unless it is text.
    pub fn text(&self) -> Option<&'a str> {
        self.as_text().or_else(|| self.wrong_type("a text in quotes"))
    }

    /// The text; `None` without a problem if it is not text.
    pub fn as_text(&self) -> Option<&'a str> {
        match self.content {
            DeValue::String(text) => text.get(self.skip..),
            _ => None,
        }
    }

    /// A problem unless it is `true` or `false`.
    pub fn flag(&self) -> Option<bool> {
        match self.content {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong_type("true or false"),
        }
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        matches!(self.content, DeValue::Integer(_))
    }

    /// A problem unless it is a whole number within `range`.
    pub fn integer<T: Integer>(&self, range: RangeInclusive<T>) -> Option<T> {
        let DeValue::Integer(integer) = self.content else {
            return self.wrong_type("a whole number");
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if fits.is_none() {
            let hint = format!("allowed: {} to {}", range.start(), range.end());
            self.problem(format!("{integer} is out of range"), hint);
        }
        fits
    }

    /// A problem unless it is a text that reads as `T`, unit included.
    pub fn quantity<T: FromStr<Err = UnitError>>(&self) -> Option<T> {
        let parsed: Result<T, UnitError> = match self.content {
            DeValue::String(_) => self.as_text().unwrap_or_default().parse(),
            // "has no unit", with an example, from the quantity itself.
            DeValue::Integer(number) => number.as_str().parse(),
            DeValue::Float(number) => number.as_str().parse(),
            _ => return self.wrong_type("a text with a number and its unit"),
        };
        parsed.map_err(|error| self.problem(error.what, error.hint)).ok()
    }

    /// A problem unless it is one of the names.
    pub fn choice<T: Copy>(&self, options: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = options.iter().find(|option| option.0 == text).map(|option| option.1);
        if found.is_none() {
            let names: Vec<&str> = options.iter().map(|option| option.0).collect();
            self.problem(format!("\"{text}\" is not known"), suggest::hint(text, &names));
        }
        found
    }

    /// A problem unless it is text that `parse` accepts; `what` describes the expected text, and `example` shows one.
    pub fn parsed<T>(&self, parse: impl Fn(&str) -> Option<T>, what: &str, example: &str) -> Option<T> {
        let text = self.text()?;
        let value = parse(text);
        if value.is_none() {
            self.problem(format!("\"{text}\" is not {what}"), format!("try \"{example}\""));
        }
        value
    }

    /// Whether it is a table.
    pub const fn is_table(&self) -> bool {
        matches!(self.content, DeValue::Table(_))
    }

    /// A problem unless it is a table.
    pub fn table(&self) -> Option<Table<'a>> {
        match self.content {
            DeValue::Table(entries) => Some(Table {
                problems: self.problems,
                key: self.key.clone(),
                span: self.span.clone(),
                entries,
                asked: Vec::new(),
            }),
            _ => self.wrong_type("a table"),
        }
    }

    /// A number with or without a fraction; `None` without a problem if it is something else.
    pub fn number(&self) -> Option<f64> {
        match self.content {
            DeValue::Integer(number) => number.to_string().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        }
    }

    /// The entries of a table whose keys the user chooses; a problem if it is not a table.
    pub fn pairs(&self) -> Vec<(&'a str, Self)> {
        let DeValue::Table(entries) = self.content else {
            return self.wrong_type("a table").unwrap_or_default();
        };
        let pair = |(key, value): (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| {
            let key = key.get_ref().as_ref();
            let content = value.get_ref();
            let key_of_it = join(&self.key, key);
            (key, Self { problems: self.problems, key: key_of_it, span: value.span(), content, skip: 0 })
        };
        entries.iter().map(pair).collect()
    }

    /// The items of an array; a problem if it is not an array.
    pub fn items(&self) -> Vec<Self> {
        match self.content {
            DeValue::Array(items) => {
                items.iter().enumerate().map(|(index, item)| self.item(index, item)).collect()
            }
            _ => self.wrong_type("an array").unwrap_or_default(),
        }
    }

    /// The items of an array; a single value counts as an array of one.
    pub fn one_or_more(&self) -> Vec<Self> {
        if matches!(self.content, DeValue::Array(_)) { self.items() } else { vec![self.clone()] }
    }

    fn item(&self, index: usize, item: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            problems: self.problems,
            key: format!("{}[{index}]", self.key),
            span: item.span(),
            content: item.get_ref(),
            skip: 0,
        }
    }

    /// The text after the `!` at its beginning, if there is one.
    pub fn negated(&self) -> Option<Self> {
        let rest = self.as_text()?.strip_prefix('!')?.trim_start();
        let skip = self.skip + self.as_text()?.len() - rest.len();
        Some(Self { skip, ..self.clone() })
    }

    fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        let found = match self.content {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("is {found}"), format!("it should be {expected}"));
        None
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `path[0].stage[2].rate` as `path.stage.rate`.
#[cfg(test)]
fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&letter| {
            inside = (inside || letter == '[') && letter != ']';
            !inside && letter != ']'
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::units::Rate;

    fn problems(text: &str, read: impl FnOnce(&mut Table<'_>)) -> String {
        document(text, "x.toml", |table| {
            read(table);
            Some(())
        })
        .unwrap_err()
        .to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let text = problems("name = 1\nraet = 2\n", |table| {
            table.value("name");
            table.value("rate");
        });
        assert_eq!(text, "x.toml:2:1: raet: is not a known key (did you mean \"rate\"?)");
    }

    #[test]
    fn a_missing_key_points_at_the_header_of_its_table() {
        let text = problems("\n[[path]]\n[[path]]\n", |table| {
            for mut path in table.tables("path") {
                path.required("from", "\"left\"");
                path.finish();
            }
        });
        assert_eq!(
            text,
            "x.toml:2:1: path[0].from: is missing (write from = \"left\")\n\
             x.toml:3:1: path[1].from: is missing (write from = \"left\")"
        );
    }

    #[test]
    fn a_bare_number_is_no_quantity() {
        let text = problems("rate = 10\n", |table| assert_eq!(table.quantity::<Rate>("rate"), None));
        assert_eq!(text, "x.toml:1:8: rate: \"10\" has no unit (try \"10mbit\")");
    }

    #[test]
    fn a_wrong_type_and_a_number_out_of_range_are_told_apart() {
        let text = problems("a = true\nb = 70000\nc = -1\nd = \"x\"\n", |table| {
            table.integer("a", 1..=5);
            table.integer("b", 68..=65_535);
            table.integer::<u64>("c", 0..=u64::MAX);
            table.flag("d", false);
        });
        assert_eq!(
            text,
            "x.toml:1:5: a: is true or false (it should be a whole number)\n\
             x.toml:2:5: b: 70000 is out of range (allowed: 68 to 65535)\n\
             x.toml:3:5: c: -1 is out of range (allowed: 0 to 18446744073709551615)\n\
             x.toml:4:5: d: is a text (it should be true or false)"
        );
    }

    #[test]
    fn every_syntax_error_has_its_line() {
        let text = problems("a = \nb = 1\nc = [1\n", |_| ());
        assert!(text.starts_with("x.toml:1:"), "{text}");
        assert!(text.lines().count() >= 2, "{text}");
        assert!(text.contains("not valid TOML"), "{text}");
    }

    #[test]
    fn indices_vanish_from_a_generic_key() {
        assert_eq!(without_indices("path[0].stage[12].rate"), "path.stage.rate");
    }
}
