//! A capture through one path of a router, in virtual time.
//!
//! Time zero of the run is the first packet of the capture. A packet that was cut in the capture is padded with zeros to its
//! original length, and cut again when it leaves. Packets that do not belong to the path pass at their own time.

use std::io::{Read, Write};
use std::time::Duration;

use crate::capture::bytes::length32;
use crate::capture::event::Event;
use crate::capture::link::LinkType;
use crate::capture::mahimahi::Log;
use crate::capture::outcome::{Outcome, ReplayError};
use crate::capture::sink::{Record, Sink, SinkError};
use crate::capture::source::{Frame, Item, Notes, Source, SourceError};
use crate::capture::tags::{Place, Tags};
use crate::engine::Report;
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::RouterParams;
use crate::pipeline::pool::{Buffer, HEADROOM, MAX_PACKET};
use crate::pipeline::router::{Egress, Router, What};
use crate::pipeline::time::Instant;
use ipnet::IpNet;

/// Which packets take which path.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The router; its ports need no addresses.
    pub router: RouterParams,
    /// Index of the path.
    pub path: usize,
    /// Only packets from these prefixes take the path; all if the list is empty.
    pub only_from: Vec<IpNet>,
}

/// Where packets are written.
#[derive(Debug)]
pub struct Outputs<W: Write> {
    /// Packets that leave at the end of the path.
    pub sent: Sink<W>,
    /// Dropped packets, with the reasons as comments.
    pub dropped: Option<Sink<W>>,
    /// Answers of the path to the senders: ICMP errors.
    pub answers: Option<Sink<W>>,
    /// A log for Mahimahi's plotting scripts.
    pub log: Option<Log<W>>,
}

/// The egress: files instead of devices.
struct Files<'a, W: Write> {
    outputs: &'a mut Outputs<W>,
    tags: Tags,
    /// Time zero of the run.
    start: Duration,
    far: u16,
    stages: Vec<String>,
    bytes: Vec<u8>,
    /// Metadata that the output cannot hold.
    unsaid: u64,
    failed: Option<ReplayError>,
}

impl Replay {
    /// Runs all of `source` through the path and finishes the outputs.
    ///
    /// # Errors
    /// If an output cannot be written. A broken capture is none: see [`Outcome::broken`].
    pub fn run<R: Read, W: Write>(
        &self,
        source: &mut Source<R>,
        outputs: Outputs<W>,
    ) -> Result<Outcome, ReplayError> {
        self.run_until(source, outputs, || None)
    }

    /// As [`Self::run`], up to the packet at which `stopped` gives a reason to stop there. It is asked often.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_until<R: Read, W: Write>(
        &self,
        source: &mut Source<R>,
        mut outputs: Outputs<W>,
        mut stopped: impl FnMut() -> Option<String>,
    ) -> Result<Outcome, ReplayError> {
        let mut router = Router::new(&self.router, &Router::shared(&self.router));
        let path = &self.router.paths[self.path];
        let files = Files {
            outputs: &mut outputs,
            tags: Tags::default(),
            start: Duration::ZERO,
            far: u16::try_from(path.to).unwrap_or(u16::MAX),
            stages: path.stages.iter().map(|stage| stage.name.clone()).collect(),
            bytes: Vec::new(),
            unsaid: 0,
            failed: None,
        };
        let buffer = router.pool.scratch();
        let mut run =
            Run { replay: self, router, buffer, files, now: Instant::ZERO, outcome: Counts::default() };
        let mut read = 0_u32;
        let broken = loop {
            read = read.wrapping_add(1);
            if read.is_multiple_of(STOP_CHECK)
                && let Some(what) = stopped()
            {
                break Some(SourceError::Unread { packets: source.packets(), what });
            }
            match source.next(|item| run.take(&item)) {
                None => break None,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => break Some(error),
            }
        };
        let outcome = run.finish(broken)?;
        let finished = |output, sink: Sink<W>| {
            sink.finish().map(drop).map_err(|source| ReplayError::Output { output, source })
        };
        finished(SENT, outputs.sent)?;
        outputs.dropped.map_or(Ok(()), |sink| finished(DROPPED, sink))?;
        outputs.answers.map_or(Ok(()), |sink| finished(ANSWERS, sink))?;
        if let Some(log) = outputs.log {
            log.finish().map_err(ReplayError::Log)?;
        }
        Ok(outcome)
    }
}

