//! How a translator classifies packets.

use crate::pipeline::counters::Reason;
use crate::pipeline::packet::Packet;
use crate::pipeline::wire::{FlowKey, Quote, protocol, quote};

/// The kind of a packet for a translator.
pub(super) enum Kind {
    /// A packet of a session, with this flow.
    Session(FlowKey),
    /// A fragment without ports.
    Later,
    /// An ICMP error, with what it is about.
    Error(Quote),
}

/// The flow of the most common packets: whole TCP and UDP packets.
#[inline]
pub(super) fn plain(packet: &Packet) -> Option<FlowKey> {
    let layout = packet.layout;
    let is_plain = layout.is_plain() && matches!(layout.protocol(), protocol::TCP | protocol::UDP);
    is_plain.then(|| FlowKey::new(packet.bytes(), layout))
}

/// Classifies any packet.
///
/// # Errors
/// If a translator cannot handle it.
#[cold]
pub(super) fn kind(packet: &Packet) -> Result<Kind, Reason> {
    let (bytes, layout) = (packet.bytes(), packet.layout);
    if layout.is_later_fragment() {
        return Ok(Kind::Later);
    }
    if layout.is_transport_malformed() || layout.is_source_routed() {
        return Err(Reason::NatUnsupported);
    }
    let key = FlowKey::new(bytes, layout);
    let at = layout.transport_offset();
    match layout.protocol() {
        protocol::TCP | protocol::UDP if !layout.is_fragment() => Ok(Kind::Session(key)),
        protocol::TCP | protocol::UDP => {
            let (source, destination) = layout.ports(bytes).ok_or(Reason::NatUnsupported)?;
            Ok(Kind::Session(key.from(key.source_host(), source).to(key.destination_host(), destination)))
        }
        protocol::ICMP | protocol::ICMPV6 if quote::is_error(bytes, layout) => {
            Quote::read(bytes, layout).map(Kind::Error).ok_or(Reason::NatUnsupported)
        }
        protocol::ICMP if matches!(bytes[at], 0 | 8) => Ok(Kind::Session(with_identifier(key, bytes, at))),
        protocol::ICMPV6 if matches!(bytes[at], 128 | 129) => {
            Ok(Kind::Session(with_identifier(key, bytes, at)))
        }
        _ => Err(Reason::NatUnsupported),
    }
}

/// The key of an echo; in a fragment it has no identifier.
fn with_identifier(key: FlowKey, bytes: &[u8], at: usize) -> FlowKey {
    key.from(key.source_host(), u16::from_be_bytes([bytes[at + 4], bytes[at + 5]]))
}

/// Whether it is an echo request: one from outside never belongs to a session (RFC 5508 section 3.1).
#[cold]
pub(super) fn is_request(packet: &Packet) -> bool {
    let kind = packet.bytes().get(packet.layout.transport_offset());
    matches!((packet.layout.protocol(), kind), (protocol::ICMP, Some(8)) | (protocol::ICMPV6, Some(128)))
}
