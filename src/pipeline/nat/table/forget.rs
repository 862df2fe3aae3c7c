//! Removes expired sessions of a [`Table`]: some with every packet, and more if a place or a port is needed.

use super::Table;
use crate::pipeline::nat::session::{CLASSES, Lifetimes, Tick};

/// Number of sessions that each packet checks in passing, when some may have expired.
const PASSING: u32 = 16;
/// The same for a packet that needs a place or a port when none is free; it also checks this many in each slot whose
/// time has not passed yet.
const PRESSING: u32 = 64;

impl Table {
    /// Whether there is a place for one more session; if not, looks for expired ones.
    pub(in crate::pipeline::nat) fn has_room(&mut self, now: Tick) -> bool {
        if self.free_sessions.is_empty() {
            self.expire_now(now);
        }
        !self.free_sessions.is_empty()
    }

    /// Checks some sessions that may have expired. Returns after how many ticks there may be others.
    pub(in crate::pipeline::nat) fn expire(&mut self, now: Tick) -> u32 {
        self.expire_some(now, PASSING);
        self.expiry.wait(now)
    }

    fn expire_some(&mut self, now: Tick, most: u32) {
        let mut left = most;
        while let Some(place) = self.expiry.next(now, &mut left) {
            if self.living(Some(place), now).is_some() {
                self.schedule(place);
            }
        }
        self.steps += u64::from(most - left);
    }

    /// Removes expired sessions, as many as one packet may cost, including those that have just expired.
    #[cold]
    pub(super) fn expire_now(&mut self, now: Tick) {
        self.expire_some(now, PRESSING);
        for class in 0..CLASSES {
            let mut next = self.expiry.now(class, now);
            for _ in 0..PRESSING {
                let Some(place) = next else { break };
                self.steps += 1;
                next = self.expiry.after(place);
                self.living(Some(place), now);
            }
        }
    }

    /// Makes sure that a session is checked when it may have expired: called after a change of its timeout, and after
    /// an earlier check.
    /// looked at before.
    pub(in crate::pipeline::nat) fn schedule(&mut self, place: u32) {
        let Some(session) = &self.sessions[place as usize] else { return };
        let (protocol, seen) = (session.key.protocol(), session.seen);
        let due = session.used.after(self.lifetimes.of(protocol, seen));
        self.expiry.remove(place);
        self.expiry.insert(place, Lifetimes::class(protocol, seen), due);
    }
}
