//! Repeats and long runs of plain packets are counted, not shown.

use super::Line;

/// Packets shown at the beginning and the end of a run of plain ones; between them they are only counted.
const KEEP: (usize, usize) = (3, 1);
/// The longest sequence of packets for which repeats are searched.
const PERIOD: usize = 24;
/// A repeat is folded only if this saves at least this many lines.
const WORTH: usize = 3;

/// A row of the diagram.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Line(&'a Line),
    /// The text in place of folded lines.
    Note(String),
}

/// The rows of all lines.
pub(super) fn fold(lines: &[Line]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let rest = &lines[at..];
        let plain = rest.iter().take_while(|line| line.plain).count();
        let (period, times) = repeat(rest);
        if plain > KEEP.0 + KEEP.1 + 2 && plain >= period * times {
            run(&rest[..plain], &mut rows);
            at += plain;
        } else if times > 1 {
            rows.extend(rest[..period].iter().map(Row::Line));
            rows.push(Row::Note(again(period, times - 1)));
            at += period * times;
        } else {
            rows.push(Row::Line(&rest[0]));
            at += 1;
        }
    }
    rows
}

/// How many lines at the front are repeated, and how often they occur in all; 1 if folding them saves too little.
fn repeat(lines: &[Line]) -> (usize, usize) {
    let mut best = (1, 1);
    let mut most = WORTH;
    for period in 1..=PERIOD.min(lines.len() / 2) {
        let front = &lines[..period];
        let alike = |block: &[Line]| {
            let pairs = front.iter().zip(block);
            block.len() == period && pairs.into_iter().all(|(a, b)| is_same(a, b))
        };
        let times = lines.chunks(period).take_while(|block| alike(block)).count();
        // A longer sequence must save more than the shorter one that it consists of.
        let saved = (period * times).saturating_sub(period + 1);
        // A sequence that is repeated only once is easier to read than a note about it.
        let enough = if period == 1 { 2 } else { 3 };
        if times >= enough && saved >= most {
            (best, most) = ((period, times), saved + 1);
        }
    }
    best
}

fn is_same(a: &Line, b: &Line) -> bool {
    (a.rightwards, &a.same, &a.dropped, a.packets) == (b.rightwards, &b.same, &b.dropped, b.packets)
}

fn again(period: usize, times: usize) -> String {
    if period == 1 {
        format!("… {times} more, the same")
    } else {
        format!("… the same {period} another {times} times")
    }
}

/// A long run of plain packets: its middle becomes one line.
fn run<'a>(lines: &'a [Line], rows: &mut Vec<Row<'a>>) {
    let (first, rest) = lines.split_at(KEEP.0);
    let (middle, last) = rest.split_at(rest.len() - KEEP.1);
    let count = |rightwards| -> u64 {
        middle.iter().filter(|line| line.rightwards == rightwards).map(|line| line.packets).sum()
    };
    let (there, back) = (count(true), count(false));
    rows.extend(first.iter().map(Row::Line));
    rows.push(Row::Note(format!("… {} more packets: {there} ─►, {back} ◄─", there + back)));
    rows.extend(last.iter().map(Row::Line));
}
