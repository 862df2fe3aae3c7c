//! Records as text for people and as JSON for programs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::journal::names::Names;
use crate::journal::record::{Kind, Record, UNKNOWN};
use crate::pipeline::wire::tcp::Tcp;
use crate::pipeline::wire::{FlowKey, Layout, ipv6, protocol};

/// Most flows whose numbers and addresses are kept.
const KNOWN: usize = 1 << 20;

/// Numbers for flows, from 1 in the order in which they are first seen, and their addresses.
#[derive(Debug, Default)]
pub struct Flows {
    flows: HashMap<u64, Flow>,
}

/// One flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its number.
    pub number: u64,
    key: Option<FlowKey>,
}

impl Flows {
    /// Learns the addresses of a record's flow.
    pub fn learn(&mut self, record: &Record<'_>) {
        if record.flow == 0 {
            return;
        }
        if let Some(flow) = self.flows.get_mut(&record.flow) {
            flow.key = flow.key.or_else(|| key(record.bytes));
        } else if self.flows.len() < KNOWN {
            let number = self.flows.len() as u64 + 1;
            self.flows.insert(record.flow, Flow { number, key: key(record.bytes) });
        }
    }

    /// The flow of a record, if it is known.
    pub fn of(&self, record: &Record<'_>) -> Option<&Flow> {
        self.flows.get(&record.flow)
    }

    /// Whether there is a flow of this number.
    pub fn has(&self, number: u64) -> bool {
        (1..=self.flows.len() as u64).contains(&number)
    }

    /// The range of known numbers, in words.
    pub fn range(&self) -> String {
        match self.flows.len() {
            0 => "there is none".to_owned(),
            1 => "there is only flow 1".to_owned(),
            flows => format!("there are flows 1 to {flows}"),
        }
    }

    /// Sender and receiver.
    fn ends(&self, record: &Record<'_>) -> Option<FlowKey> {
        key(record.bytes).or_else(|| self.of(record)?.key)
    }

    /// Two lines of any length: the event, and the packet.
    pub fn lines(&self, names: &Names, record: &Record<'_>) -> String {
        let at = record.at as f64 / 1e9;
        let held = match record.kind {
            Kind::Sent if record.due > record.arrived => {
                format!(" after {}", span(record.left.max(record.due) - record.arrived))
            }
            Kind::Held if record.due == UNKNOWN.as_nanos() => String::new(),
            Kind::Held => format!(" for {}", span(record.due.saturating_sub(record.at))),
            Kind::Dropped | Kind::Released if record.at > record.arrived => {
                format!(" after {}", span(record.at - record.arrived))
            }
            _ => String::new(),
        };
        let port = match record.kind {
            Kind::Received => format!(" from {}", names.port(record.port)),
            Kind::Sent => format!(" to {}", names.port(record.port)),
            _ => String::new(),
        };
        format!("{at:>11.6}  {}{port}{held}\n{:>13}{}", names.verdict(record), "", self.packet(record))
    }

    fn packet(&self, record: &Record<'_>) -> String {
        let number = self.of(record).map_or_else(String::new, |flow| {
            let packets = numbers(record);
            let (first, last) = (packets.start(), packets.end());
            if first == last {
                format!("flow {} packet {first}: ", flow.number)
            } else {
                format!("flow {} packets {first}-{last}: ", flow.number)
            }
        });
        let ends = self.ends(record).map_or_else(String::new, |key| ends(&key));
        let tcp = record.tcp.map_or_else(String::new, |tcp| {
            let again = if tcp.transmission > 1 {
                format!(", transmission {}", tcp.transmission)
            } else {
                String::new()
            };
            format!(" seq {}:{}{again}", tcp.sequence, tcp.sequence.wrapping_add(tcp.payload))
        });
        format!("{number}{ends}{tcp}, {} B", bytes(record))
    }

