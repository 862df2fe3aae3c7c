//! TCP segments built packet by packet, for clients whose behaviour no present kernel has.
//!
//! They come from an address that no host has, so that no kernel answers for it. IPv4 only.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use crate::lab::clock::Deadline;
use crate::lab::traffic::ping;
use crate::lab::traffic::wait::{Wake, readable};
use crate::pipeline::wire::checksum::{pseudo_sum_v4, transport_checksum};
use crate::pipeline::wire::tcp::flag::{ACK, FIN, PSH, SYN};

const ICMP: u8 = 1;
const TCP: u8 = 6;
/// The MSS option: 1460.
pub(super) const MSS: [u8; 4] = [2, 4, 0x05, 0xB4];

/// What is left of a connection once its SYN was answered must not take longer.
const REST: Duration = Duration::from_secs(10);
/// What a client made by hand asks for.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: s\r\n\r\n";

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// A multiple of four bytes.
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// What is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// `TSval`; 0 if there is none.
    pub(super) timestamp: u32,
    /// Bytes of payload.
    pub(super) length: u32,
}

/// NOP, NOP, timestamps (RFC 7323 section 3.2).
pub(super) fn stamp(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// Raw sockets between an address and a server.
#[derive(Debug)]
pub(super) struct Wire {
    sender: OwnedFd,
    receiver: OwnedFd,
    source: Ipv4Addr,
    server: SocketAddrV4,
}

impl Wire {
    /// In the namespace of the calling thread.
    pub(super) fn open(source: Ipv4Addr, server: SocketAddrV4) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self {
            sender: socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?,
            receiver: socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthIp)?,
            source,
            server,
        })
    }

    pub(super) fn send(&self, port: u16, segment: &Segment<'_>) -> io::Result<()> {
        self.put(&packet(SocketAddrV4::new(self.source, port), self.server, segment))
    }

    fn put(&self, packet: &[u8]) -> io::Result<()> {
        sendto(self.sender.as_raw_fd(), packet, &SockaddrIn::from(self.server), MsgFlags::empty())?;
        Ok(())
    }

    /// The next segment from the server to `port`; `None` at the deadline.
    pub(super) fn receive(&self, port: u16, deadline: Deadline) -> io::Result<Option<Heard>> {
        let mut buffer = [0; 2_048];
        while readable(&self.receiver, None, Some(deadline))? == Wake::Ready {
            let size = recv(self.receiver.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let to = SocketAddrV4::new(self.source, port);
            if let Some(heard) = read(&buffer[..size], self.server, to) {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

impl Wire {
    /// Plays a client from `port`, with this clock and initial sequence number: a request and its answer, closed by the
    /// server first. The sequence number after the client's FIN; `None` if nothing answers the SYN.
    ///
    /// An echo request follows the SYN. When its answer is there first, the path has kept the order and the SYN is lost:
    /// no test has to know how long an answer can take on a busy machine. Without any answer the deadline decides.
    pub(super) fn request(
        &self,
        port: u16,
        (clock, seq): (u32, u32),
        deadline: Deadline,
    ) -> io::Result<Option<u32>> {
        let send = |flags, seq, ack, options: &[u8], payload: &[u8]| {
            self.send(port, &Segment { flags, seq, ack, options, payload })
        };
        send(SYN, seq, 0, &[&MSS[..], &stamp(clock, 0)].concat(), &[])?;
        self.put(&echo_request(self.source, *self.server.ip(), port))?;
        let Some(answer) = self.syn_ack(port, deadline)? else { return Ok(None) };
        let deadline = Deadline::after(REST);
        let mut seq = seq.wrapping_add(1);
        let mut ack = answer.seq.wrapping_add(1);
        let own = |ahead: u32, echo| stamp(clock.wrapping_add(ahead), echo);
        send(ACK, seq, ack, &own(1, answer.timestamp), &[])?;
        send(PSH | ACK, seq, ack, &own(1, answer.timestamp), REQUEST)?;
        seq = seq.wrapping_add(REQUEST.len() as u32);
        loop {
            let heard = self.hear(port, deadline, |heard| heard.seq == ack)?.ok_or_else(unanswered)?;
            let fin = heard.flags & FIN != 0;
            ack = ack.wrapping_add(heard.length + u32::from(fin));
            if fin || heard.length > 0 {
                let flags = if fin { FIN | ACK } else { ACK };
                send(flags, seq, ack, &own(2, heard.timestamp), &[])?;
            }
            if fin {
                break;
            }
        }
        seq = seq.wrapping_add(1);
        self.hear(port, deadline, |heard| heard.ack == seq)?.ok_or_else(unanswered)?;
        Ok(Some(seq))
    }

    /// The SYN-ACK to `port`; `None` if the answer to the echo request of this port comes first, or at the deadline.
    fn syn_ack(&self, port: u16, deadline: Deadline) -> io::Result<Option<Heard>> {
        let mut buffer = [0; 2_048];
        let to = SocketAddrV4::new(self.source, port);
        while readable(&self.receiver, None, Some(deadline))? == Wake::Ready {
            let size = recv(self.receiver.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let packet = &buffer[..size];
            let heard = read(packet, self.server, to);
            if heard.is_some_and(|heard| heard.flags & (SYN | ACK) == SYN | ACK) {
                return Ok(heard);
            }
            if is_echo_reply(packet, *self.server.ip(), to) {
                break;
            }
        }
        Ok(None)
    }

    /// The next segment for which `wanted` holds; `None` at the deadline.
    fn hear(
        &self,
        port: u16,
        deadline: Deadline,
        wanted: impl Fn(&Heard) -> bool,
    ) -> io::Result<Option<Heard>> {
        while let Some(heard) = self.receive(port, deadline)? {
            if wanted(&heard) {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

/// A connection that began does not go on.
pub(super) fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a connection made by hand did not come to its end")
}

/// An IPv4 packet with the segment. The kernel fills in the checksum and the identification of the IP header.
fn packet(from: SocketAddrV4, to: SocketAddrV4, segment: &Segment<'_>) -> Vec<u8> {
    let header = 20 + segment.options.len();
    let mut tcp = Vec::with_capacity(header + segment.payload.len());
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(segment.seq.to_be_bytes());
    tcp.extend(segment.ack.to_be_bytes());
    tcp.extend([(header as u8 / 4) << 4, segment.flags]);
    tcp.extend([0xFF, 0xFF, 0, 0, 0, 0]);
    tcp.extend(segment.options);
    tcp.extend(segment.payload);
    let pseudo = pseudo_sum_v4(*from.ip(), *to.ip(), TCP, tcp.len() as u16);
    let checksum = transport_checksum(pseudo, &tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    ipv4(*from.ip(), *to.ip(), TCP, &tcp)
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = 20 + payload.len() as u16;
    let mut packet = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// The echo request that belongs to the SYN from `port`.
fn echo_request(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    ipv4(from, to, ICMP, &ping::request(true, port, 0, 0))
}

/// Whether the packet answers [`echo_request`] of this address and port.
fn is_echo_reply(packet: &[u8], from: Ipv4Addr, to: SocketAddrV4) -> bool {
    let addresses = [from.octets(), to.ip().octets()].concat();
    let message =
        packet.get(usize::from(packet.first().copied().unwrap_or(0) & 15) * 4..).unwrap_or_default();
    packet.get(9) == Some(&ICMP)
        && packet.get(12..20) == Some(&addresses[..])
        && message.first() == Some(&0)
        && message.get(4..6) == Some(&to.port().to_be_bytes()[..])
}

/// The segment, if the packet is one from `from` to `to`.
fn read(packet: &[u8], from: SocketAddrV4, to: SocketAddrV4) -> Option<Heard> {
    let header = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let segment = packet.get(header..)?;
    if *packet.get(9)? != TCP || packet.get(12..20)? != addresses || segment.get(..4)? != ports {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(*segment.get(at..)?.first_chunk()?));
    let data = usize::from(*segment.get(12)? >> 4) * 4;
    Some(Heard {
        flags: *segment.get(13)?,
        seq: word(4)?,
        ack: word(8)?,
        timestamp: timestamp(segment.get(20..data)?)?,
        length: total.saturating_sub(header + data) as u32,
    })
}

/// `TSval` among the options, 0 if it is not; `None` if they are malformed.
fn timestamp(mut options: &[u8]) -> Option<u32> {
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            0 => break,
            1 => rest,
            8 => return Some(u32::from_be_bytes(*rest.get(1..)?.first_chunk()?)),
            _ => options.get(usize::from(*rest.first()?).max(2)..)?,
        };
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::wire::tcp::flag::RST;
    use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 253), 20_000);
    const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 2), 80);

    #[test]
    fn a_segment_is_what_an_independent_reader_takes_it_for() {
        let segment =
            Segment { flags: RST | ACK, seq: 7, ack: 9, options: &stamp(100_000, 5), payload: b"abc" };
        let bytes = packet(CLIENT, SERVER, &segment);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (20_000, 80));
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (7, 9));
        assert!(tcp.rst() && tcp.ack() && !tcp.syn());
        let timestamps: Vec<_> = tcp.options_iterator().filter_map(Result::ok).collect();
        assert!(timestamps.contains(&TcpOptionElement::Timestamp(100_000, 5)), "{timestamps:?}");
        let sum = tcp
            .to_header()
            .calc_checksum_ipv4_raw(CLIENT.ip().octets(), SERVER.ip().octets(), b"abc")
            .unwrap();
        assert_eq!(tcp.checksum(), sum);
    }

    #[test]
    fn an_echo_request_is_known_by_its_answer() {
        let (client, server) = (*CLIENT.ip(), *SERVER.ip());
        let request = echo_request(client, server, 20_000);
        let sliced = SlicedPacket::from_ip(&request).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("{sliced:?}") };
        let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("{icmp:?}") };
        assert_eq!(echo.id, 20_000);
        let reply = |to: Ipv4Addr, id| {
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ipv4(server.octets(), to.octets(), 64);
            builder.icmpv4_echo_reply(id, 0).write(&mut bytes, &[]).unwrap();
            bytes
        };
        assert!(is_echo_reply(&reply(client, 20_000), server, CLIENT));
        assert!(!is_echo_reply(&reply(client, 20_001), server, CLIENT));
        assert!(!is_echo_reply(&reply(server, 20_000), server, CLIENT));
        assert!(!is_echo_reply(&request, server, CLIENT) && !is_echo_reply(&[], server, CLIENT));
    }

    #[test]
    fn only_what_the_server_says_to_this_port_is_heard() {
        let built = |from: SocketAddrV4, to: SocketAddrV4| {
            let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
                .tcp(from.port(), to.port(), 77, 500)
                .syn()
                .ack(8)
                .options(&[TcpOptionElement::MaximumSegmentSize(1_460), TcpOptionElement::Timestamp(99, 1)])
                .unwrap();
            let mut bytes = Vec::new();
            builder.write(&mut bytes, b"four").unwrap();
            bytes
        };
        let answer = built(SERVER, CLIENT);
        let heard = Heard { flags: SYN | ACK, seq: 77, ack: 8, timestamp: 99, length: 4 };
        assert_eq!(read(&answer, SERVER, CLIENT), Some(heard));
        let other = SocketAddrV4::new(*CLIENT.ip(), 20_001);
        assert_eq!(read(&answer, SERVER, other), None);
        assert_eq!(read(&built(CLIENT, SERVER), SERVER, CLIENT), None);
        for end in 0..answer.len() {
            let _ = read(&answer[..end], SERVER, CLIENT);
        }
    }
}
