//! Counts the transmissions of TCP data.

use crate::pipeline::packet::Packet;
use crate::pipeline::wire::serial::is_before;
use crate::pipeline::wire::tcp::flag;

/// Ranges of data that were sent again and are remembered, of each flow.
const AGAIN: usize = 4;

/// The data that one flow has sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Transmissions {
    /// The sequence number that others are relative to; `None` if nothing was seen.
    pub(super) base: Option<u32>,
    /// The sequence number after the highest one.
    end: u32,
    /// Ranges that were sent more than once: begin, end, number of transmissions.
    again: [(u32, u32, u8); AGAIN],
    next: u8,
    /// The lanes that have the headers of the flow.
    pub(super) told: u16,
}

impl Transmissions {
    /// Counts the data of `packet`, and returns the number of its transmission: 1 for new data, 0 if it has none that counts.
    pub(super) fn count(&mut self, packet: &Packet) -> u8 {
        let Some((sequence, flags)) = header(packet) else { return 0 };
        let syn = u32::from(flags & flag::SYN != 0);
        let length = packet.payload_length() + syn + u32::from(flags & flag::FIN != 0);
        let fresh = self.base.is_none();
        if fresh {
            (self.base, self.end) = (Some(sequence), sequence);
        }
        if length == 0 || flags & flag::RST != 0 {
            return 0;
        }
        let until = sequence.wrapping_add(length);
        let is_new = fresh || !is_before(sequence, self.end);
        if is_before(self.end, until) {
            self.end = until;
        }
        if is_new { 1 } else { self.repeat(sequence, until) }
    }

    /// Says that new data from `from` until `until` was sent unseen.
    pub(super) fn pass(&mut self, from: u32, until: u32) {
        // More than half of all numbers can be between both: they are compared only if other data was seen meanwhile.
        if self.base.is_some() && (self.end == from || is_before(self.end, until)) {
            self.end = until;
        }
    }

    /// The sequence number after the last one; `None` if nothing was seen.
    pub(super) fn end(&self) -> Option<u32> {
        self.base.map(|_| self.end)
    }

    fn repeat(&mut self, from: u32, until: u32) -> u8 {
        let covers =
            |(start, end, _): &&mut (u32, u32, u8)| !is_before(from, *start) && is_before(from, *end);
        if let Some((_, end, times)) = self.again.iter_mut().find(covers) {
            *times = times.saturating_add(1);
            if is_before(*end, until) {
                *end = until;
            }
            return *times;
        }
        self.again[usize::from(self.next)] = (from, until, 2);
        self.next = (self.next + 1) % AGAIN as u8;
        2
    }
}

/// Sequence number and flags; `None` if the TCP header is not whole.
pub(super) fn header(packet: &Packet) -> Option<(u32, u8)> {
    if packet.layout.is_fragment() {
        return None;
    }
    let flags = packet.tcp_flags()?;
    let at = packet.layout.transport_offset() + 4;
    let number = packet.bytes().get(at..)?.first_chunk()?;
    Some((u32::from_be_bytes(*number), flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::packet::Offload;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;

    fn segment(sequence: u32, length: usize) -> Packet {
        let mut frame = Spec::tcp(length).frame().bytes;
        frame[24..28].copy_from_slice(&sequence.to_be_bytes());
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
        Packet::parse(buffer, frame.len(), Offload::default(), 0).unwrap()
    }

    #[test]
    fn data_is_counted_each_time_it_is_sent() {
        let mut flow = Transmissions::default();
        let start = u32::MAX - 50;
        let sent = [(0, 100), (100, 100), (0, 100), (200, 100), (0, 100), (100, 100), (300, 0), (0, 100)];
        let counts = sent.map(|(at, length)| flow.count(&segment(start.wrapping_add(at), length)));
        assert_eq!(counts, [1, 1, 2, 1, 3, 2, 0, 4]);
        assert_eq!(flow.base, Some(start));
    }
}
