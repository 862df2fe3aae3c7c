//! The gate before a stage: its selection, and its trigger among the selected packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::aim::flow::PerFlow;
use crate::pipeline::aim::segments::Sent;
pub use crate::pipeline::aim::select::Claim;
use crate::pipeline::aim::select::OfFlow;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Scope, Select, Trigger};
use crate::pipeline::random::rng::{Chance, Draw, StageKey};
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::shared::{Alone, Shared};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::FlowKey;

/// Bits of the path's count that say how often a trigger fired; the other 40 say how many packets it saw.
const FIRED_BITS: u32 = 24;
/// The largest count of firings over a path. The trigger's `times` must be less if it counts over a path.
pub const MAX_FIRED: u64 = (1 << FIRED_BITS) - 1;

/// Decides which wire packets a stage acts on.
#[derive(Debug)]
pub struct Gate {
    /// The gate lets every packet through to the stage.
    is_open: bool,
    select: Option<Select>,
    /// What each flow has sent, if the selection depends on it.
    sent: Option<PerFlow<Sent>>,
    trigger: Option<Armed>,
    /// Number of the only phase in which the stage acts.
    phase: Option<u8>,
}

/// A trigger with its counts.
#[derive(Debug)]
struct Armed {
    trigger: Trigger,
    chance: Option<Chance>,
    key: StageKey,
    counts: Counts,
}

#[derive(Debug)]
enum Counts {
    /// The trigger counts nothing.
    None,
    Flow(PerFlow<Count>),
    Path(Arc<Alone>),
    /// Packets and bytes.
    FlowBytes(PerFlow<(Count, u64)>),
    /// Bytes alone. They use the word that otherwise counts packets.
    PathBytes(Arc<Alone>),
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Selected wire packets so far.
    seen: u64,
    /// Packets among these that the stage acted on.
    fired: u64,
}

impl Gate {
    /// A gate whose counts start at zero; `shared` holds the counts that run over the path.
    pub fn new(select: &Select, trigger: &Trigger, key: StageKey, shared: &Shared, flows: usize) -> Self {
        let armed = || Armed {
            key,
            counts: match (counts(trigger), trigger.scope) {
                _ if trigger.counts_bytes() && trigger.scope == Scope::Flow => {
                    Counts::FlowBytes(PerFlow::new(flows))
                }
                _ if trigger.counts_bytes() => Counts::PathBytes(shared.state()),
                (false, _) => Counts::None,
                (true, Scope::Flow) => Counts::Flow(PerFlow::new(flows)),
                (true, Scope::Path) => Counts::Path(shared.state()),
            },
            chance: trigger.probability.map(Chance::new),
            trigger: trigger.clone(),
        };
        Self {
            is_open: select.is_any() && *trigger == Trigger::default(),
            select: (!select.is_any()).then(|| select.clone()),
            sent: select.remembers().then(|| PerFlow::new(flows)),
            trigger: (Trigger { phase: None, ..trigger.clone() } != Trigger::default()).then(armed),
            phase: trigger.phase.map(|phase| phase.number),
        }
    }

    /// A gate that selects everything.
    pub const fn open() -> Self {
        Self { is_open: true, select: None, sent: None, trigger: None, phase: None }
    }

    /// How many wire packets at the front of `packet`, at most `limit`, get the same answer, and whether the stage
    /// acts on them. The counts are advanced by this number.
    #[inline]
    pub fn claim(&mut self, packet: &Packet, limit: u32, now: Instant) -> Claim {
        if self.is_open {
            return Claim::new(limit, true);
        }
        if self.sent.is_some() {
            return self.claim_behind(packet, limit, now);
        }
        if self.phase.is_some_and(|phase| phase != packet.phase()) {
            return Claim::new(limit, false);
        }
        let selected = match &self.select {
            None => Claim::new(limit, true),
            Some(select) => select.run(packet, limit),
        };
        match &mut self.trigger {
            Some(armed) if selected.acts => armed.claim(packet, selected.count, now),
            _ => selected,
        }
    }
}

/// What a gate can say in advance about the next plain packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// The stage acts on none of these next packets.
    Shut(Quiet),
    /// The stage acts on all packets from now on.
    Open,
    /// The gate can only say when the packets come.
    Unknown,
}

