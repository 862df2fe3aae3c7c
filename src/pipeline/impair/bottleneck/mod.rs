//! A link with a queue of its own: a changing rate or a trace, and any queue discipline.
//!
//! Model: wire packets wait in one queue and are sent one after the other, IP length plus `overhead` each, as the
//! [`Service`] allows. Who is dropped, and when, is the discipline's: at the tail, at the head, by CoDel (RFC 8289), PIE
//! (RFC 8033) or RED. A train's wire packets wait and leave one by one. With several workers each has a queue of its own;
//! the link, and the limits, are one.
//! Never reorders, copies or alters a packet, but for ECN marks. It adds no propagation delay: put a `delay` behind it.
//! Differs from Mahimahi: nothing but that packets above 1,504 bytes take several opportunities.

mod codel;
mod params;
mod pie;
mod red;

pub use params::{
    BottleneckParams, CoDelParams, Discipline, PeakParams, PieParams, RedParams, ServiceParams,
};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::packet::Packet;
use crate::pipeline::rng::StageKey;
use crate::pipeline::service::Service;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Action, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Where the shared memory keeps the clock of the peak.
const PEAK: usize = 0;

/// A queue in front of a link.
#[derive(Debug)]
pub struct Bottleneck {
    service: Service,
    /// What a burst is slowed down to, at least.
    peak: Option<Service>,
    overhead: i32,
    packets: Option<u64>,
    bytes: Option<u64>,
    manager: Manager,
    key: StageKey,
    shared: Shared,
    queue: VecDeque<Waiting>,
    sending: Option<(Waiting, Instant)>,
    /// The last wake-up that was asked for.
    wake: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    packet: Packet,
    since: Instant,
    /// What it takes of the link.
    bytes: u64,
    /// The discipline lets it go.
    cleared: bool,
}

/// Who manages the queue.
#[derive(Debug)]
enum Manager {
    Tail,
    Head,
    CoDel(codel::CoDel, bool),
    Pie(pie::Pie),
    Red(red::Red),
}

/// What a discipline does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Go,
    Mark,
    Drop,
}

impl Bottleneck {
    /// An idle link with an empty queue.
    pub fn new(params: &BottleneckParams, setting: &Setting) -> Self {
        let service = match &params.service {
            ServiceParams::Rate(rate) => Service::Rate(*rate, 0),
            ServiceParams::Bucket(rate, burst, _) => Service::bucket(*rate, *burst),
            ServiceParams::Steps(steps) => Service::Steps(steps.clone(), 0),
            ServiceParams::Opportunities(times) => Service::Opportunities(times.clone()),
        };
        let peak = match &params.service {
            ServiceParams::Bucket(.., peak) => peak.map(|peak| Service::bucket(peak.rate, peak.mtu)),
            _ => None,
        };
        let manager = match params.discipline {
            Discipline::TailDrop => Manager::Tail,
            Discipline::HeadDrop => Manager::Head,
            Discipline::CoDel(codel) => Manager::CoDel(codel::CoDel::new(codel), codel.ecn),
            Discipline::Pie(pie) => Manager::Pie(pie::Pie::new(pie)),
            Discipline::Red(red) => Manager::Red(red::Red::new(red, service.typical())),
        };
        Self {
            service,
            peak,
            overhead: params.overhead,
            packets: params.packets,
            bytes: params.bytes,
            manager,
            key: setting.key,
            shared: Shared::clone(&setting.shared),
            queue: VecDeque::new(),
            sending: None,
            wake: None,
        }
    }

    fn is_full(&self, bytes: u64) -> bool {
        let over = |counter: &AtomicU64, more: u64, most: Option<u64>| {
            most.is_some_and(|most| counter.load(Ordering::Acquire) + more > most)
        };
        over(&self.shared.packets, 1, self.packets) || over(&self.shared.bytes, bytes, self.bytes)
    }

    /// What the discipline does with a packet that comes.
    fn arrival(&mut self, packet: &Packet, bytes: u64, now: Instant) -> Fate {
        let draw = || packet.stream(self.key).unit(packet.index, 0);
        let head = self.sending.as_ref().map(|(first, _)| first).or_else(|| self.queue.front());
        match &mut self.manager {
            Manager::Tail | Manager::Head | Manager::CoDel(..) => Fate::Go,
            Manager::Pie(pie) => {
                pie.catch_up(head.map(|head| head.since), now);
                let waiting = self.shared.bytes.load(Ordering::Acquire);
                pie.arrival(waiting, packet.is_ecn_capable(), draw())
            }
            Manager::Red(red) => {
                let waiting = self.shared.packets.load(Ordering::Acquire);
                red.arrival(waiting, bytes, packet.is_ecn_capable(), draw(), now)
            }
        }
    }

    /// What the discipline does with the head of the queue, whose turn has come.
    fn departure(&mut self, now: Instant) -> Fate {
        let Some(head) = self.queue.front_mut() else { return Fate::Go };
        if head.cleared {
            return Fate::Go;
        }
        head.cleared = true;
        match &mut self.manager {
            Manager::CoDel(codel, ecn) => {
                let behind = self.shared.bytes.load(Ordering::Acquire).saturating_sub(head.bytes);
                let marks = *ecn && head.packet.is_ecn_capable();
                match codel.hits(now.since(head.since), head.bytes, behind, marks, now) {
                    false => Fate::Go,
                    true if marks => Fate::Mark,
                    true => Fate::Drop,
                }
            }
            Manager::Pie(pie) => {
                pie.catch_up(Some(head.since), now);
                Fate::Go
            }
            Manager::Tail | Manager::Head | Manager::Red(_) => Fate::Go,
        }
    }

