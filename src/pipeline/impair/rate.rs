//! A link of limited rate: a serialiser with its own queue, or a policer.
//!
//! Model, *queue*: wire packets leave one after the other at the rate, IP length plus `overhead` each; what does not fit
//! the queue is dropped at its tail. A train's wire packets leave one by one too. *Police*: a token bucket; what comes
//! faster than rate and burst allow is dropped at once, nothing waits.
//! Never reorders, copies or alters a packet. The queue adds no propagation delay: put a `delay` behind it.
//! Differs from tc-netem: queue and propagation line are separate, so that neither eats the other.

use std::sync::atomic::Ordering;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Excess, RateParams};
use crate::pipeline::serialiser::Serialiser;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Lets wire packets through at a rate.
#[derive(Debug)]
pub struct RateLimit {
    link: Serialiser,
    excess: Excess,
    overhead: i32,
    shared: Shared,
}

impl RateLimit {
    /// A limit whose clock and queue are `setting`'s shared ones.
    pub fn new(params: RateParams, setting: &Setting) -> Self {
        let shared = Shared::clone(&setting.shared);
        let link = Serialiser::new(params.rate, Shared::clone(&shared));
        Self { link, excess: params.excess, overhead: params.overhead, shared }
    }

    fn cost(&self, packet: &Packet) -> u64 {
        packet.wire_length(0).saturating_add_signed(self.overhead).into()
    }
}

impl Stage for RateLimit {
    fn decide(&mut self, packet: &Packet, _limit: u32, now: Instant) -> Verdict {
        let bytes = self.cost(packet);
        let action = match self.excess {
            Excess::Queue { packets, bytes: most, time } => {
                let full = packets.is_some_and(|most| self.shared.packets.load(Ordering::Acquire) >= most)
                    || most.is_some_and(|most| self.shared.bytes.load(Ordering::Acquire) + bytes > most)
                    || time.is_some_and(|most| self.link.wait(now) > most);
                if full {
                    Action::Drop(Reason::QueueFull)
                } else {
                    self.shared.packets.fetch_add(1, Ordering::AcqRel);
                    self.shared.bytes.fetch_add(bytes, Ordering::AcqRel);
                    Action::Hold(self.link.send(bytes, now).end)
                }
            }
            Excess::Police { burst } if self.link.draw(bytes, burst, now) => Action::Pass,
            Excess::Police { .. } => Action::Drop(Reason::Policed),
        };
        Verdict::new(1, action)
    }

    fn released(&mut self, packet: &Packet, _now: Instant) {
        self.shared.packets.fetch_sub(1, Ordering::AcqRel);
        self.shared.bytes.fetch_sub(self.cost(packet), Ordering::AcqRel);
    }
}
