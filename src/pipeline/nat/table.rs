//! The table of a translator: mappings (an endpoint inside and its endpoint outside) and their sessions.
//!
//! Both have a fixed number of places. A session is found from either side in one step. A mapping exists as long as
//! it has a session; a forward exists forever. The expiry of a session is checked when it is looked up, and
//! [`Expiry`] finds sessions that no packet looks up. No packet costs more than a fixed number of steps
//! ([`Table::steps`] counts them), however large the table is: the rest of the work is left to the next packets.

mod forget;

use crate::pipeline::chains::Chains;
use crate::pipeline::nat::expiry::Expiry;
use crate::pipeline::nat::ports::Ports;
use crate::pipeline::nat::session::{Lifetimes, Session, TcpSeen, Tick};
use crate::pipeline::wire::{FlowKey, Host, Version};

const NONE: u32 = u32::MAX;

/// Maximum number of expired sessions of one mapping that are removed while searching for a live one.
const MOST_DEAD: u32 = 64;

/// An endpoint inside and its endpoint outside.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    /// The endpoint inside, with those fields of the remote endpoint that the mapping depends on.
    key: FlowKey,
    port: u16,
    address: u8,
    is_forward: bool,
    /// Its sessions, a ring through [`Links`].
    first: u32,
}

/// The neighbours of a session in the ring of its mapping.
#[derive(Debug, Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
}

/// An endpoint outside that hosts inside use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outer {
    pub(super) address: u8,
    pub(super) port: u16,
}

/// Mappings and sessions.
#[derive(Debug)]
pub(super) struct Table {
    /// The addresses outside.
    hosts: Vec<Host>,
    ports: Ports,
    lifetimes: Lifetimes,
    sessions: Vec<Option<Session>>,
    links: Vec<Links>,
    free_sessions: Vec<u32>,
    by_inside: Chains,
    by_outside: Chains,
    mappings: Vec<Option<Mapping>>,
    free_mappings: Vec<u32>,
    mappings_by_inside: Chains,
    mappings_by_outside: Chains,
    /// Sessions by mapping and remote host, if filtering needs them.
    by_remote: Option<Chains>,
    expiry: Expiry,
    /// Steps taken to find room, and to check whether a mapping is alive.
    steps: u64,
    /// Most sessions that were there at once.
    peak: usize,
}

impl Table {
    /// For `sessions` sessions and `forwards` forwards; [`Self::knows`] works only `by_remote`.
    pub(super) fn new(
        hosts: Vec<Host>,
        ports: Ports,
        lifetimes: Lifetimes,
        (sessions, forwards): (usize, usize),
        by_remote: bool,
    ) -> Self {
        let mappings = sessions + forwards;
        Self {
            hosts,
            ports,
            lifetimes,
            sessions: vec![None; sessions],
            links: vec![Links { before: NONE, after: NONE }; sessions],
            free_sessions: (0..sessions as u32).rev().collect(),
            by_inside: Chains::new(sessions),
            by_outside: Chains::new(sessions),
            mappings: vec![None; mappings],
            free_mappings: (0..mappings as u32).rev().collect(),
            mappings_by_inside: Chains::new(mappings),
            mappings_by_outside: Chains::new(mappings),
            by_remote: by_remote.then(|| Chains::shared(sessions)),
            expiry: Expiry::new(sessions, lifetimes.all()),
            steps: 0,
            peak: 0,
        }
    }

    /// Number of sessions, including expired ones that have not been removed yet.
    pub(super) const fn len(&self) -> usize {
        self.sessions.len() - self.free_sessions.len()
    }

    /// Places for sessions, and the most that were taken at once.
    pub(super) const fn places(&self) -> (usize, usize) {
        (self.sessions.len(), self.peak)
    }

    pub(super) fn host(&self, address: u8) -> Host {
        self.hosts[usize::from(address)]
    }

    /// A flow from inside, as it appears outside.
    fn outer_key(&self, key: FlowKey, outer: Outer) -> FlowKey {
        key.from(self.host(outer.address), outer.port)
    }

    fn is_expired(&self, session: &Session, now: Tick) -> bool {
        now.since(session.used) >= self.lifetimes.of(session.key.protocol(), session.seen)
    }

