//! The thread that serves the API and carries the connections.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::serve::ListenerExt;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http::{self, GRACE, Limits, over};
use crate::toxiproxy::address::LOOKUPS;
use crate::toxiproxy::api::{self, Desk};
use crate::toxiproxy::collection::Collection;
use crate::toxiproxy::files::Files;

/// The limits of the API.
const LIMITS: Limits = Limits {
    connections: 64,
    patience: Duration::from_mins(1),
    headers: 64 << 10,
    stalled: Duration::from_mins(1),
};
/// Maximum number of helper threads, which create and change links and look up names: some are left even if the
/// maximum number of names is being looked up.
const HELPERS: usize = LOOKUPS + 16;

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address of the API.
    #[error("cannot serve Toxiproxy's API at {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The thread.
    #[error("cannot start the server: {0}")]
    Start(std::io::Error),
    /// The proxies that were given at the start.
    #[error("{0}")]
    Populate(String),
}

/// A running server. When it is dropped, all of its proxies are removed.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A server that is creating its initial proxies. When it is dropped, they are removed.
#[derive(Debug)]
pub struct Starting {
    server: Server,
    /// Readable when the proxies have been created.
    done: OwnedFd,
    result: Receiver<Result<(), String>>,
}

impl Starting {
    /// Waits until the initial proxies have been created.
    ///
    /// # Errors
    /// If one of them cannot be created.
    pub fn wait(self) -> Result<Server, ServerError> {
        match self.result.recv() {
            Ok(made) => made.map(|()| self.server).map_err(ServerError::Populate),
            // A panic has been printed.
            Err(_) => Err(ServerError::Start(std::io::Error::other("the server's thread has ended"))),
        }
    }
}

impl AsFd for Starting {
    /// Readable when [`Self::wait`] does not block any more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

impl Server {
    /// Serves the API at `address`. All draws depend on `seed`. First the proxies of `populate`, a body of `POST
    /// /populate`, are created.
    ///
    /// # Errors
    /// If the address is not available or the thread cannot be started.
    pub fn start(address: SocketAddr, seed: u64, populate: Option<Vec<u8>>) -> Result<Starting, ServerError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|source| ServerError::Listen { address, source })?;
        let files = Files::of_process().map_err(ServerError::Start)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(HELPERS)
            .build()
            .map_err(ServerError::Start)?;
        let collection = Arc::new(Collection::new(seed, files));
        let (end, ends) = watch::channel(false);
        let (done, still) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| ServerError::Start(errno.into()))?;
        let (told, result) = mpsc::channel();
        let run = move || {
            let made = runtime.block_on(make(&collection, populate, ends.clone()));
            // The starter may be gone.
            let _ = told.send(made.clone());
            drop((told, still));
            if made.is_ok() {
                runtime.block_on(serve(listener, &collection, ends));
            }
            end_all(runtime, &collection);
        };
        let thread =
            std::thread::Builder::new().name("toxiproxy".into()).spawn(run).map_err(ServerError::Start)?;
        Ok(Starting { server: Self { address, end, thread: Some(thread) }, done, result })
    }

    /// Where the API is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

/// Creates the initial proxies, unless the server ends first; returns why one of them cannot be created.
async fn make(
    collection: &Collection,
    populate: Option<Vec<u8>>,
    mut ends: watch::Receiver<bool>,
) -> Result<(), String> {
    let Some(body) = populate else { return Ok(()) };
    tokio::select! {
        (_, error) = collection.populate(&body) => error.map_or(Ok(()), |error| Err(error.to_string())),
        () = over(&mut ends) => Ok(()),
    }
}

async fn serve(listener: TcpListener, collection: &Arc<Collection>, ends: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let listener = listener.tap_io(|stream| {
        // Of a socket that is open.
        let _ = stream.set_nodelay(true);
    });
    http::serve(listener, api::routes(Desk::new(Arc::clone(collection))), LIMITS, ends).await;
}

fn end_all(runtime: Runtime, collection: &Collection) {
    // A change that still waits for a name or a link keeps its proxy, which is dropped with the task.
    let _ = runtime.block_on(async { timeout(GRACE, collection.stop()).await });
    runtime.shutdown_timeout(GRACE);
}
