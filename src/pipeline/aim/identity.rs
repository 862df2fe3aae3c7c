//! The identity of a flow for random draws: what stays the same when the same traffic runs again.
//!
//! Model: both directions of a connection are identified by the protocol, the IP version, the service, and the
//! ordinal of the connection among those that came to this service by the same port. The two directions differ by one
//! bit pattern. Ephemeral ports, ICMP echo identifiers and the client's address are not part of the identity.
//!
//! The service is the end that was called. For TCP, this is the receiver of a SYN or the sender of a SYN-ACK; if
//! neither was seen (a capture that begins in the middle), it is the end with the lower port. For echo requests and
//! replies, it is the host that is pinged. For everything else, and for TCP between equal ports, it is the
//! destination of the first packet seen in either direction. Fragments have no ports: all fragments between two hosts
//! form a connection of their own.
//!
//! As little as possible of the service's address is part of the identity. The first address of a port counts as no
//! address: so a run of `exec`, whose addresses may differ, and a capture from elsewhere give the same identity. For
//! any other address, only the part counts that the prefix of its route leaves open; nothing counts if no route leads
//! there.
//!
//! If a TCP SYN in a known flow has another sequence number than the SYN before, it opens a new connection: both its
//! directions begin again at index 0. Other protocols have no such sign: a UDP client that reuses a port continues
//! the old flow.
//!
//! The workers share the counters ([`Ordinals`]); one worker handles both directions of a connection. If both
//! directions of a connection were forgotten ([`FlowTable`]), it gets the next ordinal when it comes back. If one
//! direction is still known, the connection keeps its ordinal.

use std::sync::Arc;

use crate::pipeline::aim::flow::{FlowTable, Name};
use crate::pipeline::aim::ordinals::{Ordinal, Ordinals};
use crate::pipeline::nat::Nat;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Identity, PortParams, RouterParams};
use crate::pipeline::random::rng::mix;
use crate::pipeline::router::routes::Routes;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{FlowKey, Tcp, protocol, tcp::flag};

/// The answering direction has the identity with these bits flipped: digits of e.
const TURNED: u64 = 0xb7e1_5162_8aed_2a6a;

/// Connections that one worker has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Named {
    /// All connections.
    pub connections: u64,
    /// Connections that came within a millisecond of another to the same service: their order may differ in the next
    /// run.
    pub close: u64,
    /// Connections that share a counter with another service, because there are more services than counters.
    pub shared: u64,
}

impl std::ops::AddAssign for Named {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.close += other.close;
        self.shared += other.shared;
    }
}

/// Gives flows their names.
#[derive(Debug)]
pub struct Identities {
    rule: Identity,
    ordinals: Arc<Ordinals>,
    ports: Vec<PortParams>,
    named: Named,
}

/// A flow without a name.
#[derive(Debug, Clone, Copy)]
pub struct Unnamed<'a> {
    /// Its first packet, or the SYN that opens another connection in it.
    pub packet: &'a Packet,
    /// The key of the packet's flow.
    pub key: &'a FlowKey,
    /// The hash of the key.
    pub hash: u64,
    /// The port by which it leaves, if it does; else that by which it came.
    pub egress: u16,
}

/// Tells connections whose beginning was not seen from others of the same service.
const MIDDLE: u64 = 0x6D69_6464_6C65_0001;

/// What a packet says about which end opened its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Its sender opened it; with [`Name::opened`].
    Opens(u32),
    /// Its receiver opened it.
    Answers,
    /// A TCP packet that does not tell.
    Middle,
    /// Not TCP: nothing is known.
    None,
}

/// Whether the packet is a TCP SYN, which may begin a connection in a flow that is known.
#[inline]
pub fn is_syn(packet: &Packet) -> bool {
    packet.tcp_flags().is_some_and(|flags| flags & (flag::SYN | flag::ACK) == flag::SYN)
}

impl Identities {
    /// Names flows by the rule of `params`, with counters that all workers of a router share.
    pub fn new(params: &RouterParams, ordinals: Arc<Ordinals>) -> Self {
        Self { rule: params.identity, ordinals, ports: params.ports.clone(), named: Named::default() }
    }

    /// Connections that were named.
    pub const fn named(&self) -> Named {
        self.named
    }

    /// Whether `packet`, in a known flow, has to be checked for opening another connection.
    #[inline]
    pub fn asks_about(&self, packet: &Packet) -> bool {
        self.rule == Identity::Service && is_syn(packet)
    }

