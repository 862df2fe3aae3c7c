//! Whether this process may create devices and namespaces, and if not, what is missing.

use std::fs::{self, OpenOptions};
use std::io;

use nix::errno::Errno;

use crate::net::userns::{UserNamespaceError, enter_beside_network, enter_user_namespace};

/// `CAP_NET_ADMIN` of capability.h: make devices, set addresses and routes.
const NET_ADMIN: u32 = 12;
/// `CAP_SYS_ADMIN` of capability.h: make and enter namespaces.
const SYS_ADMIN: u32 = 21;

/// The door to TUN devices.
pub(crate) const TUN: &str = "/dev/net/tun";

/// What is missing, and how to get it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// A capability is missing.
    #[error(
        "this process lacks {missing}: run faultwire as root (in a container: `--cap-add NET_ADMIN --cap-add SYS_ADMIN`)"
    )]
    Capability {
        /// The names of the missing capabilities.
        missing: String,
    },
    /// There is no TUN device file.
    #[error(
        "/dev/net/tun is missing: run `sudo modprobe tun` (in a container: start it with `--device /dev/net/tun`)"
    )]
    TunMissing,
    /// The TUN device file is there, but closed to this user.
    #[error(
        "/dev/net/tun may not be opened by this user: run `sudo chmod 0666 /dev/net/tun`, or run as root"
    )]
    TunClosed,
    /// The TUN device file does not work.
    #[error(
        "/dev/net/tun cannot be opened: {0} (is the kernel module `tun` loaded? run `sudo modprobe tun`)"
    )]
    TunBroken(io::Error),
    /// Neither root nor a user namespace.
    #[error("faultwire is not root, and {0}")]
    UserNamespace(#[from] UserNamespaceError),
}

/// Where the capabilities come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The process had them: it can reach the host's own namespaces.
    Held,
    /// From a user namespace made for it: only namespaces made from now on are in reach.
    UserNamespace,
}

/// Checks that devices and namespaces can be made here and now.
///
/// # Errors
/// The first thing that is closed, and what to do about it.
pub fn check() -> Result<(), PrivilegeError> {
    capabilities()?;
    tun()
}

/// Like [`check`], but makes up for missing capabilities by a user namespace. Call it before any thread is started.
///
/// # Errors
/// The first thing that is closed, and what to do about it.
pub fn acquire() -> Result<Privilege, PrivilegeError> {
    acquire_by(enter_user_namespace)
}

/// As [`acquire`], but the process stays in its network namespace, so that its own sockets are those of the host.
///
/// # Errors
/// The first thing that is closed, and what to do about it.
pub fn acquire_beside_network() -> Result<Privilege, PrivilegeError> {
    acquire_by(enter_beside_network)
}

fn acquire_by(enter: impl FnOnce() -> Result<(), UserNamespaceError>) -> Result<Privilege, PrivilegeError> {
    tun()?;
    if capabilities().is_ok() {
        return Ok(Privilege::Held);
    }
    enter()?;
    Ok(Privilege::UserNamespace)
}

/// Checks that this process may make devices and namespaces.
///
/// # Errors
/// The capabilities that are missing.
pub fn capabilities() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let held = effective(&status);
    let missing: Vec<_> = [(NET_ADMIN, "CAP_NET_ADMIN"), (SYS_ADMIN, "CAP_SYS_ADMIN")]
        .into_iter()
        .filter(|(bit, _)| held & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PrivilegeError::Capability { missing: missing.join(" and ") })
    }
}

/// Checks that `/dev/net/tun` can be opened.
///
/// # Errors
/// Whether it is missing, closed or broken.
pub fn tun() -> Result<(), PrivilegeError> {
    OpenOptions::new().read(true).write(true).open(TUN).map(drop).map_err(tun_error)
}

/// Why `/dev/net/tun` could not be opened.
pub(crate) fn tun_error(error: io::Error) -> PrivilegeError {
    match error.kind() {
        io::ErrorKind::NotFound => PrivilegeError::TunMissing,
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(Errno::EACCES as i32) => {
            PrivilegeError::TunClosed
        }
        _ => PrivilegeError::TunBroken(error),
    }
}

/// The effective capabilities in a `/proc/PID/status`, one bit each; none if the line is missing.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read_not_the_permitted_ones() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000201000\nCapBnd:\tff\n";
        assert_eq!(effective(status), (1 << NET_ADMIN) | (1 << SYS_ADMIN));
        assert_eq!(effective("Name:\tx\n"), 0);
    }

    #[test]
    fn each_way_of_being_closed_has_its_own_sentence() {
        let said = |errno: Errno| tun_error(errno.into()).to_string();
        assert!(said(Errno::ENOENT).contains("is missing"));
        assert!(said(Errno::EACCES).contains("chmod"));
        assert!(said(Errno::ENODEV).contains("modprobe"));
    }
}