/// Packets between two looks whether to stop.
const STOP_CHECK: u32 = 64;

const SENT: &str = "the output";
const DROPPED: &str = "the file of dropped packets";
const ANSWERS: &str = "the file of answers";

#[derive(Debug, Default)]
struct Counts {
    packets: u64,
    not_ip: u64,
    unknown_link: u64,
    elsewhere: u64,
    too_long: u64,
    cut: u64,
    backwards: u64,
    copied: u64,
    private: u64,
}

struct Run<'a, W: Write> {
    replay: &'a Replay,
    router: Router,
    buffer: Buffer,
    files: Files<'a, W>,
    now: Instant,
    outcome: Counts,
}

impl<W: Write> Run<'_, W> {
    #[inline]
    fn take(&mut self, item: &Item<'_>) -> Result<(), ReplayError> {
        match item {
            Item::Packet(frame) => self.packet(frame),
            other => self.files.about(other, &mut self.outcome),
        }
        self.files.failed.take().map_or(Ok(()), Err)
    }

    fn packet(&mut self, frame: &Frame<'_>) {
        if self.outcome.packets == 0 {
            self.files.start = frame.at;
        }
        self.outcome.packets += 1;
        let since = frame.at.saturating_sub(self.files.start).as_nanos();
        let Ok(nanos) = u64::try_from(since) else {
            self.files.failed.get_or_insert(ReplayError::TooFar(self.outcome.packets));
            return;
        };
        let at = Instant::from_nanos(nanos);
        let backwards = frame.at < self.files.start || at < self.now;
        self.outcome.backwards += u64::from(backwards);
        if !backwards {
            self.advance(at);
        }
        let Some(link) = frame.link else {
            self.outcome.unknown_link += 1;
            return self.files.pass(frame, self.now);
        };
        let passed = match link.ip_offset(frame.data) {
            None => &mut self.outcome.not_ip,
            Some(offset) if frame.original as usize - offset > MAX_PACKET => &mut self.outcome.too_long,
            Some(offset) if !is_selected(&self.replay.only_from, &frame.data[offset..]) => {
                &mut self.outcome.elsewhere
            }
            Some(offset) => return self.inject(frame, offset),
        };
        *passed += 1;
        self.files.pass(frame, self.now);
    }

    /// Everything due before or at `to` leaves at its time.
    fn advance(&mut self, to: Instant) {
        self.router.poll(to, &mut self.files);
        self.now = to;
    }

    fn inject(&mut self, frame: &Frame<'_>, offset: usize) {
        let captured = &frame.data[offset..];
        let length = frame.original as usize - offset;
        let room = &mut self.buffer[HEADROOM..HEADROOM + length];
        room[..captured.len()].copy_from_slice(captured);
        room[captured.len()..].fill(0);
        self.outcome.cut += u64::from(captured.len() < length);
        // Ethernet pads short packets: what is behind the IP packet belongs to the surroundings.
        let place = Place::find(frame, offset, room);
        let tag = self.files.tags.of(frame, place);
        let malformed = self.router.counters().drops.of(Reason::Malformed).packets;
        let path = u16::try_from(self.replay.path).unwrap_or(Packet::NO_PATH);
        let length = length - place.fcs;
        let offload = crate::pipeline::packet::Offload::default();
        self.router.inject(path, tag, &mut self.buffer, length, offload, self.now, &mut self.files);
        if self.router.counters().drops.of(Reason::Malformed).packets > malformed {
            self.files.dropped_frame(frame, self.now);
        }
    }

    fn finish(mut self, broken: Option<SourceError>) -> Result<Outcome, ReplayError> {
        let last = self.now;
        while let Some(due) = self.router.next_due() {
            self.advance(due.max(self.now));
            if let Some(error) = self.files.failed.take() {
                return Err(error);
            }
        }
        self.router.shut_down(self.now, &mut self.files);
        self.files.failed.take().map_or(Ok(()), Err)?;
        let Counts { packets, not_ip, unknown_link, elsewhere, too_long, cut, backwards, copied, private } =
            self.outcome;
        Ok(Outcome {
            report: Report::offline(&self.router),
            packets,
            not_ip,
            unknown_link,
            elsewhere,
            too_long,
            cut,
            backwards,
            copied,
            private,
            unsaid: self.files.unsaid,
            span: Duration::from_nanos(last.since(Instant::ZERO).as_nanos()),
            broken,
        })
    }
}

