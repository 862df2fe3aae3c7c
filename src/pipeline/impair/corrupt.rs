//! Damaged bits.
//!
//! Model: in each wire packet that is hit, with probability `p`, `bits` different bits of the area flip. The transport
//! checksum is completed before, so that the receiver sees damage as damage; with `fix_checksum` all checksums are made
//! right afterwards, and the damage reaches the application.
//! One flipped bit always breaks a checksum that covers it. Two or more can cancel out (two flips of opposite direction
//! in the same bit of two words), and a UDP datagram over IPv4 without a checksum (zero) hides any damage.
//! Never drops, delays or copies a packet.
//! Differs from tc-netem: which bits flip is a function of the seed too, and the area can be chosen.

use std::fmt;

use crate::pipeline::damage::damage;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::{Chance, StageKey};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;

/// See [`ImpairmentParams::Corrupt`](crate::pipeline::impair::ImpairmentParams::Corrupt).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CorruptParams {
    /// Probability for each wire packet, independently.
    pub probability: Probability,
    /// Bits flipped in a packet that is hit, all different; at least 1.
    pub bits: u32,
    /// Which bytes may be hit.
    pub area: CorruptArea,
    /// Make the checksums right again afterwards, so that the damage reaches the application.
    pub fix_checksum: bool,
}

/// Which bytes a corruption may hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CorruptArea {
    /// Transport header and payload: what the transport checksum covers.
    #[default]
    Transport,
    /// IP and transport headers.
    Header,
    /// Transport payload; a packet without payload is left alone.
    Payload,
    /// The whole packet.
    Any,
}

impl fmt::Display for CorruptParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.bits == 1 { "1 bit" } else { &format!("{} bits", self.bits) };
        let area = match self.area {
            CorruptArea::Transport => "the transport header or payload",
            CorruptArea::Header => "the headers",
            CorruptArea::Payload => "the payload",
            CorruptArea::Any => "the packet",
        };
        let checksum = if self.fix_checksum { "checksums made right again" } else { "checksums left wrong" };
        write!(f, "corrupt {bits} of {area} in {} of wire packets, {checksum}", self.probability)
    }
}

impl Blueprint for CorruptParams {
    type Stage = Corrupt;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Corrupt::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Flips bits.
#[derive(Debug)]
pub struct Corrupt {
    chance: Chance,
    params: CorruptParams,
    key: StageKey,
}

impl Corrupt {
    /// A corruption with the draws of `setting`.
    pub fn new(params: CorruptParams, setting: &Setting) -> Self {
        Self { chance: Chance::new(params.probability), params, key: setting.key }
    }
}

impl Stage for Corrupt {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, _now: Instant) -> Verdict {
        match self.chance.run(packet.stream(self.key), packet.index, limit) {
            (count, false) => Verdict::new(count, Action::PASS),
            (_, true) if self.params.area == CorruptArea::Payload && packet.payload_length() == 0 => {
                Verdict::new(1, Action::PASS)
            }
            (_, true) => Verdict::new(1, Action::REWRITE),
        }
    }

    fn rewrite(&mut self, packet: &mut Packet, (): (), _now: Instant) -> bool {
        let stream = packet.stream(self.key.part(1));
        damage(packet, self.params.area, self.params.bits, self.params.fix_checksum, stream)
    }

    fn quiet(&self, ahead: &Ahead) -> Quiet {
        ahead.next_hit(&self.chance, self.key)
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for CorruptParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::probability;
        let area = prop::sample::select(vec![
            CorruptArea::Transport,
            CorruptArea::Header,
            CorruptArea::Payload,
            CorruptArea::Any,
        ]);
        (probability(), 1..20_u32, area, any::<bool>())
            .prop_map(|(probability, bits, area, fix_checksum)| Self {
                probability,
                bits,
                area,
                fix_checksum,
            })
            .boxed()
    }

    fn tame(self) -> Option<Self> {
        None
    }

    fn damages(&self) -> bool {
        self.probability > Probability::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Frame, Run, Spec, flaw, stage};
    use crate::pipeline::units::Probability;

    fn damaged(bits: u32, area: CorruptArea, fix_checksum: bool, frame: &Frame) -> Vec<u8> {
        let params = CorruptParams { probability: Probability::ONE, bits, area, fix_checksum };
        let mut run = Run::new(vec![stage(ImpairmentParams::Corrupt(params))]);
        run.feed(Instant::ZERO, frame);
        run.wires().remove(0).bytes
    }

    fn untouched(frame: &Frame) -> Vec<u8> {
        let mut run = Run::new(Vec::new());
        run.feed(Instant::ZERO, frame);
        run.wires().remove(0).bytes
    }

    /// Bytes in which two packets differ, and by how many bits in all.
    fn difference(a: &[u8], b: &[u8]) -> (Vec<usize>, u32) {
        let differ = a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b);
        let places = differ.clone().map(|(at, _)| at).collect();
        (places, differ.map(|(_, (a, b))| (a ^ b).count_ones()).sum())
    }

    /// Whatever the device would have had to finish, the receiver must see a bad checksum.
    #[test]
    fn one_flipped_bit_breaks_the_checksum() {
        for seed in 0..50_u16 {
            for partial in [false, true] {
                for spec in [Spec::tcp(100), Spec::udp(100), Spec::tcp(0).v6(), Spec::udp(3).v6()] {
                    let frame = Spec { partial, source_port: 1000 + seed, ..spec }.frame();
                    let (before, after) =
                        (untouched(&frame), damaged(1, CorruptArea::Transport, false, &frame));
                    let (places, bits) = difference(&before, &after);
                    assert!(
                        bits == 1 && places[0] >= if before[0] >> 4 == 4 { 20 } else { 40 },
                        "{places:?}"
                    );
                    assert!(flaw(&after).is_some());
                }
            }
        }
    }

    #[test]
    fn exactly_the_bits_asked_for_flip_in_the_area_asked_for() {
        let frame = Spec::tcp(500).frame();
        let before = untouched(&frame);
        for (area, allowed) in [
            (CorruptArea::Payload, 40..540),
            (CorruptArea::Header, 0..40),
            (CorruptArea::Transport, 20..540),
            (CorruptArea::Any, 0..540),
        ] {
            let (places, bits) = difference(&before, &damaged(20, area, false, &frame));
            assert!(bits == 20 && places.iter().all(|at| allowed.contains(at)), "{area:?}: {places:?}");
        }
        // The version survives: no device takes a packet without.
        assert_eq!(damaged(64, CorruptArea::Header, false, &frame)[0] >> 4, 4);
    }

    #[test]
    fn with_the_checksum_fixed_up_the_damage_reaches_the_application() {
        for seed in 0..50_u16 {
            for area in [CorruptArea::Payload, CorruptArea::Any] {
                for spec in [Spec::tcp(100), Spec::udp(100), Spec::tcp(9).v6(), Spec::udp(30).v6()] {
                    let frame = spec.with_source_port(1000 + seed).frame();
                    let after = damaged(3, area, true, &frame);
                    assert_eq!(flaw(&after), None, "{area:?}");
                    assert_ne!(after, untouched(&frame));
                }
            }
        }
    }

    #[test]
    fn a_packet_without_payload_has_none_to_damage() {
        let frame = Spec::tcp(0).frame();
        assert_eq!(damaged(5, CorruptArea::Payload, false, &frame), untouched(&frame));
    }
}
