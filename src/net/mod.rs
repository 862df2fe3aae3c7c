//! Network namespaces, and addresses and routes in them over netlink.
//!
//! - [`netns`]: a namespace as an open file descriptor; run something inside it.
//! - [`named`]: namespaces under `/run/netns` that are removed with their owner; [`cleanup`]: those of a killed owner.
//! - [`link`]: MTU, queue length, addresses, routes and counters of a device.
//! - [`lookup`]: the kind of a device, and the device of the default route.
//! - [`veth`]: pairs of devices between two namespaces; [`hook`]: programs at the ingress of devices.
//! - [`process`]: a process by a descriptor; [`target`]: finds the namespace of a name, a process or a container ([`container`]).
//! - [`defaults`]: the settings that a created namespace starts with, whatever those of the host are.
//! - [`transparent`]: a namespace that takes every connection, whatever address it is for.
//! - [`sysctl`]: settings under `/proc/sys/net` of a namespace.
//! - [`files`]: how many files may be open.
//! - [`privilege`]: the privileges of this process; [`userns`]: root rights in a user namespace.

pub mod cleanup;
pub mod container;
pub mod defaults;
mod error;
pub mod files;
pub mod hook;
pub mod link;
pub mod lookup;
pub mod named;
pub mod netns;
pub mod privilege;
pub mod process;
pub mod sysctl;
pub mod target;
pub mod transparent;
pub mod userns;
pub mod veth;

pub use error::NetError;
pub use link::{LinkSetup, LinkStats};
pub use named::NamedNetns;
pub use netns::Netns;
