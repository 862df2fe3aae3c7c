//! Turns the case's document into that of a control: values of the control replace those of the case.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

/// Arrays whose items a control changes key by key, found by their `name`.
const BY_NAME: [&str; 2] = ["host", "traffic"];

/// How many controls `document` has.
pub(super) fn controls(document: &DeTable<'_>) -> usize {
    document.get("control").and_then(|value| value.get_ref().as_array()).map_or(0, |controls| controls.len())
}

/// Reduces `document` to the case itself (`None`), or turns it into that of a control.
pub(super) fn apply(document: &mut DeTable<'_>, control: Option<usize>) {
    // If this is not an array, it stays where it is, and the reader reports it.
    if !document.get("control").is_some_and(|value| value.get_ref().is_array()) {
        return;
    }
    let Some(DeValue::Array(controls)) = document.remove("control").map(Spanned::into_inner) else { return };
    let Some(control) = control.and_then(|index| controls.into_iter().nth(index)) else { return };
    let span = control.span();
    let DeValue::Table(mut control) = control.into_inner() else { return };
    document.remove("expect");
    // Not at the top level, where it would be the name of the case.
    let mut about = DeTable::new();
    if let Some((key, value)) = control.remove_entry("name") {
        about.insert(key, value);
    }
    document.insert(
        Spanned::new(span.clone(), Cow::Borrowed("control")),
        Spanned::new(span, DeValue::Table(about)),
    );
    for (key, value) in control {
        let base = document.get_mut(key.get_ref().as_ref());
        match (base.map(Spanned::get_mut), value) {
            (Some(DeValue::Array(base)), value) if is_by_name(&key) && value.get_ref().is_array() => {
                let DeValue::Array(changes) = value.into_inner() else { continue };
                merge(base, changes);
            }
            (_, value) => {
                // The key of the control, so that problems point there.
                document.remove(key.get_ref().as_ref());
                document.insert(key, value);
            }
        }
    }
}

fn is_by_name(key: &Spanned<DeString<'_>>) -> bool {
    BY_NAME.contains(&key.get_ref().as_ref())
}

/// Changes the items of `base` that have the names of `changes`; others are added.
fn merge<'a>(base: &mut DeArray<'a>, changes: DeArray<'a>) {
    for change in changes {
        let name = name_of(&change).map(str::to_owned);
        let known = base.iter_mut().find(|item| name.is_some() && name_of(item) == name.as_deref());
        match (known.map(Spanned::get_mut), change) {
            (Some(DeValue::Table(entries)), change) if change.get_ref().is_table() => {
                let DeValue::Table(new) = change.into_inner() else { continue };
                for (key, value) in new {
                    entries.remove(key.get_ref().as_ref());
                    entries.insert(key, value);
                }
            }
            (_, change) => base.push(change),
        }
    }
}

fn name_of<'a>(item: &'a Spanned<DeValue<'_>>) -> Option<&'a str> {
    item.get_ref().as_table()?.get("name")?.get_ref().as_str()
}

/// Replaces every text `"$variable"` by `value`, padded with spaces so that later positions in the text stay the
/// same.
pub(super) fn substitute(text: &str, variable: &str, value: i64) -> String {
    let quoted = format!("\"${variable}\"");
    text.replace(&quoted, &format!("{value:<width$}", width = quoted.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        title = "t"
        fault = { up = "loss 1%", down = "loss 2%" }
        [[host]]
        name = "client"
        mtu = 1400
        [[expect]]
        see = "a"
        [[control]]
        name = "fixed"
        fault = { }
        [[control.host]]
        name = "client"
        mtu = 1500
        [[control.host]]
        name = "other"
        [[control.expect]]
        see = "b"
    "#;

    fn with(control: Option<usize>) -> String {
        let mut document = DeTable::parse(TEXT).unwrap();
        apply(document.get_mut(), control);
        strings(document.get_ref())
    }

    /// Only what is there counts here, not where it was.
    fn strings(table: &DeTable<'_>) -> String {
        let entries = table.iter().map(|(key, value)| {
            let value = match value.get_ref() {
                DeValue::Table(inner) => strings(inner),
                DeValue::Array(items) => {
                    items.iter().filter_map(|item| item.get_ref().as_table()).map(strings).collect()
                }
                DeValue::Integer(number) => format!("={number}"),
                other => format!("={}", other.as_str().unwrap_or("?")),
            };
            format!(" {}{value}", key.get_ref())
        });
        entries.collect()
    }

    #[test]
    fn the_case_itself_keeps_its_own_and_loses_its_controls() {
        let text = with(None);
        assert!(text.contains("down=loss 2% up=loss 1%"), "{text}");
        assert!(text.contains("1400") && text.contains("see=a") && !text.contains("control"), "{text}");
    }

    #[test]
    fn a_control_replaces_what_it_names_and_merges_hosts_by_name() {
        let text = with(Some(0));
        assert!(!text.contains("loss"), "{text}");
        assert!(text.contains("1500") && !text.contains("1400"), "{text}");
        assert!(text.contains("name=client") && text.contains("name=other"), "{text}");
        assert!(text.contains("see=b") && !text.contains("see=a"), "{text}");
        assert!(text.contains("control name=fixed"), "{text}");
        assert!(text.contains("title=t"), "{text}");
    }

    #[test]
    fn a_variable_becomes_a_number_and_nothing_moves() {
        let text = "mtu = \"$mtu\" # here";
        let replaced = substitute(text, "mtu", 127);
        assert_eq!(replaced, "mtu = 127    # here");
        assert_eq!(replaced.find('#'), text.find('#'));
    }
}
