//! The thread that empties the workers' rings, and those to whom it hands the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use nix::libc;
use rtrb::Consumer;

use crate::journal::note::Note;
use crate::journal::payload::LEAST;
use crate::journal::record::Record;
use crate::journal::tap::{Lane, Taps};

/// Time between two looks into the workers' rings. It doubles while they are empty ...
const LOOK: Duration = Duration::from_millis(5);
/// ... up to this where a lane follows flows: a ring that was empty takes 1.9 million records a second until then;
const LOOK_FOLLOWED: Duration = Duration::from_millis(20);
/// and to this where none does.
const LOOK_DROPS: Duration = Duration::from_millis(100);
/// Bytes of each worker's ring where a lane follows flows: some 37,000 records.
const RING: usize = 4 << 20;
/// The same where none does: some 1,500 records, each with headers.
const RING_DROPS: usize = 256 << 10;
/// The same where a lane is told whole packets: what comes and leaves at 20 Gbit/s in 13 ms.
const RING_WHOLE: usize = 64 << 20;
/// Nice value of the thread that writes whole packets. The scheduler gives it a third of the weight of a thread with nice value 0.
const NICE: i32 = 5;
/// Bytes that are taken out of a ring at once.
const CHUNK: usize = 1 << 20;
/// Notes that wait for the thread.
const NOTES: usize = 1_024;

/// Who is handed the records of a lane.
pub trait Sink: Send {
    /// The router runs, records will come.
    fn begin(&mut self) {}

    /// A record of its lane, in the order in which its worker told them.
    fn record(&mut self, record: &Record<'_>);

    /// Something was done to the run. What workers told before has been handed over, and perhaps a little of what came after.
    fn note(&mut self, _note: &Note) {}

    /// So many records of its lane have found no room since the beginning. Said before each [`Self::pause`].
    fn lost(&mut self, _total: u64) {}

    /// All that there was has been handed over, and nothing comes for so long.
    fn pause(&mut self, _length: Duration) {}

    /// The workers have ended; `lost` records of its lane found no room.
    fn finish(self: Box<Self>, lost: u64) -> Finished;
}

/// What came of what was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// What has to be said, a sentence each.
    pub said: Vec<String>,
    /// A file could not be written to its end.
    pub has_failed: bool,
}

impl Finished {
    /// Takes in what came of something else.
    pub fn add(&mut self, other: Self) {
        self.said.extend(other.said);
        self.has_failed |= other.has_failed;
    }
}

/// A running thread. Dropped before [`Hub::begin`], it ends and its sinks have not been touched.
#[derive(Debug)]
pub struct Hub {
    notes: Notes,
    /// It is there until it ends.
    thread: Option<JoinHandle<Finished>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Word {
    Begin,
    Note(Arc<Note>),
    /// It is dropped when all is handed over that was told before.
    Flush(Sender<()>),
    End,
}

/// Tells the sinks of a hub what is done to the run.
#[derive(Debug, Clone)]
pub struct Notes {
    words: Sender<Word>,
    /// Of each sink's lane.
    lost: Arc<[AtomicU64]>,
}

impl Notes {
    /// False if the hub has ended. A note that finds no room counts as a lost record.
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
    /// Makes ready to hand records to these sinks, each with its lane; the workers have to be given the taps. At most 16.
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

    /// The same for one sink that may not lack a record while each worker's ring of so many bytes has room.
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
        reader.yields = yields;
        let (words, told) = unbounded();
        let notes = Notes { words, lost: Arc::clone(&reader.lost) };
        let desk = Desk { reader, longest, notes: Vec::new(), asked: Vec::new() };
        let run = move || {
            if yields {
                yield_to_workers();
            }
            desk.run(&told)
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(run)?;
        Ok((Self { notes, thread: Some(thread) }, taps))
    }

    /// The router runs: from now on the sinks are given what the workers tell.
    pub fn begin(&self) {
        // A thread that has panicked is found when it is waited for.
        let _ = self.notes.words.send(Word::Begin);
    }

    /// The way to tell its sinks what is done to the run.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Waits until the sinks were handed all that workers have told before this call. At once if the hub has not begun.
    pub fn flush(&self) {
        let (asked, dropped) = bounded(1);
        // A thread that has panicked is found when it is waited for.
        let _ = self.notes.words.send(Word::Flush(asked));
        let _ = dropped.recv();
    }

    /// Waits until all is written that the workers, which must have ended, have told; what came of it.
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
    /// What was told until an error ended the run is written, too: that is when a journal is needed.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

struct Desk {
    reader: Reader,
    /// Longest time between two looks.
    longest: Duration,
    /// Not handed over yet.
    notes: Vec<Arc<Note>>,
    /// Who waits for what was told to be handed over.
    asked: Vec<Sender<()>>,
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
            // What was told before a note comes before it.
            let (notes, asked) = (std::mem::take(&mut self.notes), std::mem::take(&mut self.asked));
            let found = self.reader.read();
            for note in notes {
                self.reader.sinks.iter_mut().for_each(|sink| sink.note(&note));
            }
            drop(asked);
            if is_over && self.reader.rings.is_empty() {
                break;
            }
            pause = if found { LOOK } else { (2 * pause).min(self.longest) };
            self.reader.pause(pause);
            // Poll: waking this thread would cost the workers a system call.
            if is_over {
                let _ = never::<()>().recv_timeout(LOOK);
            } else {
                is_over = self.hear(words, pause);
            }
        }
        self.reader.finish()
    }

