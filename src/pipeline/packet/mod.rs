//! A packet on its way through the router: one wire packet, or a train that stands for several.
//!
//! A train is a GSO super-packet as the kernel hands it over: the headers once, then the payload of all its segments.
//! A stage must output what the wire packets of the train would have been. So a train can be cut at any segment: the
//! front part keeps the headers in the buffer, and the rest gets a copy of them, which overwrites payload that has
//! been handled already.

mod checksum;
mod copies;
mod header;
mod train;

pub use train::Rest;

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::counters::Amount;
use crate::pipeline::pool::{Buffer, HEADROOM};
use crate::pipeline::random::rng::{StageKey, Stream};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{Layout, Malformed};

use train::MAX_TRAIN_HEADER;

/// Whether the transport checksum in the packet is the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// As on the wire.
    #[default]
    Complete,
    /// Only the pseudo-header sum; the device that sends the packet must complete it (`NEEDS_CSUM`).
    Partial,
}

/// What the device's virtio header says about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Payload bytes of each wire packet but the last; 0 if this is one wire packet.
    pub segment: u16,
    /// `NEEDS_CSUM`: where the checksummed bytes start and where in them the checksum goes.
    pub partial: Option<(u16, u16)>,
}

/// One wire packet or a train.
#[derive(Debug)]
pub struct Packet {
    buffer: Buffer,
    start: u32,
    length: u32,
    /// Index of the first wire packet in its flow.
    pub index: u64,
    /// The flow it belongs to.
    pub flow: FlowRef,
    /// Where the headers are.
    pub layout: Layout,
    /// The copy's lineage; zero for the original.
    pub lineage: u32,
    /// The port by which it came in.
    pub ingress: u16,
    /// Path it is on, or [`Packet::NO_PATH`].
    pub path: u16,
    /// The seat of the path at which it waits.
    pub seat: u16,
    /// When it came to the router; copies and fragments have that of their original.
    pub arrived: Instant,
    /// Which transmission of its TCP data the packet is: 1 is the first, 0 is unknown; for a train, that of the first
    /// wire packet. It is only set while records are taken
    /// ([`Egress::transmission`](crate::pipeline::router::Egress::transmission)).
    /// router says so ([`Egress::transmission`](crate::pipeline::router::Egress::transmission)).
    pub transmission: u8,
    /// A token of the router's caller, which gets it back when the packet leaves; copies and fragments have the same
    /// one.
    pub tag: u16,
    segment: u16,
    checksum: Checksum,
    flags: Flags,
}

/// Two flags in a byte: packets that wait are many, and their size counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flags(u8);

impl Flags {
    /// The buffer belongs to a train whose remaining part still needs it.
    const LENT: u8 = 1;
    /// It has waited in the schedule.
    const WAITED: u8 = 2;
    /// The other bits are the number of the phase in which it came to its path.
    const PHASE: u32 = 2;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    const fn with(self, flag: u8) -> Self {
        Self(self.0 | flag)
    }

    const fn without(self, flag: u8) -> Self {
        Self(self.0 & !flag)
    }
}

impl Packet {
    /// The path of a packet that has none: it is not routed yet, or the router's own.
    pub const NO_PATH: u16 = u16::MAX;

    /// Reads the packet of `length` bytes that stands in `buffer` behind the headroom.
    ///
    /// # Errors
    /// What is wrong with it, and the buffer back.
    pub fn parse(
        buffer: Buffer,
        length: usize,
        offload: Offload,
        ingress: u16,
    ) -> Result<Self, (Buffer, Malformed)> {
        let Some(bytes) = buffer.get(HEADROOM..HEADROOM + length) else {
            return Err((buffer, Malformed::Truncated));
        };
        let (layout, total) = match Layout::parse(bytes) {
            Ok(found) => found,
            Err(malformed) => return Err((buffer, malformed)),
        };
        let mut packet = Self {
            buffer,
            start: HEADROOM as u32,
            length: total as u32,
            index: 0,
            flow: FlowRef::default(),
            layout,
            lineage: 0,
            arrived: Instant::ZERO,
            transmission: 0,
            ingress,
            path: Self::NO_PATH,
            seat: 0,
            tag: 0,
            segment: 0,
            checksum: Checksum::Complete,
            flags: Flags::default(),
        };
        match packet.accept_offload(offload) {
            Ok(()) => Ok(packet),
            Err(malformed) => Err((packet.buffer, malformed)),
        }
    }

    fn accept_offload(&mut self, offload: Offload) -> Result<(), Malformed> {
        let payload = self.payload_length();
        let is_train = offload.segment > 0 && payload > u32::from(offload.segment);
        if is_train {
            let cuttable = (self.is_tcp() || self.is_udp()) && !self.layout.is_fragment();
            if !cuttable || self.header_length() > MAX_TRAIN_HEADER {
                return Err(Malformed::BadOffload);
            }
            self.segment = offload.segment;
        }
        match offload.partial {
            Some((start, offset))
                if self.checksum_at() == Some((usize::from(start), usize::from(offset))) =>
            {
                self.checksum = Checksum::Partial;
            }
            // The device would checksum other bytes than those of the outermost transport: completed now, so that
            // stages need no special case.
            Some((start, offset)) => self.finish_checksum(usize::from(start), usize::from(offset))?,
            None if is_train => self.set_partial(),
            None => {}
        }
        Ok(())
    }

