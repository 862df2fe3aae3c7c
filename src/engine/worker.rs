//! One worker: the loop that reads, runs the core, and waits.

mod messages;

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use crate::device::vnet;
use crate::engine::cache::{self, FlowCaches, Settled};
use crate::engine::clock::Clock;
use crate::engine::patience::Patience;
use crate::engine::tun::{Arrival, Port, Queues, offload};
pub(super) use crate::engine::worker::messages::Message;
use crate::engine::worker::messages::Work;
use crate::journal::Tap;
use crate::pipeline::packet::Offload;
use crate::pipeline::pool::{Buffer, HEADROOM};
use crate::pipeline::router::Router;
use crate::pipeline::time::Instant;

/// Packets read from one queue before the other queues are read.
const BURST: usize = 64;

const _: () = assert!(HEADROOM == vnet::LEN, "the device's header goes into the packet's headroom");

/// The state of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) router: Router,
    pub(super) queues: Queues,
    pub(super) clock: Clock,
    pub(super) messages: Receiver<Message>,
    pub(super) bell: Arc<EventFd>,
    caches: FlowCaches,
    patience: Patience,
    buffer: Buffer,
    /// Routed ports are no longer read.
    is_closed: bool,
    /// A message that takes several turns of the loop. Later messages wait for it.
    work: Option<Work>,
}

impl Worker {
    pub(super) fn new(
        mut router: Router,
        ports: Vec<Port>,
        taps: Vec<Tap>,
        clock: Clock,
        messages: Receiver<Message>,
        bell: Arc<EventFd>,
    ) -> Self {
        let buffer = router.pool.scratch();
        for (port, end) in (0..).zip(&ports) {
            if matches!(end, Port::Wire { .. }) {
                router.set_wire(port);
            }
        }
        Self {
            router,
            caches: FlowCaches::new(&ports),
            queues: Queues::new(ports, clock, taps),
            clock,
            messages,
            bell,
            patience: Patience::new(),
            buffer,
            is_closed: false,
            work: None,
        }
    }

    /// Works until told to stop.
    ///
    /// # Errors
    /// If waiting fails, or a device fails (for example because it was removed).
    pub(super) fn run(mut self) -> std::io::Result<()> {
        // Timers as fine as the kernel can make them; by default it rounds a thread's waits up by 50 us.
        nix::sys::prctl::set_timerslack(1)?;
        let devices = self.queues.ports.iter().map(|port| port.queue().as_fd()).chain([self.bell.as_fd()]);
        let fds = devices.map(|fd| fd.try_clone_to_owned()).collect::<std::io::Result<Vec<OwnedFd>>>()?;
        let mut polls: Vec<_> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        let bell = polls.len() - 1;
        // No queue had more packets than were read.
        let mut is_drained = true;
        loop {
            let now = self.clock.now();
            self.router.poll(now, &mut self.queues);
            if self.work.is_some() && self.take_messages()? {
                return Ok(());
            }
            let next = self.next_turn(is_drained, now);
            match ppoll(&mut polls, self.patience(next), None) {
                Ok(0) => {
                    self.patience.woke(self.clock.now());
                    is_drained = true;
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            is_drained = true;
            for (port, poll) in (0..).zip(&polls[..bell]) {
                if is_ready(poll) {
                    is_drained &= self.read_burst(port)? < BURST;
                }
            }
            if is_ready(&polls[bell]) {
                self.bell.read()?;
                if self.take_messages()? {
                    return Ok(());
                }
            }
            if self.is_closed {
                let ports = self.queues.ports.iter().zip(&mut polls);
                for (_, poll) in ports.filter(|(port, _)| !matches!(port, Port::Wire { .. })) {
                    poll.set_events(PollFlags::empty());
                }
            }
        }
    }

    /// When the next turn of the loop must begin, even if no packet comes.
    fn next_turn(&mut self, is_drained: bool, now: Instant) -> Option<Instant> {
        if self.work.is_some() {
            return Some(now);
        }
        if !is_drained {
            return None;
        }
        match self.caches.settle(&self.queues.written, &mut self.router, now) {
            Settled::Whole => None,
            // The worker tries again to open flows that cannot be opened yet.
            Settled::NotYet => Some(now + cache::RETRY),
            Settled::InPart => Some(now),
        }
    }

    /// How long to wait for packets, at most until `end`; `None`: until one comes.
    fn patience(&mut self, end: Option<Instant>) -> Option<TimeSpec> {
        let due = [self.router.next_due(), end].into_iter().flatten().min()?;
        let sleep = self.patience.sleep(self.clock.now(), due);
        Some(TimeSpec::from(std::time::Duration::from_nanos(sleep.as_nanos())))
    }

    /// Reads a burst of frames, and returns how many were read.
    fn read_burst(&mut self, port: u16) -> std::io::Result<usize> {
        for read in 0..BURST {
            let is_idle = self.router.held().packets == 0;
            let arrival = match self.queues.recv(port, &mut self.buffer, is_idle) {
                Ok(arrival) => arrival,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(read),
                Err(error) => return Err(error),
            };
            let now = self.clock.now();
            // Events that were due before this packet come first.
            if self.router.next_due().is_some_and(|due| due <= now) {
                self.router.poll(now, &mut self.queues);
            }
            self.receive(port, arrival, now);
        }
        Ok(BURST)
    }

    fn receive(&mut self, port: u16, Arrival { length, wire }: Arrival, now: Instant) {
        // A frame with an invalid header is passed on as an empty packet and counted as malformed.
        let (offload, length) = match offload(&self.buffer[..length]) {
            Some(offload) => (offload, length - vnet::LEN),
            None => (Offload::default(), 0),
        };
        let (router, buffer, queues) = (&mut self.router, &mut self.buffer, &mut self.queues);
        let packet = &buffer[HEADROOM..HEADROOM + length];
        let arrived = self.caches.arrived(port, packet, router, now);
        if let Some(passed) = arrived.passed {
            queues.listeners.passed(passed);
        }
        let flow = match wire {
            None => router.receive(port, buffer, length, offload, now, queues),
            Some((path, tag)) => router.inject(path, tag, buffer, length, offload, now, queues),
        };
        if let Some(flow) = flow {
            let end = queues.listeners.end(flow);
            if let Some(passed) = self.caches.injected(port, arrived, (flow, end), router, now) {
                queues.listeners.passed(passed);
            }
        }
    }

    /// Reads the frames that are still in the wires' devices, after their hooks were removed.
    fn drain(&mut self) -> std::io::Result<()> {
        for (port, at) in (0..).zip(0..self.queues.ports.len()) {
            // The devices' queues are bounded, and nothing enters them any more.
            while matches!(self.queues.ports[at], Port::Wire { .. }) && self.read_burst(port)? == BURST {}
        }
        Ok(())
    }
}

fn is_ready(poll: &PollFd<'_>) -> bool {
    // A descriptor with an error counts as ready: reading returns the error.
    poll.any().unwrap_or(true)
}