    /// One object for a line.
    pub fn json(&self, names: &Names, record: &Record<'_>) -> Value {
        let mut value = json!({
            "at_ns": record.at, "kind": record.kind.name(), "place": names.place(record), "arrived_ns": record.arrived,
            "packets": record.wires, "bytes": bytes(record), "port": names.port(record.port),
            "packet_id": format!("{:016x}", record.id(0)), "flow_id": format!("{:016x}", record.flow),
            "index": record.index, "lineage": record.lineage,
        });
        if record.due != UNKNOWN.as_nanos() || record.kind != Kind::Held {
            value["due_ns"] = record.due.into();
        }
        if let Some(reason) = names.reason(record) {
            value["reason"] = reason.into();
        }
        if record.left > 0 {
            value["left_ns"] = record.left.into();
        }
        if let Some(draw) = record.draw {
            value["draw"] = json!({ "value": draw.value(), "threshold": draw.threshold() });
        }
        if let Some(tcp) = record.tcp {
            value["tcp"] =
                json!({ "seq": tcp.sequence, "length": tcp.payload, "transmission": tcp.transmission });
        }
        if let Some(flow) = self.of(record) {
            value["flow"] = flow.number.into();
        }
        if let Some(key) = self.ends(record) {
            tell_ends(&mut value, &key);
        }
        if !record.before.is_empty() {
            value["before"] = hex(record.before).into();
            value["after"] = hex(record.bytes).into();
        }
        value
    }
}

/// Bytes of all wire packets together.
fn bytes(record: &Record<'_>) -> u64 {
    u64::from(record.wires.saturating_sub(1)) * u64::from(record.each) + u64::from(record.last)
}

/// Numbers of the wire packets of a record in their flow, from 1.
pub fn numbers(record: &Record<'_>) -> RangeInclusive<u64> {
    let first = record.index.saturating_add(1);
    first..=record.index.saturating_add(u64::from(record.wires.max(1)))
}

fn key(bytes: &[u8]) -> Option<FlowKey> {
    headers(bytes).map(|(key, _)| key)
}

/// Flow and TCP flags (0: no TCP) of a packet that begins with these bytes; `None` if they are not a whole IP header.
pub(super) fn headers(bytes: &[u8]) -> Option<(FlowKey, u8)> {
    // The lengths in the headers are those of the whole packet: the missing part is replaced by zeros.
    let total = match bytes.first()? >> 4 {
        4 => be16(bytes, 2)?,
        _ => be16(bytes, 4)? + ipv6::HEADER,
    };
    let mut packet = vec![0; total.max(bytes.len())];
    packet[..bytes.len()].copy_from_slice(bytes);
    let (layout, length) =
        Layout::parse(&packet).ok().filter(|(layout, _)| layout.transport_offset() <= bytes.len())?;
    let is_tcp = layout.protocol() == protocol::TCP && layout.has_ports() && !layout.is_fragment();
    let segment = is_tcp.then(|| Tcp::new(&packet[layout.transport_offset()..length]).ok()).flatten();
    let flags = segment.map_or(0, |segment| segment.flags());
    Some((FlowKey::new(&packet[..length], layout), flags))
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|two| usize::from(u16::from_be_bytes(*two)))
}

/// `PROTOCOL SOURCE > DESTINATION`.
pub(super) fn ends(key: &FlowKey) -> String {
    format!(
        "{} {} > {}",
        protocol_name(key.protocol()),
        end(key.source(), key.source_port()),
        end(key.destination(), key.destination_port())
    )
}

/// Adds sender and receiver to an object.
pub fn tell_ends(value: &mut Value, key: &FlowKey) {
    value["source"] = end(key.source(), key.source_port()).into();
    value["destination"] = end(key.destination(), key.destination_port()).into();
    value["protocol"] = protocol_name(key.protocol()).into();
}

fn end(address: IpAddr, port: u16) -> String {
    match address {
        _ if port == 0 => address.to_string(),
        IpAddr::V4(_) => format!("{address}:{port}"),
        IpAddr::V6(_) => format!("[{address}]:{port}"),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        other => format!("IP protocol {other}"),
    }
}

