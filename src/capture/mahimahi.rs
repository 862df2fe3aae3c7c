//! A log in the format of Mahimahi's `mm-link`, for its plotting scripts: `T # BYTES` is an opportunity to deliver, `T + BYTES`
//! a packet that arrived, `T - BYTES DELAY` a packet that left after DELAY milliseconds, `T d PACKETS BYTES` a drop. A packet
//! counts four bytes more than its IP length, as in Mahimahi.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;

use crate::capture::event::{Event, Kind};
use crate::config;
use crate::pipeline::link::capacity::Opportunities;
use crate::pipeline::params::{ImpairmentParams, PathParams, ServiceParams};
use crate::pipeline::time::Instant;

/// Bytes that Mahimahi's devices put before each packet.
const HEADER: u64 = 4;
/// Most packets that are remembered after they have left, for copies and fragments that leave later.
const REMEMBERED: usize = 1 << 16;

/// Most lines of opportunities between two events.
const LISTED: u64 = 1_000;

/// A log that is being written.
pub struct Log<W: Write> {
    out: W,
    /// Time of each packet's arrival, by its flow and number.
    came: HashMap<(u64, u64), Instant>,
    /// The packets among them that have left, the latest last.
    gone: VecDeque<(u64, u64)>,
    /// The trace of the link, and its next opportunity.
    trace: Option<(Arc<Opportunities>, u64)>,
    failed: Option<std::io::Error>,
}

impl<W: Write> std::fmt::Debug for Log<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("under way", &self.came.len()).finish_non_exhaustive()
    }
}

impl<W: Write> Log<W> {
    /// A log into `out` of a path in this direction, made by this command, with the delivery opportunities of the first trace
    /// on the path.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn new(mut out: W, path: &PathParams, direction: &str, command: &str) -> std::io::Result<Self> {
        let names: Vec<String> =
            path.seats.iter().map(|seat| config::describe_seat(seat).to_string()).collect();
        let name = names.join("; ");
        writeln!(out, "# mahimahi mm-link ({direction}) [{name}]")?;
        writeln!(out, "# command line: faultwire {command}")?;
        writeln!(out, "# queue: {name}")?;
        writeln!(out, "# init timestamp: 0\n# base timestamp: 0")?;
        let trace = trace(path).map(|trace| (trace, 0));
        Ok(Self { out, came: HashMap::new(), gone: VecDeque::new(), trace, failed: None })
    }

    /// Writes an event of the path. Events can come out of order, because workers do not wait for each other. Opportunities are written
    /// before the first event that is later.
    pub fn record(&mut self, event: &Event) {
        self.opportunities(event.at);
        for (length, index) in event.packets() {
            self.record_wire(event, u64::from(length) + HEADER, (event.flow, index));
        }
    }

    fn record_wire(&mut self, event: &Event, bytes: u64, key: (u64, u64)) {
        let millis = millis(event.at);
        match event.kind {
            Kind::Came => {
                self.came.insert(key, event.at);
                self.write(format_args!("{millis} + {bytes}"));
            }
            Kind::Left => {
                let came = self.came.get(&key).copied().unwrap_or(event.at);
                let delay = event.at.since(came).as_nanos() / 1_000_000;
                self.write(format_args!("{millis} - {bytes} {delay}"));
                self.forget(event, key);
            }
            Kind::Dropped => {
                self.write(format_args!("{millis} d 1 {bytes}"));
                self.forget(event, key);
            }
        }
    }

    /// Says that the packet has left. Its copies, which have the same time of arrival, may leave later.
    fn forget(&mut self, event: &Event, key: (u64, u64)) {
        if event.lineage != 0 {
            return;
        }
        self.gone.push_back(key);
        if self.gone.len() > REMEMBERED
            && let Some(oldest) = self.gone.pop_front()
        {
            self.came.remove(&oldest);
        }
    }

    /// Writes the opportunities up to `at`. If there are many since the last event, one line has the bytes of several, with the time of
    /// the last one. So the number of lines is bounded by the number of packets, however far apart their times are.
    fn opportunities(&mut self, at: Instant) {
        let Some((trace, mut next)) = self.trace.take() else { return };
        let end = trace.until(at);
        let each = end.saturating_sub(next).div_ceil(LISTED).max(1);
        while next < end {
            let count = each.min(end - next);
            next += count;
            let bytes = trace.bytes().saturating_mul(count);
            self.write(format_args!("{} # {bytes}", millis(trace.nth(next - 1))));
        }
        self.trace = Some((trace, next));
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        if self.failed.is_none()
            && let Err(error) = writeln!(self.out, "{line}")
        {
            self.failed = Some(error);
        }
    }

    /// Ends the log.
    ///
    /// # Errors
    /// If a line could not be written.
    pub fn finish(mut self) -> std::io::Result<W> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush().map(|()| self.out),
        }
    }
}

