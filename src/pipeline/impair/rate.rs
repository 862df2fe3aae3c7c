//! A link of limited rate: a serialiser with its own queue, or a policer.
//!
//! Model, *queue*: wire packets leave one after the other at the rate, IP length plus `overhead` each. A packet that
//! does not fit the queue is dropped at its tail. A train's wire packets leave one by one too. *Police*: a token
//! bucket; packets that come faster than rate and burst allow are dropped at once, and nothing waits.
//! Never reorders, copies or alters a packet. The queue adds no propagation delay: put a `delay` behind it.
//! Differs from tc-netem: queue and propagation line are separate, so neither absorbs the time of the other.

use std::fmt;
use std::sync::Arc;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::impair::text;
use crate::pipeline::link::serialiser::{Serialiser, wait};
use crate::pipeline::link::state::LinkState;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::Share;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Duration;
use crate::pipeline::time::Instant;
use crate::pipeline::units::{Bytes, Rate};

/// See [`ImpairmentParams::Rate`](crate::pipeline::impair::ImpairmentParams::Rate).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateParams {
    /// Bits per second on the wire.
    pub rate: Rate,
    /// How the excess is treated.
    pub excess: Excess,
    /// Bytes that each packet costs on top of its IP length (14 + 4 + 20 for Ethernet with preamble and gap).
    pub overhead: i32,
    /// Several paths go through this link.
    pub share: Option<Share>,
}

/// What a rate limit does with packets above the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Excess {
    /// Waits in a tail-drop queue. A packet that would exceed any limit that is set is dropped; the packet being
    /// serialised counts.
    Queue {
        /// In wire packets.
        packets: Option<u64>,
        /// In bytes (with overhead).
        bytes: Option<u64>,
        /// In time that a packet would wait before its own serialisation starts.
        time: Option<Duration>,
    },
    /// Is dropped at once: a token bucket of `burst` bytes without a queue.
    Police {
        /// Depth of the bucket in bytes, at least one packet.
        burst: u64,
    },
}

impl fmt::Display for RateParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excess = match self.excess {
            Excess::Police { burst } => format!("drop what exceeds it after a burst of {}", Bytes(burst)),
            Excess::Queue { packets, bytes, time } => text::queue(packets, bytes, time),
        };
        write!(f, "rate {}{}, {excess}{}", self.rate, text::overhead(self.overhead), text::share(self.share))
    }
}

impl Blueprint for RateParams {
    type Stage = RateLimit;

    fn build(&self, setting: &Setting) -> Self::Stage {
        RateLimit::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, place: &Place) -> Vec<String> {
        let Some(mtu) = place.mtu else { return Vec::new() };
        let trap = match self.excess {
            Excess::Police { burst } if i64::from(mtu) + i64::from(self.overhead) > burst as i64 => {
                Some(format!("a burst of {} never passes a full packet of {mtu} bytes", Bytes(burst)))
            }
            Excess::Queue { bytes: Some(bytes), .. } if bytes < u64::from(mtu) => {
                Some(format!("a queue of {} never takes a full packet of {mtu} bytes", Bytes(bytes)))
            }
            _ => None,
        };
        trap.into_iter().collect()
    }
}

/// Lets wire packets through at a rate.
#[derive(Debug)]
pub struct RateLimit {
    link: Serialiser,
    excess: Excess,
    overhead: i32,
    state: Arc<LinkState>,
}

impl RateLimit {
    /// A limit whose clock and queue are `setting`'s shared ones.
    pub fn new(params: RateParams, setting: &Setting) -> Self {
        Self {
            link: Serialiser::new(params.rate),
            excess: params.excess,
            overhead: params.overhead,
            state: setting.shared.state(),
        }
    }

    /// What wire packet `i` costs, in bytes.
    fn cost(&self, packet: &Packet, i: u32) -> u64 {
        packet.wire_length(i).saturating_add_signed(self.overhead).into()
    }

