//! `match = { ... }`: which packets a stage looks at.

mod segment;

pub(super) use segment::describe;

use crate::config::port::prefix;
use crate::config::reader::{Integer, Table, Value};
use crate::pipeline::params::{FragmentSelect, Select};

const PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
    ("dccp", 33),
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipip", 4),
];

/// Bits as on the wire.
const TCP_FLAGS: &[(&str, u8)] =
    &[("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32), ("ece", 64), ("cwr", 128)];

/// Codepoints (RFC 3168 section 5).
const ECN: &[(&str, &[u8])] =
    &[("not-ect", &[0]), ("ect1", &[1]), ("ect0", &[2]), ("ect", &[1, 2]), ("ce", &[3])];

const FRAGMENTS: &[(&str, FragmentSelect)] = &[
    ("none", FragmentSelect::None),
    ("any", FragmentSelect::Any),
    ("first", FragmentSelect::First),
    ("later", FragmentSelect::Later),
];

/// Reads a selection; `None` if it is no table.
pub fn read_select(value: &Value<'_>) -> Option<Select> {
    let mut table = value.table()?;
    let (tcp_flags_set, tcp_flags_unset) =
        table.value("tcp_flags").and_then(|value| tcp_flags(&value)).unwrap_or_default();
    let select = Select {
        protocols: each(&mut table, "protocol", protocol),
        source: each(&mut table, "source", prefix),
        destination: each(&mut table, "destination", prefix),
        source_ports: each(&mut table, "source_port", range),
        destination_ports: each(&mut table, "destination_port", range),
        ports: each(&mut table, "port", range),
        tcp_flags_set,
        tcp_flags_unset,
        ip_length: table.value("ip_length").and_then(|value| range(&value)),
        payload_length: table.value("payload_length").and_then(|value| range(&value)),
        fragment: table.value("fragment").and_then(|value| value.choice(FRAGMENTS)),
        dscp: each(&mut table, "dscp", dscp),
        ecn: each(&mut table, "ecn", |value| value.choice(ECN)).concat(),
        segments: each(&mut table, "segment", |value| value.choice(segment::KINDS)).into_iter().collect(),
        transmission: segment::transmission(&mut table),
        quic: segment::quic(&mut table),
        opened: table.value("opened").and_then(|value| value.choice(segment::OPENED)),
        addresses: Vec::new(),
        except: Vec::new(),
    };
    check(&select, &table);
    table.finish();
    Some(select)
}

/// The value of `key`, one or an array of them.
fn each<'a, T>(table: &mut Table<'a>, key: &'static str, read: impl Fn(&Value<'a>) -> Option<T>) -> Vec<T> {
    let items = table.value(key).map(|value| value.one_or_more()).unwrap_or_default();
    items.iter().filter_map(read).collect()
}

/// Conditions that no packet can meet.
fn check(select: &Select, table: &Table<'_>) {
    segment::check(select, table);
    let protocols = &select.protocols;
    let only =
        |with: &[u8]| !protocols.is_empty() && !protocols.iter().any(|protocol| with.contains(protocol));
    if (select.tcp_flags_set | select.tcp_flags_unset) != 0 && only(&[6]) {
        table.problem("only TCP has flags: no packet matches", "set protocol = \"tcp\" or remove tcp_flags");
    }
    let ports = [&select.source_ports, &select.destination_ports, &select.ports];
    if ports.iter().any(|list| !list.is_empty()) && only(&[6, 17, 132]) {
        table.problem("this protocol has no ports: no packet matches", "remove the ports or the protocol");
    }
}

fn protocol(value: &Value<'_>) -> Option<u8> {
    if value.is_integer() { value.integer(0..=u8::MAX) } else { value.choice(PROTOCOLS) }
}

