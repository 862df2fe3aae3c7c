//! A bottleneck with a queue for L4S beside the classic one: the dual-queue coupled AQM of RFC 9332, as `DualPI2`.
//!
//! Model: a packet with ECT(1) or CE waits in the L4S queue, any other in the classic queue (RFC 9332 section 2.3). The link
//! sends one packet after the other, IP length plus `overhead` each. The head that has waited longer goes first, where the
//! L4S head has a head start of twice the target (time-shifted FIFO, section 4.1.2). A PI controller turns the longer of the
//! two delays into a base probability `p`: a classic packet is dropped (marked, if it is ECN-capable) with `p²`, an L4S packet
//! is marked with `2p` (the coupling), and always if it waited longer than `threshold` while another waits behind it (the
//! step). Once `2p` reaches 1 the link is overloaded: then both queues drop with `p²` (appendix A.2). What comes to full
//! queues is dropped. A train's wire packets wait and leave one by one. With several workers each has queues and a
//! controller of its own; the link and the limit are one.
//! Never copies or alters a packet, but for ECN marks. It adds no propagation delay: put a `delay` behind it.
//! Differs from RFC 9332: the controller looks at the longer of both delays, as Linux' `dualpi2` does, not at the classic one
//! alone.

use std::collections::VecDeque;
use std::fmt;

use crate::pipeline::counters::Reason;
use crate::pipeline::impair::line::{Fate, Line, Queues, Waiting};
use crate::pipeline::impair::{Blueprint, Directions, Place, Setting, text};
use crate::pipeline::link::capacity::Service;
use crate::pipeline::link::state::LinkState;
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::{Action, Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Rate;

/// Parameters of a bottleneck with an L4S queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DualPi2Params {
    /// Bits per second.
    pub rate: Rate,
    /// Bytes that each packet costs on top of its IP length.
    pub overhead: i32,
    /// Wire packets that both queues hold together, the one being sent included.
    pub packets: u64,
    /// Delay that the controller aims at, above zero; 15 ms by default.
    pub target: Duration,
    /// Delay above which every L4S packet is marked; 1 ms by default.
    pub threshold: Duration,
}

impl fmt::Display for DualPi2Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = text::queue(Some(self.packets), None, None);
        write!(
            f,
            "dualpi2: rate {}{}, {queue}, classic delay of {}, L4S packets marked above {}",
            self.rate,
            text::overhead(self.overhead),
            self.target,
            self.threshold
        )
    }
}

impl Blueprint for DualPi2Params {
    type Stage = Box<DualPi2>;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Box::new(DualPi2::new(*self, setting))
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, place: &Place) -> Vec<String> {
        let bits = self.packets as f64 * f64::from(place.mtu.unwrap_or(1_500)) * 8.0;
        let full = bits / self.rate.bits_per_sec() as f64;
        let is_short = full < self.target.as_secs_f64();
        let trap = format!(
            "{} full packets take {:.3} ms, less than the target of {}: the queue overflows before the AQM acts",
            self.packets,
            full * 1e3,
            self.target
        );
        is_short.then_some(trap).into_iter().collect()
    }
}

/// Two queues in front of a link.
#[derive(Debug)]
pub struct DualPi2 {
    line: Line,
    overhead: i32,
    packets: u64,
    queues: Dual,
}

/// The queues and their coupled AQM.
#[derive(Debug)]
struct Dual {
    target: Duration,
    threshold: Duration,
    controller: Controller,
    key: StageKey,
    classic: VecDeque<Waiting>,
    l4s: VecDeque<Waiting>,
}

/// Which queue a packet waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Classic,
    L4s,
}

impl Queue {
    /// By the low bit of the ECN field: ECT(1) and CE have it.
    fn of(packet: &Packet) -> Self {
        if packet.traffic_class() & 1 == 1 { Self::L4s } else { Self::Classic }
    }
}

