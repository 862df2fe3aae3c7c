//! Sockets with foreign addresses, in a namespace where every address is local.

#![expect(unsafe_code, reason = "nix has no IPV6_TRANSPARENT")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};

/// The listeners that accept all connections and datagrams of IPv4 and of IPv6.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) tcp: [TcpListener; 2],
    pub(super) udp: [UdpSocket; 2],
}

/// The listeners, and the port that all of them have. Their namespace has no other sockets, so the port is free.
pub(super) fn listeners() -> io::Result<(Listeners, u16)> {
    let any = |port| {
        [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .map(|ip| SocketAddr::new(ip, port))
    };
    let first = tcp_listener(any(0)[0])?;
    let port = first.local_addr()?.port();
    let [v4, v6] = any(port);
    let listeners =
        Listeners { tcp: [first, tcp_listener(v6)?], udp: [udp_listener(v4)?, udp_listener(v6)?] };
    Ok((listeners, port))
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = transparent(address, SockType::Stream)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

fn udp_listener(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = transparent(address, SockType::Datagram)?;
    // The destination of a datagram.
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?,
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

/// The near socket of a flow of datagrams: it is bound to `own`, and only receives from `peer`.
pub(super) fn udp_between(own: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = transparent(own, SockType::Datagram)?;
    // Several peers may have a flow to the same address.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(own))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(peer))?;
    Ok(socket.into())
}

/// A socket of this family that may be bound to any address.
pub(super) fn transparent(like: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let socket = socket(family(like.ip()), kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    match like {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::IpTransparent, &true)?,
        SocketAddr::V6(_) => {
            set(&socket, libc::IPV6_V6ONLY)?;
            may_have_any_address(&socket)?;
        }
    }
    Ok(socket)
}

pub(super) const fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Lets an IPv6 socket send from addresses that no device has.
pub(super) fn may_have_any_address(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::IPV6_TRANSPARENT)
}

/// Switches an option of IPv6 on.
fn set(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel reads one int from the pointer.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, option, (&raw const on).cast(), length)
    };
    Ok(Errno::result(result).map(drop)?)
}
