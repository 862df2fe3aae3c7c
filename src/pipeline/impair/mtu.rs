//! A hop whose link takes only small packets.
//!
//! Model: wire packets longer than `mtu - overhead` bytes do not fit. They are dropped silently (a black hole), dropped
//! with an ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big" (RFC 8201) to the sender, or fragmented if
//! they are IPv4 without DF (RFC 791) and answered by ICMP if not. `overhead` stands for the outer headers of tunnels.
//! Never delays or reorders a packet. IPv6 is never fragmented on the way (RFC 8200 section 4.5).
//! Differs from tc-netem: there is no such thing there; and the decision is made for each wire packet of a GSO train.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{MtuAction, MtuParams};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

/// Treats wire packets by their length.
#[derive(Debug)]
pub struct Mtu {
    /// Longest IP packet that passes.
    longest: u32,
    action: MtuAction,
}

impl Mtu {
    /// A link that `params` describe.
    pub const fn new(params: MtuParams) -> Self {
        Self { longest: params.mtu.saturating_sub(params.overhead), action: params.action }
    }
}

impl Stage for Mtu {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let last = packet.wires() - 1;
        if packet.wire_length(0) <= self.longest {
            // The last of a train is never longer than the others.
            return Verdict::new(limit, Action::Pass);
        }
        let too_long = if packet.wire_length(last) > self.longest { last + 1 } else { last };
        match self.action {
            MtuAction::Drop => Verdict::new(too_long.min(limit), Action::Drop(Reason::MtuSilent)),
            MtuAction::Icmp | MtuAction::Fragment => Verdict::new(1, Action::Take),
        }
    }

    fn take(&mut self, packet: &mut Packet, _now: Instant, out: &mut Outlet<'_>) {
        packet.complete_checksum();
        let packet = packet.take(out.pool);
        let plan =
            (self.action == MtuAction::Fragment).then(|| packet.fragments(self.longest).ok()).flatten();
        let Some(mut plan) = plan else {
            let error = IcmpError::PacketTooBig { mtu: self.longest };
            return out.reject(packet, Reason::MtuIcmp, error);
        };
        while let Some(fragment) = packet.next_fragment(&mut plan, out.pool) {
            out.created(&fragment);
            out.forward(fragment);
        }
        out.drop(packet, Reason::Fragmented);
    }
}
