//! A capture of a running router: each packet at its arrival, and where it left or was dropped, with the verdict.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::capture::bytes::{Order, halves, length32};
use crate::capture::files::{Files, Rotation, Short};
use crate::capture::link::LinkType;
use crate::capture::options::{self, EPB_PACKETID, EPB_VERDICT, IF_DESCRIPTION, IF_NAME, ISB_DROPPED};
use crate::capture::sink::{self, Format};
use crate::capture::source::{Block, Interface, Notes, block};
use crate::capture::wires::{Wire, Wires};
use crate::journal::file::ends_early;
use crate::journal::text::span;
use crate::journal::{Finished, Kind, Lane, Names, Record, Sink};

/// Blocks are written to the file when they have so many bytes ...
const ENOUGH: usize = 256 << 10;
/// ... or after so much time.
const OFTEN: Duration = Duration::from_millis(200);
/// Most packets whose changes on the way are remembered.
const REMEMBERED: usize = 1 << 16;
/// Most bytes of text about the changes of a packet: each stage of a path can change it.
const TOLD: usize = 4 << 10;
/// Stands for further changes.
const MORE: &str = "...; ";
/// Most flows that get a number.
const FLOWS: usize = 1 << 20;
/// The sides of a port. Each is an interface of the capture.
const SIDES: [(&str, &str); 3] = [
    ("in", "packets that came in by this port"),
    ("out", "packets that left by this port"),
    ("dropped", "packets that came in by this port and were dropped"),
];
/// Index of a side.
const IN: u32 = 0;
const OUT: u32 = 1;
const DROPPED: u32 = 2;
/// `TC_ACT_OK` of Linux' traffic control, whose codes verdicts have.
const PASSED: u64 = 0;
/// `TC_ACT_SHOT`, likewise.
const SHOT: u64 = 2;
/// The first byte of such a verdict in an option of a packet.
const OF_TRAFFIC_CONTROL: u8 = 1;

/// The options of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Bytes of each packet that are kept.
    pub snaplen: u32,
    /// The rules for starting another file.
    pub rotation: Rotation,
}

/// Writes a capture.
pub struct Recorder {
    names: Names,
    style: Style,
    files: Files,
    /// Blocks that are not in the file yet.
    sink: sink::Sink<Vec<u8>>,
    /// Packets among them.
    pending: u64,
    waited: Duration,
    /// Time since 1970 of the file's first packet.
    since: Option<Duration>,
    flows: HashMap<u64, u64>,
    /// The changes of packets on the way, by packet number.
    done: HashMap<u64, String>,
    /// Options of the packet that is being written.
    said: Vec<u8>,
    failed: Option<std::io::Error>,
    unwritten: u64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The content of a block besides the packet.
struct About<'a> {
    at: Duration,
    interface: u32,
    verdict: Option<u64>,
    record: &'a Record<'a>,
    flow: u64,
}

impl Recorder {
    /// The lane of a capture: only drops, or everything; with `snaplen` bytes of each packet.
    pub fn lane(drops: bool, snaplen: u32) -> Lane {
        let all = [Kind::Received, Kind::Sent, Kind::Dropped, Kind::Created, Kind::Rewritten];
        let kinds: &[Kind] = if drops { &[Kind::Dropped] } else { &all };
        Lane { is_whole: true, snap: snaplen, ..Lane::of(kinds) }
    }

    /// Writes to `file`, whose name is `path`, from [`Sink::begin`] on.
    ///
    /// # Errors
    /// None of the system: nothing is written yet.
    pub fn new(file: File, path: &Path, style: Style, names: &Names) -> std::io::Result<Self> {
        Ok(Self {
            names: names.clone(),
            style,
            files: Files::new(file, path, style.rotation.keep),
            sink: empty()?,
            pending: 0,
            waited: Duration::ZERO,
            since: None,
            flows: HashMap::new(),
            done: HashMap::new(),
            said: Vec::new(),
            failed: None,
            unwritten: 0,
        })
    }

    /// Begins a file with all interfaces.
    fn describe(&mut self) -> std::io::Result<()> {
        self.sink = empty()?;
        for (index, (port, (side, description))) in
            (0..).zip(self.names.ports.iter().flat_map(|port| SIDES.iter().map(move |side| (port, side))))
        {
            let mut about = Vec::new();
            options::put(Order::Little, &mut about, IF_NAME, format!("{port}/{side}").as_bytes());
            options::put(Order::Little, &mut about, IF_DESCRIPTION, description.as_bytes());
            let notes = Notes { order: Order::Little, options: &about };
            let (number, snaplen) = (LinkType::RAW, self.style.snaplen);
            self.sink.interface(&Interface { index, number, snaplen, notes }).map_err(io)?;
        }
        Ok(())
    }

