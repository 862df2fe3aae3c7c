//! ICMP and ICMPv6 echo by a raw socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendto, setsockopt,
    socket, sockopt,
};

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::wait::{Wake, readable};
use crate::lab::traffic::{facts, pattern, quantile, share};
use crate::lab::value::{Facts, Value};

/// A series of echo requests, one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// How many.
    pub count: u16,
    /// Bytes after the 8 of the ICMP header.
    pub size: u16,
    /// How long each waits for its answer.
    pub timeout: Duration,
    /// TTL or hop limit; `None`: the kernel's default.
    pub ttl: Option<u8>,
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinged {
    /// Echo requests sent.
    pub sent: u64,
    /// Round-trip time of each answer in nanoseconds.
    pub times: Vec<u64>,
    /// ICMP errors: destination unreachable, fragmentation needed included.
    pub unreachable: u64,
    /// ICMP errors: time exceeded.
    pub time_exceeded: u64,
    /// ICMPv6 errors: packet too big.
    pub too_big: u64,
    /// Calls that failed here.
    pub errors: u64,
    /// Who sent the last ICMP error.
    pub from: Option<IpAddr>,
}

/// What an incoming ICMP message is to us.
enum Heard {
    Reply,
    Unreachable,
    TimeExceeded,
    TooBig,
    NotOurs,
}

impl Ping {
    /// Sends them all to `to`.
    ///
    /// # Errors
    /// No raw socket: that needs `CAP_NET_RAW` over the namespace.
    pub fn run(&self, to: IpAddr) -> io::Result<Pinged> {
        let socket = open(to, self.ttl)?;
        let mut seen = Pinged::default();
        for number in 0..self.count {
            self.one(&socket, to, number, &mut seen)?;
        }
        seen.times.sort_unstable();
        Ok(seen)
    }

    fn one(&self, socket: &OwnedFd, to: IpAddr, number: u16, seen: &mut Pinged) -> io::Result<()> {
        let deadline = Deadline::after(self.timeout);
        let id = std::process::id() as u16;
        let start = clock::nanos();
        seen.sent += 1;
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        let request = request(to.is_ipv4(), id, number, self.size);
        if sendto(socket.as_raw_fd(), &request, &address, MsgFlags::empty()).is_err() {
            seen.errors += 1;
            return Ok(());
        }
        let mut buffer = vec![0; 65_536];
        while readable(socket, None, Some(deadline))? == Wake::Ready {
            let Ok((size, from)) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer) else {
                seen.errors += 1;
                return Ok(());
            };
            match classify(&buffer[..size], to.is_ipv4(), id, number) {
                Heard::NotOurs => continue,
                Heard::Reply => {
                    seen.times.push(clock::nanos() - start);
                    return Ok(());
                }
                Heard::Unreachable => seen.unreachable += 1,
                Heard::TimeExceeded => seen.time_exceeded += 1,
                Heard::TooBig => seen.too_big += 1,
            }
            seen.from = from.as_ref().and_then(address_of);
            return Ok(());
        }
        Ok(())
    }
}

fn open(to: IpAddr, ttl: Option<u8>) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    match (to, ttl) {
        (IpAddr::V4(_), Some(ttl)) => setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl))?,
        (IpAddr::V6(_), Some(ttl)) => setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl))?,
        (_, None) => {}
    }
    Ok(socket)
}

/// The address in what the kernel filled in.
pub(crate) fn address_of(from: &SockaddrStorage) -> Option<IpAddr> {
    from.as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// RFC 792 / RFC 4443 echo request. The kernel sums ICMPv6 itself, since the sum covers addresses.
pub(super) fn request(ipv4: bool, id: u16, number: u16, size: u16) -> Vec<u8> {
    let mut message = vec![if ipv4 { 8 } else { 128 }, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(number.to_be_bytes());
    message.extend(pattern::bytes(0, size.into()));
    if ipv4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// A raw IPv4 socket hands over the IP header as well, an IPv6 one does not.
fn classify(packet: &[u8], ipv4: bool, id: u16, number: u16) -> Heard {
    let Some(message) = (if ipv4 { payload_of_ipv4(packet) } else { Some(packet) }) else {
        return Heard::NotOurs;
    };
    let ours = |echo: &[u8]| {
        echo.get(4..6) == Some(&id.to_be_bytes()) && echo.get(6..8) == Some(&number.to_be_bytes())
    };
    let quoted =
        message.get(8..).and_then(|quote| if ipv4 { payload_of_ipv4(quote) } else { quote.get(40..) });
    let about_us = quoted.is_some_and(ours);
    match (ipv4, message.first().copied()) {
        (true, Some(0)) | (false, Some(129)) if ours(message) => Heard::Reply,
        (true, Some(3)) | (false, Some(1)) if about_us => Heard::Unreachable,
        (true, Some(11)) | (false, Some(3)) if about_us => Heard::TimeExceeded,
        (false, Some(2)) if about_us => Heard::TooBig,
        _ => Heard::NotOurs,
    }
}

fn payload_of_ipv4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 15) * 4..)
}

impl Pinged {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        let received = self.times.len() as u64;
        let millis = |permille| Value::Number(quantile(&self.times, permille) as f64 / 1e6);
        facts([
            ("sent", self.sent.into()),
            ("received", received.into()),
            ("lost", (self.sent - received).into()),
            ("lost_share", share(self.sent - received, self.sent)),
            ("unreachable", self.unreachable.into()),
            ("time_exceeded", self.time_exceeded.into()),
            ("too_big", self.too_big.into()),
            ("errors", self.errors.into()),
            ("error_from", self.from.map_or_else(String::new, |from| from.to_string()).into()),
            ("rtt_ms_min", millis(0)),
            ("rtt_ms_p50", millis(500)),
            ("rtt_ms_max", millis(1000)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_an_independent_implementation() {
        let request = request(true, 0x1234, 7, 33);
        let header = etherparse::Icmpv4Slice::from_slice(&request).unwrap();
        let right = etherparse::Icmpv4Header::with_checksum(header.icmp_type(), header.payload()).checksum;
        assert_eq!(header.checksum(), right);
        assert!(matches!(header.icmp_type(), etherparse::Icmpv4Type::EchoRequest(echo) if echo.seq == 7));
    }

    #[test]
    fn only_messages_about_our_own_request_count() {
        let mut error = vec![0x45; 20];
        error.extend([11, 0, 0, 0, 0, 0, 0, 0]);
        let mut quote = vec![0x45; 20];
        quote.extend(request(true, 9, 4, 0));
        error.extend(quote);
        assert!(matches!(classify(&error, true, 9, 4), Heard::TimeExceeded));
        assert!(matches!(classify(&error, true, 9, 5), Heard::NotOurs));
        assert!(matches!(classify(&[], true, 9, 5), Heard::NotOurs));
    }
}
