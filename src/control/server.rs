//! The thread that serves: connections, their limits, and shutdown.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::middleware;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::control::ControlError;
use crate::control::desk::Desk;
use crate::control::instance::Instance;
use crate::control::routes;
use crate::control::socket::{Choice, Socket, beside};
use crate::control::token::{self, TokenFile};
use crate::http::{GRACE, Limits, serve as serve_http};

/// The limits of each listener.
const LIMITS: Limits = Limits {
    connections: 64,
    patience: Duration::from_secs(10),
    headers: 16 << 10,
    stalled: Duration::from_secs(30),
};
/// How long an idle helper thread, which waited for workers or devices, is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// If a TCP client accepts no data for this long, in milliseconds, its connection is closed.
const STALLED: u32 = 30_000;

/// The interface over TCP.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The file with the token that requests must send. If it does not exist, it is created. `None`: a file beside
    /// the control socket, for this run only.
    pub token: Option<&'a Path>,
}

/// Listening sockets that are not served yet.
#[derive(Debug)]
pub struct Door {
    socket: Option<Socket>,
    metrics: Option<TcpListener>,
    remote: Option<(TcpListener, TokenFile)>,
}

impl Door {
    /// Opens what is requested: the control socket, an address for metrics, and one for the whole interface.
    ///
    /// # Errors
    /// If one of them cannot be opened; then none is open.
    pub fn open(
        control: &Choice,
        metrics: Option<SocketAddr>,
        remote: Option<Remote<'_>>,
    ) -> Result<Self, ControlError> {
        let metrics = metrics
            .map(|address| listen(address).map_err(|source| ControlError::Metrics { address, source }));
        let (metrics, socket) = (metrics.transpose()?, Socket::open(control)?);
        let remote = remote.map(|remote| {
            let address = remote.address;
            let listener = listen(address).map_err(|source| ControlError::Listen { address, source })?;
            let token = match (remote.token, &socket) {
                (Some(path), _) => TokenFile::open(path)?,
                (None, Some(socket)) => TokenFile::temporary(&beside(&socket.path))?,
                (None, None) => return Err(ControlError::NoToken),
            };
            Ok((listener, token))
        });
        Ok(Self { metrics, remote: remote.transpose()?, socket })
    }

    /// The address of the interface over TCP, and the file with its token.
    pub fn remote(&self) -> Option<(SocketAddr, &Path)> {
        let (listener, token) = self.remote.as_ref()?;
        Some((listener.local_addr().ok()?, &token.path))
    }

    /// The path of the socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(|socket| socket.path.as_path())
    }

    /// The address of the metrics.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves `instance` from now on; `None` if nothing is open.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn serve(self, instance: Instance) -> Result<Option<Control>, ControlError> {
        if self.socket.is_none() && self.metrics.is_none() && self.remote.is_none() {
            return Ok(None);
        }
        let (end, ends) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .thread_keep_alive(KEEP_ALIVE)
            .build()
            .map_err(ControlError::Start)?;
        let serve = move || {
            runtime.block_on(serve(self, instance, ends));
            runtime.shutdown_timeout(GRACE);
        };
        let thread =
            std::thread::Builder::new().name("control".into()).spawn(serve).map_err(ControlError::Start)?;
        Ok(Some(Control { end, thread: Some(thread) }))
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    setsockopt(&listener, TcpUserTimeout, &STALLED)?;
    Ok(listener)
}

/// A run that is served. When this is dropped, serving ends and the socket is removed.
#[derive(Debug)]
pub struct Control {
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; it does not affect the packets.
            let _ = thread.join();
        }
    }
}

async fn serve(door: Door, instance: Instance, ends: watch::Receiver<bool>) {
    let desk = Desk::new(instance, ends.clone());
    let mut listeners = JoinSet::new();
    let Door { socket, metrics, remote } = door;
    if let Some(socket) = socket {
        let (router, ends) = (routes::all(Arc::clone(&desk)), ends.clone());
        listeners.spawn(async move {
            let listener = socket.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
            let Ok(listener) = listener else { return };
            serve_http(listener, router, LIMITS, ends).await;
            // Removed here, when no client is served any more.
            drop(socket);
        });
    }
    if let Some((listener, file)) = remote {
        let guard = middleware::from_fn_with_state(file.token.clone(), token::guard);
        let (router, ends) = (routes::all(Arc::clone(&desk)).layer(guard), ends.clone());
        listeners.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            serve_http(listener, router, LIMITS, ends).await;
            drop(file);
        });
    }
    if let Some(metrics) = metrics {
        let router = routes::metrics_alone(desk);
        listeners.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(metrics) else { return };
            serve_http(listener, router, LIMITS, ends).await;
        });
    }
    while listeners.join_next().await.is_some() {}
}
