//! The two-sided diagram: who sent what when, and where it was dropped.

use std::fmt::Write as _;

use crate::lab::report::headline::{Headline, Writer};
use crate::lab::report::{Record, RecordKind};

/// Columns between the two sides.
const LANE: usize = 84;
/// Packets shown at the beginning and the end of a run of plain ones; between them they are only counted.
const KEEP: (usize, usize) = (3, 1);
/// Lines shown at the beginning and the end of a diagram that is too long as a whole.
const WHOLE: (usize, usize) = (60, 20);

/// A line before it is laid out.
struct Line {
    time: f64,
    text: String,
    rightwards: bool,
    /// Name of the stage or reason that dropped it.
    dropped: Option<String>,
    plain: bool,
    packets: u64,
}

/// The diagram between the hosts on the left and the one on the right; with several on the left, each line says which.
/// Each packet has one line, at the time it left the router or was dropped; what was received is not shown again. Packets
/// of other hosts are left out.
pub fn diagram(records: &[Record], left: &[&str], right: &str) -> String {
    let mut writer = Writer::default();
    let start = records.first().map_or(0, |record| record.at.as_nanos());
    let lines: Vec<Line> =
        records.iter().filter_map(|record| line(record, left, right, start, &mut writer)).collect();
    let mut text = format!("{:>10}  {:<half$}{right:>half$}\n", "time s", left.join(", "), half = LANE / 2);
    let rows = fold(&lines);
    let skipped = rows.len().saturating_sub(WHOLE.0 + WHOLE.1);
    for (index, row) in rows.iter().enumerate() {
        if skipped > 0 && index == WHOLE.0 {
            let _ = writeln!(text, "{:>10}  … {skipped} more lines", "");
        }
        if skipped == 0 || index < WHOLE.0 || index >= rows.len() - WHOLE.1 {
            text.push_str(row);
            text.push('\n');
        }
    }
    text
}

fn line(record: &Record, left: &[&str], right: &str, start: u64, writer: &mut Writer) -> Option<Line> {
    let headline = Headline::read(&record.bytes, record.length);
    // The first packet of a connection sets its relative numbers, even if it is lost.
    let number = headline.as_ref().map_or(0, |headline| writer.meet(headline));
    let dropped = match &record.kind {
        RecordKind::Sent { .. } => None,
        RecordKind::Dropped { stage, reason } => Some(match stage {
            Some(stage) => format!("{stage}: {reason}"),
            None => reason.clone(),
        }),
        RecordKind::Received | RecordKind::Created | RecordKind::Rewritten { .. } => return None,
    };
    let mut text = headline.as_ref().map_or_else(|| "not IP".to_owned(), |headline| writer.line(headline));
    let is_left = |host: &str| left.contains(&host);
    let (rightwards, other) = match &record.kind {
        RecordKind::Sent { to } if to == right => (true, &record.from),
        RecordKind::Sent { to } if is_left(to) => (false, to),
        RecordKind::Dropped { .. } if is_left(&record.from) => (true, &record.from),
        RecordKind::Dropped { .. } if record.from == right => (false, &record.from),
        _ => return None,
    };
    if record.packets > 1 {
        let _ = write!(text, " in {} packets", record.packets);
    }
    let plain = dropped.is_none() && headline.as_ref().is_some_and(Headline::is_plain);
    let time = record.at.as_nanos().saturating_sub(start) as f64 / 1e9;
    let who = if left.len() > 1 && is_left(other) { format!("{other} ") } else { String::new() };
    let text = format!("{who}{number}: {text}");
    Some(Line { time, text, rightwards, dropped, plain, packets: record.packets.into() })
}

