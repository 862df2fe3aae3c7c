//! Serves HTTP on a listener: connections, their limits, and the end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How long answers that are under way at the end may still take.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// What clients may ask for at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections that are served at a time; more wait in the listener's backlog.
    pub(crate) connections: usize,
    /// The headers of a request have to come within so long; an idle connection is closed after it.
    pub(crate) patience: Duration,
    /// Bytes of a request's headers.
    pub(crate) headers: usize,
}

/// Takes connections and serves each, until the end. Then answers that are under way have [`GRACE`].
pub(crate) async fn serve(
    mut listener: impl Listener,
    router: Router,
    limits: Limits,
    mut ends: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let end = ends.clone();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        tokio::select! {
            (place, stream) = next => {
                let (router, end) = (router.clone(), end.clone());
                connections.spawn(async move {
                    connection(stream, router, limits, end).await;
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
            () = over(&mut ends) => break,
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, all).await;
    connections.shutdown().await;
}

async fn connection<S>(stream: S, router: Router, limits: Limits, mut ends: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.patience).max_buf_size(limits.headers);
    let service = TowerToHyperService::new(router);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = over(&mut ends) => connection.as_mut().graceful_shutdown(),
    }
    // An error of the connection concerns its client alone.
    let _ = connection.await;
}

/// Waits for the end. If its sender is gone, the end has come, too.
pub(crate) async fn over(ends: &mut watch::Receiver<bool>) {
    let _ = ends.wait_for(|ends| *ends).await;
}