    fn enter(&mut self, packet: Packet, bytes: u64, now: Instant, out: &mut Outlet<'_>) {
        self.shared.packets.fetch_add(1, Ordering::AcqRel);
        self.shared.bytes.fetch_add(bytes, Ordering::AcqRel);
        out.keep(&packet);
        self.queue.push_back(Waiting { packet, since: now, bytes, cleared: false });
    }

    /// Takes `waiting` off the books.
    fn exit(&self, waiting: &Waiting, out: &mut Outlet<'_>) {
        self.shared.packets.fetch_sub(1, Ordering::AcqRel);
        self.shared.bytes.fetch_sub(waiting.bytes, Ordering::AcqRel);
        out.unkeep(&waiting.packet);
    }

    /// Drops the head of the queue.
    fn drop_head(&mut self, reason: Reason, out: &mut Outlet<'_>) {
        if let Some(head) = self.queue.pop_front() {
            self.exit(&head, out);
            out.drop(head.packet, reason);
        }
    }

    /// Carries on with everything that the link can do by `now`.
    fn serve(&mut self, now: Instant, out: &mut Outlet<'_>) {
        loop {
            if self.sending.as_ref().is_some_and(|(_, end)| *end > now) {
                return;
            }
            if let Some((sent, _)) = self.sending.take() {
                self.exit(&sent, out);
                out.forward(sent.packet);
            }
            let Some(head) = self.queue.front() else { return self.rest(now) };
            let free = self.shared.clock.load(Ordering::Acquire);
            let from = self.service.at(head.since);
            let start = self.service.starts(free, from);
            if start > now && !self.has_rivals() {
                return self.wake_at(start, out);
            }
            // Where others wait too, the head takes its turn on the link in advance, and then waits for it.
            match self.departure(start.max(now)) {
                Fate::Drop => self.drop_head(Reason::Aqm, out),
                Fate::Mark => self.mark_head(out),
                Fate::Go => self.send_head(free, from, now, out),
            }
        }
    }

    /// Whether other workers' packets wait for the link.
    fn has_rivals(&self) -> bool {
        self.shared.packets.load(Ordering::Acquire) > self.queue.len() as u64
    }

    fn mark_head(&mut self, out: &mut Outlet<'_>) {
        if let Some(head) = self.queue.front_mut()
            && head.packet.mark_congestion()
        {
            out.rewritten(&head.packet);
        }
    }

    /// Gives the link to the head of the queue, unless another worker took it since it was seen to be free.
    fn send_head(&mut self, free: u64, from: u64, now: Instant, out: &mut Outlet<'_>) {
        let Some(bytes) = self.queue.front().map(|head| head.bytes) else { return };
        let (end, service) = self.service.after(free, from, bytes);
        let clock = &self.shared.clock;
        if clock.compare_exchange(free, end, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.service = service;
        let end = self.service.ends(end);
        let end = self.slowed(bytes, end.max(now));
        self.sending = self.queue.pop_front().map(|head| (head, end));
        self.wake_at(end, out);
    }

    /// When `bytes` that may leave at `at` have left at the rate of the peak.
    ///
    /// Two buckets in a row are as strict as two side by side: while something waits for the second one, the first is never
    /// full, so that it loses nothing by being asked early.
    fn slowed(&mut self, bytes: u64, at: Instant) -> Instant {
        let Some(peak) = &mut self.peak else { return at };
        let from = peak.at(at);
        let clock = &self.shared.memory[PEAK];
        let send = |free| Some(peak.after(free, from, bytes).0);
        let free = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, send).unwrap_or_default();
        let (end, after) = peak.after(free, from, bytes);
        *peak = after;
        at.max(peak.ends(end))
    }

    fn wake_at(&mut self, at: Instant, out: &mut Outlet<'_>) {
        if at < Instant::FAR && self.wake != Some(at) {
            self.wake = Some(at);
            out.wake_at(at);
        }
    }

    /// Nothing waits.
    fn rest(&mut self, now: Instant) {
        match &mut self.manager {
            Manager::CoDel(codel, _) => codel.empty(),
            Manager::Red(red) => red.empty(now),
            Manager::Pie(pie) => pie.catch_up(None, now),
            Manager::Tail | Manager::Head => {}
        }
    }
}

impl Stage for Bottleneck {
    fn decide(&mut self, _packet: &Packet, _limit: u32, _now: Instant) -> Verdict {
        Verdict::new(1, Action::Take)
    }

    fn take(&mut self, packet: &mut Packet, now: Instant, out: &mut Outlet<'_>) {
        // What ends at this very time makes room first.
        self.serve(now, out);
        let bytes = u64::from(packet.wire_length(0).saturating_add_signed(self.overhead));
        let fate = self.arrival(packet, bytes, now);
        let mut packet = packet.take(out.pool);
        if fate == Fate::Mark && packet.mark_congestion() {
            out.rewritten(&packet);
        }
        if matches!(self.manager, Manager::Head) {
            while self.is_full(bytes) && !self.queue.is_empty() {
                self.drop_head(Reason::QueueFull, out);
            }
        }
        if fate == Fate::Drop {
            out.drop(packet, Reason::Aqm);
        } else if self.is_full(bytes) {
            out.drop(packet, Reason::QueueFull);
        } else {
            self.enter(packet, bytes, now, out);
        }
        self.serve(now, out);
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        self.serve(now, out);
    }

    fn relinquish(&mut self) -> Option<Packet> {
        let waiting = self.sending.take().map(|(sending, _)| sending).or_else(|| self.queue.pop_front())?;
        self.shared.packets.fetch_sub(1, Ordering::AcqRel);
        self.shared.bytes.fetch_sub(waiting.bytes, Ordering::AcqRel);
        Some(waiting.packet)
    }
}

#[cfg(test)]
mod tests;
