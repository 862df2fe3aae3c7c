//! What the control side asks of a worker, and how it is done.
//!
//! What concerns all flows that pass in the kernel is done a few flows at a time, in turns of the worker's loop: packets are read and
//! sent in between.

use crossbeam_channel::Sender;

use crate::engine::cache::Sweep;
use crate::engine::report::Report;
use crate::engine::worker::Worker;
use crate::journal::{Kind, Tap};
use crate::pipeline::aim::flow::FlowSeen;
use crate::pipeline::router::Change;

/// What the control side asks of a worker.
#[derive(Debug)]
pub(in crate::engine) enum Message {
    /// The numbers, now.
    Report(Sender<Report>),
    /// Lets go of what waits, and lets pass what comes by wires from now on; then the numbers.
    Release(Sender<Report>),
    /// Reads no more from routed ports; then the numbers. What is held still leaves when it is due.
    Close(Sender<Report>),
    /// Lets go of what waits, and ends as by `Stop`: nothing comes between the two.
    Finish(Sender<Report>),
    /// The last numbers; then the worker ends.
    Stop(Sender<Report>),
    /// Other paths; those that there were go back.
    Change(Box<Change>, Sender<Box<Change>>),
    /// As `Change`, but what the stages that end hold leaves them at once.
    Replace(Box<Change>, Sender<Box<Change>>),
    /// Nothing enters this path, or what waits in front of it does.
    Freeze(u16, bool, Sender<()>),
    /// The flows from a place of the table on, as many as the vector has room for; whether there are more.
    Flows(usize, Vec<FlowSeen>, Sender<(Vec<FlowSeen>, bool)>),
    /// Another tap to tell what happens, under a number; answered once it is told.
    Listen(u64, Box<Tap>, Sender<()>),
    /// No more for the tap of this number.
    Deafen(u64),
}

/// A message that is carried out when the sweep that it needs has ended.
#[derive(Debug)]
pub(super) struct Work {
    sweep: Sweep,
    message: Message,
}

impl Worker {
    /// Carries out the messages that have come, until one needs more than a turn of the loop. True if one of them says stop.
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

    /// The sweep that has to end before a message is carried out.
    fn sweep_for(&mut self, message: &Message) -> Option<Sweep> {
        match message {
            Message::Report(_) | Message::Flows(0, ..) => Some(Sweep::telling()),
            // What passes in the kernel does so by what the paths were: before they change it is told to the core, and all flows
            // are detoured. Between routed ports that are closed nothing passes any more.
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
                // Whoever asked may be gone.
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
                // Whoever asked may be gone.
                let _ = reply.send(());
            }
            Message::Release(reply) => {
                // What passes from now on meets no stage.
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

    /// Flows may pass in the kernel again, unless a listener has to see their packets.
    fn show_or_not(&mut self) {
        let listeners = &self.queues.listeners;
        if !self.is_closed && !listeners.wants_any(&Kind::PASSING) {
            self.caches.resume();
        }
    }

    /// The numbers, with what has passed in the kernel until now.
    fn last_report(&mut self) -> Report {
        self.caches.tell_all(&mut self.router, self.clock.now());
        self.report()
    }

    /// The numbers, with what has passed in the kernel as far as the core was told.
    fn report(&self) -> Report {
        let queues = &self.queues;
        Report::of(&self.router, &queues.lateness, &queues.times)
    }
}
