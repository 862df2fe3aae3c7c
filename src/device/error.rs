//! Errors of TUN devices.

use std::io;

use crate::net::NetError;
use crate::net::privilege::PrivilegeError;

/// Why a TUN device could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The name is not one the kernel takes.
    #[error(
        "\"{0}\" cannot name a device: use 1 to 15 bytes without '/', ':', '%' and spaces, and not \".\" or \"..\""
    )]
    BadName(String),
    /// More or fewer queues than a TUN device can have.
    #[error("{name}: a device has 1 to {max} queues, not {queues}", max = crate::device::tun::QUEUES_MAX)]
    QueueCount {
        /// The device.
        name: String,
        /// What was asked for.
        queues: usize,
    },
    /// A device of that name exists; faultwire never takes over devices that it did not create.
    #[error(
        "the device {name} exists already in the network namespace {netns}: choose another name, or remove it \
         (`ip link del {name}`) if nobody uses it"
    )]
    Exists {
        /// The device.
        name: String,
        /// The namespace.
        netns: String,
    },
    /// `/dev/net/tun` cannot be opened.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The kernel refused a request on the device.
    #[error("cannot {action} of the device {name} in the network namespace {netns}: {source}{hint}")]
    Ioctl {
        /// What was tried.
        action: &'static str,
        /// The device.
        name: String,
        /// The namespace.
        netns: String,
        /// The system's reason.
        source: io::Error,
        /// What to do, if that is known; else empty.
        hint: &'static str,
    },
}
