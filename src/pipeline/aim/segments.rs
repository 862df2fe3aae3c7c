//! TCP segments by what they are, and by what their flow has sent before them.
//!
//! For each flow, the end of what it has sent is remembered as one number, in the arithmetic of sequence numbers (RFC
//! 9293 section 3.4). A segment that begins at or after this end is new. A segment that begins before it counts as
//! sent again, even if it is only late. A SYN with another number begins another connection. Trains are answered for
//! as a whole: their segments follow each other, so what they are changes only at the few places that [`View::marks`]
//! names.

use crate::pipeline::conn;
use crate::pipeline::packet::Packet;
use crate::pipeline::params::{Opened, Segment, Segments, Transmission};
use crate::pipeline::wire::serial::is_before;
use crate::pipeline::wire::tcp::{flag, option};

/// Shortest SACK option with a block in it.
const SACK_BLOCK: usize = 10;

/// The kinds of wire packet `i` by itself; none if it is not a whole segment.
pub fn kinds(packet: &Packet, i: u32) -> Segments {
    let Some(flags) = packet.wire_flags(i).filter(|_| !packet.layout.is_fragment()) else {
        return Segments::NONE;
    };
    let has = |flag: u8| flags & flag != 0;
    let (syn, fin, rst, ack) = (has(flag::SYN), has(flag::FIN), has(flag::RST), has(flag::ACK));
    let data = packet.wire_payload(i) > 0;
    let sack = || conn::tcp(packet)?.find_option(option::SACK);
    Segments::NONE
        .with_if(syn && !ack && !rst, Segment::Syn)
        .with_if(syn && ack && !rst, Segment::SynAck)
        .with_if(fin && !syn && !rst, Segment::Fin)
        .with_if(rst, Segment::Rst)
        .with_if(data && !rst, Segment::Data)
        .with_if(ack && !data && !(syn || fin || rst), Segment::PureAck)
        .with_if(sack().is_some_and(|range| range.len() >= SACK_BLOCK), Segment::Sack)
}

/// What one flow has sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// The flow has sent a packet other than a RST.
    begun: bool,
    /// The flow has sent a SYN, and nothing after it yet.
    opening: bool,
    /// Sequence number of the SYN, if it was seen.
    syn: Option<u32>,
    /// One more than the last sequence number sent.
    end: u32,
    /// New data segments.
    data: u64,
    /// Sequence number of the first byte of the data segment that is aimed at.
    aimed: Option<u32>,
}

/// A single segment or a train, and what its flow had sent just before it.
#[derive(Debug)]
pub struct View {
    sent: Sent,
    flags: u8,
    /// Sequence number of the first byte of payload.
    first: u32,
    wires: u32,
    /// Payload length of each wire packet but the last.
    segment: u32,
    payload: u32,
    /// How many wire packets at the front begin with data that was sent before.
    repeated: u32,
    /// Whether it is a SYN that was sent before.
    repeats_syn: bool,
    /// The wire packet that carries the first byte aimed at, and whether this byte was sent before.
    aimed: Option<(u32, bool)>,
}

impl Sent {
    /// Views a packet after what its flow has sent; `None` if the packet is not a whole segment.
    pub fn view(&self, packet: &Packet, aim: Option<Transmission>) -> Option<View> {
        let tcp = conn::tcp(packet).filter(|_| !packet.layout.is_fragment())?;
        let (flags, sequence) = (tcp.flags(), tcp.sequence());
        let is_syn = flags & flag::SYN != 0 && flags & flag::RST == 0;
        let first = sequence.wrapping_add(is_syn.into());
        let repeats_syn = is_syn && self.syn == Some(sequence);
        let mut sent = *self;
        if is_syn && !repeats_syn {
            sent = Self { begun: true, syn: Some(sequence), end: first, ..Self::default() };
        } else if !sent.begun {
            sent.end = first;
        }
        let payload = packet.payload_length();
        let segment = if packet.segment() == 0 { payload } else { packet.segment().into() };
        let mut view = View {
            sent,
            flags,
            first,
            wires: packet.wires(),
            segment,
            payload,
            repeated: 0,
            repeats_syn,
            aimed: None,
        };
        view.repeated = view.count_repeated();
        view.aimed = aim.and_then(|aim| view.find(aim.of));
        Some(view)
    }

