//! Attachments to existing devices: two TAP devices beside the device, and programs that send its IP traffic through them.
//!
//! ```text
//! target sends ──► DEV egress ──► outer TAP ──► worker ──► outer TAP ──► DEV egress ──► network
//! target gets  ◄── DEV ingress ◄── inner TAP ◄── worker ◄── inner TAP ◄── DEV ingress ◄── network
//! ```
//!
//! The device itself does not change: addresses, routes, MTU, queues and the packets' TTL stay. Packets that are not IP stay in
//! the kernel. The programs are bound to descriptors of this process, so traffic bypasses faultwire as soon as it ends.

mod keeper;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;

use crate::attach::keeper::Keeper;
use crate::bpf::flows::FlowTable;
use crate::bpf::{BpfError, CacheParams, Devices, HookCounters, Links, Programs};
use crate::device::{DeviceError, Offload, Queue, Tun, TunOptions};
use crate::net::lookup::{self, Presence};
use crate::net::{LinkSetup, NetError, Netns, link, sysctl};

/// MTU of the TAP devices, the maximum of a TAP: everything that the device can send fits.
const MTU: u32 = 65_521;
/// Packets or trains that the queue of a TAP holds.
const QUEUE: u32 = 4_096;
/// Names that are tried for the TAP devices.
const TRIES: u16 = 16;
/// Prefix of the names of the TAP devices.
const PREFIX: &str = "fw-";

/// Why a device cannot be attached to. The device was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such device.
    #[error("there is no device {device:?} in the network namespace {netns}; it has {others}")]
    NoDevice {
        /// The name that was asked for.
        device: String,
        /// The namespace that was searched.
        netns: String,
        /// The devices that exist.
        others: String,
    },
    /// The namespace has no default route, or one over several devices.
    #[error(
        "the network namespace {netns} has no default route, or none to one device alone: choose the device with --dev; it has \
         {others}"
    )]
    NoDefault {
        /// The namespace that was searched.
        netns: String,
        /// The devices that exist.
        others: String,
    },
    /// It is the loopback device.
    #[error(
        "{0} is the loopback device: a packet that it sends is received in the same step, so that each would be hit twice, \
         and programs of this host that talk to each other would break; attach to the device that leads to the peer"
    )]
    Loopback(String),
    /// Its frames have no Ethernet header.
    #[error(
        "{0} carries bare IP packets (a TUN, WireGuard or tunnel device): attach works on Ethernet devices; attach to the \
         device that the tunnel's packets leave by"
    )]
    NotEthernet(String),
    /// It belongs to faultwire.
    #[error(
        "{0} is a device that faultwire itself made: to change the faults of a port, change its configuration; to add an \
         attachment, name the device that the first one is attached to"
    )]
    Own(String),
    /// A namespace or a link.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A TAP device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The programs.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A descriptor.
    #[error("cannot keep the devices' descriptors: {0}")]
    Keep(io::Error),
}

/// A device with its TAPs and loaded programs. Once attached, its IP traffic passes the TAPs.
#[derive(Debug)]
pub struct Attachment {
    // Dropped in this order: the programs before the devices to which they redirect.
    links: Option<Links>,
    programs: Programs,
    _keeper: Keeper,
    presence: Presence,
    netns: Netns,
    device: String,
    taps: [String; 2],
    /// Requested features that the kernel did not grant, one sentence each.
    pub notices: Vec<String>,
}

/// The ends of an attachment: a queue for each worker, of the outer TAP (what the device sends) and of the inner one.
pub type Taps = [Vec<Queue>; 2];

/// Finds the device, or says why it cannot be attached to. Without a name, it is the device of the default route.
///
/// # Errors
/// If there is no such device, or it is unsuitable.
pub fn find(netns: &Netns, device: Option<&str>) -> Result<lookup::Device, AttachError> {
    let all = lookup::devices(netns)?;
    let searched = netns.label().to_owned();
    let others = || all.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let name = match device {
        Some(name) => name.to_owned(),
        None => match lookup::default_device(netns)? {
            Some(name) => name,
            None => return Err(AttachError::NoDefault { netns: searched, others: others() }),
        },
    };
    let Some(found) = all.iter().find(|device| device.name == name).cloned() else {
        return Err(AttachError::NoDevice { device: name, netns: searched, others: others() });
    };
    if found.is_loopback {
        return Err(AttachError::Loopback(name));
    }
    if found.is_ours {
        return Err(AttachError::Own(name));
    }
    if !found.is_ethernet {
        return Err(AttachError::NotEthernet(name));
    }
    Ok(found)
}

