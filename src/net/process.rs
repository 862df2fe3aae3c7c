//! A process by a descriptor. When a process has ended, its PID may be given to another process; the descriptor stays unique.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A process that ran when this was made.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process of this number; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened: the number is a thread's, there are no more descriptors, or the kernel has no `pidfd_open`
    /// (Linux 5.3).
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        match pidfd_open(pid) {
            Ok(process) => Ok(Some(Self(process))),
            Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.wait(0).unwrap_or(false)
    }

    /// Waits for its end; whether it came within `milliseconds`.
    ///
    /// # Errors
    /// If waiting fails.
    pub fn wait(&self, milliseconds: u16) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::from(milliseconds))? > 0)
    }

    /// Sends it a signal; whether it still was there.
    ///
    /// # Errors
    /// If it may not be signalled.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(self.0.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Becomes readable when it ends.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2) has no wrapper in nix")]
fn pidfd_open(pid: u32) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) })?;
    // SAFETY: the call that succeeded returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

#[expect(unsafe_code, reason = "pidfd_send_signal(2) has no wrapper in nix")]
fn pidfd_send_signal(process: BorrowedFd<'_>, signal: Signal) -> nix::Result<()> {
    let (fd, information) = (process.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: without information the kernel fills in what kill(2) would; no other memory is involved.
    let done =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, information, 0) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_signalled_and_waited_for_and_then_gone() {
        assert!(Process::open(4_194_304).unwrap().is_none());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert!(!process.has_ended() && !process.wait(1).unwrap());
        assert!(process.signal(Signal::SIGTERM).unwrap());
        assert!(process.wait(10_000).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert!(!process.signal(Signal::SIGTERM).unwrap());
    }
}
