//! `match = { ... }`: which packets a stage acts on.

pub(super) mod contradiction;
mod segment;

pub(super) use segment::describe;

use crate::config::expression;
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

/// Reads a selection, a table or an expression; `None` if it is neither.
pub fn read_select(value: &Value<'_>) -> Option<Select> {
    if let Some(text) = value.as_text() {
        return expression(value, text);
    }
    let mut table = value.table()?;
    let (tcp_flags_set, tcp_flags_unset) =
        table.value("tcp_flags").and_then(|value| tcp_flags(&value)).unwrap_or_default();
    let mut not = Not::default();
    let select = Select {
        protocols: not.each(&mut table, "protocol", protocol, |protocols, list| protocols.protocols = list),
        source: not.each(&mut table, "source", prefix, |select, list| select.source = list),
        destination: not.each(&mut table, "destination", prefix, |select, list| select.destination = list),
        addresses: not.each(&mut table, "address", prefix, |select, list| select.addresses = list),
        source_ports: not.each(&mut table, "source_port", range, |select, list| select.source_ports = list),
        destination_ports: not
            .each(&mut table, "destination_port", range, |select, list| select.destination_ports = list),
        ports: not.each(&mut table, "port", range, |select, list| select.ports = list),
        tcp_flags_set,
        tcp_flags_unset,
        ip_length: table.value("ip_length").and_then(|value| range(&value)),
        payload_length: table.value("payload_length").and_then(|value| range(&value)),
        fragment: table.value("fragment").and_then(|value| value.choice(FRAGMENTS)),
        dscp: not.each(&mut table, "dscp", dscp, |select, list| select.dscp = list),
        ecn: not
            .each(&mut table, "ecn", |value| value.choice(ECN), |select, list| select.ecn = list.concat())
            .concat(),
        segments: each(&mut table, "segment", |value| value.choice(segment::KINDS)).into_iter().collect(),
        transmission: segment::transmission(&mut table),
        quic: segment::quic(&mut table),
        opened: table.value("opened").and_then(|value| value.choice(segment::OPENED)),
        except: not.except,
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

/// Reads an expression, as `attach --match` takes it.
fn expression(value: &Value<'_>, text: &str) -> Option<Select> {
    let read = expression::parse(text);
    read.map_err(|error| value.problem_within(&error.at(), error.what(), EXAMPLE)).ok()
}

/// The problem with an expression that cannot be read.
const EXAMPLE: &str = "as in \"tcp port 5432 and not host 10.0.0.7\"";

/// Negations: values with a `!`.
#[derive(Debug, Default)]
struct Not {
    except: Vec<Select>,
}

impl Not {
    /// The values of `key` without a `!`. Values with a `!` become an exception, built by `set`.
    fn each<'a, T>(
        &mut self,
        table: &mut Table<'a>,
        key: &'static str,
        read: impl Fn(&Value<'a>) -> Option<T>,
        set: impl Fn(&mut Select, Vec<T>),
    ) -> Vec<T> {
        let items = table.value(key).map(|value| value.one_or_more()).unwrap_or_default();
        let (mut meant, mut other) = (Vec::new(), Vec::new());
        for item in &items {
            match item.negated() {
                Some(value) => other.extend(read(&value)),
                None => meant.extend(read(item)),
            }
        }
        if !other.is_empty() {
            let mut except = Select::default();
            set(&mut except, other);
            self.except.push(except);
        }
        meant
    }
}

/// Reports conditions that no packet can meet.
fn check(select: &Select, table: &Table<'_>) {
    let told = segment::check(select, table) | check_protocol(select, table);
    if !told && !contradiction::is_possible(select) {
        table.problem(
            "these conditions contradict each other: no packet meets all of them",
            "remove one of them",
        );
    }
}

/// Reports conditions that do not fit the protocol; returns whether anything was reported.
fn check_protocol(select: &Select, table: &Table<'_>) -> bool {
    let protocols = &select.protocols;
    let only =
        |with: &[u8]| !protocols.is_empty() && !protocols.iter().any(|protocol| with.contains(protocol));
    if (select.tcp_flags_set | select.tcp_flags_unset) != 0 && only(&[6]) {
        table.problem("only TCP has flags: no packet matches", "set protocol = \"tcp\" or remove tcp_flags");
        return true;
    }
    let ports = [&select.source_ports, &select.destination_ports, &select.ports];
    if ports.iter().any(|list| !list.is_empty()) && only(&contradiction::WITH_PORTS) {
        table.problem("this protocol has no ports: no packet matches", "remove the ports or the protocol");
        return true;
    }
    false
}

/// A name or a number; with a `!`, a number is written as text.
fn protocol(value: &Value<'_>) -> Option<u8> {
    if value.is_integer() {
        return value.integer(0..=u8::MAX);
    }
    let number = value.as_text().and_then(|text| text.parse().ok());
    number.or_else(|| value.choice(PROTOCOLS))
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
        return None;
    }
    Some((low, high))
}

/// Numbers with their own range.
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
    let number = |text: &str| text.parse().ok().filter(|number| (0..=63).contains(number));
    let read = |text: &str| match text.as_bytes() {
        b"ef" => Some(46),
        [b'c', b's', class] => digit(*class, 0..=7).map(|class| class * 8),
        [b'a', b'f', class, drop] => Some(digit(*class, 1..=4)? * 8 + digit(*drop, 1..=3)? * 2),
        // After a `!`.
        _ => number(text),
    };
    value.parsed(read, "a DSCP (0 to 63, ef, cs0 to cs7, af11 to af43)", "ef")
}
