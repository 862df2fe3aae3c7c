//! Rewrites the maximum segment size that TCP peers announce.
//!
//! Model: in segments with SYN, the MSS option (RFC 9293 section 3.7.1) is lowered to `mss`, or set to it either way.
//! Checksums are kept right (RFC 1624). A SYN without the option is left alone: its sender may expect 536 (IPv4) or 1220
//! (IPv6) bytes, and an option cannot be added without moving the payload. Malformed options are left alone.
//! Never drops, delays, reorders or copies a packet.
//! Differs from iptables' `TCPMSS`: `set` also raises, where that is asked for.

use crate::pipeline::packet::{Checksum, Packet};
use crate::pipeline::params::MssParams;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{Tcp, Update};

const SYN: u8 = 0x02;

/// Rewrites SYN segments.
#[derive(Debug)]
pub struct Mss {
    params: MssParams,
}

impl Mss {
    /// A rewrite that `params` describe.
    pub const fn new(params: MssParams) -> Self {
        Self { params }
    }

    fn changes(&self, packet: &Packet) -> bool {
        let is_syn = packet.tcp_flags().is_some_and(|flags| flags & SYN != 0);
        let announced = || Tcp::new(&packet.bytes()[packet.layout.transport_offset()..]).ok()?.mss();
        is_syn
            && announced().is_some_and(|mss| {
                if self.params.set { mss != self.params.mss } else { mss > self.params.mss }
            })
    }
}

impl Stage for Mss {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, if self.changes(packet) { Action::Rewrite } else { Action::Pass })
    }

    fn rewrite(&mut self, packet: &mut Packet, _now: Instant) -> bool {
        let at = packet.layout.transport_offset();
        // A sum over the pseudo-header alone does not know of options.
        let update = match packet.checksum() {
            Checksum::Complete => Update::Incremental,
            Checksum::Partial => Update::Leave,
        };
        let mss = self.params.mss;
        Tcp::new(&mut packet.bytes_mut()[at..]).is_ok_and(|mut tcp| tcp.set_mss(mss, update))
    }
}
