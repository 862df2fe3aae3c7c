//! The conditions of a match on TCP segments and QUIC packets.

use super::each;
use crate::config::reader::{Table, Value};
use crate::pipeline::params::{FragmentSelect, Opened, QuicSelect, Segment, Segments, Select, Transmission};
use crate::pipeline::wire::protocol;
use crate::pipeline::wire::quic::QuicPacket;
use crate::pipeline::wire::tcp::flag;

pub(super) const KINDS: &[(&str, Segment)] = &[
    ("syn", Segment::Syn),
    ("syn-ack", Segment::SynAck),
    ("fin", Segment::Fin),
    ("rst", Segment::Rst),
    ("data", Segment::Data),
    ("new-data", Segment::NewData),
    ("retransmission", Segment::Retransmission),
    ("pure-ack", Segment::PureAck),
    ("handshake-ack", Segment::HandshakeAck),
    ("sack", Segment::Sack),
    ("established", Segment::Established),
];

pub(super) const OPENED: &[(&str, Opened)] = &[("before", Opened::Before), ("after", Opened::After)];

const QUIC: &[(&str, QuicPacket)] = &[
    ("initial", QuicPacket::Initial),
    ("0-rtt", QuicPacket::ZeroRtt),
    ("handshake", QuicPacket::Handshake),
    ("retry", QuicPacket::Retry),
    ("version-negotiation", QuicPacket::VersionNegotiation),
    ("short", QuicPacket::Short),
];

/// Longest connection ID of QUIC versions 1 and 2 (RFC 9000 section 17.2).
const LONGEST_ID: usize = 20;

/// `transmission_of` or `retransmission_of`.
pub(super) fn transmission(table: &mut Table<'_>) -> Option<Transmission> {
    let number = |value: &Value<'_>| value.integer(1..=u64::MAX);
    let (any, again) = (table.value("transmission_of"), table.value("retransmission_of"));
    if let (Some(_), Some(again)) = (&any, &again) {
        again.problem("is part of transmission_of already", "remove one of the two");
    }
    let any = any.and_then(|value| Some(Transmission { of: number(&value)?, again: false }));
    let again = again.and_then(|value| Some(Transmission { of: number(&value)?, again: true }));
    any.or(again)
}

/// `quic` and `quic_dcid`.
pub(super) fn quic(table: &mut Table<'_>) -> Option<QuicSelect> {
    let wanted = each(table, "quic", |value| value.choice(QUIC));
    let packets = wanted.iter().fold(0, |bits, &packet| bits | packet as u8);
    let destinations = each(table, "quic_dcid", |value| {
        let what = format!("the beginning of a connection ID: 1 to {LONGEST_ID} bytes in hexadecimal");
        value.parsed(bytes, &what, "c0ffee")
    });
    (packets != 0 || !destinations.is_empty()).then_some(QuicSelect { packets, destinations })
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || !(1..=LONGEST_ID).contains(&(text.len() / 2)) {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    text.as_bytes().chunks(2).map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()).collect()
}

/// Reports conditions that no packet can meet; returns whether any was reported.
pub(super) fn check(select: &Select, table: &Table<'_>) -> bool {
    let aims_at_tcp = !select.segments.is_empty() || select.transmission.is_some() || select.opened.is_some();
    let aims_at_quic = select.quic.is_some();
    let excluded = |wanted| !select.protocols.is_empty() && !select.protocols.contains(&wanted);
    let fragments = select.fragment.is_some_and(|fragment| fragment != FragmentSelect::None);
    let possible = KINDS.iter().any(|&(_, kind)| select.segments.has(kind) && can_be(kind, select));
    let rules = [
        (aims_at_tcp && aims_at_quic, "no packet is both TCP and QUIC", "write two stages"),
        (
            aims_at_tcp && excluded(protocol::TCP),
            "only TCP has segments and shows when a connection was opened: no packet matches",
            "set protocol = \"tcp\" or remove it",
        ),
        (
            aims_at_quic && (excluded(protocol::UDP) || select.tcp_flags_set | select.tcp_flags_unset != 0),
            "QUIC runs over UDP: no packet matches",
            "set protocol = \"udp\", without tcp_flags",
        ),
        (
            (aims_at_tcp || aims_at_quic) && fragments,
            "a fragment is neither a TCP segment nor a QUIC packet",
            "remove fragment, or select by ports",
        ),
        (
            !select.segments.is_empty() && !possible,
            "no such segment meets the other conditions (flags, payload_length, transmission_of)",
            "remove what contradicts segment",
        ),
    ];
    for (_, what, hint) in rules.iter().filter(|rule| rule.0) {
        table.problem(*what, *hint);
    }
    rules.iter().any(|rule| rule.0)
}

