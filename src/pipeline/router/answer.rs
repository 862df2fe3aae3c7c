//! Messages of the router itself: ICMP errors, within a rate limit, and echo replies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pipeline::conn;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::IcmpParams;
use crate::pipeline::pool::Pool;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::Version;
use crate::pipeline::wire::bare::{self, Bare};
use crate::pipeline::wire::icmp::{self, IcmpError, MAX_ERROR_V6};
use crate::pipeline::wire::tcp::flag;

/// Tells the router's own packets from copies of the one they answer.
const ANSWER_SALT: u64 = 2 << 32;
/// TTL or hop limit of the RSTs that the router sends.
const HOPS: u8 = 64;
/// Source of ICMP errors of a router without an IPv4 address: the dummy address of RFC 7600.
const DUMMY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Source of ICMPv6 errors of a router without an IPv6 address: an address of the dummy prefix of RFC 9780.
const DUMMY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 1);

/// Builds the router's own messages.
#[derive(Debug)]
pub(in crate::pipeline) struct Answers {
    params: IcmpParams,
    /// Token bucket as a virtual clock (GCRA): the time at which it is full again.
    full_at: Instant,
}

impl Answers {
    pub(in crate::pipeline) const fn new(params: IcmpParams) -> Self {
        Self { params, full_at: Instant::ZERO }
    }

    /// The error to send back about `packet`, whose checksum is complete. `None` if the error is switched off, above
    /// the rate, or not allowed for such a packet. `own` are the router's addresses on the port by which the packet
    /// came in.
    pub(in crate::pipeline) fn error(
        &mut self,
        packet: &Packet,
        error: IcmpError,
        own: &[IpAddr],
        pool: &mut Pool,
        now: Instant,
    ) -> Option<Packet> {
        let wanted = match error {
            IcmpError::TimeExceeded => self.params.time_exceeded,
            IcmpError::PacketTooBig { .. } => self.params.packet_too_big,
            _ => self.params.unreachable,
        };
        let forbidden = icmp::must_not_answer(packet.bytes(), packet.layout, error);
        // On a wire the address is the packet's destination, and nobody accepts an error from a group (RFC 4443, 2.2).
        let fits = |address: &&IpAddr| address.is_ipv4() == packet.is_v4() && !address.is_multicast();
        let dummy = if packet.is_v4() { DUMMY_V4.into() } else { DUMMY_V6.into() };
        let source = own.iter().find(fits).copied().unwrap_or(dummy);
        if !wanted || forbidden || !self.allow(now) {
            return None;
        }
        let mut bytes = [0; MAX_ERROR_V6];
        let length = icmp::write_error(error, source, packet.bytes(), packet.layout, &mut bytes)?;
        packet.derive(pool, length, ANSWER_SALT, |out| out.copy_from_slice(&bytes[..length])).ok()
    }

    /// The RST with which a host that does not have the connection answers a segment (RFC 9293 section 3.10.7.1), for
    /// its sender. `None` for a RST, and for a packet that is not TCP with a whole header.
    pub(in crate::pipeline) fn reset(packet: &Packet, pool: &mut Pool) -> Option<Packet> {
        let (version, transport) = (packet.layout.version(), packet.layout.transport_offset());
        let tcp = conn::tcp(packet).filter(|tcp| tcp.flags() & flag::RST == 0)?;
        let bare = if tcp.flags() & flag::ACK == 0 {
            let ends = [flag::SYN, flag::FIN].iter().filter(|end| tcp.flags() & **end != 0).count();
            let length = packet.payload_length() + ends as u32;
            Bare::new(0, tcp.sequence().wrapping_add(length), flag::RST | flag::ACK, 0)
        } else {
            Bare::new(tcp.acknowledgement(), 0, flag::RST, 0)
        };
        let write = |bytes: &mut [u8]| {
            bare.write(packet.bytes(), version, transport, bytes);
            bytes[if version == Version::V4 { 8 } else { 7 }] = HOPS;
        };
        match packet.derive(pool, bare.len(version), ANSWER_SALT, write) {
            Ok(mut reset) => {
                reset.fix_checksums();
                let transport = reset.layout.transport_offset();
                bare::turn_round(reset.bytes_mut(), version, transport);
                Some(reset)
            }
            Err((buffer, _)) => {
                pool.give(buffer);
                None
            }
        }
    }