    fn fail(&mut self, error: std::io::Error) {
        self.failed = Some(error);
        self.unwritten += self.pending;
        (self.pending, self.waited) = (0, Duration::ZERO);
        self.sink.output().clear();
    }

    fn flush(&mut self) {
        if self.failed.is_none() {
            match self.files.write(self.sink.output()) {
                Ok(()) => {
                    self.sink.output().clear();
                    (self.pending, self.waited) = (0, Duration::ZERO);
                }
                Err(Short { error, packets }) => {
                    self.pending -= packets;
                    self.fail(error);
                }
            }
        }
    }

    /// Begins another file if one is due at `at`.
    fn rotate(&mut self, at: Duration) {
        let age = self.since.map_or(Duration::ZERO, |since| at.saturating_sub(since));
        let length = self.files.len() + self.sink.output().len() as u64;
        if self.since.is_none() || !self.style.rotation.is_due(length, age) {
            return;
        }
        self.flush();
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.files.next().and_then(|()| self.describe()) {
            self.fail(error);
        }
        self.since = None;
    }

    /// Remembers what stages did to these packets.
    fn remember(&mut self, record: &Record<'_>) {
        if self.done.len() > REMEMBERED {
            self.done.clear();
        }
        for wire in 0..record.wires {
            let number = record.id(wire);
            if number != 0 {
                let verdict = self.names.verdict(record);
                let done = self.done.entry(number).or_default();
                if done.len() < TOLD {
                    done.push_str(&verdict);
                    done.push_str("; ");
                } else if !done.ends_with(MORE) {
                    done.push_str(MORE);
                }
            }
        }
    }

    fn flow(&mut self, identity: u64) -> u64 {
        let next = self.flows.len() as u64 + 1;
        match self.flows.get(&identity) {
            Some(number) => *number,
            None if identity == 0 || self.flows.len() >= FLOWS => 0,
            None => *self.flows.entry(identity).or_insert(next),
        }
    }

    /// Writes each wire packet of a record of packets that arrived, left or were dropped.
    fn packets(&mut self, record: &Record<'_>, side: u32, verdict: Option<u64>) {
        let nanos = if record.kind == Kind::Sent { record.left.max(record.at) } else { record.at };
        let at = Duration::from_nanos(self.names.started_ns.saturating_add(nanos));
        self.rotate(at);
        let flow = self.flow(record.flow);
        let interface = u32::from(record.port) * length32(SIDES.len()) + side;
        let about = About { at, interface, verdict, record, flow };
        match Wires::of(record) {
            Some(mut wires) => {
                for wire in 0..record.wires {
                    self.packet(&about, wire, wires.wire(wire));
                }
            }
            None => self.packet(&about, 0, Wire::of(record)),
        }
    }

    /// Writes wire packet `wire` of a record.
    fn packet(&mut self, about: &About<'_>, wire: u32, packet: Wire<'_>) {
        if self.failed.is_some() {
            self.unwritten += 1;
            return;
        }
        let number = about.record.id(wire);
        let comment = self.comment(about, wire, number);
        self.said.clear();
        if number != 0 {
            options::put(Order::Little, &mut self.said, EPB_PACKETID, &number.to_le_bytes());
        }
        if let Some(verdict) = about.verdict {
            let mut value = [OF_TRAFFIC_CONTROL; 9];
            value[1..].copy_from_slice(&verdict.to_le_bytes());
            options::put(Order::Little, &mut self.said, EPB_VERDICT, &value);
        }
        let kept = self.style.snaplen as usize;
        let data = &packet.headers[..packet.headers.len().min(kept)];
        let rest = &packet.payload[..packet.payload.len().min(kept - data.len())];
        let block = sink::Record {
            at: about.at,
            original: length32(packet.length),
            data,
            interface: about.interface,
            number: LinkType::RAW,
            notes: Notes { order: Order::Little, options: &self.said },
            comment: comment.as_deref(),
        };
        let written = self.sink.append(&block, rest);
        self.since.get_or_insert(about.at);
        match written {
            Ok(()) => self.pending += 1,
            Err(error) => self.fail(io(error)),
        }
        if self.sink.output().len() >= ENOUGH {
            self.flush();
        }
    }

