//! How many files this process may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit of open files (`ulimit -n`), raised as far as the user may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What it is now.
    pub limit: u64,
    before: u64,
    hard: u64,
}

impl OpenFiles {
    /// Raises the soft limit of this process to the hard one.
    ///
    /// # Errors
    /// If the limits cannot be read.
    pub fn raise() -> io::Result<Self> {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // Where it cannot be raised, the soft limit is what there is.
        let limit = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(before, |()| hard);
        Ok(Self { limit, before, hard })
    }

    /// Gives the calling process the limit that it had before: programs that use `select` break with a higher one. It makes one
    /// system call, and allocates nothing.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn restore(self) -> io::Result<()> {
        Ok(setrlimit(Resource::RLIMIT_NOFILE, self.before, self.hard)?)
    }
}
