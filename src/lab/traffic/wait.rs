//! Waiting for a socket, a deadline or the end of the step.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::clock::Deadline;

/// Ends the threads of a step: all [`Stop`]s wake when this is dropped.
#[derive(Debug)]
pub struct Stopper(#[expect(dead_code, reason = "held only to be closed")] UnixStream);

/// The threads' side of a [`Stopper`].
#[derive(Debug, Clone)]
pub struct Stop(Arc<UnixStream>);

/// A connected pair of both.
///
/// # Errors
/// No file descriptors left.
pub fn stop_pair() -> io::Result<(Stopper, Stop)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Stopper(ours), Stop(Arc::new(theirs))))
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The descriptor is ready (or has an error to be read).
    Ready,
    /// The step is over.
    Stopped,
    /// The deadline passed.
    Late,
}

/// Waits until `fd` can be read.
///
/// # Errors
/// Those of `poll(2)`.
pub fn readable(fd: impl AsFd, stop: Option<&Stop>, deadline: Option<Deadline>) -> io::Result<Wake> {
    wait(fd.as_fd(), PollFlags::POLLIN, stop, deadline)
}

/// Waits until `fd` can be written.
///
/// # Errors
/// Those of `poll(2)`.
pub fn writable(fd: impl AsFd, stop: Option<&Stop>, deadline: Option<Deadline>) -> io::Result<Wake> {
    wait(fd.as_fd(), PollFlags::POLLOUT, stop, deadline)
}

fn wait(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    stop: Option<&Stop>,
    deadline: Option<Deadline>,
) -> io::Result<Wake> {
    loop {
        let timeout = match deadline.map(Deadline::left) {
            None => PollTimeout::NONE,
            Some(None) => return Ok(Wake::Late),
            // Rounded up, so that the deadline has passed when poll times out.
            Some(Some(left)) => i32::try_from(left.as_millis() + 1)
                .ok()
                .and_then(|millis| PollTimeout::try_from(millis).ok())
                .unwrap_or(PollTimeout::MAX),
        };
        let mut fds = vec![PollFd::new(fd, events)];
        fds.extend(stop.map(|stop| PollFd::new(stop.0.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false)) {
            return Ok(Wake::Stopped);
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(Wake::Ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dropping_the_stopper_wakes_whoever_waits() {
        let (_peer, silent) = UnixStream::pair().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let waiter = std::thread::spawn(move || readable(&silent, Some(&stop), None).unwrap());
        drop(stopper);
        assert_eq!(waiter.join().unwrap(), Wake::Stopped);
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let (_peer, silent) = UnixStream::pair().unwrap();
        let deadline = Deadline::after(Duration::from_millis(5));
        assert_eq!(readable(&silent, None, Some(deadline)).unwrap(), Wake::Late);
    }
}
