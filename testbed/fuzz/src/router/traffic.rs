//! Frames out of a few bytes: raw ones, and packets of the usual kinds with some bytes changed.

use etherparse::PacketBuilder;
use faultwire::pipeline::packet::Offload;

use super::super::input::Input;

/// Bytes of payload that most frames have at most; trains have more.
const SHORT: u16 = 2_000;

/// What a device would hand over.
pub(super) struct Frame {
    pub(super) port: u16,
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
}

pub(super) fn choose(input: &mut Input<'_>) -> Frame {
    let how = input.byte();
    let port = u16::from(how & 1);
    let mut bytes = match how >> 1 & 0x0f {
        0 => {
            let length = usize::from(input.word());
            input.take(length).to_vec()
        }
        kind => packet(kind, port, input),
    };
    let changes = if how & 0x20 == 0 { 0 } else { input.byte() % 8 };
    for _ in 0..changes {
        let (at, value) = (usize::from(input.byte()), input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    if how & 0x40 != 0 {
        let shorter = usize::from(input.byte());
        bytes.truncate(bytes.len().saturating_sub(shorter));
    }
    let offload = if how & 0x80 == 0 { Offload::default() } else { offload(input) };
    Frame { port, bytes, offload }
}

/// As a virtio header could say; sizes are the device's word, so any may come.
fn offload(input: &mut Input<'_>) -> Offload {
    let (segment, at) = (input.word(), input.byte());
    let partial = (at != 0).then(|| (u16::from(at), u16::from(input.byte())));
    Offload { segment, partial }
}

/// A packet between the hosts behind the ports, or to a translator's address.
fn packet(kind: u8, port: u16, input: &mut Input<'_>) -> Vec<u8> {
    let (low, size) = (input.byte(), input.word());
    let size = if low & 0x80 == 0 { size % SHORT } else { size % 60_000 };
    let payload = vec![0x5a; usize::from(size)];
    let host = if low & 0x40 == 0 { 2 } else { 1 };
    let (here, there) = if port == 0 { (1, 2) } else { (2, 1) };
    let v4 = || PacketBuilder::ipv4([10, 0, here, 2], [10, 0, there, host], 64);
    let v6 = || {
        let address = |net: u8, host: u8| [0xfd, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
        PacketBuilder::ipv6(address(here, 2), address(there, if host == 2 { 2 } else { 0x10 }), 64)
    };
    let (source, destination) =
        if port == 0 { (40_000 + u16::from(low & 7), 443) } else { (443, 40_000 + u16::from(low & 7)) };
    let number = u32::from(low & 0x38) << 6;
    let mut bytes = Vec::new();
    let written = match kind {
        1 => v4().tcp(source, destination, number, 1_000).ack(1).write(&mut bytes, &payload),
        2 => v6().tcp(source, destination, number, 1_000).ack(1).write(&mut bytes, &payload),
        3 => v4()
            .tcp(source, destination, number, 1_000)
            .syn()
            .options_raw(&SYN)
            .unwrap()
            .write(&mut bytes, &[]),
        4 => v6()
            .tcp(source, destination, number, 1_000)
            .syn()
            .options_raw(&SYN)
            .unwrap()
            .write(&mut bytes, &[]),
        5 => v4().tcp(source, destination, number, 1_000).rst().write(&mut bytes, &[]),
        6 => v4().tcp(source, destination, number, 1_000).fin().ack(number).write(&mut bytes, &[]),
        7 => v4()
            .tcp(source, destination, number, 1_000)
            .ack(number)
            .options_raw(&STAMP)
            .unwrap()
            .write(&mut bytes, &payload),
        8 => v4().udp(source, destination).write(&mut bytes, &payload),
        9 => v6().udp(source, destination).write(&mut bytes, &payload),
        10 => v4().icmpv4_echo_request(source, 1).write(&mut bytes, &payload),
        11 => v6().icmpv6_echo_request(source, 1).write(&mut bytes, &payload),
        12 => return error_about(v4().udp(destination, source), v4(), &payload),
        13 => return fragment(v4().udp(source, destination), size, low),
        14 => return v6_with_extensions(input, here, there),
        _ => v4().udp(source, 443).write(&mut bytes, &QUIC),
    };
    written.map(|()| bytes).unwrap_or_default()
}

/// Options of a SYN: MSS, SACK permitted, timestamps, window scale.
const SYN: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
/// Timestamps, and a SACK block.
const STAMP: [u8; 24] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 3, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9];
/// The beginning of a QUIC Initial.
const QUIC: [u8; 24] = [0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x40, 5, 1, 2, 3, 4, 5, 6];

type Udp = etherparse::PacketBuilderStep<etherparse::UdpHeader>;
type Ip = etherparse::PacketBuilderStep<etherparse::IpHeaders>;

/// "Fragmentation needed", quoting.
fn error_about(quoted: Udp, outer: Ip, payload: &[u8]) -> Vec<u8> {
    let (mut quote, mut bytes) = (Vec::new(), Vec::new());
    if quoted.write(&mut quote, payload).is_err() {
        return bytes;
    }
    // As seen from the other side.
    quote.truncate(60);
    let (source, rest) = quote[12..20].split_at_mut(4);
    source.swap_with_slice(rest);
    let _ = outer.icmpv4_raw(3, 4, [0, 0, 2, 88]).write(&mut bytes, &quote);
    bytes
}

/// A first, middle or last fragment.
fn fragment(whole: Udp, size: u16, low: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if whole.write(&mut bytes, &vec![0x5a; usize::from(size & 0x3f8)]).is_err() {
        return bytes;
    }
    let offset = u16::from(low & 3) * (size & 0x3f8) / 8;
    let more = if low & 4 == 0 { 0x2000 } else { 0 };
    bytes[6..8].copy_from_slice(&(more | offset).to_be_bytes());
    bytes
}

/// A header of IPv6, and behind it whatever comes: extension headers most of all.
fn v6_with_extensions(input: &mut Input<'_>, here: u8, there: u8) -> Vec<u8> {
    let next = *input.choose(&[0, 43, 44, 60, 51, 50, 59, 6, 17, 58, 132, 4, 41]);
    let length = usize::from(input.byte());
    let rest = input.take(length);
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    (bytes[6], bytes[7]) = (next, 64);
    bytes[8..12].copy_from_slice(&[0xfd, 0, 0, here]);
    bytes[23] = 2;
    bytes[24..28].copy_from_slice(&[0xfd, 0, 0, there]);
    bytes[39] = 2;
    bytes.extend_from_slice(rest);
    bytes
}
