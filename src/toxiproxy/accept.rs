//! The listener of an enabled proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::http::over;
use crate::pipeline::random::rng::StageKey;
use crate::toxiproxy::class;
use crate::toxiproxy::connection::{Far, carry};
use crate::toxiproxy::fate::{Active, Talk};
use crate::toxiproxy::files::Files;
use crate::toxiproxy::link::Link;
use crate::toxiproxy::metrics::Counts;

/// After an error of the listener (for example, no more descriptors), it waits this long before the next connection.
const PAUSE: Duration = Duration::from_millis(50);

/// What a listener needs from its proxy.
#[derive(Debug, Clone)]
pub(super) struct Wiring {
    pub(super) key: StageKey,
    pub(super) link: Arc<Link>,
    pub(super) far: Arc<Far>,
    pub(super) toxics: watch::Receiver<Arc<Active>>,
    pub(super) counts: Arc<Counts>,
    /// Number of the next connection.
    pub(super) next: Arc<AtomicU64>,
    pub(super) upstream: String,
    pub(super) files: Files,
}

impl Wiring {
    fn talk(&self) -> Talk {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Talk {
            class: class::of_connection(self.key, number),
            key: self.key.part(number),
            toxics: self.toxics.clone(),
            counts: Arc::clone(&self.counts),
            start: Instant::now(),
            heard: Default::default(),
            bell: Notify::new(),
        }
    }
}

/// A running listener.
#[derive(Debug)]
pub(super) struct Accepting {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Accepting {
    pub(super) fn start(listener: TcpListener, wiring: Wiring) -> Self {
        let (end, ends) = watch::channel(false);
        Self { end, task: tokio::spawn(accept(listener, wiring, ends)) }
    }

    /// Closes the listener and all of its connections; returns when that is done.
    pub(super) async fn stop(self) {
        self.end.send_replace(true);
        // A panic has been printed.
        let _ = self.task.await;
    }
}

async fn accept(listener: TcpListener, wiring: Wiring, mut ends: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    // An accepted connection that waits for file descriptors; others wait in the backlog of the listener.
    let mut first = None;
    loop {
        let next = async {
            if first.is_none() {
                match listener.accept().await {
                    Ok((client, _)) => first = Some(client),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
            if first.is_some() { wiring.files.of_connection().await } else { None }
        };
        tokio::select! {
            biased;
            () = over(&mut ends) => break,
            Some(_) = connections.join_next() => {}
            files = next => if let Some((files, client)) = files.zip(first.take()) {
                let (wiring, talk) = (wiring.clone(), wiring.talk());
                connections.spawn(async move {
                    carry(client, &wiring.upstream, &wiring.link, &wiring.far, &talk).await;
                    drop(files);
                });
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}
