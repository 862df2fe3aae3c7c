//! Health checks of a client that no kernel of today plays any more: each connection is made packet by packet and ended
//! by a RST, whose place, timestamp and sequence number are as the case says.
//!
//! Linux 3.18 to 4.9 sent a `TSval` of 0 in the RST of a socket that was closed with `SO_LINGER` 0.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::facts;
use crate::lab::traffic::wait::{Wake, readable};
use crate::lab::value::Facts;
use crate::pipeline::wire::checksum::{pseudo_sum_v4, transport_checksum};

const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Port of the first probe; each takes the next.
const FIRST_PORT: u16 = 20_000;
/// `TSval` of the first SYN, and how far the clock goes on from probe to probe.
const CLOCK: (u32, u32) = (1_000_000, 10_000);
/// How far behind an "older" timestamp is, and how far outside of the window a stale sequence number.
const BEHIND: u32 = 500_000;

/// A series of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How many, one after the other.
    pub count: u16,
    /// From the start of one to that of the next.
    pub interval: Duration,
    /// Address of the probes: of no host, so that no kernel answers for them, but behind the port of this host.
    pub source: Ipv4Addr,
    /// Where the RST comes.
    pub place: Place,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its sequence number is outside of the window.
    pub stale: bool,
    /// Waits so long for a SYN-ACK.
    pub timeout: Duration,
}

/// Where the RST comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It overtakes the last ACK of the handshake.
    BeforeAck,
    /// After it, as it was sent.
    AfterAck,
}

impl Place {
    /// By the names of case files.
    pub const NAMES: [(&str, Self); 2] = [("before-ack", Self::BeforeAck), ("after-ack", Self::AfterAck)];
}

/// The timestamp option of the RST, compared with that of the SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamp {
    /// `TSval` 0.
    Zero,
    /// Smaller.
    Older,
    /// The same.
    Equal,
    /// Larger.
    Newer,
    /// No options.
    Absent,
    /// Four NOPs.
    NopOnly,
}

impl Timestamp {
    /// By the names of case files.
    pub const NAMES: [(&str, Self); 6] = [
        ("zero", Self::Zero),
        ("older", Self::Older),
        ("equal", Self::Equal),
        ("newer", Self::Newer),
        ("absent", Self::Absent),
        ("nop-only", Self::NopOnly),
    ];

    /// By which case files call it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn options(self, syn: u32, echo: u32) -> Vec<u8> {
        match self {
            Self::Zero => stamp(0, echo),
            Self::Older => stamp(syn.wrapping_sub(BEHIND), echo),
            Self::Equal => stamp(syn, echo),
            Self::Newer => stamp(syn.wrapping_add(2), echo),
            Self::Absent => Vec::new(),
            Self::NopOnly => vec![1; 4],
        }
    }
}

/// What the probes heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Probed {
    /// Probes sent.
    pub attempts: u64,
    /// SYN-ACKs that came in time.
    pub answered: u64,
}

impl Probed {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        let silent = self.attempts - self.answered;
        facts([
            ("attempts", self.attempts.into()),
            ("answered", self.answered.into()),
            ("timeouts", silent.into()),
        ])
    }
}

impl Probe {
    /// Sends all probes to `server`, from the namespace of the calling thread.
    ///
    /// # Errors
    /// No raw sockets, or no route to the server.
    pub fn run(&self, server: SocketAddrV4) -> io::Result<Probed> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let wire = Wire {
            sender: socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?,
            receiver: socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthIp)?,
            source: self.source,
            server,
        };
        let start = clock::now();
        let mut probed = Probed::default();
        for number in 0..self.count {
            let due = start + self.interval * u32::from(number);
            if let Some(early) = due.checked_duration_since(clock::now()).filter(|early| !early.is_zero()) {
                clock::pause(early);
            }
            probed.attempts += 1;
            probed.answered += u64::from(self.probe(&wire, number)?);
        }
        Ok(probed)
    }

    /// One connection; false if nothing answered the SYN.
    fn probe(&self, wire: &Wire, number: u16) -> io::Result<bool> {
        let port = FIRST_PORT.wrapping_add(number);
        let clock = CLOCK.0 + CLOCK.1 * u32::from(number);
        let seq = 0x0100_0000_u32.wrapping_mul(u32::from(number) + 1);
        let mut options = vec![2, 4, 0x05, 0xB4];
        options.extend(stamp(clock, 0));
        wire.send(port, SYN, seq, 0, &options)?;
        let Some((peer, echo)) = wire.syn_ack(port, Deadline::after(self.timeout))? else { return Ok(false) };
        let (seq, ack) = (seq.wrapping_add(1), peer.wrapping_add(1));
        let rst_seq = if self.stale { seq.wrapping_sub(BEHIND) } else { seq };
        let rst = || wire.send(port, RST | ACK, rst_seq, ack, &self.timestamp.options(clock, echo));
        let last = || wire.send(port, ACK, seq, ack, &stamp(clock + 1, echo));
        match self.place {
            Place::BeforeAck => rst().and_then(|()| last())?,
            Place::AfterAck => last().and_then(|()| rst())?,
        }
        Ok(true)
    }
}

