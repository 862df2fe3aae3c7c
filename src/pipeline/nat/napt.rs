//! Address and port translation: finds the session of a packet, and translates the packet.
//!
//! Model: RFC 3022 section 2.2, with the behaviours of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP). A mapping
//! connects an endpoint inside with a port outside, for all remote endpoints or for some (`mapping`). No two mappings
//! share a port. A session is a mapping with one remote endpoint; it has a timeout. Packets from outside may enter if
//! a session or a forward expects them, or if `filtering` lets them through to a mapping. TCP, UDP and ICMP echoes
//! have sessions, and ICMP errors follow theirs; everything else is dropped. Later fragments follow their first one.
//! Differs from Linux: Linux gives one port to several mappings whose remote endpoints differ.

use crate::pipeline::counters::Reason;
use crate::pipeline::nat::Fill;
use crate::pipeline::nat::clock::SharedClock;
use crate::pipeline::nat::fragments::{Datagram, Fragments};
use crate::pipeline::nat::kind::{Kind, is_request, kind, plain};
use crate::pipeline::nat::ports::Ports;
use crate::pipeline::nat::session::{Lifetimes, Session, Tick};
use crate::pipeline::nat::table::{Outer, Table};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Dependence, Forward, MidStream, NaptParams, NatClock, Rebind};
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{End, FlowKey, Host, Version, protocol, set_endpoint};
use std::net::IpAddr;

/// Counts the ports that each endpoint was given; endpoints with the same hash share a counter.
const ORDINALS: usize = 4096;

/// A translator of addresses and ports.
#[derive(Debug)]
pub(super) struct Napt {
    pub(super) table: Table,
    fragments: Fragments,
    pub(super) key: StageKey,
    /// Indices of the addresses of each family.
    v4: Vec<u8>,
    v6: Vec<u8>,
    pub(super) mapping: Dependence,
    pub(super) filtering: Dependence,
    pub(super) hairpins: bool,
    inbound_refresh: bool,
    clock: Option<SharedClock>,
    mid_stream: MidStream,
    pub(super) has_forwards: bool,
    rebind: Option<Rebind>,
    /// When work is due that does not depend on packets: to rebind, or to look for expired sessions.
    chores: Instant,
    /// How often the translator has forgotten everything.
    pub(super) rebinds: u32,
    /// By how many addresses the hosts of each family have been shifted since the start.
    moved: [usize; 2],
    ordinals: Vec<u32>,
    /// Packets for which there was no room for a session, or no port.
    refused: u64,
}

impl Napt {
    pub(super) fn new(params: &NaptParams, key: StageKey) -> Self {
        let hosts: Vec<Host> = params.addresses.iter().map(|address| Host::from(*address)).collect();
        let family = |v4: bool| {
            (0..hosts.len()).filter(|at| params.addresses[*at].is_ipv4() == v4).map(|at| at as u8).collect()
        };
        let (v4, v6) = (family(true), family(false));
        let ports = Ports::new(params.ports.clone(), params.allocation, hosts.len());
        let lifetimes = Lifetimes::new(&params.timeouts);
        let places = (params.table_size, params.forwards.len());
        let by_remote = params.filtering == Dependence::Address;
        let mut table = Table::new(hosts, ports, lifetimes, places, by_remote);
        for forward in &params.forwards {
            let (key, outer) = forwarded(forward);
            table.map(key, outer, true);
        }
        Self {
            table,
            fragments: Fragments::new(),
            key,
            v4,
            v6,
            mapping: params.mapping,
            filtering: params.filtering,
            hairpins: params.hairpin,
            inbound_refresh: params.inbound_refresh,
            clock: (params.clock == NatClock::One).then(SharedClock::default),
            mid_stream: params.mid_stream,
            has_forwards: !params.forwards.is_empty(),
            rebind: params.rebind,
            chores: Instant::ZERO,
            rebinds: 0,
            moved: [0; 2],
            ordinals: vec![0; ORDINALS],
            refused: 0,
        }
    }

