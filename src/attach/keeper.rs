//! Keeps devices open until all other descriptors of the process are closed.
//!
//! When a process is killed, the kernel closes its descriptors in no defined order. If a TAP were closed before the programs
//! that redirect to it, packets would be lost until the programs are gone too, and removing a device takes long. So a second
//! descriptor of each TAP is in flight on a socket from this process to itself. The kernel closes descriptors that are in
//! flight after it has closed the socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use crate::device::Queue;

/// Descriptors in one message: `SCM_MAX_FD` is 253.
const MOST: usize = 128;

/// Both ends of the socket.
#[derive(Debug)]
pub(super) struct Keeper(#[expect(dead_code, reason = "held, not read")] [OwnedFd; 2]);

impl Keeper {
    /// Keeps the devices of these queues open.
    ///
    /// # Errors
    /// If no more descriptors are available, or the socket does not accept them.
    pub(super) fn of<'a>(queues: impl Iterator<Item = &'a Queue>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (from, to) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?;
        let descriptors: Vec<_> = queues.map(|queue| queue.as_fd().as_raw_fd()).collect();
        for some in descriptors.chunks(MOST) {
            let message = [ControlMessage::ScmRights(some)];
            let byte = [io::IoSlice::new(&[0])];
            sendmsg::<()>(from.as_raw_fd(), &byte, &message, MsgFlags::empty(), None)?;
        }
        Ok(Self([from, to]))
    }
}
