//! What both relays of a connection know about it, and when it is reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::pipeline::random::rng::StageKey;
use crate::toxiproxy::metrics::Counts;
use crate::toxiproxy::toxic::{Attributes, Direction, Toxic};

/// An active toxic.
#[derive(Debug)]
pub(super) struct Acting {
    pub(super) toxic: Toxic,
    /// The classes that it hits.
    pub(super) classes: Vec<u16>,
    /// Since when it is active; updates do not change this.
    pub(super) since: Instant,
}

/// The toxics of a proxy.
#[derive(Debug, Default)]
pub(super) struct Active(pub(super) Vec<Acting>);

/// A connection.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) class: u16,
    /// The key of its draws.
    pub(super) key: StageKey,
    pub(super) toxics: watch::Receiver<Arc<Active>>,
    pub(super) counts: Arc<Counts>,
    pub(super) start: Instant,
    /// When data last came in each direction, in nanoseconds since the start plus one; 0: never.
    pub(super) heard: [AtomicU64; 2],
    /// Notified when data came.
    pub(super) bell: Notify,
}

impl Talk {
    /// Calls `find` with the toxics of this direction that hit the connection; returns its first result.
    pub(super) fn with<T>(&self, direction: Direction, find: impl Fn(&Toxic) -> Option<T>) -> Vec<T> {
        self.acting(direction, |acting| find(&acting.toxic))
    }

    fn acting<T>(&self, direction: Direction, find: impl Fn(&Acting) -> Option<T>) -> Vec<T> {
        let active = self.toxics.borrow();
        let here = active.0.iter().filter(|acting| {
            acting.toxic.stream == direction && acting.classes.binary_search(&self.class).is_ok()
        });
        here.filter_map(find).collect()
    }

    /// Records that data came, or the end of the stream.
    pub(super) fn hear(&self, direction: Direction) {
        let since = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.heard[direction as usize].store(since + 1, Ordering::Relaxed);
        self.bell.notify_one();
    }

    fn last_heard(&self, direction: Direction) -> Option<Instant> {
        let heard = self.heard[direction as usize].load(Ordering::Relaxed);
        heard.checked_sub(1).map(|since| self.start + Duration::from_nanos(since))
    }

    /// The size of a piece.
    pub(super) fn size(&self, direction: Direction, number: u64, average: i64, variation: i64) -> usize {
        let unit = self.key.stream(direction as u64, 0).unit(number, 0);
        let size = average as f64 + (2.0 * unit - 1.0) * variation as f64;
        (size.round() as i64).clamp(1, 1 << 30) as usize
    }

    /// Returns when a toxic requires the connection to be reset.
    pub(super) async fn fate(&self) {
        let mut toxics = self.toxics.clone();
        // When each reset toxic first saw data.
        let mut first: Vec<(u64, Instant)> = Vec::new();
        loop {
            toxics.mark_unchanged();
            let end = self.deadline(&mut first);
            if end.is_some_and(|end| end <= Instant::now()) {
                return;
            }
            tokio::select! {
                () = sleep_until(end.unwrap_or(self.start)), if end.is_some() => {}
                () = self.bell.notified() => {}
                changed = toxics.changed() => if changed.is_err() { return },
            }
        }
    }

    fn deadline(&self, first: &mut Vec<(u64, Instant)>) -> Option<Instant> {
        let mut ends = Vec::new();
        for direction in Direction::BOTH {
            let last = self.last_heard(direction);
            // A reset counts from the first data, a timeout from the last.
            ends.extend(self.acting(direction, |Acting { toxic, since, .. }| {
                let since = (*since).max(self.start);
                let last = last.filter(|last| *last >= since);
                match toxic.attributes {
                    Attributes::Timeout { timeout } if timeout > 0 => {
                        Some((toxic.id, false, last.unwrap_or(since), millis(timeout)))
                    }
                    Attributes::ResetPeer { timeout } => Some((toxic.id, true, last?, millis(timeout))),
                    _ => None,
                }
            }));
        }
        first.retain(|(id, _)| self.toxics.borrow().0.iter().any(|acting| acting.toxic.id == *id));
        let end = |(id, is_reset, from, time): (u64, bool, Instant, Duration)| {
            if !is_reset {
                return from + time;
            }
            let known = first.iter().find(|(known, _)| *known == id).map(|(_, heard)| *heard);
            if known.is_none() {
                first.push((id, from));
            }
            known.unwrap_or(from) + time
        };
        ends.into_iter().map(end).min()
    }
}

fn millis(given: i64) -> Duration {
    // Instants are limited; no connection waits for so long.
    Duration::from_millis(u64::try_from(given).unwrap_or(0).min(1 << 40))
}
