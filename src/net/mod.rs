//! Network namespaces, and addresses and routes in them over netlink.
//!
//! - [`netns`]: a namespace as an open file descriptor; run something inside it.
//! - [`named`]: namespaces under `/run/netns` that go with their owner; [`cleanup`]: what a killed owner left.
//! - [`link`]: MTU, queue length, addresses, routes and counters of a device.
//! - [`lookup`]: what a device is, and which one the default route leads to.
//! - [`process`]: a process by a descriptor; [`target`]: whom a user means by a namespace, a process or a container ([`container`]).
//! - [`defaults`]: the settings that a created namespace starts with, whatever those of the host are.
//! - [`sysctl`]: settings under `/proc/sys/net` of a namespace.
//! - [`privilege`]: what this process may do, and why not; [`userns`]: root without being root.

pub mod cleanup;
pub mod container;
pub mod defaults;
mod error;
pub mod link;
pub mod lookup;
pub mod named;
pub mod netns;
pub mod privilege;
pub mod process;
pub mod sysctl;
pub mod target;
pub mod userns;

pub use error::NetError;
pub use link::{LinkSetup, LinkStats};
pub use named::NamedNetns;
pub use netns::Netns;
