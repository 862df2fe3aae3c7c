//! TCP segments without data that the router builds itself, with the addresses and fields of a segment that passed.

use super::tcp::{self, field};
use super::{Version, ipv4, ipv6, protocol, put16, put32};

/// Maximum length of such a segment: an IPv6 header, and a TCP header with the maximum of options.
pub const MAX_BARE: usize = ipv6::HEADER + MAX_OPTIONS + tcp::MIN_HEADER;
/// Most bytes of options.
pub const MAX_OPTIONS: usize = 40;

/// The fields of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bare {
    /// Its sequence number.
    pub sequence: u32,
    /// Its acknowledgement number; counts with ACK.
    pub acknowledgement: u32,
    /// See [`tcp::flag`].
    pub flags: u8,
    /// The window field.
    pub window: u16,
    options: [u8; MAX_OPTIONS],
    options_length: u8,
}

impl Bare {
    /// Without options.
    pub const fn new(sequence: u32, acknowledgement: u32, flags: u8, window: u16) -> Self {
        Self { sequence, acknowledgement, flags, window, options: [0; MAX_OPTIONS], options_length: 0 }
    }

    /// With these options, which are as long as they may be in a header: a multiple of 4, at most 40 bytes.
    #[must_use]
    pub fn with_options(mut self, options: &[u8]) -> Self {
        debug_assert!(options.len() <= MAX_OPTIONS && options.len().is_multiple_of(4), "{options:?}");
        self.options[..options.len()].copy_from_slice(options);
        self.options_length = options.len() as u8;
        self
    }

    /// With a timestamp (RFC 7323 section 3), aligned as appendix A has it.
    #[must_use]
    pub fn with_timestamps(self, value: u32, echo: u32) -> Self {
        let mut options = [1, 1, tcp::option::TIMESTAMPS, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        put32(&mut options, 4, value);
        put32(&mut options, 8, echo);
        self.with_options(&options)
    }

    /// Bytes of the whole packet.
    pub fn len(&self, version: Version) -> usize {
        let ip = if version == Version::V4 { ipv4::MIN_HEADER } else { ipv6::HEADER };
        ip + tcp::MIN_HEADER + usize::from(self.options_length)
    }

    /// Writes the packet into `out`, which is [`Self::len`] bytes long: with addresses, ports, DSCP, TTL, flow label and DF
    /// of `like`, whose TCP header is at `transport`; without IP options and extension headers, and not ECN-capable, as
    /// segments without data are (RFC 3168 section 6.1.4). All checksums are left at zero.
    pub fn write(&self, like: &[u8], version: Version, transport: usize, out: &mut [u8]) {
        let length = out.len();
        let ip = match version {
            Version::V4 => {
                out[..ipv4::MIN_HEADER].copy_from_slice(&like[..ipv4::MIN_HEADER]);
                out[ipv4::field::VERSION_IHL] = 0x45;
                out[ipv4::field::TOS] &= !3;
                put16(out, ipv4::field::TOTAL_LENGTH, length as u16);
                out[ipv4::field::PROTOCOL] = protocol::TCP;
                put16(out, ipv4::field::CHECKSUM, 0);
                ipv4::MIN_HEADER
            }
            Version::V6 => {
                out[..ipv6::HEADER].copy_from_slice(&like[..ipv6::HEADER]);
                out[1] &= !0x30;
                put16(out, ipv6::field::PAYLOAD_LENGTH, (length - ipv6::HEADER) as u16);
                out[ipv6::field::NEXT_HEADER] = protocol::TCP;
                ipv6::HEADER
            }
        };
        let segment = &mut out[ip..];
        let ports = field::SOURCE_PORT..field::SEQUENCE;
        segment[ports.clone()].copy_from_slice(&like[transport..][ports]);
        put32(segment, field::SEQUENCE, self.sequence);
        put32(segment, field::ACKNOWLEDGEMENT, self.acknowledgement);
        segment[field::DATA_OFFSET] = ((segment.len() / 4) as u8) << 4;
        segment[field::FLAGS] = self.flags;
        put16(segment, field::WINDOW, self.window);
        put32(segment, field::CHECKSUM, 0);
        segment[field::OPTIONS..].copy_from_slice(&self.options[..usize::from(self.options_length)]);
    }
}

/// Reverses a segment: swaps the two ends. Its checksums stay right, since sums do not depend on the order.
pub fn turn_round(packet: &mut [u8], version: Version, transport: usize) {
    let (at, width) = match version {
        Version::V4 => (ipv4::field::SOURCE, 4),
        Version::V6 => (ipv6::field::SOURCE, 16),
    };
    packet[at..at + 2 * width].rotate_left(width);
    packet[transport..transport + field::SEQUENCE].rotate_left(2);
}
