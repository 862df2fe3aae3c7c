//! The state that answers requests: the run, its numbers, and the listeners to changes of the run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore, watch};

use crate::control::answer::Refusal;
use crate::control::gauge::Gauge;
use crate::control::instance::Instance;
use crate::control::schedule::Schedule;
use crate::control::view::Moment;
use crate::engine::total;
use crate::journal::{Note, Notes};
use crate::net::{LinkStats, link};

/// The workers are asked at most once in this time.
const PAUSE: Duration = Duration::from_millis(10);
/// The same for the kernel's counters of devices. Each reading needs a thread in the device's namespace: 0.15 ms of a core.
/// A reader of the metrics may have to wait for this time.
const PAUSE_LINKS: Duration = Duration::from_millis(20);
/// Maximum number of readers of events; each has a ring in every worker.
pub(super) const LISTENERS: usize = 16;

/// The state that answers requests.
pub(super) struct Desk {
    pub(super) instance: Arc<RwLock<Arc<Instance>>>,
    numbers: Gauge<Option<Arc<Moment>>>,
    links: Gauge<Arc<[Option<LinkStats>]>>,
    listeners: Arc<Semaphore>,
    /// The journal, and readers of events.
    notes: Mutex<Vec<Notes>>,
    pub(super) schedule: Schedule,
    pub(super) ends: watch::Receiver<bool>,
}

impl Desk {
    pub(super) fn new(instance: Instance, ends: watch::Receiver<bool>) -> Arc<Self> {
        let (clock, workers) = (*instance.workers.clock(), instance.workers.clone());
        let numbers = Gauge::new(clock, PAUSE, move || {
            let total = total(&workers.reports().ok()?)?;
            Some(Arc::new(Moment { at_ns: clock.now().as_nanos(), total }))
        });
        let devices = instance.devices.clone();
        let links = Gauge::new(clock, PAUSE_LINKS, move || {
            devices.iter().map(|device| link::stats(&device.netns, &device.name).ok()).collect()
        });
        let notes = Mutex::new(instance.notes.clone());
        let instance = Arc::new(RwLock::new(Arc::new(instance)));
        let (listeners, schedule) = (Arc::new(Semaphore::new(LISTENERS)), Schedule::default());
        Arc::new(Self { instance, numbers, links, listeners, notes, schedule, ends })
    }

    /// The run as it is now.
    pub(super) async fn instance(&self) -> Arc<Instance> {
        Arc::clone(&*self.instance.read().await)
    }

    pub(super) async fn moment(&self) -> Result<Arc<Moment>, Refusal> {
        self.numbers.read().await.flatten().ok_or_else(Refusal::ended)
    }

    pub(super) async fn links(&self) -> Result<Arc<[Option<LinkStats>]>, Refusal> {
        self.links.read().await.ok_or_else(Refusal::ended)
    }

    /// A place for a reader of events, if one is free.
    pub(super) fn place_to_listen(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.listeners).try_acquire_owned().ok()
    }

    /// From now on these listeners are also told what is done to the run, until their hub ends.
    pub(super) fn add_notes(&self, notes: Notes) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(notes);
    }

    /// Tells the journal and the readers of events what was done to the run.
    pub(super) fn note(&self, note: Note) {
        let note = Arc::new(note);
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).retain(|notes| notes.tell(&note));
    }
}
