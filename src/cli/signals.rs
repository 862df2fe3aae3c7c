//! Signals that can be read, so that they end the program in an orderly way.
//!
//! A signal that was ignored when faultwire was started stays ignored, as for any program: SIGHUP under `nohup`, SIGINT and
//! SIGQUIT if a script starts it with `&`. SIGTERM ends it in these cases.

#![expect(unsafe_code, reason = "nix sets the disposition of a signal by an unsafe function")]

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

use crate::pipeline::time::Instant;

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

/// Waits for signals. When it is dropped, signals have their default effect again.
#[derive(Debug)]
pub(super) struct Signals {
    queue: SignalFd,
    watched: SigSet,
}

impl Drop for Signals {
    fn drop(&mut self) {
        // The summary may have to wait for a stopped terminal: a later signal must be able to end that. Signals that
        // came until now, such as a second Ctrl-C, have been handled.
        while matches!(self.queue.read_signal(), Ok(Some(_))) {}
        let _ = self.watched.thread_unblock();
    }
}

/// A signal that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) signal: Signal,
    /// Sent by the terminal (Ctrl-C), which sends it to the children too.
    pub(super) by_terminal: bool,
}

impl Received {
    /// Whether it is one that ends a run.
    pub(super) fn ends(self) -> bool {
        ends(self.signal)
    }
}

/// Whether a signal is one that ends a run.
pub(super) const fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
}

impl Signals {
    /// From now on the watched signals are only read. Call it before any thread is started: threads inherit this.
    pub(super) fn watch() -> nix::Result<Self> {
        Self::only(&WATCHED)
    }

    /// As [`Self::watch`], for these signals alone: all others keep their default effect.
    pub(super) fn only(signals: &[Signal]) -> nix::Result<Self> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        // Blocked signals are queued even if they are ignored.
        let heard = |signal: &Signal| !is_ignored(*signal, &status);
        let watched: SigSet = signals.iter().copied().filter(heard).collect();
        watched.thread_block()?;
        let queue = SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { queue, watched })
    }

    /// A signal, if one comes before `input` has something to read or ends.
    pub(super) fn before(&self, input: BorrowedFd<'_>) -> nix::Result<Option<Received>> {
        let mut fds = [self.queue.as_fd(), input].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        self.next(&mut fds, PollTimeout::NONE)
    }

    /// The next signal, if one comes within `millis` milliseconds.
    pub(super) fn wait(&self, millis: u16) -> nix::Result<Option<Received>> {
        let mut fds = [PollFd::new(self.queue.as_fd(), PollFlags::POLLIN)];
        self.next(&mut fds, PollTimeout::from(millis))
    }

    /// A signal that came already.
    pub(super) fn came(&self) -> nix::Result<Option<Received>> {
        Ok(self.queue.read_signal()?.and_then(|info| received(&info)))
    }

    /// From now on SIGINT and SIGTERM end the process at once, as by default.
    pub(super) fn end_watch() {
        // No error is possible here: both signals exist.
        let _ = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect::<SigSet>().thread_unblock();
    }

    /// If a signal has not been read within `grace`, it ends the process, as by default: even if a loop is busy, or
    /// output is blocked.
    pub(super) fn insist(&self, grace: PollTimeout) -> std::io::Result<()> {
        let watched = self.queue.as_fd().try_clone_to_owned()?;
        let insist = move || {
            let is_there = |timeout| {
                let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, timeout)
            };
            loop {
                match is_there(PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(_) => return,
                }
                // Only the time is waited for.
                let _ = poll(&mut [], grace);
                if is_there(PollTimeout::ZERO) == Ok(1) {
                    let _ = SigSet::all().thread_unblock();
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(insist).map(drop)
    }

    /// As [`Self::wait`], but ends early when `other` becomes readable.
    pub(super) fn wait_or(
        &self,
        other: Option<BorrowedFd<'_>>,
        millis: u16,
    ) -> nix::Result<Option<Received>> {
        match other {
            None => self.wait(millis),
            Some(other) => {
                let mut fds = [self.queue.as_fd(), other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                self.next(&mut fds, PollTimeout::from(millis))
            }
        }
    }

    fn next(&self, fds: &mut [PollFd<'_>], timeout: PollTimeout) -> nix::Result<Option<Received>> {
        match poll(fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.queue.read_signal()?.and_then(|info| received(&info))),
            Err(errno) => Err(errno),
        }
    }
}

/// Makes sure that the exit code of a child can be read: if SIGCHLD is ignored, the kernel discards it.
pub(super) fn wait_for_children() {
    // SAFETY: the default is no function of ours.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// Whether a `/proc/PID/status` has the signal among the ignored ones.
fn is_ignored(signal: Signal, status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    ignored >> (signal as i32 - 1) & 1 == 1
}

/// How long it is from `now` until `then`, rounded up, for [`Signals::wait`].
pub(super) fn millis_until(then: Instant, now: Instant) -> u16 {
    u16::try_from(then.since(now).as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX)
}

fn received(info: &siginfo) -> Option<Received> {
    // The kernel itself (SI_KERNEL) sends signals for keys that are typed on a terminal.
    const SI_KERNEL: i32 = 0x80;
    let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
    Some(Received { signal, by_terminal: info.ssi_code == SI_KERNEL })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_their_own_line() {
        let status = "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\tffffffffffffffff\n";
        let ignored = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE];
        for signal in WATCHED.into_iter().chain([Signal::SIGPIPE]) {
            assert_eq!(is_ignored(signal, status), ignored.contains(&signal), "{signal}");
        }
        assert!(!is_ignored(Signal::SIGINT, "Name:\tx\n"));
    }
}
