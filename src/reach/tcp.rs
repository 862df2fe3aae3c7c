//! Relays TCP connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use std::os::fd::AsRawFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::reach::Ways;

/// After an error of the listener (for example, no more descriptors), it waits this long before the next connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// A connection on which data of the command has not been passed on completely; counted until it is dropped.
struct Unsent(Arc<AtomicUsize>);

impl Unsent {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Accepts connections until the task is ended, as many at a time as `room` has permits.
pub(super) async fn accept(
    listener: TcpListener,
    ways: Arc<Ways>,
    unsent: Arc<AtomicUsize>,
    room: Arc<Semaphore>,
) {
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                let (ways, unsent) = (Arc::clone(&ways), Unsent::new(&unsent));
                tokio::spawn(async move {
                    // Both ends have been told about errors.
                    drop(carry(client, &ways, unsent).await);
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Relays a connection until its end. If it breaks, or cannot be opened, both ends are reset.
async fn carry(client: TcpStream, ways: &Ways, unsent: Unsent) -> io::Result<()> {
    // Until both directions have ended, closing a socket means that the connection is broken.
    reset_on_close(&client, true)?;
    // The address that the command wanted.
    let server = TcpStream::connect(ways.target(client.local_addr()?)).await?;
    reset_on_close(&server, true)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    let up = async {
        let done = pass(&client, &server).await;
        // The kernel has all data that the command sent, and continues to send it after the socket is closed.
        let done = done.and_then(|()| reset_on_close(&server, false));
        drop(unsent);
        done
    };
    tokio::try_join!(up, pass(&server, &client))?;
    reset_on_close(&client, false)
}

fn reset_on_close(socket: &TcpStream, does: bool) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Linger, &linger { l_onoff: i32::from(does), l_linger: 0 })?)
}

/// Passes on data in one direction, and then the end of the stream.
async fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        from.readable().await?;
        let length = match from.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if length == 0 {
            return Ok(shutdown(to.as_raw_fd(), Shutdown::Write)?);
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
