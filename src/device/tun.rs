//! A TUN device with several queues, virtio headers and offloads (Linux `Documentation/networking/tuntap.rst`).
//!
//! The device lives as long as its queues: the kernel removes it, with its addresses and routes, when the last one is
//! closed, also after SIGKILL.

#![expect(unsafe_code, reason = "the ioctls of /dev/net/tun have no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc;

use crate::device::error::DeviceError;
use crate::device::vnet;
use crate::net::Netns;
use crate::net::privilege;

/// Most queues a TUN device can have (`MAX_TAP_QUEUES`).
pub const QUEUES_MAX: usize = 256;

/// Room for any frame: a virtio header and the largest IP packet. A shorter buffer makes the kernel cut packets silently.
pub const FRAME_MAX: usize = vnet::LEN + 65_535;

mod ioctl {
    use nix::libc::{self, c_int, c_uint, ifreq};
    // The kernel declares all of these with the size of an int, whatever they point to.
    nix::ioctl_write_ptr_bad!(
        /// Makes or joins a device.
        set_iff, libc::TUNSETIFF, ifreq);
    nix::ioctl_write_ptr_bad!(
        /// Sets how many bytes of virtio header each frame has.
        set_vnet_hdr_size, libc::TUNSETVNETHDRSZ, c_int);
    nix::ioctl_write_int_bad!(
        /// Sets which unfinished packets may be read.
        set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(
        /// Sets the program that chooses the queue.
        set_steering, libc::TUNSETSTEERINGEBPF, c_int);
    nix::ioctl_write_int_bad!(
        /// Sets whether the device stays without a queue.
        set_persist, libc::TUNSETPERSIST);
    pub(super) const fn offload_bits(bits: c_uint) -> c_int {
        bits as c_int
    }
}

/// What the kernel may leave undone in packets it hands over; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Nothing: every packet is complete and fits the MTU.
    None,
    /// Checksums (`NEEDS_CSUM`).
    Checksum,
    /// TCP segmentation too, for IPv4 and IPv6, ECN included.
    Tso,
    /// UDP segmentation too (`UDP_SEGMENT`, Linux 6.2).
    Uso,
}

impl Offload {
    /// From the most to the least.
    const LADDER: [Self; 4] = [Self::Uso, Self::Tso, Self::Checksum, Self::None];

    /// The `TUN_F_*` flags.
    const fn bits(self) -> libc::c_uint {
        const TSO: libc::c_uint =
            libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        match self {
            Self::None => 0,
            Self::Checksum => libc::TUN_F_CSUM,
            Self::Tso => TSO,
            Self::Uso => TSO | libc::TUN_F_USO4 | libc::TUN_F_USO6,
        }
    }
}

impl std::fmt::Display for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Checksum => "checksum",
            Self::Tso => "checksum and TSO",
            Self::Uso => "checksum, TSO and USO",
        })
    }
}

/// What device to make.
#[derive(Clone, Debug)]
pub struct TunOptions<'a> {
    /// 1 to 15 bytes.
    pub name: &'a str,
    /// Where.
    pub netns: &'a Netns,
    /// One for each worker, 1 to [`QUEUES_MAX`].
    pub queues: usize,
    /// The most to ask for.
    pub offload: Offload,
}

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// If less than was asked for, tell the user: bulk transfers will be several times slower.
    pub offload: Offload,
}

/// Makes devices.
#[derive(Debug)]
pub enum Tun {}

impl Tun {
    /// Makes the device and opens its queues; queue `i` of the result is the kernel's queue `i`.
    ///
    /// The device is down and has no address: see [`configure`](crate::net::link::configure).
    ///
    /// # Errors
    /// If the name is taken or unusable, or the kernel refuses the device. A refused offload is not an error.
    pub fn open(options: &TunOptions<'_>) -> Result<(Vec<Queue>, Granted), DeviceError> {
        Self::open_kind(options, libc::IFF_TUN)
    }

    /// As [`Tun::open`], a TAP device: its frames have an Ethernet header (see [`crate::device::tap`]).
    ///
    /// # Errors
    /// As [`Tun::open`].
    pub fn open_tap(options: &TunOptions<'_>) -> Result<(Vec<Queue>, Granted), DeviceError> {
        Self::open_kind(options, libc::IFF_TAP)
    }

    /// As [`Tun::open_tap`], a device that stays without a queue and ends with its namespace, which must be one without a name. Nobody
    /// has to wait for the end of it: the kernel removes it later, while closing the last queue of another device removes that at once.
    ///
    /// # Errors
    /// As [`Tun::open`].
    pub fn open_tap_of_netns(options: &TunOptions<'_>) -> Result<(Vec<Queue>, Granted), DeviceError> {
        let opened = Self::open_tap(options)?;
        // SAFETY: the argument is a number; no memory is involved.
        unsafe { ioctl::set_persist(opened.0[0].fd.as_raw_fd(), 1) }
            .map_err(|errno| refused(options, "keep the device", errno, ""))?;
        Ok(opened)
    }

    fn open_kind(options: &TunOptions<'_>, kind: libc::c_int) -> Result<(Vec<Queue>, Granted), DeviceError> {
        let name = options.name;
        if !(1..=QUEUES_MAX).contains(&options.queues) {
            return Err(DeviceError::QueueCount { name: name.to_owned(), queues: options.queues });
        }
        let device = interface_name(name).ok_or_else(|| DeviceError::BadName(name.to_owned()))?;
        // The device belongs to the namespace in which /dev/net/tun was opened.
        options.netns.run(|| {
            let queues = (0..options.queues)
                .map(|index| open_queue(options, device, kind, index == 0))
                .collect::<Result<Vec<_>, _>>()?;
            let offload = grant_offload(options, &queues[0])?;
            Ok((queues, Granted { offload }))
        })?
    }
}