impl Gate {
    /// The draw by which the trigger let the first wire packet of `packet` through to the stage. `None` if the
    /// trigger draws nothing, or if its draws go by the order of arrival.
    pub(crate) fn drawn(&self, packet: &Packet) -> Option<Draw> {
        let armed = self.trigger.as_ref().filter(|armed| armed.trigger.scope == Scope::Flow)?;
        let chance = armed.chance.as_ref()?;
        Some(chance.draw(packet.stream(armed.key), packet.index))
    }

    /// What the gate can say about the next plain packets of a flow ([`crate::pipeline::router::quiet`]).
    pub fn outlook(&self, ahead: &Ahead) -> Outlook {
        let selected = self.of_flow(ahead);
        match (selected, &self.trigger) {
            (OfFlow::No, _) => Outlook::Shut(Quiet::FOREVER),
            (OfFlow::Some, _) => Outlook::Unknown,
            _ if self.phase.is_some() => Outlook::Unknown,
            (OfFlow::All, None) => Outlook::Open,
            (OfFlow::All, Some(armed)) => armed.outlook(ahead),
        }
    }

    /// Counts `count` wire packets of the flow that passed without being shown, at most as many as [`Self::outlook`]
    /// allowed. Returns whether the stage would have been asked about them.
    pub fn passed(&mut self, ahead: &Ahead, count: u64) -> bool {
        let is_open = self.outlook(ahead) == Outlook::Open;
        let is_selected = self.of_flow(ahead) == OfFlow::All;
        if let (Some(armed), true) = (&mut self.trigger, is_selected && count > 0)
            && let Counts::Flow(counts) = &mut armed.counts
        {
            counts.of(ahead.flow).seen += count;
        }
        is_open
    }

    /// Whether the stage may act on plain packets of the flow `key`.
    pub fn takes(&self, key: &FlowKey) -> bool {
        self.select.as_ref().is_none_or(|select| select.of_flow(key, None) != OfFlow::No)
    }

    /// Which plain packets of a flow are selected.
    fn of_flow(&self, ahead: &Ahead) -> OfFlow {
        let Some(select) = &self.select else { return OfFlow::All };
        let sent = self.sent.as_ref().map(|sent| sent.peek(ahead.flow));
        select.of_flow(&ahead.key, sent.and_then(|sent| sent.opened()))
    }

    /// [`Self::claim`] for selections that depend on what the flow has sent; a separate function, so that other gates
    /// do not pay for it. Every packet of the flow counts as sent, whether or not the rest of the selection matches
    /// it.
    #[inline(never)]
    fn claim_behind(&mut self, packet: &Packet, limit: u32, now: Instant) -> Claim {
        let (Some(sent), Some(select)) = (&mut self.sent, &self.select) else {
            return Claim::new(limit, true);
        };
        let sent = sent.of(packet.flow);
        let view = sent.view(packet, select.transmission);
        let limit = view.as_ref().map_or(limit, |view| limit.min(view.limit()));
        let mut claim = Claim::new(limit, false);
        if self.phase.is_none_or(|phase| phase == packet.phase()) {
            claim = select.run_behind(packet, limit, view.as_ref());
        }
        if let (Some(armed), true) = (&mut self.trigger, claim.acts) {
            claim = armed.claim(packet, claim.count, now);
        }
        if let Some(view) = view {
            sent.learn(&view, claim.count);
        }
        claim
    }
}

/// Whether the trigger depends on how many packets came before. A draw over a path does too.
const fn counts(trigger: &Trigger) -> bool {
    (matches!(trigger.scope, Scope::Path) && trigger.probability.is_some()) || trigger.counts_packets()
}

/// Bytes of the first `count` wire packets of `packet`.
const fn bytes(packet: &Packet, count: u32) -> u64 {
    let last = if count == 0 { 0 } else { packet.wire_length(count - 1) };
    let before = if count == 0 { 0 } else { (count - 1) as u64 * packet.wire_length(0) as u64 };
    before + last as u64
}