    /// Answers for as many wire packets as get the same verdict, so that conforming packets stay a train.
    fn police(&mut self, packet: &Packet, limit: u32, burst: u64, now: Instant) -> Verdict {
        // All wire packets but the last are of one length.
        let alike = (packet.wires() - 1).clamp(1, limit);
        let fit = self.link.draw(&self.state.clock, self.cost(packet, 0), alike, burst, now);
        match fit {
            // No tokens were taken, so the others of this length do not fit either.
            0 => Verdict::new(alike, Action::drop(Reason::Policed)),
            _ => Verdict::new(fit, Action::PASS),
        }
    }
}

impl Stage for RateLimit {
    type Plan = ();

    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        match self.excess {
            Excess::Queue { packets, bytes, time } => {
                let cost = self.cost(packet, 0);
                let in_time = time.is_none_or(|most| wait(&self.state.clock, now) <= most);
                let action = if in_time && self.state.admit(cost, packets, bytes) {
                    Action::hold(self.link.send(&self.state.clock, cost, now).end)
                } else {
                    Action::drop(Reason::QueueFull)
                };
                // Each wire packet leaves at its own time.
                Verdict::new(1, action)
            }
            Excess::Police { burst } => self.police(packet, limit, burst, now),
        }
    }

    fn released(&mut self, packet: &Packet, _now: Instant) {
        self.state.leave(self.cost(packet, 0));
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for RateParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{duration, rate};
        let queue =
            (prop::option::of(1..50_u64), prop::option::of(1_500..50_000_u64), prop::option::of(duration()))
                .prop_map(|(packets, bytes, time)| Excess::Queue { packets, bytes, time });
        let excess = prop_oneof![queue, (1_500..100_000_u64).prop_map(|burst| Excess::Police { burst })];
        (rate(), excess, -20..60_i32)
            .prop_map(|(rate, excess, overhead)| Self { rate, excess, overhead, share: None })
            .boxed()
    }

    fn shares_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;
    use crate::pipeline::units::Rate;

    const NO_LIMIT: Excess = Excess::Queue { packets: None, bytes: None, time: None };

    /// 8 Mbit/s: a byte a microsecond.
    fn run(excess: Excess, overhead: i32) -> Run {
        let rate = Rate::from_bits_per_sec(8_000_000).unwrap();
        Run::new(vec![stage(ImpairmentParams::Rate(RateParams { rate, excess, overhead, share: None }))])
    }

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    fn micros(run: &Run) -> Vec<u64> {
        assert!(run.times().iter().all(|time| time % 1_000 == 0));
        run.times().iter().map(|time| time / 1_000).collect()
    }

    /// With 40 bytes of headers, payloads of 60 and 160 bytes make packets of 100 and 200.
    #[test]
    fn packets_leave_when_their_last_bit_has() {
        let mut run = run(NO_LIMIT, 0);
        run.feed(at(7), &Spec::tcp(60).frame());
        run.feed(at(7), &Spec::tcp(160).frame());
        run.feed(at(50), &Spec::tcp(60).with_source_port(9).frame());
        run.feed(at(1_000), &Spec::tcp(60).frame());
        run.finish();
        assert_eq!(micros(&run), [107, 307, 407, 1_100]);
    }

    #[test]
    fn the_wire_packets_of_a_train_leave_one_by_one() {
        let mut run = run(NO_LIMIT, 0);
        run.feed(at(0), &Spec::tcp(60 * 3 + 10).train(60).frame());
        run.finish();
        assert_eq!(micros(&run), [100, 200, 300, 350]);
    }

    #[test]
    fn overhead_takes_time_and_may_be_negative() {
        for (overhead, times) in [(38, [138, 276]), (-20, [80, 160]), (-1_000, [0, 0])] {
            let mut run = run(NO_LIMIT, overhead);
            run.feed(at(0), &Spec::tcp(120).train(60).frame());
            run.finish();
            assert_eq!(micros(&run), times, "{overhead}");
        }
    }

    /// The one being sent counts; a place is free once it has left.
    #[test]
    fn the_packet_limit_counts_the_one_being_sent() {
        let mut run = run(Excess::Queue { packets: Some(2), bytes: None, time: None }, 0);
        run.feed(at(0), &Spec::tcp(240).train(60).frame());
        run.feed(at(99), &Spec::tcp(60).frame());
        run.feed(at(100), &Spec::tcp(60).frame());
        run.finish();
        assert_eq!(micros(&run), [100, 200, 300]);
        assert_eq!((run.dropped(Reason::QueueFull), run.stage(0).delayed.packets), (3, 3));
    }

    #[test]
    fn the_byte_limit_counts_overhead_and_lets_a_small_one_in() {
        let mut run = run(Excess::Queue { packets: None, bytes: Some(300), time: None }, 20);
        run.feed(at(0), &Spec::tcp(60 * 3).train(60).frame());
        run.feed(at(0), &Spec::tcp(1).frame());
        run.feed(at(0), &Spec::tcp(0).frame());
        run.feed(at(120), &Spec::tcp(60).frame());
        run.finish();
        // 120 and 120 wait, 60 are left: 61 are too much, 60 are not.
        assert_eq!(micros(&run), [120, 240, 300, 420]);
        assert_eq!(run.dropped(Reason::QueueFull), 2);
    }

    #[test]
    fn the_time_limit_is_the_wait_before_the_own_turn() {
        let mut run =
            run(Excess::Queue { packets: None, bytes: None, time: Some(Duration::from_micros(150)) }, 0);
        run.feed(at(0), &Spec::tcp(60 * 4).train(60).frame());
        run.feed(at(49), &Spec::tcp(60).frame());
        run.feed(at(50), &Spec::tcp(60).frame());
        run.finish();
        // The third of the train would wait 200.
        assert_eq!(micros(&run), [100, 200, 300]);
        assert_eq!(run.dropped(Reason::QueueFull), 3);
    }

    #[test]
    fn what_conforms_to_a_policer_passes_at_once_and_as_a_train() {
        let mut run = run(Excess::Police { burst: 350 }, 0);
        run.feed(at(0), &Spec::tcp(60 * 5 + 10).train(60).frame());
        let passed: Vec<_> =
            run.frames().iter().map(|(at, frame)| (at.as_nanos(), frame.wires().len())).collect();
        // 300 of 350 bytes for three, and the last of 50 bytes fits where two of 100 did not.
        assert_eq!(passed, [(0, 3), (0, 1)]);
        assert_eq!(run.dropped(Reason::Policed), 2);
        run.feed(at(99), &Spec::tcp(60).frame());
        run.feed(at(100), &Spec::tcp(60).frame());
        assert_eq!((run.frames().len(), run.dropped(Reason::Policed)), (3, 3));
    }

    /// Half a minute of twice the rate: what leaves is 2,000 packets a second and what the queue or bucket holds.
    #[test]
    fn the_rate_holds_under_overload() {
        for (name, excess) in [
            ("queue", Excess::Queue { packets: Some(10), bytes: None, time: None }),
            ("policer", Excess::Police { burst: 1_000 }),
        ] {
            let mut run = run(excess, 0);
            for turn in 0..60_000 {
                run.feed(at(turn * 500), &Spec::tcp(2 * 460).train(460).frame());
            }
            run.finish();
            let sent = run.router.counters().sent.packets;
            assert!((59_999..=60_010).contains(&sent), "{name}: {sent}");
        }
    }

    #[test]
    fn what_no_full_packet_can_pass_is_a_trap() {
        let traps = |excess, overhead, mtu| {
            let rate = Rate::from_bits_per_sec(1_000_000).unwrap();
            RateParams { rate, excess, overhead, share: None }.traps(&Place { mtu, ipv6: false }).len()
        };
        let queue = |bytes| Excess::Queue { packets: None, bytes: Some(bytes), time: None };
        let police = |burst| Excess::Police { burst };
        for (excess, overhead, expected) in [
            (police(1_499), 0, 1),
            (police(1_500), 0, 0),
            (police(1_500), 38, 1),
            (police(1_537), 38, 1),
            (police(1_538), 38, 0),
            (police(1_480), -20, 0),
            (queue(1_499), 0, 1),
            (queue(1_500), 0, 0),
        ] {
            assert_eq!(traps(excess, overhead, Some(1_500)), expected, "{excess:?} {overhead}");
            assert_eq!(traps(excess, overhead, None), 0, "the MTU is not known");
        }
    }
}
