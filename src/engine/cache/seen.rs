//! What the worker must know about a packet before the core sees it.

use crate::pipeline::wire::{FlowKey, Layout, Tcp, Version, ipv4, ipv6, protocol, tcp::flag};

/// Properties of a packet, as `read_packet` in `wire.c` reads them.
pub(super) struct Seen {
    pub(super) key: FlowKey,
    pub(super) is_syn: bool,
    /// The hook counts it if its flow has an entry.
    pub(super) is_counted: bool,
}

impl Seen {
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (layout, _) = Layout::parse(packet).ok()?;
        let bare = if layout.version() == Version::V4 { ipv4::MIN_HEADER } else { ipv6::HEADER };
        let is_tcp = layout.protocol() == protocol::TCP && layout.is_plain();
        let tcp = is_tcp.then(|| Tcp::new(&packet[layout.transport_offset()..]).ok()).flatten();
        Some(Self {
            key: FlowKey::new(packet, layout),
            is_syn: tcp.is_some_and(|tcp| tcp.flags() & flag::SYN != 0),
            is_counted: layout.has_ports() && layout.is_plain() && layout.transport_offset() == bare,
        })
    }
}
