//! Rewrites TCP headers: windows, options, ECN, urgent data.
//!
//! Model: the window field is set or clamped, in the units of the field. Options become "no operation" (RFC 9293
//! section 3.1) in every segment, so that the header keeps its length. The window scale of segments with SYN is set.
//! The ECN field of the IP header becomes Not-ECT (RFC 3168 section 5), whatever the transport. ECE, CWR and AE of
//! segments with SYN are cleared, and URG with its pointer.
//!
//! All wire packets of a train are changed alike. Checksums are kept right (RFC 1624). Bytes after a malformed option
//! are not changed, and neither is a SYN without the option that is to be set.
//!
//! Never drops, delays, reorders or copies a packet.

use std::fmt;

use crate::pipeline::conn;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::tcp::option;
use crate::pipeline::wire::{Tcp, Update};

/// See [`crate::pipeline::params::ImpairmentParams::Tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpParams {
    /// What is done with the window.
    pub window: Option<WindowRewrite>,
    /// Kinds of the options that become "no operation", each once.
    pub strip: Vec<u8>,
    /// Value of the window scale option of segments with SYN, 0 to 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// The ECN field of the IP header becomes Not-ECT, for any transport.
    pub bleach_ecn: bool,
    /// Segments with SYN do not offer or accept ECN.
    pub refuse_ecn: bool,
    /// URG and the urgent pointer are cleared.
    pub clear_urgent: bool,
}

/// What is done with the window field of a segment, in the units of the field: shifted left by the window scale of
/// the connection, it gives bytes (RFC 7323 section 2.3); in a segment with SYN it is in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRewrite {
    /// It is set to this value.
    Set(u16),
    /// It is lowered to this value.
    Max(u16),
}

/// Options that can be stripped, by their names in configurations.
pub const STRIPPABLE: &[(&str, u8)] = &[
    ("mss", option::MSS),
    ("window-scale", option::WINDOW_SCALE),
    ("sack-permitted", option::SACK_PERMITTED),
    ("sack", option::SACK),
    ("timestamps", option::TIMESTAMPS),
    ("mptcp", option::MULTIPATH),
    ("fast-open", option::FAST_OPEN),
];

impl fmt::Display for TcpParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.window.map(|window| match window {
            WindowRewrite::Set(0) => "window set to zero".to_owned(),
            WindowRewrite::Set(window) => format!("window field set to {window}"),
            WindowRewrite::Max(most) => format!("window field clamped to {most}"),
        }));
        if !self.strip.is_empty() {
            let name = |kind: &u8| STRIPPABLE.iter().find(|known| known.1 == *kind).map(|known| known.0);
            let names: Vec<&str> = self.strip.iter().filter_map(name).collect();
            parts.push(format!("{} replaced by NOPs", names.join(", ")));
        }
        let scale = |scale| format!("window scale set to {scale} in every SYN that has one");
        parts.extend(self.window_scale.map(scale));
        parts.extend(self.bleach_ecn.then(|| "ECN field set to Not-ECT".to_owned()));
        parts.extend(self.refuse_ecn.then(|| "ECN neither offered nor accepted in SYNs".to_owned()));
        parts.extend(self.clear_urgent.then(|| "urgent data made ordinary".to_owned()));
        write!(f, "tcp: {}", parts.join("; "))
    }
}

impl Blueprint for TcpParams {
    type Stage = TcpRewrite;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        TcpRewrite::new(self)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Rewrites TCP headers, and the ECN field before them.
#[derive(Debug)]
pub struct TcpRewrite {
    params: TcpParams,
}

impl TcpRewrite {
    /// A rewrite that `params` describe.
    pub fn new(params: &TcpParams) -> Self {
        Self { params: params.clone() }
    }

