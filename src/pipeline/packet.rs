//! A packet on its way through the router: one wire packet, or a train that stands for several.
//!
//! A train is a GSO super-packet as the kernel hands it over: headers once, then the payload of all its segments. What
//! leaves a stage must be what its wire packets would have been, so a train can be cut at any segment: the front part
//! keeps the buffer's headers, the rest gets a copy of them, placed over payload that is already gone.

use std::net::IpAddr;

use crate::pipeline::counters::Amount;
use crate::pipeline::flow::FlowRef;
use crate::pipeline::pool::{Buffer, HEADROOM, Pool};
use crate::pipeline::rng::{StageKey, Stream};
use crate::pipeline::wire::fragment::{self, CannotFragment, Fragments};
use crate::pipeline::wire::{Ipv4, Layout, Malformed, Update, Version, checksum, protocol, transport};

/// Longest headers (IP and transport) of a train: longer ones do not come from any kernel.
const MAX_TRAIN_HEADER: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Whether the transport checksum in the packet is the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// As on the wire.
    #[default]
    Complete,
    /// Only the pseudo-header sum; whoever puts the packet on a wire must finish it (`NEEDS_CSUM`).
    Partial,
}

/// What the device said about a packet, in terms of the virtio header.
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
    /// Zero for an original; a copy's own number otherwise.
    pub lineage: u32,
    /// Port it came in by.
    pub ingress: u16,
    /// Path it is on, or [`Packet::NO_PATH`].
    pub path: u16,
    /// Stage that it goes on with when its time comes.
    pub stage: u16,
    /// What whoever gave it to the router wants to know when it leaves; copies and fragments have it too.
    pub tag: u16,
    segment: u16,
    checksum: Checksum,
    flags: Flags,
}

/// Two flags in a byte: packets that wait are many, and their size counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flags(u8);

impl Flags {
    /// The buffer belongs to a train whose rest still needs it.
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

/// What is left of a train while its front part is dealt with.
#[derive(Debug)]
pub struct Rest {
    header: [u8; MAX_TRAIN_HEADER],
    start: u32,
    length: u32,
    skipped: u32,
    wires: u16,
    segment: u16,
    checksum: Checksum,
    flags: Flags,
    layout: Layout,
    lineage: u32,
    index: u64,
}

impl Packet {
    /// The path of a packet that is on none: not routed yet, or the router's own.
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
            ingress,
            path: Self::NO_PATH,
            stage: 0,
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
            // Checksummed by other bounds than the outermost transport's: finish it now, so that no stage has to know.
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

    /// The packet with the headroom before it, for a device to fill in its header.
    #[inline]
    pub fn with_headroom(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize - HEADROOM..(self.start + self.length) as usize]
    }

