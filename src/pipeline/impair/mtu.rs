//! A hop with a small MTU.
//!
//! Model: wire packets longer than `mtu - overhead` bytes do not fit. They are dropped silently (a black hole), dropped
//! with an ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big" (RFC 8201) to the sender, or fragmented if
//! they are IPv4 without DF (RFC 791) and answered by ICMP if not. `overhead` stands for the outer headers of tunnels.
//! Never delays or reorders a packet. IPv6 is never fragmented on the way (RFC 8200 section 4.5).
//! Differs from tc-netem: there is no such thing there; and the decision is made for each wire packet of a GSO train.

use std::fmt;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Outcome, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

/// See [`ImpairmentParams::Mtu`](crate::pipeline::impair::ImpairmentParams::Mtu).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuParams {
    /// Largest packet of the link in bytes, overhead included.
    pub mtu: u32,
    /// Bytes that tunnels add on the way; the largest IP packet that passes is `mtu - overhead`.
    pub overhead: u32,
    /// What happens to larger ones.
    pub action: MtuAction,
}

/// What a small-MTU hop does with a packet that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtuAction {
    /// Drops it silently: a black hole.
    #[default]
    Drop,
    /// Drops it and answers ICMP "fragmentation needed" / ICMPv6 "packet too big".
    Icmp,
    /// Fragments IPv4 without DF, answers ICMP for the rest.
    Fragment,
}

impl fmt::Display for MtuParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            MtuAction::Drop => "drop larger packets silently",
            MtuAction::Icmp => "drop larger packets and answer ICMP",
            MtuAction::Fragment => "fragment larger packets, answer ICMP where that is forbidden",
        };
        match self.overhead {
            0 => write!(f, "mtu {}: {action}", self.mtu),
            bytes => {
                write!(f, "mtu {} less {bytes} bytes of tunnels = {}: {action}", self.mtu, self.mtu - bytes)
            }
        }
    }
}

impl Blueprint for MtuParams {
    type Stage = Mtu;