    /// False if nothing had to be changed.
    fn change(&self, tcp: &mut Tcp<&mut [u8]>, update: Update) -> bool {
        let params = &self.params;
        let mut changed = match params.window {
            Some(WindowRewrite::Set(window)) => tcp.set_window(window, update),
            Some(WindowRewrite::Max(most)) => tcp.set_window(tcp.window().min(most), update),
            None => false,
        };
        changed |= !params.strip.is_empty() && tcp.blank_options(&params.strip, update);
        changed |= params.clear_urgent && tcp.clear_urgent(update);
        if tcp.flags() & flag::SYN != 0 {
            changed |= params.window_scale.is_some_and(|scale| tcp.set_window_scale(scale, update));
            changed |= params.refuse_ecn && tcp.refuse_ecn(update);
        }
        changed
    }
}

impl Stage for TcpRewrite {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        if !packet.is_tcp() && !self.params.bleach_ecn {
            return Verdict::new(limit, Action::PASS);
        }
        // In a train, only the first segment has CWR; CWR only matters in a SYN here, and no kernel makes a train of
        // SYNs.
        let is_syn = packet.tcp_flags().is_some_and(|flags| flags & flag::SYN != 0);
        Verdict::new(if is_syn { 1 } else { limit }, Action::REWRITE)
    }