    /// The comment on a packet that left or was dropped; `None` if it left unchanged and at once.
    fn comment(&mut self, about: &About<'_>, wire: u32, number: u64) -> Option<String> {
        let record = about.record;
        about.verdict?;
        let done = if self.done.is_empty() { None } else { self.done.remove(&number) }.unwrap_or_default();
        let until = record.left.max(record.due).max(record.at);
        let is_plain = record.kind == Kind::Sent && done.is_empty() && record.due <= record.arrived;
        if is_plain {
            return None;
        }
        let held = if until > record.arrived {
            format!(", held {}", span(until - record.arrived))
        } else {
            String::new()
        };
        let place = match about.flow {
            0 => String::new(),
            flow => format!(" (flow {flow}, packet {})", record.index.saturating_add(u64::from(wire) + 1)),
        };
        Some(format!("{done}{}{held}{place}", self.names.verdict(record)))
    }

    /// Writes the number of lost records as a block of statistics.
    fn statistics(&mut self, lost: u64) {
        let at = self.names.started_ns;
        let mut body = Vec::new();
        body.extend([0; 4]);
        for half in halves(at) {
            body.extend(half.to_le_bytes());
        }
        options::put(Order::Little, &mut body, ISB_DROPPED, &lost.to_le_bytes());
        body.extend([0; 4]);
        let statistics = Block { kind: block::STATISTICS, interface: Some(0), body: &body };
        if let Err(error) = self.sink.block(&statistics) {
            self.fail(io(error));
        }
    }
}