    /// Number of wire packets it stands for.
    #[inline]
    pub const fn wires(&self) -> u32 {
        // Not kept: packets that wait are many, and their size counts.
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
            flags &= !(FIN | PSH);
        }
        if i > 0 {
            flags &= !CWR;
        }
        Some(flags)
    }

    /// TCP flags as they stand in the header.
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

    /// Offset of the transport header, and of the checksum in it, where the protocol has one that can be offloaded.
    fn checksum_at(&self) -> Option<(usize, usize)> {
        let offloadable = self.is_tcp() || self.is_udp();
        let offset = transport::checksum_offset(self.protocol()).filter(|_| offloadable)?;
        Some((self.layout.transport_offset(), offset))
    }

    /// Where the checksummed bytes start and where in them the checksum goes, for a device that is to finish it.
    #[inline]
    pub fn partial(&self) -> Option<(u16, u16)> {
        match self.checksum {
            Checksum::Complete => None,
            Checksum::Partial => self.checksum_at().map(|(start, offset)| (start as u16, offset as u16)),
        }
    }

    /// What a setter of transport fields has to do about the checksum: a sum over the pseudo-header alone does not know of
    /// them.
    #[inline]
    pub const fn checksum_update(&self) -> Update {
        match self.checksum {
            Checksum::Complete => Update::Incremental,
            Checksum::Partial => Update::Leave,
        }
    }

    /// Makes the transport checksum the real one. A train is left as it is: its segments get theirs when it is cut.
    pub fn complete_checksum(&mut self) {
        if self.checksum == Checksum::Complete || self.segment > 0 {
            return;
        }
        if let Some((start, offset)) = self.checksum_at() {
            // Bounds were checked when the packet was read.
            let _ = self.finish_checksum(start, offset);
        }
    }

    fn finish_checksum(&mut self, start: usize, offset: usize) -> Result<(), Malformed> {
        let is_udp = self.is_udp();
        let covered = self.bytes_mut().get_mut(start..).ok_or(Malformed::BadOffload)?;
        if offset + 2 > covered.len() {
            return Err(Malformed::BadOffload);
        }
        // The field holds the pseudo-header sum, so summing over it includes that.
        let sum = !checksum::sum(covered);
        let sum = if is_udp { checksum::udp(sum) } else { sum };
        covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        self.checksum = Checksum::Complete;
        Ok(())
    }

    /// Replaces the transport checksum by the pseudo-header sum.
    fn set_partial(&mut self) {
        let Some((start, offset)) = self.checksum_at() else { return };
        let Some(sum) = transport::pseudo_sum(self.bytes(), self.layout) else { return };
        self.bytes_mut()[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        self.checksum = Checksum::Partial;
    }

    /// Writes the length fields (and what depends on them) after the packet was cut from `before` bytes.
    fn refit(&mut self, before: u32) {
        let (transport, length) = (self.layout.transport_offset(), self.length);
        let partial = if self.checksum == Checksum::Partial { self.checksum_at() } else { None };
        let (is_v4, is_udp) = (self.is_v4(), self.is_udp());
        let bytes = self.bytes_mut();
        if is_v4 {
            set_v4_word(bytes, 2, length as u16);
        } else {
            bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        }
        if is_udp {
            bytes[transport + 4..transport + 6]
                .copy_from_slice(&((length as usize - transport) as u16).to_be_bytes());
        }
        if let Some((start, offset)) = partial {
            let field = start + offset;
            let old = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
            // A pseudo-header sum is not complemented: add the new length, take away the old one.
            let (new_length, old_length) =
                ((length as usize - transport) as u16, (before as usize - transport) as u16);
            let sum = checksum::combine(checksum::combine(old, !old_length), new_length);
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Cuts the train: `self` becomes its first `count` wire packets, and the rest waits for [`Self::attach`].
    ///
    /// # Panics
    /// If `count` is zero or not less than [`Self::wires`].
    pub fn detach(&mut self, count: u32) -> Rest {
        assert!(count > 0 && count < self.wires(), "a train is cut inside");
        let header_length = self.header_length();
        let cut = count * u32::from(self.segment);
        let mut rest = Rest {
            header: [0; MAX_TRAIN_HEADER],
            start: self.start + cut,
            length: self.length - cut,
            skipped: count,
            wires: self.wires() as u16 - count as u16,
            segment: self.segment,
            checksum: self.checksum,
            flags: self.flags,
            layout: self.layout,
            lineage: self.lineage,
            index: self.index + u64::from(count),
        };
        rest.header[..header_length].copy_from_slice(&self.bytes()[..header_length]);
        let before = self.length;
        self.length = header_length as u32 + cut;
        self.single_if(count == 1);
        self.flags = self.flags.with(Flags::LENT);
        self.refit(before);
        if self.is_tcp() {
            let at = self.layout.transport_offset() + 13;
            self.bytes_mut()[at] &= !(FIN | PSH);
        }
        rest
    }

    /// Makes `self` the rest of the train that it was the front of, whatever has become of its bytes meanwhile.
    pub fn attach(&mut self, rest: &Rest) {
        let before = rest.length + rest.skipped * u32::from(rest.segment);
        self.start = rest.start;
        self.length = rest.length;
        self.segment = rest.segment;
        self.single_if(rest.wires == 1);
        self.checksum = rest.checksum;
        self.flags = rest.flags;
        self.layout = rest.layout;
        self.lineage = rest.lineage;
        self.index = rest.index;
        let header_length = self.header_length();
        let transport = self.layout.transport_offset();
        let (is_tcp, is_v4) = (self.is_tcp(), self.is_v4());
        let bytes = self.bytes_mut();
        bytes[..header_length].copy_from_slice(&rest.header[..header_length]);
        if is_tcp {
            let sequence = &mut bytes[transport + 4..transport + 8];
            let old = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            let new = old.wrapping_add(rest.skipped * u32::from(rest.segment));
            sequence.copy_from_slice(&new.to_be_bytes());
            bytes[transport + 13] &= !CWR;
        }
        if is_v4 {
            let id = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(rest.skipped as u16);
            set_v4_word(bytes, 4, id);
        }
        self.refit(before);
    }

    /// A train of one is a single packet.
    const fn single_if(&mut self, is_one: bool) {
        if is_one {
            self.segment = 0;
        }
    }

    /// Moves the packet out, into a buffer of its own that fits it; `self` is left without one where it can be.
    #[must_use]
    pub fn take(&mut self, pool: &mut Pool) -> Self {
        let tight = self.buffer.len() - HEADROOM - self.length as usize;
        let buffer = if !self.flags.has(Flags::LENT) && self.start as usize == HEADROOM && tight < 24 {
            std::mem::take(&mut self.buffer)
        } else {
            self.fitted(pool)
        };
        self.with_buffer(buffer)
    }

    /// A copy in a buffer of its own. `salt` must be unique among the copies and fragments that are made of this packet:
    /// it makes the copy's own lineage, and so its own draws.
    #[must_use]
    pub fn copy(&self, pool: &mut Pool, salt: u64) -> Self {
        let buffer = self.fitted(pool);
        Self { lineage: descend(self.lineage, salt), ..self.with_buffer(buffer) }
    }

    /// A single packet with the same place in the flow but other bytes: `length` bytes that `write` fills in.
    pub(crate) fn derive(
        &self,
        pool: &mut Pool,
        length: usize,
        salt: u64,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<Self, (Buffer, Malformed)> {
        let mut buffer = pool.fitted(length);
        write(&mut buffer[HEADROOM..HEADROOM + length]);
        let derived = Self::parse(buffer, length, Offload::default(), self.ingress)?;
        let lineage = descend(self.lineage, salt);
        Ok(Self {
            index: self.index,
            flow: self.flow,
            lineage,
            path: self.path,
            stage: self.stage,
            tag: self.tag,
            flags: Flags(self.flags.0 & !(Flags::LENT | Flags::WAITED)),
            ..derived
        })
    }

    fn fitted(&self, pool: &mut Pool) -> Buffer {
        let mut buffer = pool.fitted(self.length as usize);
        buffer[HEADROOM..HEADROOM + self.length as usize].copy_from_slice(self.bytes());
        buffer
    }

    const fn with_buffer(&self, buffer: Buffer) -> Self {
        Self {
            buffer,
            start: HEADROOM as u32,
            length: self.length,
            index: self.index,
            flow: self.flow,
            layout: self.layout,
            lineage: self.lineage,
            ingress: self.ingress,
            path: self.path,
            stage: self.stage,
            tag: self.tag,
            segment: self.segment,
            checksum: self.checksum,
            flags: self.flags.without(Flags::LENT),
        }
    }

    /// The buffer, for the pool.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Protocol number behind the IP headers.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.layout.protocol()
    }

    /// True for IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.layout.version() == Version::V4
    }

    /// True for TCP with a whole header.
    #[inline]
    pub const fn is_tcp(&self) -> bool {
        self.layout.has_ports() && self.layout.protocol() == protocol::TCP
    }

    /// True for UDP with a whole header.
    #[inline]
    pub const fn is_udp(&self) -> bool {
        self.layout.has_ports() && self.layout.protocol() == protocol::UDP
    }

    /// True for ICMP and `ICMPv6` with a whole header.
    #[inline]
    pub const fn is_icmp(&self) -> bool {
        matches!(self.layout.protocol(), protocol::ICMP | protocol::ICMPV6)
            && !self.layout.is_later_fragment()
            && !self.layout.is_transport_malformed()
    }

    /// Source and destination port, if it has ports.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.layout.ports(self.bytes())
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    fn address(&self, v4: usize, v6: usize) -> IpAddr {
        let bytes = self.bytes();
        if self.is_v4() {
            IpAddr::from(<[u8; 4]>::try_from(&bytes[v4..v4 + 4]).expect("an IPv4 header"))
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&bytes[v6..v6 + 16]).expect("an IPv6 header"))
        }
    }

    /// DSCP and ECN in one byte: IPv4 TOS, IPv6 traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        let bytes = self.bytes();
        if self.is_v4() { bytes[1] } else { bytes[0] << 4 | bytes[1] >> 4 }
    }

    /// True if its transport understands congestion marks (RFC 3168): ECT(0), ECT(1) or already marked.
    #[inline]
    pub fn is_ecn_capable(&self) -> bool {
        self.traffic_class() & 3 != 0
    }

    /// Marks congestion experienced; false if it was marked already.
    pub fn mark_congestion(&mut self) -> bool {
        self.set_traffic_class(self.traffic_class() | 3)
    }

    /// Clears what is said about congestion (Not-ECT, RFC 3168 section 5); false if nothing was.
    pub fn clear_congestion(&mut self) -> bool {
        self.set_traffic_class(self.traffic_class() & !3)
    }

    /// False if it was that.
    fn set_traffic_class(&mut self, class: u8) -> bool {
        if class == self.traffic_class() {
            return false;
        }
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 {
            set_v4_word(bytes, 0, u16::from_be_bytes([bytes[0], class]));
        } else {
            bytes[0] = bytes[0] & 0xf0 | class >> 4;
            bytes[1] = bytes[1] & 0x0f | class << 4;
        }
        true
    }

    /// TTL or hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[if self.is_v4() { 8 } else { 7 }]
    }

    /// Takes one from the TTL or hop limit, which must not be zero.
    #[inline]
    pub fn decrement_hop_limit(&mut self) {
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 {
            let word = u16::from_be_bytes([bytes[8], bytes[9]]);
            set_v4_word(bytes, 8, word.wrapping_sub(0x100));
        } else {
            bytes[7] = bytes[7].wrapping_sub(1);
        }
    }

    /// Makes the IP header checksum and the transport checksum of a single packet right for its bytes as they are.
    pub fn fix_checksums(&mut self) {
        let layout = self.layout;
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 && let Ok(mut ip) = Ipv4::new(&mut *bytes) {
            ip.fill_checksum();
        }
        transport::fill_checksum(bytes, layout);
        self.checksum = Checksum::Complete;
    }

    /// How this single packet is cut for a link of `mtu` bytes. Its checksum must be complete.
    ///
    /// # Errors
    /// Why it cannot be cut.
    pub fn fragments(&self, mtu: u32) -> Result<Fragments, CannotFragment> {
        Fragments::plan(self.bytes(), self.layout, mtu as usize)
    }

    /// The next fragment of the plan; `None` after the last.
    pub fn next_fragment(&self, plan: &mut Fragments, pool: &mut Pool) -> Option<Self> {
        let spec = plan.next()?;
        let write = |out: &mut [u8]| {
            fragment::write_fragment(self.bytes(), spec, out);
        };
        // Offsets are unique among the fragments, and far from the small numbers that count copies.
        let salt = FRAGMENT_SALT + spec.offset as u64;
        self.derive(pool, spec.total_len(), salt, write).map_err(|(buffer, _)| pool.give(buffer)).ok()
    }
}

const FRAGMENT_SALT: u64 = 1 << 32;

/// The lineage of a child: never zero, which is that of originals.
const fn descend(lineage: u32, salt: u64) -> u32 {
    let mixed = (lineage as u64 ^ salt.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}

/// Sets a 16-bit word of an IPv4 header and adjusts the header checksum (RFC 1624).
fn set_v4_word(bytes: &mut [u8], at: usize, new: u16) {
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let sum = u16::from_be_bytes([bytes[10], bytes[11]]);
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    bytes[10..12].copy_from_slice(&checksum::update16(sum, old, new).to_be_bytes());
}