    fn build(&self, _setting: &Setting) -> Self::Stage {
        Mtu::new(*self)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, place: &Place) -> Vec<String> {
        let longest = self.mtu - self.overhead;
        let mut traps = Vec::new();
        if self.action == MtuAction::Drop {
            traps.push(format!(
                "packets above {longest} bytes are dropped silently (a black hole). With \"icmp\" the sender gets an error, and \
                 path MTU discovery works"
            ));
        }
        if place.ipv6 && longest < 1_280 {
            traps.push(format!("{longest} bytes are less than IPv6 can work with (1280)"));
        }
        traps
    }
}

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
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        let last = packet.wires() - 1;
        if packet.wire_length(0) <= self.longest {
            // The last of a train is never longer than the others.
            return Verdict::new(limit, Action::PASS);
        }
        let too_long = if packet.wire_length(last) > self.longest { last + 1 } else { last };
        match self.action {
            MtuAction::Drop => Verdict::new(too_long.min(limit), Action::drop(Reason::MtuSilent)),
            MtuAction::Icmp | MtuAction::Fragment => Verdict::new(1, Action::TAKE),
        }
    }

    fn take(&mut self, packet: &mut Packet, (): (), _now: Instant, out: &mut Outlet<'_>) {
        packet.complete_checksum();
        let packet = packet.take(out.pool);
        let plan =
            (self.action == MtuAction::Fragment).then(|| packet.fragments(self.longest).ok()).flatten();
        let Some(mut plan) = plan else {
            let error = IcmpError::PacketTooBig { mtu: self.longest };
            return out.settle(packet, Outcome::Reject(Reason::MtuIcmp, error));
        };
        while let Some(fragment) = packet.next_fragment(&mut plan, out.pool) {
            let fragment = out.created(fragment);
            out.forward(fragment);
        }
        out.drop(packet, Reason::Fragmented);
    }

    fn quiet(&self, _ahead: &Ahead) -> Quiet {
        Quiet { longest: self.longest, ..Quiet::FOREVER }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for MtuParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let action = prop::sample::select(vec![MtuAction::Drop, MtuAction::Icmp, MtuAction::Fragment]);
        (68..1_600_u32, 0..100_u32, action)
            .prop_map(|(longest, overhead, action)| Self { mtu: longest + overhead, overhead, action })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Slice, Icmpv6Slice, Ipv4Header};

    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, Wire, flaw, stage};

    fn run(mtu: u32, overhead: u32, action: MtuAction, spec: &Spec) -> Run {
        let mut run = Run::new(vec![stage(ImpairmentParams::Mtu(MtuParams { mtu, overhead, action }))]);
        run.feed(Instant::ZERO, &spec.frame());
        assert!(run.wires().iter().all(|wire| flaw(&wire.bytes).is_none()));
        run
    }

    fn of_port(run: &Run, port: u16) -> Vec<Vec<u8>> {
        let bytes = |wire: Wire| (wire.port == port).then_some(wire.bytes);
        run.wires().into_iter().filter_map(bytes).collect()
    }

    fn counts(run: &Run) -> (u64, u64, u64) {
        (run.dropped(Reason::MtuSilent), run.dropped(Reason::MtuIcmp), run.dropped(Reason::Fragmented))
    }

    #[test]
    fn the_mtu_less_the_overhead_just_passes() {
        for (payload, passes) in [(1360, true), (1361, false)] {
            let run = run(1480, 80, MtuAction::Drop, &Spec::tcp(payload));
            assert_eq!((of_port(&run, 1).len(), counts(&run)), (passes.into(), ((!passes).into(), 0, 0)));
        }
        let run = run(1480, 80, MtuAction::Drop, &Spec::tcp(1341).v6());
        assert_eq!(counts(&run), (1, 0, 0));
    }

    /// The black hole that path MTU discovery cannot see: big segments vanish, the small last one arrives.
    #[test]
    fn of_a_train_only_the_short_last_one_passes() {
        let run = run(1400, 0, MtuAction::Drop, &Spec::tcp(3 * 1448 + 5).train(1448));
        assert_eq!(counts(&run), (3, 0, 0));
        let left = of_port(&run, 1);
        assert_eq!((left.len(), left[0].len(), &left[0][24..28]), (1, 45, &4345_u32.to_be_bytes()[..]));
        assert!(of_port(&run, 0).is_empty());
    }

    #[test]
    fn a_train_that_fits_passes_as_one() {
        let run = run(1500, 0, MtuAction::Icmp, &Spec::tcp(20 * 1448).train(1448));
        assert_eq!((run.frames().len(), of_port(&run, 1).len()), (1, 20));
    }

    #[test]
    fn senders_are_told_the_mtu_once_for_each_wire_packet() {
        let run_v4 = run(1400, 40, MtuAction::Icmp, &Spec::tcp(2 * 1448).train(1448));
        assert_eq!(counts(&run_v4), (0, 2, 0));
        let answers = of_port(&run_v4, 0);
        assert_eq!(answers.len(), 2);
        for answer in answers {
            let (ip, rest) = Ipv4Header::from_slice(&answer).unwrap();
            assert_eq!((ip.source, ip.destination), ([10, 0, 1, 1], [10, 0, 1, 2]));
            let icmp = Icmpv4Slice::from_slice(rest).unwrap();
            assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (3, 4, [0, 0, 0x05, 0x50]));
        }
        let run_v6 = run(1400, 40, MtuAction::Icmp, &Spec::udp(1400).v6());
        let answers = of_port(&run_v6, 0);
        let icmp = Icmpv6Slice::from_slice(&answers[0][40..]).unwrap();
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (2, 0, [0, 0, 0x05, 0x50]));
        assert_eq!((answers.len(), counts(&run_v6)), (1, (0, 1, 0)));
    }

    #[test]
    fn only_ipv4_without_df_is_fragmented() {
        for (v6, dont_fragment) in [(false, true), (true, true), (true, false)] {
            let run = run(1000, 0, MtuAction::Fragment, &Spec { v6, dont_fragment, ..Spec::udp(1400) });
            assert_eq!((of_port(&run, 0).len(), of_port(&run, 1).len(), counts(&run)), (1, 0, (0, 1, 0)));
        }
    }

    /// The checksum left to the device is finished before it is cut, and every fragment is counted as created.
    #[test]
    fn fragments_add_up_to_the_packet() {
        let spec = Spec { dont_fragment: false, partial: true, ..Spec::udp(1400) };
        let run = run(1000, 0, MtuAction::Fragment, &spec);
        let whole = &spec.frame().wires()[0];
        let mut data = Vec::new();
        for bytes in of_port(&run, 1) {
            assert!(bytes.len() <= 1000);
            let (header, payload) = Ipv4Header::from_slice(&bytes).unwrap();
            assert_eq!(usize::from(header.fragment_offset.byte_offset()), data.len());
            data.extend_from_slice(payload);
            assert_eq!(header.more_fragments, data.len() + 20 < whole.len());
        }
        assert_eq!(data, whole[20..]);
        assert_eq!((run.stage(0).created.packets, counts(&run)), (2, (0, 0, 1)));
    }

    #[test]
    fn black_holes_and_links_too_small_for_ipv6_are_traps() {
        let traps = |mtu, overhead, action, ipv6| {
            MtuParams { mtu, overhead, action }.traps(&Place { mtu: None, ipv6 })
        };
        assert_eq!(traps(1_280, 0, MtuAction::Fragment, true), [""; 0]);
        assert_eq!(traps(1_279, 0, MtuAction::Fragment, false), [""; 0]);
        assert_eq!(
            traps(1_300, 50, MtuAction::Fragment, true),
            ["1250 bytes are less than IPv6 can work with (1280)"]
        );
        let black_hole = traps(1_500, 100, MtuAction::Drop, true);
        assert_eq!(black_hole.len(), 1);
        assert!(black_hole[0].starts_with("packets above 1400 bytes are dropped silently"), "{black_hole:?}");
    }
}