    /// The session, if it has not expired.
    fn living(&mut self, place: Option<u32>, now: Tick) -> Option<u32> {
        let place = place?;
        let session = self.sessions[place as usize].as_ref()?;
        if self.is_expired(session, now) {
            self.remove(place);
            return None;
        }
        Some(place)
    }

    /// The session of a flow from inside.
    #[inline]
    pub(super) fn find_inside(&mut self, key: &FlowKey, now: Tick) -> Option<u32> {
        let found = self.place_inside(key);
        self.living(found, now)
    }

    #[inline]
    fn place_inside(&self, key: &FlowKey) -> Option<u32> {
        self.by_inside.find(key.hash(), |place| {
            self.sessions[place as usize].as_ref().is_some_and(|session| session.key == *key)
        })
    }

    /// The session of a flow whose source is an endpoint outside: that of the answers to packets from the flow's
    /// destination.
    #[inline]
    pub(super) fn find_outside(&mut self, outer: &FlowKey, now: Tick) -> Option<u32> {
        let found = self.place_outside(outer);
        self.living(found, now)
    }

    #[inline]
    fn place_outside(&self, outer: &FlowKey) -> Option<u32> {
        self.by_outside.find(outer.hash(), |place| {
            self.sessions[place as usize].as_ref().is_some_and(|session| {
                session.port == outer.source_port()
                    && session.key.has_end_of(outer)
                    && self.hosts[usize::from(session.address)] == outer.source_host()
            })
        })
    }

    /// A flow from inside as it appears outside, if it has a session, expired or not.
    pub(super) fn outer_of(&self, key: &FlowKey) -> Option<FlowKey> {
        let session = self.sessions[self.place_inside(key)? as usize].as_ref()?;
        Some(self.outer_key(session.key, Outer { address: session.address, port: session.port }))
    }

    /// The flow from inside that appears as `outer` outside, if it has a session, expired or not.
    pub(super) fn inner_of(&self, outer: &FlowKey) -> Option<FlowKey> {
        Some(self.sessions[self.place_outside(outer)? as usize].as_ref()?.key)
    }

    #[inline]
    pub(super) fn session(&mut self, place: u32) -> &mut Session {
        self.sessions[place as usize].as_mut().expect("places given out are taken")
    }

    /// The mapping of this key.
    pub(super) fn mapping(&self, key: &FlowKey) -> Option<u32> {
        self.mappings_by_inside.find(key.hash(), |place| {
            self.mappings[place as usize].as_ref().is_some_and(|mapping| mapping.key == *key)
        })
    }

    /// The mapping that has this endpoint outside.
    pub(super) fn mapping_outside(&self, protocol_key: &FlowKey, outer: Outer) -> Option<u32> {
        self.mappings_by_outside.find(outer_hash(protocol_key, outer), |place| {
            self.mappings[place as usize].as_ref().is_some_and(|mapping| {
                (mapping.port, mapping.address) == (outer.port, outer.address)
                    && mapping.key.protocol() == protocol_key.protocol()
                    && mapping.key.version() == protocol_key.version()
            })
        })
    }

    /// The endpoint inside of a mapping, as source of the key.
    pub(super) fn inside(&self, mapping: u32) -> FlowKey {
        self.mappings[mapping as usize].as_ref().expect("places given out are taken").key
    }

    pub(super) fn outer(&self, mapping: u32) -> Outer {
        let mapping = self.mappings[mapping as usize].as_ref().expect("places given out are taken");
        Outer { address: mapping.address, port: mapping.port }
    }

    pub(super) fn is_forward(&self, mapping: u32) -> bool {
        self.mappings[mapping as usize].as_ref().is_some_and(|mapping| mapping.is_forward)
    }

    /// Whether the mapping is a forward or has a session that has not expired. Expired sessions are removed on the
    /// way, and the mapping too if it has no other. A mapping with very many expired sessions may stay for a while.
    /// and the mapping if it has no other; a mapping with very many that expired in silence may stay for a while.
    pub(super) fn is_alive(&mut self, mapping: u32, now: Tick) -> bool {
        for _ in 0..MOST_DEAD {
            self.steps += 1;
            let Some(owner) = &self.mappings[mapping as usize] else { return false };
            let (is_forward, first) = (owner.is_forward, owner.first);
            if is_forward || first == NONE || self.living(Some(first), now).is_some() {
                return is_forward || first != NONE;
            }
        }
        self.mappings[mapping as usize].is_some()
    }

