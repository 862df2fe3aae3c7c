//! Kinds of devices, as options name them.

use crate::config::plan::PortKind;

/// `--device` of `exec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum DeviceName {
    /// TUN devices.
    Tun,
    /// Veth pairs.
    Veth,
}

impl From<DeviceName> for PortKind {
    fn from(name: DeviceName) -> Self {
        match name {
            DeviceName::Tun => Self::Tun,
            DeviceName::Veth => Self::Veth,
        }
    }
}