impl DualPi2 {
    /// An idle link with empty queues.
    fn new(params: DualPi2Params, setting: &Setting) -> Self {
        let queues = Dual {
            target: params.target,
            threshold: params.threshold,
            controller: Controller::new(params.target),
            key: setting.key,
            classic: VecDeque::new(),
            l4s: VecDeque::new(),
        };
        let line = Line::new(Service::Rate(params.rate, 0), None, setting.shared.state());
        Self { line, overhead: params.overhead, packets: params.packets, queues }
    }
}

impl Dual {
    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Waiting> {
        match queue {
            Queue::Classic => &mut self.classic,
            Queue::L4s => &mut self.l4s,
        }
    }

    /// The queue that sends next: the one whose head waits longer, with the head start of L4S.
    fn next(&self) -> Option<Queue> {
        match (self.classic.front(), self.l4s.front()) {
            (None, None) => None,
            (Some(_), None) => Some(Queue::Classic),
            (None, Some(_)) => Some(Queue::L4s),
            (Some(classic), Some(l4s)) => {
                let head_start = self.target + self.target;
                let is_classic = classic.since + head_start < l4s.since;
                Some(if is_classic { Queue::Classic } else { Queue::L4s })
            }
        }
    }

    /// When the packet that has waited longest came.
    fn oldest(&self) -> Option<Instant> {
        [self.classic.front(), self.l4s.front()].into_iter().flatten().map(|head| head.since).min()
    }
}

impl Queues for Dual {
    fn head(&mut self) -> Option<&mut Waiting> {
        let queue = self.next()?;
        self.queue(queue).front_mut()
    }

    fn pop(&mut self) -> Option<Waiting> {
        let queue = self.next()?;
        self.queue(queue).pop_front()
    }

    fn departure(&mut self, _state: &LinkState, now: Instant) -> Fate {
        let oldest = self.oldest();
        self.controller.catch_up(oldest, now);
        let is_last = self.l4s.len() == 1;
        let (key, threshold) = (self.key, self.threshold);
        let Some(queue) = self.next() else { return Fate::Go };
        let Some(head) = self.queue(queue).front_mut().filter(|head| !head.is_cleared) else {
            return Fate::Go;
        };
        head.is_cleared = true;
        let (waited, packet) = (now.since(head.since), &head.packet);
        match queue {
            Queue::Classic => {
                let (stream, can_mark) = (packet.stream(key), packet.is_ecn_capable());
                let draws = [stream.unit(packet.index, 0), stream.unit(packet.index, 1)];
                self.controller.classic(draws, can_mark)
            }
            Queue::L4s => self.controller.l4s(waited > threshold && !is_last),
        }
    }

    fn rest(&mut self, now: Instant) {
        self.controller.catch_up(None, now);
    }

    fn len(&self) -> usize {
        self.classic.len() + self.l4s.len()
    }
}

impl Stage for DualPi2 {
    type Plan = ();

    fn decide(&mut self, _packet: &Packet, _limit: u32, _now: Instant) -> Verdict {
        Verdict::new(1, Action::TAKE)
    }

    fn take(&mut self, packet: &mut Packet, (): (), now: Instant, out: &mut Outlet<'_>) {
        let Self { line, overhead, packets, queues } = self;
        // Packets whose transmission ends at this time make room first.
        line.serve(queues, now, out);
        let bytes = packet.wire_length(0).saturating_add_signed(*overhead).into();
        let queue = Queue::of(packet);
        let packet = packet.take(out.pool);
        if !line.state.admit(bytes, Some(*packets), None) {
            return out.drop(packet, Reason::QueueFull);
        }
        let oldest = queues.oldest();
        queues.controller.catch_up(oldest, now);
        queues.queue(queue).push_back(Line::waiting(packet, bytes, now, out));
        line.serve(queues, now, out);
    }

    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        self.line.serve(&mut self.queues, now, out);
    }

    fn relinquish(&mut self) -> Option<Kept> {
        self.line.relinquish(&mut self.queues)
    }
}

/// The coupling factor `k` (RFC 9332 appendix A.1).
const COUPLING: f64 = 2.0;
/// The largest round-trip time that the gains are made for, in seconds (appendix A.1).
const RTT_MAX: f64 = 0.1;
/// The base probability at which every L4S packet would be marked: from here on the link is overloaded.
const OVERLOAD: f64 = 1.0 / COUPLING;

