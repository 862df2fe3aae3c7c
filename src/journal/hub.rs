//! The thread that empties the workers' rings and passes the records to its sinks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use rtrb::Consumer;

use crate::journal::note::Note;
use crate::journal::payload::LEAST;
use crate::journal::priority::{self, Rests, Turns};
use crate::journal::record::Record;
use crate::journal::tap::{Lane, Taps};

/// Time between two reads of the workers' rings. It doubles while the rings are empty ...
const LOOK: Duration = Duration::from_millis(5);
/// ... up to this if a lane follows flows: an empty ring has room for 1.9 million records a second in this time;
const LOOK_FOLLOWED: Duration = Duration::from_millis(20);
/// and up to this if no lane does.
const LOOK_DROPS: Duration = Duration::from_millis(100);
/// Bytes of each worker's ring if a lane follows flows: about 37,000 records.
const RING: usize = 4 << 20;
/// The same if no lane does: about 1,500 records, each with headers.
const RING_DROPS: usize = 256 << 10;
/// The same if a lane takes whole packets: those of 13 ms at 20 Gbit/s in and out.
const RING_WHOLE: usize = 64 << 20;
/// Bytes that are taken out of a ring at once.
const CHUNK: usize = 1 << 20;
/// Most notes that wait for the thread.
const NOTES: usize = 1_024;

/// A consumer of the records of one lane.
pub trait Sink: Send {
    /// The router has started; records follow.
    fn begin(&mut self) {}

    /// Takes a record of its lane. The records of one worker come in the order in which the worker wrote them.
    fn record(&mut self, record: &Record<'_>);

    /// Takes a note: a change or mark of the run. All records that workers wrote before the note have been passed on, and possibly a few
    /// later ones.
    fn note(&mut self, _note: &Note) {}

    /// The number of records of its lane that did not fit into a ring since the start. Called before each [`Self::pause`].
    fn lost(&mut self, _total: u64) {}

    /// All records so far have been passed on; the next ones come after `length` at the earliest.
    fn pause(&mut self, _length: Duration) {}

    /// The workers have ended. `lost` records of its lane did not fit into a ring.
    fn finish(self: Box<Self>, lost: u64) -> Finished;
}

/// The result of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// Messages for the user, one sentence each.
    pub said: Vec<String>,
    /// Whether a file could not be written completely.
    pub has_failed: bool,
}

impl Finished {
    /// Adds the result of another recording.
    pub fn add(&mut self, other: Self) {
        self.said.extend(other.said);
        self.has_failed |= other.has_failed;
    }
}

/// The running thread. If it is dropped before [`Hub::begin`], the thread ends without using its sinks.
#[derive(Debug)]
pub struct Hub {
    notes: Notes,
    /// `None` once the thread has been joined.
    thread: Option<JoinHandle<Finished>>,
}

/// A message to the thread.
#[derive(Debug)]
enum Word {
    Begin,
    Note(Arc<Note>),
    /// The sender is dropped once all earlier records and notes have been passed on.
    Flush(Sender<()>),
    End,
}

/// Sends notes to the sinks of a hub.
#[derive(Debug, Clone)]
pub struct Notes {
    words: Sender<Word>,
    /// Lost records of each sink's lane.
    lost: Arc<[AtomicU64]>,
}

impl Notes {
    /// Sends a note; false if the hub has ended. If too many notes are waiting, this one is counted as a lost record of every lane.
    pub fn tell(&self, note: &Arc<Note>) -> bool {
        if self.words.len() < NOTES {
            return self.words.send(Word::Note(Arc::clone(note))).is_ok();
        }
        for lost in self.lost.iter() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

impl Hub {
    /// Starts the thread with these sinks and their lanes, at most 16. The taps are for the workers.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(sinks: Vec<(Lane, Box<dyn Sink>)>) -> std::io::Result<(Self, Taps)> {
        let follows = sinks.iter().any(|(lane, _)| lane.follows);
        let is_whole = sinks.iter().any(|(lane, _)| lane.is_whole);
        let (ring, longest) = match (is_whole, follows) {
            (true, _) => (RING_WHOLE, LOOK),
            (false, true) => (RING, LOOK_FOLLOWED),
            (false, false) => (RING_DROPS, LOOK_DROPS),
        };
        Self::run(sinks, ring, longest, is_whole)
    }

    /// The same for one sink, with a ring of `ring` bytes for each worker: it misses no record that fits into the rings.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn with_ring(lane: Lane, sink: Box<dyn Sink>, ring: usize) -> std::io::Result<(Self, Taps)> {
        Self::run(vec![(lane, sink)], ring, LOOK_FOLLOWED, false)
    }