/// The name of an IP protocol, or its number.
pub(super) fn protocol_name(protocol: u8) -> String {
    let known = PROTOCOLS.iter().find(|known| known.1 == protocol);
    known.map_or_else(|| format!("protocol {protocol}"), |known| known.0.to_owned())
}

/// TCP flags as `tcp_flags` takes them.
pub(super) fn flag_names(set: u8, unset: u8) -> String {
    let of = |bits: u8, mark: &'static str| {
        TCP_FLAGS.iter().filter(move |flag| bits & flag.1 != 0).map(move |flag| format!("{mark}{}", flag.0))
    };
    of(set, "").chain(of(unset, "!")).collect::<Vec<_>>().join(",")
}

/// A number, or a text `8000-8100`, `100-` or `-1500`; inclusive.
pub(super) fn range<T: Integer + Bounded>(value: &Value<'_>) -> Option<(T, T)> {
    if value.is_integer() {
        let number = value.integer(T::LEAST..=T::MOST)?;
        return Some((number, number));
    }
    let read = |text: &str| {
        let bound = |text: &str, open: T| match text.trim() {
            "" => Some(open),
            digits => digits.parse().ok().and_then(|number: i128| T::try_from(number).ok()),
        };
        if text.trim() == "-" {
            return None;
        }
        match text.split_once('-') {
            Some((low, high)) => Some((bound(low, T::LEAST)?, bound(high, T::MOST)?)),
            None => bound(text, T::LEAST).filter(|_| !text.trim().is_empty()).map(|number| (number, number)),
        }
    };
    let (low, high) = value.parsed(read, &format!("a number or range up to {}", T::MOST), "100-1500")?;
    if low > high {
        value.problem(format!("{low}-{high} is empty"), format!("try \"{high}-{low}\""));
    }
    Some((low, high))
}

/// Numbers with a range of their own.
pub(super) trait Bounded {
    const LEAST: Self;
    const MOST: Self;
}

/// Ports.
impl Bounded for u16 {
    const LEAST: Self = 0;
    const MOST: Self = Self::MAX;
}

/// Lengths of IP packets.
impl Bounded for u32 {
    const LEAST: Self = 0;
    const MOST: Self = 65_535;
}

/// `syn,!ack`: set, and unset.
fn tcp_flags(value: &Value<'_>) -> Option<(u8, u8)> {
    let names: Vec<&str> = TCP_FLAGS.iter().map(|flag| flag.0).collect();
    let (mut set, mut unset) = (0, 0);
    for word in value.text()?.split(',').map(str::trim) {
        let name = word.strip_prefix('!').unwrap_or(word);
        let Some(&(_, bit)) = TCP_FLAGS.iter().find(|flag| flag.0 == name) else {
            value
                .problem(format!("\"{name}\" is not a TCP flag"), crate::config::suggest::hint(name, &names));
            return None;
        };
        *(if name == word { &mut set } else { &mut unset }) |= bit;
    }
    if set & unset != 0 {
        value.problem("a flag cannot be set and clear", "write each flag once");
    }
    Some((set, unset))
}

/// A number, or a class: `ef` (RFC 3246), `cs0` to `cs7` (RFC 2474), `af11` to `af43` (RFC 2597).
fn dscp(value: &Value<'_>) -> Option<u8> {
    if value.is_integer() {
        return value.integer(0..=63);
    }
    let digit = |byte: u8, range: std::ops::RangeInclusive<u8>| {
        let digit = byte.wrapping_sub(b'0');
        range.contains(&digit).then_some(digit)
    };
    let read = |text: &str| match text.as_bytes() {
        b"ef" => Some(46),
        [b'c', b's', class] => digit(*class, 0..=7).map(|class| class * 8),
        [b'a', b'f', class, drop] => Some(digit(*class, 1..=4)? * 8 + digit(*drop, 1..=3)? * 2),
        _ => None,
    };
    value.parsed(read, "a DSCP (0 to 63, ef, cs0 to cs7, af11 to af43)", "ef")
}
