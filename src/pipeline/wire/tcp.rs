//! TCP (RFC 9293 section 3.1) and its options.

use std::ops::Range;

use super::{Malformed, Update, be16, be32, checksum, put16, put32};

/// Length of the header without options.
pub const MIN_HEADER: usize = 20;

pub(super) mod field {
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGEMENT: usize = 8;
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
    pub(crate) const URGENT: usize = 18;
    pub(crate) const OPTIONS: usize = 20;
}

/// Bits of the flags byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronises sequence numbers.
    pub const SYN: u8 = 2;
    /// Resets the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 64;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 128;
}

/// Option kinds (IANA).
pub mod option {
    /// End of the list; a single byte.
    pub const END: u8 = 0;
    /// Padding; a single byte.
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293 section 3.7.1), 4 bytes.
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323 section 2), 3 bytes.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgement permitted (RFC 2018), 2 bytes.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgement (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323 section 3), 10 bytes.
    pub const TIMESTAMPS: u8 = 8;
    /// Multipath TCP (RFC 8684).
    pub const MULTIPATH: u8 = 30;
    /// TCP Fast Open cookie (RFC 7413), by its assigned number.
    pub const FAST_OPEN: u8 = 34;
}

/// A TCP segment, header and payload, in any byte buffer.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<T>(T);

/// One option of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOption {
    /// See [`option`].
    pub kind: u8,
    /// Its bytes in the segment, kind and length included.
    pub range: Range<usize>,
}

/// The options of a segment, "no operation" included, up to the end of the list or the first malformed one.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The header.
    bytes: &'a [u8],
    at: usize,
}

impl<T: AsRef<[u8]>> Tcp<T> {
    /// Checks the data offset. Options are checked as they are walked; the checksum is not.
    ///
    /// # Errors
    /// [`Malformed`] if the buffer is shorter than 20 bytes or the data offset is below 5 or beyond the buffer.
    #[inline]
    pub fn new(buffer: T) -> Result<Self, Malformed> {
        check(buffer.as_ref())?;
        Ok(Self(buffer))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        be16(self.bytes(), field::SOURCE_PORT)
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        be16(self.bytes(), field::DESTINATION_PORT)
    }

    /// Sequence number of the first byte.
    #[inline]
    pub fn sequence(&self) -> u32 {
        be32(self.bytes(), field::SEQUENCE)
    }

