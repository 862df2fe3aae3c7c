//! Resetting a TCP connection whose socket stays open.

#![expect(unsafe_code, reason = "nix has no way to connect a socket to nothing")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

/// Sends a RST and forgets what was not sent (`connect(2)`: dissolving an association).
pub(super) fn reset(socket: &impl AsFd) -> io::Result<()> {
    let nothing = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the descriptor is open, and the kernel reads the address, which is whole.
    let result = unsafe {
        libc::connect(
            socket.as_fd().as_raw_fd(),
            &raw const nothing,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}
