//! Special cases: packets from inside to inside (hairpins), ICMP errors, and the undoing of translations.

use crate::pipeline::counters::Reason;
use crate::pipeline::nat::kind::{Kind, kind};
use crate::pipeline::nat::napt::Napt;
use crate::pipeline::nat::session::Tick;
use crate::pipeline::packet::Packet;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{End, FlowKey, Host, Quote, set_endpoint};

impl Napt {
    /// Translates both ends of a packet from inside to an address outside: it stays inside (RFC 4787 section 6). The source
    /// is the one outside, as REQ-9 asks; an error is about what its receiver sent (RFC 5508 REQ-7).
    pub(super) fn hairpin(&mut self, packet: &mut Packet, now: Instant) -> Result<(), Reason> {
        if !self.hairpins {
            return Err(Reason::NatFiltered);
        }
        self.outward(packet, now)?;
        self.inward(packet, now)?;
        Ok(())
    }

    /// The host inside that an error concerns: it sent the packet that the error quotes.
    pub(super) fn route_error(&mut self, quote: &Quote, tick: Tick) -> Result<Host, Reason> {
        let place = if let Some(place) = self.table.find_outside(&quote.key, tick) {
            place
        } else {
            // An error from inside about a hairpin: it quotes a packet that had come to the host there.
            let sent = self.before_inward(&quote.key, tick).ok_or(Reason::NatNoMapping)?;
            self.table.find_outside(&sent, tick).ok_or(Reason::NatNoMapping)?
        };
        Ok(self.table.session(place).key.source_host())
    }

    /// The flow of a packet before its destination was changed to the host inside.
    fn before_inward(&mut self, key: &FlowKey, tick: Tick) -> Option<FlowKey> {
        let place = self.table.find_inside(&key.answers(), tick)?;
        let session = *self.table.session(place);
        let outer = key.answers().from(self.table.host(session.address), session.port);
        Some(outer.answers())
    }

    /// Translates an error from inside, about a packet that came in and was sent to the host inside.
    pub(super) fn error_outward(
        &mut self,
        packet: &mut Packet,
        quote: Quote,
        tick: Tick,
    ) -> Result<(), Reason> {
        let place = self.table.find_inside(&quote.key.answers(), tick).ok_or(Reason::NatNoMapping)?;
        let session = *self.table.session(place);
        let host = self.table.host(session.address);
        requote(packet, quote, End::Destination, (host, session.port));
        self.change(packet, End::Source, host, None, tick);
        Ok(())
    }

    /// Translates an error from outside, about a packet that went out.
    pub(super) fn error_inward(
        &mut self,
        packet: &mut Packet,
        quote: Quote,
        tick: Tick,
    ) -> Result<(), Reason> {
        let place = self.table.find_outside(&quote.key, tick).ok_or(Reason::NatNoMapping)?;
        let key = self.table.session(place).key;
        let host = key.source_host();
        requote(packet, quote, End::Source, (host, key.source_port()));
        self.change(packet, End::Destination, host, None, tick);
        Ok(())
    }

    /// Undoes the translation of a packet, for an error about it; false if its session is gone.
    pub(super) fn restore(&mut self, packet: &mut Packet, outward: bool, now: Instant) -> bool {
        let tick = Tick::of(now);
        // Only packets from inside are changed back. An error about a packet from outside goes to the host outside,
        // which may see the translated addresses.
        // addresses after the translation.
        let is_ours = outward && self.address(packet.source().into(), packet.layout.version()).is_some();
        let Ok(Kind::Session(key)) = kind(packet) else { return !is_ours };
        let place = if outward {
            self.table.find_outside(&key, tick)
        } else {
            self.table.find_inside(&key.answers(), tick)
        };
        let Some(place) = place else { return !is_ours };
        let session = *self.table.session(place);
        let (end, host, port) = if outward {
            (End::Source, session.key.source_host(), session.key.source_port())
        } else {
            (End::Destination, self.table.host(session.address), session.port)
        };
        let (layout, update) = (packet.layout, packet.checksum_update());
        set_endpoint(packet.bytes_mut(), layout, end, host, Some(port), update);
        true
    }
}

/// Changes one end of the packet that an error quotes.
fn requote(packet: &mut Packet, quote: Quote, end: End, (host, port): (Host, u16)) {
    // The quote is covered by the error's checksum; with only a pseudo-header sum, the change would not be visible.
    packet.complete_checksum();
    let layout = packet.layout;
    quote.set(packet.bytes_mut(), layout, end, host, Some(port));
}