/// Whether a packet comes from one of these prefixes, if there are any.
fn is_selected(only: &[IpNet], packet: &[u8]) -> bool {
    only.is_empty()
        || source_address(packet).is_some_and(|from| only.iter().any(|prefix| prefix.contains(&from)))
}

/// The source address of an IP packet, if it is all there.
fn source_address(packet: &[u8]) -> Option<std::net::IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into()),
    }
}

impl<W: Write> Files<'_, W> {
    fn time(&self, at: Instant) -> Duration {
        self.start.saturating_add(Duration::from_nanos(at.since(Instant::ZERO).as_nanos()))
    }

    /// What became of something for the output.
    fn wrote(&mut self, result: Result<bool, SinkError>) {
        match result {
            Ok(said) => self.unsaid += u64::from(!said),
            Err(source) => self.fail(SENT, source),
        }
    }

    /// What became of something for another file, which is of a format that has room for all.
    fn also(&mut self, output: &'static str, result: Result<bool, SinkError>) {
        if let Err(source) = result {
            self.fail(output, source);
        }
    }

    fn fail(&mut self, output: &'static str, source: SinkError) {
        self.failed.get_or_insert(ReplayError::Output { output, source });
    }

    /// What the capture says beside its packets goes into both files of its packets.
    fn about(&mut self, item: &Item<'_>, counts: &mut Counts) {
        let write = |sink: &mut Sink<W>| match item {
            Item::Section(notes) => sink.section(*notes),
            Item::Interface(interface) => sink.interface(interface),
            Item::Block(block) => sink.block(block),
            Item::Packet(_) => Ok(true),
        };
        if let Item::Block(block) = item
            && block.is_private()
        {
            counts.private += 1;
            return;
        }
        let result = write(&mut self.outputs.sent);
        counts.copied += u64::from(matches!((item, &result), (Item::Block(_), Ok(true))));
        self.wrote(result);
        if let Some(sink) = &mut self.outputs.dropped {
            let result = write(sink);
            self.also(DROPPED, result);
        }
    }

    /// A frame that does not take the path.
    fn pass(&mut self, frame: &Frame<'_>, at: Instant) {
        let record = Record { at: self.time(at), ..as_it_was(frame) };
        let result = self.outputs.sent.write(&record);
        self.wrote(result);
    }

    /// A frame whose packet never became one.
    fn dropped_frame(&mut self, frame: &Frame<'_>, at: Instant) {
        let comment = format!("dropped: {}", Reason::Malformed.name());
        let record = Record { at: self.time(at), comment: Some(&comment), ..as_it_was(frame) };
        if let Some(sink) = &mut self.outputs.dropped {
            let result = sink.write(&record);
            self.also(DROPPED, result);
        }
    }

    fn answer(&mut self, packet: &Packet, due: Instant) {
        let at = self.time(due);
        let Some(sink) = &mut self.outputs.answers else { return };
        let data = packet.bytes();
        let original = length32(data.len());
        let (number, notes) = (LinkType::RAW, Notes::NONE);
        let result = sink.write(&Record { at, original, data, interface: 0, number, notes, comment: None });
        self.also(ANSWERS, result);
    }

    fn dropped(&mut self, stage: Option<u16>, reason: Reason, packet: &Packet, at: Instant) {
        let at = self.time(at);
        let Some(sink) = &mut self.outputs.dropped else { return };
        let stage = stage.and_then(|stage| self.stages.get(usize::from(stage)));
        let comment = match stage {
            Some(stage) => format!("dropped by {stage}: {}", reason.name()),
            None => format!("dropped: {}", reason.name()),
        };
        let (around, notes) = self.tags.get(packet);
        let (original, shown) = around.frame(packet.bytes(), &mut self.bytes);
        let (interface, number, data) = (around.interface, around.number, &self.bytes[..shown]);
        let comment = Some(comment.as_str());
        let result = sink.write(&Record { at, original, data, interface, number, notes, comment });
        self.also(DROPPED, result);
    }
}

