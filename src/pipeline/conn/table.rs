//! A bounded table of connections.
//!
//! Sets of eight places, as in [`crate::pipeline::aim::flow`]. If the set of a new connection is full, an old one is
//! replaced: one that has expired, or else a closed one, or else a half-open one, or else an open one. Within each
//! kind, the one that was silent longest is replaced. So the connections of a SYN flood replace each other before
//! they replace an open connection, and the table never grows.

use crate::pipeline::conn::ConnKey;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::FlowKey;

const WAYS: usize = 8;

/// The state of a connection. The kinds that are replaced first come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Standing {
    /// Ended by RST, or by FIN. Forgotten after a minute of silence.
    Closed,
    /// Only its beginning was seen. Forgotten after a minute of silence.
    HalfOpen,
    /// Anything else. Forgotten after 2 hours and 4 minutes of silence (RFC 5382 section 5).
    #[default]
    Open,
}

impl Standing {
    /// Silence after which the connection is forgotten.
    pub const fn lifetime(self) -> Duration {
        match self {
            Self::Closed | Self::HalfOpen => Duration::from_secs(60),
            Self::Open => Duration::from_secs(7_440),
        }
    }
}

/// One connection.
#[derive(Debug, Clone, Copy)]
pub struct Entry<T> {
    key: FlowKey,
    used: Instant,
    /// The owner of the table keeps this up to date.
    pub standing: Standing,
    /// What the owner knows of it.
    pub value: T,
}

impl<T> Entry<T> {
    fn is_expired(&self, now: Instant) -> bool {
        now.since(self.used) >= self.standing.lifetime()
    }
}

/// The connections that one stage of one worker knows.
#[derive(Debug)]
pub struct Table<T> {
    hashes: Vec<[u64; WAYS]>,
    entries: Vec<Option<Entry<T>>>,
    mask: usize,
    evicted: u64,
}