    /// The name of a new flow.
    pub(in crate::pipeline) fn name(
        &mut self,
        flow: Unnamed<'_>,
        table: &mut FlowTable,
        routes: &Routes,
        nats: &[Nat],
        now: Instant,
    ) -> Name {
        if self.rule == Identity::Tuple {
            return Name { identity: flow.hash, opened: 0 };
        }
        let sign = Sign::of(flow.packet);
        let opened = if let Sign::Opens(opened) = sign { Some(opened) } else { None };
        // The same packets seen at another port, or the other direction of the connection.
        if let Some(name) = table.name_of(flow.key, opened) {
            return name;
        }
        let opposites = || opposites(flow.key, nats);
        if opened.is_none()
            && let Some(name) = opposites().find_map(|key| table.name_of(&key, None))
        {
            return name.turned();
        }
        let name = self.new_name(flow, sign, routes, now);
        if opened.is_some() {
            // The flow that answered an earlier connection between the same ports now answers this one.
            opposites().for_each(|key| table.rename_all(&key, name.turned()));
        }
        name
    }

    /// Whether the SYN `packet` opens another connection than the one called `name`.
    pub(in crate::pipeline) fn is_another(packet: &Packet, name: Name) -> bool {
        matches!(Sign::of(packet), Sign::Opens(opened) if opened != name.opened)
    }

    /// The name of a new connection.
    fn new_name(&mut self, flow: Unnamed<'_>, sign: Sign, routes: &Routes, now: Instant) -> Name {
        let key = flow.key;
        let (from, to) = (key.source_port(), key.destination_port());
        let is_turned = match sign {
            Sign::Answers => true,
            Sign::Middle => from < to,
            Sign::Opens(_) | Sign::None => false,
        };
        let called = if is_turned { key.reversed() } else { *key };
        let ports =
            if is_turned { (flow.egress, flow.packet.ingress) } else { (flow.packet.ingress, flow.egress) };
        // Connections seen from the middle have their own numbers: leftovers of an earlier run must not shift the
        // numbers of connections.
        let middle = if sign == Sign::Middle { MIDDLE } else { 0 };
        let service = self.service(&called, routes) ^ middle;
        let counter = mix(service ^ u64::from(ports.0) << 32 ^ u64::from(ports.1));
        let Ordinal { number, is_close, is_shared } = self.ordinals.next(counter, now);
        self.named += Named { connections: 1, close: is_close.into(), shared: is_shared.into() };
        let name = Name {
            identity: mix(service.wrapping_add(mix(number))),
            opened: if let Sign::Opens(opened) = sign { opened } else { 0 },
        };
        if is_turned { name.turned() } else { name }
    }

    /// A hash of the service that `key` leads to.
    fn service(&self, key: &FlowKey, routes: &Routes) -> u64 {
        let port = match key.protocol() {
            // An echo request has its identifier in the place of the port.
            protocol::ICMP | protocol::ICMPV6 => 0,
            _ => key.destination_port(),
        };
        let kind = u64::from(port) | u64::from(key.protocol()) << 16 | (key.version() as u64) << 24;
        mix(mix(kind) ^ self.host(key, routes))
    }

    /// The part of the destination address of `key` that counts.
    fn host(&self, key: &FlowKey, routes: &Routes) -> u64 {
        let address = key.destination();
        let is_of = |port: &PortParams| {
            let mut of_version =
                port.addresses.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4());
            of_version.next().is_some_and(|net| net.addr() == address)
        };
        if self.ports.iter().any(is_of) {
            return 0;
        }
        let Some(prefix) = routes.prefix_of(address) else { return 0 };
        let open = match (address, prefix.hostmask()) {
            (std::net::IpAddr::V4(address), std::net::IpAddr::V4(mask)) => {
                u128::from(u32::from(address & mask))
            }
            (std::net::IpAddr::V6(address), std::net::IpAddr::V6(mask)) => u128::from(address & mask),
            _ => 0,
        };
        mix(open as u64 ^ mix((open >> 64) as u64 + 1))
    }
}

/// The flows that answer `key`: on this side of the translators and on the other side.
fn opposites(key: &FlowKey, nats: &[Nat]) -> impl Iterator<Item = FlowKey> {
    let translated = nats.iter().filter_map(|nat| nat.translated(key)).map(FlowKey::answers);
    std::iter::once(key.answers()).chain(translated)
}

impl Name {
    /// The name of the other direction.
    const fn turned(self) -> Self {
        Self { identity: self.identity ^ TURNED, ..self }
    }
}

impl Sign {
    fn of(packet: &Packet) -> Self {
        let (layout, at) = (packet.layout, packet.layout.transport_offset());
        if layout.is_fragment() || layout.is_transport_malformed() {
            return Self::None;
        }
        match layout.protocol() {
            protocol::TCP => {
                let Ok(tcp) = Tcp::new(&packet.bytes()[at..]) else { return Self::None };
                match tcp.flags() & (flag::SYN | flag::ACK) {
                    flag::SYN => Self::Opens(tcp.sequence().wrapping_add(1)),
                    both if both & flag::SYN != 0 => Self::Answers,
                    _ => Self::Middle,
                }
            }
            protocol::ICMP if packet.bytes()[at] == 0 => Self::Answers,
            protocol::ICMPV6 if packet.bytes()[at] == 129 => Self::Answers,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests;