const fn as_it_was<'a>(frame: &Frame<'a>) -> Record<'a> {
    Record {
        at: frame.at,
        original: frame.original,
        data: frame.data,
        interface: frame.interface,
        number: frame.number,
        notes: frame.notes,
        comment: None,
    }
}

impl<W: Write> Egress for Files<'_, W> {
    const RECORDS: bool = true;

    #[inline]
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        if port != self.far {
            self.answer(packet, due);
            return Ok(());
        }
        let at = self.time(due);
        let (around, notes) = self.tags.get(packet);
        let (original, shown) = around.frame(packet.bytes(), &mut self.bytes);
        let (interface, number, data) = (around.interface, around.number, &self.bytes[..shown]);
        let record = Record { at, original, data, interface, number, notes, comment: None };
        let result = self.outputs.sent.write(&record);
        self.wrote(result);
        self.tags.left(packet);
        Ok(())
    }

    #[inline]
    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        if let Some(log) = &mut self.outputs.log
            && let Some(event) = Event::of(what, packet, at)
        {
            log.record(&event);
        }
        match what {
            What::Entered => self.tags.entered(packet),
            // The router's own packets have no surroundings.
            What::Dropped(place, reason) if packet.path != Packet::NO_PATH => {
                self.dropped(place.map(|place| place.seat), reason, packet, at);
                self.tags.left(packet);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::bytes::Order;
    use crate::capture::options::COMMENT;
    use crate::capture::sink::Format;
    use crate::config::spec;
    use crate::pipeline::params::{PathParams, PortParams};
    use crate::pipeline::testing::{Run as Memory, Spec};

    fn router(faults: &str, seed: u64) -> RouterParams {
        let port = |name: &str| PortParams {
            name: name.to_owned(),
            mtu: u32::MAX,
            addresses: Vec::new(),
            router: Vec::new(),
        };
        let stages = spec::parse(faults).unwrap().stages;
        RouterParams {
            ports: vec![port("a"), port("b")],
            paths: vec![PathParams { from: 0, to: 1, stages }],
            nats: Vec::new(),
            ..Memory::params(seed, Vec::new())
        }
    }

    fn replay(faults: &str) -> Replay {
        Replay { router: router(faults, 1), path: 0, only_from: Vec::new() }
    }

    /// A capture of frames of (microseconds, bytes, length on the wire).
    fn capture(number: LinkType, frames: &[(u64, Vec<u8>, usize)]) -> Vec<u8> {
        let mut sink = Sink::new(Vec::new(), Format::PcapNg, number, 0).unwrap();
        for (micros, data, original) in frames {
            let at = Duration::from_secs(1_700_000_000) + Duration::from_micros(*micros);
            let original = *original as u32;
            sink.write(&Record {
                at,
                original,
                data,
                interface: 0,
                number,
                notes: Notes::NONE,
                comment: None,
            })
            .unwrap();
        }
        sink.finish().unwrap()
    }

    type Written = Vec<(u64, Vec<u8>, u32)>;

    /// What came of it, what was sent, and the whole file of what was dropped.
    fn through(replay: &Replay, file: &[u8]) -> (Outcome, Written, Vec<u8>) {
        let (mut sent, mut dropped) = (Vec::new(), Vec::new());
        let number = LinkType::RAW;
        let outputs = Outputs {
            sent: Sink::new(&mut sent, Format::PcapNg, number, 0).unwrap(),
            dropped: Some(Sink::new(&mut dropped, Format::PcapNg, number, 0).unwrap()),
            answers: None,
            log: None,
        };
        let outcome = replay.run(&mut Source::new(file).unwrap(), outputs).unwrap();
        assert!(outcome.report.is_conserved());
        (outcome, read(&sent), dropped)
    }

    fn read(file: &[u8]) -> Written {
        let mut source = Source::new(file).unwrap();
        let base = Duration::from_secs(1_700_000_000);
        let frame = |frame: Frame<'_>| {
            (frame.at.saturating_sub(base).as_nanos() as u64, frame.data.to_vec(), frame.original)
        };
        let packet = |item: Item<'_>| match item {
            Item::Packet(packet) => Some(frame(packet)),
            _ => None,
        };
        std::iter::from_fn(|| source.next(packet)).filter_map(Result::unwrap).collect()
    }

    fn packet(payload: usize) -> Vec<u8> {
        Spec::tcp(payload).frame().bytes
    }

    #[test]
    fn a_clean_path_changes_no_byte_and_no_time() {
        let mut padded = vec![9; 12];
        padded.extend([8, 0]);
        padded.extend(packet(1));
        padded.extend([7, 7, 7]);
        let arp = [vec![9; 12], vec![8, 6], vec![0; 28]].concat();
        let tagged = [vec![9; 12], vec![0x81, 0, 0, 5, 8, 0], packet(900)].concat();
        let cut = tagged[..96].to_vec();
        let length = |data: &Vec<u8>| data.len();
        let frames = [
            (5, padded.clone(), length(&padded)),
            (6, arp.clone(), length(&arp)),
            (6, tagged.clone(), length(&tagged)),
            (9, cut, length(&tagged)),
        ];
        let (outcome, sent, dropped) = through(&replay(""), &capture(LinkType::ETHERNET, &frames));
        let expected: Written =
            frames.iter().map(|(at, data, length)| (at * 1_000, data.clone(), *length as u32)).collect();
        assert_eq!(sent, expected);
        assert_eq!((outcome.packets, outcome.not_ip, outcome.cut, outcome.backwards), (4, 1, 1, 0));
        assert!(read(&dropped).is_empty());
    }

    #[test]
    fn packets_leave_in_the_order_of_their_times() {
        let long = packet(1_000);
        let frames = [(0, packet(60), 100), (10, long.clone(), 1_040), (20, packet(60), 100)];
        let file = capture(LinkType::RAW, &frames);
        let (_, sent, _) = through(&replay("delay 1ms rate 8mbit"), &file);
        let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
        assert_eq!(times, [1_100_000, 2_140_000, 2_240_000]);
    }

    #[test]
    fn a_time_before_an_earlier_one_is_that_ones() {
        let frames = [(100, packet(60), 100), (40, packet(61), 101), (200, packet(62), 102)];
        let (outcome, sent, _) = through(&replay("delay 1us"), &capture(LinkType::RAW, &frames));
        let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
        assert_eq!((times, outcome.backwards), (vec![101_000, 101_000, 201_000], 1));
    }

    #[test]
    fn what_is_dropped_is_written_with_the_reason() {
        let frames = [(0, packet(60), 100), (1, packet(900), 940), (2, vec![0x45, 0, 0, 9], 4)];
        let (outcome, sent, dropped) = through(&replay("mtu 500 drop"), &capture(LinkType::RAW, &frames));
        assert_eq!(sent.len(), 1);
        assert_eq!(outcome.report.counters.drops.of(Reason::Malformed).packets, 1);
        assert_eq!(read(&dropped).iter().map(|frame| frame.1.len()).collect::<Vec<_>>(), [940, 4]);
        let text = String::from_utf8_lossy(&dropped);
        assert!(text.contains("dropped by mtu: mtu_silent") && text.contains("dropped: malformed"), "{text}");
    }

    #[test]
    fn only_packets_from_the_prefix_take_the_path() {
        let mut back = packet(60);
        back[12..20].rotate_left(4);
        let frames = [(0, packet(60), 100), (1, back, 100)];
        let only_from = vec!["10.0.1.0/24".parse().unwrap()];
        let replay = Replay { only_from, ..replay("loss 100%") };
        let (outcome, sent, _) = through(&replay, &capture(LinkType::RAW, &frames));
        assert_eq!((sent.len(), outcome.elsewhere), (1, 1));
    }

    /// The same packets at the same times through the router as it runs on devices: the same verdicts and times.
    #[test]
    fn offline_is_online() {
        let faults =
            "mss 1000 delay 3ms 2ms loss 10% 25% duplicate 5% corrupt 3% reorder 5% rate 50mbit limit 40";
        let stages = spec::parse(faults).unwrap().stages;
        let mut online = Memory::seeded(1, stages);
        let mut frames = Vec::new();
        for number in 0..600_u64 {
            let spec =
                Spec::tcp((number * 37 % 1_400) as usize).with_source_port(40_000 + (number % 5) as u16);
            let bytes = spec.frame().bytes;
            online.feed(
                Instant::ZERO + crate::pipeline::time::Duration::from_micros(number * 150),
                &spec.frame(),
            );
            frames.push((number * 150, bytes.clone(), bytes.len()));
        }
        online.finish();
        let (_, sent, _) = through(&replay(faults), &capture(LinkType::RAW, &frames));
        let online: Vec<_> =
            online.wires().into_iter().map(|wire| (wire.at.as_nanos(), wire.bytes)).collect();
        assert!(online.len() > 400 && online.len() == sent.len(), "{} {}", online.len(), sent.len());
        for ((at, mut bytes), (time, data, _)) in online.into_iter().zip(sent) {
            // A path takes no hop; its router does, and damage may be in what tells the hops.
            if bytes[8] == 63 {
                bytes[8] = 64;
                bytes[10..12].copy_from_slice(&data[10..12]);
            }
            assert_eq!((at, bytes), (time, data));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_file() {
        let frames: Vec<_> =
            (0..300).map(|number| (number * 50, packet(number as usize), number as usize + 40)).collect();
        let file = capture(LinkType::RAW, &frames);
        let run = |seed| {
            let replay = Replay { router: router("delay 1ms 500us loss 20%", seed), ..replay("") };
            let (_, sent, dropped) = through(&replay, &file);
            (sent, dropped)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn what_was_read_of_a_broken_capture_is_processed() {
        let frames = [(0, packet(60), 100), (1, packet(60), 100)];
        let file = capture(LinkType::RAW, &frames);
        let (outcome, sent, _) = through(&replay("delay 1ms"), &file[..file.len() - 3]);
        assert_eq!(sent.len(), 1);
        assert!(outcome.broken.unwrap().to_string().contains("after packet 1"));
    }

    /// By hand: opportunities at 1, 2, 2 and 5 ms; three full packets at 0 and one at 4.5 ms.
    #[test]
    fn the_log_is_as_mahimahi_writes_it() {
        let trace = format!("{}/fw-log-{}.trace", std::env::temp_dir().display(), std::process::id());
        std::fs::write(&trace, "1\n2\n2\n5\n").unwrap();
        let replay = replay(&format!("trace {trace}"));
        std::fs::remove_file(&trace).unwrap();
        let frames = [
            (0, packet(1_460), 1_500),
            (0, packet(1_460), 1_500),
            (0, packet(60), 100),
            (4_500, packet(1_460), 1_500),
        ];
        let (mut text, mut sent) = (Vec::new(), Vec::new());
        let outputs = Outputs {
            sent: Sink::new(&mut sent, Format::Pcap, LinkType::RAW, 0).unwrap(),
            dropped: None,
            answers: None,
            log: Some(Log::new(&mut text, &replay.router.paths[0], "Uplink", "pcap").unwrap()),
        };
        replay.run(&mut Source::new(&capture(LinkType::RAW, &frames)[..]).unwrap(), outputs).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "0 + 1504",
            "0 + 1504",
            "0 + 104",
            "1 # 1504",
            "1 - 1504 1",
            "2 # 1504",
            "2 # 1504",
            "2 - 1504 2",
            "2 - 104 2",
            "4 + 1504",
            "5 # 1504",
            "5 - 1504 0",
        ];
        assert_eq!(lines, expected);
    }

    /// A block of this type, little-endian.
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &length].concat()
    }

    /// Time counts from the first packet, in 64 bits of nanoseconds; microseconds can tell of more.
    #[test]
    fn a_packet_beyond_all_time_ends_the_run_by_its_number() {
        const YEAR: u64 = 365 * 86_400 * 1_000_000;
        let run = |micros: [u64; 2]| {
            let mut file =
                block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[255; 8]].concat());
            file.extend(block(1, &[101, 0, 0, 0, 0, 0, 0, 0]));
            for units in micros {
                let data = packet(60);
                let words = [0, (units >> 32) as u32, units as u32, 100, 100].map(u32::to_le_bytes).concat();
                file.extend(block(6, &[words, data].concat()));
            }
            let sink = Sink::new(Vec::new(), Format::PcapNg, LinkType::RAW, 0).unwrap();
            let outputs = Outputs { sent: sink, dropped: None, answers: None, log: None };
            replay("delay 1s").run(&mut Source::new(file.as_slice()).unwrap(), outputs)
        };
        assert_eq!(run([0, 500 * YEAR]).unwrap().packets, 2);
        assert!(matches!(run([0, 600 * YEAR]), Err(ReplayError::TooFar(2))));
    }

    /// Comments, names, secrets and what nobody knows leave as they came, behind a section and interface of the same words;
    /// packets go in between, each with its own comment, however long it was held.
    #[test]
    fn what_belongs_to_the_user_is_kept() {
        let number = LinkType::RAW;
        let sink = || Sink::new(Vec::new(), Format::PcapNg, number, 0).unwrap();
        let mut options = Vec::new();
        let text = |options: &mut Vec<u8>, text: &[u8]| {
            options.clear();
            crate::capture::options::put(Order::Little, options, COMMENT, text);
            crate::capture::options::end(options, 0);
        };
        let mut file = sink();
        text(&mut options, b"about all");
        file.section(Notes { order: Order::Little, options: &options }).unwrap();
        let mut file = file.finish().unwrap();
        file.extend(block(1, &[&[101, 0, 0, 0, 0, 0, 0, 0][..], &[2, 0, 4, 0], b"eth7", &[0; 4]].concat()));
        file.extend(block(10, b"secretsecret"));
        for index in 0..200_u64 {
            let data = packet(60);
            let mut body = vec![0; 8];
            body.extend((index as u32 * 10).to_le_bytes());
            body.extend([&[100, 0, 0, 0][..], &[100, 0, 0, 0], &data].concat());
            text(&mut options, format!("number {index:03}").as_bytes());
            body.extend(&options);
            file.extend(block(6, &body));
        }
        file.extend(block(0x4000_0bad, b"mine"));
        file.extend(block(0x4242, b"unknown!"));
        let faults = "delay 1ms 500us loss 10% duplicate 10% reorder 20%";
        let (mut sent, mut dropped) = (Vec::new(), Vec::new());
        let outputs = Outputs {
            sent: Sink::new(&mut sent, Format::PcapNg, number, 0).unwrap(),
            dropped: Some(Sink::new(&mut dropped, Format::PcapNg, number, 0).unwrap()),
            answers: None,
            log: None,
        };
        let outcome = replay(faults).run(&mut Source::new(&file[..]).unwrap(), outputs).unwrap();
        assert_eq!((outcome.copied, outcome.private, outcome.unsaid), (2, 1, 0));
        let count = |file: &[u8], word: &[u8]| file.windows(word.len()).filter(|part| *part == word).count();
        for (word, times) in
            [(&b"about all"[..], 1), (b"eth7", 1), (b"secretsecret", 1), (b"unknown!", 1), (b"mine", 0)]
        {
            assert_eq!((count(&sent, word), count(&dropped, word)), (times, times), "{word:?}");
        }
        let copies = outcome.report.counters.created.packets as usize;
        assert!(copies > 5 && count(&dropped, b"number") > 5);
        assert_eq!(count(&sent, b"number"), 200 + copies - count(&dropped, b"number"));
        for index in 0..200 {
            let word = format!("number {index:03}");
            let (left, lost) = (count(&sent, word.as_bytes()), count(&dropped, word.as_bytes()));
            assert!(left + lost >= 1 && left <= 2 && lost <= 1, "{word}: {left} {lost}");
        }
        // What a pcap file has no room for is said.
        let outputs = Outputs {
            sent: Sink::new(Vec::new(), Format::Pcap, number, 0).unwrap(),
            dropped: None,
            answers: None,
            log: None,
        };
        let outcome = replay("").run(&mut Source::new(&file[..]).unwrap(), outputs).unwrap();
        assert_eq!((outcome.copied, outcome.private, outcome.unsaid), (0, 1, 1 + 1 + 1 + 200 + 1));
    }

    /// Captured before segmentation, with a right frame check sequence, behind labels: not a byte changes on a clean path; what
    /// is rewritten has a right length and sequence again.
    #[test]
    fn packets_without_a_length_and_with_a_check_sequence_are_packets() {
        let frame = |ip: &[u8]| {
            let mut frame = [&[9; 12][..], &[0x88, 0x47, 0, 1, 1, 64], ip].concat();
            frame.extend(crc32fast::hash(&frame).to_le_bytes());
            frame
        };
        let mut untold = packet(1_481);
        untold[2..4].fill(0);
        let untold = frame(&untold);
        let mut syn = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64)
            .tcp(4_000, 80, 7, 1_000)
            .syn()
            .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1_460)])
            .unwrap()
            .write(&mut syn, &[])
            .unwrap();
        let syn = frame(&syn);
        let mut wrong = syn.clone();
        wrong.extend_from_slice(&[1, 2, 3, 4]);
        let frames = [untold, syn, wrong];
        let mut file = Sink::new(Vec::new(), Format::Pcap, LinkType::ETHERNET, 4).unwrap();
        for data in &frames {
            let (number, original) = (LinkType::ETHERNET, data.len() as u32);
            let at = Duration::from_secs(1_700_000_000);
            file.write(&Record {
                at,
                original,
                data,
                interface: 0,
                number,
                notes: Notes::NONE,
                comment: None,
            })
            .unwrap();
        }
        let file = file.finish().unwrap();
        let (outcome, sent, _) = through(&replay("delay 1us"), &file);
        assert_eq!((outcome.not_ip, outcome.report.counters.drops.total().packets), (0, 0));
        assert_eq!(sent.iter().map(|sent| &sent.1).collect::<Vec<_>>(), frames.iter().collect::<Vec<_>>());
        let (_, sent, _) = through(&replay("mss 1000"), &file);
        let syn = &sent[1].1;
        let (covered, fcs) = syn.split_last_chunk::<4>().unwrap();
        assert!(*syn != frames[1] && *fcs == crc32fast::hash(covered).to_le_bytes());
    }

    /// The number of tags is no limit: every packet here has a link-layer header of its own.
    #[test]
    fn any_number_of_headers_is_kept() {
        const FRAMES: u32 = 70_000;
        let mut file = Sink::new(Vec::new(), Format::Pcap, LinkType::ETHERNET, 0).unwrap();
        let ip = packet(1);
        let frame = |index: u32| [&index.to_be_bytes()[..], &[9; 8], &[8, 0], &ip].concat();
        for index in 0..FRAMES {
            let data = &frame(index);
            let (number, original) = (LinkType::ETHERNET, data.len() as u32);
            let at = Duration::from_secs(1_700_000_000) + Duration::from_micros(index.into());
            file.write(&Record {
                at,
                original,
                data,
                interface: 0,
                number,
                notes: Notes::NONE,
                comment: None,
            })
            .unwrap();
        }
        let (_, sent, _) = through(&replay("delay 1ms"), &file.finish().unwrap());
        assert_eq!(sent.len(), FRAMES as usize);
        assert!(sent.iter().zip(0..).all(|(sent, index)| sent.1 == frame(index)));
    }
}
