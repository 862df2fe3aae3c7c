//! The two-sided diagram: which host sent which packet when, and where packets were dropped.

mod fold;

use std::fmt::{self, Write as _};

use crate::lab::report::diagram::fold::{Row, fold};
use crate::lab::report::headline::{Headline, Writer};
use crate::lab::report::layout::{COLUMNS, wrap};
use crate::lab::report::{Record, RecordKind};

/// Columns of the time, and of the two sides' lines.
const EDGES: usize = 14;
/// If there are fewer columns than this between the two sides, the sides are not drawn.
const NARROW: usize = 40;
/// If a diagram is too long, how many lines are shown at its beginning and its end.
const WHOLE: (usize, usize) = (60, 20);

/// The packets of a diagram, which can be drawn at any width.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diagram {
    left: String,
    right: String,
    lines: Vec<Line>,
}

/// A line before it is laid out.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    time: f64,
    /// The host on the left, if there are several, and the number of the connection.
    who: String,
    text: String,
    /// Two packets with the same key count as repeats: the text without the parts that differ from packet to packet.
    same: String,
    rightwards: bool,
    /// Name of the stage or reason that dropped it.
    dropped: Option<String>,
    plain: bool,
    packets: u64,
}

/// The diagram between the hosts on the left and the one on the right; with several on the left, each line says which.
/// Each packet has one line, at the time it left the router or was dropped; what was received is not shown again. Packets
/// of other hosts are left out.
pub fn diagram(records: &[Record], left: &[&str], right: &str) -> Diagram {
    let mut writer = Writer::default();
    let start = records.first().map_or(0, |record| record.at.as_nanos());
    let lines = records.iter().filter_map(|record| line(record, left, right, start, &mut writer)).collect();
    Diagram { left: left.join(", "), right: right.to_owned(), lines }
}

impl Diagram {
    /// The diagram in lines of at most so many columns, but for single words. Below 54 columns no sides are drawn.
    pub fn draw(&self, columns: usize) -> String {
        let width = columns.saturating_sub(EDGES);
        let rows = fold(&self.lines);
        let skipped = rows.len().saturating_sub(WHOLE.0 + WHOLE.1);
        let mut text = self.head(columns);
        for (index, row) in rows.iter().enumerate() {
            if skipped > 0 && index == WHOLE.0 {
                let _ = writeln!(text, "{:>10}  … {skipped} more lines", "");
            }
            if skipped > 0 && index >= WHOLE.0 && index < rows.len() - WHOLE.1 {
                continue;
            }
            match row {
                Row::Line(line) if width < NARROW => text.push_str(&wrap(&narrow(line), columns)),
                Row::Line(line) => text.push_str(&wide(line, width)),
                Row::Note(note) if width < NARROW => {
                    text.push_str(&wrap(&format!("        {note}"), columns));
                }
                Row::Note(note) => {
                    let _ = write!(text, "{:>10}  {note}", "");
                }
            }
            text.push('\n');
        }
        text
    }

    /// The heading: which host is on which side.
    fn head(&self, columns: usize) -> String {
        let width = columns.saturating_sub(EDGES);
        if width < NARROW {
            return wrap(&format!("time s  ─► from {}, ◄─ from {}\n", self.left, self.right), columns);
        }
        let left: String =
            self.left.chars().take(width.saturating_sub(self.right.chars().count() + 2)).collect();
        let right = width + 2 - left.chars().count();
        format!("{:>10}  {left}{:>right$}\n", "time s", self.right)
    }
}

impl fmt::Display for Diagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.draw(COLUMNS))
    }
}

fn line(record: &Record, left: &[&str], right: &str, start: u64, writer: &mut Writer) -> Option<Line> {
    let headline = Headline::read(&record.bytes, record.length);
    // The first packet of a connection determines the relative numbers, even if it is lost.
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
    let host = if left.len() > 1 && is_left(other) { format!("{other} ") } else { String::new() };
    let same = headline.as_ref().and_then(Headline::class).unwrap_or_else(|| text.clone());
    let same = format!("{host}{same}");
    Some(Line {
        time,
        who: format!("{host}{number}: "),
        text,
        same,
        rightwards,
        dropped,
        plain,
        packets: record.packets.into(),
    })
}

