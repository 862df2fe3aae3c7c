//! Messages to the workers: each has a channel and an event descriptor that wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::eventfd::EventFd;

use crate::engine::clock::Clock;
use crate::engine::report::Report;
use crate::engine::worker::Message;
use crate::journal::Taps;
use crate::pipeline::aim::flow::FlowSeen;
use crate::pipeline::router::Change;

/// Flows that a worker lists in one answer, which takes about ten microseconds.
const FLOWS: usize = 1_024;

/// The channel to one worker.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) messages: Sender<Message>,
    pub(super) bell: Arc<EventFd>,
}

impl Line {
    /// False if the worker has ended.
    fn send(&self, message: Message) -> bool {
        self.messages.send(message).is_ok() && self.bell.write(1).is_ok()
    }
}

/// Asks all workers, before the first answer is waited for.
///
/// # Errors
/// The number of a worker that has ended.
pub(super) fn ask<'l, R>(
    lines: impl Iterator<Item = &'l Line>,
    message: impl Fn(Sender<R>) -> Message,
) -> Result<Vec<R>, usize> {
    let ask = |line: &Line| {
        let (reply, answer) = bounded(1);
        line.send(message(reply)).then_some(answer)
    };
    let answers: Vec<_> = lines.map(ask).collect();
    let wait = |(worker, answer): (usize, Option<Receiver<R>>)| {
        answer.and_then(|answer| answer.recv().ok()).ok_or(worker)
    };
    answers.into_iter().enumerate().map(wait).collect()
}

/// A worker has ended, and the run with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run has ended")]
pub struct Ended;

/// Sends messages to the workers of a run, from any thread. The run may end at any time.
#[derive(Debug, Clone)]
pub struct Workers {
    pub(super) lines: Arc<[Line]>,
    pub(super) clock: Clock,
}

impl Workers {
    /// The number of workers.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// The clock of the run.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The numbers of all workers at about this moment: one report for each worker. Waits for the workers.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn reports(&self) -> Result<Vec<Report>, Ended> {
        ask(self.lines.iter(), Message::Report).map_err(|_| Ended)
    }

    /// Gives each worker new paths, one element of `changes` per worker, and waits until all have them. The caller's thread frees
    /// the old paths.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn change(&self, changes: Vec<Change>) -> Result<(), Ended> {
        self.send_changes(changes, Message::Change)
    }

    /// As [`Self::change`], but packets held by stages that change or are removed leave them at once, so that the
    /// change takes effect with the next packet.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn replace(&self, changes: Vec<Change>) -> Result<(), Ended> {
        self.send_changes(changes, Message::Replace)
    }

    fn send_changes(
        &self,
        changes: Vec<Change>,
        message: impl Fn(Box<Change>, Sender<Box<Change>>) -> Message,
    ) -> Result<(), Ended> {
        let send = |(line, change): (&Line, Change)| {
            let (reply, answer) = bounded(1);
            line.send(message(Box::new(change), reply)).then_some(answer)
        };
        let answers: Vec<_> = self.lines.iter().zip(changes).map(send).collect();
        answers.into_iter().try_for_each(|answer| answer?.recv().ok().map(drop)).ok_or(Ended)
    }

    /// Stops packets at the entry of path `path`, or lets the waiting ones enter.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn freeze(&self, path: u16, is_frozen: bool) -> Result<(), Ended> {
        let freeze = |reply| Message::Freeze(path, is_frozen, reply);
        ask(self.lines.iter(), freeze).map(drop).map_err(|_| Ended)
    }

    /// Calls `each` with every flow that the workers know. Workers answer with a few flows at a time, so that packets are not
    /// delayed.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn flows(&self, mut each: impl FnMut(&FlowSeen)) -> Result<(), Ended> {
        for line in self.lines.iter() {
            let (mut from, mut flows) = (0, Vec::with_capacity(FLOWS));
            loop {
                let (reply, answer) = bounded(1);
                if !line.send(Message::Flows(from, flows, reply)) {
                    return Err(Ended);
                }
                let (told, has_more) = answer.recv().map_err(|_| Ended)?;
                told.iter().for_each(&mut each);
                if !has_more {
                    break;
                }
                from += told.len();
                flows = told;
                flows.clear();
            }
        }
        Ok(())
    }

    /// Adds taps: when this returns, the workers also record into these taps, until the returned listener is dropped. The lanes
    /// must not follow flows. Waits for the workers.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn listen(&self, taps: &Taps) -> Result<Listener, Ended> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let listener = Listener { workers: self.clone(), number };
        ask(self.lines.iter(), |reply| Message::Listen(number, Box::new(taps.tap(0)), reply))
            .map_err(|_| Ended)?;
        Ok(listener)
    }
}

/// When dropped, it removes its taps from the workers.
#[derive(Debug)]
pub struct Listener {
    workers: Workers,
    number: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        for line in self.workers.lines.iter() {
            // A worker that has ended has no taps to remove.
            line.send(Message::Deafen(self.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::journal::{Kind, Lane};

    /// Otherwise the worker would continue to record for a reader that no longer exists.
    #[test]
    fn a_listener_that_goes_takes_its_tap_from_the_worker() {
        let (messages, inbox) = unbounded();
        let line = Line { messages, bell: Arc::new(EventFd::new().unwrap()) };
        let workers = Workers { lines: Arc::new([line]), clock: Clock::start() };
        let taps = Taps::unheard(vec![Lane::of(&Kind::ALL)]);
        let (listener, number) = std::thread::scope(|scope| {
            let listening = scope.spawn(|| workers.listen(&taps).unwrap());
            let Ok(Message::Listen(number, _, reply)) = inbox.recv() else { panic!("no tap came") };
            reply.send(()).unwrap();
            (listening.join().unwrap(), number)
        });
        assert!(inbox.is_empty());
        drop(listener);
        assert!(matches!(inbox.try_recv(), Ok(Message::Deafen(gone)) if gone == number));
    }
}
