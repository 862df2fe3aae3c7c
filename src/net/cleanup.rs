//! Removes, at the next start, what a killed faultwire left behind.
//!
//! Devices, routes, addresses and anonymous namespaces are bound to file descriptors: the kernel removes them with the
//! process. A named namespace is a mount and remains. So each has a record,
//!
//! ```text
//! /run/faultwire/PID-STARTTIME/NAME      contents: the namespace's cookie (SO_NETNS_COOKIE)
//! ```
//!
//! which its owner keeps locked by `flock(2)`. The kernel releases the lock with the process, so a record that can be
//! locked belongs to a dead owner. The cookie is unique until the next boot: a namespace of the same name that was created
//! later has another cookie, and is not removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use crate::net::error::NetError;
use crate::net::named;

/// Where records are kept; emptied by a reboot, as `/run/netns` is.
const DIRECTORY: &str = "/run/faultwire";

/// The locked record of one named namespace; removed when dropped.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Record {
    /// Notes that this process makes the namespace `name`, whose identity is `cookie`.
    pub(crate) fn write(name: &str, cookie: u64) -> Result<Self, NetError> {
        let owner = Path::new(DIRECTORY).join(owner()?);
        let path = owner.join(name);
        // Not readable by others: a process that can open it could hold its lock for ever.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(DIRECTORY)
            .map_err(NetError::file("create", DIRECTORY))?;
        // Between creating and locking a record it looks like a dead one: no sweep may run then.
        let _guard = lock_directory()?;
        fs::create_dir_all(&owner).map_err(NetError::file("create", &owner))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(NetError::file("create", &path))?;
        file.lock().map_err(NetError::file("lock", &path))?;
        writeln!(file, "{cookie}").map_err(NetError::file("write", &path))?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Another thread may be making a record in the same directory. What cannot be removed now, the next sweep removes.
        let _guard = lock_directory();
        let _ = fs::remove_file(&self.path);
        if let Some(owner) = self.path.parent() {
            // Refused while other records are in it.
            let _ = fs::remove_dir(owner);
        }
    }
}

/// Removes the named namespaces that dead owners left, and nothing else. Returns their names.
///
/// Call it at start. Records that this user may not open are another user's to sweep and passed over.
///
/// # Errors
/// If a namespace of a dead owner cannot be removed.
pub fn sweep() -> Result<Vec<String>, NetError> {
    let _guard = match lock_directory() {
        Ok(guard) => guard,
        Err(NetError::File { source, .. }) if is_not_ours(&source) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut removed = Vec::new();
    for owner in entries(Path::new(DIRECTORY))? {
        for record in entries(&owner)? {
            removed.extend(sweep_record(&record)?);
        }
        // Refused while records of a live owner are in it.
        let _ = fs::remove_dir(&owner);
    }
    Ok(removed)
}

/// Removes the namespace of a record, if its owner is dead.
fn sweep_record(path: &Path) -> Result<Option<String>, NetError> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if is_not_ours(&error) => return Ok(None),
        Err(error) => return Err(NetError::file("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(NetError::file("lock", path)(error)),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(NetError::file("read", path))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut removed = false;
    // Without a cookie the owner died before it made anything.
    if let Ok(cookie) = text.trim().parse() {
        removed = named::remove_if(&named::path_of(name)?, cookie)?;
    }
    fs::remove_file(path).map_err(NetError::file("remove", path))?;
    Ok(removed.then(|| name.to_owned()))
}

fn lock_directory() -> Result<File, NetError> {
    let directory = File::open(DIRECTORY).map_err(NetError::file("open", DIRECTORY))?;
    directory.lock().map_err(NetError::file("lock", DIRECTORY))?;
    Ok(directory)
}

/// The files in a directory; none if it is gone or closed to this user.
fn entries(path: &Path) -> Result<Vec<PathBuf>, NetError> {
    let listed = fs::read_dir(path).and_then(|dir| dir.map(|entry| Ok(entry?.path())).collect());
    match listed {
        Err(error) if is_not_ours(&error) || error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        other => other.map_err(NetError::file("list", path)),
    }
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// `PID-STARTTIME` of this process, because PIDs are used again.
fn owner() -> Result<String, NetError> {
    let path = "/proc/self/stat";
    let stat = fs::read_to_string(path).map_err(NetError::file("read", path))?;
    let since_boot = start_time(&stat)
        .ok_or_else(|| NetError::file("parse", path)(io::Error::from(io::ErrorKind::InvalidData)))?;
    Ok(format!("{}-{since_boot}", process::id()))
}

/// Field 22 of `proc_pid_stat(5)`, in clock ticks since boot. Field 2, the command, may hold spaces and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_hostile_command_name() {
        let stat = "42 (a) b (c 1 2) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 100 200";
        assert_eq!(start_time(stat), Some(987_654));
        assert_eq!(start_time("42 (cut"), None);
    }
}
