//! The report of a case: the network, the traffic, what happened to it, and whether this was as expected.

pub mod diagram;
pub mod headline;
pub mod layout;
pub mod network;
pub mod page;
pub mod story;

pub use diagram::{Diagram, diagram};
pub use story::{CaseStory, TrialStory};

use crate::pipeline::time::Instant;

/// One thing that the router did to a packet, with names instead of indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The time since the start of the router.
    pub at: Instant,
    /// What the router did.
    pub kind: RecordKind,
    /// The host by whose port the packet came in; for the router's own packets, the host that they answer.
    pub from: String,
    /// How many wire packets it stands for.
    pub packets: u32,
    /// Length of the IP packet in bytes; of a train, headers once.
    pub length: u32,
    /// Payload bytes of each segment of a train; 0 for a single packet.
    pub segment: u16,
    /// Its first bytes, from the IP header on.
    pub bytes: Vec<u8>,
}

/// See [`Record::kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// Read from the host's device.
    Received,
    /// Written to the device of this host.
    Sent {
        /// The host.
        to: String,
    },
    /// Dropped.
    Dropped {
        /// Name of the stage; `None`: by the router itself.
        stage: Option<String>,
        /// The reason's name.
        reason: String,
    },
    /// Made by the router: an ICMP error, a copy, a fragment.
    Created,
    /// Changed by this stage.
    Rewritten {
        /// Name of the stage.
        stage: String,
    },
}
