//! Numbers in the byte order of a file.

/// A byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl Order {
    /// The 16 bits at `at`; zero where `bytes` ends before.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let value = part(bytes, at);
        match self {
            Self::Little => u16::from_le_bytes(value),
            Self::Big => u16::from_be_bytes(value),
        }
    }

    /// The 32 bits at `at`; zero where `bytes` ends before.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let value = part(bytes, at);
        match self {
            Self::Little => u32::from_le_bytes(value),
            Self::Big => u32::from_be_bytes(value),
        }
    }

    /// The 64 bits at `at`; zero where `bytes` ends before.
    pub(super) fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let value = part(bytes, at);
        match self {
            Self::Little => u64::from_le_bytes(value),
            Self::Big => u64::from_be_bytes(value),
        }
    }

    /// These 16 bits.
    pub(super) const fn bytes16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// These 32 bits.
    pub(super) const fn bytes32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// These 64 bits.
    pub(super) const fn bytes64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

#[inline]
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// `length` rounded up to the next multiple of four, as pcapng pads.
pub(super) const fn padded(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// The length of something in a capture in 32 bits, as captures have them. Nothing that is read from one, and no packet, is
/// longer.
pub(super) fn length32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The higher and the lower half of a number.
#[expect(clippy::cast_possible_truncation, reason = "each is a half")]
pub(super) const fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}