    const fn refuse(&mut self, reason: Reason) {
        self.refused += matches!(reason, Reason::NatTableFull | Reason::NatPortsExhausted) as u64;
    }

    /// How full the table is and was.
    pub(super) const fn fill(&self) -> Fill {
        let (places, peak) = self.table.places();
        Fill { sessions: self.sessions(), peak, places, refused: self.refused }
    }

    /// Sessions in the table.
    pub(super) const fn sessions(&self) -> usize {
        self.table.len()
    }

    /// See [`super::Nat::translated`].
    pub(super) fn translated(&self, key: &FlowKey) -> Option<FlowKey> {
        self.table.outer_of(key).or_else(|| Some(self.table.inner_of(&key.answers())?.answers()))
    }

    pub(super) fn pool(&self, version: Version) -> &[u8] {
        match version {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        }
    }

    /// The index of a host's address outside, by the host's hash. It stays the same until the next rebinding, which
    /// selects another one if there are several.
    /// if there is another.
    pub(super) fn address_of(&self, host: u64, version: Version) -> u8 {
        let (pool, moved) = (self.pool(version), self.moved[usize::from(version == Version::V6)]);
        let at = (host % pool.len() as u64) as usize + moved;
        pool[at % pool.len()]
    }

    /// The index of an address outside.
    pub(super) fn address(&self, host: Host, version: Version) -> Option<u8> {
        self.pool(version).iter().copied().find(|address| self.table.host(*address) == host)
    }

    /// Translates the source of an outbound packet; returns whether anything had to be changed.
    #[inline]
    pub(super) fn outward(&mut self, packet: &mut Packet, now: Instant) -> Result<bool, Reason> {
        self.keep_house(now);
        let tick = Tick::of(now);
        if self.pool(packet.layout.version()).is_empty() {
            return Ok(false);
        }
        if let Some(key) = plain(packet) {
            return self.session_outward(packet, key, now);
        }
        match kind(packet)? {
            Kind::Session(key) => return self.session_outward(packet, key, now),
            Kind::Later => {
                let host = self.of_first(packet, End::Source, tick)?;
                self.change(packet, End::Source, host, None, tick);
            }
            Kind::Error(quote) => self.error_outward(packet, quote, tick)?,
        }
        Ok(true)
    }

    #[inline]
    fn session_outward(&mut self, packet: &mut Packet, key: FlowKey, now: Instant) -> Result<bool, Reason> {
        let tick = Tick::of(now);
        let place = if let Some(place) = self.table.find_inside(&key, tick) {
            place
        } else {
            let may_begin = self.may_begin(packet);
            match self.open_outward(key, may_begin, tick).inspect_err(|reason| self.refuse(*reason))? {
                Some(place) => place,
                None => return Ok(false),
            }
        };
        let clock = self.clock.as_mut();
        let session = self.table.session(place);
        session.used = tick;
        let (address, port) = (session.address, session.port);
        if key.protocol() == protocol::TCP && follow(session, packet, true, clock, now) {
            self.table.schedule(place);
        }
        let host = self.table.host(address);
        self.change(packet, End::Source, host, Some(port), tick);
        Ok(true)
    }

    /// Whether the first fragment of this later fragment's datagram has passed.
    pub(super) fn knows_first(&self, packet: &Packet, outward: bool, now: Instant) -> bool {
        let end = if outward { End::Source } else { End::Destination };
        self.of_first(packet, end, Tick::of(now)).is_ok()
    }

    /// The translation of the first fragment of this later fragment's datagram.
    fn of_first(&self, packet: &Packet, end: End, tick: Tick) -> Result<Host, Reason> {
        let host = Datagram::of(packet, end).and_then(|datagram| self.fragments.find(&datagram, tick));
        host.ok_or(Reason::NatFragment)
    }

