//! Serves HTTP on a listener: connections, their limits, and the end.

use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

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
    /// A connection whose client takes nothing of an answer for so long is closed: others may wait for its place.
    pub(crate) stalled: Duration,
}

/// Among the extensions of a request: its answer may wait for its client for ever.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endless(Arc<AtomicBool>);

impl Endless {
    /// From now on.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that fails if its client takes nothing for too long.
struct Bounded<S> {
    stream: S,
    most: Duration,
    endless: Endless,
    /// Since it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Bounded<S> {
    fn bound<T>(&mut self, cx: &mut Context<'_>, result: Poll<Result<T>>) -> Poll<Result<T>> {
        if result.is_ready() || self.endless.0.load(Ordering::Relaxed) {
            self.stalled = None;
            return result;
        }
        let most = self.most;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(most)));
        stalled.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bound(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
    let (router, endless) = (TowerToHyperService::new(router), Endless::default());
    let stream = Bounded { stream, most: limits.stalled, endless: endless.clone(), stalled: None };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(endless.clone());
        router.call(request)
    });
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use axum::Extension;
    use axum::routing::get;
    use tokio::net::UnixStream;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;

    const STALLED: Duration = Duration::from_millis(50);
    /// More than a socket keeps.
    const LONG: usize = 8 << 20;
    const LIMITS: Limits =
        Limits { connections: 1, patience: Duration::from_mins(1), headers: 8192, stalled: STALLED };

    fn long() -> String {
        "x".repeat(LONG)
    }

    /// Asks for `resource` and reads nothing, until the connection has ended if it `ends`, or else for three times the limit; the
    /// length of what comes then.
    async fn slow(resource: &str, ends: bool) -> usize {
        let endless = |Extension(endless): Extension<Endless>| async move {
            endless.set();
            long()
        };
        let router = Router::new().route("/long", get(async || long())).route("/endless", get(endless));
        let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let server = UnixStream::from_std(server).unwrap();
        let (_end, over) = watch::channel(false);
        let mut task = tokio::spawn(connection(server, router, LIMITS, over));
        let request = format!("GET {resource} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        if ends {
            timeout(Duration::from_mins(1), &mut task).await.expect("it never ended").unwrap();
        } else {
            sleep(3 * STALLED).await;
        }
        let read = move || {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            answer.len()
        };
        spawn_blocking(read).await.unwrap()
    }

    #[test]
    fn who_takes_nothing_is_closed_but_for_an_endless_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            assert!(slow("/long", true).await < LONG);
            assert!(slow("/endless", false).await > LONG);
        });
    }
}