/// Lays the lines out; the middle of a long run of plain ones becomes one line.
fn fold(lines: &[Line]) -> Vec<String> {
    let mut rows = Vec::new();
    for run in lines.chunk_by(|a, b| a.plain && b.plain) {
        if run.len() <= KEEP.0 + KEEP.1 + 2 {
            rows.extend(run.iter().map(row));
            continue;
        }
        let (first, rest) = run.split_at(KEEP.0);
        let (middle, last) = rest.split_at(rest.len() - KEEP.1);
        let count = |rightwards| -> u64 {
            middle.iter().filter(|line| line.rightwards == rightwards).map(|line| line.packets).sum()
        };
        rows.extend(first.iter().map(row));
        let (there, back) = (count(true), count(false));
        rows.push(format!("{:>10}  … {} more packets: {there} ─►, {back} ◄─", "", there + back));
        rows.extend(last.iter().map(row));
    }
    rows
}

fn row(line: &Line) -> String {
    let time = format!("{:>10.4}", line.time);
    let text: String = line.text.chars().take(LANE - 8).collect();
    let free = LANE.saturating_sub(text.chars().count() + 4);
    match (&line.dropped, line.rightwards) {
        (None, true) => format!("{time}  │─ {text} {}►│", "─".repeat(free)),
        (None, false) => format!("{time}  │◄{} {text} ─│", "─".repeat(free)),
        (Some(why), true) => format!("{time}  │─ {text} {}✗ {why}", "─".repeat(free.min(6))),
        (Some(why), false) => {
            let cross = format!("{why} ✗{}", "─".repeat(free.min(6)));
            let width = LANE.saturating_sub(text.chars().count() + 3);
            format!("{time}  │{cross:>width$} {text} ─│")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::time::Instant;
    use etherparse::PacketBuilder;

    fn packet(port: u16, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(port, 9)
            .write(&mut bytes, &vec![0; payload])
            .unwrap();
        bytes
    }

    fn record(millis: u64, from: &str, kind: RecordKind) -> Record {
        let bytes = packet(1_000, 10);
        let at = Instant::from_nanos(millis * 1_000_000);
        Record { at, kind, from: from.into(), packets: 1, length: bytes.len() as u32, segment: 0, bytes }
    }

    fn sent(millis: u64) -> Record {
        record(millis, "client", RecordKind::Sent { to: "server".into() })
    }

    #[test]
    fn a_drop_names_its_stage_and_points_the_way_the_packet_went() {
        let kind = || RecordKind::Dropped { stage: Some("loss".into()), reason: "loss".into() };
        let text = diagram(
            &[
                record(5, "client", RecordKind::Received),
                sent(5),
                record(7, "client", kind()),
                record(8, "server", kind()),
            ],
            &["client"],
            "server",
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("    0.0000  │─ 1: UDP 1000 > 9, length 10 ─"), "{text}");
        assert!(lines[1].ends_with("►│"), "{text}");
        assert!(lines[2].contains("    0.0020  │─ 1: UDP") && lines[2].ends_with("✗ loss: loss"), "{text}");
        assert!(lines[3].contains("loss: loss ✗") && lines[3].ends_with("length 10 ─│"), "{text}");
        let width = |line: &str| line.chars().count();
        assert_eq!(width(lines[1]), width(lines[3]), "{text}");
    }

    #[test]
    fn the_middle_of_a_long_run_is_counted_not_shown() {
        let records: Vec<Record> = (0..100).map(sent).collect();
        let text = diagram(&records, &["client"], "server");
        assert_eq!(text.lines().count(), 1 + 3 + 1 + 1, "{text}");
        assert!(text.contains("… 96 more packets: 96 ─►, 0 ◄─"), "{text}");
    }

    #[test]
    fn of_several_hosts_on_the_left_each_line_says_which() {
        let records = [
            sent(0),
            record(1, "other", RecordKind::Sent { to: "server".into() }),
            record(2, "server", RecordKind::Sent { to: "other".into() }),
            record(3, "third", RecordKind::Sent { to: "fourth".into() }),
        ];
        let text = diagram(&records, &["client", "other"], "server");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("client, other"), "{text}");
        assert!(lines[1].contains("│─ client 1: UDP"), "{text}");
        assert!(lines[2].contains("│─ other 1: UDP"), "{text}");
        assert!(lines[3].contains("─ other 1: UDP") && lines[3].contains("│◄"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
    }
}
