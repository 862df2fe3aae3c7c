//! All translators of a router, and the fragments that wait at them.

use std::net::IpAddr;

use super::{Early, Nat};
use crate::pipeline::nat::waiting::Waiting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::NatParams;
use crate::pipeline::time::Instant;

/// The translators of one worker's router.
#[derive(Debug)]
pub(crate) struct Translators {
    all: Vec<Nat>,
    /// Later fragments that came before the first of their datagram.
    pub(crate) waiting: Waiting,
}

impl Translators {
    /// Translators with empty tables.
    pub(crate) fn new(params: &[NatParams], seed: u64) -> Self {
        Self { all: params.iter().map(|nat| Nat::new(nat, seed)).collect(), waiting: Waiting::default() }
    }

    /// In the order of the parameters.
    pub(crate) fn all(&self) -> &[Nat] {
        &self.all
    }

    /// The translator of this index.
    #[inline]
    pub(crate) fn get(&mut self, index: u16) -> &mut Nat {
        &mut self.all[usize::from(index)]
    }

    /// Index of the translator that owns `address`.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<u16> {
        self.all.iter().position(|nat| nat.owns(address)).map(|index| index as u16)
    }

    /// Takes out a fragment that no longer has to wait, since its first one has passed, or whose time to wait is
    /// over. `is_outward` tells whether a packet is outbound.
    /// `is_outward` tells whether a packet is on its way out.
    pub(crate) fn next_early(&mut self, now: Instant, is_outward: impl Fn(&Packet) -> bool) -> Option<Early> {
        let all = &self.all;
        self.waiting.next(now, |early| {
            all[usize::from(early.nat)].knows_first(&early.packet, is_outward(&early.packet), now)
        })
    }

    /// Any fragment that waits, while there are some.
    pub(crate) fn relinquish(&mut self) -> Option<Packet> {
        self.waiting.relinquish()
    }

    /// Undoes the translation of both ends of `packet`, if a translator has done one; false if it is no longer known.
    pub(crate) fn restore_hairpin(&mut self, packet: &mut Packet, now: Instant) -> bool {
        let source = packet.source();
        let hairpin = self.all.iter_mut().find(|nat| nat.owns(source));
        hairpin.is_none_or(|nat| nat.restore_hairpin(packet, now))
    }
}