impl Armed {
    fn outlook(&self, ahead: &Ahead) -> Outlook {
        let now = ahead.now.as_nanos();
        if self.trigger.until.is_some_and(|until| now >= until.as_nanos()) {
            return Outlook::Shut(Quiet::FOREVER);
        }
        let is_timed =
            self.trigger.until.is_some() || self.trigger.from.is_some_and(|from| now < from.as_nanos());
        let count = match &self.counts {
            _ if is_timed => return Outlook::Unknown,
            Counts::Path(_) | Counts::FlowBytes(_) | Counts::PathBytes(_) => return Outlook::Unknown,
            Counts::None => Count::default(),
            Counts::Flow(counts) => counts.peek(ahead.flow),
        };
        let run = self.trigger.run(count, u32::MAX);
        let quiet = Quiet::packets(run.count.into());
        match &self.chance {
            _ if !run.acts => Outlook::Shut(quiet),
            Some(chance) => Outlook::Shut(ahead.next_hit(chance, self.key).and(quiet)),
            None if run.count == u32::MAX && self.trigger.times.is_none() => Outlook::Open,
            None => Outlook::Unknown,
        }
    }

    fn claim(&mut self, packet: &Packet, limit: u32, now: Instant) -> Claim {
        let since = now.as_nanos();
        let in_time = self.trigger.from.is_none_or(|from| since >= from.as_nanos())
            && self.trigger.until.is_none_or(|until| since < until.as_nanos());
        let (key, trigger, chance) = (self.key, &self.trigger, &self.chance);
        let decide = |count: Count, seen_bytes: u64| {
            let run = trigger.run(count, limit);
            let run = trigger.run_bytes(packet, seen_bytes, run);
            match chance {
                Some(chance) if run.acts && in_time => {
                    let (stream, index) = match trigger.scope {
                        Scope::Flow => (packet.stream(key), packet.index),
                        // By the order of arrival, whatever the flow.
                        Scope::Path => (key.stream(0, 0), count.seen),
                    };
                    let (count, acts) = chance.run(stream, index, run.count);
                    Claim { count, acts }
                }
                _ => Claim { acts: run.acts && in_time, ..run },
            }
        };
        match &mut self.counts {
            Counts::None => decide(Count::default(), 0),
            Counts::Flow(counts) => {
                let count = counts.of(packet.flow);
                let claim = decide(*count, 0);
                count.advance(claim);
                claim
            }
            Counts::Path(word) => claim_shared(&word.0, |count| decide(count, 0)),
            Counts::FlowBytes(counts) => {
                let (count, seen) = counts.of(packet.flow);
                let claim = decide(*count, *seen);
                count.advance(claim);
                *seen = seen.saturating_add(bytes(packet, claim.count));
                claim
            }
            Counts::PathBytes(word) => claim_bytes(&word.0, packet, |seen| decide(Count::default(), seen)),
        }
    }
}

/// Advances the path's count. Workers that race for it take turns: both counts are in one word, so that the trigger
/// never fires once too often.
fn claim_shared(word: &AtomicU64, decide: impl Fn(Count) -> Claim) -> Claim {
    let mut before = word.load(Ordering::Acquire);
    loop {
        let mut count = Count { seen: before >> FIRED_BITS, fired: before & MAX_FIRED };
        let claim = decide(count);
        count.advance(claim);
        let after = count.seen << FIRED_BITS | count.fired.min(MAX_FIRED);
        match word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return claim,
            Err(now) => before = now,
        }
    }
}

/// The same for a count of bytes alone.
fn claim_bytes(word: &AtomicU64, packet: &Packet, decide: impl Fn(u64) -> Claim) -> Claim {
    let mut before = word.load(Ordering::Acquire);
    loop {
        let claim = decide(before);
        let after = before.saturating_add(bytes(packet, claim.count));
        match word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return claim,
            Err(now) => before = now,
        }
    }
}

impl Count {
    fn advance(&mut self, claim: Claim) {
        self.seen += u64::from(claim.count);
        self.fired += if claim.acts { u64::from(claim.count) } else { 0 };
    }
}

