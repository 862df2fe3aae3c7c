//! The thread that empties the workers' rings, and those to whom it hands the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};
use rtrb::Consumer;

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

/// Who is handed the records of a lane.
pub trait Sink: Send {
    /// The router runs, records will come.
    fn begin(&mut self) {}

    /// A record of its lane, in the order in which its worker told them.
    fn record(&mut self, record: &Record<'_>);

    /// So many records of its lane have found no room since the beginning. Said before each [`Self::pause`].
    fn lost(&mut self, _total: u64) {}

    /// All that there was has been handed over, and nothing comes for so long.
    fn pause(&mut self, _length: Duration) {}

    /// The workers have ended; `lost` records of its lane found no room. What has to be said about it, a sentence each.
    fn finish(self: Box<Self>, lost: u64) -> Vec<String>;
}

/// A running thread. Dropped before [`Hub::begin`], it ends and its sinks have not been touched.
#[derive(Debug)]
pub struct Hub {
    /// Both are there until it ends.
    begun: Option<Sender<()>>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Hub {
    /// Makes ready to hand records to these sinks, each with its lane; the workers have to be given the taps. At most 16.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(sinks: Vec<(Lane, Box<dyn Sink>)>) -> std::io::Result<(Self, Taps)> {
        let (lanes, sinks): (Vec<Lane>, Vec<Box<dyn Sink>>) = sinks.into_iter().unzip();
        let follows = lanes.iter().any(|lane| lane.follows);
        let (ring, longest) = if follows { (RING, LOOK_FOLLOWED) } else { (RING_DROPS, LOOK_DROPS) };
        let (taps, rings, lost) = Taps::new(lanes, ring);
        let desk = Desk { sinks, rings: Vec::new(), lost, longest };
        let (begun, begins) = bounded(1);
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || desk.run(&rings, &begins))?;
        Ok((Self { begun: Some(begun), thread: Some(thread) }, taps))
    }

    /// The router runs: from now on the sinks are given what the workers tell.
    pub fn begin(&self) {
        // A thread that has panicked is found when it is waited for.
        let _ = self.begun.as_ref().map(|begun| begun.send(()));
    }

    /// Waits until all is written that the workers, which must have ended, have told; what has to be said about it.
    pub fn finish(mut self) -> Vec<String> {
        self.end().map_or_else(Vec::new, |said| said.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    fn end(&mut self) -> Option<std::thread::Result<Vec<String>>> {
        self.begun = None;
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Hub {
    /// What was told until an error ended the run is written, too: that is when a journal is needed.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

struct Desk {
    sinks: Vec<Box<dyn Sink>>,
    /// Each with the bytes of a record that is not whole yet.
    rings: Vec<(Consumer<u8>, Vec<u8>)>,
    /// Of each sink's lane.
    lost: Arc<[AtomicU64]>,
    /// Longest time between two looks.
    longest: Duration,
}

impl Desk {
    fn run(mut self, rings: &Receiver<Consumer<u8>>, begins: &Receiver<()>) -> Vec<String> {
        if begins.recv().is_err() {
            return Vec::new();
        }
        self.sinks.iter_mut().for_each(|sink| sink.begin());
        let (mut pause, mut is_over) = (LOOK, false);
        loop {
            self.rings.extend(rings.try_iter().map(|ring| (ring, Vec::new())));
            let found = self.take();
            if is_over && self.rings.is_empty() {
                break;
            }
            pause = if found { LOOK } else { (2 * pause).min(self.longest) };
            for (sink, lost) in self.sinks.iter_mut().zip(&*self.lost) {
                sink.lost(lost.load(Ordering::Relaxed));
                sink.pause(pause);
            }
            // Poll: waking this thread would cost the workers a system call.
            if is_over {
                let _ = never::<()>().recv_timeout(LOOK);
            } else {
                is_over = begins.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected);
            }
        }
        let lost = self.lost.iter().map(|lost| lost.load(Ordering::Relaxed));
        self.sinks.into_iter().zip(lost).flat_map(|(sink, lost)| sink.finish(lost)).collect()
    }

    /// Empties the rings, and forgets those whose worker has ended. Whether there was anything.
    fn take(&mut self) -> bool {
        let (sinks, mut found) = (&mut self.sinks, false);
        self.rings.retain_mut(|(ring, bytes)| {
            // Asked first: what the worker told before it ended is there then.
            let has_ended = ring.is_abandoned();
            while let Ok(chunk) = ring.read_chunk(ring.slots().min(1 << 20))
                && !chunk.is_empty()
            {
                found = true;
                let (first, second) = chunk.as_slices();
                bytes.extend(first);
                bytes.extend(second);
                chunk.commit_all();
                let mut rest = &bytes[..];
                while let Some((record, behind)) = Record::decode(rest) {
                    rest = behind;
                    let Some(record) = record else { continue };
                    for (lane, sink) in
                        sinks.iter_mut().enumerate().filter(|(lane, _)| record.lanes >> lane & 1 == 1)
                    {
                        debug_assert!(lane < 16);
                        sink.record(&record);
                    }
                }
                let left = rest.len();
                bytes.drain(..bytes.len() - left);
            }
            !has_ended
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::Kind;

    /// Says when it is begun and finished, and with how many lost records.
    struct Teller(Sender<String>);

    impl Sink for Teller {
        fn begin(&mut self) {
            self.0.send("begin".into()).unwrap();
        }

        fn record(&mut self, _record: &Record<'_>) {}

        fn finish(self: Box<Self>, lost: u64) -> Vec<String> {
            vec![format!("finished, {lost} lost")]
        }
    }

    fn hub() -> (Hub, Taps, Receiver<String>) {
        let (said, heard) = crossbeam_channel::unbounded();
        let sinks: Vec<(Lane, Box<dyn Sink>)> = vec![(Lane::of(&Kind::ALL), Box::new(Teller(said)))];
        let (hub, taps) = Hub::start(sinks).unwrap();
        (hub, taps, heard)
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
        assert_eq!(hub.finish(), ["finished, 0 lost"]);
        drop(taps);
    }
}
