//! Rewrites the maximum segment size that TCP peers announce.
//!
//! Model: in segments with SYN, the MSS option (RFC 9293 section 3.7.1) is lowered to `mss`, or with `set` always set
//! to it. Checksums are kept right (RFC 1624). A SYN without the option is not changed: its sender may expect 536
//! (IPv4) or 1220 (IPv6) bytes, and an option cannot be added without moving the payload. Malformed options are not
//! changed.
//! Never drops, delays, reorders or copies a packet.
//! Differs from iptables' `TCPMSS`: `set` can also raise the value.

use std::fmt;

use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::{Checksum, Packet};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::tcp::flag::SYN;
use crate::pipeline::wire::{Tcp, Update};

/// See [`ImpairmentParams::Mss`](crate::pipeline::impair::ImpairmentParams::Mss).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MssParams {
    /// The MSS for the SYN: the largest TCP payload in bytes.
    pub mss: u16,
    /// Sets the value even where it raises it; otherwise only lowers (clamps). A SYN without the option announces 536
    /// (IPv4) or 1220 (IPv6) by RFC 9293 and is left as it is.
    pub set: bool,
}

impl fmt::Display for MssParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.set { "set" } else { "clamped" };
        write!(f, "mss {how} to {} in every SYN", self.mss)
    }
}

impl Blueprint for MssParams {
    type Stage = Mss;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        Mss::new(*self)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

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
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        Verdict::new(limit, if self.changes(packet) { Action::REWRITE } else { Action::PASS })
    }

    fn rewrite(&mut self, packet: &mut Packet, (): (), _now: Instant) -> bool {
        let at = packet.layout.transport_offset();
        // A sum over the pseudo-header alone does not know of options.
        let update = match packet.checksum() {
            Checksum::Complete => Update::Incremental,
            Checksum::Partial => Update::Leave,
        };
        let mss = self.params.mss;
        Tcp::new(&mut packet.bytes_mut()[at..]).is_ok_and(|mut tcp| tcp.set_mss(mss, update))
    }

    /// Segments with SYN are always shown.
    fn quiet(&self, _ahead: &Ahead) -> Quiet {
        Quiet::FOREVER
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for MssParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        (any::<u16>(), any::<bool>()).prop_map(|(mss, set)| Self { mss, set }).boxed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, flaw, stage};

    /// MSS 1460, then what Linux adds.
    const LINUX: [u8; 20] = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

    fn syn(flags: u8, options: &[u8]) -> Spec {
        Spec { flags, options: options.to_vec(), ..Spec::tcp(0) }
    }

    /// The MSS that leaves, read by etherparse, and how many packets were rewritten.
    fn rewritten(params: MssParams, spec: &Spec) -> (Option<u16>, u64) {
        let mut run = Run::new(vec![stage(ImpairmentParams::Mss(params))]);
        run.feed(Instant::ZERO, &spec.frame());
        let wires = run.wires();
        assert_eq!(wires.len(), 1);
        assert_eq!(flaw(&wires[0].bytes), None, "{spec:?}");
        let sliced = etherparse::SlicedPacket::from_ip(&wires[0].bytes).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP came in") };
        let mss = tcp.options_iterator().find_map(|option| match option {
            Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        (mss, run.stage(0).rewritten.packets)
    }

    #[test]
    fn clamping_only_lowers_and_setting_does_both() {
        let syn = syn(SYN, &LINUX);
        for (mss, set, leaves) in [
            (1360, false, (Some(1360), 1)),
            (1460, false, (Some(1460), 0)),
            (9000, false, (Some(1460), 0)),
            (9000, true, (Some(9000), 1)),
            (1460, true, (Some(1460), 0)),
            (0, false, (Some(0), 1)),
        ] {
            assert_eq!(rewritten(MssParams { mss, set }, &syn), leaves, "{mss} {set}");
            assert_eq!(rewritten(MssParams { mss, set }, &syn.clone().v6()), leaves, "{mss} {set}");
        }
    }

    #[test]
    fn only_segments_with_syn_are_touched() {
        let params = MssParams { mss: 1000, set: true };
        for (flags, leaves) in
            [(SYN, 1000), (SYN | 0x10, 1000), (SYN | 0xc0, 1000), (0x10, 1460), (0x04, 1460)]
        {
            assert_eq!(rewritten(params, &syn(flags, &LINUX)).0, Some(leaves), "{flags:#x}");
        }
    }

    #[test]
    fn a_syn_without_the_option_is_left_alone() {
        let params = MssParams { mss: 500, set: true };
        for options in [&[][..], &[1, 1, 4, 2], &[0, 0, 0, 0, 2, 4, 5, 180]] {
            assert_eq!(rewritten(params, &syn(SYN, options)), (None, 0), "{options:?}");
        }
        // Of a wrong length, beyond the header, behind an option of no length.
        for options in
            [&[2, 3, 5, 1][..], &[2, 6, 5, 180, 0, 0, 1, 1], &[1, 1, 1, 2], &[8, 0, 1, 1, 2, 4, 5, 180]]
        {
            let mut run = Run::new(vec![stage(ImpairmentParams::Mss(params))]);
            run.feed(Instant::ZERO, &syn(SYN, options).frame());
            let left = &run.wires()[0].bytes;
            assert_eq!((&left[40..], run.stage(0).rewritten.packets), (options, 0));
        }
    }

    proptest! {
        /// At even and odd offsets, with checksums done and left to the device, the packet that leaves is right.
        #[test]
        fn checksums_stay_right_wherever_the_option_is(
            before in 0..8_usize, v6: bool, partial: bool, old: u16, mss: u16, set: bool, data in 0..9_usize,
        ) {
            let mut options = vec![1; before];
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&old.to_be_bytes());
            options.resize(options.len().next_multiple_of(4), 1);
            let spec = Spec { v6, partial, flags: SYN, options, ..Spec::tcp(data) };
            let expected = if set { mss } else { mss.min(old) };
            prop_assert_eq!(rewritten(MssParams { mss, set }, &spec), (Some(expected), (expected != old).into()));
        }
    }
}