impl<T: Copy + Default> Table<T> {
    /// A table of at least `capacity` connections (rounded up to a power of two, at least 8).
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Self { hashes: vec![[0; WAYS]; sets], entries: vec![None; sets * WAYS], mask: sets - 1, evicted: 0 }
    }

    /// Most connections that it can hold.
    pub const fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Connections that were forgotten early, to make room for others.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn set(&self, hash: u64) -> usize {
        (hash >> 8) as usize & self.mask
    }

    fn position(&self, conn: &ConnKey) -> Option<usize> {
        let set = self.set(conn.hash);
        (0..WAYS)
            .find(|&way| {
                self.hashes[set][way] == conn.hash
                    && self.entries[set * WAYS + way].as_ref().is_some_and(|entry| entry.key == conn.key)
            })
            .map(|way| set * WAYS + way)
    }

    /// The connection, if it is known. Looking it up counts as use.
    pub fn find(&mut self, conn: &ConnKey, now: Instant) -> Option<&mut Entry<T>> {
        let at = self.position(conn)?;
        let entry = self.entries[at].as_mut().filter(|entry| !entry.is_expired(now))?;
        entry.used = now;
        Some(entry)
    }

    /// The connection; a fresh one if it is not known. Looking it up counts as use.
    ///
    /// # Panics
    ///
    /// Never: the entry was found or inserted just before.
    pub fn entry(&mut self, conn: &ConnKey, now: Instant) -> &mut Entry<T> {
        let found = self.position(conn);
        let at = found.unwrap_or_else(|| self.place(conn, now));
        let entry = self.entries[at].as_mut().expect("found or placed");
        if found.is_some() && entry.is_expired(now) {
            *entry = Entry { key: conn.key, used: now, standing: Standing::default(), value: T::default() };
        }
        entry.used = now;
        entry
    }

    #[cold]
    fn place(&mut self, conn: &ConnKey, now: Instant) -> usize {
        let set = self.set(conn.hash);
        let worth = |way: &usize| match &self.entries[set * WAYS + way] {
            None => (0, Standing::Closed, Instant::ZERO),
            Some(entry) if entry.is_expired(now) => (1, Standing::Closed, entry.used),
            Some(entry) => (2, entry.standing, entry.used),
        };
        let way = (0..WAYS).min_by_key(worth).unwrap_or(0);
        self.evicted += u64::from(worth(&way).0 == 2);
        let at = set * WAYS + way;
        self.hashes[set][way] = conn.hash;
        self.entries[at] =
            Some(Entry { key: conn.key, used: now, standing: Standing::default(), value: T::default() });
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::packet::{Offload, Packet};
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;

    fn conn(port: u16) -> ConnKey {
        let frame = Spec::tcp(0).with_source_port(port).frame();
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        ConnKey::home(&Packet::parse(buffer, frame.bytes.len(), Offload::default(), 0).unwrap())
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// A table of one set with a connection of each standing at ports 1, 2, 3 and open ones at 4 to 8, used in this order.
    fn full() -> Table<u32> {
        let mut table = Table::new(8);
        for port in 1..=8 {
            let entry = table.entry(&conn(port), Instant::from_nanos(u64::from(port)));
            entry.value = u32::from(port);
            entry.standing = match port {
                2 => Standing::HalfOpen,
                3 => Standing::Closed,
                _ => Standing::Open,
            };
        }
        table
    }

    fn known(table: &mut Table<u32>, now: Instant) -> Vec<u16> {
        (1..=20).filter(|&port| table.find(&conn(port), now).is_some()).collect()
    }

    #[test]
    fn closed_ones_go_first_then_half_open_ones_then_the_most_silent() {
        let mut table = full();
        let now = Instant::from_nanos(100);
        for (new, left) in [
            (11, vec![1, 2, 4, 5, 6, 7, 8, 11]),
            (12, vec![1, 4, 5, 6, 7, 8, 11, 12]),
            (13, vec![4, 5, 6, 7, 8, 11, 12, 13]),
        ] {
            assert_eq!(table.entry(&conn(new), now).value, 0);
            let known: Vec<u16> = (1..=20).filter(|&port| table.position(&conn(port)).is_some()).collect();
            assert_eq!(known, left);
        }
        assert_eq!(table.evicted(), 3);
    }

    #[test]
    fn silence_forgets_by_standing() {
        let mut table = full();
        assert_eq!(known(&mut table, at(59)).len(), 8);
        // Looked at just now, so the minute starts again.
        assert_eq!(known(&mut table, at(118)).len(), 8);
        assert_eq!(known(&mut table, at(179)), [1, 4, 5, 6, 7, 8]);
        // An expired entry starts anew; no other entry is evicted for it.
        assert_eq!(table.entry(&conn(2), at(179)).value, 0);
        assert_eq!(table.entry(&conn(20), at(179)).value, 0);
        assert_eq!(table.evicted(), 0);
        assert_eq!(known(&mut table, at(179 + 7_440)), [0_u16; 0]);
    }

    #[test]
    fn a_flood_of_syns_costs_no_open_connection_and_no_memory() {
        let mut table = Table::<u32>::new(64);
        for port in 1..=8 {
            table.entry(&conn(port), at(0)).value = 7;
        }
        for port in 1_000..11_000 {
            table.entry(&conn(port), at(1)).standing = Standing::HalfOpen;
        }
        assert_eq!(known(&mut table, at(2)), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((table.capacity(), table.entries.iter().flatten().count()), (64, 64));
        assert_eq!(table.evicted(), 10_000 - 56);
    }

    #[test]
    fn both_directions_are_one_connection() {
        let frame = Spec::tcp(3).v6().frame();
        let mut back = frame.bytes.clone();
        back[8..40].rotate_left(16);
        back[40..44].rotate_left(2);
        let parse = |bytes: &[u8]| {
            let mut buffer = Pool::new().scratch();
            buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            Packet::parse(buffer, bytes.len(), Offload::default(), 0).unwrap()
        };
        assert_eq!(ConnKey::home(&parse(&frame.bytes)), ConnKey::back(&parse(&back)));
    }
}
