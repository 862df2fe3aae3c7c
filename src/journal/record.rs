//! A record: one event of consecutive wire packets of a flow, as bytes.

use crate::journal::payload::{Cells, Part};
use crate::pipeline::random::rng::Draw;
use crate::pipeline::time::Instant;

/// Bytes of a record before its headers.
pub const FIXED: usize = 112;
/// Bytes that records of all kinds begin with: size, kind.
const START: usize = 8;
/// Stands for "none" where a number of 16 bits is expected.
pub const NONE: u16 = u16::MAX;
/// The time until which a stage keeps a packet, if the stage does not know it.
pub const UNKNOWN: Instant = Instant::ZERO;
/// Stands for "none" where a reason is expected.
pub const NO_REASON: u8 = u8::MAX;

const HAS_DRAW: u8 = 1;
const HAS_TCP: u8 = 2;
const IS_PARTIAL: u8 = 4;
const HAS_PART: u8 = 8;
const HAS_INGRESS: u8 = 16;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Read from a device.
    Received = 1,
    /// Made to wait by a stage.
    Held = 2,
    /// Changed by a stage.
    Rewritten = 3,
    /// Made by the router or a stage.
    Created = 4,
    /// Written to a device.
    Sent = 5,
    /// Dropped.
    Dropped = 6,
    /// Released by a stage that did not know until when it would keep it.
    Released = 7,
    /// It begins its path, after routing and translation. Only in rings: a journal's readers do not need it.
    Entered = 8,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Received,
        Self::Held,
        Self::Rewritten,
        Self::Created,
        Self::Sent,
        Self::Dropped,
        Self::Released,
        Self::Entered,
    ];
    /// Those in journals and in streams of events.
    pub const TOLD: [Self; 7] = [
        Self::Received,
        Self::Held,
        Self::Rewritten,
        Self::Created,
        Self::Sent,
        Self::Dropped,
        Self::Released,
    ];
    /// Those of a packet that passes unchanged.
    pub const PASSING: [Self; 3] = [Self::Received, Self::Entered, Self::Sent];
    /// The events that stages record about packets that they have taken.
    pub const DEEDS: [Self; 4] = [Self::Held, Self::Rewritten, Self::Created, Self::Released];

    /// Its name in the output for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Held => "held",
            Self::Rewritten => "rewritten",
            Self::Created => "created",
            Self::Sent => "sent",
            Self::Dropped => "dropped",
            Self::Released => "released",
            Self::Entered => "entered",
        }
    }

    /// Its bit in a set of kinds.
    pub const fn bit(self) -> u8 {
        1 << (self as u8 - 1)
    }

    /// The bits of several.
    pub fn set(kinds: &[Self]) -> u8 {
        kinds.iter().fold(0, |set, kind| set | kind.bit())
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// TCP data of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpRange {
    /// Sequence number of the first byte, relative to the flow's SYN or to the first packet that was seen. If no lane follows flows, it
    /// is the number in the packet.
    pub sequence: u32,
    /// Bytes of payload, of all wire packets together.
    pub payload: u32,
    /// Number of this transmission of these bytes, from 1; 0 if unknown. For several wire packets, it is that of the first one.
    pub transmission: u8,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The lanes of a tap that it is for; zero in files.
    pub lanes: u16,
    /// Time in nanoseconds since the start of the router.
    pub at: u64,
    /// Time of the packet's arrival.
    pub arrived: u64,
    /// The time until which it is held (0: unknown), or at which it was due to leave; otherwise as `at`.
    pub due: u64,
    /// Time at which it left; 0 if it did not.
    pub left: u64,
    /// Identity of the flow, the same in each run; 0 if the packet belongs to no flow.
    pub flow: u64,
    /// Number of the first wire packet in its flow, from 0.
    pub index: u64,
    /// Zero for originals, otherwise the number of a copy or fragment.
    pub lineage: u32,
    /// Wire packets.
    pub wires: u32,
    /// IP length of each of them but the last.
    pub each: u32,
    /// IP length of the last.
    pub last: u32,
    /// Payload of each in a train; 0 for a single packet.
    pub segment: u16,
    /// Whether the transport checksum in `bytes` is the sum over the pseudo-header alone. Never in files.
    pub is_partial: bool,
    /// Whether `before` has the place of the payload, which does not directly follow the headers. Only in rings.
    pub has_part: bool,
    /// Path, or [`NONE`].
    pub path: u16,
    /// Stage of the path, or [`NONE`].
    pub stage: u16,
    /// Port: for `Sent` and `Created` the one by which the packet leaves, otherwise the one at which it arrived.
    pub port: u16,
    /// Index into the file's list of reasons, or [`NO_REASON`].
    pub reason: u8,
    /// Port at which a sent packet arrived. Only in rings, in the place of the draw.
    pub ingress: Option<u16>,
    /// The random draw that decided.
    pub draw: Option<Draw>,
    /// For TCP with a whole header.
    pub tcp: Option<TcpRange>,
    /// The headers before a rewrite.
    pub before: &'a [u8],
    /// The first bytes of the packet, or none.
    pub bytes: &'a [u8],
    /// The payload, if it does not directly follow the headers in `bytes`. Never in files.
    pub rest: &'a [u8],
    /// Set if `rest` has the beginning of each wire packet's payload, not the whole payload. Never in files or rings.
    pub(crate) cells: Option<Cells>,
}

