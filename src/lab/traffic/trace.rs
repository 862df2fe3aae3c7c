//! The hops to a destination: UDP with a small TTL, and the ICMP errors that the kernel queues for the socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

use crate::lab::clock::Deadline;
use crate::lab::traffic::facts;
use crate::lab::traffic::wait::{Wake, readable};
use crate::lab::value::Facts;

/// A trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Largest TTL or hop limit tried.
    pub hops: u8,
    /// Destination port of the first probe; one more for each next. No service should listen there.
    pub port: u16,
    /// How long each probe waits for an answer.
    pub timeout: Duration,
}

/// The answer to one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// TTL or hop limit of the probe.
    pub ttl: u8,
    /// Who sent an error, its ICMP type and code; `None`: silence.
    pub answer: Option<(IpAddr, u8, u8)>,
}

impl Trace {
    /// Sends one probe per TTL, until the destination answers.
    ///
    /// # Errors
    /// No socket, or no route.
    pub fn run(&self, to: IpAddr) -> io::Result<Vec<Hop>> {
        let mut hops = Vec::new();
        for ttl in 1..=self.hops {
            let answer = self.probe(SocketAddr::new(to, self.port.wrapping_add(ttl.into())), ttl)?;
            hops.push(Hop { ttl, answer });
            if answer.is_some_and(|(from, ..)| from == to) {
                break;
            }
        }
        Ok(hops)
    }

    fn probe(&self, to: SocketAddr, ttl: u8) -> io::Result<Option<(IpAddr, u8, u8)>> {
        let any =
            if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl))?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl))?;
        }
        socket.send_to(&[0; 32], to)?;
        // The error queue raises POLLERR, which poll reports unasked.
        match readable(&socket, None, Some(Deadline::after(self.timeout)))? {
            Wake::Ready => queued_error(&socket),
            Wake::Stopped | Wake::Late => Ok(None),
        }
    }
}

/// The error that waits for `socket`, if it is an ICMP error.
fn queued_error(socket: &UdpSocket) -> io::Result<Option<(IpAddr, u8, u8)>> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut data = [0; 512];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    Ok(message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
            let address = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
            Some((IpAddr::V4(address), error.ee_type, error.ee_code))
        }
        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
            let address = Ipv6Addr::from(from.sin6_addr.s6_addr);
            Some((IpAddr::V6(address), error.ee_type, error.ee_code))
        }
        _ => None,
    }))
}

/// Under the names of case files: `hop1` is who answered the first probe, `type1` and `code1` what it said.
pub fn summary(hops: &[Hop], to: IpAddr) -> Facts {
    let reached = hops.iter().any(|hop| hop.answer.is_some_and(|(from, ..)| from == to));
    let mut all = facts([("hops", (hops.len() as u64).into()), ("reached", reached.into())]);
    for hop in hops {
        let who = hop.answer.map_or_else(|| "silent".to_owned(), |(from, ..)| from.to_string());
        all.push((format!("hop{}", hop.ttl), who.into()));
        if let Some((_, kind, code)) = hop.answer {
            all.push((format!("type{}", hop.ttl), u64::from(kind).into()));
            all.push((format!("code{}", hop.ttl), u64::from(code).into()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_one_hop_that_says_port_unreachable() {
        let trace = Trace { hops: 4, port: 33_434, timeout: Duration::from_secs(2) };
        for (to, kind, code) in [("127.0.0.1", 3, 3), ("::1", 1, 4)] {
            let to: IpAddr = to.parse().unwrap();
            assert_eq!(trace.run(to).unwrap(), [Hop { ttl: 1, answer: Some((to, kind, code)) }]);
        }
    }
}
