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

/// The path of a replay, and the packets that take it.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The router; its ports need no addresses.
    pub router: RouterParams,
    /// Index of the path.
    pub path: usize,
    /// Only packets from these prefixes take the path; all if the list is empty.
    pub only_from: Vec<IpNet>,
}

/// The outputs of a replay.
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
    /// If an output cannot be written. A broken capture is no error: see [`Outcome::broken`].
    pub fn run<R: Read, W: Write>(
        &self,
        source: &mut Source<R>,
        outputs: Outputs<W>,
    ) -> Result<Outcome, ReplayError> {
        self.run_until(source, outputs, || None)
    }

    /// As [`Self::run`], until `stopped` returns a reason to stop. It is called often.
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
            stages: path.names().map(str::to_owned).collect(),
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

/// Packets between two calls of `stopped`.
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

    /// Lets all packets that are due at or before `to` leave at their times.
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
        // Ethernet pads short packets: the bytes behind the IP packet belong to the surroundings.
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

/// The source address of an IP packet, if its header is whole.
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

    /// Takes the result of writing to the output.
    fn wrote(&mut self, result: Result<bool, SinkError>) {
        match result {
            Ok(said) => self.unsaid += u64::from(!said),
            Err(source) => self.fail(SENT, source),
        }
    }

    /// Takes the result of writing to another file, whose format can hold all metadata.
    fn also(&mut self, output: &'static str, result: Result<bool, SinkError>) {
        if let Err(source) = result {
            self.fail(output, source);
        }
    }

    fn fail(&mut self, output: &'static str, source: SinkError) {
        self.failed.get_or_insert(ReplayError::Output { output, source });
    }

    /// Copies the metadata of the capture into both files of its packets.
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

    /// A frame whose packet is malformed.
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
            // Packets of the router have no surroundings.
            What::Dropped(place, reason) if packet.path != Packet::NO_PATH => {
                self.dropped(place.map(|place| place.seat), reason, packet, at);
                self.tags.left(packet);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
