//! A stage written by the program that uses the library.
//!
//! Model: the stage decides about one wire packet at a time, in the order in which packets reach it. Its draws are
//! functions of the seed, the stage's name, the flow and the packet's number, as those of every other stage. Packets
//! are handed over with complete checksums. Trains are cut first: the stage never sees one.

use std::fmt;
use std::sync::Arc;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::{Chance, StageKey, Stream};
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Probability;

/// A fault or rewrite of one's own, for one direction of a link.
pub trait CustomStage: Send {
    /// Decides about a wire packet, and may change it. Called once a packet, in the order in which they come.
    fn packet(&mut self, packet: &mut WirePacket<'_>) -> Fate;
}

impl<F: FnMut(&mut WirePacket<'_>) -> Fate + Send> CustomStage for F {
    fn packet(&mut self, packet: &mut WirePacket<'_>) -> Fate {
        self(packet)
    }
}

/// The same limit as of a `duplicate` stage.
const MOST_COPIES: u32 = 1_000;

/// What happens to a wire packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on to the next stage at once.
    Pass,
    /// It is dropped, and counted under [`Reason::Drop`].
    Drop,
    /// It goes on to the next stage after this time. Packets that wait for less time overtake it.
    Delay(std::time::Duration),
    /// It goes on to the next stage at once, followed by this many copies, at most 1,000.
    Copy(u32),
}

/// A wire packet as a [`CustomStage`] sees it.
#[derive(Debug)]
pub struct WirePacket<'a> {
    packet: &'a mut Packet,
    stream: Stream,
    draws: u32,
    now: Instant,
    changed: bool,
}

impl WirePacket<'_> {
    /// When it came to the stage, since the start of the run.
    pub fn now(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.now.as_nanos())
    }

    /// The whole packet, from the first byte of its IP header on.
    pub fn bytes(&self) -> &[u8] {
        self.packet.bytes()
    }

    /// Its bytes, to be changed; it is then counted as rewritten. Checksums are left as they are: see
    /// [`Self::fix_checksums`]. The length fields and the place of the headers must stay.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.changed = true;
        self.packet.bytes_mut()
    }

    /// Makes the checksums of the IP and transport headers right again.
    pub fn fix_checksums(&mut self) {
        self.changed = true;
        self.packet.fix_checksums();
    }

    /// Its number in its flow, counted from 0: a flow is one direction of a connection.
    pub fn index(&self) -> u64 {
        self.packet.index
    }

    /// Bytes of transport payload.
    pub fn payload_length(&self) -> u32 {
        self.packet.payload_length()
    }

    /// True with this probability. Each call draws anew; the same seed gives the same answers.
    pub fn chance(&mut self, probability: Probability) -> bool {
        // A stream for each draw of the packet.
        let stream = self.stream.word(self.packet.index, self.draws);
        self.draws += 1;
        Chance::new(probability).hit(StageKey::new(stream, "chance").stream(0, 0), 0)
    }

    /// A random number in `0.0..1.0`. Each call draws anew; the same seed gives the same numbers.
    pub fn random(&mut self) -> f64 {
        let number = self.stream.unit(self.packet.index, self.draws);
        self.draws += 1;
        number
    }
}

type Make = dyn Fn() -> Box<dyn CustomStage> + Send + Sync;

/// How a [`CustomStage`] is made: once for each worker and each path. Two values are equal if one is a clone of the
/// other.
#[derive(Clone)]
pub struct CustomParams(Arc<Make>);

impl CustomParams {
    /// Parameters whose stages `make` makes.
    pub fn new<S: CustomStage + 'static>(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::new(make())))
    }
}

impl fmt::Debug for CustomParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomParams(..)")
    }
}

impl PartialEq for CustomParams {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for CustomParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stage of the program that uses the library")
    }
}

impl Blueprint for CustomParams {
    type Stage = Custom;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Custom { stage: (self.0)(), key: setting.key }
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }

    /// The maximum: what the stage does is not known.
    fn extra_packets(&self) -> f64 {
        f64::from(MOST_COPIES)
    }
}

