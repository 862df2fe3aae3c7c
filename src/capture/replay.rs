//! A capture through one path of a router, in virtual time.
//!
//! Time zero of the run is the first packet of the capture. A packet that the capture has cut off is filled up with zeros
//! to the length that it had, and cut again when it leaves. What does not belong to the path passes at its own time.

use std::io::{Read, Write};
use std::time::Duration;

use ipnet::IpNet;
use pcap_file::DataLink;

use crate::capture::mahimahi::Log;
use crate::capture::sink::{Record, Sink, SinkError};
use crate::capture::source::{Frame, Source, SourceError};
use crate::capture::tags::Tags;
use crate::engine::Report;
use crate::engine::events::Event;
use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::RouterParams;
use crate::pipeline::pool::{Buffer, HEADROOM, MAX_PACKET};
use crate::pipeline::router::{Egress, Router, What};
use crate::pipeline::time::Instant;

/// What goes through which path.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The router; its ports need no addresses.
    pub router: RouterParams,
    /// Index of the path.
    pub path: usize,
    /// Only packets from these prefixes take the path; all, if there is none.
    pub only_from: Vec<IpNet>,
}

/// Where packets are written.
#[derive(Debug)]
pub struct Outputs<W: Write> {
    /// What leaves at the far end of the path.
    pub sent: Sink<W>,
    /// What is dropped, with the reasons as comments.
    pub dropped: Option<Sink<W>>,
    /// What the path says to the senders: ICMP errors.
    pub answers: Option<Sink<W>>,
    /// What happened when, for Mahimahi's plotting scripts.
    pub log: Option<Log<W>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the path did.
    pub report: Report,
    /// Packets of the capture.
    pub packets: u64,
    /// Of those, passed by the path because they are not IP.
    pub not_ip: u64,
    /// Passed by because they come from elsewhere.
    pub elsewhere: u64,
    /// Passed by because they are longer than any IP packet.
    pub too_long: u64,
    /// Packets that were cut off in the capture and filled up with zeros.
    pub cut: u64,
    /// Packets with a time before that of an earlier one, taken at that one's time.
    pub backwards: u64,
    /// From the first to the last packet of the capture.
    pub span: Duration,
    /// The capture was broken behind what was read.
    pub broken: Option<SourceError>,
}

