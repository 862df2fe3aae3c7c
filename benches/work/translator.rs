//! A translator with some sessions, and packets of one after the other.

use std::hint::black_box;
use std::net::IpAddr;

use etherparse::PacketBuilder;
use faultwire::pipeline::nat::Nat;
use faultwire::pipeline::packet::{Offload, Packet};
use faultwire::pipeline::params::{
    Dependence, MidStream, NaptParams, NatClock, NatKind, NatParams, NatTimeouts, PortAllocation,
};
use faultwire::pipeline::pool::{HEADROOM, Pool};
use faultwire::pipeline::time::{Duration, Instant};

/// Hosts inside; each has this many sessions: 100,000 in all.
pub(crate) const HOSTS: u32 = 50;
pub(crate) const PORTS: u32 = 2_000;
/// Port of the server.
const SERVER: u32 = 443;

fn nat() -> Nat {
    let napt = NaptParams {
        addresses: vec![IpAddr::from([10, 0, 2, 1]), IpAddr::from([10, 0, 2, 3])],
        ports: 1_024..=u16::MAX,
        allocation: PortAllocation::Smallest,
        mapping: Dependence::Independent,
        filtering: Dependence::AddressAndPort,
        hairpin: true,
        table_size: 131_072,
        timeouts: NatTimeouts::default(),
        inbound_refresh: true,
        clock: NatClock::Pass,
        mid_stream: MidStream::Open,
        forwards: Vec::new(),
        rebind: None,
    };
    Nat::new(&NatParams { name: "nat".into(), kind: NatKind::Napt(Box::new(napt)) }, 1)
}

fn packet() -> Packet {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 1, 0], [10, 0, 2, 2], 64)
        .tcp(1_000, 443, 1, 1_000)
        .ack(1)
        .write(&mut bytes, &[0; 64])
        .unwrap();
    let mut buffer = Pool::new().scratch();
    buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(&bytes);
    Packet::parse(buffer, bytes.len(), Offload::default(), 0).unwrap()
}

/// Writes the headers of a packet of a session on its way out: made, not remembered, so that the table is all that has to
/// come from memory.
fn write_out(packet: &mut Packet, session: u32) {
    let (host, port) = (session % HOSTS, 1_000 + session / HOSTS);
    let bytes = packet.bytes_mut();
    // By words that are as wide as any that are read: else every packet waits for its own bytes.
    bytes[12..20].copy_from_slice(&[10, 0, 1, host as u8 + 2, 10, 0, 2, 2]);
    bytes[20..24].copy_from_slice(&(port << 16 | SERVER).to_be_bytes());
}

/// The same on the way in.
fn write_in(packet: &mut Packet, (address, port): (u8, u16)) {
    let bytes = packet.bytes_mut();
    bytes[12..20].copy_from_slice(&[10, 0, 2, 2, 10, 0, 2, address]);
    bytes[20..24].copy_from_slice(&(SERVER << 16 | u32::from(port)).to_be_bytes());
}

/// A translator with `count` sessions, and what each is outside.
fn filled(count: u32) -> (Nat, Vec<(u8, u16)>) {
    let (mut nat, mut packet) = (nat(), packet());
    let sessions = (0..count).map(|session| {
        write_out(&mut packet, session);
        assert_eq!(nat.translate(&mut packet, true, Instant::ZERO), Ok(true));
        let bytes = packet.bytes();
        (bytes[15], u16::from_be_bytes([bytes[20], bytes[21]]))
    });
    let sessions = sessions.collect();
    assert_eq!(nat.sessions(), count as usize);
    (nat, sessions)
}

/// Packets of sessions, each that many behind the one before.
pub(crate) struct Sessions {
    nat: Nat,
    outside: Vec<(u8, u16)>,
    packet: Packet,
    now: Instant,
    at: usize,
    step: usize,
}

impl Sessions {
    pub(crate) fn new(count: u32, step: usize) -> Self {
        let (nat, outside) = filled(count);
        let now = Instant::ZERO + Duration::from_secs(1);
        Self { nat, outside, packet: packet(), now, at: 0, step }
    }

    fn next(&mut self) -> usize {
        self.at = (self.at + self.step) % self.outside.len();
        self.at
    }

    /// What the harness itself does for each packet.
    pub(crate) fn headers(&mut self) {
        let session = self.next() as u32;
        write_out(&mut self.packet, session);
        black_box(&mut self.packet);
    }

    pub(crate) fn out(&mut self) {
        let session = self.next() as u32;
        write_out(&mut self.packet, session);
        black_box(self.nat.translate(&mut self.packet, true, self.now).unwrap());
    }

    pub(crate) fn back(&mut self) {
        let session = self.next();
        write_in(&mut self.packet, self.outside[session]);
        black_box(self.nat.translate(&mut self.packet, false, self.now).unwrap());
    }

    /// With the route that the router asks for before.
    pub(crate) fn routed(&mut self) {
        let session = self.next();
        write_in(&mut self.packet, self.outside[session]);
        black_box(self.nat.route(&self.packet, self.now).unwrap());
        black_box(self.nat.translate(&mut self.packet, false, self.now).unwrap());
    }
}
