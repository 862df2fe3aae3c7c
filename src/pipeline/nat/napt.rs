//! Address and port translation: which session a packet is of, and what that makes of it.
//!
//! Model: RFC 3022 section 2.2, behaviours as RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP) name them. A mapping ties an
//! endpoint inside to a port outside, for all remote endpoints or for some (`mapping`); no two share a port. A session is
//! a mapping with one remote endpoint; it has a timeout. From outside comes in what a session or a forward expects, or
//! what `filtering` lets through to a mapping. TCP, UDP and ICMP echoes have sessions, and ICMP errors follow theirs;
//! all else is dropped. Later fragments follow their first one.
//! Differs from Linux: that gives one port to several mappings whose remote endpoints differ.

use crate::pipeline::counters::Reason;
use crate::pipeline::nat::Fill;
use crate::pipeline::nat::fragments::{Datagram, Fragments};
use crate::pipeline::nat::kind::{Kind, is_request, kind, plain};
use crate::pipeline::nat::ports::Ports;
use crate::pipeline::nat::session::{Lifetimes, Session, Tick};
use crate::pipeline::nat::table::{Outer, Table};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Dependence, Forward, NaptParams, NatClock, Rebind};
use crate::pipeline::rng::StageKey;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{End, FlowKey, Host, Tcp, Version, protocol, set_endpoint};
use std::net::IpAddr;

/// Where the clock begins that all connections share: not at zero, which some take for "no timestamp".
const CLOCK_START: u32 = 1_000_000;

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
    clock: NatClock,
    pub(super) has_forwards: bool,
    rebind: Option<Rebind>,
    pub(super) rebinds: u32,
    /// Packets that found no room for a session, or no port.
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
        let mut table = Table::new(hosts, ports, lifetimes, params.table_size, params.forwards.len());
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
            clock: params.clock,
            has_forwards: !params.forwards.is_empty(),
            rebind: params.rebind,
            rebinds: 0,
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

    pub(super) fn pool(&self, version: Version) -> &[u8] {
        match version {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        }
    }

    /// The index of an address outside.
    pub(super) fn address(&self, host: Host, version: Version) -> Option<u8> {
        self.pool(version).iter().copied().find(|address| self.table.host(*address) == host)
    }

    /// Translates the source of a packet on its way out; whether it had to.
    #[inline]
    pub(super) fn outward(&mut self, packet: &mut Packet, now: Instant) -> Result<bool, Reason> {
        self.rebind_at(now);
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
        let place = match self.table.find_inside(&key, tick) {
            Some(place) => place,
            None => match self.open_outward(key, tick).inspect_err(|reason| self.refuse(*reason))? {
                Some(place) => place,
                None => return Ok(false),
            },
        };
        let clock = self.clock;
        let session = self.table.session(place);
        session.used = tick;
        if key.protocol() == protocol::TCP {
            follow(session, packet, true, clock, now);
        }
        let (address, port) = (session.address, session.port);
        let host = self.table.host(address);
        self.change(packet, End::Source, host, Some(port), tick);
        Ok(true)
    }

    /// Whether the first fragment of a later one's datagram has come by.
    pub(super) fn knows_first(&self, packet: &Packet, outward: bool, now: Instant) -> bool {
        let end = if outward { End::Source } else { End::Destination };
        self.of_first(packet, end, Tick::of(now)).is_ok()
    }

    /// What the first fragment of a later one's datagram was given.
    fn of_first(&self, packet: &Packet, end: End, tick: Tick) -> Result<Host, Reason> {
        let host = Datagram::of(packet, end).and_then(|datagram| self.fragments.find(&datagram, tick));
        host.ok_or(Reason::NatFragment)
    }

    /// The address inside to which a packet for an address outside goes. Nothing changes.
    #[inline]
    pub(super) fn route(&mut self, packet: &Packet, now: Instant) -> Result<Host, Reason> {
        self.rebind_at(now);
        let tick = Tick::of(now);
        if let Some(key) = plain(packet) {
            return self.route_session(&key, tick);
        }
        match kind(packet)? {
            Kind::Session(_) if is_request(packet) => Err(Reason::NatNoMapping),
            Kind::Session(key) => {
                let host = self.route_session(&key, tick)?;
                // It may wait before it is translated, and later fragments come before that.
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

    /// Translates the destination of a packet on its way in.
    #[inline]
    pub(super) fn inward(&mut self, packet: &mut Packet, now: Instant) -> Result<bool, Reason> {
        self.rebind_at(now);
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
            // To somebody else.
            None if self.address(key.destination_host(), key.version()).is_none() => return Ok(false),
            None => (self.open_inward(&outer, tick).inspect_err(|reason| self.refuse(*reason))?, true),
        };
        let clock = self.clock;
        let session = self.table.session(place);
        if refresh {
            session.used = tick;
        }
        if key.protocol() == protocol::TCP {
            follow(session, packet, false, clock, now);
        }
        let (host, port) = (session.key.source_host(), session.key.source_port());
        self.change(packet, End::Destination, host, Some(port), tick);
        Ok(true)
    }

    /// Remembers what becomes of an end of the packet, for the later fragments if it is a first one.
    #[inline]
    fn remember(&mut self, packet: &Packet, end: End, host: Host, tick: Tick) {
        if packet.layout.is_first_fragment()
            && let Some(datagram) = Datagram::of(packet, end)
        {
            self.fragments.remember(datagram, host, tick);
        }
    }

    /// Changes an end of the packet; later fragments of it will follow.
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

    /// Forgets everything if it is time to.
    #[inline]
    fn rebind_at(&mut self, now: Instant) {
        if let Some(rebind) = self.rebind
            && now.as_nanos() >= rebind.at.as_nanos()
        {
            self.forget(rebind, now);
        }
    }

    #[cold]
    fn forget(&mut self, rebind: Rebind, now: Instant) {
        self.table.clear();
        self.fragments.clear();
        self.rebinds += 1;
        self.rebind = rebind.every.map(|every| {
            let (first, every) = (rebind.at.as_nanos(), every.as_nanos().max(1));
            let missed = (now.as_nanos() - first) / every;
            Rebind { at: Duration::from_nanos(first + (missed + 1) * every), ..rebind }
        });
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

/// Follows a TCP connection, and changes its timestamps if they are to be one clock's.
#[inline]
fn follow(session: &mut Session, packet: &mut Packet, outward: bool, clock: NatClock, now: Instant) {
    let Some(flags) = packet.tcp_flags() else { return };
    let before = session.seen;
    session.seen = before.after(flags, outward);
    if clock == NatClock::Pass {
        return;
    }
    let (at, update) = (packet.layout.transport_offset(), packet.checksum_update());
    let Ok(mut tcp) = Tcp::new(&mut packet.bytes_mut()[at..]) else { return };
    let Some((value, echo)) = tcp.timestamps() else { return };
    if outward {
        let is_new = !before.has_clock() || before.begins_anew(flags);
        if flags & flag::SYN != 0 && is_new {
            let reading = CLOCK_START.wrapping_add((now.as_nanos() / 1_000_000) as u32);
            session.clock = reading.wrapping_sub(value);
        }
        tcp.set_timestamps(value.wrapping_add(session.clock), echo, update);
    } else if flags & flag::ACK != 0 {
        tcp.set_timestamps(value, echo.wrapping_sub(session.clock), update);
    }
}
