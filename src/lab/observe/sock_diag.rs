//! TCP sockets by `NETLINK_SOCK_DIAG` (`sock_diag(7)`), as `ss` reads them, with the limit of each accept queue.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::lab::observe::sockets::{TcpSocket, state_name};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Bytes of `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// The TCP sockets of the calling thread's namespace, IPv4 and IPv6.
///
/// # Errors
/// The kernel has no `sock_diag` for TCP, or refuses it.
pub(super) fn tcp_sockets() -> io::Result<Vec<TcpSocket>> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(&netlink, family as u8, &mut all)?;
    }
    Ok(all)
}

fn dump(netlink: &OwnedFd, family: u8, all: &mut Vec<TcpSocket>) -> io::Result<()> {
    sendto(netlink.as_raw_fd(), &request(family), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 32_768];
    loop {
        let size = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..size];
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(error_of(body)),
                _ => all.extend(parse(body)),
            }
        }
    }
}

/// Every socket of the family, in whatever state.
fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn error_of(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions; ports, addresses; expiry, queues.
fn parse(body: &[u8]) -> Option<TcpSocket> {
    let body = body.get(..ANSWER)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let word = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let address = |at: usize| {
        if i32::from(body[0]) == libc::AF_INET {
            let octets = body[at..].first_chunk::<4>().copied().unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from(octets))
        } else {
            let octets = body[at..].first_chunk::<16>().copied().unwrap_or_default();
            Ipv6Addr::from(octets).to_canonical()
        }
    };
    let state = state_name(body[1].into())?;
    let (receive_queue, send_queue) = (word(56), word(60));
    let listens = state == "LISTEN";
    Some(TcpSocket {
        local: SocketAddr::new(address(8), port(4)),
        remote: SocketAddr::new(address(24), port(6)),
        state,
        send_queue: if listens { 0 } else { send_queue },
        receive_queue,
        accept_limit: listens.then_some(send_queue),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_listener_shows_who_waits_and_how_many_may() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            listen(&listener, Backlog::new(7).unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let _clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
            let sockets = tcp_sockets().unwrap();
            let seen =
                sockets.iter().find(|socket| socket.local == address && socket.state == "LISTEN").unwrap();
            assert_eq!((seen.receive_queue, seen.accept_limit), (2, Some(7)));
            let ends =
                sockets.iter().filter(|socket| socket.state == "ESTABLISHED" && socket.remote == address);
            assert_eq!(ends.count(), 2);
        }
    }

    #[test]
    fn a_truncated_message_is_no_message() {
        assert_eq!(message(&[20, 0, 0, 0, 1, 0]), None);
        assert_eq!(message(&[0; 15]), None);
        assert_eq!(parse(&[2; ANSWER - 1]), None);
    }
}