    /// The address inside to which a packet for an address outside goes. Nothing changes.
    #[inline]
    pub(super) fn route(&mut self, packet: &Packet, now: Instant) -> Result<Host, Reason> {
        self.keep_house(now);
        let tick = Tick::of(now);
        if let Some(key) = plain(packet) {
            return self.route_session(&key, tick);
        }
        match kind(packet)? {
            Kind::Session(_) if is_request(packet) => Err(Reason::NatNoMapping),
            Kind::Session(key) => {
                let host = self.route_session(&key, tick)?;
                // It may wait before it is translated, and later fragments may come before that.
                self.remember(packet, End::Destination, host, tick);
                Ok(host)
            }
            Kind::Later => self.of_first(packet, End::Destination, tick),
            Kind::Error(quote) => self.route_error(&quote, tick),
        }
    }

    #[inline]
    fn route_session(&mut self, key: &FlowKey, tick: Tick) -> Result<Host, Reason> {
        let outer = key.answers();
        if let Some(place) = self.table.find_outside(&outer, tick) {
            return Ok(self.table.session(place).key.source_host());
        }
        let mapping = self.mapping_of(&outer, tick)?;
        Ok(self.table.inside(mapping).source_host())
    }

    /// Translates the destination of an inbound packet.
    #[inline]
    pub(super) fn inward(&mut self, packet: &mut Packet, now: Instant) -> Result<bool, Reason> {
        self.keep_house(now);
        let tick = Tick::of(now);
        if self.pool(packet.layout.version()).is_empty() {
            return Ok(false);
        }
        if let Some(key) = plain(packet) {
            return self.session_inward(packet, &key, now);
        }
        if self.address(packet.destination().into(), packet.layout.version()).is_none() {
            return Ok(false);
        }
        match kind(packet)? {
            Kind::Session(_) if is_request(packet) => return Err(Reason::NatNoMapping),
            Kind::Session(key) => return self.session_inward(packet, &key, now),
            Kind::Later => {
                let host = self.of_first(packet, End::Destination, tick)?;
                self.change(packet, End::Destination, host, None, tick);
            }
            Kind::Error(quote) => self.error_inward(packet, quote, tick)?,
        }
        Ok(true)
    }

    #[inline]
    fn session_inward(&mut self, packet: &mut Packet, key: &FlowKey, now: Instant) -> Result<bool, Reason> {
        let (tick, outer) = (Tick::of(now), key.answers());
        let (place, refresh) = match self.table.find_outside(&outer, tick) {
            Some(place) => (place, self.inbound_refresh),
            // The packet is for another endpoint.
            None if self.address(key.destination_host(), key.version()).is_none() => return Ok(false),
            None => {
                let may_begin = self.may_begin(packet);
                let opened = self.open_inward(&outer, may_begin, tick);
                (opened.inspect_err(|reason| self.refuse(*reason))?, true)
            }
        };
        let clock = self.clock.as_mut();
        let session = self.table.session(place);
        if refresh {
            session.used = tick;
        }
        let (host, port) = (session.key.source_host(), session.key.source_port());
        if key.protocol() == protocol::TCP && follow(session, packet, false, clock, now) {
            self.table.schedule(place);
        }
        self.change(packet, End::Destination, host, Some(port), tick);
        Ok(true)
    }

    /// If the packet is a first fragment, remembers the translation of this end for the later fragments.
    #[inline]
    fn remember(&mut self, packet: &Packet, end: End, host: Host, tick: Tick) {
        if packet.layout.is_first_fragment()
            && let Some(datagram) = Datagram::of(packet, end)
        {
            self.fragments.remember(datagram, host, tick);
        }
    }

    /// Changes an end of the packet, and remembers it for later fragments.
    #[inline]
    pub(super) fn change(
        &mut self,
        packet: &mut Packet,
        end: End,
        host: Host,
        port: Option<u16>,
        tick: Tick,
    ) {
        self.remember(packet, end, host, tick);
        let (layout, update) = (packet.layout, packet.checksum_update());
        set_endpoint(packet.bytes_mut(), layout, end, host, port, update);
    }