/// NOP, NOP, timestamps (RFC 7323 section 3.2).
fn stamp(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// Raw sockets of a namespace.
struct Wire {
    sender: OwnedFd,
    receiver: OwnedFd,
    source: Ipv4Addr,
    server: SocketAddrV4,
}

impl Wire {
    fn send(&self, port: u16, flags: u8, seq: u32, ack: u32, options: &[u8]) -> io::Result<()> {
        let packet = packet(SocketAddrV4::new(self.source, port), self.server, (flags, seq, ack), options);
        sendto(self.sender.as_raw_fd(), &packet, &SockaddrIn::from(self.server), MsgFlags::empty())?;
        Ok(())
    }

    /// Sequence number and `TSval` of the SYN-ACK to `port`.
    fn syn_ack(&self, port: u16, deadline: Deadline) -> io::Result<Option<(u32, u32)>> {
        let mut buffer = [0; 2_048];
        while readable(&self.receiver, None, Some(deadline))? == Wake::Ready {
            let size = recv(self.receiver.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let to = SocketAddrV4::new(self.source, port);
            if let Some(found) = read_syn_ack(&buffer[..size], self.server, to) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// An IPv4 packet with a TCP segment without data; flags, sequence and acknowledgement number. The kernel fills in the
/// checksum and the identification of the IP header.
fn packet(
    from: SocketAddrV4,
    to: SocketAddrV4,
    (flags, seq, ack): (u8, u32, u32),
    options: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + options.len());
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([(5 + options.len() as u8 / 4) << 4, flags]);
    segment.extend([0xFF, 0xFF, 0, 0, 0, 0]);
    segment.extend(options);
    let pseudo = pseudo_sum_v4(*from.ip(), *to.ip(), TCP, segment.len() as u16);
    let checksum = transport_checksum(pseudo, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let length = 20 + segment.len() as u16;
    let mut packet = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0x40, 0, 64, TCP, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(segment);
    packet
}

/// Sequence number and `TSval`, if the packet is a SYN-ACK between these two; `TSval` 0 if it has none.
fn read_syn_ack(packet: &[u8], from: SocketAddrV4, to: SocketAddrV4) -> Option<(u32, u32)> {
    let header = usize::from(packet.first()? & 15) * 4;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let segment = packet.get(header..)?;
    let fits = *packet.get(9)? == TCP && packet.get(12..20)? == addresses && segment.get(..4)? == ports;
    if !fits || *segment.get(13)? & (SYN | ACK | RST) != SYN | ACK {
        return None;
    }
    let seq = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?);
    let mut options = segment.get(20..usize::from(segment[12] >> 4) * 4)?;
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            0 => break,
            1 => rest,
            8 => return Some((seq, u32::from_be_bytes(*rest.get(1..)?.first_chunk()?))),
            _ => options.get(usize::from(*rest.first()?).max(2)..)?,
        };
    }
    Some((seq, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 253), 20_000);
    const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 2), 80);

    #[test]
    fn a_segment_is_what_an_independent_reader_takes_it_for() {
        let bytes = packet(CLIENT, SERVER, (RST | ACK, 7, 9), &Timestamp::Older.options(600_000, 5));
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (20_000, 80));
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (7, 9));
        assert!(tcp.rst() && tcp.ack() && !tcp.syn());
        let timestamps: Vec<_> = tcp.options_iterator().filter_map(Result::ok).collect();
        assert!(timestamps.contains(&TcpOptionElement::Timestamp(100_000, 5)), "{timestamps:?}");
        let sum =
            tcp.to_header().calc_checksum_ipv4_raw(CLIENT.ip().octets(), SERVER.ip().octets(), &[]).unwrap();
        assert_eq!(tcp.checksum(), sum);
    }

    #[test]
    fn only_the_syn_ack_of_this_probe_is_taken_for_one() {
        let built = |from: SocketAddrV4, to: SocketAddrV4, ack: bool| {
            let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
                .tcp(from.port(), to.port(), 77, 500)
                .syn()
                .options(&[TcpOptionElement::MaximumSegmentSize(1_460), TcpOptionElement::Timestamp(99, 1)])
                .unwrap();
            let mut bytes = Vec::new();
            if ack { builder.ack(8) } else { builder }.write(&mut bytes, &[]).unwrap();
            bytes
        };
        let answer = built(SERVER, CLIENT, true);
        assert_eq!(read_syn_ack(&answer, SERVER, CLIENT), Some((77, 99)));
        let other = SocketAddrV4::new(*CLIENT.ip(), 20_001);
        assert_eq!(read_syn_ack(&answer, SERVER, other), None);
        assert_eq!(read_syn_ack(&built(SERVER, CLIENT, false), SERVER, CLIENT), None);
        for end in 0..answer.len() {
            let _ = read_syn_ack(&answer[..end], SERVER, CLIENT);
        }
    }
}