    /// The reply to `packet`, if it is an echo request and replies are on.
    pub(in crate::pipeline) fn echo(&self, packet: &Packet, pool: &mut Pool) -> Option<Packet> {
        if !self.params.echo {
            return None;
        }
        let mut reply = packet.copy(pool, ANSWER_SALT);
        if icmp::echo_reply(reply.bytes_mut(), packet.layout) {
            return Some(reply);
        }
        pool.give(reply.into_buffer());
        None
    }

    /// Takes a token. The bucket holds the tokens of a tenth of a second.
    fn allow(&mut self, now: Instant) -> bool {
        if self.params.rate == 0 {
            return false;
        }
        let interval = Duration::from_nanos(1_000_000_000 / u64::from(self.params.rate));
        let burst = Duration::from_nanos(interval.as_nanos() * u64::from((self.params.rate / 10).max(1) - 1));
        if self.full_at.since(now) > burst {
            return false;
        }
        self.full_at = self.full_at.max(now) + interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::{Frame, Spec};
    use crate::pipeline::wire::samples;

    /// How many of errors asked for at these milliseconds are allowed.
    fn allowed(rate: u32, millis: &[u64]) -> usize {
        let mut answers = Answers::new(IcmpParams { rate, ..IcmpParams::default() });
        let at = |millis: u64| Instant::ZERO + Duration::from_millis(millis);
        millis.iter().filter(|&&millis| answers.allow(at(millis))).count()
    }

    #[test]
    fn errors_come_at_their_rate_after_a_burst_of_a_tenth() {
        // 100 a second: a burst of 10, then one each 10 ms.
        assert_eq!(allowed(100, &[0; 50]), 10);
        assert_eq!(allowed(100, &[&[1_000; 50][..], &[1_009; 9], &[1_010; 9], &[1_035; 9]].concat()), 13);
        // Below ten a second one at a time.
        assert_eq!(allowed(5, &[0, 0, 199, 200, 200, 399, 400]), 3);
        assert_eq!(allowed(0, &[0, 1_000]), 0);
    }

    #[test]
    fn what_is_forbidden_or_switched_off_takes_no_token() {
        let params = IcmpParams { rate: 1, unreachable: false, ..IcmpParams::default() };
        let mut answers = Answers::new(params);
        let mut pool = Pool::new();
        let mut ask = |frame: &Frame, error| {
            answers.error(&frame.parse().unwrap(), error, &[], &mut pool, Instant::ZERO).is_some()
        };
        let error = Frame::plain(samples::UNREACHABLE_V4.to_vec());
        assert!(!ask(&Spec::udp(9).frame(), IcmpError::NetUnreachable), "switched off");
        assert!(!ask(&error, IcmpError::TimeExceeded), "about an error");
        assert!(ask(&Spec::udp(9).frame(), IcmpError::TimeExceeded));
        assert!(!ask(&Spec::udp(9).frame(), IcmpError::TimeExceeded), "above the rate");
    }

    #[test]
    fn no_error_comes_from_a_group() {
        let mut answers = Answers::new(IcmpParams::default());
        let mut pool = Pool::new();
        for (own, expected) in [("ff02::1", DUMMY_V6), ("fd00::7", "fd00::7".parse().unwrap())] {
            let packet = Spec::udp(9).v6().frame().parse().unwrap();
            let error = IcmpError::PacketTooBig { mtu: 1300 };
            let sent = answers.error(&packet, error, &[own.parse().unwrap()], &mut pool, Instant::ZERO);
            assert_eq!(sent.unwrap().source(), IpAddr::V6(expected), "{own}");
        }
    }
}
