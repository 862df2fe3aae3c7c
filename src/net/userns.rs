//! Root rights for ordinary users: a new user namespace (`user_namespaces(7)`).

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// The process could not get a user namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserNamespaceError {
    /// A process with several threads cannot change its user namespace.
    #[error("a user namespace must be entered before any thread is started, and {0} threads run")]
    Threads(usize),
    /// The kernel refused to make one.
    #[error("this host does not allow user namespaces for ordinary users: {source}. {hint}")]
    Closed {
        /// What the kernel said.
        source: io::Error,
        /// The setting that closes it and what to do.
        hint: String,
    },
    /// It was made, but without the right to be root in it.
    #[error("the user namespace was made, but {path} cannot be written: {source}. {hint}")]
    Map {
        /// The file of the mapping.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// The setting that closes it and what to do.
        hint: String,
    },
}

/// Settings that close user namespaces: file, the value that closes, what to run.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=1000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Moves this process into a new user and network namespace, in which it is root.
///
/// Afterwards it holds all capabilities over namespaces that it makes, and none over the host's. The new network
/// namespace is empty. Call it before any thread is started; there is no way back.
///
/// # Errors
/// [`UserNamespaceError`] says which setting of the host is in the way.
pub fn enter_user_namespace() -> Result<(), UserNamespaceError> {
    enter(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
}

/// As [`enter_user_namespace`], but the process stays in its network namespace, over which it has no capabilities: its sockets are
/// those of the host.
///
/// # Errors
/// [`UserNamespaceError`] says which setting of the host is in the way.
pub fn enter_beside_network() -> Result<(), UserNamespaceError> {
    enter(CloneFlags::CLONE_NEWUSER)
}

fn enter(namespaces: CloneFlags) -> Result<(), UserNamespaceError> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads > 1 {
        return Err(UserNamespaceError::Threads(threads));
    }
    let (uid, gid) = (getuid(), getgid());
    unshare(namespaces).map_err(|errno| UserNamespaceError::Closed { source: errno.into(), hint: hint() })?;
    // Without "deny" an unprivileged process may not map its group.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

fn write(path: &'static str, text: &str) -> Result<(), UserNamespaceError> {
    fs::write(path, text).map_err(|source| UserNamespaceError::Map { path, source, hint: hint() })
}

/// The advice that follows from the host's settings.
fn hint() -> String {
    closed_by().unwrap_or_else(|| {
        "Run faultwire as root; in a container, with CAP_NET_ADMIN and CAP_SYS_ADMIN".to_owned()
    })
}

/// The setting of this host that closes user namespaces to ordinary users, if one does, and what to do about it.
pub fn closed_by() -> Option<String> {
    let is_closed =
        |path: &str, closed: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == closed);
    let (path, value, command) = SWITCHES.iter().find(|(path, closed, _)| is_closed(path, closed))?;
    Some(format!("{path} is {value}: run `{command}`, or run faultwire as root"))
}