/// Between the two sides, `width` columns.
fn wide(line: &Line, width: usize) -> String {
    let time = format!("{:>10.4}", line.time);
    let whole = format!("{}{}", line.who, line.text);
    let Some(why) = &line.dropped else {
        let text = cut(&whole, width - 6);
        let free = "─".repeat(width - text.chars().count() - 4);
        return if line.rightwards {
            format!("{time}  │─ {text} {free}►│")
        } else {
            format!("{time}  │◄{free} {text} ─│")
        };
    };
    // The reason matters more than the full text. A dropped packet has no line on the other side.
    let why = cut(why, width / 2);
    let text = cut(&whole, width - why.chars().count() - 6);
    let free = (width - text.chars().count() - why.chars().count() - 5).clamp(1, 6);
    let cross = "─".repeat(free);
    if line.rightwards {
        format!("{time}  │─ {text} {cross}✗ {why}")
    } else {
        let cross = format!("{why} ✗{cross}");
        let place = width - text.chars().count() - 3;
        format!("{time}  │{cross:>place$} {text} ─│")
    }
}

/// Without sides, for terminals that have no room for them.
fn narrow(line: &Line) -> String {
    let arrow = if line.rightwards { "─►" } else { "◄─" };
    let why = line.dropped.as_ref().map_or_else(String::new, |why| format!(" ✗ {why}"));
    format!("{:.4}  {arrow} {}{}{why}", line.time, line.who, line.text)
}

/// The first `most` characters; the last of them is `…` if the text is longer.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut text: String = text.chars().take(most.saturating_sub(1)).collect();
    text.push('…');
    text
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
        )
        .to_string();
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
        let text = diagram(&records, &["client"], "server").to_string();
        assert_eq!(text.lines().count(), 1 + 3 + 1 + 1, "{text}");
        assert!(text.contains("… 96 more packets: 96 ─►, 0 ◄─"), "{text}");
    }

    #[test]
    fn what_comes_again_is_counted_whatever_its_time_and_number() {
        let lost = |millis: u64, port: u16| {
            let kind = RecordKind::Dropped { stage: Some("loss".into()), reason: "loss".into() };
            Record { bytes: packet(port, 10), ..record(millis, "client", kind) }
        };
        let mut records: Vec<Record> = (0..32).map(|at| lost(at, 40_000 + at as u16)).collect();
        let text = diagram(&records, &["client"], "server").to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with("  … 31 more, the same\n"), "{text}");
        // What is lost and what arrives by turns: a sequence of two.
        let pair = |at: u64| [lost(2 * at, 40_000), sent(2 * at + 1)];
        records = (0..9).flat_map(pair).collect();
        let text = diagram(&records, &["client"], "server").to_string();
        assert!(text.ends_with("  … the same 2 another 8 times\n"), "{text}");
        // Another length is another packet.
        records = (0..9).map(|at| Record { bytes: packet(1, at), ..lost(at as u64, 1) }).collect();
        for record in &mut records {
            record.length = record.bytes.len() as u32;
        }
        let text = diagram(&records, &["client"], "server").to_string();
        assert!(!text.contains('…') && text.lines().count() == 10, "{text}");
    }

    #[test]
    fn every_line_fits_the_width() {
        let long = || RecordKind::Dropped {
            stage: Some("a-stage-of-a-long-name".into()),
            reason: "mtu_silent".into(),
        };
        let records = [sent(1), record(2, "client", long()), record(3, "server", long())];
        for columns in 20..200 {
            let text = diagram(&records, &["client"], "server").draw(columns);
            for line in text.lines() {
                let width = line.chars().count();
                assert!(width <= columns || !line.trim().contains(' '), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn of_several_hosts_on_the_left_each_line_says_which() {
        let records = [
            sent(0),
            record(1, "other", RecordKind::Sent { to: "server".into() }),
            record(2, "server", RecordKind::Sent { to: "other".into() }),
            record(3, "third", RecordKind::Sent { to: "fourth".into() }),
        ];
        let text = diagram(&records, &["client", "other"], "server").to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("client, other"), "{text}");
        assert!(lines[1].contains("│─ client 1: UDP"), "{text}");
        assert!(lines[2].contains("│─ other 1: UDP"), "{text}");
        assert!(lines[3].contains("─ other 1: UDP") && lines[3].contains("│◄"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
    }
}
