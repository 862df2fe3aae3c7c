//! The receiver of numbered datagrams: it records what arrived and from where, and may answer.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::pattern;
use crate::lab::traffic::udp::NUMBER;
use crate::lab::traffic::wait::{Stop, Stopper, Wake, readable, stop_pair};

/// By what a service that answers knows its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// By the address and port that its first datagram came from: all answers go there.
    First,
    /// By something in the datagram, as the connection IDs of QUIC: each is answered to where it came from.
    Latest,
}

impl Answer {
    /// Under the words of case files.
    pub const NAMES: [(&str, Self); 2] = [("first", Self::First), ("latest", Self::Latest)];
}

/// Bytes of an answer: the datagram's number, and 1 if it came from elsewhere than the first one.
pub(super) const ANSWER: usize = NUMBER + 1;

/// One datagram as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, from 0.
    pub number: u64,
    /// When, in [`clock::nanos`].
    pub at: u64,
    /// From which address and port, as the receiver sees it.
    pub from: SocketAddr,
    /// Its payload is what was sent.
    pub identical: bool,
}

/// A receiver at work.
#[derive(Debug)]
pub struct Receiver {
    stopper: Stopper,
    thread: JoinHandle<Vec<Arrival>>,
    address: SocketAddr,
}

impl Receiver {
    /// Receives on `port` of all addresses of the calling thread's namespace, until `finish`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16, settle: Duration, answer: Option<Answer>) -> io::Result<Self> {
        let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
        make_room(&socket)?;
        let address = socket.local_addr()?;
        let (stopper, stop) = stop_pair()?;
        let thread = std::thread::Builder::new()
            .name(format!("udp {port}"))
            .spawn(move || receive(&socket, &stop, settle, answer))?;
        Ok(Self { stopper, thread, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what is still under way, until nothing comes for the settling time; then all that came, in order.
    pub fn finish(self) -> Vec<Arrival> {
        drop(self.stopper);
        self.thread.join().unwrap_or_default()
    }
}

/// Room for bursts: what is lost must be lost on the path, not in a socket. The kernel caps it unless we may force it.
pub(super) fn make_room(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &(32 << 20))
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &(4 << 20)))?;
    Ok(())
}

fn receive(socket: &UdpSocket, stop: &Stop, settle: Duration, answer: Option<Answer>) -> Vec<Arrival> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 65_536];
    while matches!(readable(socket, Some(stop), None), Ok(Wake::Ready)) {
        take(socket, &mut buffer, answer, &mut all);
    }
    // The sender is done.
    while matches!(readable(socket, None, Some(Deadline::after(settle))), Ok(Wake::Ready)) {
        take(socket, &mut buffer, answer, &mut all);
    }
    all
}

/// Takes one datagram, and answers it.
fn take(socket: &UdpSocket, buffer: &mut [u8], answer: Option<Answer>, all: &mut Vec<Arrival>) {
    let Some((arrival, peer)) = arrival(socket, buffer) else { return };
    let first = all.first().map_or(arrival.from, |first| first.from);
    if let Some(answer) = answer {
        let to = if answer == Answer::First { first } else { arrival.from };
        let mut text = arrival.number.to_be_bytes().to_vec();
        text.push(u8::from(arrival.from != first));
        // The socket's own form of the address; an answer that cannot be sent is one that does not come.
        let to = if to == arrival.from { peer } else { mapped(to, peer) };
        let _ = socket.send_to(&text, to);
    }
    all.push(arrival);
}

fn arrival(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(Arrival, SocketAddr)> {
    let (size, peer) = socket.recv_from(buffer).ok()?;
    let at = clock::nanos();
    let (number, rest) = buffer[..size].split_first_chunk::<NUMBER>()?;
    let number = u64::from_be_bytes(*number);
    let from = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    Some((Arrival { number, at, from, identical: pattern::matches(number, rest) }, peer))
}

/// `address` in the form that a socket uses which calls somebody `like`: IPv4 mapped into IPv6, or as it is.
fn mapped(address: SocketAddr, like: SocketAddr) -> SocketAddr {
    match (address, like) {
        (SocketAddr::V4(v4), SocketAddr::V6(_)) => {
            SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())
        }
        _ => address,
    }
}
