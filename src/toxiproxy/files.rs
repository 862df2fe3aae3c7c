//! File descriptors: they limit how many proxies and connections there can be.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::files::OpenFiles;

/// Descriptors of a connection: the client's, the upstream's, and both ends on the link.
const CONNECTION: u32 = 4;
/// Descriptors of a proxy with a link: namespaces, devices and their copies, an event descriptor, listeners, and a
/// client that waits for the descriptors of its connection.
const LINK: u32 = 17;
/// Descriptors for everything else: requests, timers, and temporary ones while links are created.
const RESERVE: u64 = 192;
/// Maximum that connections and proxies share: a connection has buffers of 256 KiB.
const MOST: u64 = 40_000;

/// The descriptors that connections and proxies share.
#[derive(Debug, Clone)]
pub(super) struct Files {
    free: Arc<Semaphore>,
    count: u32,
}

/// Descriptors that are reserved until this is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    _permit: OwnedSemaphorePermit,
}

impl Files {
    /// The descriptors of this process. Its soft limit is raised to the hard one.
    pub(super) fn of_process() -> io::Result<Self> {
        Ok(Self::of(OpenFiles::raise()?.limit))
    }

    /// The descriptors of a process with this limit.
    fn of(limit: u64) -> Self {
        let count = limit.saturating_sub(RESERVE).clamp((LINK + CONNECTION).into(), MOST) as u32;
        Self { free: Arc::new(Semaphore::new(count as usize)), count }
    }

    /// Reserves the descriptors of a connection. Waits until enough are free.
    pub(super) async fn of_connection(&self) -> Option<InUse> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.free).acquire_many_owned(CONNECTION).await.ok()?;
        Some(InUse { _permit: permit })
    }

    /// Reserves the descriptors of a proxy and its link.
    ///
    /// # Errors
    /// If not enough are free.
    pub(super) fn of_link(&self) -> Result<InUse, String> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(LINK);
        permit.map(|permit| InUse { _permit: permit }).map_err(|_| {
            format!(
                "too many open files: proxies and connections share {} (ulimit -n), a proxy needs {LINK}, a connection {CONNECTION}",
                self.count
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the limit: a proxy and a connection fit, and no more than the limit allows.
    #[test]
    fn proxies_and_connections_share_the_limit() {
        for (limit, links) in [(0, 1), (64, 1), (1_024, 48), (1 << 20, 2_352), (u64::MAX, 2_352)] {
            let files = Files::of(limit);
            let used: Vec<InUse> = std::iter::from_fn(|| files.of_link().ok()).collect();
            assert_eq!(used.len(), links, "{limit}");
            assert!(files.of_link().unwrap_err().contains("too many open files"));
            drop(used);
            assert!(files.of_link().is_ok());
        }
    }
}
