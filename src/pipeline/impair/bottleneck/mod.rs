//! A link with a queue of its own: a changing rate or a trace, and any queue discipline.
//!
//! Model: wire packets wait in one queue and are sent one after the other, IP length plus `overhead` each, as the
//! [`Service`] allows. The discipline decides which packets are dropped, and when: at the tail, at the head, by CoDel
//! (RFC 8289), PIE (RFC 8033) or RED. A train's wire packets wait and leave one by one. With several workers, each
//! has a queue of its own; they share the link and the limits.
//! Never reorders or copies a packet, and alters none except by ECN marks. It adds no propagation delay: put a
//! `delay` behind it.
//! Differs from Mahimahi only in this: packets above 1,504 bytes take several opportunities.

mod codel;
mod params;
mod pie;
mod red;

pub use params::{
    BottleneckParams, CoDelParams, Discipline, PeakParams, PieParams, RedParams, ServiceParams,
};

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::line::{Fate, Line, Queues, Waiting};
use crate::pipeline::link::capacity::Service;
use crate::pipeline::link::state::LinkState;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::{Action, Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

/// A queue in front of a link.
#[derive(Debug)]
pub struct Bottleneck {
    line: Line,
    overhead: i32,
    packets: Option<u64>,
    bytes: Option<u64>,
    queue: Managed,
}

/// The queue and its discipline.
#[derive(Debug)]
struct Managed {
    manager: Manager,
    key: StageKey,
    queue: VecDeque<Waiting>,
}

/// What manages the queue.
#[derive(Debug)]
enum Manager {
    Tail,
    Head,
    CoDel(codel::CoDel, bool),
    Pie(pie::Pie),
    Red(red::Red),
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
            line: Line::new(service, peak, setting.shared.state()),
            overhead: params.overhead,
            packets: params.packets,
            bytes: params.bytes,
            queue: Managed { manager, key: setting.key, queue: VecDeque::new() },
        }
    }
}

impl Managed {
    /// What the discipline does with an arriving packet; `sending` is when the packet that is being sent had come.
    fn arrival(
        &mut self,
        (packet, bytes): (&Packet, u64),
        sending: Option<Instant>,
        state: &LinkState,
        now: Instant,
    ) -> Fate {
        let draw = || packet.stream(self.key).unit(packet.index, 0);
        match &mut self.manager {
            Manager::Tail | Manager::Head | Manager::CoDel(..) => Fate::Go,
            Manager::Pie(pie) => {
                let oldest = sending.or_else(|| self.queue.front().map(|head| head.since));
                pie.catch_up(oldest, now);
                let waiting = state.bytes.load(Ordering::Acquire);
                pie.arrival(waiting, packet.is_ecn_capable(), draw())
            }
            Manager::Red(red) => {
                let waiting = state.packets.load(Ordering::Acquire);
                red.arrival(waiting, bytes, packet.is_ecn_capable(), draw(), now)
            }
        }
    }
}

impl Queues for Managed {
    fn head(&mut self) -> Option<&mut Waiting> {
        self.queue.front_mut()
    }

    fn pop(&mut self) -> Option<Waiting> {
        self.queue.pop_front()
    }

    fn departure(&mut self, state: &LinkState, now: Instant) -> Fate {
        let Some(head) = self.queue.front_mut().filter(|head| !head.is_cleared) else { return Fate::Go };
        head.is_cleared = true;
        match &mut self.manager {
            Manager::CoDel(codel, ecn) => {
                let behind = state.bytes.load(Ordering::Acquire).saturating_sub(head.bytes);
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

    fn rest(&mut self, now: Instant) {
        match &mut self.manager {
            Manager::CoDel(codel, _) => codel.empty(),
            Manager::Red(red) => red.empty(now),
            Manager::Pie(pie) => pie.catch_up(None, now),
            Manager::Tail | Manager::Head => {}
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Stage for Bottleneck {
    type Plan = ();

    fn decide(&mut self, _packet: &Packet, _limit: u32, _now: Instant) -> Verdict {
        Verdict::new(1, Action::TAKE)
    }

    fn take(&mut self, packet: &mut Packet, (): (), now: Instant, out: &mut Outlet<'_>) {
        let Self { line, overhead, packets, bytes: most, queue } = self;
        // Packets whose transmission ends at this time make room first.
        line.serve(queue, now, out);
        let bytes = u64::from(packet.wire_length(0).saturating_add_signed(*overhead));
        let fate = queue.arrival((packet, bytes), line.sending_since(), &line.state, now);
        let mut packet = packet.take(out.pool);
        if fate == Fate::Mark {
            out.mark(&mut packet);
        }
        let drops_head = matches!(queue.manager, Manager::Head);
        let mut has_room = fate != Fate::Drop && line.state.admit(bytes, *packets, *most);
        while drops_head && !has_room && queue.len() > 0 {
            line.drop_head(queue, Reason::QueueFull, out);
            has_room = line.state.admit(bytes, *packets, *most);
        }
        if has_room {
            queue.queue.push_back(Line::waiting(packet, bytes, now, out));
        } else {
            out.drop(packet, if fate == Fate::Drop { Reason::Aqm } else { Reason::QueueFull });
        }
        line.serve(queue, now, out);
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        self.line.serve(&mut self.queue, now, out);
    }

    fn relinquish(&mut self) -> Option<Kept> {
        self.line.relinquish(&mut self.queue)
    }
}

#[cfg(test)]
mod tests;
