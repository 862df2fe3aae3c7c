//! A relay between two sockets, in both directions.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::toxiproxy::fate::Talk;
use crate::toxiproxy::reset::reset;
use crate::toxiproxy::toxic::{Attributes, Direction};

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// The limit of a stream is reached: the connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut;

/// Why a direction of a relay ends before the end of its stream.
enum Ending {
    Cut,
    Broken,
}

impl From<io::Error> for Ending {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// Relays data from `outer` (the client or the upstream) to `inner` (an end of the link), in the direction `inward`,
/// and back, until both directions have ended. If one socket breaks, the other is reset.
pub(super) async fn relay(
    outer: &TcpStream,
    inner: &TcpStream,
    inward: Direction,
    talk: &Talk,
) -> Result<(), Cut> {
    let outward = match inward {
        Direction::Upstream => Direction::Downstream,
        Direction::Downstream => Direction::Upstream,
    };
    match tokio::try_join!(enter(outer, inner, inward, talk), leave(inner, outer, outward, talk)) {
        Ok(_) => Ok(()),
        Err(Ending::Cut) => Err(Cut),
        Err(Ending::Broken) => {
            // A socket that is no longer connected need not be reset.
            let _ = (reset(outer), reset(inner));
            Ok(())
        }
    }
}

/// Relays into the link: in pieces, if a toxic asks for it.
async fn enter(from: &TcpStream, to: &TcpStream, direction: Direction, talk: &Talk) -> Result<(), Ending> {
    let mut buffer = vec![0; CHUNK];
    let mut pieces = Pieces::default();
    loop {
        let length = read(from, &mut buffer).await?;
        talk.hear(direction);
        if length == 0 {
            return Ok(finish(to)?);
        }
        talk.counts.received(direction).fetch_add(length as u64, Ordering::Relaxed);
        pieces.send(to, &buffer[..length], direction, talk).await?;
    }
}

/// Relays out of the link: as many bytes as the toxics allow.
async fn leave(from: &TcpStream, to: &TcpStream, direction: Direction, talk: &Talk) -> Result<(), Ending> {
    let mut buffer = vec![0; CHUNK];
    // Bytes that have passed since each limit became active.
    let mut passed: Vec<(u64, u64)> = Vec::new();
    loop {
        let length = read(from, &mut buffer).await?;
        if length == 0 {
            return Ok(finish(to)?);
        }
        let (allowed, limit) = allowed(&mut passed, length, direction, talk);
        write(to, &buffer[..allowed], MsgFlags::empty()).await?;
        talk.counts.sent(direction).fetch_add(allowed as u64, Ordering::Relaxed);
        if limit.is_break() {
            return Err(Ending::Cut);
        }
    }
}

/// How many of `length` bytes may pass, and whether they are the last.
fn allowed(
    passed: &mut Vec<(u64, u64)>,
    length: usize,
    direction: Direction,
    talk: &Talk,
) -> (usize, ControlFlow<()>) {
    let limits: Vec<(u64, u64)> = talk.with(direction, |toxic| match toxic.attributes {
        Attributes::LimitData { bytes } => Some((toxic.id, u64::try_from(bytes).unwrap_or(0))),
        _ => None,
    });
    // If a limit is removed and added again, it counts from the start.
    passed.retain(|(id, _)| limits.iter().any(|(limit, _)| limit == id));
    let mut least = (length, ControlFlow::Continue(()));
    for &(id, most) in &limits {
        let before = passed.iter().find(|(limit, _)| *limit == id).map_or(0, |(_, bytes)| *bytes);
        let left = usize::try_from(most.saturating_sub(before)).unwrap_or(usize::MAX);
        if left <= least.0 {
            least = (left, ControlFlow::Break(()));
        }
    }
    for (id, _) in limits {
        match passed.iter_mut().find(|(limit, _)| *limit == id) {
            Some((_, bytes)) => *bytes += least.0 as u64,
            None => passed.push((id, least.0 as u64)),
        }
    }
    least
}

/// Cuts a stream into pieces, each of which is a segment of its own.
#[derive(Debug, Default)]
struct Pieces {
    /// Number of pieces so far: the size of each is drawn by its number.
    count: u64,
    /// When the last piece was sent.
    last: Option<Instant>,
}

impl Pieces {
    async fn send(
        &mut self,
        to: &TcpStream,
        bytes: &[u8],
        direction: Direction,
        talk: &Talk,
    ) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((average, variation)) = self.pause(direction, talk).await else {
                return write(to, rest, MsgFlags::empty()).await;
            };
            let size = talk.size(direction, self.count, average, variation).min(rest.len());
            self.count += 1;
            // End of a record: the kernel appends no later data to this segment.
            write(to, &rest[..size], MsgFlags::MSG_EOR).await?;
            rest = &rest[size..];
            self.last = Some(Instant::now());
        }
        Ok(())
    }

    /// Waits until the next piece may be sent. Returns the average size and the variation of the slicer that is
    /// active then, if there is one. If the slicer is removed, the pause ends.
    async fn pause(&self, direction: Direction, talk: &Talk) -> Option<(i64, i64)> {
        let mut toxics = talk.toxics.clone();
        loop {
            toxics.mark_unchanged();
            let slicer = talk.with(direction, |toxic| match toxic.attributes {
                Attributes::Slicer { average_size, size_variation, delay } if average_size > 0 => {
                    Some((average_size, size_variation, delay))
                }
                _ => None,
            });
            let &(average, variation, delay) = slicer.first()?;
            // Instants are limited; no connection waits for so long.
            let delay = Duration::from_micros(u64::try_from(delay).unwrap_or(0).min(1 << 50));
            let Some(next) = self.last.map(|last| last + delay).filter(|next| *next > Instant::now()) else {
                return Some((average, variation));
            };
            tokio::select! {
                () = sleep_until(next) => {}
                changed = toxics.changed() => if changed.is_err() { return None },
            }
        }
    }
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8], flags: MsgFlags) -> io::Result<()> {
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_io(Interest::WRITABLE, || Ok(send(to.as_raw_fd(), bytes, flags)?)) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends the end of the stream.
pub(super) fn finish(to: &TcpStream) -> io::Result<()> {
    Ok(shutdown(to.as_raw_fd(), Shutdown::Write)?)
}

/// Sends the end of the stream, and discards incoming data for at most `time`. Closing a socket with unread data
/// would reset the connection, and the peer might lose the last bytes.
pub(super) async fn close(socket: &TcpStream, time: Duration) {
    let mut buffer = vec![0; 4096];
    let drain = async {
        while finish(socket).is_ok() && read(socket, &mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(time, drain).await;
}
