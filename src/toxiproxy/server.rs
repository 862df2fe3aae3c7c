//! The thread that serves the API and carries the connections.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::toxiproxy::accept::over;
use crate::toxiproxy::api::{self, Desk};
use crate::toxiproxy::collection::Collection;

/// Connections to the API that are served at a time; more wait.
const CONNECTIONS: usize = 64;
/// The headers of a request have to come within so long; an idle connection is closed after it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long answers that are under way at the end may still take.
const GRACE: Duration = Duration::from_millis(500);
/// After an error of the listener the next connection is taken so much later.
const PAUSE: Duration = Duration::from_millis(50);
/// Threads that make and change links, and look names up, at a time.
const HELPERS: usize = 16;

/// Why nothing is served.
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

/// A server that runs. When it is dropped, all of its proxies are gone.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the API at `address`. All draws follow from `seed`. The proxies of `populate`, a body of `POST /populate`, are there
    /// from the start.
    ///
    /// # Errors
    /// If the address or the thread cannot be had, or a proxy of `populate` cannot be made.
    pub fn start(address: SocketAddr, seed: u64, populate: Option<&[u8]>) -> Result<Self, ServerError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|source| ServerError::Listen { address, source })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(HELPERS)
            .build()
            .map_err(ServerError::Start)?;
        let mut collection = Collection::new(seed);
        if let Some(body) = populate {
            let (_, error) = runtime.block_on(collection.populate(body));
            if let Some(error) = error {
                runtime.block_on(collection.stop());
                return Err(ServerError::Populate(error.to_string()));
            }
        }
        let (end, ends) = watch::channel(false);
        let serve = move || {
            runtime.block_on(serve(listener, collection, ends));
            runtime.shutdown_timeout(GRACE);
        };
        let thread =
            std::thread::Builder::new().name("toxiproxy".into()).spawn(serve).map_err(ServerError::Start)?;
        Ok(Self { address, end, thread: Some(thread) })
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

async fn serve(listener: TcpListener, collection: Collection, mut ends: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let desk = Desk::new(collection);
    let router = api::routes(Arc::clone(&desk));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let end = ends.clone();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = over(&mut ends) => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let (router, end) = (router.clone(), end.clone());
                    connections.spawn(async move {
                        connection(stream, router, end).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, all).await;
    connections.shutdown().await;
    desk.proxies.lock().await.stop().await;
}

async fn connection(stream: TcpStream, router: Router, mut ends: watch::Receiver<bool>) {
    // How a client left is its own affair.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = over(&mut ends) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
