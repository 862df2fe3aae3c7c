//! Records as text for people and as JSON for programs.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::journal::names::Names;
use crate::journal::record::{Kind, Record};
use crate::pipeline::router::Headers;
use crate::pipeline::wire::{FlowKey, Layout, protocol};

/// Flows that are known by number and addresses.
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
    /// Takes in what a record tells of its flow.
    pub fn learn(&mut self, record: &Record<'_>) {
        if record.flow == 0 || self.flows.len() >= KNOWN {
            return;
        }
        let number = self.flows.len() as u64 + 1;
        let flow = self.flows.entry(record.flow).or_insert(Flow { number, key: None });
        if flow.key.is_none() {
            flow.key = key(record.bytes);
        }
    }

    /// The flow of a record, if it is known.
    pub fn of(&self, record: &Record<'_>) -> Option<&Flow> {
        self.flows.get(&record.flow)
    }

    /// Who sends to whom.
    fn ends(&self, record: &Record<'_>) -> Option<FlowKey> {
        key(record.bytes).or_else(|| self.of(record)?.key)
    }

    /// What captures say about wire packet `wire` of a record.
    pub fn comment(&self, names: &Names, record: &Record<'_>, wire: u32) -> String {
        let verdict = names.verdict(record);
        match self.of(record) {
            Some(flow) => {
                format!("{verdict} (flow {}, packet {})", flow.number, record.index + u64::from(wire) + 1)
            }
            None => verdict,
        }
    }

    /// Two lines at most, each within 80 columns: what happened, and to which packet.
    pub fn lines(&self, names: &Names, record: &Record<'_>) -> String {
        let at = record.at as f64 / 1e9;
        let held = match record.kind {
            Kind::Sent if record.due > record.arrived => {
                format!(" after {}", span(record.left.max(record.due) - record.arrived))
            }
            Kind::Held => format!(" for {}", span(record.due - record.at)),
            Kind::Dropped if record.at > record.arrived => {
                format!(" after {}", span(record.at - record.arrived))
            }
            _ => String::new(),
        };
        let port = match record.kind {
            Kind::Received => format!(" from {}", names.port(record.port)),
            Kind::Sent => format!(" to {}", names.port(record.port)),
            _ => String::new(),
        };
        let first = clipped(format!("{at:>11.6}  {}{port}{held}", names.verdict(record)));
        let second = clipped(format!("{:>13}{}", "", self.packet(record)));
        format!("{first}\n{second}")
    }

    fn packet(&self, record: &Record<'_>) -> String {
        let number = self.of(record).map_or_else(String::new, |flow| {
            let first = record.index + 1;
            let last = record.index + u64::from(record.wires.max(1));
            if first == last {
                format!("flow {} packet {first}: ", flow.number)
            } else {
                format!("flow {} packets {first}-{last}: ", flow.number)
            }
        });
        let ends = self.ends(record).map_or_else(String::new, |key| {
            format!(
                "{} {} > {}",
                protocol_name(key.protocol()),
                end(key.source(), key.source_port()),
                end(key.destination(), key.destination_port())
            )
        });
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
            "index": record.index, "lineage": record.lineage, "due_ns": record.due,
        });
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
            value["source"] = end(key.source(), key.source_port()).into();
            value["destination"] = end(key.destination(), key.destination_port()).into();
            value["protocol"] = protocol_name(key.protocol()).into();
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

fn key(bytes: &[u8]) -> Option<FlowKey> {
    // The headers alone: their lengths speak of the whole packet.
    let mut headers = [0; Headers::LEN];
    let length = bytes.len().min(Headers::LEN);
    let headers = &mut headers[..length];
    headers.copy_from_slice(&bytes[..length]);
    let (at, told) = if bytes.first()? >> 4 == 4 { (2, length) } else { (4, length.checked_sub(40)?) };
    headers.get_mut(at..at + 2)?.copy_from_slice(&(told as u16).to_be_bytes());
    let (layout, _) = Layout::parse(headers).ok()?;
    Some(FlowKey::new(headers, layout))
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

fn span(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        1_000_000..10_000_000_000 => format!("{:.3} ms", nanos as f64 / 1e6),
        _ => format!("{:.3} s", nanos as f64 / 1e9),
    }
}

fn clipped(line: String) -> String {
    if line.chars().count() <= 80 { line } else { line.chars().take(79).chain(['…']).collect() }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
