//! An incident as one page, and all incidents as a book.

use std::fmt::Write as _;

use crate::lab::case::{Case, Trial};
use crate::lab::catalogue::Chapter;

/// How to write the book again.
const NOTE: &str = "<!-- Written by `faultwire case explain --all` from configs/cases/*.toml. \
                    To change it, change those. -->";

const PREFACE: &str = "\
Each incident is a way in which packets were lost in production. Each is also a case: `faultwire case run NAME` builds
the network, breaks it in this way, sends traffic of real kernel sockets through it, and checks what the kernels report.
Its *controls* run the same without the fault, or with its cure, and must give other results. Addresses and device names
in the commands are examples.";

/// The page of one case, as Markdown that reads as well in a terminal; headings are of `level`.
pub fn page(case: &Case, level: usize) -> String {
    let mark = "#".repeat(level);
    let mut text = format!("{mark} {}\n\n**{}.**\n", case.name, case.title);
    let Some(explain) = &case.explain else {
        let _ = write!(text, "\n{}\n", case.story);
        return text;
    };
    for (heading, paragraphs) in [
        ("What happens", &explain.what),
        ("Why", &explain.why),
        ("How to recognise it", &explain.recognise),
        ("How to cure it", &explain.cure),
    ] {
        let _ = write!(text, "\n{mark}# {heading}\n\n{paragraphs}\n");
    }
    let _ = write!(text, "\n{mark}# What the case shows\n\n");
    for trial in &case.trials {
        evidence(trial, &mut text);
    }
    let _ = write!(text, "\nRun it: `faultwire case run {}`\n", case.name);
    text
}

fn evidence(trial: &Trial, text: &mut String) {
    if let Some(control) = &trial.control {
        let _ = write!(text, "\nControl: {control}.\n\n");
    }
    for expectation in &trial.expect {
        let _ = write!(text, "- `{}` {}", expectation.see, expectation.check);
        if !expectation.because.is_empty() {
            let _ = write!(text, ": {}", expectation.because);
        }
        text.push('\n');
    }
}

/// All cases by chapters, with a table of contents.
pub fn book(chapters: &[Chapter], cases: &[Case]) -> String {
    let find = |name: &str| cases.iter().find(|case| case.name == name);
    let mut text = format!("{NOTE}\n\n# Incidents\n\n{PREFACE}\n\n");
    for (number, chapter) in (1..).zip(chapters) {
        let _ = writeln!(text, "{number}. [{}](#{})", chapter.title, anchor(chapter.title));
        for case in chapter.cases.iter().filter_map(|name| find(name)) {
            let _ = writeln!(text, "   - [{}](#{}): {}", case.name, anchor(&case.name), case.title);
        }
    }
    for chapter in chapters {
        let _ = write!(text, "\n## {}\n\n{}\n", chapter.title, chapter.opening);
        for case in chapter.cases.iter().filter_map(|name| find(name)) {
            let _ = write!(text, "\n{}", page(case, 3));
        }
    }
    text
}

/// Where a heading can be linked to: lower case, blanks as hyphens, no other punctuation.
fn anchor(heading: &str) -> String {
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then(|| letter.to_ascii_lowercase()),
    };
    heading.chars().filter_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::catalogue::{CHAPTERS, cases};

    /// Set to anything, the book is written instead of compared.
    const REWRITE: &str = "FAULTWIRE_WRITE_BOOK";

    #[test]
    fn the_book_in_docs_is_what_the_case_files_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/incidents.md");
        let text = book(CHAPTERS, &cases().unwrap());
        if std::env::var_os(REWRITE).is_some() {
            std::fs::write(path, text).unwrap();
            return;
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == text,
            "docs/incidents.md is not what configs/cases say: run `{REWRITE}=1 cargo test --lib the_book_in_docs`"
        );
    }

    #[test]
    fn a_page_has_every_part_and_every_expectation() {
        let case = crate::lab::catalogue::case("mtu-100-receive").unwrap().unwrap();
        let text = page(&case, 1);
        for part in [
            "# mtu-100-receive\n",
            "## Why\n",
            "    tcpdump ",
            "Control: MTU 1500.",
            "`faultwire case run mtu-100-receive`",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let expected: usize = case.trials.iter().map(|trial| trial.expect.len()).sum();
        assert_eq!(text.lines().filter(|line| line.starts_with("- `")).count(), expected);
        assert!(text.contains("`traffic.web.bytes_read` is 0: the server's application never sees a byte"));
    }

    #[test]
    fn anchors_are_those_of_rendered_markdown() {
        assert_eq!(anchor("No way there, no way back"), "no-way-there-no-way-back");
        assert_eq!(anchor("mtu-100-receive"), "mtu-100-receive");
    }
}