    /// Next sequence number expected from the other side, if ACK is set.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        be32(self.bytes(), field::ACKNOWLEDGEMENT)
    }

    /// Length of the header in bytes, options included: 20..=60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::DATA_OFFSET] >> 4) * 4
    }

    /// Flags, see [`flag`].
    #[inline]
    pub fn flags(&self) -> u8 {
        self.bytes()[field::FLAGS]
    }

    /// Receive window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        be16(self.bytes(), field::WINDOW)
    }

    /// Checksum, as it stands: a pseudo-header sum if the kernel left it to the device.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), field::CHECKSUM)
    }

    /// Urgent pointer, if URG is set.
    #[inline]
    pub fn urgent(&self) -> u16 {
        be16(self.bytes(), field::URGENT)
    }

    /// The options in order.
    #[inline]
    pub fn options(&self) -> Options<'_> {
        Options { bytes: &self.bytes()[..self.header_len()], at: field::OPTIONS }
    }

    /// The bytes of the options, padding included.
    #[inline]
    pub fn option_bytes(&self) -> &[u8] {
        &self.bytes()[field::OPTIONS..self.header_len()]
    }

    /// Where the first option of a kind lies, kind and length included; none if a malformed option stands before it.
    #[inline]
    pub fn find_option(&self, kind: u8) -> Option<Range<usize>> {
        self.find_option_of(&[kind])
    }

    /// As [`Self::find_option`], of any of these kinds.
    #[inline]
    fn find_option_of(&self, kinds: &[u8]) -> Option<Range<usize>> {
        let mut options = self.options().map_while(Result::ok);
        options.find(|option| kinds.contains(&option.kind)).map(|option| option.range)
    }

    /// Where the value of an option lies, if there is one of just this length.
    #[inline]
    fn option_value(&self, kind: u8, length: usize) -> Option<usize> {
        self.find_option(kind).filter(|range| range.len() == length + 2).map(|range| range.start + 2)
    }

    /// The largest payload that the sender wants to receive, as announced in its SYN.
    #[inline]
    pub fn mss(&self) -> Option<u16> {
        self.option_value(option::MSS, 2).map(|at| be16(self.bytes(), at))
    }

    /// Timestamp value and echo reply (RFC 7323 section 3).
    #[inline]
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        let at = self.option_value(option::TIMESTAMPS, 8)?;
        Some((be32(self.bytes(), at), be32(self.bytes(), at + 4)))
    }

    /// How many bits the sender's windows are shifted by, as offered in its SYN (RFC 7323 section 2).
    #[inline]
    pub fn window_scale(&self) -> Option<u8> {
        self.option_value(option::WINDOW_SCALE, 1).map(|at| self.bytes()[at])
    }

    /// The buffer, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<'a> Tcp<&'a [u8]> {
    /// The data of the segment.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    #[inline]
    fn rewrite16(&mut self, at: usize, new: u16, update: Update) {
        let bytes = self.0.as_mut();
        if update == Update::Incremental {
            let sum = checksum::update16_at(be16(bytes, field::CHECKSUM), at, be16(bytes, at), new);
            put16(bytes, field::CHECKSUM, sum);
        }
        put16(bytes, at, new);
    }

    #[inline]
    fn rewrite32(&mut self, at: usize, new: u32, update: Update) {
        let bytes = self.0.as_mut();
        if update == Update::Incremental {
            let sum = checksum::update32_at(be16(bytes, field::CHECKSUM), at, be32(bytes, at), new);
            put16(bytes, field::CHECKSUM, sum);
        }
        put32(bytes, at, new);
    }

    /// One byte; header lengths are even, so the other byte of its word is in the header too.
    fn rewrite8(&mut self, at: usize, new: u8, update: Update) {
        let even = at & !1;
        let [high, low] = be16(self.bytes(), even).to_be_bytes();
        let word = if at == even { [new, low] } else { [high, new] };
        self.rewrite16(even, u16::from_be_bytes(word), update);
    }

    /// Replaces every well-formed option of a kind by "no operation" (RFC 9293 section 3.1); false, and nothing changed, if
    /// there is none.
    pub fn blank_option(&mut self, kind: u8, update: Update) -> bool {
        self.blank_options(&[kind], update)
    }

    /// As [`Self::blank_option`], of any of these kinds, of which "no operation" is none.
    pub fn blank_options(&mut self, kinds: &[u8], update: Update) -> bool {
        let mut found = false;
        while let Some(range) = self.find_option_of(kinds) {
            for at in range {
                self.rewrite8(at, option::NOP, update);
            }
            found = true;
        }
        found
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, sequence: u32, update: Update) {
        self.rewrite32(field::SEQUENCE, sequence, update);
    }

    /// Sets the flags, see [`flag`].
    #[inline]
    pub fn set_flags(&mut self, flags: u8, update: Update) {
        let high = self.bytes()[field::DATA_OFFSET];
        self.rewrite16(field::DATA_OFFSET, u16::from_be_bytes([high, flags]), update);
    }

    /// Sets the window; false, and nothing changed, if it was that.
    #[inline]
    pub fn set_window(&mut self, window: u16, update: Update) -> bool {
        let changes = self.window() != window;
        if changes {
            self.rewrite16(field::WINDOW, window, update);
        }
        changes
    }

    /// Clears the bits by which a SYN offers or accepts ECN: ECE and CWR (RFC 3168 section 6.1.1), and AE before them (RFC
    /// 9768 section 3.1). False, and nothing changed, if there are none.
    pub fn refuse_ecn(&mut self, update: Update) -> bool {
        const AE: u16 = 0x100;
        let word = be16(self.bytes(), field::DATA_OFFSET);
        let refused = word & !(AE | u16::from(flag::ECE | flag::CWR));
        if refused != word {
            self.rewrite16(field::DATA_OFFSET, refused, update);
        }
        refused != word
    }

    /// Clears URG and the urgent pointer; false, and nothing changed, if they were.
    pub fn clear_urgent(&mut self, update: Update) -> bool {
        let changes = self.flags() & flag::URG != 0 || self.urgent() != 0;
        if changes {
            self.set_flags(self.flags() & !flag::URG, update);
            self.rewrite16(field::URGENT, 0, update);
        }
        changes
    }

    /// Sets the value of the window scale option; false, and nothing changed, if there is none or it was that.
    pub fn set_window_scale(&mut self, scale: u8, update: Update) -> bool {
        let at = self.option_value(option::WINDOW_SCALE, 1).filter(|&at| self.bytes()[at] != scale);
        if let Some(at) = at {
            self.rewrite8(at, scale, update);
        }
        at.is_some()
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.0.as_mut(), field::CHECKSUM, checksum);
    }

    /// Sets the value of the MSS option; false, and nothing changed, if there is none.
    #[inline]
    pub fn set_mss(&mut self, mss: u16, update: Update) -> bool {
        let at = self.option_value(option::MSS, 2);
        if let Some(at) = at {
            self.rewrite16(at, mss, update);
        }
        at.is_some()
    }

    /// Sets timestamp value and echo reply; false, and nothing changed, if there is no such option.
    #[inline]
    pub fn set_timestamps(&mut self, value: u32, echo: u32, update: Update) -> bool {
        let at = self.option_value(option::TIMESTAMPS, 8);
        if let Some(at) = at {
            self.rewrite32(at, value, update);
            self.rewrite32(at + 4, echo, update);
        }
        at.is_some()
    }
}

/// Header length of a well-formed segment.
#[inline]
pub(super) fn check(bytes: &[u8]) -> Result<usize, Malformed> {
    let header: &[u8; MIN_HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
    let length = usize::from(header[field::DATA_OFFSET] >> 4) * 4;
    if (MIN_HEADER..=bytes.len()).contains(&length) { Ok(length) } else { Err(Malformed::BadHeaderLength) }
}

impl Iterator for Options<'_> {
    type Item = Result<TcpOption, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let kind = *self.bytes.get(at)?;
        let length = match kind {
            option::END => {
                self.at = self.bytes.len();
                return None;
            }
            option::NOP => 1,
            _ => self.bytes.get(at + 1).map_or(0, |&length| usize::from(length)),
        };
        if kind != option::NOP && length < 2 || at + length > self.bytes.len() {
            self.at = self.bytes.len();
            return Some(Err(Malformed::BadOptions));
        }
        self.at = at + length;
        Some(Ok(TcpOption { kind, range: at..at + length }))
    }
}

#[cfg(test)]
mod tests;
