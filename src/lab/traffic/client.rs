//! Opens a TCP connection, from a chosen port if needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, setsockopt, socket,
    sockopt,
};

use crate::lab::clock::Deadline;
use crate::lab::traffic::wait::{Wake, writable};

/// Connects to `server` from `source_port`, or from any, within `timeout`.
///
/// # Errors
/// Those of `connect(2)`; `TimedOut`; the port is in use by a connection to the same server.
pub fn open(server: SocketAddr, source_port: Option<u16>, timeout: Duration) -> io::Result<TcpStream> {
    let Some(port) = source_port else { return TcpStream::connect_timeout(&server, timeout) };
    let deadline = Deadline::after(timeout);
    let (family, any) = match server {
        SocketAddr::V4(_) => (AddressFamily::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (AddressFamily::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = socket(family, SockType::Stream, flags, None)?;
    // An earlier connection of the same port may be closing still.
    setsockopt(&client, sockopt::ReuseAddr, &true)?;
    bind(client.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
    match connect(client.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            if writable(&client, None, Some(deadline))? == Wake::Late {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let error = getsockopt(&client, sockopt::SocketError)?;
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(client);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_connection_comes_from_the_port_that_was_asked_for() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            // A port that was free a moment ago.
            let port = TcpListener::bind(any).unwrap().local_addr().unwrap().port();
            let client = open(listener.local_addr().unwrap(), Some(port), Duration::from_secs(5)).unwrap();
            assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
            assert_eq!(client.local_addr().unwrap().port(), port);
        }
    }

    #[test]
    fn a_closed_port_refuses_whatever_port_is_asked_for() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = open(closed, Some(port), Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
