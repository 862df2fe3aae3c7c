//! Packets gathered into bursts, as a link does that is granted the air from time to time: netem's `slot`.
//!
//! A packet that is due after the current slot opened waits for a new one, which opens a gap after its due time; those
//! that are due meanwhile leave in it together. A slot that has taken its packets or bytes is followed by the next, a gap
//! later.
//! Differs from netem: there, a packet that comes while another waits draws the gap anew.

use crate::pipeline::params::{DelayParams, Slot, SlotGap};
use crate::pipeline::time::{Duration, Instant};

/// Slots of one path.
#[derive(Debug)]
pub(super) struct Slots {
    slot: Slot,
    opens: Instant,
    packets: u64,
    bytes: u64,
}

impl Slots {
    pub(super) fn new(slot: Slot) -> Self {
        let mut slots = Self { slot, opens: Instant::ZERO, packets: 0, bytes: 0 };
        slots.refill();
        slots
    }

    fn refill(&mut self) {
        self.packets = self.slot.packets.unwrap_or(u64::MAX);
        self.bytes = self.slot.bytes.unwrap_or(u64::MAX);
    }

    fn open(&mut self, after: Instant, word: u64) {
        self.opens = after + gap(&self.slot.gap, word);
        self.refill();
    }

    /// When a packet of `bytes` leaves that is due at `due`.
    pub(super) fn departure(&mut self, due: Instant, bytes: u64, words: [u64; 2]) -> Instant {
        if due > self.opens {
            self.open(due, words[0]);
        }
        let leaves = due.max(self.opens);
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.packets == 0 || self.bytes == 0 {
            self.open(leaves, words[1]);
        }
        leaves
    }
}

/// A gap by a uniform word.
fn gap(gap: &SlotGap, word: u64) -> Duration {
    match *gap {
        SlotGap::Uniform(least, most) => {
            let span = most.as_nanos().saturating_sub(least.as_nanos());
            least + Duration::from_nanos(((u128::from(word) * u128::from(span)) >> 64) as u64)
        }
        SlotGap::Distribution(distribution, delay, jitter) => {
            DelayParams { delay, jitter, distribution, reorder: true, half_life: None }.draw(word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// Departures in us of packets of 100 bytes due at these times, with gaps of 10 ms.
    fn departures(packets: Option<u64>, bytes: Option<u64>, due: &[u64]) -> Vec<u64> {
        let ten = Duration::from_millis(10);
        let mut slots = Slots::new(Slot { gap: SlotGap::Uniform(ten, ten), packets, bytes });
        due.iter().map(|&due| slots.departure(at(due), 100, [0, 0]).as_nanos() / 1_000).collect()
    }

    #[test]
    fn what_is_due_before_a_slot_opens_leaves_in_it() {
        assert_eq!(
            departures(None, None, &[1, 2, 9_999, 10_001, 10_002, 30_000]),
            [10_001, 10_001, 10_001, 10_001, 20_002, 40_000]
        );
    }

    #[test]
    fn a_slot_that_is_full_is_followed_by_the_next_a_gap_later() {
        let burst = [1; 7];
        assert_eq!(
            departures(Some(3), None, &burst),
            [10_001, 10_001, 10_001, 20_001, 20_001, 20_001, 30_001]
        );
        // 250 bytes: the packet that reaches them still goes.
        assert_eq!(
            departures(None, Some(250), &burst),
            [10_001, 10_001, 10_001, 20_001, 20_001, 20_001, 30_001]
        );
        assert_eq!(departures(Some(5), Some(200), &burst[..5]), [10_001, 10_001, 20_001, 20_001, 30_001]);
    }

    #[test]
    fn gaps_are_drawn_between_their_ends() {
        let (one, three) = (Duration::from_millis(1), Duration::from_millis(3));
        let uniform = SlotGap::Uniform(one, three);
        assert_eq!(
            [0, 1 << 63, u64::MAX].map(|word| gap(&uniform, word).as_nanos()),
            [1_000_000, 2_000_000, 2_999_999]
        );
    }
}