/// One queue of a TUN device. Never blocks.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
}

impl Queue {
    /// Reads one frame: a virtio header ([`vnet::LEN`] bytes) and an IP packet, up to [`FRAME_MAX`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if none waits; `EBADFD` if the device is gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.fd, buffer)?)
    }

    /// Writes one frame: a virtio header and an IP packet.
    ///
    /// # Errors
    /// `EINVAL` if the header does not fit the packet; `EIO` while the device is down; `EBADFD` if it is gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.fd, frame)?)
    }

    /// Reads one frame, the first bytes into `head` and what follows them into `body`; the length of both.
    ///
    /// # Errors
    /// As [`Queue::recv`].
    pub(super) fn recv_split(&self, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        Ok(nix::sys::uio::readv(&self.fd, &mut [io::IoSliceMut::new(head), io::IoSliceMut::new(body)])?)
    }

    /// Writes one frame that stands in two parts.
    ///
    /// # Errors
    /// As [`Queue::send`].
    pub(super) fn send_split(&self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        Ok(nix::sys::uio::writev(&self.fd, &[io::IoSlice::new(head), io::IoSlice::new(body)])?)
    }

    /// Another descriptor of the same queue: the device stays as long as one is open.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Lets `program` choose the queue of each packet, for all queues of the device. The kernel keeps the program.
    pub(crate) fn steer_by(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both descriptors are open for the call; the kernel reads one int from the pointer.
        unsafe { ioctl::set_steering(self.fd.as_raw_fd(), &program.as_raw_fd()) }?;
        Ok(())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

type InterfaceName = [libc::c_char; libc::IFNAMSIZ];

/// The name as the kernel wants it, if it would take it as it is. It takes "%d" as a pattern; we do not.
fn interface_name(name: &str) -> Option<InterfaceName> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let bad = |c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace();
    if !fits || name.contains(bad) || name == "." || name == ".." {
        return None;
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Some(ifr_name)
}

/// Opens one queue; the first makes the device, the others join it.
fn open_queue(
    options: &TunOptions<'_>,
    ifr_name: InterfaceName,
    kind: libc::c_int,
    first: bool,
) -> Result<Queue, DeviceError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(privilege::TUN)
        .map_err(privilege::tun_error)?;
    let mut flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    if first {
        flags |= libc::IFF_TUN_EXCL;
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    let request = libc::ifreq { ifr_name, ifr_ifru };
    // SAFETY: `request` is a whole ifreq that lives through the call.
    unsafe { ioctl::set_iff(file.as_raw_fd(), &raw const request) }
        .map_err(|errno| refused_queue(options, first, errno))?;
    let size = vnet::LEN as libc::c_int;
    // SAFETY: the kernel reads one int from the pointer.
    unsafe { ioctl::set_vnet_hdr_size(file.as_raw_fd(), &raw const size) }
        .map_err(|errno| refused(options, "set the virtio header size", errno, ""))?;
    Ok(Queue { fd: file.into() })
}

fn refused_queue(options: &TunOptions<'_>, first: bool, errno: Errno) -> DeviceError {
    match errno {
        // EINVAL is a device of that name which is no TUN device.
        Errno::EBUSY | Errno::EEXIST if first => exists(options),
        Errno::EINVAL if first && device_exists(options.name) => exists(options),
        Errno::EPERM => {
            refused(options, "open a queue", errno, " (it needs CAP_NET_ADMIN: run faultwire as root)")
        }
        _ => refused(options, "open a queue", errno, ""),
    }
}

/// Looks in the namespace of this thread.
fn device_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

fn exists(options: &TunOptions<'_>) -> DeviceError {
    DeviceError::Exists { name: options.name.to_owned(), netns: options.netns.label().to_owned() }
}

fn refused(options: &TunOptions<'_>, action: &'static str, errno: Errno, hint: &'static str) -> DeviceError {
    DeviceError::Ioctl {
        action,
        name: options.name.to_owned(),
        netns: options.netns.label().to_owned(),
        source: errno.into(),
        hint,
    }
}

/// Asks for the offloads wanted, then for less, until the kernel agrees.
fn grant_offload(options: &TunOptions<'_>, queue: &Queue) -> Result<Offload, DeviceError> {
    let mut last = Errno::EINVAL;
    for offload in Offload::LADDER.into_iter().filter(|step| *step <= options.offload) {
        // SAFETY: the argument is a number; no memory is involved.
        match unsafe { ioctl::set_offload(queue.fd.as_raw_fd(), ioctl::offload_bits(offload.bits())) } {
            Ok(_) => return Ok(offload),
            Err(errno) => last = errno,
        }
    }
    Err(refused(options, "set the offloads", last, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_change_or_refuse_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "a:1", "tun%d", "sixteen-bytes-ab", "n\0"] {
            assert!(interface_name(name).is_none(), "{name:?} was accepted");
        }
        let accepted = interface_name("fifteen-bytes-a").unwrap();
        assert_eq!(accepted[14], b'a' as libc::c_char);
        assert_eq!(accepted[15], 0);
    }

    #[test]
    fn each_offload_level_includes_those_before_it() {
        for pair in Offload::LADDER.windows(2) {
            assert!(pair[0] > pair[1]);
            assert_eq!(pair[0].bits() & pair[1].bits(), pair[1].bits());
        }
    }
}
