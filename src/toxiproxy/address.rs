//! Addresses in Go's syntax.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Maximum number of names that are looked up at a time. A resolver that does not answer blocks one thread for each.
pub(super) const LOOKUPS: usize = 48;

static LOOKUPS_LEFT: Semaphore = Semaphore::const_new(LOOKUPS);

/// The address that a text means: `HOST:PORT`, `:PORT` for all addresses, or an empty text for any port.
pub(super) async fn resolve(text: &str) -> io::Result<SocketAddr> {
    if text.is_empty() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let missing =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("address {text}: missing port in address"));
    let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port: u16 = port
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("address {text}: invalid port")))?;
    if host.is_empty() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    let found = lookup(host, port).await?;
    let first = found.iter().find(|address| address.is_ipv4()).or_else(|| found.first());
    first
        .copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host")))
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // Never closed.
    let place = LOOKUPS_LEFT.acquire().await;
    let host = host.to_owned();
    // The thread keeps its permit until the resolver has answered, even if the request has been given up.
    let look = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(place);
        found
    };
    spawn_blocking(look).await.map_err(io::Error::other)?
}

/// Connects to `HOST:PORT`, to the first of its addresses that accepts.
pub(super) async fn connect(text: &str) -> io::Result<TcpStream> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return TcpStream::connect(address).await;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    TcpStream::connect(&lookup(host, port).await?[..]).await
}

/// Listens on an address. "All addresses" means both families, if the host has IPv6.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = match address.ip() {
        ip if ip.is_unspecified() => {
            let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
            match TcpListener::bind(both) {
                Err(error) if has_no_ipv6(&error) => {
                    TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), address.port()))
                }
                bound => bound,
            }
        }
        _ => TcpListener::bind(address),
    };
    // In Go's words, because clients show the text to users.
    let listener = listener.map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        io::Error::new(error.kind(), format!("listen tcp {address}: bind: {reason}"))
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let none = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}
