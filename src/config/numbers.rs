//! Lists of packet numbers, in a file or in the configuration: `7`, `12-20`, `1000-` (and all that follow).

use crate::config::reader::Value;
use crate::pipeline::params::{NoNumbers, Numbers};

/// The syntax of an item, for messages.
const HINT: &str = "a number or a range from 1 on, each above the one before it: 7, 12-20, 1000-";

/// The list in the file that `value` names, relative to the configuration's directory. Problems are reported.
pub(super) fn file(value: &Value<'_>) -> Option<Numbers> {
    let path = value.directory().join(value.text()?);
    let text = match crate::config::text::read(&path) {
        Ok(text) => text,
        Err(error) => {
            value.problem(format!("{} cannot be read: {error}", path.display()), "give the path of a list");
            return None;
        }
    };
    let told = |(line, what): (usize, String)| {
        value.problem(format!("{}:{line}: {what}", path.display()), HINT);
    };
    parse(&text).map_err(told).ok()
}

/// The list that stands in the array `value`. Problems are reported.
pub(super) fn inline(value: &Value<'_>) -> Option<Numbers> {
    let mut numbers = Numbers::default();
    let items = value.one_or_more();
    for item in &items {
        let added = if item.is_integer() {
            let number = item.integer(0..=u64::MAX)?;
            numbers.push(number, number).map_err(|error| format!("{number} {error}"))
        } else {
            add(&mut numbers, item.text()?)
        };
        added.map_err(|what| item.problem(what, HINT)).ok()?;
    }
    if numbers.is_empty() {
        value.problem("lists no packet", HINT);
        return None;
    }
    Some(numbers)
}

/// Items separated by white space or commas; `#` begins a comment. The error is the wrong line and what is wrong with
/// it.
fn parse(text: &str) -> Result<Numbers, (usize, String)> {
    let mut numbers = Numbers::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let items = line.split([',', ' ', '\t', '\r']).filter(|item| !item.is_empty());
        for item in items {
            add(&mut numbers, item).map_err(|what| (index + 1, what))?;
        }
    }
    if numbers.is_empty() {
        return Err((1, "lists no packet".to_owned()));
    }
    Ok(numbers)
}

/// Adds one item, or says what is wrong with it.
fn add(numbers: &mut Numbers, item: &str) -> Result<(), String> {
    let number =
        |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let range = match item.split_once('-') {
        None => number(item).map(|number| (number, number)),
        Some((first, "")) => number(first).map(|first| (first, u64::MAX)),
        Some((first, last)) => number(first).zip(number(last)),
    };
    let (first, last) = range.ok_or_else(|| format!("{item:?} is not a packet number"))?;
    numbers.push(first, last).map_err(|error: NoNumbers| format!("{item} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_numbers_ranges_and_comments() {
        let list = parse("# the handshake\n1\n3, 5-9 # and more\r\n\n10\t12\n100-\n").unwrap();
        assert_eq!((list.run(1, 9), list.run(5, 9), list.run(12, 9)), ((1, true), (6, true), (1, true)));
        assert_eq!((list.run(13, 900), list.run(1_000_000, 9)), ((87, false), (9, true)));
    }

    #[test]
    fn a_flaw_has_its_line() {
        for (text, line, word) in [
            ("", 1, "lists no packet"),
            ("# nothing\n", 1, "lists no packet"),
            ("1\n0\n", 2, "0 is 0: packets are counted from 1"),
            ("1\n\n5-3\n", 3, "5-3 ends before it begins"),
            ("1\n5-9\n9\n", 3, "9 is not above 9"),
            ("4\n3\n", 2, "3 is not above 4"),
            ("100-\n101\n", 2, "is not above"),
            ("1\nseven\n", 2, "\"seven\" is not a packet number"),
            ("1.5\n", 1, "is not a packet number"),
            ("-5\n", 1, "is not a packet number"),
            ("+5\n", 1, "is not a packet number"),
            ("18446744073709551616\n", 1, "is not a packet number"),
            ("1-2-3\n", 1, "is not a packet number"),
        ] {
            let (at, what) = parse(text).unwrap_err();
            assert!(at == line && what.contains(word), "{text:?}: {at} {what}");
        }
    }
}