/// What ends a replay early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An output does not take a packet.
    #[error("{output} {source}")]
    Output {
        /// Which: `the output`, `the file of dropped packets`, `the file of answers`.
        output: &'static str,
        /// Why.
        source: SinkError,
    },
    /// The log cannot be written.
    #[error("the log cannot be written: {0}")]
    Log(std::io::Error),
    /// The packets have more different link-layer headers than can be told apart.
    #[error("packet {0} has the 65537th link-layer header; a capture of so many hosts has to be split")]
    TooManyHeaders(u64),
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
        mut outputs: Outputs<W>,
    ) -> Result<Outcome, ReplayError> {
        let mut router = Router::new(&self.router, &Router::shared(&self.router));
        let path = &self.router.paths[self.path];
        let files = Files {
            outputs: &mut outputs,
            tags: Tags::default(),
            start: Duration::ZERO,
            far: path.to as u16,
            stages: path.stages.iter().map(|stage| stage.name.clone()).collect(),
            bytes: Vec::new(),
            failed: None,
        };
        let buffer = router.pool.scratch();
        let mut run =
            Run { replay: self, router, buffer, files, now: Instant::ZERO, outcome: Counts::default() };
        let broken = loop {
            match source.next(|frame| run.take(&frame)) {
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

const SENT: &str = "the output";
const DROPPED: &str = "the file of dropped packets";
const ANSWERS: &str = "the file of answers";

#[derive(Debug, Default)]
struct Counts {
    packets: u64,
    not_ip: u64,
    elsewhere: u64,
    too_long: u64,
    cut: u64,
    backwards: u64,
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
    fn take(&mut self, frame: &Frame<'_>) -> Result<(), ReplayError> {
        if self.outcome.packets == 0 {
            self.files.start = frame.at;
        }
        self.outcome.packets += 1;
        let since = frame.at.saturating_sub(self.files.start).as_nanos();
        let at = Instant::from_nanos(u64::try_from(since).unwrap_or(u64::MAX));
        let backwards = frame.at < self.files.start || at < self.now;
        self.outcome.backwards += u64::from(backwards);
        if !backwards {
            self.advance(at);
        }
        match frame.link.ip_offset(frame.data) {
            None => {
                self.outcome.not_ip += 1;
                self.files.pass(frame, self.now);
            }
            Some(offset) if frame.original as usize - offset > MAX_PACKET => {
                self.outcome.too_long += 1;
                self.files.pass(frame, self.now);
            }
            Some(offset) if !self.is_selected(&frame.data[offset..]) => {
                self.outcome.elsewhere += 1;
                self.files.pass(frame, self.now);
            }
            Some(offset) => self.inject(frame, offset)?,
        }
        self.files.failed.take().map_or(Ok(()), Err)
    }

    /// Everything due before or at `to` leaves at its time.
    fn advance(&mut self, to: Instant) {
        self.router.poll(to, &mut self.files);
        self.now = to;
    }

    fn is_selected(&self, packet: &[u8]) -> bool {
        let only = &self.replay.only_from;
        only.is_empty()
            || source_address(packet).is_some_and(|from| only.iter().any(|prefix| prefix.contains(&from)))
    }

    fn inject(&mut self, frame: &Frame<'_>, offset: usize) -> Result<(), ReplayError> {
        let captured = &frame.data[offset..];
        let length = frame.original as usize - offset;
        let room = &mut self.buffer[HEADROOM..HEADROOM + length];
        room[..captured.len()].copy_from_slice(captured);
        room[captured.len()..].fill(0);
        self.outcome.cut += u64::from(captured.len() < length);
        // Ethernet pads short packets: what is behind the IP packet belongs to the surroundings.
        let total = ip_length(room).min(length);
        let tag = self.files.tags.of(frame, offset, total);
        let tag = tag.map_err(|_| ReplayError::TooManyHeaders(self.outcome.packets))?;
        let malformed = self.router.counters().drops.of(Reason::Malformed).packets;
        let path = self.replay.path as u16;
        self.router.inject(path, tag, &mut self.buffer, length, self.now, &mut self.files);
        if self.router.counters().drops.of(Reason::Malformed).packets > malformed {
            self.files.dropped_frame(frame, self.now);
        }
        Ok(())
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
        let Counts { packets, not_ip, elsewhere, too_long, cut, backwards } = self.outcome;
        Ok(Outcome {
            report: Report::offline(&self.router),
            packets,
            not_ip,
            elsewhere,
            too_long,
            cut,
            backwards,
            span: Duration::from_nanos(last.since(Instant::ZERO).as_nanos()),
            broken,
        })
    }
}

/// The length that the packet's header tells, if there is one.
fn ip_length(packet: &[u8]) -> usize {
    let (at, rest) = if packet.first().is_some_and(|first| first >> 4 == 4) { (2, 0) } else { (4, 40) };
    let told = packet.get(at..at + 2).map_or(0, |told| usize::from(u16::from_be_bytes([told[0], told[1]])));
    // Zero: longer than 16 bits tell (a jumbogram, or a super-packet of the kernel's), or nonsense.
    if told == 0 { packet.len() } else { told + rest }
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
        self.start + Duration::from_nanos(at.since(Instant::ZERO).as_nanos())
    }

    fn keep(&mut self, output: &'static str, result: Result<(), SinkError>) {
        if let Err(source) = result {
            self.failed.get_or_insert(ReplayError::Output { output, source });
        }
    }

    /// A frame that does not take the path.
    fn pass(&mut self, frame: &Frame<'_>, at: Instant) {
        let record = Record { at: self.time(at), comment: None, ..as_it_was(frame) };
        let result = self.outputs.sent.write(&record);
        self.keep(SENT, result);
    }

    /// A frame whose packet never became one.
    fn dropped_frame(&mut self, frame: &Frame<'_>, at: Instant) {
        let comment = format!("dropped: {}", Reason::Malformed.name());
        let record = Record { at: self.time(at), comment: Some(&comment), ..as_it_was(frame) };
        if let Some(sink) = &mut self.outputs.dropped {
            let result = sink.write(&record);
            self.keep(DROPPED, result);
        }
    }

    /// The packet in its surroundings, in `self.bytes`: length on the wire, and how much of it is shown.
    fn frame(&mut self, packet: &Packet) -> (u32, usize) {
        let around = self.tags.get(packet.tag);
        self.bytes.clear();
        self.bytes.extend(&around.header);
        self.bytes.extend(packet.bytes());
        self.bytes.extend(&around.trailer);
        let whole = self.bytes.len();
        (whole as u32, around.cut.map_or(whole, |cut| whole.min(cut as usize)))
    }

    fn answer(&mut self, packet: &Packet, due: Instant) {
        let at = self.time(due);
        let Some(sink) = &mut self.outputs.answers else { return };
        let data = packet.bytes();
        let original = data.len() as u32;
        let record = Record { at, original, data, interface: 0, number: DataLink::RAW, comment: None };
        let result = sink.write(&record);
        self.keep(ANSWERS, result);
    }

    fn dropped(&mut self, stage: Option<u16>, reason: Reason, packet: &Packet, at: Instant) {
        let stage = stage.and_then(|stage| self.stages.get(usize::from(stage)));
        let comment = match stage {
            Some(stage) => format!("dropped by {stage}: {}", reason.name()),
            None => format!("dropped: {}", reason.name()),
        };
        let (original, shown) = self.frame(packet);
        let at = self.time(at);
        let around = self.tags.get(packet.tag);
        let (interface, number) = (around.interface, around.number);
        let data = &self.bytes[..shown];
        let record = Record { at, original, data, interface, number, comment: Some(&comment) };
        if let Some(sink) = &mut self.outputs.dropped {
            let result = sink.write(&record);
            self.keep(DROPPED, result);
        }
    }
}

const fn as_it_was<'a>(frame: &Frame<'a>) -> Record<'a> {
    Record {
        at: frame.at,
        original: frame.original,
        data: frame.data,
        interface: frame.interface,
        number: frame.number,
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
        let (original, shown) = self.frame(packet);
        let at = self.time(due);
        let around = self.tags.get(packet.tag);
        let (interface, number) = (around.interface, around.number);
        let record = Record { at, original, data: &self.bytes[..shown], interface, number, comment: None };
        let result = self.outputs.sent.write(&record);
        self.keep(SENT, result);
        Ok(())
    }

    #[inline]
    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        if let Some(log) = &mut self.outputs.log
            && let Some(event) = Event::of(what, packet, at)
        {
            log.record(&event);
        }
        if let What::Dropped(place, reason) = what
            && self.outputs.dropped.is_some()
        {
            self.dropped(place.map(|(_, stage)| stage), reason, packet, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn capture(number: DataLink, frames: &[(u64, Vec<u8>, usize)]) -> Vec<u8> {
        let mut sink = Sink::new(Vec::new(), Format::PcapNg, number).unwrap();
        for (micros, data, original) in frames {
            let at = Duration::from_secs(1_700_000_000) + Duration::from_micros(*micros);
            let original = *original as u32;
            sink.write(&Record { at, original, data, interface: 0, number, comment: None }).unwrap();
        }
        sink.finish().unwrap()
    }

    type Written = Vec<(u64, Vec<u8>, u32)>;

    /// What came of it, what was sent, and the whole file of what was dropped.
    fn through(replay: &Replay, file: &[u8]) -> (Outcome, Written, Vec<u8>) {
        let (mut sent, mut dropped) = (Vec::new(), Vec::new());
        let number = DataLink::RAW;
        let outputs = Outputs {
            sent: Sink::new(&mut sent, Format::PcapNg, number).unwrap(),
            dropped: Some(Sink::new(&mut dropped, Format::PcapNg, number).unwrap()),
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
        std::iter::from_fn(|| source.next(frame)).map(Result::unwrap).collect()
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
        let (outcome, sent, dropped) = through(&replay(""), &capture(DataLink::ETHERNET, &frames));
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
        let file = capture(DataLink::RAW, &frames);
        let (_, sent, _) = through(&replay("delay 1ms rate 8mbit"), &file);
        let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
        assert_eq!(times, [1_100_000, 2_140_000, 2_240_000]);
    }

    #[test]
    fn a_time_before_an_earlier_one_is_that_ones() {
        let frames = [(100, packet(60), 100), (40, packet(61), 101), (200, packet(62), 102)];
        let (outcome, sent, _) = through(&replay("delay 1us"), &capture(DataLink::RAW, &frames));
        let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
        assert_eq!((times, outcome.backwards), (vec![101_000, 101_000, 201_000], 1));
    }

    #[test]
    fn what_is_dropped_is_written_with_the_reason() {
        let frames = [(0, packet(60), 100), (1, packet(900), 940), (2, vec![0x45, 0, 0, 9], 4)];
        let (outcome, sent, dropped) = through(&replay("mtu 500 drop"), &capture(DataLink::RAW, &frames));
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
        let (outcome, sent, _) = through(&replay, &capture(DataLink::RAW, &frames));
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
        let (_, sent, _) = through(&replay(faults), &capture(DataLink::RAW, &frames));
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
        let file = capture(DataLink::RAW, &frames);
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
        let file = capture(DataLink::RAW, &frames);
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
            sent: Sink::new(&mut sent, Format::Pcap, DataLink::RAW).unwrap(),
            dropped: None,
            answers: None,
            log: Some(Log::new(&mut text, &replay.router.paths[0], "Uplink", "pcap").unwrap()),
        };
        replay.run(&mut Source::new(&capture(DataLink::RAW, &frames)[..]).unwrap(), outputs).unwrap();
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
}