/// Whether a segment of this kind can meet the conditions on its flags, its length and its data.
fn can_be(kind: Segment, select: &Select) -> bool {
    let (set, unset) = flags(kind);
    let data = Segments::NONE.with(Segment::Data).with(Segment::NewData);
    let none = Segments::NONE.with(Segment::PureAck).with(Segment::HandshakeAck);
    let wants_data = select.transmission.is_some() || select.payload_length.is_some_and(|range| range.0 > 0);
    let wants_none = select.payload_length.is_some_and(|range| range.1 == 0);
    let wants_again = select.transmission.is_some_and(|transmission| transmission.again);
    let carries_stream = select.transmission.is_none() || kind != Segment::Rst;
    select.tcp_flags_set & unset == 0
        && select.tcp_flags_unset & set == 0
        && !(wants_data && none.has(kind))
        && !(wants_none && data.has(kind))
        && !(wants_again && kind == Segment::NewData)
        && carries_stream
}

/// The flags that a segment of this kind has, and those that it does not have.
const fn flags(kind: Segment) -> (u8, u8) {
    match kind {
        Segment::Syn => (flag::SYN, flag::ACK | flag::RST),
        Segment::SynAck => (flag::SYN | flag::ACK, flag::RST),
        Segment::Fin => (flag::FIN, flag::SYN | flag::RST),
        Segment::Rst => (flag::RST, 0),
        Segment::Data | Segment::NewData | Segment::Retransmission => (0, flag::RST),
        Segment::PureAck | Segment::HandshakeAck => (flag::ACK, flag::SYN | flag::FIN | flag::RST),
        Segment::Sack => (0, 0),
        Segment::Established => (0, flag::SYN),
    }
}

