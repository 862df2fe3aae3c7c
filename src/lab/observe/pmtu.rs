//! The path MTU that a kernel has learnt towards a destination.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt};

use crate::lab::traffic::sockopt::Ipv6Mtu;

/// Bytes of the largest packet that the calling thread's namespace would send to `destination` now: the MTU of the
/// device, or less where an ICMP error taught it so.
///
/// # Errors
/// No route to `destination`, or no IPv6.
pub fn path_mtu(destination: IpAddr) -> io::Result<u64> {
    // The kernel looks the route up, learnt exceptions included, when a UDP socket connects; nothing is sent.
    let any = if destination.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(destination, 9))?;
    let mtu = if destination.is_ipv4() {
        getsockopt(&socket, sockopt::IpMtu)?
    } else {
        getsockopt(&socket, Ipv6Mtu)?
    };
    Ok(u64::from(mtu.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_to_oneself_is_as_wide_as_an_ipv4_packet_can_be() {
        // Loopback has an MTU of 65,536, one more than the length field can hold.
        assert_eq!(path_mtu(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap(), 65_535);
    }
}
