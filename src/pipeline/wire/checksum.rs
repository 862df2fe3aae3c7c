//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A *sum* here is a folded one's complement sum, not complemented; a *checksum* is the complement of a sum, as a
//! header carries it. Both are 16-bit numbers in host order.

use core::net::{Ipv4Addr, Ipv6Addr};

/// What a setter does about the transport checksum that covers the field.
///
/// A packet whose checksum the kernel left to the device (`NEEDS_CSUM`) carries a pseudo-header sum in the field: no
/// change behind the pseudo-header may touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Adjusts the checksum by the change (RFC 1624): a right one stays right, a wrong one stays wrong.
    Incremental,
    /// Leaves the checksum as it is.
    Leave,
}

/// Folds a wide sum into 16 bits, carries added back in.
#[inline]
const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The one's complement sum of `bytes` as big-endian 16-bit words; an odd last byte counts as the high half of a word.
///
/// Words are added in the machine's own order, 32 bits at a time into eight independent 64-bit lanes, and turned round
/// once at the end: the sum does not depend on the order of bytes (RFC 1071 section 2 (B)), lanes cannot overflow
/// below 2^32 words, and the compiler turns them into vector additions.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, tail) = tail.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    total += match *tail {
        [] => 0,
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, ..] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
    };
    u16::from_be(fold(total))
}

/// The sum of two parts; the second must start at an even offset behind the start of the first.
#[inline]
pub const fn combine(first: u16, second: u16) -> u16 {
    let (sum, carry) = first.overflowing_add(second);
    sum + carry as u16
}

/// The pseudo-header sum of IPv4 (RFC 9293 section 3.1): what Linux puts into the checksum field of a `NEEDS_CSUM`
/// packet. `length` is that of the transport header and its payload in bytes.
#[inline]
pub fn pseudo_sum_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u16 {
    let addresses = u64::from(u32::from(source)) + u64::from(u32::from(destination));
    fold(addresses + u64::from(protocol) + u64::from(length))
}

/// The pseudo-header sum of IPv6 (RFC 8200 section 8.1). `length` is that of the transport header and its payload,
/// `protocol` that of the transport, whatever extension headers stand before it.
#[inline]
pub fn pseudo_sum_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: u32) -> u16 {
    let addresses = u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets()));
    fold(addresses + u64::from(protocol) + u64::from(length))
}

/// The checksum of a transport segment (header with payload) whose checksum field is zero, on top of its pseudo-header
/// sum (0 for ICMP of IPv4, which has none).
#[inline]
pub fn transport_checksum(pseudo_sum: u16, segment: &[u8]) -> u16 {
    !combine(pseudo_sum, sum(segment))
}

/// Whether a segment with its checksum in place, and its pseudo-header, add up.
#[inline]
pub fn is_valid(pseudo_sum: u16, segment: &[u8]) -> bool {
    combine(pseudo_sum, sum(segment)) == 0xffff
}

/// A UDP checksum as it is sent: a computed zero goes out as all ones, for zero means "none" (RFC 768).
#[inline]
pub const fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum after the aligned 16-bit word `old` became `new` (RFC 1624 equation 3).
#[inline]
pub const fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    !combine(combine(!checksum, !old), new)
}

/// The checksum after the aligned 32-bit word `old` became `new`.
#[inline]
pub const fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    let high = update16(checksum, (old >> 16) as u16, (new >> 16) as u16);
    update16(high, old as u16, new as u16)
}

/// The checksum after a 32-bit word at an even or odd offset changed: at an odd offset every byte counts in the other
/// half of its word (TCP options need not be aligned).
#[inline]
pub(super) const fn update32_at(checksum: u16, offset: usize, old: u32, new: u32) -> u16 {
    if offset.is_multiple_of(2) {
        update32(checksum, old, new)
    } else {
        update32(checksum.swap_bytes(), old, new).swap_bytes()
    }
}

/// As [`update32_at`], for a 16-bit word.
#[inline]
pub(super) const fn update16_at(checksum: u16, offset: usize, old: u16, new: u16) -> u16 {
    if offset.is_multiple_of(2) {
        update16(checksum, old, new)
    } else {
        update16(checksum.swap_bytes(), old, new).swap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The numeric example of RFC 1071 section 3.
    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    /// RFC 1624 section 4: equation 3 gives 0x0000 where equation 2 would give 0xffff.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn sixty_four_kilobytes_of_ones_do_not_overflow() {
        assert_eq!(sum(&vec![0xff; 65_536]), 0xffff);
        assert_eq!(sum(&vec![0; 65_536]), 0);
    }

    #[test]
    fn zero_udp_checksum_is_sent_as_ones() {
        assert_eq!(udp(0), 0xffff);
        assert_eq!(udp(1), 1);
    }

    proptest! {
        #[test]
        fn fast_sum_equals_naive(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn parts_combine(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0_usize..50) {
            let at = (at * 2).min(bytes.len() & !1);
            prop_assert_eq!(combine(sum(&bytes[..at]), sum(&bytes[at..])), naive(&bytes));
        }

        #[test]
        fn update_equals_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64), at in 0_usize..60, new: u32, first in 1..=255_u8,
        ) {
            bytes[0] = first; // A header is never all zeros.
            let at = 1 + at % (bytes.len() - 4);
            let before = !naive(&bytes);
            let old = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let low = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);

            let mut halved = bytes.clone();
            halved[at + 2..at + 4].copy_from_slice(&(new as u16).to_be_bytes());
            prop_assert_eq!(update16_at(before, at, low, new as u16), !naive(&halved));

            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update32_at(before, at, old, new), !naive(&bytes));
        }

        #[test]
        fn pseudo_headers_equal_their_bytes(source: u128, destination: u128, protocol: u8, length: u16) {
            let mut v4 = Vec::new();
            v4.extend_from_slice(&(source as u32).to_be_bytes());
            v4.extend_from_slice(&(destination as u32).to_be_bytes());
            v4.extend_from_slice(&[0, protocol]);
            v4.extend_from_slice(&length.to_be_bytes());
            let sum = pseudo_sum_v4((source as u32).into(), (destination as u32).into(), protocol, length);
            prop_assert_eq!(sum, naive(&v4));

            let mut v6 = Vec::new();
            v6.extend_from_slice(&source.to_be_bytes());
            v6.extend_from_slice(&destination.to_be_bytes());
            v6.extend_from_slice(&u32::from(length).to_be_bytes());
            v6.extend_from_slice(&[0, 0, 0, protocol]);
            let sum = pseudo_sum_v6(source.into(), destination.into(), protocol, u32::from(length));
            prop_assert_eq!(sum, naive(&v6));
        }
    }
}
