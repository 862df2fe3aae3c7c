//! Both directions of a flow on the same queue of every port, so that one worker owns all of the flow.
//!
//! Without steering, the kernel puts a flow on the queue to which its reverse direction was last written, and guesses
//! before that. So a small eBPF program (`TUNSETSTEERINGEBPF`) hashes each packet symmetrically, and [`hash`]
//! computes exactly the same:
//! [`hash`] computes the same, bit for bit:
//!
//! - sums of the source's and destination's address words, which do not tell the two ends apart, folded together;
//! - for TCP, UDP and SCTP packets that are not fragments, also the sum of the ports. IPv6 extension headers are not
//!   followed: a packet with extension headers is hashed by its addresses only. So is every fragment, including the
//!   first, because otherwise the fragments of a datagram would go to different queues;
//! - mixed by the finaliser of `MurmurHash3`, and cut to 16 bits, since the kernel keeps no more before it takes the
//!   remainder by the number of queues.
//!
//! Packets that are neither IPv4 nor IPv6, or too short for these fields, have the hash 0.

mod program;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::device::tun::Queue;

/// A bijective multiplier with well spread bits: 2^32 divided by the golden ratio.
const FOLD: u32 = 0x9e37_79b9;
/// The finaliser of `MurmurHash3`, 32 bits.
const FINAL: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];
/// The protocols whose ports are the first two words: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// More-fragments flag and offset of IPv4 (RFC 791 section 3.1).
const FRAGMENT: u16 = 0x3fff;

/// The steering program cannot be used; the caller is left with one queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// bpf(2) refused the program for lack of privilege.
    #[error(
        "this user may not load the program that keeps both directions of a flow on one worker ({0}): it needs CAP_BPF \
         in the host's own user namespace. One worker will do all the work"
    )]
    NotPermitted(io::Error),
    /// bpf(2) refused the program.
    #[error("the kernel refuses the program that keeps both directions of a flow on one worker: {0}")]
    Load(io::Error),
    /// The device takes no program.
    #[error("the device takes no steering program: {0} (needs Linux 4.16)")]
    Attach(io::Error),
}

/// The loaded program. Devices that it is attached to keep it when this is dropped.
#[derive(Debug)]
pub struct Steering {
    program: OwnedFd,
}

impl Steering {
    /// Loads the program into the kernel, once for all devices.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    pub fn load() -> Result<Self, SteerError> {
        let loaded = program::load().map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => SteerError::NotPermitted(errno.into()),
            _ => SteerError::Load(errno.into()),
        });
        Ok(Self { program: loaded? })
    }

    /// Lets the program choose the queue of each packet of the device that `queue` belongs to.
    ///
    /// # Errors
    /// If the device is gone or the kernel has no steering.
    pub fn attach(&self, queue: &Queue) -> Result<(), SteerError> {
        queue.steer_by(self.program.as_fd()).map_err(SteerError::Attach)
    }
}

/// The queue, of `queues`, on which a steered device delivers an IP packet.
///
/// # Panics
/// If there are no queues.
pub fn queue_of(packet: &[u8], queues: usize) -> usize {
    hash(packet) as usize % queues
}

/// What the program computes for an IP packet: 0 to 65535, the same for both directions of a flow.
pub fn hash(packet: &[u8]) -> u32 {
    let folded = match packet.first().map(|byte| byte >> 4) {
        Some(4) => fold_v4(packet),
        Some(6) => fold_v6(packet),
        _ => None,
    };
    folded.map_or(0, finish)
}

fn fold_v4(packet: &[u8]) -> Option<u32> {
    let addresses = fold(0, word(packet, 12)?.wrapping_add(word(packet, 16)?));
    let header = usize::from(packet[0] & 0xf) * 4;
    if header < 20 || half(packet, 6)? & FRAGMENT != 0 {
        return Some(addresses);
    }
    fold_ports(addresses, packet, *packet.get(9)?, header)
}