/// The base AQM: a PI controller of the delay (RFC 9332 appendix A.1, figures 3 to 6).
#[derive(Debug)]
struct Controller {
    target: f64,
    update: Duration,
    /// The base probability `p'`.
    p: f64,
    /// The delay at the last update, in seconds.
    previous: f64,
    next_update: Instant,
    /// The count of `recur` for L4S packets.
    recurrence: f64,
}

impl Controller {
    fn new(target: Duration) -> Self {
        // Tupdate = min(target, RTT_max / 3); not below 1 ms, to bound the work.
        let update = target.as_nanos().clamp(1_000_000, (RTT_MAX * 1e9 / 3.0) as u64);
        Self {
            target: target.as_secs_f64(),
            update: Duration::from_nanos(update),
            p: 0.0,
            previous: 0.0,
            next_update: Instant::ZERO,
            recurrence: 0.0,
        }
    }

    /// The integral gain: `0.1 · Tupdate / RTT_max²`.
    fn alpha(&self) -> f64 {
        0.1 * self.update.as_secs_f64() / (RTT_MAX * RTT_MAX)
    }

    /// The proportional gain: `0.3 / RTT_max`.
    const fn beta() -> f64 {
        0.3 / RTT_MAX
    }

    /// Makes the updates that are due at or before `now`; `oldest` is when the packet that has waited longest came.
    fn catch_up(&mut self, oldest: Option<Instant>, now: Instant) {
        while self.next_update <= now {
            let delay = oldest.map_or(Duration::ZERO, |oldest| self.next_update.since(oldest)).as_secs_f64();
            let rests = delay == 0.0 && self.previous == 0.0;
            self.step(delay);
            self.next_update += self.update;
            if rests && self.p == 0.0 {
                // Nothing changes any more until the next event.
                let period = self.update.as_nanos();
                let missed = now.since(self.next_update).as_nanos() / period;
                let is_due = self.next_update <= now;
                let skipped = if is_due && oldest.is_none() { missed.saturating_add(1) } else { 0 };
                self.next_update += Duration::from_nanos(skipped.saturating_mul(period));
            }
        }
    }

    fn step(&mut self, delay: f64) {
        let change = self.alpha() * (delay - self.target) + Self::beta() * (delay - self.previous);
        self.p = (self.p + change).clamp(0.0, 1.0);
        self.previous = delay;
    }

    /// Decides about a classic packet; `draws` are uniform in [0, 1). The larger of two draws is below `p` with
    /// probability p².
    fn classic(&self, draws: [f64; 2], can_mark: bool) -> Fate {
        if draws[0].max(draws[1]) >= self.p {
            return Fate::Go;
        }
        if can_mark && self.p < OVERLOAD { Fate::Mark } else { Fate::Drop }
    }

    /// Decides about an L4S packet; `above` the step threshold it is always marked.
    fn l4s(&mut self, above: bool) -> Fate {
        let coupled = (COUPLING * self.p).min(1.0);
        if self.p >= OVERLOAD && self.recur(self.p * self.p) {
            return Fate::Drop;
        }
        let probability = if above { 1.0 } else { coupled };
        if probability >= 1.0 || self.recur(probability) { Fate::Mark } else { Fate::Go }
    }

    /// True with frequency `likelihood`, evenly spread.
    fn recur(&mut self, likelihood: f64) -> bool {
        self.recurrence += likelihood;
        let hits = self.recurrence > 1.0;
        self.recurrence -= f64::from(u8::from(hits));
        hits
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for DualPi2Params {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::{duration, rate};

        let target = (1..20_000_000_u64).prop_map(Duration::from_nanos);
        (rate(), -20..60_i32, 1..60_u64, target, duration())
            .prop_map(|(rate, overhead, packets, target, threshold)| Self {
                rate,
                overhead,
                packets,
                target,
                threshold,
            })
            .boxed()
    }

    fn shares_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