    fn rewrite(&mut self, packet: &mut Packet, (): (), _now: Instant) -> bool {
        let bleached = self.params.bleach_ecn && packet.clear_congestion();
        conn::change(packet, |tcp, update| self.change(tcp, update)) | bleached
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for TcpParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let window =
            prop_oneof![any::<u16>().prop_map(WindowRewrite::Set), any::<u16>().prop_map(WindowRewrite::Max)];
        let strip = prop::sample::subsequence(vec![2, 3, 4, 5, 8, 30, 34], 0..=7);
        (prop::option::of(window), strip, prop::option::of(0..15_u8), any::<[bool; 3]>())
            .prop_map(|(window, strip, window_scale, [bleach_ecn, refuse_ecn, clear_urgent])| Self {
                window,
                strip,
                window_scale,
                bleach_ecn,
                refuse_ecn,
                clear_urgent,
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TcpHeaderSlice, TcpOptionElement, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::frame::Extra;
    use crate::pipeline::testing::{Run, Spec, flaw, stage};
    use crate::pipeline::wire::tcp::option;

    use crate::pipeline::wire::tcp::flag::{ACK, CWR, ECE, SYN, URG};
    /// What Linux sends: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
    const LINUX: [u8; 20] = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

    /// The wire packets that leave, all of them without a flaw, and how many were counted as rewritten.
    fn rewritten(params: &TcpParams, spec: &Spec) -> (Vec<Vec<u8>>, u64) {
        let mut run = Run::new(vec![stage(ImpairmentParams::Tcp(params.clone()))]);
        run.feed(Instant::ZERO, &spec.frame());
        let wires: Vec<_> = run.wires().into_iter().map(|wire| wire.bytes).collect();
        for wire in &wires {
            assert_eq!(flaw(wire), None, "{spec:?}");
        }
        (wires, run.stage(0).rewritten.packets)
    }

    fn tcp(bytes: &[u8]) -> TcpHeaderSlice<'_> {
        let at = if bytes[0] >> 4 == 4 { usize::from(bytes[0] & 15) * 4 } else { 40 };
        TcpHeaderSlice::from_slice(&bytes[at..]).unwrap()
    }

    /// ECN field, by etherparse.
    fn ecn(bytes: &[u8]) -> u8 {
        match SlicedPacket::from_ip(bytes).unwrap().net.unwrap() {
            NetSlice::Ipv4(ip) => ip.header().ecn().value(),
            NetSlice::Ipv6(ip) => ip.header().traffic_class() & 3,
            NetSlice::Arp(_) => panic!("IP came in"),
        }
    }

    fn window(rewrite: WindowRewrite) -> TcpParams {
        TcpParams { window: Some(rewrite), ..TcpParams::default() }
    }

    /// Windows come as 65,000.
    #[test]
    fn windows_are_set_or_only_lowered_in_every_packet_of_a_train() {
        for (rewrite, leaves, counted) in [
            (WindowRewrite::Set(0), 0, 3),
            (WindowRewrite::Set(65_535), 65_535, 3),
            (WindowRewrite::Set(65_000), 65_000, 0),
            (WindowRewrite::Max(100), 100, 3),
            (WindowRewrite::Max(65_535), 65_000, 0),
        ] {
            for spec in [Spec::tcp(2500).train(1000), Spec::tcp(2500).train(1000).v6()] {
                let (wires, count) = rewritten(&window(rewrite), &spec);
                assert_eq!((wires.len(), count), (3, counted), "{rewrite:?}");
                assert!(wires.iter().all(|wire| tcp(wire).window_size() == leaves), "{rewrite:?}");
            }
        }
    }

    #[test]
    fn stripped_options_become_nops_where_they_stood() {
        let strip = |kinds: &[u8]| TcpParams { strip: kinds.to_vec(), ..TcpParams::default() };
        let syn = Spec { flags: SYN, options: LINUX.to_vec(), ..Spec::tcp(0) };
        for (kinds, expected) in [
            (&[option::SACK_PERMITTED][..], [2, 4, 5, 180, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]),
            (
                &[option::WINDOW_SCALE, option::MSS],
                [1, 1, 1, 1, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1],
            ),
            (&[option::MULTIPATH, option::FAST_OPEN, option::SACK], LINUX),
        ] {
            for spec in [syn.clone(), syn.clone().v6()] {
                let (wires, count) = rewritten(&strip(kinds), &spec);
                assert_eq!(tcp(&wires[0]).options(), expected, "{kinds:?}");
                assert_eq!(count, u64::from(expected != LINUX), "{kinds:?}");
            }
        }
        // Blocks of a SACK; also behind them.
        let sack = [1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10, 5, 10, 0, 0, 0, 19, 0, 0, 0, 20, 1, 1];
        let (wires, _) = rewritten(&strip(&[option::SACK]), &Spec { options: sack.to_vec(), ..Spec::tcp(3) });
        assert_eq!(tcp(&wires[0]).options(), [1; 24]);
    }

    #[test]
    fn a_window_scale_is_set_in_syns_that_have_one() {
        let params = TcpParams { window_scale: Some(2), ..TcpParams::default() };
        for (flags, options, leaves, counted) in [
            (SYN, &LINUX[..], Some(2), 1),
            (SYN | ACK, &LINUX, Some(2), 1),
            (ACK, &LINUX, Some(7), 0),
            (SYN, &[2, 4, 5, 180], None, 0),
            (SYN, &[3, 3, 2, 1], Some(2), 0),
        ] {
            let (wires, count) =
                rewritten(&params, &Spec { flags, options: options.to_vec(), ..Spec::tcp(0) });
            let scale = tcp(&wires[0]).options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::WindowScale(scale)) => Some(scale),
                _ => None,
            });
            assert_eq!((scale, count), (leaves, counted), "{flags:#x} {options:?}");
        }
    }

    #[test]
    fn ecn_is_bleached_whatever_the_transport() {
        let params = TcpParams { bleach_ecn: true, ..TcpParams::default() };
        for spec in [Spec::tcp(2500).train(1000), Spec::udp(100)] {
            for class in [0, 1, 2, 3] {
                let spec = Spec { traffic_class: 46 << 2 | class, ..spec.clone() };
                for spec in [spec.clone(), spec.v6()] {
                    let (wires, count) = rewritten(&params, &spec);
                    assert!(wires.iter().all(|wire| ecn(wire) == 0), "{spec:?}");
                    assert_eq!(count, if class == 0 { 0 } else { wires.len() as u64 });
                    // The rest of the traffic class stays.
                    let wire = &wires[0];
                    let class = if spec.v6 { wire[0] << 4 | wire[1] >> 4 } else { wire[1] };
                    assert_eq!(class, 46 << 2);
                }
            }
        }
        let fragments = Spec { traffic_class: 3, extra: Extra::Fragments(64), ..Spec::udp(200) };
        let mut run = Run::new(vec![stage(ImpairmentParams::Tcp(params))]);
        fragments.frames().iter().for_each(|frame| run.feed(Instant::ZERO, frame));
        assert!(run.wires().len() > 2 && run.wires().iter().all(|wire| ecn(&wire.bytes) == 0));
    }

    #[test]
    fn a_syn_offers_and_accepts_no_ecn() {
        let params = TcpParams { refuse_ecn: true, ..TcpParams::default() };
        for (flags, leaves) in [
            (SYN | ECE | CWR, SYN),
            (SYN | ACK | ECE, SYN | ACK),
            (ACK | ECE, ACK | ECE),
            (ACK | CWR, ACK | CWR),
        ] {
            let (wires, count) = rewritten(&params, &Spec { flags, ..Spec::tcp(0) });
            assert_eq!((wires[0][33], count), (leaves, u64::from(flags != leaves)));
        }
    }

    /// Accurate ECN asks by three bits, one of them beside the data offset.
    #[test]
    fn accurate_ecn_is_refused_too() {
        let mut frame = Spec { flags: SYN | ECE | CWR, ..Spec::tcp(0) }.frame();
        frame.bytes[32] |= 1;
        let sum = u16::from_be_bytes([frame.bytes[36], frame.bytes[37]]);
        // One more in a high byte: one less in the complement (RFC 1624).
        frame.bytes[36..38].copy_from_slice(&sum.checked_sub(0x100).unwrap().to_be_bytes());
        assert_eq!(flaw(&frame.bytes), None);
        let params = TcpParams { refuse_ecn: true, ..TcpParams::default() };
        let mut run = Run::new(vec![stage(ImpairmentParams::Tcp(params))]);
        run.feed(Instant::ZERO, &frame);
        let wire = &run.wires()[0].bytes;
        assert_eq!((flaw(wire), wire[32], wire[33]), (None, 0x50, SYN));
    }

    #[test]
    fn urgent_data_is_urgent_no_more() {
        let params = TcpParams { clear_urgent: true, ..TcpParams::default() };
        let mut run = Run::new(vec![stage(ImpairmentParams::Tcp(params))]);
        let mut frame = Spec { flags: ACK | URG, partial: true, ..Spec::tcp(10) }.frame();
        frame.bytes[38..40].copy_from_slice(&[0, 10]);
        run.feed(Instant::ZERO, &frame);
        run.feed(Instant::ZERO, &Spec::tcp(10).frame());
        for wire in run.wires() {
            assert_eq!((flaw(&wire.bytes), wire.bytes[33], &wire.bytes[38..40]), (None, ACK, &[0, 0][..]));
        }
        assert_eq!(run.stage(0).rewritten.packets, 1);
    }

    #[test]
    fn malformed_options_are_left_as_they_are() {
        let params = TcpParams {
            strip: vec![option::SACK_PERMITTED, option::WINDOW_SCALE],
            window_scale: Some(1),
            ..TcpParams::default()
        };
        for options in [[3, 4, 7, 7], [1, 3, 2, 1], [8, 0, 4, 2], [1, 1, 1, 4], [4, 40, 3, 3]] {
            let mut run = Run::new(vec![stage(ImpairmentParams::Tcp(params.clone()))]);
            let spec = Spec { flags: SYN, options: options.to_vec(), ..Spec::tcp(0) };
            run.feed(Instant::ZERO, &spec.frame());
            let left = run.wires()[0].bytes[40..].to_vec();
            // An option of a wrong length that fits is one all the same.
            let stripped = if options == [3, 4, 7, 7] { [1; 4] } else { options };
            let stripped = if options == [1, 3, 2, 1] { [1; 4] } else { stripped };
            assert_eq!(left, stripped, "{options:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// At even and odd offsets, with checksums done and left to the device, what leaves is right.
        #[test]
        fn checksums_stay_right_wherever_options_are(
            before in 0..8_usize, v6: bool, partial: bool, scale: u8, new in 0..15_u8, window: u16, data in 0..9_usize,
        ) {
            let mut options = vec![1; before];
            options.extend_from_slice(&[4, 2, 3, 3, scale]);
            options.resize(options.len().next_multiple_of(4), 1);
            let spec = Spec { v6, partial, flags: SYN | ECE | CWR, options, traffic_class: 2, ..Spec::tcp(data) };
            let params = TcpParams {
                window: Some(WindowRewrite::Set(window)),
                strip: vec![option::SACK_PERMITTED],
                window_scale: Some(new),
                bleach_ecn: true,
                refuse_ecn: true,
                clear_urgent: true,
            };
            let (wires, count) = rewritten(&params, &spec);
            let SlicedPacket { transport: Some(TransportSlice::Tcp(tcp)), .. } = SlicedPacket::from_ip(&wires[0]).unwrap()
            else { panic!("TCP came in") };
            let mut options: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
            options.retain(|option| *option != TcpOptionElement::Noop);
            prop_assert_eq!(options, [TcpOptionElement::WindowScale(new)]);
            prop_assert_eq!((tcp.window_size(), tcp.ece(), tcp.cwr(), count), (window, false, false, 1));
        }
    }
}
