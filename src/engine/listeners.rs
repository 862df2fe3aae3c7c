//! The taps of a worker: of the run's journal, of its capture, and of temporary readers of events.

use crate::engine::cache::Passed;
use crate::journal::tap::Told;
use crate::journal::{Kind, Tap};
use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::Draw;
use crate::pipeline::time::Instant;

/// The taps of one worker. Without any tap, the only cost is one check.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Kinds that any of them records: bits of [`Kind::bit`].
    kinds: u8,
    /// Each with its number; taps of the run itself have none.
    taps: Vec<(Option<u64>, Tap)>,
}

impl Listeners {
    pub(super) fn new(taps: Vec<Tap>) -> Self {
        let mut listeners = Self { kinds: 0, taps: taps.into_iter().map(|tap| (None, tap)).collect() };
        listeners.changed();
        listeners
    }

    fn changed(&mut self) {
        self.kinds = self.taps.iter().fold(0, |set, (_, tap)| set | tap.kinds());
    }

    pub(super) fn add(&mut self, number: u64, tap: Tap) {
        self.taps.push((Some(number), tap));
        self.changed();
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.taps.retain(|(own, _)| *own != Some(number));
        self.changed();
    }

    #[inline]
    pub(super) const fn wants(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// Whether any tap records one of these kinds.
    #[inline]
    pub(super) fn wants_any(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.wants(*kind))
    }

    /// Which transmission of its data this is; 0 if no tap follows flows.
    #[inline]
    pub(super) fn transmission(&mut self, packet: &Packet) -> u8 {
        // Only taps of the run itself may follow flows.
        let own = self.taps.iter_mut().filter(|(number, _)| number.is_none());
        own.fold(0, |count, (_, tap)| count.max(tap.transmission(packet)))
    }

    /// TCP data has passed unseen.
    pub(super) fn passed(&mut self, Passed { flow, from, until }: Passed) {
        self.taps.iter_mut().for_each(|(_, tap)| tap.passed(flow, from, until));
    }

    /// One behind the highest sequence number of TCP data of `flow`; `None` if no tap follows flows, or not this one.
    pub(super) fn end(&self, flow: FlowRef) -> Option<u32> {
        self.taps.iter().find_map(|(_, tap)| tap.end(flow))
    }

    /// Records it in the taps that want it.
    #[inline]
    pub(super) fn tell(
        &mut self,
        told: &Told<'_>,
        packet: &Packet,
        at: Instant,
        draw: &dyn Fn() -> Option<Draw>,
    ) {
        if self.wants(told.kind) {
            for (_, tap) in self.taps.iter_mut().filter(|(_, tap)| tap.wants(told.kind)) {
                tap.tell(told, packet, at, draw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Lane, Taps};

    #[test]
    fn each_listener_comes_and_goes_by_itself() {
        let tap = |kinds: &[Kind]| Taps::unheard(vec![Lane::of(kinds)]).tap(0);
        let mut listeners = Listeners::new(vec![tap(&[Kind::Dropped])]);
        let wants = |listeners: &Listeners| Kind::ALL.map(|kind| listeners.wants(kind));
        let before = wants(&listeners);
        listeners.add(7, tap(&[Kind::Sent]));
        listeners.add(8, tap(&[Kind::Sent, Kind::Held]));
        assert!(listeners.wants(Kind::Held) && listeners.wants(Kind::Sent));
        listeners.remove(8);
        assert!(!listeners.wants(Kind::Held) && listeners.wants(Kind::Sent));
        listeners.remove(7);
        assert_eq!(wants(&listeners), before);
        assert_eq!(before.iter().filter(|wanted| **wanted).count(), 1);
    }
}
