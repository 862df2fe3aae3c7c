//! Signals as something to read, so that ending is as orderly as any other step.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

/// The signals that end a run or concern a child.
const WATCHED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// Waits for signals.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

/// A signal that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) signal: Signal,
    /// Sent by the terminal (Ctrl-C), which sends it to the children too.
    pub(super) by_terminal: bool,
}

impl Signals {
    /// From now on the watched signals are only read. Call it before any thread is started: threads inherit this.
    pub(super) fn watch() -> nix::Result<Self> {
        Self::only(&WATCHED)
    }

    /// As [`Self::watch`], these alone: all others do what they always do.
    pub(super) fn only(signals: &[Signal]) -> nix::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// A signal, if one comes before `input` has something to read or ends.
    pub(super) fn before(&self, input: BorrowedFd<'_>) -> nix::Result<Option<Received>> {
        let mut fds = [self.0.as_fd(), input].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        self.next(&mut fds, PollTimeout::NONE)
    }

    /// The next signal, if one comes within `millis` milliseconds.
    pub(super) fn wait(&self, millis: u16) -> nix::Result<Option<Received>> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        self.next(&mut fds, PollTimeout::from(millis))
    }

    fn next(&self, fds: &mut [PollFd<'_>], timeout: PollTimeout) -> nix::Result<Option<Received>> {
        match poll(fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.0.read_signal()?.and_then(|info| received(&info))),
            Err(errno) => Err(errno),
        }
    }
}

fn received(info: &siginfo) -> Option<Received> {
    // The kernel itself (SI_KERNEL) sends what is typed on a terminal.
    const SI_KERNEL: i32 = 0x80;
    let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
    Some(Received { signal, by_terminal: info.ssi_code == SI_KERNEL })
}