/// The conditions in words.
pub(in crate::config) fn describe(select: &Select) -> Vec<String> {
    let mut words = Vec::new();
    let kinds = KINDS.iter().filter(|kind| select.segments.has(kind.1)).map(|kind| kind.0);
    let kinds = kinds.collect::<Vec<_>>().join("|");
    words.extend((!kinds.is_empty()).then(|| format!("TCP segments {kinds}")));
    words.extend(select.transmission.map(|Transmission { of, again }| {
        format!("{} of data segment {of}", if again { "retransmissions" } else { "transmissions" })
    }));
    words.extend(select.opened.map(|opened| match opened {
        Opened::Before => "TCP connections opened before".to_owned(),
        Opened::After => "TCP connections opened since".to_owned(),
    }));
    let Some(QuicSelect { packets, destinations }) = &select.quic else { return words };
    let names = QUIC.iter().filter(|packet| packets & packet.1 as u8 != 0).map(|packet| packet.0);
    let names = names.collect::<Vec<_>>().join("|");
    words.push(format!("QUIC {}", if names.is_empty() { "packets" } else { &names }));
    let digits = |id: &Vec<u8>| id.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let ids = destinations.iter().map(digits).collect::<Vec<_>>().join("|");
    words.extend((!ids.is_empty()).then(|| format!("to connection ID {ids}...")));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reader::document;
    use crate::config::select::read_select;

    fn read(keys: &str) -> Result<Select, String> {
        let text = format!("match = {{ {keys} }}");
        document(&text, "x", |root| read_select(&root.value("match")?)).map_err(|error| error.to_string())
    }

    fn problem(keys: &str) -> String {
        let error = read(keys).unwrap_err();
        let (_, what) = error.split_once("match").unwrap();
        what.to_owned()
    }

    #[test]
    fn every_kind_of_segment_has_its_name() {
        for (name, kind) in KINDS {
            assert_eq!(read(&format!("segment = \"{name}\"")).unwrap().segments, Segments::NONE.with(*kind));
        }
        let both = read("segment = [\"syn\", \"fin\"], retransmission_of = 3").unwrap();
        assert_eq!(both.segments, Segments::NONE.with(Segment::Syn).with(Segment::Fin));
        assert_eq!(both.transmission, Some(Transmission { of: 3, again: true }));
        let first = read("transmission_of = 1").unwrap().transmission;
        assert_eq!(first, Some(Transmission { of: 1, again: false }));
    }

    #[test]
    fn quic_packets_have_their_names_and_ids_are_hexadecimal() {
        for (name, packet) in QUIC {
            let quic = read(&format!("quic = [\"{name}\"]")).unwrap().quic.unwrap();
            assert_eq!(quic, QuicSelect { packets: *packet as u8, destinations: vec![] });
        }
        let quic = read("quic = [\"initial\", \"short\"], quic_dcid = [\"C0ffEE\", \"00\"]").unwrap().quic;
        let destinations = vec![vec![0xc0, 0xff, 0xee], vec![0]];
        assert_eq!(quic, Some(QuicSelect { packets: 0b10_0001, destinations }));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_allowed() {
        let id = "is not the beginning of a connection ID: 1 to 20 bytes in hexadecimal (try \"c0ffee\")";
        let none = "no such segment meets the other conditions (flags, payload_length, transmission_of) \
                    (remove what contradicts segment)";
        for (keys, what) in [
            ("segment = \"sin\"", ".segment: \"sin\" is not known (did you mean \"syn\"?)".to_owned()),
            (
                "transmission_of = 0",
                ".transmission_of: 0 is out of range (allowed: 1 to 18446744073709551615)".into(),
            ),
            (
                "transmission_of = 1, retransmission_of = 2",
                ".retransmission_of: is part of transmission_of already (remove one of the two)".into(),
            ),
            ("quic_dcid = \"abc\"", format!(".quic_dcid: \"abc\" {id}")),
            ("quic_dcid = \"+1\"", format!(".quic_dcid: \"+1\" {id}")),
            ("quic_dcid = \"\"", format!(".quic_dcid: \"\" {id}")),
            (
                "segment = \"syn\", protocol = \"udp\"",
                ": only TCP has segments and shows when a connection was opened: no packet matches (set protocol = \"tcp\" or remove it)".into(),
            ),
            (
                "quic = \"short\", protocol = \"tcp\"",
                ": QUIC runs over UDP: no packet matches (set protocol = \"udp\", without tcp_flags)".into(),
            ),
            (
                "quic = \"short\", tcp_flags = \"syn\"",
                ": QUIC runs over UDP: no packet matches (set protocol = \"udp\", without tcp_flags)".into(),
            ),
            (
                "quic = \"short\", segment = \"syn\"",
                ": no packet is both TCP and QUIC (write two stages)".into(),
            ),
            (
                "segment = \"data\", fragment = \"first\"",
                ": a fragment is neither a TCP segment nor a QUIC packet (remove fragment, or select by ports)".into(),
            ),
            ("segment = \"syn\", tcp_flags = \"ack\"", format!(": {none}")),
            ("segment = [\"pure-ack\", \"handshake-ack\"], payload_length = \"1-\"", format!(": {none}")),
            ("segment = \"data\", payload_length = 0", format!(": {none}")),
            ("segment = \"new-data\", retransmission_of = 1", format!(": {none}")),
        ] {
            assert_eq!(problem(keys), what, "{keys}");
        }
        // It is enough if one of the kinds is possible.
        assert!(read("segment = [\"syn\", \"data\"], tcp_flags = \"ack\"").is_ok());
        assert!(read("segment = \"syn\", transmission_of = 1, fragment = \"none\"").is_ok());
    }

    #[test]
    fn a_selection_reads_as_words() {
        let words = |keys: &str| describe(&read(keys).unwrap());
        assert_eq!(
            words("segment = [\"data\", \"syn\"], retransmission_of = 3"),
            ["TCP segments syn|data", "retransmissions of data segment 3"]
        );
        assert_eq!(
            words("quic = \"0-rtt\", quic_dcid = \"0a0b\""),
            ["QUIC 0-rtt", "to connection ID 0a0b..."]
        );
        assert_eq!(words("quic_dcid = \"0a\""), ["QUIC packets", "to connection ID 0a..."]);
    }
}
