//! Bytes that both ends can compute, so that a receiver can detect damaged or missing ones.

/// The byte at `offset` of the pattern: changes with every bit of the offset's low 32, repeats after 2^32.
pub const fn byte(offset: u64) -> u8 {
    ((offset as u32).wrapping_mul(0x9E37_79B1) >> 24) as u8
}

/// `len` bytes of the pattern from `offset` on.
pub fn bytes(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte).collect()
}

/// Whether `data` is the pattern from `offset` on.
pub fn matches(offset: u64, data: &[u8]) -> bool {
    (offset..).zip(data).all(|(at, &seen)| byte(at) == seen)
}

/// FNV-1a of 64 bits, carried on over pieces: equal bytes give equal sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Sum {
    /// Takes more bytes in.
    pub fn update(&mut self, data: &[u8]) {
        for &byte in data {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    /// As 16 hexadecimal digits.
    pub fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_or_damaged_pattern_is_told_apart() {
        let mut data = bytes(1_000, 500);
        assert!(matches(1_000, &data));
        assert!(!matches(1_001, &data));
        data[499] ^= 1;
        assert!(!matches(1_000, &data));
    }

    #[test]
    fn the_sum_is_that_of_the_fnv_test_suite() {
        let mut sum = Sum::default();
        sum.update(b"foo");
        sum.update(b"bar");
        assert_eq!(sum.hex(), "85944171f73967e8");
    }
}
