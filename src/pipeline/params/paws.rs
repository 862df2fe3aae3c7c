//! Parameters of the peer that keeps one timestamp per host.

use crate::pipeline::time::Duration;

/// See [`crate::pipeline::params::ImpairmentParams::PawsPerHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PawsPerHostParams {
    /// For how long a timestamp is remembered: 60 s (`TCP_PAWS_MSL`) in Linux.
    pub window: Duration,
    /// A SYN without timestamps is dropped too while one is remembered.
    pub require_timestamp: bool,
}
