//! Observations of the kernel of a network namespace: that of the calling thread.

pub mod counters;
pub mod drops;
pub mod pmtu;
pub mod since;
mod sock_diag;
pub mod sockets;

/// Where the kernel shows the network of the calling thread. `/proc/net` would be that of the process's first thread.
pub(crate) const PROC_NET: &str = "/proc/thread-self/net";