/// The first trace on the path.
fn trace(path: &PathParams) -> Option<Arc<Opportunities>> {
    path.stages().find_map(|stage| match &stage.impairment {
        ImpairmentParams::Bottleneck(link) => match &link.service {
            ServiceParams::Opportunities(times) => Some(Arc::clone(times)),
            ServiceParams::Rate(_) | ServiceParams::Bucket(..) | ServiceParams::Steps(_) => None,
        },
        _ => None,
    })
}

const fn millis(at: Instant) -> u64 {
    at.as_nanos() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::time::Duration;

    const NAME: &str = "# mahimahi";

    fn event(micros: u64, kind: Kind, index: u64) -> Event {
        let at = Instant::ZERO + Duration::from_micros(micros);
        Event { at, kind, path: 0, wires: 1, each: 100, last: 100, lineage: 0, flow: 5, index }
    }

    fn logged(events: &[Event]) -> Vec<String> {
        let path = PathParams::new(0, 1, Vec::new());
        let mut log = Log::new(Vec::new(), &path, "Uplink", "run").unwrap();
        for event in events {
            log.record(event);
        }
        let text = String::from_utf8(log.finish().unwrap()).unwrap();
        assert!(text.starts_with(NAME) && text.contains("# base timestamp: 0\n"), "{text}");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// A train of three, the middle one of which is dropped. Each counts four bytes more than its IP length.
    #[test]
    fn each_wire_packet_of_a_train_has_its_lines() {
        let train = Event { wires: 3, each: 1_500, last: 640, ..event(1_900, Kind::Came, 7) };
        let lines = logged(&[
            train,
            Event { each: 1_500, last: 1_500, ..event(2_000, Kind::Dropped, 8) },
            Event { each: 1_500, last: 1_500, ..event(12_500, Kind::Left, 7) },
            Event { each: 640, last: 640, ..event(21_899, Kind::Left, 9) },
        ]);
        assert_eq!(lines, ["1 + 1504", "1 + 1504", "1 + 644", "2 d 1 1504", "12 - 1504 10", "21 - 644 19"]);
    }

    /// A copy has the time of arrival of its original, also after the original has left.
    #[test]
    fn copies_are_as_old_as_their_originals() {
        let copy = |micros| Event { lineage: 9, ..event(micros, Kind::Left, 0) };
        let lines = logged(&[event(0, Kind::Came, 0), copy(1_000), event(3_000, Kind::Left, 0), copy(8_000)]);
        assert_eq!(lines, ["0 + 104", "1 - 104 1", "3 - 104 3", "8 - 104 8"]);
    }

    /// Years between two packets take no more lines than a second, and no opportunity is lost.
    #[test]
    fn a_jump_in_time_is_few_lines_of_many_opportunities() {
        let times = vec![Duration::from_millis(1); 60];
        for millis in [3_u64, 20, 1_000, 3_600_000, 50 * 365 * 86_400_000] {
            let trace = Opportunities::new(times.clone(), 1_504, true).unwrap();
            let path = PathParams::new(0, 1, Vec::new());
            let mut log = Log::new(Vec::new(), &path, "Uplink", "run").unwrap();
            log.trace = Some((Arc::new(trace), 0));
            log.record(&event(millis * 1_000, Kind::Came, 0));
            let text = String::from_utf8(log.finish().unwrap()).unwrap();
            let lines: Vec<(u64, u64)> = text
                .lines()
                .filter_map(|line| line.split_once(" # "))
                .filter_map(|(at, bytes)| Some((at.parse().ok()?, bytes.parse().ok()?)))
                .collect();
            let bytes: u64 = lines.iter().map(|line| line.1).sum();
            assert_eq!((bytes, lines.last().unwrap().0), (60 * millis * 1_504, millis));
            assert_eq!(
                lines.len() as u64,
                if 60 * millis <= LISTED { 60 * millis } else { lines.len() as u64 }
            );
            assert!(lines.len() as u64 <= LISTED && lines.is_sorted());
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_one_day() {
        let path = PathParams::new(0, 1, Vec::new());
        let mut log = Log::new(std::io::sink(), &path, "Uplink", "run").unwrap();
        for index in 0..3 * REMEMBERED as u64 {
            log.record(&event(index, Kind::Came, index));
            log.record(&event(index, Kind::Left, index));
        }
        assert_eq!((log.came.len(), log.gone.len()), (REMEMBERED, REMEMBERED));
    }
}
