//! Address translators between hosts inside and the outside network.
//!
//! A translator belongs to the router, not to a path: it has a place in several paths, outbound and inbound
//! ([`crate::pipeline::params::NatPlace`]). Packets for its addresses are routed by its sessions. One worker must
//! handle all its packets, since the two sides of a session have different 5-tuples.

mod around;
mod clock;
mod expiry;
mod fragments;
mod free;
mod kind;
mod napt;
mod open;
mod ports;
mod prefix;
mod session;
mod table;
mod translators;
mod waiting;

pub(crate) use translators::Translators;
pub(crate) use waiting::Early;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{NatKind, NatParams};
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{End, FlowKey, Host, Layout, Quote, Version, quote, set_endpoint};

/// How full the table of a translator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Sessions in the table, including expired ones that have not been removed yet.
    pub sessions: usize,
    /// The most that there were at once.
    pub peak: usize,
    /// Places for them.
    pub places: usize,
    /// Packets for which there was no place for a session, or no free port.
    pub refused: u64,
}

/// One translator.
#[derive(Debug)]
pub struct Nat {
    name: String,
    outside: Vec<IpAddr>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Napt(Box<napt::Napt>),
    Prefix(prefix::Prefix),
}

impl Nat {
    /// A translator with an empty table.
    pub fn new(params: &NatParams, seed: u64) -> Self {
        match &params.kind {
            NatKind::Napt(napt) => Self {
                name: params.name.clone(),
                outside: napt.addresses.clone(),
                kind: Kind::Napt(Box::new(napt::Napt::new(
                    napt,
                    StageKey::new(seed, &format!("nat/{}", params.name)),
                ))),
            },
            NatKind::Prefix(prefix) => Self {
                name: params.name.clone(),
                outside: Vec::new(),
                kind: Kind::Prefix(prefix::Prefix::new(prefix)),
            },
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How full its table is; `None` if it has none.
    pub const fn fill(&self) -> Option<Fill> {
        match &self.kind {
            Kind::Napt(napt) => Some(napt.fill()),
            Kind::Prefix(_) => None,
        }
    }

    /// Whether the sender inside of a segment without a session ([`Reason::NatNoSession`]) is answered by RST.
    pub fn resets(&self) -> bool {
        match &self.kind {
            Kind::Napt(napt) => napt.resets(),
            Kind::Prefix(_) => false,
        }
    }

    /// Whether the translator routes packets to this address.
    pub fn owns(&self, address: IpAddr) -> bool {
        match &self.kind {
            Kind::Napt(_) => self.outside.contains(&address),
            Kind::Prefix(prefix) => prefix.inward(address).is_some(),
        }
    }

    /// The flow `key` as the other side of the translator sees it, if there is a session or a prefix for it. Nothing changes.
    pub fn translated(&self, key: &FlowKey) -> Option<FlowKey> {
        match &self.kind {
            Kind::Napt(napt) => napt.translated(key),
            Kind::Prefix(prefix) => {
                let inward =
                    prefix.inward(key.destination()).map(|host| key.to(host, key.destination_port()));
                inward.or_else(|| Some(key.from(prefix.outward(key.source())?, key.source_port())))
            }
        }
    }

    /// Sessions in the table; 0 if there is none.
    pub const fn sessions(&self) -> usize {
        match &self.kind {
            Kind::Napt(napt) => napt.sessions(),
            Kind::Prefix(_) => 0,
        }
    }

    /// Whether the first fragment of this later fragment's datagram has passed, outbound or inbound.
    pub fn knows_first(&self, packet: &Packet, outward: bool, now: Instant) -> bool {
        match &self.kind {
            Kind::Napt(napt) => napt.knows_first(packet, outward, now),
            Kind::Prefix(_) => true,
        }
    }

    /// Where a packet for one of its addresses goes.
    ///
    /// # Errors
    /// Why it goes nowhere.
    #[inline]
    pub fn route(&mut self, packet: &Packet, now: Instant) -> Result<IpAddr, Reason> {
        let version = packet.layout.version();
        match &mut self.kind {
            Kind::Napt(napt) => napt.route(packet, now).map(|host| ip(host, version)),
            Kind::Prefix(prefix) => {
                prefix.inward(packet.destination()).map(|host| ip(host, version)).ok_or(Reason::NatNoMapping)
            }
        }
    }

    /// Translates an outbound or inbound packet; returns whether something changed.
    ///
    /// # Errors
    /// Why it cannot pass.
    #[inline]
    pub fn translate(&mut self, packet: &mut Packet, outward: bool, now: Instant) -> Result<bool, Reason> {
        match &mut self.kind {
            Kind::Napt(napt) if outward => napt.outward(packet, now),
            Kind::Napt(napt) => napt.inward(packet, now),
            Kind::Prefix(prefix) => translate_prefix(prefix, packet, outward),
        }
    }

    /// Translates both ends of a packet from inside to one of its addresses.
    ///
    /// # Errors
    /// Why it cannot pass.
    pub fn hairpin(&mut self, packet: &mut Packet, now: Instant) -> Result<(), Reason> {
        match &mut self.kind {
            Kind::Napt(napt) => napt.hairpin(packet, now),
            Kind::Prefix(prefix) => {
                translate_prefix(prefix, packet, true)?;
                translate_prefix(prefix, packet, false).map(|_| ())
            }
        }
    }

    /// Undoes [`Self::hairpin`], for an error about the packet; false if the session is no longer known.
    pub fn restore_hairpin(&mut self, packet: &mut Packet, now: Instant) -> bool {
        self.restore(packet, false, now) && self.restore(packet, true, now)
    }

    /// Undoes [`Self::translate`], for an error about the packet; false if the session is no longer known.
    pub fn restore(&mut self, packet: &mut Packet, outward: bool, now: Instant) -> bool {
        match &mut self.kind {
            Kind::Napt(napt) => napt.restore(packet, outward, now),
            Kind::Prefix(prefix) => {
                let end = if outward { End::Source } else { End::Destination };
                let host = match end {
                    End::Source => prefix.inward(packet.source()),
                    End::Destination => prefix.outward(packet.destination()),
                };
                if let Some(host) = host {
                    set(packet, end, host);
                }
                true
            }
        }
    }
}

/// Sets an address and nothing else.
fn set(packet: &mut Packet, end: End, host: Host) {
    let (layout, update) = (packet.layout, packet.checksum_update());
    set_endpoint(packet.bytes_mut(), layout, end, host, None, update);
}

fn translate_prefix(prefix: &prefix::Prefix, packet: &mut Packet, outward: bool) -> Result<bool, Reason> {
    let (end, host) = if outward {
        if !prefix.is_inside(packet.source()) {
            return Ok(false);
        }
        (End::Source, prefix.outward(packet.source()).ok_or(Reason::NatUnsupported)?)
    } else {
        let Some(host) = prefix.inward(packet.destination()) else { return Ok(false) };
        (End::Destination, host)
    };
    let layout = packet.layout;
    if quote::is_error(packet.bytes(), layout) {
        translate_quote(prefix, packet, layout, outward);
    }
    set(packet, end, host);
    Ok(true)
}

/// The flow in the opposite direction: the quoted packet went the other way.
fn translate_quote(prefix: &prefix::Prefix, packet: &mut Packet, layout: Layout, outward: bool) {
    let Some(quote) = Quote::read(packet.bytes(), layout) else { return };
    let (end, host) = if outward {
        (End::Destination, prefix.outward(quote.key.destination()))
    } else {
        (End::Source, prefix.inward(quote.key.source()))
    };
    if let Some(host) = host {
        quote.set(packet.bytes_mut(), layout, end, host, None);
    }
}

fn ip(host: Host, version: Version) -> IpAddr {
    let bytes = host.bytes(version);
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => <[u8; 16]>::try_from(bytes).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from).into(),
    }
}

#[cfg(test)]
mod tests;
