//! Numbered datagrams: which of those that were sent have arrived, and in which order.

use std::io::ErrorKind;
use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

/// Bytes of each.
const LENGTH: usize = 100;

/// Sends this number from a connected socket, in trains of `train`. `wait` is called after every 20 trains, because the queues on
/// the way have no room for all; and before the first one: datagrams that wait until the kernel has found the neighbour can be
/// overtaken by later ones.
pub(crate) fn send(from: &UdpSocket, count: u32, train: u32, wait: impl Fn()) {
    if train > 1 {
        setsockopt(from, sockopt::UdpGsoSegment, &(LENGTH as i32)).unwrap();
    }
    wait();
    for (sent, first) in (0..count).step_by(train as usize).enumerate() {
        let datagram = |number: u32| {
            let mut bytes = [0; LENGTH];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            bytes
        };
        let bytes: Vec<u8> = (first..first + train).flat_map(datagram).collect();
        from.send(&bytes).unwrap();
        if sent % 20 == 19 {
            wait();
        }
    }
}

/// The numbers that have arrived, in order.
pub(crate) fn arrived(socket: &UdpSocket) -> Vec<u32> {
    socket.set_nonblocking(true).unwrap();
    let (mut numbers, mut bytes) = (Vec::new(), [0; 2_000]);
    loop {
        match socket.recv(&mut bytes) {
            Ok(_) => numbers.push(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return numbers,
            Err(error) => panic!("{error}"),
        }
    }
}