impl Attachment {
    /// Creates the TAPs beside `device` and loads the programs, with a flow cache if there is a `cache`. Traffic passes them after
    /// [`Attachment::attach`].
    ///
    /// # Errors
    /// If something cannot be created; everything created before is removed.
    pub fn prepare(
        netns: &Netns,
        device: &lookup::Device,
        workers: usize,
        cache: Option<CacheParams>,
    ) -> Result<(Self, Taps), AttachError> {
        let presence = Presence::of(netns, &device.name)?;
        let first = random() as u16;
        let open =
            |name: &str| Tun::open_tap(&TunOptions { name, netns, queues: workers, offload: Offload::Uso });
        let (number, [(outer, _), (inner, granted)]) = open_both(first, open)?;
        let [outer_name, inner_name] = names(number);
        for name in [&outer_name, &inner_name] {
            set_up(netns, name)?;
        }
        let index = |name: &str| -> Result<u32, AttachError> {
            let missing = || NetError::NotFound(name.into());
            Ok(lookup::device(netns, name)?.ok_or_else(missing)?.index)
        };
        let devices =
            Devices { device: device.index, outer: index(&outer_name)?, inner: index(&inner_name)? };
        let mut notices = Vec::new();
        // The kernel cuts a train that is too long for a TAP into single packets, so a flow of long and short trains would pass by
        // two ways at once.
        let cache = cache.filter(|_| !device.is_big);
        if device.is_big {
            notices.push(format!(
                "{0} makes trains of over 64 KiB (BIG TCP): all packets go through faultwire, one by one, which is slow; \
                 `ip link set {0} gso_max_size 65536 gro_max_size 65536` avoids that",
                device.name
            ));
        }
        let programs = Programs::load(devices, number, cache)?;
        if granted.offload != Offload::Uso {
            notices.push(format!(
                "this kernel grants TAP devices {} offload only; bulk transfers will be slower",
                granted.offload
            ));
        }
        let keeper = Keeper::of(outer.iter().chain(&inner)).map_err(AttachError::Keep)?;
        let attachment = Self {
            links: None,
            programs,
            _keeper: keeper,
            presence,
            netns: netns.clone(),
            device: device.name.clone(),
            taps: [outer_name, inner_name],
            notices,
        };
        Ok((attachment, [outer, inner]))
    }

    /// Sends the device's IP traffic through the TAPs from now on; a worker must read them.
    ///
    /// # Errors
    /// If the kernel has no tcx, or the device is gone.
    pub fn attach(&mut self) -> Result<(), AttachError> {
        let programs = &self.programs;
        self.links = Some(self.netns.run(|| programs.attach())??);
        Ok(())
    }

    /// Lets the device's traffic bypass the TAPs from now on. Packets in the TAPs are still forwarded until this value is
    /// dropped. When this returns, no more packets enter the TAPs.
    pub fn detach(&mut self) {
        if let Some(links) = &mut self.links {
            links.release_device();
            crate::bpf::wait_for_programs();
        }
    }

    /// Whether the device still exists, in the namespace of the TAPs. The kernel leaves the programs at a device that is moved to
    /// another namespace, where they find no TAP and every packet is lost.
    pub fn is_attached(&self) -> bool {
        self.links.as_ref().is_some_and(Links::is_attached) && self.presence.is_there()
    }

    /// The counters of the hooks: up (packets that the device sends), down (packets that it receives).
    pub fn counters(&self) -> [HookCounters; 2] {
        self.programs.counters()
    }

    /// The flow cache of the hooks, if there is one.
    pub const fn flows(&self) -> Option<&FlowTable> {
        self.programs.flows()
    }

    /// The name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The namespace of the device.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The names of the TAPs: outer, inner.
    pub const fn taps(&self) -> &[String; 2] {
        &self.taps
    }
}

/// The standard library's hash maps are keyed from the system's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn names(number: u16) -> [String; 2] {
    ["out", "in"].map(|side| format!("{PREFIX}{number:04x}-{side}"))
}

/// Opens both TAPs with free names; also returns their number, which is part of the mark.
fn open_both<T>(
    first: u16,
    open: impl Fn(&str) -> Result<T, DeviceError>,
) -> Result<(u16, [T; 2]), DeviceError> {
    let mut tries = 0;
    loop {
        let number = first.wrapping_add(tries);
        let [outer, inner] = names(number);
        tries += 1;
        // If the second name of a pair is taken, the first device is closed again.
        match open(&outer).and_then(|outer| Ok([outer, open(&inner)?])) {
            Ok(both) => return Ok((number, both)),
            Err(DeviceError::Exists { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sets the TAP up without any address: the namespace must not send packets of its own by it.
fn set_up(netns: &Netns, name: &str) -> Result<(), NetError> {
    match sysctl::write(netns, &format!("ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(NetError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    let setup = LinkSetup { mtu: MTU, tx_queue_len: Some(QUEUE), addresses: Vec::new(), routes: Vec::new() };
    link::configure(netns, name, &setup)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens nothing, and finds these names taken.
    fn open_beside(taken: &[&str]) -> Result<(u16, [String; 2]), DeviceError> {
        let exists = |name: &str| DeviceError::Exists { name: name.to_owned(), netns: "x".to_owned() };
        open_both(0xffff, |name| if taken.contains(&name) { Err(exists(name)) } else { Ok(name.to_owned()) })
    }

    #[test]
    fn a_name_that_is_taken_on_either_side_is_passed_over() {
        for taken in [&[][..], &["fw-ffff-out"], &["fw-ffff-in"], &["fw-ffff-in", "fw-0000-out"]] {
            let (number, both) = open_beside(taken).unwrap();
            assert_eq!(number, 0xffff_u16.wrapping_add(taken.len() as u16), "{taken:?}");
            assert_eq!(both, names(number), "{taken:?}");
        }
        let all: Vec<_> = (0..TRIES).map(|tries| names(0xffff_u16.wrapping_add(tries))[1].clone()).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        assert!(matches!(open_beside(&all), Err(DeviceError::Exists { .. })));
    }
}