    /// Whether a session of the mapping with this remote host has not expired. Expired sessions are removed on the
    /// way.
    pub(super) fn knows(&mut self, mapping: u32, remote: Host, now: Tick) -> bool {
        let hash = remote_hash(mapping, remote);
        for _ in 0..MOST_DEAD {
            self.steps += 1;
            let Some(index) = &self.by_remote else { return false };
            let found = index.find(hash, |place| {
                self.sessions[place as usize].as_ref().is_some_and(|session| {
                    session.mapping == mapping && session.key.destination_host() == remote
                })
            });
            if found.is_none() || self.living(found, now).is_some() {
                return found.is_some();
            }
        }
        false
    }

    /// A port of the address for a new mapping, free from now on.
    pub(super) fn choose(
        &mut self,
        key: &FlowKey,
        address: u8,
        wanted: Option<u16>,
        draw: u64,
        now: Tick,
    ) -> Option<u16> {
        if let Some(wanted) = wanted.filter(|wanted| self.ports.keeps(key.protocol(), *wanted))
            && let Some(mapping) = self.mapping_outside(key, Outer { address, port: wanted })
        {
            // It is free if that has expired.
            self.is_alive(mapping, now);
        }
        let choose = |table: &Self| table.ports.choose(key.protocol(), address.into(), wanted, draw);
        choose(self).or_else(|| {
            self.expire_now(now);
            choose(self)
        })
    }

    /// Adds a mapping of `key`, which is not there, to `outer`, which is free. There are as many places as sessions and
    /// forwards, and every mapping has one of either.
    pub(super) fn map(&mut self, key: FlowKey, outer: Outer, is_forward: bool) -> Option<u32> {
        let place = self.free_mappings.pop()?;
        self.mappings[place as usize] =
            Some(Mapping { key, port: outer.port, address: outer.address, is_forward, first: NONE });
        self.index_mapping(place, &key, outer);
        Some(place)
    }

    fn index_mapping(&mut self, place: u32, key: &FlowKey, outer: Outer) {
        self.mappings_by_inside.insert(key.hash(), place);
        self.mappings_by_outside.insert(outer_hash(key, outer), place);
        self.ports.take(key.protocol(), outer.address.into(), outer.port);
    }

    /// Steps taken since the start to find room, or to check whether a mapping is alive.
    #[cfg(test)]
    pub(super) const fn steps(&self) -> u64 {
        self.steps
    }

    /// Adds a session of a mapping.
    pub(super) fn open(&mut self, key: FlowKey, mapping: u32, now: Tick) -> Option<u32> {
        let place = self.free_sessions.pop()?;
        self.peak = self.peak.max(self.len());
        let outer = self.outer(mapping);
        let (port, address) = (outer.port, outer.address);
        self.sessions[place as usize] =
            Some(Session { key, port, address, seen: TcpSeen::default(), clock: 0, used: now, mapping });
        self.by_inside.insert(key.hash(), place);
        self.by_outside.insert(self.outer_key(key, outer).hash(), place);
        if let Some(index) = &mut self.by_remote {
            index.insert(remote_hash(mapping, key.destination_host()), place);
        }
        let class = Lifetimes::class(key.protocol(), TcpSeen::default());
        self.expiry.insert(place, class, now.after(self.lifetimes.all()[class]));
        let owner = self.mappings[mapping as usize].as_mut().expect("places given out are taken");
        let after = std::mem::replace(&mut owner.first, place);
        self.links[place as usize] = Links { before: NONE, after };
        if after != NONE {
            self.links[after as usize].before = place;
        }
        Some(place)
    }

