//! Starting, asking and stopping the workers.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded, unbounded};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use crate::engine::clock::Clock;
use crate::engine::line::{self, Line, Workers};
use crate::engine::report::Report;
use crate::engine::tun::Port;
use crate::engine::worker::{Message, Worker};
use crate::journal::Taps;
use crate::pipeline::params::RouterParams;
use crate::pipeline::router::Router;

/// Why workers cannot be started, or what ended one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No thread could be started.
    #[error("cannot start worker {worker}: {source}")]
    Start {
        /// Which.
        worker: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A core that does not exist or may not be used.
    #[error(
        "cannot pin worker {worker} to core {core}: {source}; see `taskset -p $$` for the cores allowed here"
    )]
    Pin {
        /// Which.
        worker: usize,
        /// The core.
        core: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A device failed while the router ran.
    #[error("worker {worker} stopped: {source} (was a device removed while faultwire ran?)")]
    Device {
        /// Which.
        worker: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A worker panicked: a bug.
    #[error("worker {worker} panicked; this is a bug in faultwire")]
    Panic {
        /// Which.
        worker: usize,
    },
}

/// How to run the workers.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Worker i runs on core `pin[i]`; empty: the scheduler decides.
    pub pin: Vec<usize>,
    /// Whoever records what happens to packets.
    pub taps: Vec<Taps>,
}

/// Running workers.
#[derive(Debug)]
pub struct Engine {
    workers: Vec<Handle>,
    clock: Clock,
}

#[derive(Debug)]
struct Handle {
    line: Line,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Engine {
    /// Starts a worker for each element of `ports`, which holds that worker's end of every port.
    ///
    /// # Errors
    /// If a thread cannot be started or pinned; then none runs.
    pub fn start(
        params: &RouterParams,
        ports: Vec<Vec<Port>>,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let shared = Router::shared(params);
        let mut engine = Self { workers: Vec::with_capacity(ports.len()), clock: Clock::start() };
        for (worker, ports) in ports.into_iter().enumerate() {
            let router = Router::new(params, &shared);
            let core = options.pin.get(worker).copied();
            // If this fails, those that run already end with the engine.
            engine.start_worker(worker, (router, params.flows), ports, core, &options.taps)?;
        }
        Ok(engine)
    }

    fn start_worker(
        &mut self,
        worker: usize,
        (router, flows): (Router, usize),
        ports: Vec<Port>,
        core: Option<usize>,
        taps: &[Taps],
    ) -> Result<(), EngineError> {
        let start = |source: std::io::Error| EngineError::Start { worker, source };
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|e| start(e.into()))?;
        let bell = Arc::new(bell);
        let (messages, inbox) = unbounded();
        let (pinned, outcome) = bounded(1);
        let taps = taps.iter().map(|taps| taps.tap(flows)).collect();
        let own = Arc::clone(&bell);
        let worker_state = Worker::new(router, ports, taps, self.clock, inbox, own);
        let body = move || {
            let result = core.map_or(Ok(()), pin_to);
            let failed = result.is_err();
            // `start` waits for this result.
            let _ = pinned.send(result);
            if failed { Ok(()) } else { worker_state.run() }
        };
        let thread =
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(body).map_err(start)?;
        let result = outcome.recv().unwrap_or(Ok(()));
        result.map_err(|source| EngineError::Pin { worker, core: core.unwrap_or_default(), source })?;
        self.workers.push(Handle { line: Line { messages, bell }, thread });
        Ok(())
    }

    /// A handle to the workers, for other threads.
    pub fn workers(&self) -> Workers {
        Workers { lines: self.workers.iter().map(|handle| handle.line.clone()).collect(), clock: self.clock }
    }

    /// The clock of the run.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The numbers of all workers at about this moment: one report for each worker.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn reports(&self) -> Result<Vec<Report>, EngineError> {
        self.ask(Message::Report)
    }

    /// Releases all held packets, in order. Packets from attached devices pass without faults from now on; routed packets
    /// continue as before.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn release(&self) -> Result<Vec<Report>, EngineError> {
        self.ask(Message::Release)
    }

    /// True if a worker has ended by itself; [`Engine::stop`] returns the reason.
    pub fn has_failed(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.is_finished())
    }

    /// Stops all workers, and returns the last report of each.
    ///
    /// # Errors
    /// The first failure of a worker.
    pub fn stop(mut self) -> Result<Vec<Report>, EngineError> {
        self.end(Message::Stop)
    }

    /// As [`Self::stop`], but held packets leave at once, in the order in which they were due.
    ///
    /// # Errors
    /// The first failure of a worker.
    pub fn finish(mut self) -> Result<Vec<Report>, EngineError> {
        self.end(Message::Finish)
    }

    /// Reads no more packets from routed ports. Held packets leave when they are due; attached devices continue.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn close(&self) -> Result<Vec<Report>, EngineError> {
        self.ask(Message::Close)
    }

    fn end(&mut self, message: impl Fn(Sender<Report>) -> Message) -> Result<Vec<Report>, EngineError> {
        let reports = self.ask(message);
        for (worker, handle) in std::mem::take(&mut self.workers).into_iter().enumerate() {
            match handle.thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(source)) => return Err(EngineError::Device { worker, source }),
                Err(_) => return Err(EngineError::Panic { worker }),
            }
        }
        reports
    }

    fn ask(&self, message: impl Fn(Sender<Report>) -> Message) -> Result<Vec<Report>, EngineError> {
        let lines = self.workers.iter().map(|handle| &handle.line);
        line::ask(lines, message)
            .map_err(|worker| EngineError::Device { worker, source: std::io::Error::other("it has ended") })
    }
}

impl Drop for Engine {
    /// Ends the workers, which hold the devices.
    fn drop(&mut self) {
        // To learn how the workers ended, call `stop`.
        let _ = self.end(Message::Stop);
    }
}

/// The sum of several workers' reports; `None` if there are none.
pub fn total(reports: &[Report]) -> Option<Report> {
    let (first, others) = reports.split_first()?;
    let mut sum = first.clone();
    for other in others {
        sum.add(other);
    }
    Some(sum)
}

fn pin_to(core: usize) -> std::io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}