    fn run(
        sinks: Vec<(Lane, Box<dyn Sink>)>,
        ring: usize,
        longest: Duration,
        yields: bool,
    ) -> std::io::Result<(Self, Taps)> {
        let (mut reader, taps) = Reader::new(sinks, ring);
        reader.turns = yields.then(Turns::default);
        let (words, told) = unbounded();
        let notes = Notes { words, lost: Arc::clone(&reader.lost) };
        let desk = Desk {
            reader,
            longest,
            notes: Vec::new(),
            asked: Vec::new(),
            rests: yields.then(Rests::default),
        };
        let run = move || {
            if yields {
                priority::lower();
            }
            desk.run(&told)
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(run)?;
        Ok((Self { notes, thread: Some(thread) }, taps))
    }

    /// Says that the router runs: from now on the sinks are given the workers' records.
    pub fn begin(&self) {
        // If the thread has panicked, joining it reports that.
        let _ = self.notes.words.send(Word::Begin);
    }

    /// A sender of notes to its sinks.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Waits until the sinks have all records that workers wrote before this call. Returns at once if the hub has not begun.
    pub fn flush(&self) {
        let (asked, dropped) = bounded(1);
        // If the thread has panicked, joining it reports that.
        let _ = self.notes.words.send(Word::Flush(asked));
        let _ = dropped.recv();
    }

    /// Waits until all records are written, and returns the result. The workers must have ended.
    pub fn finish(mut self) -> Finished {
        let ended = self.end().unwrap_or_else(|| Ok(Finished::default()));
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn end(&mut self) -> Option<std::thread::Result<Finished>> {
        let thread = self.thread.take()?;
        let _ = self.notes.words.send(Word::End);
        Some(thread.join())
    }
}

impl Drop for Hub {
    /// Records are written also if an error ended the run: then a journal is needed most.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

struct Desk {
    reader: Reader,
    /// Longest time between two looks.
    longest: Duration,
    /// Notes that have not been passed on yet.
    notes: Vec<Arc<Note>>,
    /// Callers of [`Hub::flush`] that wait.
    asked: Vec<Sender<()>>,
    /// Of the thread of a capture.
    rests: Option<Rests>,
}

impl Desk {
    fn run(mut self, words: &Receiver<Word>) -> Finished {
        loop {
            match words.recv() {
                Ok(Word::Begin) => break,
                Ok(Word::Note(note)) => self.notes.push(note),
                Ok(Word::Flush(asked)) => drop(asked),
                Ok(Word::End) | Err(_) => return Finished::default(),
            }
        }
        self.reader.begin();
        let (mut pause, mut is_over) = (LOOK, false);
        loop {
            // Records that were written before a note are passed on before it.
            let (notes, asked) = (std::mem::take(&mut self.notes), std::mem::take(&mut self.asked));
            let found = self.reader.read();
            for note in notes {
                self.reader.sinks.iter_mut().for_each(|sink| sink.note(&note));
            }
            drop(asked);
            if is_over && self.reader.rings.is_empty() {
                break;
            }
            let rest = self.rests.as_mut().map_or(Duration::ZERO, |rests| rests.after(self.reader.lost()));
            pause = if self.reader.is_behind() {
                rest
            } else if found {
                LOOK
            } else {
                (2 * pause).clamp(LOOK, self.longest)
            };
            self.reader.pause(pause);
            // This thread polls: to wake it would cost the workers a system call.
            if is_over {
                let _ = never::<()>().recv_timeout(LOOK);
            } else {
                is_over = self.hear(words, pause);
            }
        }
        self.reader.finish()
    }

    /// Takes messages for at most `pause`. True if the run has ended.
    fn hear(&mut self, words: &Receiver<Word>, pause: Duration) -> bool {
        let mut word = words.recv_timeout(pause);
        loop {
            match word {
                Ok(Word::Note(note)) => self.notes.push(note),
                Ok(Word::Flush(asked)) => self.asked.push(asked),
                Ok(Word::Begin) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => return true,
            }
            word = words.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
    }
}

/// Passes records from the workers' rings to sinks on request: the work of a [`Hub`] without its thread.
pub struct Reader {
    sinks: Vec<Box<dyn Sink>>,
    /// Rings of workers that have started since the last call of [`Self::read`].
    new: Receiver<Consumer<u8>>,
    rings: Vec<(Consumer<u8>, Begun)>,
    /// Lets other threads run in between, if the records have whole packets.
    turns: Option<Turns>,
    /// Lost records of each sink's lane.
    lost: Arc<[AtomicU64]>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("rings", &self.rings.len()).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader for these sinks, each with its lane; the taps make a ring of `ring` bytes for each worker. At most 16.
    pub fn new(sinks: Vec<(Lane, Box<dyn Sink>)>, ring: usize) -> (Self, Taps) {
        let (lanes, sinks): (Vec<Lane>, Vec<Box<dyn Sink>>) = sinks.into_iter().unzip();
        let (taps, new, lost) = Taps::new(lanes, ring);
        (Self { sinks, new, rings: Vec::new(), turns: None, lost }, taps)
    }

    /// Says that the router runs and records follow.
    pub fn begin(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.begin());
    }

    /// Passes on all records that are in the rings now, and drops the rings of workers that have ended. True if there was any record.
    pub fn read(&mut self) -> bool {
        self.rings.extend(self.new.try_iter().map(|ring| (ring, Begun::default())));
        let (sinks, turns, mut found) = (&mut self.sinks, &mut self.turns, false);
        self.rings.retain_mut(|(ring, begun)| {
            // Asked before the ring is read: if the worker has ended, all its records are in the ring.
            let has_ended = ring.is_abandoned();
            // Records that come in the meantime wait for the next call: a busy worker must not delay notes and other rings.
            let mut left = ring.slots();
            while left > 0
                && let Ok(chunk) = ring.read_chunk(left.min(CHUNK))
            {
                found = true;
                left -= chunk.len();
                let (first, second) = chunk.as_slices();
                for bytes in [first, second] {
                    each_record(begun, bytes, |record| {
                        hand_over(sinks, record);
                        if let Some(turns) = turns {
                            turns.after(record.bytes.len() + record.rest.len());
                        }
                    });
                }
                chunk.commit_all();
            }
            !has_ended
        });
        found
    }

    /// Lost records of all lanes.
    fn lost(&self) -> u64 {
        self.lost.iter().map(|lost| lost.load(Ordering::Relaxed)).sum()
    }

    /// Whether a quarter of a ring is full again: then the next read must not wait, except for a rest.
    fn is_behind(&self) -> bool {
        self.rings.iter().any(|(ring, _)| ring.slots() >= ring.buffer().capacity() / 4)
    }

    /// Tells the sinks how many records are lost, and that the next ones come after `length` at the earliest.
    fn pause(&mut self, length: Duration) {
        for (sink, lost) in self.sinks.iter_mut().zip(&*self.lost) {
            sink.lost(lost.load(Ordering::Relaxed));
            sink.pause(length);
        }
    }

    /// Ends the sinks and returns their results.
    pub fn finish(self) -> Finished {
        let lost = self.lost.iter().map(|lost| lost.load(Ordering::Relaxed));
        let mut finished = Finished::default();
        self.sinks.into_iter().zip(lost).for_each(|(sink, lost)| finished.add(sink.finish(lost)));
        finished
    }
}

/// The part of earlier bytes of a ring that is still needed.
#[derive(Debug, Default)]
struct Begun {
    /// The beginning of a record whose end has not been read yet.
    bytes: Vec<u8>,
    /// The last packet that was recorded whole: later records can refer to its payload.
    packet: Vec<u8>,
}

/// Calls `each` with all records that end in `bytes`. `begun` has the part of the bytes before that is still needed, and is updated.
fn each_record(begun: &mut Begun, mut bytes: &[u8], mut each: impl FnMut(&Record<'_>)) {
    while !begun.bytes.is_empty() {
        // The first bytes of a record are its size.
        let size = begun.bytes.first_chunk().map_or(4, |size| u32::from_le_bytes(*size) as usize);
        let missing = size.saturating_sub(begun.bytes.len()).min(bytes.len());
        begun.bytes.extend(&bytes[..missing]);
        bytes = &bytes[missing..];
        if let Some((record, _)) = Record::decode(&begun.bytes) {
            if let Some(record) = record {
                each(&record.with_payload(&begun.packet));
                if record.bytes.len() >= LEAST {
                    begun.packet = record.bytes.to_vec();
                }
            }
            begun.bytes.clear();
        } else if missing == 0 {
            return;
        }
    }
    let mut packet = None;
    while let Some((record, behind)) = Record::decode(bytes) {
        if let Some(record) = record {
            each(&record.with_payload(packet.unwrap_or(&begun.packet)));
            if record.bytes.len() >= LEAST {
                packet = Some(record.bytes);
            }
        }
        bytes = behind;
    }
    if let Some(packet) = packet {
        begun.packet.clear();
        begun.packet.extend(packet);
    }
    begun.bytes.extend(bytes);
}

fn hand_over(sinks: &mut [Box<dyn Sink>], record: &Record<'_>) {
    for (lane, sink) in sinks.iter_mut().enumerate() {
        if record.lanes >> lane & 1 == 1 {
            sink.record(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::journal::record::Kind;
    use crate::journal::tap::{Tap, Told};
    use crate::pipeline::packet::{Offload, Packet};
    use crate::pipeline::pool::HEADROOM;
    use crate::pipeline::testing::Spec;
    use crate::pipeline::time::Instant;

    /// Reports its beginning, its end, and the number of lost records.
    struct Teller(Sender<String>);

    impl Sink for Teller {
        fn begin(&mut self) {
            self.0.send("begin".into()).unwrap();
        }

        fn record(&mut self, record: &Record<'_>) {
            self.0.send(format!("{} {}", record.kind.name(), record.index)).unwrap();
        }

        fn note(&mut self, note: &Note) {
            self.0.send(note.text.clone()).unwrap();
        }

        fn finish(self: Box<Self>, lost: u64) -> Finished {
            Finished { said: vec![format!("finished, {lost} lost")], has_failed: false }
        }
    }

    fn hub() -> (Hub, Taps, Receiver<String>) {
        let (said, heard) = unbounded();
        let sinks: Vec<(Lane, Box<dyn Sink>)> = vec![(Lane::of(&Kind::ALL), Box::new(Teller(said)))];
        let (hub, taps) = Hub::start(sinks).unwrap();
        (hub, taps, heard)
    }

    fn packet() -> Packet {
        let frame = Spec::udp(10).frame().bytes;
        let buffer = [vec![0; HEADROOM], frame.clone()].concat().into_boxed_slice();
        Packet::parse(buffer, frame.len(), Offload::default(), 0).unwrap()
    }

    /// For each record that it takes, its worker writes another one.
    struct Busy {
        tap: Arc<Mutex<Option<Tap>>>,
        records: Sender<u64>,
    }

    impl Sink for Busy {
        fn record(&mut self, record: &Record<'_>) {
            assert!(record.index < 3, "one call reads records that were written after it began");
            let mut next = packet();
            next.index = record.index + 1;
            let mut tap = self.tap.lock().unwrap();
            tap.as_mut().unwrap().tell(&Told::of(Kind::Sent), &next, Instant::ZERO, &|| None);
            self.records.send(record.index).unwrap();
        }

        fn finish(self: Box<Self>, _lost: u64) -> Finished {
            Finished::default()
        }
    }

    /// Otherwise notes and the end would have to wait for a pause in the traffic.
    #[test]
    fn a_look_ends_while_a_worker_goes_on() {
        let (records, read) = unbounded();
        let tap = Arc::new(Mutex::new(None));
        let sink: Box<dyn Sink> = Box::new(Busy { tap: Arc::clone(&tap), records });
        let (mut reader, taps) = Reader::new(vec![(Lane::of(&Kind::ALL), sink)], 1 << 20);
        let mut first = taps.tap(8);
        first.tell(&Told::of(Kind::Sent), &packet(), Instant::ZERO, &|| None);
        *tap.lock().unwrap() = Some(first);
        for index in 0..3 {
            assert!(reader.read());
            assert_eq!(read.try_iter().collect::<Vec<_>>(), [index]);
        }
    }

    /// A thread that slept while its ring fills would lose records that it has the time to read.
    #[test]
    fn a_quarter_of_a_ring_is_read_without_a_pause() {
        let (said, _heard) = unbounded();
        let sink: Box<dyn Sink> = Box::new(Teller(said));
        let (mut reader, taps) = Reader::new(vec![(Lane::of(&Kind::ALL), sink)], 16 << 10);
        let mut tap = taps.tap(8);
        assert!(!reader.read() && !reader.is_behind());
        let tell = |tap: &mut Tap| tap.tell(&Told::of(Kind::Sent), &packet(), Instant::ZERO, &|| None);
        tell(&mut tap);
        assert!(!reader.is_behind());
        (0..40).for_each(|_| tell(&mut tap));
        assert!(reader.is_behind());
        assert!(reader.read() && !reader.is_behind());
    }

    /// Records are passed on whole and in order, wherever the bytes that are read at once end.
    #[test]
    fn records_are_whole_however_their_bytes_come() {
        let (mut all, mut expected, mut packet) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..12_u64 {
            let bytes = vec![index as u8; 40 * index as usize];
            let record = Record { index, bytes: &bytes, ..crate::journal::record::tests::record() };
            // And one that refers to 30 bytes of payload of the last whole packet.
            let part: Vec<u8> = [1, 5, 30, u32::MAX].into_iter().flat_map(u32::to_le_bytes).collect();
            let repeat = Record { before: &part, has_part: true, bytes: b"head", ..record };
            for record in [record, repeat] {
                let mut space = [0; 200];
                all.extend(record.encode(&mut space));
                all.extend(record.bytes);
            }
            if bytes.len() >= LEAST {
                packet.clone_from(&bytes);
            }
            expected.push((index, bytes.clone()));
            let payload = packet.get(5..35).unwrap_or_default();
            expected.push((index, [b"head", payload].concat()));
        }
        for step in (1..700).chain([all.len()]) {
            let (mut begun, mut found) = (Begun::default(), Vec::new());
            for bytes in all.chunks(step) {
                each_record(&mut begun, bytes, |record| {
                    assert!(!record.has_part);
                    found.push((record.index, [record.bytes, record.rest].concat()));
                });
            }
            assert_eq!(found, expected, "{step}");
            assert!(begun.bytes.is_empty());
        }
    }

    #[test]
    fn a_run_that_never_began_touches_no_sink() {
        let (hub, taps, heard) = hub();
        let tap = taps.tap(8);
        drop(hub);
        // The sink was dropped and had reported nothing.
        assert!(heard.recv().is_err());
        drop(tap);
    }

    #[test]
    fn a_run_ends_with_its_workers() {
        let (hub, taps, heard) = hub();
        let tap = taps.tap(8);
        hub.begin();
        assert_eq!(heard.recv().unwrap(), "begin");
        drop(tap);
        // `taps` could still make more taps.
        assert_eq!(hub.finish().said, ["finished, 0 lost"]);
        drop(taps);
    }

    /// After a flush the sink has all records that were written before, also while the worker goes on. Before the beginning it has none.
    #[test]
    fn a_flush_waits_for_what_was_told() {
        let (hub, taps, heard) = hub();
        let mut tap = taps.tap(8);
        hub.flush();
        assert!(heard.is_empty());
        hub.begin();
        assert_eq!(heard.recv().unwrap(), "begin");
        let mut packet = packet();
        for index in 0..20 {
            packet.index = index;
            tap.tell(&Told::of(Kind::Sent), &packet, Instant::ZERO, &|| None);
            hub.flush();
            assert_eq!(heard.try_iter().collect::<Vec<_>>(), [format!("sent {index}")]);
        }
        drop(tap);
        assert_eq!(hub.finish().said, ["finished, 0 lost"]);
    }

    /// Notes are passed on in their order, also those just before the end. A later note is refused.
    #[test]
    fn notes_come_in_order_until_the_end() {
        let (hub, taps, heard) = hub();
        let notes = hub.notes();
        let note = |text: String| Arc::new(crate::journal::note::tests::note(&text));
        assert!(notes.tell(&note("early".into())));
        hub.begin();
        let texts: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        assert!(texts.iter().all(|text| notes.tell(&note(text.clone()))));
        assert_eq!(hub.finish().said, ["finished, 0 lost"]);
        assert!(!notes.tell(&note("late".into())));
        let heard: Vec<String> = heard.try_iter().collect();
        assert_eq!(heard[..2], ["begin", "early"]);
        assert_eq!(heard[2..], texts);
        drop(taps);
    }

    /// While a sink is stuck, surplus notes are lost and counted: memory does not grow, and the sender does not wait.
    #[test]
    fn notes_without_room_are_counted() {
        let (hub, taps, _heard) = hub();
        let notes = hub.notes();
        let note = Arc::new(crate::journal::note::tests::note("x"));
        // This channel has no reader.
        let (words, _stuck) = unbounded();
        let stuck = Notes { words, lost: Arc::clone(&notes.lost) };
        for _ in 0..NOTES + 7 {
            assert!(stuck.tell(&note));
        }
        hub.begin();
        assert_eq!(hub.finish().said, ["finished, 7 lost"]);
        drop(taps);
    }
}
