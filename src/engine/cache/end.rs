//! The ends of an attachment, or of veth ports, as the flow cache sees them.

/// One end at which packets come in. Its index is the direction of these packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// The router's port.
    pub(super) port: usize,
    /// The path that all its packets take; `None`: they are routed.
    pub(super) path: Option<u16>,
    /// The port whose frames pass the hook of this end.
    pub(super) written: usize,
    /// The device to which the programs give packets that leave by this end.
    pub(super) device: u32,
}

impl End {
    /// Both ends of a wire: the router's port `port`, from which packets take the path `path`, and the next port with the next
    /// path.
    pub(super) const fn wire(port: usize, path: u16) -> [Self; 2] {
        // Packets that come in by one end are written to the other one, and pass the hook of the first direction.
        [
            Self { port, path: Some(path), written: port + 1, device: 0 },
            Self { port: port + 1, path: Some(path + 1), written: port, device: 0 },
        ]
    }

    /// A veth port.
    pub(super) const fn routed(port: usize, device: u32) -> Self {
        Self { port, path: None, written: port, device }
    }
}