    /// Does the work whose time has come.
    #[inline]
    fn keep_house(&mut self, now: Instant) {
        if now >= self.chores {
            self.do_chores(now);
        }
    }

    #[cold]
    fn do_chores(&mut self, now: Instant) {
        if let Some(rebind) = self.rebind
            && now.as_nanos() >= rebind.at.as_nanos()
        {
            self.forget(rebind, now);
        }
        let wait = self.table.expire(Tick::of(now));
        let look = if wait == 0 { now } else { Tick::instant_after(now, wait) };
        self.chores = self.rebind.map_or(look, |rebind| look.min(Instant::ZERO + rebind.at));
    }

    /// Forgets everything, and shifts hosts to other addresses and ports.
    fn forget(&mut self, rebind: Rebind, now: Instant) {
        self.table.clear();
        self.fragments.clear();
        self.rebinds += 1;
        let draw = self.key.part(1).stream(0, 0).word(self.rebinds.into(), 0);
        for (moved, pool) in
            self.moved.iter_mut().zip([&self.v4, &self.v6]).filter(|(_, pool)| pool.len() > 1)
        {
            // By at least one, and less than a full round.
            let others = pool.len() - 1;
            *moved = (*moved + 1 + draw as usize % others) % pool.len();
        }
        self.rebind = rebind.every.map(|every| {
            let (first, every) = (rebind.at.as_nanos(), every.as_nanos().max(1));
            let missed = (now.as_nanos() - first) / every;
            Rebind { at: Duration::from_nanos(first + (missed + 1) * every), ..rebind }
        });
    }

    /// A number for a new mapping of this endpoint, a different one each time, so that each mapping has a new draw.
    /// It depends on how often this endpoint was given a port before, not on other endpoints.
    /// how often that endpoint was given a port before, not on what others do.
    pub(super) fn draw(&mut self, endpoint: u64) -> u64 {
        let ordinal = &mut self.ordinals[(endpoint >> 40) as usize % ORDINALS];
        let draw = self.key.stream(endpoint, 0).word(u64::from(*ordinal), 0);
        *ordinal = ordinal.wrapping_add(1);
        draw
    }

    /// Whether a packet that belongs to no session may begin one.
    fn may_begin(&self, packet: &Packet) -> bool {
        let begins = |bits: u8| bits & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
        self.mid_stream == MidStream::Open || packet.tcp_flags().is_none_or(begins)
    }

    /// Whether the sender inside of a segment without a session is answered by RST.
    pub(super) fn resets(&self) -> bool {
        self.mid_stream == MidStream::Reset
    }

    /// See [`Table::steps`].
    #[cfg(test)]
    pub(super) const fn steps(&self) -> u64 {
        self.table.steps()
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.table.check();
    }
}

/// The key of a forward's mapping, and its endpoint outside.
fn forwarded(forward: &Forward) -> (FlowKey, Outer) {
    let version = match forward.to.0 {
        IpAddr::V4(_) => Version::V4,
        IpAddr::V6(_) => Version::V6,
    };
    let inside = (Host::from(forward.to.0), forward.to.1);
    let key = FlowKey::of(forward.protocol, version, inside, (Host::NONE, 0));
    (key, Outer { address: forward.address as u8, port: forward.port })
}

/// Tracks a TCP connection, and changes its timestamps if all connections share a clock. Returns whether its timeout
/// may have changed.
/// one from now on.
#[inline]
fn follow(
    session: &mut Session,
    packet: &mut Packet,
    outward: bool,
    clock: Option<&mut SharedClock>,
    now: Instant,
) -> bool {
    let Some(flags) = packet.tcp_flags() else { return false };
    let before = session.seen;
    session.seen = before.after(flags, outward);
    if let Some(clock) = clock {
        clock.translate(session, before, packet, (flags, outward), now);
    }
    session.seen != before
}