/// Puts a [`CustomStage`] into a path.
pub struct Custom {
    stage: Box<dyn CustomStage>,
    key: StageKey,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Stage for Custom {
    type Plan = ();

    fn decide(&mut self, _packet: &Packet, _limit: u32, _now: Instant) -> Verdict {
        Verdict::new(1, Action::TAKE)
    }

    fn take(&mut self, packet: &mut Packet, (): (), now: Instant, out: &mut Outlet<'_>) {
        let mut packet = packet.take(out.pool);
        packet.complete_checksum();
        let stream = packet.stream(self.key);
        let mut fate = Fate::Pass;
        out.rewrite(&mut packet, |packet| {
            let mut view = WirePacket { packet, stream, draws: 0, now, changed: false };
            fate = self.stage.packet(&mut view);
            view.changed && fate != Fate::Drop
        });
        match fate {
            Fate::Pass => out.forward(packet),
            Fate::Drop => out.drop(packet, Reason::Drop),
            Fate::Delay(delay) => {
                let delay = Duration::from_nanos(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX));
                out.hold(packet, now + delay);
            }
            Fate::Copy(copies) => {
                let mut previous = packet;
                for number in 1..=copies.min(MOST_COPIES) {
                    let copy = out.copy(&previous, self.key.salt(number));
                    out.forward(std::mem::replace(&mut previous, copy));
                }
                out.forward(previous);
            }
        }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for CustomParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{duration, probability};
        (probability(), probability(), duration(), 0..3_u32)
            .prop_map(|(drop, hold, delay, copies)| {
                let delay = std::time::Duration::from_nanos(delay.as_nanos());
                let stage = move |packet: &mut WirePacket<'_>| {
                    if packet.chance(drop) {
                        Fate::Drop
                    } else if packet.chance(hold) {
                        Fate::Delay(delay)
                    } else {
                        packet.fix_checksums();
                        Fate::Copy(copies)
                    }
                };
                Self::new(move || stage)
            })
            .boxed()
    }

    fn tame(self) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};

    fn run(make: impl Fn(&mut WirePacket<'_>) -> Fate + Send + Sync + Clone + 'static) -> Run {
        let params = CustomParams::new(move || make.clone());
        Run::new(vec![stage(ImpairmentParams::Custom(params))])
    }

    #[test]
    fn each_fate_is_carried_out_on_single_packets_of_a_train() {
        let millisecond = std::time::Duration::from_millis(1);
        let mut run = run(move |packet| match packet.index() {
            0 => Fate::Drop,
            1 => Fate::Delay(millisecond),
            2 => Fate::Copy(2),
            _ => Fate::Pass,
        });
        run.feed(Instant::ZERO, &Spec::tcp(4000).train(1000).frame());
        run.finish();
        assert_eq!(run.times(), [0, 0, 0, 0, 1_000_000]);
        assert_eq!(run.dropped(Reason::Drop), 1);
        let counters = run.stage(0);
        assert_eq!((counters.created.packets, counters.delayed.packets, counters.seen.packets), (2, 1, 4));
        assert_eq!(counters.rewritten.packets, 0);
    }

    /// What a stage sees has a checksum, draws differ, and what is dropped was not rewritten.
    #[test]
    fn a_stage_sees_whole_packets_and_draws_anew() {
        let mut run = run(|packet| {
            assert_eq!(crate::pipeline::testing::flaw(packet.bytes()), None);
            packet.bytes_mut();
            if packet.random().to_bits() == packet.random().to_bits() { Fate::Pass } else { Fate::Drop }
        });
        run.feed(Instant::ZERO, &Spec { partial: true, ..Spec::udp(100) }.frame());
        assert_eq!((run.dropped(Reason::Drop), run.stage(0).rewritten.packets), (1, 0));
    }

    #[test]
    fn copies_have_a_limit() {
        let mut run = run(|_| Fate::Copy(u32::MAX));
        run.feed(Instant::ZERO, &Spec::udp(10).frame());
        assert_eq!(run.wires().len(), 1_001);
    }

    /// A delay begins when the packet comes to the stage, not when it came to the router.
    #[test]
    fn a_delay_adds_to_those_before() {
        let mut stages = crate::config::spec::parse("delay 5ms").unwrap().stages;
        let delay = |_: &mut WirePacket<'_>| Fate::Delay(std::time::Duration::from_millis(1));
        stages.push(stage(ImpairmentParams::Custom(CustomParams::new(move || delay))));
        let mut run = Run::new(stages);
        run.feed(Instant::ZERO, &Spec::udp(100).frame());
        run.finish();
        assert_eq!(run.times(), [6_000_000]);
    }

    /// Also where the device was to complete the checksum.
    #[test]
    fn changed_bytes_leave_with_right_checksums_if_the_stage_asks() {
        for partial in [false, true] {
            let mut run = run(|packet| {
                let last = packet.bytes().len() - 1;
                packet.bytes_mut()[last] ^= 0xff;
                packet.fix_checksums();
                Fate::Pass
            });
            let frame = Spec { partial, ..Spec::udp(100) }.frame();
            run.feed(Instant::ZERO, &frame);
            let wires = run.wires();
            assert_eq!(crate::pipeline::testing::flaw(&wires[0].bytes), None);
            assert_eq!(wires[0].bytes.last(), Some(&(0x63 ^ 0xff)));
            assert_eq!(run.stage(0).rewritten.packets, 1);
        }
    }

    #[test]
    fn draws_are_even_and_each_is_another() {
        let half = Probability::new(0.5).unwrap();
        let mut run = run(move |packet| {
            let (first, second) = (packet.chance(half), packet.chance(half));
            if first && !second { Fate::Drop } else { Fate::Pass }
        });
        for at in 0..10_000 {
            run.feed(Instant::from_nanos(at), &Spec::udp(0).frame());
        }
        // A quarter: 2,500 with a standard deviation of 43; one in 10 million runs is outside of 5.3 of them.
        assert!(run.dropped(Reason::Drop).abs_diff(2_500) < 230, "{}", run.dropped(Reason::Drop));
    }
}
