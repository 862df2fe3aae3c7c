//! The thread that empties the workers' rings, and those to whom it hands the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError, after};
use rtrb::Consumer;

use crate::journal::record::Record;
use crate::journal::tap::{Lane, Taps};

/// Time between two looks into the workers' rings.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes of each worker's ring where no sink wants whole packets: some ten thousand records.
const RING: usize = 4 << 20;
/// The same where one does.
const LARGE_RING: usize = 64 << 20;

/// Who is handed the records of a lane.
pub trait Sink: Send {
    /// A record of its lane, in the order in which its worker told them.
    fn record(&mut self, record: &Record<'_>);

    /// All that there was has been handed over, and nothing comes for some milliseconds.
    fn pause(&mut self) {}

    /// The workers have ended; `lost` records found no room. What has to be said about it, a sentence each.
    fn finish(self: Box<Self>, lost: u64) -> Vec<String>;
}

/// A running thread.
#[derive(Debug)]
pub struct Hub {
    thread: JoinHandle<Vec<String>>,
}

impl Hub {
    /// Starts to hand records to these sinks, each with its lane; the workers have to be given the taps. At most 16.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(sinks: Vec<(Lane, Box<dyn Sink>)>) -> std::io::Result<(Self, Taps)> {
        let (lanes, sinks): (Vec<Lane>, Vec<Box<dyn Sink>>) = sinks.into_iter().unzip();
        let is_large = lanes.iter().any(|lane| lane.snap > 1_000);
        let (taps, rings, lost) = Taps::new(lanes, if is_large { LARGE_RING } else { RING });
        let desk = Desk { sinks, rings: Vec::new(), lost };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || desk.run(&rings))?;
        Ok((Self { thread }, taps))
    }

    /// Waits until all is written that the workers, which must have ended, have told; what has to be said about it.
    pub fn finish(self) -> Vec<String> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Desk {
    sinks: Vec<Box<dyn Sink>>,
    /// Each with the bytes of a record that is not whole yet.
    rings: Vec<(Consumer<u8>, Vec<u8>)>,
    lost: Arc<AtomicU64>,
}

impl Desk {
    fn run(mut self, rings: &Receiver<Consumer<u8>>) -> Vec<String> {
        loop {
            let more = loop {
                match rings.try_recv() {
                    Ok(ring) => self.rings.push((ring, Vec::new())),
                    Err(TryRecvError::Empty) => break true,
                    Err(TryRecvError::Disconnected) => break false,
                }
            };
            self.take();
            if !more && self.rings.is_empty() {
                break;
            }
            self.sinks.iter_mut().for_each(|sink| sink.pause());
            // Nobody may be waited for in the rings themselves: it would be the workers' work to end that wait.
            let _ = after(LOOK).recv();
        }
        let lost = self.lost.load(Ordering::Relaxed);
        self.sinks.into_iter().flat_map(|sink| sink.finish(lost)).collect()
    }

    /// Empties the rings, and forgets those whose worker has ended.
    fn take(&mut self) {
        let sinks = &mut self.sinks;
        self.rings.retain_mut(|(ring, bytes)| {
            // Asked first: what the worker told before it ended is there then.
            let has_ended = ring.is_abandoned();
            while let Ok(chunk) = ring.read_chunk(ring.slots().min(1 << 20))
                && !chunk.is_empty()
            {
                let (first, second) = chunk.as_slices();
                bytes.extend(first);
                bytes.extend(second);
                chunk.commit_all();
                let mut rest = &bytes[..];
                while let Some((record, behind)) = Record::decode(rest) {
                    rest = behind;
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
    }
}
