//! TUN and TAP devices: the router's ports.
//!
//! - [`tun`]: a device with several queues and the offloads the kernel grants; [`Queue`] reads and writes frames.
//! - [`tap`]: frames of TAP devices, and what they keep of their Ethernet headers while only the IP packet travels.
//! - [`vnet`]: the ten bytes in front of each frame.
//! - [`steer`]: both directions of a flow on the same queue of every port.

mod error;
pub mod steer;
pub mod tap;
pub mod tun;
pub mod vnet;

pub use error::DeviceError;
pub use tun::{Granted, Offload, Queue, Tun, TunOptions};
pub use vnet::VnetHeader;