impl Trigger {
    /// How many of the next selected wire packets, at most `limit`, get the same answer by their number, and whether
    /// they are due.
    fn run(&self, count: Count, limit: u32) -> Claim {
        let mut length = u64::from(limit);
        let mut due = true;
        // Numbers start at 1; `next` is that of the first packet in question.
        let next = count.seen + 1;
        let mut condition = |holds: bool, changes_at: Option<u64>| {
            due &= holds;
            if let Some(at) = changes_at {
                length = length.min(at - next);
            }
        };
        if let Some(first) = self.first {
            condition(next <= first, (next <= first).then_some(first + 1));
        }
        if let Some(after) = self.after {
            condition(next > after, (next <= after).then_some(after + 1));
        }
        if let Some(every) = self.every {
            let hit = next.is_multiple_of(every);
            condition(hit, Some(if hit { next + 1 } else { next.next_multiple_of(every) }));
        }
        if !self.nth.is_empty() {
            let at = self.nth.partition_point(|&nth| nth < next);
            let hit = self.nth.get(at) == Some(&next);
            condition(hit, if hit { Some(next + 1) } else { self.nth.get(at).copied() });
        }
        if let Some(times) = self.times {
            let left = times.saturating_sub(count.fired);
            due &= left > 0;
            if left > 0 {
                length = length.min(left);
            }
        }
        Claim::new(length as u32, due)
    }

