//! What is counted: rows of the benches `pipeline`, `stages` and `nat`, and what a capture adds.

use crate::packets;
use crate::records::{CAPTURES, Recording};
use crate::stage::{STAGES, Single, parsed};
use crate::translator::{HOSTS, PORTS, Sessions};

/// The function that callgrind counts, as a pattern of its name.
pub(crate) const COUNTED: &str = "*counted_rounds*";
/// Rounds that are counted of each row.
pub(crate) const ROUNDS: u32 = 1_000;
/// Rounds before, until tables and pools are as large as they get.
const WARM_UP: u32 = 1_000;
/// Distance between the sessions of two packets, far enough for another bucket of every table.
const STEP: usize = 7_919;

/// The rows of `core` that are also recorded: what the worker does (`recorded`), and that together with what the thread does that
/// writes the capture (`captured`).
const RECORDED: [&str; 2] = ["single/no-stage", "train/no-decision"];

/// One round of a row: a packet, or a train.
type Round = Box<dyn FnMut()>;

/// One round with a translator.
type One = fn(&mut Sessions);

/// What is counted under one name.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Wire packets of a round.
    pub(crate) wires: u64,
    /// Prepares it.
    make: Box<dyn FnOnce() -> Round>,
}

impl Row {
    fn new<R: FnMut() + 'static>(name: String, wires: u64, make: impl FnOnce() -> R + 'static) -> Self {
        Self { name, wires, make: Box::new(move || Box::new(make())) }
    }
}

/// Every row, in order.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for row in packets::rows() {
        rows.push(Row::new(format!("core/{}", row.name), row.wires, move || {
            let mut feed = row.feed();
            move || feed.one()
        }));
    }
    for (name, text) in STAGES {
        rows.push(Row::new(format!("stage/{name}"), 1, move || {
            let mut single = Single::new(parsed(text));
            move || single.one()
        }));
    }
    for row in packets::rows().into_iter().filter(|row| RECORDED.contains(&row.name)) {
        for capture in CAPTURES {
            rows.push(Row::new(format!("recorded/{}/{}", row.name, capture.0), row.wires, move || {
                let mut recording = Recording::new(&row, capture, false);
                move || recording.tell()
            }));
            if capture.0 != "drops" {
                rows.push(Row::new(format!("captured/{}/{}", row.name, capture.0), row.wires, move || {
                    let mut recording = Recording::new(&row, capture, true);
                    move || {
                        recording.tell();
                        recording.write();
                    }
                }));
            }
        }
    }
    for (count, sessions) in [(1, "1"), (HOSTS * PORTS, "100,000")] {
        let kinds: [(&str, One); 4] = [
            ("headers alone", Sessions::headers),
            ("out", Sessions::out),
            ("in", Sessions::back),
            ("in, and its route before", Sessions::routed),
        ];
        for (kind, one) in kinds {
            rows.push(Row::new(format!("nat/{sessions}/{kind}"), 1, move || {
                let mut sessions = Sessions::new(count, STEP);
                move || one(&mut sessions)
            }));
        }
    }
    rows
}

/// Runs the row of this number: first what is not counted, then what is.
pub(crate) fn run(number: usize) {
    let row = rows().into_iter().nth(number).unwrap();
    let mut round = (row.make)();
    (0..WARM_UP).for_each(|_| round());
    counted_rounds(&mut *round);
}

/// A function of its own, so that callgrind can tell when to count.
#[inline(never)]
fn counted_rounds(round: &mut dyn FnMut()) {
    for _ in 0..ROUNDS {
        round();
    }
}