    /// Bytes of the IP packet (for a train: headers once and all payload).
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..(self.start + self.length) as usize]
    }

    /// As [`Self::bytes`], to change. Lengths must stay.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..(self.start + self.length) as usize]
    }

    /// The packet and the headroom before it, where a device writes its header.
    #[inline]
    pub fn with_headroom(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize - HEADROOM..(self.start + self.length) as usize]
    }

    /// Number of wire packets it stands for.
    #[inline]
    pub const fn wires(&self) -> u32 {
        // Computed instead of stored: many packets may wait, and their size counts.
        if self.segment == 0 { 1 } else { self.payload_length().div_ceil(self.segment as u32) }
    }

    /// Payload bytes of each wire packet of a train; 0 for a single packet.
    #[inline]
    pub const fn segment(&self) -> u16 {
        self.segment
    }

    /// State of the transport checksum.
    #[inline]
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Bytes of the IP and transport headers together.
    #[inline]
    pub const fn header_length(&self) -> usize {
        self.layout.payload_offset()
    }

    /// Bytes of transport payload, of all wire packets together.
    #[inline]
    pub const fn payload_length(&self) -> u32 {
        self.length - self.layout.payload_offset() as u32
    }

    /// Wire packets and bytes.
    #[inline]
    pub const fn amount(&self) -> Amount {
        let packets = self.wires() as u64;
        Amount { packets, bytes: self.length as u64 + (packets - 1) * self.header_length() as u64 }
    }

    /// The same for the first `count` wire packets.
    #[inline]
    pub const fn amount_of(&self, count: u32) -> Amount {
        if count >= self.wires() {
            return self.amount();
        }
        let each = self.header_length() as u64 + self.segment as u64;
        Amount { packets: count as u64, bytes: count as u64 * each }
    }

    /// IP length of wire packet `i` in bytes.
    #[inline]
    pub const fn wire_length(&self, i: u32) -> u32 {
        self.header_length() as u32 + self.wire_payload(i)
    }

    /// Payload length of wire packet `i` in bytes.
    #[inline]
    pub const fn wire_payload(&self, i: u32) -> u32 {
        let wires = self.wires();
        if i + 1 < wires {
            self.segment as u32
        } else {
            self.payload_length() - (wires - 1) * self.segment as u32
        }
    }

    /// TCP flags of wire packet `i`; `None` if this is not TCP with a whole header.
    #[inline]
    pub fn wire_flags(&self, i: u32) -> Option<u8> {
        let mut flags = self.tcp_flags()?;
        if i + 1 < self.wires() {
            flags &= !(flag::FIN | flag::PSH);
        }
        if i > 0 {
            flags &= !flag::CWR;
        }
        Some(flags)
    }

    /// TCP flags of the header in the buffer.
    #[inline]
    pub fn tcp_flags(&self) -> Option<u8> {
        self.is_tcp().then(|| self.bytes()[self.layout.transport_offset() + 13])
    }

    /// Number of the phase in which it came to its path; 0 if that has none.
    #[inline]
    pub const fn phase(&self) -> u8 {
        self.flags.0 >> Flags::PHASE
    }

    /// Says in which phase it came to its path.
    pub(crate) const fn set_phase(&mut self, number: u8) {
        self.flags.0 = self.flags.0 & (Flags::LENT | Flags::WAITED) | number << Flags::PHASE;
    }

    /// Whether it has waited in the schedule.
    #[inline]
    pub const fn has_waited(&self) -> bool {
        self.flags.has(Flags::WAITED)
    }

    /// Says that it has waited.
    pub(crate) const fn set_waited(&mut self) {
        self.flags = self.flags.with(Flags::WAITED);
    }

    /// The draws of a stage for this packet's flow.
    #[inline]
    pub const fn stream(&self, key: StageKey) -> Stream {
        key.stream(self.flow.identity, self.lineage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::{Frame, Spec};
    use crate::pipeline::wire::{checksum, samples};

    #[test]
    fn a_train_is_longer_than_its_segment() {
        let wires = |payload| {
            let mut frame = Spec::udp(payload).frame();
            frame.offload.segment = 100;
            let packet = frame.parse().unwrap();
            (packet.segment(), packet.wires())
        };
        assert_eq!([99, 100, 101].map(wires), [(0, 1), (0, 1), (100, 2)]);
    }

    #[test]
    fn only_whole_tcp_and_udp_packets_can_be_trains() {
        let fragment =
            Spec { extra: crate::pipeline::testing::frame::Extra::Fragments(64), ..Spec::udp(200) };
        for mut frame in [Frame::plain(samples::PING_V4.to_vec()), fragment.frames().remove(0)] {
            assert!(frame.parse().is_ok());
            frame.offload.segment = 8;
            assert_eq!(frame.parse().err(), Some(Malformed::BadOffload));
        }
    }

    /// A tunnel's inner checksum, for example, is not the one that the stages know of.
    #[test]
    fn a_checksum_elsewhere_than_the_transports_is_finished_at_once() {
        let mut frame = Spec::udp(100).frame();
        frame.offload.partial = Some((28, 10));
        let packet = frame.parse().unwrap();
        assert_eq!(packet.checksum(), Checksum::Complete);
        assert_eq!(packet.bytes()[38..40], (!checksum::sum(&frame.bytes[28..])).to_be_bytes());
        assert_eq!(packet.bytes()[40..], frame.bytes[40..]);
        // Outside of the packet.
        frame.offload.partial = Some((28, 99));
        assert_eq!(frame.parse().err(), Some(Malformed::BadOffload));
    }

    /// Its segments get theirs when it is cut, by a device too.
    #[test]
    fn a_train_with_a_whole_checksum_gets_the_pseudo_header_sum() {
        let left = Spec::udp(200).train(100).frame();
        let mut whole = left.clone();
        whole.offload.partial = None;
        crate::pipeline::testing::frame::fix_checksums(&mut whole.bytes);
        assert_ne!(whole.bytes, left.bytes);
        let packet = whole.parse().unwrap();
        assert_eq!((packet.bytes(), packet.partial()), (&left.bytes[..], left.offload.partial));
    }
}
