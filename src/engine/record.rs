//! What happened to each packet, for the reader of a case: a copy of its headers, sent to the control side.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::pipeline::packet::Packet;
use crate::pipeline::router::What;
use crate::pipeline::time::Instant;

/// Bytes of each packet that a record keeps: IPv6, TCP and its options.
pub const HEADER: usize = 100;

/// One thing that happened to a packet or train.
#[derive(Debug, Clone)]
pub struct Record {
    /// When, in the time of the router.
    pub at: Instant,
    /// What.
    pub what: What,
    /// Port it had come in by.
    pub ingress: u16,
    /// Wire packets it stood for.
    pub wires: u32,
    /// Payload bytes of each segment of a train; 0 for a single packet.
    pub segment: u16,
    /// Length of the IP packet, of a train headers once.
    pub length: u32,
    /// Its first bytes.
    pub header: [u8; HEADER],
}

impl Record {
    /// The bytes that were kept.
    pub fn bytes(&self) -> &[u8] {
        &self.header[..HEADER.min(self.length as usize)]
    }
}

/// A bounded channel of records. A worker never waits: what does not fit is counted as lost.
#[derive(Debug, Clone)]
pub struct Records {
    sender: Sender<Record>,
    receiver: Receiver<Record>,
}

impl Records {
    /// Room for `capacity` records that were not taken yet.
    pub fn new(capacity: usize) -> Self {
        let (sender, receiver) = bounded(capacity);
        Self { sender, receiver }
    }

    /// The records since the last call.
    pub fn take(&self) -> impl Iterator<Item = Record> + '_ {
        self.receiver.try_iter()
    }

    /// False if the channel was full and the record is lost.
    pub(super) fn push(&self, what: What, packet: &Packet, at: Instant) -> bool {
        let bytes = packet.bytes();
        let kept = bytes.len().min(HEADER);
        let mut header = [0; HEADER];
        header[..kept].copy_from_slice(&bytes[..kept]);
        let record = Record {
            at,
            what,
            ingress: packet.ingress,
            wires: packet.wires(),
            segment: packet.segment(),
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            header,
        };
        self.sender.try_send(record).is_ok()
    }
}