    /// When the connection was opened; `None` before its first packet.
    pub fn opened(&self) -> Option<Opened> {
        self.begun.then_some(if self.syn.is_some() { Opened::After } else { Opened::Before })
    }

    /// Remembers the first `count` wire packets of what was viewed.
    pub fn learn(&mut self, view: &View, count: u32) {
        if view.is(flag::RST) {
            return;
        }
        *self = view.sent;
        self.begun = true;
        if view.is(flag::SYN) {
            self.opening = !view.is(flag::ACK) && (self.opening || !view.repeats_syn);
        } else {
            self.opening &= !view.is(flag::ACK);
        }
        let new = if view.payload > 0 { count.saturating_sub(view.repeated) } else { 0 };
        self.data += u64::from(new);
        if let Some((wire, false)) = view.aimed
            && wire < count
        {
            self.aimed = Some(view.first_of(wire));
        }
        let fin = count == view.wires && view.is(flag::FIN);
        let end = view.first.wrapping_add((count * view.segment).min(view.payload)).wrapping_add(fin.into());
        if new > 0 || is_before(self.end, end) {
            self.end = end;
        }
    }
}

impl View {
    /// How many wire packets may be answered for at once. SYNs and RSTs do not come in trains: a packet that claims
    /// to be such a train is taken apart.
    pub const fn limit(&self) -> u32 {
        if self.flags & (flag::SYN | flag::RST) == 0 { self.wires } else { 1 }
    }

    /// The wire packets, besides the last, at which the answer may change.
    pub fn marks(&self) -> [u32; 4] {
        let aimed = self.aimed.map_or(0, |(wire, _)| wire);
        [1, self.repeated, aimed, aimed + 1]
    }

    /// The kinds of wire packet `i` after what was sent before it, given its kinds by itself.
    pub fn remembered(&self, i: u32, kinds: Segments) -> Segments {
        let (data, is_rst) = (kinds.has(Segment::Data), kinds.has(Segment::Rst));
        let is_syn = !is_rst && self.is(flag::SYN);
        let counts = data || kinds.has(Segment::Fin);
        // The first wire packet with an ACK after the SYN ends the handshake.
        let opening = self.sent.opening && (i == 0 || !self.is(flag::ACK));
        Segments::NONE
            .with_if(data && i >= self.repeated, Segment::NewData)
            .with_if(counts && i < self.repeated || self.repeats_syn, Segment::Retransmission)
            .with_if(opening && kinds.has(Segment::PureAck), Segment::HandshakeAck)
            .with_if(!is_syn && !opening && (self.sent.begun || !is_rst), Segment::Established)
    }

    /// Whether wire packet `i` carries the data aimed at.
    pub fn carries(&self, i: u32, aim: Transmission) -> bool {
        self.aimed.is_some_and(|(wire, again)| wire == i && (again || !aim.again))
    }

    /// Whether the connection's beginning was seen.
    pub const fn opened(&self) -> Opened {
        if self.sent.syn.is_some() { Opened::After } else { Opened::Before }
    }

    const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    const fn first_of(&self, wire: u32) -> u32 {
        self.first.wrapping_add(wire.wrapping_mul(self.segment))
    }

    fn count_repeated(&self) -> u32 {
        let fresh = !self.sent.begun || self.is(flag::RST);
        if fresh || !is_before(self.first, self.sent.end) {
            return 0;
        }
        let behind = self.sent.end.wrapping_sub(self.first);
        if self.segment == 0 { 1 } else { behind.div_ceil(self.segment).min(self.wires) }
    }

    /// The wire packet that carries the first byte of the flow's new data segment number `of`.
    fn find(&self, of: u64) -> Option<(u32, bool)> {
        if self.payload == 0 || self.is(flag::RST) {
            return None;
        }
        if let Some(aimed) = self.sent.aimed {
            let wire = aimed.wrapping_sub(self.first) / self.segment;
            return (wire < self.repeated).then_some((wire, true));
        }
        let ahead = u32::try_from(of.checked_sub(self.sent.data + 1)?).ok()?;
        let wire = self.repeated.checked_add(ahead)?;
        (wire < self.wires).then_some((wire, false))
    }
}

#[cfg(test)]
mod tests;
