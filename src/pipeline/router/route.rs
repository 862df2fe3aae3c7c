//! Where a packet goes: its flow, the route that was decided for the flow, and packets to the router itself.

use std::net::IpAddr;

use super::translate::Asked;
use super::{Egress, Port, Router, What};
use crate::pipeline::aim::flow::{FlowRef, Name};
use crate::pipeline::aim::identity::{Identities, Unnamed};
use crate::pipeline::counters::Reason;
use crate::pipeline::nat::Translators;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::RouteTarget;
use crate::pipeline::router::pairs::Pairs;
use crate::pipeline::router::routes::Routes;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{FlowKey, IcmpError, flow_hash};

/// Where the packets of a flow go: decided when the flow is new, and kept in its table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Along the path with this index.
    Path(u16),
    /// To an address of the translator with this index, which knows the host behind it.
    Translator(u16),
    /// To one of the router's own addresses.
    ToRouter,
    /// Dropped without an ICMP error.
    Blackhole,
    /// Dropped because a route says `unreachable`.
    Unreachable,
    /// Dropped because no route matches.
    None,
}

impl Router {
    /// Finds the packet's flow, gives the packet its number in the flow, and returns the route decided for the flow.
    #[inline]
    pub(super) fn enter_flow(
        &mut self,
        packet: &mut Packet,
        now: Instant,
        decide: impl Fn(&Way<'_>, &Translators, IpAddr) -> Route,
    ) -> Route {
        let hash = flow_hash(packet.bytes(), packet.layout);
        let key = FlowKey::new(packet.bytes(), packet.layout);
        let place = match self.flows.find(hash, packet.ingress, &key) {
            Some(place) if !self.identities.asks_about(packet) => place,
            Some(place) => self.reopen_flow(place, packet, &key, hash, now),
            None => {
                let route = decide(&self.way(), &self.translators, key.destination());
                let name = self.name_flow(packet, &key, hash, route, now);
                self.flows.insert(hash, packet.ingress, &key, route, name)
            }
        };
        let route;
        (packet.flow, packet.index, route) = self.flows.advance(place, packet.wires());
        route
    }

    /// Starts the flow at `place` anew if `packet`, a SYN, opens another connection.
    #[cold]
    pub(super) fn reopen_flow(
        &mut self,
        place: u32,
        packet: &Packet,
        key: &FlowKey,
        hash: u64,
        now: Instant,
    ) -> u32 {
        if Identities::is_another(packet, self.flows.name(place)) {
            let name = self.name_flow(packet, key, hash, self.flows.route(place), now);
            self.flows.rename(place, name);
        }
        place
    }

    /// The name of a flow that begins with `packet` and takes this route.
    #[cold]
    pub(super) fn name_flow(
        &mut self,
        packet: &Packet,
        key: &FlowKey,
        hash: u64,
        route: Route,
        now: Instant,
    ) -> Name {
        let egress = match route {
            Route::Path(path) => self.paths[usize::from(path)].to,
            _ => packet.ingress,
        };
        let flow = Unnamed { packet, key, hash, egress };
        self.identities.name(flow, &mut self.flows, &self.routes, self.translators.all(), now)
    }

    /// Reports a packet that has just been numbered in its flow.
    #[inline]
    pub(super) fn received<E: Egress>(packet: &mut Packet, now: Instant, egress: &mut E) {
        packet.transmission = egress.transmission(packet);
        egress.record(What::Received(packet.ingress), packet, now);
    }

    pub(super) fn way(&self) -> Way<'_> {
        Way { routes: &self.routes, ports: &self.ports, pairs: &self.pairs }
    }

    /// Sends a packet along its route, and returns its flow.
    pub(super) fn route<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) -> FlowRef {
        let ingress = packet.ingress;
        let route = self.enter_flow(packet, now, |way, translators, to| {
            translators.owner(to).map_or_else(|| way.route(ingress, to), Route::Translator)
        });
        let flow = packet.flow;
        if E::RECORDS {
            Self::received(packet, now, egress);
        }
        if let Route::Translator(nat) = route {
            self.route_by_nat(packet, nat, now, egress);
        } else {
            self.follow_route(packet, route, None, now, egress);
        }
        flow
    }

    /// Sends a packet along `route`; a `hairpin` passes both sides of a translator.
    #[inline]
    pub(super) fn follow_route<E: Egress>(
        &mut self,
        packet: &mut Packet,
        route: Route,
        hairpin: Option<u16>,
        now: Instant,
        egress: &mut E,
    ) {
        let reject = match route {
            Route::ToRouter => return self.answer(packet, now, egress),
            Route::Blackhole => return self.drop_whole(packet, None, Reason::Blackhole, now, egress),
            // Callers ask the translator for the real route before.
            Route::None | Route::Unreachable | Route::Translator(_) => {
                Some((Reason::NoRoute, IcmpError::NetUnreachable))
            }
            _ if packet.hop_limit() <= 1 => Some((Reason::TtlExpired, IcmpError::TimeExceeded)),
            Route::Path(path) => {
                packet.path = path;
                None
            }
        };
        if let Some((reason, error)) = reject {
            return self.reject_each(packet, None, reason, error, now, egress);
        }
        packet.decrement_hop_limit();
        if let Some(nat) = hairpin
            && let Err(reason) = self.translators.get(nat).hairpin(packet, now)
        {
            return self.drop_untranslated(packet, Asked::on_arrival(nat), reason, now, egress);
        }
        if E::RECORDS {
            egress.record(What::Entered, packet, now);
        }
        self.run(packet, 0, now, egress);
    }

    /// Answers echo requests; the router accepts no other packets for itself.
    pub(super) fn answer<E: Egress>(&mut self, packet: &mut Packet, now: Instant, egress: &mut E) {
        packet.complete_checksum();
        match self.answers.echo(packet, &mut self.pool) {
            Some(reply) => {
                self.drop_whole(packet, None, Reason::Answered, now, egress);
                self.send_own(reply, None, now, egress);
            }
            None => self.drop_whole(packet, None, Reason::ToRouter, now, egress),
        }
    }
}

/// What decides where a packet goes.
pub(super) struct Way<'a> {
    routes: &'a Routes,
    ports: &'a [Port],
    pairs: &'a Pairs,
}

impl Way<'_> {
    pub(super) fn route(&self, ingress: u16, destination: IpAddr) -> Route {
        if self.ports.iter().any(|port| port.own.contains(&destination)) {
            return Route::ToRouter;
        }
        match self.routes.find(destination) {
            None => Route::None,
            Some(RouteTarget::Unreachable) => Route::Unreachable,
            Some(RouteTarget::Blackhole) => Route::Blackhole,
            Some(RouteTarget::Port(to)) => Route::Path(self.pairs.find(ingress, to as u16)),
        }
    }
}
