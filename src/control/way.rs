//! The connection to a running instance: its Unix socket, or its address and token.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::control::token::Token;

/// How an instance is reached.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Socket(PathBuf),
    Address { address: String, token: Token },
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Socket(one), Self::Socket(other)) => one == other,
            (Self::Address { address: one, .. }, Self::Address { address: other, .. }) => one == other,
            _ => false,
        }
    }
}

impl Eq for Way {}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address { address, .. } => f.write_str(address),
        }
    }
}

impl Way {
    /// Connects. Reads wait no longer than `patience`.
    pub(super) fn connect(&self, patience: Duration) -> io::Result<Stream> {
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                Ok(Stream::Unix(stream))
            }
            Self::Address { address, .. } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in address.to_socket_addrs()?.collect::<Vec<SocketAddr>>() {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => {
                            stream.set_read_timeout(Some(patience))?;
                            stream.set_write_timeout(Some(patience))?;
                            stream.set_nodelay(true)?;
                            notice_silence(&stream)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// The headers that a request needs for this kind of connection.
    pub(super) fn headers(&self) -> Vec<String> {
        match self {
            Self::Socket(_) => vec!["Host: faultwire".to_owned()],
            Self::Address { address, token } => {
                vec![format!("Host: {address}"), format!("Authorization: Bearer {}", token.text())]
            }
        }
    }
}

/// Enables TCP keepalives, to notice a host that was switched off.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    /// Seconds of silence before the first keepalive, and between keepalives.
    const IDLE: u32 = 15;
    const INTERVAL: u32 = 5;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &INTERVAL)?;
    Ok(())
}

/// A connection to an instance.
#[derive(Debug)]
pub enum Stream {
    /// Over its socket.
    Unix(UnixStream),
    /// Over its address.
    Tcp(TcpStream),
}

impl Stream {
    /// Reads wait without a limit.
    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(None),
            Self::Tcp(stream) => stream.set_read_timeout(None),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}