impl Sink for Recorder {
    fn begin(&mut self) {
        if let Err(error) = self.files.clear().and_then(|()| self.describe()) {
            self.fail(error);
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        match record.kind {
            Kind::Received => self.packets(record, IN, None),
            Kind::Sent => self.packets(record, OUT, Some(PASSED)),
            Kind::Dropped => self.packets(record, DROPPED, Some(SHOT)),
            Kind::Created | Kind::Rewritten => self.remember(record),
            Kind::Held | Kind::Released | Kind::Entered => {}
        }
    }

    fn pause(&mut self, length: Duration) {
        self.waited += length;
        if self.waited >= OFTEN && !self.sink.output().is_empty() {
            self.flush();
        }
    }

    fn finish(mut self: Box<Self>, lost: u64) -> Finished {
        if lost > 0 {
            self.statistics(lost);
        }
        self.flush();
        let (name, mut said) = (self.files.name(), Vec::new());
        if let Some(error) = &self.failed {
            said.push(ends_early(&name, "capture", error, (self.unwritten, "packets")));
        }
        if self.files.number() > 1 {
            said.push(format!("the capture has {} files, up to {}", self.files.number(), name.display()));
        }
        if lost > 0 {
            said.push(format!(
                "the capture lacks {lost} packets: this host did not write them as fast as they came"
            ));
        }
        Finished { said, has_failed: self.failed.is_some() }
    }
}

fn empty() -> std::io::Result<sink::Sink<Vec<u8>>> {
    sink::Sink::new(Vec::with_capacity(ENOUGH + (64 << 10)), Format::PcapNg, LinkType::RAW, 0).map_err(io)
}

fn io(error: sink::SinkError) -> std::io::Error {
    match error {
        sink::SinkError::Write(error) => error,
        other => std::io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::files;
    use crate::capture::{Item, Source};
    use crate::folder::Folder;
    use crate::journal::names::tests::names;
    use crate::journal::record::tests::record;
    use crate::journal::record::{NO_REASON, NONE};
    use crate::pipeline::testing::Spec;

    const STYLE: Style =
        Style { snaplen: 262_144, rotation: Rotation { bytes: None, time: None, keep: None } };

    fn recorder(path: &Path) -> Box<Recorder> {
        let mut recorder =
            Box::new(Recorder::new(files::open(path).unwrap(), path, STYLE, &names()).unwrap());
        recorder.begin();
        recorder
    }

    /// Maps the items of a file by `each`, except its interfaces.
    fn read<T>(path: &Path, each: impl Fn(Item<'_>) -> Option<T>) -> Vec<T> {
        let mut source = Source::new(File::open(path).unwrap()).unwrap();
        std::iter::from_fn(|| source.next(&each)).filter_map(Result::unwrap).collect()
    }

    /// Three wire packets with at most 1,000 bytes of payload each, numbers 5 to 7 of their flow.
    fn train(kind: Kind, bytes: &[u8]) -> Record<'_> {
        let stage = if kind == Kind::Created { 0 } else { NONE };
        let train = Record { kind, stage, reason: NO_REASON, draw: None, bytes, ..record() };
        Record { index: 4, wires: 3, each: 1_040, last: 540, segment: 1_000, ..train }
    }

    /// Each has its own number, and a comment with its changes on the way.
    #[test]
    fn each_wire_packet_of_a_train_is_told_for_itself() {
        let folder = Folder::new();
        let path = folder.file("c.pcapng");
        let bytes = Spec::tcp(2_500).train(1_000).frame().bytes;
        let mut recorder = recorder(&path);
        recorder.record(&train(Kind::Received, &bytes));
        recorder.record(&train(Kind::Created, &[]));
        recorder.record(&train(Kind::Sent, &bytes));
        assert_eq!(recorder.finish(0), Finished::default());
        let packets = read(&path, |item| {
            let Item::Packet(frame) = item else { return None };
            let notes: HashMap<u16, Vec<u8>> = options::each(Order::Little, frame.notes.options)
                .map(|(code, value)| (code, value.to_vec()))
                .collect();
            let number = u64::from_le_bytes(notes[&EPB_PACKETID][..].try_into().unwrap());
            let comment = notes.get(&options::COMMENT).map(|text| String::from_utf8_lossy(text).into_owned());
            Some((frame.interface, frame.original, number, comment.unwrap_or_default()))
        });
        let expected = [IN, OUT].into_iter().flat_map(|side| {
            [1_040, 1_040, 540].into_iter().zip(0..).map(move |(length, wire)| {
                let comment =
                    format!("up/loss: created; up: sent, held 1.000 ms (flow 1, packet {})", 5 + wire);
                let comment = if side == OUT { comment } else { String::new() };
                (side, length, train(Kind::Sent, &[]).id(wire), comment)
            })
        });
        assert_eq!(packets, expected.collect::<Vec<_>>());
    }

    /// The comment on a packet ends with its verdict, also after very many changes.
    #[test]
    fn long_comments_are_cut_in_the_middle() {
        let folder = Folder::new();
        let path = folder.file("c.pcapng");
        let bytes = Spec::udp(100).frame().bytes;
        let mut recorder = recorder(&path);
        recorder.names.paths[0].stages[0] = "x".repeat(64);
        for _ in 0..512 {
            recorder.record(&Record {
                kind: Kind::Rewritten,
                reason: NO_REASON,
                draw: None,
                bytes: &[],
                ..record()
            });
        }
        recorder.record(&Record { kind: Kind::Dropped, bytes: &bytes, ..record() });
        assert_eq!(recorder.finish(0), Finished::default());
        let comments = read(&path, |item| {
            let Item::Packet(frame) = item else { return None };
            let comment =
                options::each(Order::Little, frame.notes.options).find(|(code, _)| *code == options::COMMENT);
            Some(String::from_utf8(comment.unwrap().1.to_vec()).unwrap())
        });
        let [comment] = &comments[..] else { panic!("{comments:?}") };
        assert!(comment.len() < TOLD + 300, "{}", comment.len());
        assert!(comment.starts_with("up/xxx") && comment.contains("; ...; up/xxx"), "{comment}");
        assert!(
            comment.ends_with(": dropped, 0.001953 < 0.007812, held 1.000 ms (flow 1, packet 4102)"),
            "{comment}"
        );
    }

    /// In the file's statistics, and in the message of the command.
    #[test]
    fn what_is_missing_is_counted() {
        let folder = Folder::new();
        let path = folder.file("c.pcapng");
        let finished = recorder(&path).finish(7);
        assert!(finished.said[0].contains("lacks 7 packets") && !finished.has_failed, "{finished:?}");
        let lost = read(&path, |item| {
            let Item::Block(Block { kind: block::STATISTICS, body, .. }) = item else { return None };
            let (code, value) = options::each(Order::Little, &body[12..]).next().unwrap();
            Some((code, u64::from_le_bytes(value.try_into().unwrap())))
        });
        assert_eq!(lost, [(ISB_DROPPED, 7)]);

        // The disk is full, but nothing is missing.
        let mut unused = recorder(Path::new("/dev/full"));
        unused.pause(OFTEN);
        let finished = unused.finish(0);
        assert!(finished.said[0].ends_with("No space left on device (os error 28)"), "{finished:?}");

        let mut recorder = recorder(Path::new("/dev/full"));
        let bytes = Spec::udp(100).frame().bytes;
        for kind in [Kind::Received, Kind::Sent] {
            recorder.record(&Record { kind, bytes: &bytes, ..record() });
            recorder.pause(OFTEN);
        }
        let finished = recorder.finish(0);
        assert!(
            finished.said[0].ends_with("; 2 packets were not written") && finished.has_failed,
            "{finished:?}"
        );
    }
}
