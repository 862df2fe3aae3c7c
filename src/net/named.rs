//! Namespaces under `/run/netns`, as `ip netns add` makes them, that are removed with their owner.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::net::cleanup::Record;
use crate::net::error::NetError;
use crate::net::netns::Netns;

/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";

/// A named namespace that this process made; dropping it removes the name.
///
/// Processes and sockets still inside keep the namespace itself alive, as after `ip netns del`. If the owner is killed,
/// [`sweep`](crate::net::cleanup::sweep) removes the name at the next start.
#[derive(Debug)]
pub struct NamedNetns {
    netns: Netns,
    path: PathBuf,
    cookie: u64,
    /// Dropped last: while it exists on disk and unlocked, a sweep may look for the namespace.
    _record: Record,
}

impl NamedNetns {
    /// Makes the namespace and binds it to `/run/netns/NAME`. See [`Netns::create_named`].
    pub(crate) fn create(name: &str) -> Result<Self, NetError> {
        let path = path_of(name)?;
        let anonymous = Netns::anonymous()?;
        let cookie = anonymous.cookie()?;
        share_directory()?;
        if path.exists() {
            return Err(NetError::Exists(path));
        }
        // The record comes first: killed right after the mount, we would otherwise leave a namespace nobody knows of.
        let record = Record::write(name, cookie)?;
        bind(&anonymous, &path)?;
        // Not opened by its path: a descriptor from there would keep the mount busy.
        Ok(Self { netns: anonymous.labelled(name), path, cookie, _record: record })
    }

    /// The namespace itself.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its file, `/run/netns/NAME`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        // Somebody may have removed it and made another of that name meanwhile; that one is not ours. What fails here
        // has nobody left to report to.
        let _ = remove_if(&self.path, self.cookie);
    }
}

/// The file of a named namespace.
///
/// # Errors
/// If the name cannot be one.
pub(crate) fn path_of(name: &str) -> Result<PathBuf, NetError> {
    let fits = (1..=255).contains(&name.len()) && !name.contains(['/', '\0']) && name != "." && name != "..";
    if fits { Ok(Path::new(DIRECTORY).join(name)) } else { Err(NetError::BadName(name.to_owned())) }
}

/// Removes the name at `path` if it is the namespace `cookie`, or the empty file of a binding that was cut short.
///
/// Returns whether something was removed.
pub(crate) fn remove_if(path: &Path, cookie: u64) -> Result<bool, NetError> {
    match Netns::path(path) {
        Ok(found) if found.cookie()? != cookie => return Ok(false),
        Ok(_) => {
            umount2(path, MntFlags::MNT_DETACH).map_err(NetError::file("unmount", path))?;
        }
        Err(NetError::NotANamespace(_)) if is_placeholder(path) => {}
        Err(NetError::NotFound(_) | NetError::NotANamespace(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    fs::remove_file(path).map_err(NetError::file("remove", path))?;
    Ok(true)
}

/// The file a namespace is to be mounted on: regular, empty, and without any permission.
fn is_placeholder(path: &Path) -> bool {
    const REGULAR_FILE: u32 = 0o100_000;
    fs::symlink_metadata(path).is_ok_and(|m| m.len() == 0 && m.mode() == REGULAR_FILE)
}

/// Makes `/run/netns` a shared mount, so that what is mounted there is seen in, and unmounted from, all mount
/// namespaces. The lock is the one iproute2 takes: two at once would mount the directory over itself twice.
fn share_directory() -> Result<(), NetError> {
    fs::create_dir_all(DIRECTORY).map_err(NetError::file("create", DIRECTORY))?;
    let directory = File::open(DIRECTORY).map_err(NetError::file("open", DIRECTORY))?;
    directory.lock().map_err(NetError::file("lock", DIRECTORY))?;
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {
            // Not a mount point yet.
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .map_err(NetError::file("mount", DIRECTORY))?;
            share().map_err(NetError::file("share the mount", DIRECTORY))
        }
        other => other.map_err(NetError::file("share the mount", DIRECTORY)),
    }
}

/// Mounts the namespace on a new file.
fn bind(netns: &Netns, path: &Path) -> Result<(), NetError> {
    OpenOptions::new().write(true).create_new(true).mode(0o0).open(path).map_err(|source| {
        match source.kind() {
            io::ErrorKind::AlreadyExists => NetError::Exists(path.to_owned()),
            _ => NetError::File { action: "create", path: path.to_owned(), source },
        }
    })?;
    let mounted = netns
        .run(|| mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>));
    let failed = match mounted {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(errno)) => NetError::file("mount a namespace on", path)(errno),
        Err(error) => error,
    };
    // Nothing is mounted: the empty file is ours to take away.
    let _ = fs::remove_file(path);
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "nul\0", &"x".repeat(256)] {
            assert!(matches!(path_of(name), Err(NetError::BadName(_))), "{name:?} was accepted");
        }
        assert_eq!(path_of("left").unwrap(), Path::new("/run/netns/left"));
    }
}