impl Record<'_> {
    /// Writes the fixed part and `before` to `out`, and returns them. `bytes` and `rest` follow in the ring or file.
    ///
    /// # Panics
    /// If `out` is shorter than both.
    pub fn encode<'o>(&self, out: &'o mut [u8]) -> &'o [u8] {
        let ingress = self.ingress.filter(|_| self.draw.is_none());
        let value = ingress.map_or(0, u64::from);
        let draw = self.draw.unwrap_or(Draw { value, threshold: 0 });
        let tcp = self.tcp.unwrap_or(TcpRange { sequence: 0, payload: 0, transmission: 0 });
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.draw.is_some(), HAS_DRAW)
            | flag(self.tcp.is_some(), HAS_TCP)
            | flag(self.is_partial, IS_PARTIAL)
            | flag(self.has_part, HAS_PART)
            | flag(ingress.is_some(), HAS_INGRESS);
        let (length, behind) = (FIXED + self.before.len(), self.bytes.len() + self.rest.len());
        let mut words = [0_u64; FIXED / 8];
        words[0] = (length + behind) as u64
            | (self.kind as u64) << 32
            | u64::from(self.reason) << 40
            | u64::from(tcp.transmission) << 48
            | u64::from(flags) << 56;
        words[1] = u64::from(self.path)
            | u64::from(self.stage) << 16
            | u64::from(self.port) << 32
            | u64::from(self.segment) << 48;
        words[2] = u64::from(self.wires) | u64::from(self.each) << 32;
        words[3] = u64::from(self.last) | u64::from(self.lineage) << 32;
        words[4..12].copy_from_slice(&[
            self.flow,
            self.index,
            self.at,
            self.arrived,
            self.due,
            self.left,
            draw.value,
            draw.threshold,
        ]);
        words[12] = u64::from(tcp.sequence) | u64::from(tcp.payload) << 32;
        words[13] = self.before.len() as u64 | u64::from(self.lanes) << 16 | (behind as u64) << 32;
        // With a known size these are stores; otherwise each would be a call of memcpy.
        let (fixed, rest) = out.split_first_chunk_mut::<FIXED>().expect("room for the fixed part");
        for (place, word) in fixed.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        rest[..self.before.len()].copy_from_slice(self.before);
        &out[..length]
    }
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`, and the bytes behind it; `None` if there is no whole record. The record itself is `None`
    /// if this version does not know its kind: it is skipped by its size.
    pub fn decode(bytes: &'a [u8]) -> Option<(Option<Self>, &'a [u8])> {
        let start = bytes.first_chunk::<START>()?;
        if Kind::of(start[4]).is_none() {
            let size = u32::from_le_bytes([start[0], start[1], start[2], start[3]]) as usize;
            let (_, rest) = bytes.split_at_checked(size).filter(|_| size >= START)?;
            return Some((None, rest));
        }
        Self::decode_known(bytes).map(|(record, rest)| (Some(record), rest))
    }

    fn decode_known(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let fixed = bytes.first_chunk::<FIXED>()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&fixed[8 * at..8 * at + 8]);
            u64::from_le_bytes(word)
        };
        let size = word(0) as u32 as usize;
        let (before, length) = (usize::from(word(13) as u16), (word(13) >> 32) as usize);
        if size != FIXED + before + length {
            return None;
        }
        let (whole, rest) = bytes.split_at_checked(size)?;
        let flags = (word(0) >> 56) as u8;
        let record = Self {
            kind: Kind::of((word(0) >> 32) as u8)?,
            reason: (word(0) >> 40) as u8,
            path: word(1) as u16,
            stage: (word(1) >> 16) as u16,
            port: (word(1) >> 32) as u16,
            segment: (word(1) >> 48) as u16,
            is_partial: flags & IS_PARTIAL != 0,
            has_part: flags & HAS_PART != 0,
            wires: word(2) as u32,
            each: (word(2) >> 32) as u32,
            last: word(3) as u32,
            lineage: (word(3) >> 32) as u32,
            flow: word(4),
            index: word(5),
            at: word(6),
            arrived: word(7),
            due: word(8),
            left: word(9),
            ingress: (flags & HAS_INGRESS != 0).then(|| word(10) as u16),
            draw: (flags & HAS_DRAW != 0).then(|| Draw { value: word(10), threshold: word(11) }),
            tcp: (flags & HAS_TCP != 0).then(|| TcpRange {
                sequence: word(12) as u32,
                payload: (word(12) >> 32) as u32,
                transmission: (word(0) >> 48) as u8,
            }),
            lanes: (word(13) >> 16) as u16,
            before: &whole[FIXED..FIXED + before],
            bytes: &whole[FIXED + before..],
            rest: &[],
            cells: None,
        };
        Some((record, rest))
    }

    /// The same record with its payload in `rest`, if the record has the place of it. `packet` is the last packet that was recorded
    /// whole.
    pub(super) fn with_payload(mut self, packet: &'a [u8]) -> Self {
        if self.has_part {
            (self.bytes, self.rest, self.cells) = Part::find(self.before, self.bytes, packet);
            (self.before, self.has_part) = (&[], false);
        }
        self
    }

    /// The number of wire packet `wire`: the same in all its records, and in all runs with the same traffic. 0 if it belongs to no flow.
    pub const fn id(&self, wire: u32) -> u64 {
        id(self.flow, self.index.wrapping_add(wire as u64), self.lineage)
    }
}

/// See [`Record::id`].
pub const fn id(flow: u64, index: u64, lineage: u32) -> u64 {
    if flow == 0 {
        return 0;
    }
    // SplitMix64's finaliser over the packet's place.
    let mut x = flow ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (lineage as u64).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record<'a>() -> Record<'a> {
        Record {
            kind: Kind::Dropped,
            lanes: 0,
            at: 2_000_000,
            arrived: 1_000_000,
            due: 2_000_000,
            left: 0,
            flow: 77,
            index: 4101,
            lineage: 0,
            wires: 1,
            each: 1500,
            last: 1500,
            segment: 0,
            is_partial: false,
            has_part: false,
            path: 0,
            stage: 0,
            port: 0,
            reason: 0,
            ingress: None,
            draw: Some(Draw { value: 1 << 55, threshold: 1 << 57 }),
            tcp: Some(TcpRange { sequence: 1, payload: 1448, transmission: 2 }),
            before: b"old",
            bytes: b"newer",
            rest: &[],
            cells: None,
        }
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut out = [0; FIXED + 200];
        [record.encode(&mut out), record.bytes].concat()
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_safely(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((record, rest)) = Record::decode(&bytes) {
                prop_assert!(rest.len() < bytes.len());
                if let Some(record) = record {
                    prop_assert_eq!(encoded(&record).len() + rest.len(), bytes.len());
                }
            }
        }

        /// A damaged record is either refused, or read with the length that it has.
        #[test]
        fn damage_is_read_safely(at in 0_usize..120, to in any::<u8>()) {
            let mut bytes = encoded(&record());
            bytes[at] = to;
            if let Some((_, rest)) = Record::decode(&bytes) {
                prop_assert!(rest.is_empty());
            }
        }

        #[test]
        fn what_is_written_is_read(
            numbers in proptest::array::uniform8(any::<u64>()), kind in 0_usize..8, path in any::<u16>(), reason in any::<u8>(),
            draw in any::<Option<(u64, u64)>>(), tcp in any::<Option<(u32, u32, u8)>>(),
            before in proptest::collection::vec(any::<u8>(), 0..100), bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let [at, arrived, due, left, flow, index, a, b] = numbers;
            let tcp = tcp.map(|(sequence, payload, transmission)| TcpRange { sequence, payload, transmission });
            let record = Record {
                kind: Kind::ALL[kind], at, arrived, due, left, flow, index, path, reason, tcp,
                lineage: a as u32, wires: (a >> 32) as u32, each: b as u32, last: (b >> 32) as u32,
                segment: a as u16, is_partial: a & 1 == 1, stage: b as u16, port: (a >> 16) as u16, lanes: (b >> 16) as u16,
                draw: draw.map(|(value, threshold)| Draw { value, threshold }), before: &before, bytes: &bytes, rest: &[],
                has_part: a & 2 == 2, cells: None, ingress: (draw.is_none() && a & 4 == 4).then_some(b as u16),
            };
            let all = [encoded(&record), vec![9; 3]].concat();
            prop_assert_eq!(Record::decode(&all), Some((Some(record), &[9_u8; 3][..])));
        }
    }

    #[test]
    fn a_record_of_an_unknown_kind_is_skipped_by_its_size() {
        for size in [8_u32, 31, 112] {
            let mut unknown = vec![9; size as usize];
            unknown[..4].copy_from_slice(&size.to_le_bytes());
            let known = encoded(&record());
            let both = [&unknown[..], &known].concat();
            assert_eq!(Record::decode(&both), Some((None, &known[..])));
            assert_eq!(Record::decode(&unknown[..unknown.len() - 1]), None);
        }
        assert_eq!(
            Record::decode(&[7, 0, 0, 0, 9, 0, 0, 0, 0]),
            None,
            "no record is shorter than its size and kind"
        );
    }

    #[test]
    fn a_record_that_is_cut_short_is_none() {
        let whole = encoded(&record());
        for length in 0..whole.len() {
            assert_eq!(Record::decode(&whole[..length]), None);
        }
    }
}
