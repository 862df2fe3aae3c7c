//! The worker's part of the flow cache: which flows of an attachment, or between veth ports, pass in the kernel, and
//! how many packets they had there.
//!
//! A flow whose stages let its next packets pass ([`Router::quiet`]) is *open*: the hooks forward its packets without
//! faultwire. A packet that a stage may act on is detoured to faultwire, and so are all packets of the flow after it, until
//! the worker has read them and opens the flow again. So no packet overtakes another, and none is counted twice. The core is
//! told how many packets passed before it sees the flow's next packet.

mod end;
mod flows;
mod loss;
mod seen;

use crate::engine::cache::end::End;
use crate::engine::cache::flows::{Arrived, FlowCache};
pub(super) use crate::engine::cache::flows::{Passed, Settled};
use crate::engine::tun::Port;
use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::router::Router;
use crate::pipeline::time::{Duration, Instant};

/// Time between two attempts to open a flow.
pub(super) const RETRY: Duration = Duration::from_micros(200);

/// Largest number of flows in one step of a [`Sweep`]: a packet waits for at most one step.
const STEP: usize = 128;

/// The flow caches of a worker's attachments, and that of its veth ports.
#[derive(Debug, Default)]
pub(super) struct FlowCaches {
    caches: Vec<FlowCache>,
    /// For each port: its cache, and the direction of packets that come in by it.
    of_port: Vec<Option<(usize, usize)>>,
}

impl FlowCaches {
    pub(super) fn new(ports: &[Port]) -> Self {
        let mut all = Self { caches: Vec::new(), of_port: vec![None; ports.len()] };
        let (mut veths, mut of_veths) = (Vec::new(), None);
        for (number, port) in ports.iter().enumerate() {
            match port {
                Port::Wire { flows: Some(table), path, .. } => {
                    all.add(FlowCache::new(table.clone(), End::wire(number, *path).into()));
                }
                Port::Veth { end, .. } => {
                    veths.push(End::routed(number, end.device));
                    of_veths = end.flows.as_ref().or(of_veths);
                }
                Port::Routed(_) | Port::Wire { .. } => {}
            }
        }
        if let Some(table) = of_veths {
            all.add(FlowCache::new(table.clone(), veths));
        }
        all
    }

    fn add(&mut self, cache: FlowCache) {
        for (direction, end) in cache.ends().iter().enumerate() {
            self.of_port[end.port] = Some((self.caches.len(), direction));
        }
        self.caches.push(cache);
    }

    /// See [`FlowCache::arrived`].
    #[inline]
    pub(super) fn arrived(&mut self, port: u16, packet: &[u8], router: &mut Router, now: Instant) -> Arrived {
        match self.of_port[usize::from(port)] {
            Some((cache, direction)) => self.caches[cache].arrived(direction, packet, router, now),
            None => Arrived::default(),
        }
    }

    /// See [`FlowCache::injected`].
    #[inline]
    pub(super) fn injected(
        &mut self,
        port: u16,
        arrived: Arrived,
        flow: (FlowRef, Option<u32>),
        router: &mut Router,
        now: Instant,
    ) -> Option<Passed> {
        let (cache, direction) = self.of_port[usize::from(port)]?;
        self.caches[cache].injected(direction, arrived, flow, router, now)
    }

    /// Opens the flows that can be opened; call it when the queues are empty. `written` counts the frames written to each
    /// port.
    pub(super) fn settle(&mut self, written: &[u64], router: &mut Router, now: Instant) -> Settled {
        let mut settled = Settled::Whole;
        for cache in &mut self.caches {
            settled = settled.max(cache.settle(written, router, now));
        }
        settled
    }

    /// Begins a pause, in which all packets are detoured. The caller must complete the returned sweep, which closes
    /// the flows.
    pub(super) fn pause(&mut self) -> Sweep {
        self.caches.iter_mut().for_each(FlowCache::pause);
        Sweep { closes: true, cache: 0, member: 0 }
    }

    /// Ends a pause.
    pub(super) fn resume(&mut self) {
        self.caches.iter_mut().for_each(FlowCache::resume);
    }

    /// Takes the next step of a sweep; true if it was the last one.
    pub(super) fn step(&mut self, sweep: &mut Sweep, router: &mut Router, now: Instant) -> bool {
        let mut left = STEP;
        while let Some(cache) = self.caches.get_mut(sweep.cache) {
            let end = cache.members().min(sweep.member + left);
            cache.sweep(sweep.member..end, sweep.closes, router, now);
            left -= end - sweep.member;
            sweep.member = end;
            if end < cache.members() {
                return false;
            }
            (sweep.cache, sweep.member) = (sweep.cache + 1, 0);
        }
        true
    }

    /// Tells the core what has passed in all flows, however long it takes.
    pub(super) fn tell_all(&mut self, router: &mut Router, now: Instant) {
        let mut sweep = Sweep::telling();
        while !self.step(&mut sweep, router, now) {}
    }
}

/// Goes through all flows, a few at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sweep {
    closes: bool,
    cache: usize,
    member: usize,
}

impl Sweep {
    /// A sweep that tells the core what has passed in the flows.
    pub(super) const fn telling() -> Self {
        Self { closes: false, cache: 0, member: 0 }
    }
}
