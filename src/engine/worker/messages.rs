//! The messages of the control side to a worker, and how the worker carries them out.
//!
//! A message that concerns all flows in the flow cache is carried out a few flows at a time, in several turns of the
//! worker's loop. Packets are read and sent in between.

use crossbeam_channel::Sender;

use crate::engine::cache::Sweep;
use crate::engine::report::Report;
use crate::engine::worker::Worker;
use crate::journal::{Kind, Tap};
use crate::pipeline::aim::flow::FlowSeen;
use crate::pipeline::router::Change;

/// A message of the control side to a worker.
#[derive(Debug)]
pub(in crate::engine) enum Message {
    /// Report the numbers now.
    Report(Sender<Report>),
    /// Release all held packets, and let packets from wires pass without faults from now on; then report.
    Release(Sender<Report>),
    /// Stop reading from routed ports; then report. Held packets still leave when they are due.
    Close(Sender<Report>),
    /// Release all held packets and stop, without another message in between.
    Finish(Sender<Report>),
    /// Report for the last time and stop.
    Stop(Sender<Report>),
    /// Install new paths; the old ones are sent back.
    Change(Box<Change>, Sender<Box<Change>>),
    /// As `Change`, but packets held by ending stages leave them at once.
    Replace(Box<Change>, Sender<Box<Change>>),
    /// Stop packets at the entry of this path (true), or let those that wait there enter (false).
    Freeze(u16, bool, Sender<()>),
    /// List flows from a place of the table on, as many as the vector has room for; the answer says whether there are
    /// more.
    Flows(usize, Vec<FlowSeen>, Sender<(Vec<FlowSeen>, bool)>),
    /// Add a tap under this number; answered once it is added.
    Listen(u64, Box<Tap>, Sender<()>),
    /// Remove the tap with this number.
    Deafen(u64),
}

/// A message that is carried out after the sweep that it needs.
#[derive(Debug)]
pub(super) struct Work {
    sweep: Sweep,
    message: Message,
}

impl Worker {
    /// Carries out the messages that have come, until one needs more than a turn of the loop. Returns true if one of
    /// them says stop.
    pub(super) fn take_messages(&mut self) -> std::io::Result<bool> {
        loop {
            let message = if let Some(mut work) = self.work.take() {
                if !self.caches.step(&mut work.sweep, &mut self.router, self.clock.now()) {
                    self.work = Some(work);
                    return Ok(false);
                }
                work.message
            } else {
                let Ok(message) = self.messages.try_recv() else { return Ok(false) };
                if let Some(sweep) = self.sweep_for(&message) {
                    self.work = Some(Work { sweep, message });
                    continue;
                }
                message
            };
            if self.carry_out(message)? {
                return Ok(true);
            }
        }
    }

    /// The sweep that must be completed before a message is carried out.
    fn sweep_for(&mut self, message: &Message) -> Option<Sweep> {
        match message {
            Message::Report(_) | Message::Flows(0, ..) => Some(Sweep::telling()),
            // Packets that pass in the kernel do so by the old paths. So before the paths change, the core is told
            // what has passed, and all flows are detoured. After routed ports are closed, nothing passes between
            // them.
            Message::Change(..) | Message::Replace(..) | Message::Freeze(..) | Message::Close(_) => {
                Some(self.caches.pause())
            }
            // While somebody listens to what comes and leaves, no packet stays in the kernel.
            Message::Listen(_, tap, _) if tap.wants_any(&Kind::PASSING) => Some(self.caches.pause()),
            // The end may take its time.
            Message::Listen(..)
            | Message::Flows(..)
            | Message::Deafen(_)
            | Message::Release(_)
            | Message::Finish(_)
            | Message::Stop(_) => None,
        }
    }

    /// True if the message says stop.
    fn carry_out(&mut self, message: Message) -> std::io::Result<bool> {
        let now = self.clock.now();
        match message {
            Message::Report(reply) => drop(reply.send(self.report())),
            Message::Flows(from, mut flows, reply) => {
                let has_more = self.router.flows(from, &mut flows);
                drop(reply.send((flows, has_more)));
            }
            Message::Listen(number, tap, reply) => {
                self.queues.listeners.add(number, *tap);
                // The sender of the message may be gone.
                let _ = reply.send(());
            }
            Message::Deafen(number) => {
                self.queues.listeners.remove(number);
                self.show_or_not();
            }
            Message::Change(mut change, reply) => {
                self.router.change(&mut change, now, &mut self.queues);
                self.show_or_not();
                drop(reply.send(change));
            }
            Message::Replace(mut change, reply) => {
                self.router.replace(&mut change, now, &mut self.queues);
                self.show_or_not();
                drop(reply.send(change));
            }
            Message::Freeze(path, is_frozen, reply) => {
                self.router.freeze(path, is_frozen, now, &mut self.queues);
                self.show_or_not();
                // The sender of the message may be gone.
                let _ = reply.send(());
            }
            Message::Release(reply) => {
                // Packets that come from now on pass no stage.
                self.caches.tell_all(&mut self.router, now);
                self.router.let_go(now, &mut self.queues);
                drop(reply.send(self.last_report()));
            }
            Message::Close(reply) => {
                self.is_closed = true;
                drop(reply.send(self.last_report()));
            }
            Message::Finish(reply) => {
                self.drain()?;
                self.router.let_go(self.clock.now(), &mut self.queues);
                self.end(&reply);
                return Ok(true);
            }
            Message::Stop(reply) => {
                self.drain()?;
                self.end(&reply);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn end(&mut self, reply: &Sender<Report>) {
        self.router.shut_down(self.clock.now(), &mut self.queues);
        drop(reply.send(self.last_report()));
    }

    /// Lets flows pass in the kernel again, unless a listener needs their packets.
    fn show_or_not(&mut self) {
        let listeners = &self.queues.listeners;
        if !self.is_closed && !listeners.wants_any(&Kind::PASSING) {
            self.caches.resume();
        }
    }

    /// A report that includes everything that has passed in the kernel until now.
    fn last_report(&mut self) -> Report {
        self.caches.tell_all(&mut self.router, self.clock.now());
        self.report()
    }

    /// A report that includes what has passed in the kernel as far as the core was told.
    fn report(&self) -> Report {
        let queues = &self.queues;
        Report::of(&self.router, &queues.lateness, &queues.times)
    }
}