    /// Forgets a session, and its mapping if it was the last.
    fn remove(&mut self, place: u32) {
        let Some(session) = self.sessions[place as usize].take() else { return };
        let outer = Outer { address: session.address, port: session.port };
        self.by_inside.remove(session.key.hash(), place);
        self.by_outside.remove(self.outer_key(session.key, outer).hash(), place);
        if let Some(index) = &mut self.by_remote {
            index.remove(remote_hash(session.mapping, session.key.destination_host()), place);
        }
        self.expiry.remove(place);
        self.free_sessions.push(place);
        let Links { before, after } = self.links[place as usize];
        if after != NONE {
            self.links[after as usize].before = before;
        }
        if before != NONE {
            self.links[before as usize].after = after;
            return;
        }
        let mapping = self.mappings[session.mapping as usize].as_mut().expect("sessions have mappings");
        mapping.first = after;
        if after == NONE && !mapping.is_forward {
            self.unmap(session.mapping);
        }
    }

    fn unmap(&mut self, place: u32) {
        let Some(mapping) = self.mappings[place as usize].take() else { return };
        let outer = Outer { address: mapping.address, port: mapping.port };
        self.mappings_by_inside.remove(mapping.key.hash(), place);
        self.mappings_by_outside.remove(outer_hash(&mapping.key, outer), place);
        self.ports.give(mapping.key.protocol(), mapping.address.into(), mapping.port);
        self.free_mappings.push(place);
    }

    /// Forgets every session, and every mapping that is not a forward: all at once, not one by one.
    #[cold]
    pub(super) fn clear(&mut self) {
        for index in [
            &mut self.by_inside,
            &mut self.by_outside,
            &mut self.mappings_by_inside,
            &mut self.mappings_by_outside,
        ] {
            index.clear();
        }
        if let Some(index) = &mut self.by_remote {
            index.clear();
        }
        self.expiry.clear();
        self.ports.clear();
        self.sessions.fill(None);
        self.free_sessions.clear();
        self.free_sessions.extend((0..self.sessions.len() as u32).rev());
        // Forwards came first, and each still has its place.
        let forwards = self.mappings.iter().take_while(|mapping| mapping.is_some_and(|one| one.is_forward));
        let forwards = forwards.count();
        self.mappings[forwards..].fill(None);
        self.free_mappings.clear();
        self.free_mappings.extend((forwards as u32..self.mappings.len() as u32).rev());
        for place in 0..forwards {
            if let Some(mapping) = &mut self.mappings[place] {
                mapping.first = NONE;
                let (key, outer) = (mapping.key, Outer { address: mapping.address, port: mapping.port });
                self.index_mapping(place as u32, &key, outer);
            }
        }
    }

    /// Everything that must hold, for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut outers = std::collections::BTreeSet::new();
        for mapping in self.mappings.iter().flatten() {
            let outer = (mapping.key.protocol(), mapping.key.version(), mapping.address, mapping.port);
            assert!(outers.insert(outer), "two mappings share {outer:?}");
            assert!(mapping.is_forward || mapping.first != NONE, "a mapping without session");
        }
        for (place, session) in self.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            let outer = self.outer_key(session.key, Outer { address: session.address, port: session.port });
            assert!(self.by_inside.find(session.key.hash(), |found| found == place as u32).is_some());
            assert!(self.by_outside.find(outer.hash(), |found| found == place as u32).is_some());
            let mapping = self.mappings[session.mapping as usize].as_ref().unwrap();
            assert_eq!((mapping.port, mapping.address), (session.port, session.address));
            assert_eq!(mapping.key.source(), session.key.source());
        }
        let (mappings, sessions) = (self.mappings.iter().flatten().count(), self.len());
        assert!(sessions == self.sessions.iter().flatten().count() && sessions <= self.sessions.len());
        assert_eq!(mappings + self.free_mappings.len(), self.mappings.len());
    }
}

fn outer_hash(key: &FlowKey, outer: Outer) -> u64 {
    let host = Host::NONE;
    FlowKey::of(key.protocol(), key.version(), (host, outer.port), (host, outer.address.into())).hash()
}

/// The hash of a mapping and a remote host.
fn remote_hash(mapping: u32, remote: Host) -> u64 {
    let number = (Host::NONE, (mapping >> 16) as u16);
    FlowKey::of(0, Version::V6, (remote, mapping as u16), number).hash()
}
