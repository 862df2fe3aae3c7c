//! Packets gathered into bursts, as on a link that gets access to the medium from time to time: netem's `slot`.
//!
//! A packet that is due after the current slot opened waits for a new slot, which opens a gap after the packet's due
//! time. Packets that become due meanwhile leave in the same slot. When a slot has sent its maximum of packets or
//! bytes, the next one opens a gap later.
//!
//! [`Slots`] decide when each packet leaves as soon as it comes, and draw a gap once. [`Queue`] works as the kernel
//! does: whenever a packet comes or may leave, the head of the queue is examined, and a slot that would open before
//! the head is due is drawn again.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::pipeline::params::{Slot, SlotGap};
use crate::pipeline::random::jitter;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::Kept;
use crate::pipeline::time::{Duration, Instant};

/// Slots of one path.
#[derive(Debug)]
pub(in crate::pipeline) struct Slots {
    slot: Slot,
    opens: Instant,
    packets: u64,
    bytes: u64,
}

impl Slots {
    pub(in crate::pipeline) fn new(slot: Slot) -> Self {
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
    pub(in crate::pipeline) fn departure(&mut self, due: Instant, bytes: u64, words: [u64; 2]) -> Instant {
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

/// Packets that wait for slots, in order of due times.
#[derive(Debug)]
pub(in crate::pipeline) struct Queue {
    slot: Slot,
    key: StageKey,
    waiting: BinaryHeap<Entry>,
    /// The number of packets that came, and of gaps that were drawn.
    came: u64,
    drawn: u64,
    opens: Instant,
    packets: u64,
    bytes: u64,
    wake: Option<Instant>,
}

/// The greatest is the one due first; of those, the one that came first.
#[derive(Debug)]
struct Entry {
    due: Instant,
    number: u64,
    bytes: u64,
    packet: Kept,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Entry {}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Queue {
    /// An empty queue at the beginning of the first slot; `key` is that of the gaps.
    pub(in crate::pipeline) fn new(slot: Slot, key: StageKey) -> Self {
        let (packets, bytes) = (slot.packets.unwrap_or(u64::MAX), slot.bytes.unwrap_or(u64::MAX));
        let waiting = BinaryHeap::new();
        Self { slot, key, waiting, came: 0, drawn: 0, opens: Instant::ZERO, packets, bytes, wake: None }
    }

    /// Adds a packet that is due at `due` and takes `bytes` of a slot.
    pub(in crate::pipeline) fn push(&mut self, due: Instant, packet: Kept, bytes: u64) {
        self.came += 1;
        self.waiting.push(Entry { due, number: self.came, bytes, packet });
    }

    /// The next packet that leaves at `now`.
    pub(in crate::pipeline) fn pop(&mut self, now: Instant) -> Option<Kept> {
        let due = self.waiting.peek()?.due;
        if self.opens < due {
            self.open(now);
        }
        if due > now || self.opens > now {
            return None;
        }
        let head = self.waiting.pop()?;
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(head.bytes);
        if self.packets == 0 || self.bytes == 0 {
            self.open(now);
        }
        Some(head.packet)
    }

    /// The next slot, a gap from `now`.
    fn open(&mut self, now: Instant) {
        let word = self.key.stream(0, 0).word(self.drawn, 0);
        self.drawn += 1;
        self.opens = now + gap(&self.slot.gap, word);
        self.packets = self.slot.packets.unwrap_or(u64::MAX);
        self.bytes = self.slot.bytes.unwrap_or(u64::MAX);
    }

    /// When to examine the head again, if this has not been requested already.
    pub(in crate::pipeline) fn next_wake(&mut self) -> Option<Instant> {
        let at = self.waiting.peek().map(|head| head.due.max(self.opens));
        let is_new = at != self.wake;
        self.wake = at;
        at.filter(|_| is_new)
    }

    /// Whether the head is to be examined at this time: an earlier request may have been replaced.
    pub(in crate::pipeline) fn is_woken(&mut self, now: Instant) -> bool {
        let is_time = self.wake == Some(now);
        if is_time {
            self.wake = None;
        }
        is_time
    }

    /// A packet that still waits, at the end of the run.
    pub(in crate::pipeline) fn relinquish(&mut self) -> Option<Kept> {
        self.waiting.pop().map(|entry| entry.packet)
    }
}

/// A gap by a uniform word.
fn gap(gap: &SlotGap, word: u64) -> Duration {
    match gap {
        SlotGap::Uniform(least, most) => {
            let span = most.as_nanos().saturating_sub(least.as_nanos());
            *least + Duration::from_nanos(((u128::from(word) * u128::from(span)) >> 64) as u64)
        }
        SlotGap::Distribution(distribution, delay, spread) => {
            jitter::draw(distribution, *delay, *spread, false, word)
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
