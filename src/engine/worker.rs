//! One worker: the loop that reads, runs the core, and waits.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use crate::device::{Queue, vnet};
use crate::engine::clock::Clock;
use crate::engine::events::Tap;
use crate::engine::patience::Patience;
use crate::engine::record::Records;
use crate::engine::report::Report;
use crate::engine::tun::{Queues, offload};
use crate::pipeline::packet::Offload;
use crate::pipeline::pool::{Buffer, HEADROOM};
use crate::pipeline::router::Router;
use crate::pipeline::time::Instant;

/// Packets read from one queue before the others have their turn.
const BURST: usize = 64;

const _: () = assert!(HEADROOM == vnet::LEN, "the device's header goes into the packet's headroom");

/// What the control side asks of a worker.
#[derive(Debug)]
pub(super) enum Message {
    /// The numbers, now.
    Report(Sender<Report>),
    /// The last numbers; then the worker ends.
    Stop(Sender<Report>),
}

/// The parts that a worker is made of.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) router: Router,
    pub(super) queues: Queues,
    pub(super) clock: Clock,
    pub(super) messages: Receiver<Message>,
    pub(super) bell: Arc<EventFd>,
    patience: Patience,
    buffer: Buffer,
}

impl Worker {
    pub(super) fn new(
        mut router: Router,
        queues: Vec<Queue>,
        records: Option<Records>,
        tap: Option<Tap>,
        clock: Clock,
        messages: Receiver<Message>,
        bell: Arc<EventFd>,
    ) -> Self {
        let buffer = router.pool.scratch();
        Self {
            router,
            queues: Queues::new(queues, clock, records, tap),
            clock,
            messages,
            bell,
            patience: Patience::new(),
            buffer,
        }
    }

    /// Works until told to stop.
    ///
    /// # Errors
    /// If waiting fails, or a device does (removed by someone else, say).
    pub(super) fn run(mut self) -> std::io::Result<()> {
        // Timers as fine as the kernel can make them; by default it rounds a thread's waits up by 50 us.
        nix::sys::prctl::set_timerslack(1)?;
        let devices = self.queues.ports.iter().map(AsFd::as_fd).chain([self.bell.as_fd()]);
        let fds = devices.map(|fd| fd.try_clone_to_owned()).collect::<std::io::Result<Vec<OwnedFd>>>()?;
        let mut polls: Vec<_> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        let bell = polls.len() - 1;
        loop {
            self.router.poll(self.clock.now(), &mut self.queues);
            match ppoll(&mut polls, self.patience(), None) {
                Ok(0) => {
                    self.patience.woke(self.clock.now());
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            for (port, poll) in polls[..bell].iter().enumerate() {
                if is_ready(poll) {
                    self.read_burst(port as u16)?;
                }
            }
            if is_ready(&polls[bell]) && self.take_messages()? {
                return Ok(());
            }
        }
    }

    /// How long to wait for packets; `None`: until one comes.
    fn patience(&mut self) -> Option<TimeSpec> {
        let due = self.router.next_due()?;
        let sleep = self.patience.sleep(self.clock.now(), due);
        Some(TimeSpec::from(std::time::Duration::from_nanos(sleep.as_nanos())))
    }

    fn read_burst(&mut self, port: u16) -> std::io::Result<()> {
        for _ in 0..BURST {
            let length = match self.queues.ports[usize::from(port)].recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let now = self.clock.now();
            // What is due before this packet came goes before it.
            if self.router.next_due().is_some_and(|due| due <= now) {
                self.router.poll(now, &mut self.queues);
            }
            self.receive(port, length, now);
        }
        Ok(())
    }

    fn receive(&mut self, port: u16, length: usize, now: Instant) {
        // A frame whose header makes no sense is handed on as empty, and counted as malformed.
        let (offload, length) = match offload(&self.buffer[..length]) {
            Some(offload) => (offload, length - vnet::LEN),
            None => (Offload::default(), 0),
        };
        self.router.receive(port, &mut self.buffer, length, offload, now, &mut self.queues);
    }

    /// True if one of the messages says stop.
    fn take_messages(&mut self) -> std::io::Result<bool> {
        self.bell.read()?;
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Report(reply) => drop(reply.send(self.report())),
                Message::Stop(reply) => {
                    self.router.shut_down(self.clock.now(), &mut self.queues);
                    drop(reply.send(self.report()));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn report(&self) -> Report {
        Report::of(&self.router, &self.queues.lateness, self.queues.records_lost, self.queues.events_lost)
    }
}

fn is_ready(poll: &PollFd<'_>) -> bool {
    // An error is ready too: reading tells what it is.
    poll.any().unwrap_or(true)
}