fn fold_v6(packet: &[u8]) -> Option<u32> {
    let mut addresses = 0;
    for at in (0..16).step_by(4) {
        addresses = fold(addresses, word(packet, 8 + at)?.wrapping_add(word(packet, 24 + at)?));
    }
    fold_ports(addresses, packet, *packet.get(6)?, 40)
}

fn fold_ports(addresses: u32, packet: &[u8], protocol: u8, header: usize) -> Option<u32> {
    if !WITH_PORTS.contains(&protocol) {
        return Some(addresses);
    }
    let ports = u32::from(half(packet, header)?) + u32::from(half(packet, header + 2)?);
    Some(fold(addresses, ports))
}

fn fold(state: u32, value: u32) -> u32 {
    let state = (state ^ value).wrapping_mul(FOLD);
    state ^ (state >> 15)
}

fn finish(state: u32) -> u32 {
    let state = (state ^ (state >> 16)).wrapping_mul(FINAL[0]);
    let state = (state ^ (state >> 13)).wrapping_mul(FINAL[1]);
    (state ^ (state >> 16)) & 0xffff
}

fn word(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

fn half(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp_v4(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(from.0, to.0, 64).udp(from.1, to.1).write(&mut packet, b"payload").unwrap();
        packet
    }

    fn tcp_v6(from: ([u8; 16], u16), to: ([u8; 16], u16)) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6(from.0, to.0, 64)
            .tcp(from.1, to.1, 1, 1000)
            .write(&mut packet, b"payload")
            .unwrap();
        packet
    }

    #[test]
    fn both_directions_hash_alike() {
        let (a, b) = ([10, 1, 2, 3], [192, 168, 77, 8]);
        let (c, d) = ([0x20; 16], [0xfd; 16]);
        for port in 1024..2048 {
            assert_eq!(hash(&udp_v4((a, port), (b, 80))), hash(&udp_v4((b, 80), (a, port))));
            assert_eq!(hash(&tcp_v6((c, port), (d, 443))), hash(&tcp_v6((d, 443), (c, port))));
        }
    }

    /// 1024 flows on 4 queues: each count is binomial with mean 256 and a deviation of 13.9; 5 of those are 70.
    #[test]
    fn neighbouring_ports_and_addresses_spread_over_the_queues() {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let by_port: Vec<_> = (0..1024).map(|i| udp_v4((a, 40_000 + i), (b, 80))).collect();
        let by_address: Vec<_> =
            (0..1024_u16).map(|i| udp_v4(([10, 0, (i >> 8) as u8, i as u8], 5000), (b, 5000))).collect();
        for packets in [by_port, by_address] {
            let mut counts = [0_u32; 4];
            for packet in packets {
                counts[queue_of(&packet, 4)] += 1;
            }
            assert!(counts.iter().all(|count| (186..=326).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_hash_alike_whatever_their_ports_seem() {
        let mut first = udp_v4(([10, 0, 0, 1], 1111), ([10, 0, 0, 2], 2222));
        first[6] = 0x20; // more fragments
        let mut second = udp_v4(([10, 0, 0, 1], 3333), ([10, 0, 0, 2], 4444));
        second[7] = 0xb9; // offset 1480
        assert_eq!(hash(&first), hash(&second));
        let whole = udp_v4(([10, 0, 0, 1], 3333), ([10, 0, 0, 2], 4444));
        assert_ne!(hash(&second), hash(&whole), "the ports of a whole datagram count");
    }

    #[test]
    fn what_is_no_ip_or_too_short_hashes_to_zero() {
        let whole = udp_v4(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2));
        assert_ne!(hash(&whole), 0);
        for short in [0, 1, 19, 23] {
            assert_eq!(hash(&whole[..short]), 0, "{short} bytes");
        }
        assert_eq!(hash(&[0x50; 60]), 0);
    }
}
