//! The properties of TCP segments and QUIC packets that a selection can test.

/// The kinds of a TCP segment; a segment can be of several kinds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Segment {
    /// SYN without ACK.
    Syn = 1 << 0,
    /// SYN with ACK.
    SynAck = 1 << 1,
    /// FIN.
    Fin = 1 << 2,
    /// RST.
    Rst = 1 << 3,
    /// It has payload.
    Data = 1 << 4,
    /// A pure ACK: no payload, no SYN, FIN or RST.
    PureAck = 1 << 5,
    /// It carries SACK blocks (RFC 2018 section 3).
    Sack = 1 << 6,
    /// It has payload that begins at or after the end of everything sent before.
    NewData = 1 << 7,
    /// Data, a SYN or a FIN that begins with bytes that were sent before.
    Retransmission = 1 << 8,
    /// The first segment after the SYN of its sender, if it is a pure ACK.
    HandshakeAck = 1 << 9,
    /// Any segment after its sender's part of the handshake.
    Established = 1 << 10,
}

/// A set of what segments can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segments(u16);

impl Segments {
    /// The kinds that depend on what the flow has sent before.
    pub const REMEMBERED: Self = Self::NONE
        .with(Segment::NewData)
        .with(Segment::Retransmission)
        .with(Segment::HandshakeAck)
        .with(Segment::Established);

    /// The empty set; of a selection: any segment.
    pub const NONE: Self = Self(0);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, segment: Segment) -> Self {
        Self(self.0 | segment as u16)
    }

    /// The set with one more, if `holds`.
    #[must_use]
    pub const fn with_if(self, holds: bool, segment: Segment) -> Self {
        if holds { self.with(segment) } else { self }
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is in the set.
    pub const fn has(self, segment: Segment) -> bool {
        self.0 & segment as u16 != 0
    }

    /// Whether the sets share anything.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Segment> for Segments {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        segments.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The segments that carry the first byte of one piece of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmission {
    /// Which new data segment of the flow, counted from 1.
    pub of: u64,
    /// Only retransmissions, not the first transmission.
    pub again: bool,
}

/// Which QUIC packets; both conditions must hold for one packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuicSelect {
    /// Bits of [`QuicPacket`](crate::pipeline::wire::quic::QuicPacket); 0 means any.
    pub packets: u8,
    /// Any of these beginnings of the destination connection ID; empty means any.
    pub destinations: Vec<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_segment_is_told_apart() {
        use Segment::{
            Data, Established, Fin, HandshakeAck, NewData, PureAck, Retransmission, Rst, Sack, Syn, SynAck,
        };
        let all =
            [Syn, SynAck, Fin, Rst, Data, PureAck, Sack, NewData, Retransmission, HandshakeAck, Established];
        for one in all {
            let set = Segments::NONE.with(one);
            assert!(!set.is_empty());
            for other in all {
                assert_eq!(set.has(other), one == other, "{one:?}, {other:?}");
                assert_eq!(set.meets(Segments::NONE.with(other)), one == other, "{one:?}, {other:?}");
                assert!(set.or(Segments::NONE.with(other)).has(one), "{one:?}, {other:?}");
            }
        }
    }
}