/// A time in words.
pub(crate) fn span(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        1_000_000..10_000_000_000 => format!("{:.3} ms", nanos as f64 / 1e6),
        _ => format!("{:.3} s", nanos as f64 / 1e9),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::names::tests::names;
    use crate::journal::record::tests::record;
    use crate::journal::record::{FIXED, TcpRange};
    use crate::pipeline::packet::Packet;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::router::Headers;
    use crate::pipeline::testing::{Frame, Spec};
    use proptest::prelude::*;

    fn parsed(frame: &Frame) -> Packet {
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap()
    }

    /// The headers alone have the same flow as the whole packet.
    #[test]
    fn the_first_bytes_of_a_packet_tell_its_flow() {
        let large =
            [Spec::udp(1400), Spec::tcp(1400), Spec::udp(4000).train(1000), Spec::tcp(4000).train(1000)];
        for spec in large.into_iter().flat_map(|spec| [spec.clone(), spec.v6()]) {
            let packet = parsed(&spec.frame());
            let headers = &packet.bytes()[..packet.header_length().min(Headers::LEN)];
            let whole = FlowKey::new(packet.bytes(), packet.layout);
            assert_ne!(whole.source_port(), 0);
            assert_eq!(key(headers), Some(whole), "{spec:?}");
        }
    }

    #[test]
    fn udp_is_printed_with_ports() {
        let packet = parsed(&Spec::udp(900).frame());
        let record = Record { tcp: None, bytes: &packet.bytes()[..28], ..record() };
        let flow = FlowKey::new(packet.bytes(), packet.layout);
        let port = format!(":{} >", flow.source_port());
        let mut flows = Flows::default();
        flows.learn(&record);
        assert!(flows.lines(&names(), &record).contains(&port), "{}", flows.lines(&names(), &record));
        let value = flows.json(&names(), &Record { bytes: &[], ..record });
        assert!(value["source"].as_str().unwrap().ends_with(&port[..port.len() - 2]), "{value}");
    }

    /// A known flow gets its addresses, however many other flows there are.
    #[test]
    fn a_full_table_still_knows_its_flows() {
        let packet = parsed(&Spec::udp(900).frame());
        let mut flows = Flows::default();
        for flow in 1..=KNOWN as u64 + 9 {
            flows.learn(&Record { flow, bytes: &[], ..record() });
        }
        assert_eq!(flows.flows.len(), KNOWN);
        let first = Record { flow: 1, bytes: packet.bytes(), ..record() };
        flows.learn(&first);
        assert!(flows.ends(&Record { bytes: &[], ..first }).is_some());
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let record =
            Record { kind: Kind::Held, at: u64::MAX, due: 0, index: u64::MAX, wires: u32::MAX, ..record() };
        assert_eq!(numbers(&record), u64::MAX..=u64::MAX);
        let mut flows = Flows::default();
        flows.learn(&record);
        assert!(!flows.lines(&names(), &record).contains(" for "));
        let record = Record { due: 1, ..record };
        assert!(flows.lines(&names(), &record).contains("for 0.0 us"));
    }

    /// Who wants it narrower wraps it; a pipe gets all of it.
    #[test]
    fn a_long_line_is_whole() {
        let tcp = TcpRange { sequence: u32::MAX - 1, payload: 60_000, transmission: 7 };
        let bytes = Spec::tcp(10).v6().frame().bytes;
        let record = Record { tcp: Some(tcp), before: &[], bytes: &bytes, ..record() };
        let text = Flows::default().lines(&names(), &record);
        assert!(text.contains(" seq 4294967294:59998, transmission 7, "), "{text}");
        assert!(text.ends_with(" B"), "{text}");
        assert!(text.lines().any(|line| line.len() > 80), "{text}");
    }

    proptest! {
        /// Any content of a file is printed, in two lines and as JSON.
        #[test]
        fn any_record_is_printed_safely(
            mut bytes in proptest::collection::vec(any::<u8>(), FIXED..FIXED + 200), kind in 1_u8..8, before in 0_u16..3,
            extreme in proptest::collection::vec((0_usize..14, prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]), 0..6),
            version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        ) {
            for (word, value) in extreme {
                bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
            }
            let (size, before) = (bytes.len(), usize::from(before).min(bytes.len() - FIXED));
            bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
            bytes[4] = kind;
            bytes[104..106].copy_from_slice(&(before as u16).to_le_bytes());
            bytes[108..112].copy_from_slice(&((size - FIXED - before) as u32).to_le_bytes());
            if let Some(first) = bytes.get_mut(FIXED + before) {
                *first = version;
            }
            let (record, _) = Record::decode(&bytes).unwrap();
            let record = record.unwrap();
            let mut flows = Flows::default();
            flows.learn(&record);
            prop_assert_eq!(flows.lines(&names(), &record).lines().count(), 2);
            prop_assert!(flows.json(&names(), &record).is_object());
            prop_assert!(!numbers(&record).is_empty());
        }
    }
}