    /// `run`, narrowed by the conditions that count bytes; `seen` bytes came before `packet`. A packet counts by the
    /// position of its first byte.
    fn run_bytes(&self, packet: &Packet, seen: u64, run: Claim) -> Claim {
        let Claim { mut count, mut acts } = run;
        // All wire packets but the last have the same length, and no packet comes after the last.
        let each = u64::from(packet.wire_length(0)).max(1);
        let begins_before = |bytes: u64| bytes.saturating_sub(seen).div_ceil(each);
        let mut condition = |before: u64, holds: bool| {
            acts &= holds;
            if before > 0 {
                count = u64::from(count).min(before) as u32;
            }
        };
        if let Some(first) = self.first_bytes {
            let before = begins_before(first);
            condition(before, before > 0);
        }
        if let Some(after) = self.after_bytes {
            let before = begins_before(after);
            condition(before, before == 0);
        }
        Claim::new(count, acts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::params::{DropParams, ImpairmentParams, Phase, StageParams};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;

    /// Which of `frames` are left by a stage that drops what `trigger` selects.
    fn wires_left(trigger: &Trigger, frames: &[Spec]) -> usize {
        let drop = StageParams { trigger: trigger.clone(), ..stage(ImpairmentParams::Drop(DropParams)) };
        let mut run = Run::new(vec![drop]);
        for spec in frames {
            run.feed(Instant::ZERO, &spec.frame());
        }
        run.wires().len()
    }

    proptest! {
        /// A datagram of 72 bytes begins at each multiple of 100: 28 are headers.
        #[test]
        fn bytes_are_those_before_a_packet(
            first in prop::option::of(1_u64..3_000),
            after in prop::option::of(1_u64..3_000),
            path in any::<bool>(),
            train in any::<bool>(),
        ) {
            let scope = if path { Scope::Path } else { Scope::Flow };
            let trigger = Trigger { first_bytes: first, after_bytes: after, scope, ..Trigger::default() };
            let frames = if train { vec![Spec::udp(20 * 72).train(72)] } else { vec![Spec::udp(72); 20] };
            let acts = |number: &u64| {
                let before = number * 100;
                first.is_none_or(|first| before < first) && after.is_none_or(|after| before >= after)
            };
            let expected = 20 - (0..20).filter(acts).count();
            prop_assert_eq!(wires_left(&trigger, &frames), expected);
        }
    }

    #[test]
    fn a_path_counts_the_bytes_of_all_its_flows() {
        let trigger = |scope| Trigger { after_bytes: Some(150), scope, ..Trigger::default() };
        let mut other = Spec::udp(72);
        other.source_port += 1;
        let frames = [Spec::udp(72), other.clone(), Spec::udp(72), other];
        assert_eq!(wires_left(&trigger(Scope::Path), &frames), 2);
        assert_eq!(wires_left(&trigger(Scope::Flow), &frames), 4);
    }

    #[test]
    fn the_last_wire_packet_of_a_train_counts_by_its_own_length() {
        // They begin at 0, 100 and 200 bytes.
        let train = [Spec::udp(72 * 2 + 12).train(72)];
        for scope in [Scope::Flow, Scope::Path] {
            for (after_bytes, left) in [(100, 1), (180, 2), (200, 2), (201, 3)] {
                let trigger = Trigger { after_bytes: Some(after_bytes), scope, ..Trigger::default() };
                assert_eq!(wires_left(&trigger, &train), left, "{after_bytes}");
            }
        }
    }

    #[test]
    fn a_path_counts_what_was_acted_on() {
        let trigger = Trigger { times: Some(2), scope: Scope::Path, ..Trigger::default() };
        let mut other = Spec::udp(72);
        other.source_port += 1;
        assert_eq!(wires_left(&trigger, &[Spec::udp(72), other.clone(), Spec::udp(72), other]), 2);
    }

    fn gate(trigger: &Trigger) -> Gate {
        Gate::new(&Select::default(), trigger, StageKey::new(1, "gate"), &Shared::default(), 8)
    }

    /// Of a flow of which no packet came yet, at 10 ms.
    #[test]
    fn the_outlook_is_open_only_if_nothing_ever_shuts_the_gate() {
        let packet = Spec::udp(9).frame().parse().unwrap();
        let key = FlowKey::new(packet.bytes(), packet.layout);
        let ahead = Ahead { flow: packet.flow, key, index: 0, now: Instant::from_nanos(10_000_000) };
        let at = |nanos| Some(Duration::from_nanos(nanos));
        let (before, now, after) = (at(9_999_999), at(10_000_000), at(10_000_001));
        let phase = Phase { number: 1, from: Duration::ZERO, until: None, period: None };
        let any = Trigger::default;
        let shut = |count| Outlook::Shut(Quiet::packets(count));
        for (trigger, outlook) in [
            (any(), Outlook::Open),
            (Trigger { from: before, ..any() }, Outlook::Open),
            (Trigger { from: now, ..any() }, Outlook::Open),
            (Trigger { from: after, ..any() }, Outlook::Unknown),
            (Trigger { until: after, ..any() }, Outlook::Unknown),
            (Trigger { until: now, ..any() }, Outlook::Shut(Quiet::FOREVER)),
            (Trigger { until: before, ..any() }, Outlook::Shut(Quiet::FOREVER)),
            (Trigger { from: before, until: after, ..any() }, Outlook::Unknown),
            (Trigger { first: Some(5), ..any() }, Outlook::Unknown),
            (Trigger { times: Some(5), ..any() }, Outlook::Unknown),
            (Trigger { after: Some(5), ..any() }, shut(5)),
            (Trigger { every: Some(5), ..any() }, shut(4)),
            (Trigger { nth: vec![3, 7], ..any() }, shut(2)),
            (Trigger { first_bytes: Some(5), ..any() }, Outlook::Unknown),
            (Trigger { phase: Some(phase), ..any() }, Outlook::Unknown),
        ] {
            assert_eq!(gate(&trigger).outlook(&ahead), outlook, "{trigger:?}");
        }
    }

    #[test]
    fn the_draw_that_is_told_is_the_one_that_decided() {
        let probability = Some("50%".parse().unwrap());
        let mut fired = 0;
        for index in 0..100 {
            let mut packet = Spec::udp(9).frame().parse().unwrap();
            packet.index = index;
            let mut flows = gate(&Trigger { probability, ..Trigger::default() });
            let draw = flows.drawn(&packet).unwrap();
            let acts = flows.claim(&packet, 1, Instant::ZERO).acts;
            assert_eq!(draw.value < draw.threshold, acts);
            fired += u32::from(acts);
            // By arrival: the packet alone does not tell.
            let path = gate(&Trigger { probability, scope: Scope::Path, ..Trigger::default() });
            assert_eq!(path.drawn(&packet), None);
            assert_eq!(gate(&Trigger { first: Some(1), ..Trigger::default() }).drawn(&packet), None);
        }
        // Five standard deviations.
        assert!((25..=75).contains(&fired), "{fired}");
    }

    #[test]
    fn a_trigger_acts_from_its_beginning_to_its_end() {
        let at = |nanos| Some(Duration::from_nanos(nanos));
        let acts = |trigger: &Trigger| {
            let packet = Spec::udp(9).frame().parse().unwrap();
            [99, 100, 199, 200].map(|nanos| gate(trigger).claim(&packet, 1, Instant::from_nanos(nanos)).acts)
        };
        let (from, until) = (at(100), at(200));
        assert_eq!(acts(&Trigger { from, ..Trigger::default() }), [false, true, true, true]);
        assert_eq!(acts(&Trigger { until, ..Trigger::default() }), [true, true, true, false]);
        assert_eq!(acts(&Trigger { from, until, ..Trigger::default() }), [false, true, true, false]);
    }
}