    /// Waits for notes, for so long at most. True if the end was told.
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

/// Empties the workers' rings into sinks when it is asked to: the thread of a [`Hub`], without the thread.
pub struct Reader {
    sinks: Vec<Box<dyn Sink>>,
    /// Rings of workers that have been started since the last look.
    new: Receiver<Consumer<u8>>,
    rings: Vec<(Consumer<u8>, Begun)>,
    /// Lets other threads run after each chunk: the scheduler would let this one go on to the end of its time slice, some milliseconds,
    /// while a worker on the same core waits.
    yields: bool,
    /// Of each sink's lane.
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
        (Self { sinks, new, rings: Vec::new(), yields: false, lost }, taps)
    }

    /// The router runs, records will come.
    pub fn begin(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.begin());
    }

    /// Empties the rings, and forgets those whose worker has ended. Whether there was anything.
    pub fn read(&mut self) -> bool {
        self.rings.extend(self.new.try_iter().map(|ring| (ring, Begun::default())));
        let (sinks, yields, mut found) = (&mut self.sinks, self.yields, false);
        self.rings.retain_mut(|(ring, begun)| {
            // Asked first: what the worker told before it ended is there then.
            let has_ended = ring.is_abandoned();
            // What comes in the meantime is left for the next look, so that a busy worker does not keep notes and other rings waiting.
            let mut left = ring.slots();
            while left > 0
                && let Ok(chunk) = ring.read_chunk(left.min(CHUNK))
            {
                found = true;
                left -= chunk.len();
                let (first, second) = chunk.as_slices();
                for bytes in [first, second] {
                    each_record(begun, bytes, |record| hand_over(sinks, record));
                }
                chunk.commit_all();
                if yields {
                    std::thread::yield_now();
                }
            }
            !has_ended
        });
        found
    }

    /// Tells the sinks what is lost, and that nothing comes for so long.
    fn pause(&mut self, length: Duration) {
        for (sink, lost) in self.sinks.iter_mut().zip(&*self.lost) {
            sink.lost(lost.load(Ordering::Relaxed));
            sink.pause(length);
        }
    }

    /// What came of what was read.
    pub fn finish(self) -> Finished {
        let lost = self.lost.iter().map(|lost| lost.load(Ordering::Relaxed));
        let mut finished = Finished::default();
        self.sinks.into_iter().zip(lost).for_each(|(sink, lost)| finished.add(sink.finish(lost)));
        finished
    }
}

/// Lets the threads that forward go first where there are not enough cores for all: writing whole packets takes more time than
/// forwarding them, and a packet that is missing in a capture is counted, while a delayed one is a fault that nobody asked for.
#[expect(unsafe_code, reason = "neither setpriority(2) nor sched_setscheduler(2) has a wrapper in nix")]
fn yield_to_workers() {
    let batch = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls take numbers, and a structure that lives until they return. 0 is the calling thread, also for PRIO_PROCESS:
    // in Linux each thread has a priority of its own. If they fail, the thread has the priority of the others.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

/// What is left of the bytes that a ring had before.
#[derive(Debug, Default)]
struct Begun {
    /// The beginning of a record that is not whole yet.
    bytes: Vec<u8>,
    /// The last whole packet: later records may have its payload.
    packet: Vec<u8>,
}

/// Calls `each` with all records that are whole with `bytes`; `begun` has what came before, and is told what is left of these.
fn each_record(begun: &mut Begun, mut bytes: &[u8], mut each: impl FnMut(&Record<'_>)) {
    while !begun.bytes.is_empty() {
        // Its size is in its first bytes.
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

    /// Says when it is begun and finished, and with how many lost records.
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

    /// For each record that it is handed, its worker tells the next one.
    struct Busy {
        tap: Arc<Mutex<Option<Tap>>>,
        records: Sender<u64>,
    }

    impl Sink for Busy {
        fn record(&mut self, record: &Record<'_>) {
            assert!(record.index < 3, "one look reads records that were told after it began");
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

    /// Otherwise notes, and the end, would wait for a pause in the traffic.
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

    /// Wherever a ring ends or its reader has come to, records are handed on whole and in order.
    #[test]
    fn records_are_whole_however_their_bytes_come() {
        let (mut all, mut expected, mut packet) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..12_u64 {
            let bytes = vec![index as u8; 40 * index as usize];
            let record = Record { index, bytes: &bytes, ..crate::journal::record::tests::record() };
            // And one with a payload of 30 bytes that is told with the last whole packet.
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
        // The sink is gone: nothing was said before.
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
        // Whoever holds the taps still could make more.
        assert_eq!(hub.finish().said, ["finished, 0 lost"]);
        drop(taps);
    }

    /// Whoever flushes sees all that was told before, while the worker goes on; of a hub that has not begun, nothing.
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

    /// Notes are handed on in their order, those that were told before the end, too; whoever tells one later learns of the end.
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

    /// A sink that is stuck costs notes, which are counted, and neither memory nor whoever tells them.
    #[test]
    fn notes_without_room_are_counted() {
        let (hub, taps, _heard) = hub();
        let notes = hub.notes();
        let note = Arc::new(crate::journal::note::tests::note("x"));
        // It has not begun, and takes notes as they come.
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
