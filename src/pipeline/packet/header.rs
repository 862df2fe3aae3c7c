//! The fields of a packet's headers.

use std::net::IpAddr;

use super::Packet;
use super::checksum::set_v4_word;
use crate::pipeline::wire::{Version, protocol};

impl Packet {
    /// Protocol number behind the IP headers.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.layout.protocol()
    }

    /// True for IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.layout.version() == Version::V4
    }

    /// True for TCP with a whole header.
    #[inline]
    pub const fn is_tcp(&self) -> bool {
        self.layout.has_ports() && self.layout.protocol() == protocol::TCP
    }

    /// True for UDP with a whole header.
    #[inline]
    pub const fn is_udp(&self) -> bool {
        self.layout.has_ports() && self.layout.protocol() == protocol::UDP
    }

    /// True for ICMP and `ICMPv6` with a whole header.
    #[inline]
    pub const fn is_icmp(&self) -> bool {
        matches!(self.layout.protocol(), protocol::ICMP | protocol::ICMPV6)
            && !self.layout.is_later_fragment()
            && !self.layout.is_transport_malformed()
    }

    /// Source and destination port, if it has ports.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.layout.ports(self.bytes())
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    fn address(&self, v4: usize, v6: usize) -> IpAddr {
        let bytes = self.bytes();
        if self.is_v4() {
            IpAddr::from(<[u8; 4]>::try_from(&bytes[v4..v4 + 4]).expect("an IPv4 header"))
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&bytes[v6..v6 + 16]).expect("an IPv6 header"))
        }
    }

    /// DSCP and ECN in one byte: IPv4 TOS, IPv6 traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        let bytes = self.bytes();
        if self.is_v4() { bytes[1] } else { bytes[0] << 4 | bytes[1] >> 4 }
    }

    /// True if its transport understands congestion marks (RFC 3168): ECT(0), ECT(1) or already marked.
    #[inline]
    pub fn is_ecn_capable(&self) -> bool {
        self.traffic_class() & 3 != 0
    }

    /// Marks congestion experienced; false if it was marked already.
    pub fn mark_congestion(&mut self) -> bool {
        self.set_traffic_class(self.traffic_class() | 3)
    }

    /// Sets the ECN field to Not-ECT (RFC 3168 section 5); false if it was that already.
    pub fn clear_congestion(&mut self) -> bool {
        self.set_traffic_class(self.traffic_class() & !3)
    }

    /// False if the field had this value already.
    fn set_traffic_class(&mut self, class: u8) -> bool {
        if class == self.traffic_class() {
            return false;
        }
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 {
            set_v4_word(bytes, 0, u16::from_be_bytes([bytes[0], class]));
        } else {
            bytes[0] = bytes[0] & 0xf0 | class >> 4;
            bytes[1] = bytes[1] & 0x0f | class << 4;
        }
        true
    }

    /// TTL or hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[if self.is_v4() { 8 } else { 7 }]
    }

    /// Decrements the TTL or hop limit, which must not be zero.
    #[inline]
    pub fn decrement_hop_limit(&mut self) {
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 {
            let word = u16::from_be_bytes([bytes[8], bytes[9]]);
            set_v4_word(bytes, 8, word.wrapping_sub(0x100));
        } else {
            bytes[7] = bytes[7].wrapping_sub(1);
        }
    }
}
