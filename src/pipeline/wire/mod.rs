//! Wire formats: views of packets as they lie in a buffer, and the few packets that a router builds itself.
//!
//! A view checks every length once, in its constructor; afterwards no accessor can run out of bounds, whatever the
//! bytes say, and no setter changes a length. Numbers are in host order, offsets count bytes.
//!
//! The fast path does not stack views: [`Layout::parse`] finds all offsets in one pass, and views are made where a
//! field is needed.

pub mod bare;
pub mod checksum;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod layout;
pub mod quic;
pub mod quote;
pub mod serial;
pub mod tcp;
pub mod transport;
pub mod udp;

pub use checksum::Update;
pub use endpoint::{End, set_endpoint};
pub use flow::{FlowKey, Host, flow_hash};
pub use fragment::{CannotFragment, FragmentSpec, Fragments, write_fragment};
pub use icmp::IcmpError;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use layout::{Layout, Version};
pub use quote::Quote;
pub use tcp::Tcp;
pub use udp::Udp;

/// Why bytes are not the packet they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the shortest header, or than the header's own length says.
    #[error("truncated: fewer bytes than the headers promise")]
    Truncated,
    /// The version is neither 4 nor 6, or not the one the view is for.
    #[error("IP version is not the expected one (4 or 6)")]
    BadVersion,
    /// IPv4 IHL below 5, or TCP data offset below 5 or beyond the segment.
    #[error("header length is below the minimum or beyond the packet")]
    BadHeaderLength,
    /// A length field smaller than its own header (IPv4 total length, UDP length).
    #[error("length field is smaller than the header")]
    BadTotalLength,
    /// A TCP or IP option overruns the header or has a length below 2.
    #[error("option overruns the header or has an impossible length")]
    BadOptions,
    /// An IPv6 extension header overruns the packet.
    #[error("IPv6 extension header overruns the packet")]
    BadExtensionHeader,
    /// More than [`ipv6::MAX_EXTENSION_HEADERS`] IPv6 extension headers.
    #[error("more than 8 IPv6 extension headers")]
    TooManyExtensionHeaders,
    /// The device says what cannot be of this packet: a train of no TCP or UDP, a checksum outside of it.
    #[error("segmentation or checksum offload does not fit the packet")]
    BadOffload,
    /// A jumbogram (RFC 2675) or "BIG TCP" packet; their length does not fit the length field.
    #[error("jumbogram: length above 65,535 bytes is not supported")]
    Jumbo,
}

/// IP protocol numbers and IPv6 next-header values (IANA) that the router tells apart.
pub mod protocol {
    /// IPv6 Hop-by-Hop Options (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 3376).
    pub const IGMP: u8 = 2;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 Routing header (RFC 8200 section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header (RFC 8200 section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating Security Payload (RFC 4303); nothing behind it can be read.
    pub const ESP: u8 = 50;
    /// Authentication Header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 No Next Header (RFC 8200 section 4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 Destination Options (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275 section 6.1).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
}

/// The big-endian 16-bit word at `at`; the caller has checked the length.
#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit word at `at`; the caller has checked the length.
#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The `N` bytes at `at`; the caller has checked the length.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Writes `value` big-endian at `at`; the caller has checked the length.
#[inline]
fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes `value` big-endian at `at`; the caller has checked the length.
#[inline]
fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
pub(in crate::pipeline) mod samples;
