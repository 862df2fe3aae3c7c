//! `[explain]`: the incident as it appears in production.

use crate::config::reader::Table;

/// What a case explains, as Markdown: paragraphs, and commands indented by four spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What happens, in order.
    pub what: String,
    /// Why it happens.
    pub why: String,
    /// How to recognise it on a production host: counters, and filters for tcpdump.
    pub recognise: String,
    /// How to cure it.
    pub cure: String,
}

/// Reads the table, if the case has one.
pub(super) fn read_explanation(root: &mut Table<'_>) -> Option<Explanation> {
    let mut table = root.value("explain")?.table()?;
    let what = text(&mut table, "what");
    let why = text(&mut table, "why");
    let recognise = text(&mut table, "recognise");
    let cure = text(&mut table, "cure");
    table.finish();
    Some(Explanation { what: what?, why: why?, recognise: recognise?, cure: cure? })
}

fn text(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let value = table.required(key, "\"\"\" ... \"\"\"")?;
    let text = value.text()?.trim_matches('\n').trim_end();
    if text.is_empty() {
        value.problem("is empty", "write a sentence or more");
    }
    Some(text.to_owned())
}
