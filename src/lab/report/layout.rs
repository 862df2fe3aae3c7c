//! Fits text to the width of a terminal.

/// Default width if the output is not a terminal.
pub const COLUMNS: usize = 80;
/// How much further continuation lines are indented.
const HANG: usize = 2;

/// Breaks long lines at spaces. The continuation of a line of a list or a table is aligned with the text of its last
/// column. A word that is longer than a line is not broken.
pub fn wrap(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        wrap_line(line, columns, hang(line, columns), &mut out);
        out.push_str(end);
    }
    out
}

/// The same, but also fills paragraphs: successive lines form one paragraph, unless they are headings or entries of a
/// list, or are indented by four spaces as code.
pub fn fill(text: &str, columns: usize) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let is_code = line.starts_with("    ");
        let starts = line.is_empty() || is_code || line.starts_with(['#', '<']) || line.starts_with("- ");
        match paragraphs.last_mut() {
            Some(last) if goes_on && !starts => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            _ => paragraphs.push(line.to_owned()),
        }
        goes_on = !line.is_empty() && !is_code && !line.starts_with('#');
    }
    let mut out = String::new();
    for paragraph in paragraphs {
        if paragraph.starts_with("    ") {
            out.push_str(&paragraph);
        } else {
            let hang = if paragraph.starts_with("- ") { HANG } else { 0 };
            wrap_line(&paragraph, columns, hang, &mut out);
        }
        out.push('\n');
    }
    out
}

fn wrap_line(line: &str, columns: usize, hang: usize, out: &mut String) {
    if line.chars().count() <= columns {
        out.push_str(line);
        return;
    }
    let indent = " ".repeat(hang);
    let body = line.trim_start_matches(' ');
    let lead = line.len() - body.len();
    out.push_str(&line[..lead]);
    // Leading spaces are ASCII.
    let mut used = lead;
    let mut gap = 0;
    let mut is_first = true;
    for word in body.split(' ') {
        // Several spaces in a row separate columns: they are kept within a line.
        if word.is_empty() {
            gap += 1;
            continue;
        }
        let length = word.chars().count();
        if is_first {
            is_first = false;
        } else if used + gap + length > columns && used > indent.len() {
            out.push('\n');
            out.push_str(&indent);
            used = indent.len();
        } else {
            out.push_str(&" ".repeat(gap));
            used += gap;
        }
        out.push_str(word);
        used += length;
        gap = 1;
    }
}

/// Where the text of the last column begins, if that leaves room; otherwise a little further in than the line.
fn hang(line: &str, columns: usize) -> usize {
    let lead = line.len() - line.trim_start_matches(' ').len();
    let mut column = None;
    let mut spaces = 0;
    for (at, letter) in line.chars().enumerate().skip(lead) {
        if letter == ' ' {
            spaces += 1;
        } else {
            if spaces >= 2 && at <= columns / 2 {
                column = Some(at);
            }
            spaces = 0;
        }
    }
    let usual = if line[lead..].starts_with("- ") { lead + HANG } else { (lead + HANG).min(columns / 2) };
    column.unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_hang() {
        assert_eq!(wrap("one two three\nfour", 8), "one two\n  three\nfour");
        assert_eq!(wrap("  - one two three", 12), "  - one two\n    three");
        assert_eq!(wrap("name    one two three", 16), "name    one two\n        three");
        assert_eq!(wrap("short\n\n", 5), "short\n\n");
        assert_eq!(wrap("a/very/long/path and more", 8), "a/very/long/path\n  and\n  more");
        assert_eq!(wrap("äöü äöü", 3), "äöü\n äöü");
    }

    #[test]
    fn what_fits_is_left_alone() {
        for text in ["", "\n", "a  b   c\n", "  x\n    y", "tab\tbed"] {
            assert_eq!(wrap(text, 80), text);
        }
    }

    #[test]
    fn paragraphs_are_filled_and_code_is_not() {
        let text = "# A head\n\none\ntwo\nthree\n\n- entry one\n  goes on\n- two\n\n    code that is long and stays\n";
        let filled = "# A head\n\none two\nthree\n\n- entry\n  one\n  goes on\n- two\n\n    code that is long and stays\n";
        assert_eq!(fill(text, 9), filled);
    }

    #[test]
    fn no_line_is_wider_than_asked_but_for_single_words() {
        let text = "The quick  brown fox: jumps over     the lazy dog, again and again and again.";
        for columns in 1..90 {
            for line in wrap(text, columns).lines() {
                let fits = line.chars().count() <= columns;
                assert!(fits || !line.trim_start().contains(' '), "{columns}: {line}");
            }
        }
    }
}
