//! A connection through a proxy: from the client over the link to the upstream.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::toxiproxy::address::connect;
use crate::toxiproxy::fate::Talk;
use crate::toxiproxy::link::{self, Link, LinkError};
use crate::toxiproxy::relay::{close, relay};
use crate::toxiproxy::reset::reset;
use crate::toxiproxy::toxic::Direction;

/// How long the peers of a connection that is closed may take to close it themselves.
const GRACE: Duration = Duration::from_secs(1);
/// After a connection that cannot be accepted, the listener waits this long.
const PAUSE: Duration = Duration::from_millis(50);
/// After this many seconds of silence, keepalives are sent on a connection of the link, because a RST may be lost.
const KEEP_IDLE: u32 = 30;
/// Seconds between keepalives.
const KEEP_INTERVAL: u32 = 10;

/// The far end of a link, where accepted connections wait for the tasks that opened them.
#[derive(Debug, Default)]
pub(super) struct Far {
    /// The waiting tasks, by the address of the near end.
    wanted: Mutex<HashMap<SocketAddr, oneshot::Sender<TcpStream>>>,
}

impl Far {
    /// Accepts connections, and gives each to the task that waits for it, until it is ended.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                // For example, too many files are open: there may be room again soon.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if let Some(wanted) = self.wanted().remove(&peer) {
                let _ = wanted.send(stream);
            }
        }
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, oneshot::Sender<TcpStream>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection over the link; returns both of its ends.
    async fn open(&self, link: &Arc<Link>, class: u16) -> Result<[End; 2], LinkError> {
        let to = Arc::clone(link);
        let (socket, far) =
            spawn_blocking(move || to.socket(class)).await.map_err(|_| LinkError::Ended)??;
        let near = socket.local_addr()?;
        let (wanted, comes) = oneshot::channel();
        self.wanted().insert(near, wanted);
        let _claim = Claim { far: self, near };
        let near_end = TcpSocket::from_std_stream(socket).connect(far).await?;
        let far_end = comes.await.map_err(|_| LinkError::Ended)?;
        Ok([End::new(near_end)?, End::new(far_end)?])
    }
}

/// Waits for the connection from `near`, until it has come or is given up.
struct Claim<'f> {
    far: &'f Far,
    near: SocketAddr,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.far.wanted().remove(&self.near);
    }
}

/// An end of a connection on the link. When it is dropped, unsent data is discarded, so that nothing is left behind.
#[derive(Debug)]
struct End(TcpStream);

impl End {
    fn new(socket: TcpStream) -> std::io::Result<Self> {
        socket.set_nodelay(true)?;
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        setsockopt(&socket, sockopt::TcpKeepIdle, &KEEP_IDLE)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &KEEP_INTERVAL)?;
        link::mark(&socket)?;
        Ok(Self(socket))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // An end that is no longer connected is closed as it is.
        let _ = reset(&self.0);
    }
}

/// Relays a connection until its end. If the upstream cannot be reached, the connection is closed.
pub(super) async fn carry(client: TcpStream, upstream: &str, link: &Arc<Link>, far: &Far, talk: &Talk) {
    let Ok(upstream) = connect(upstream).await else { return };
    if client.set_nodelay(true).and_then(|()| upstream.set_nodelay(true)).is_err() {
        return;
    }
    let Ok([near, far]) = far.open(link, talk.class).await else { return };
    let both = async {
        tokio::try_join!(
            relay(&client, &near.0, Direction::Upstream, talk),
            relay(&upstream, &far.0, Direction::Downstream, talk)
        )
    };
    tokio::select! {
        ended = both => if ended.is_err() {
            drop((near, far));
            tokio::join!(close(&client, GRACE), close(&upstream, GRACE));
        },
        () = talk.fate() => {
            // The ends on the link are reset when they are dropped.
            let _ = (reset(&client), reset(&upstream));
        }
    }
}
