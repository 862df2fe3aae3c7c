//! Selections of packets in one line: `tcp port 5432 and not host 10.0.0.7`.
//!
//! ```text
//! expression = all { "or" all }
//! all        = one { ["and"] one }
//! one        = "not" one | "(" expression ")" | primitive
//! primitive  = condition { condition }                          all of them: "not tcp port 22" excludes SSH, as in tcpdump
//! condition  = tcp | udp | icmp | icmp6 | sctp | proto N        protocol
//!            | ip | ip6                                          version
//!            | [src | dst] port N[-M]                            ports, of either end unless one is named
//!            | [src | dst] host ADDRESS | [src | dst] net PREFIX addresses, likewise
//! ```

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use crate::config::pointer::{self, Pointed};
use crate::config::select::contradiction;
use crate::pipeline::params::Select;

/// Maximum depth of brackets and `not`.
const DEEPEST: usize = 32;

/// Why an expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}\n{1}\n{what}", self.pointed().line, self.pointed().carets)]
pub struct ExpressionError {
    expression: String,
    /// The bytes of the expression that the error is about; empty, at the end, if something is missing there.
    at: Range<usize>,
    /// What is wrong, and how to write it correctly.
    what: String,
}

impl ExpressionError {
    fn pointed(&self) -> Pointed {
        pointer::pointed(&self.expression, self.at.start..self.at.start)
    }

    /// What is wrong, and how to write it correctly.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The bytes of the expression that the error is about; empty, at the end, if something is missing there.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }
}

/// Reads an expression.
///
/// # Errors
/// The first error.
pub fn parse(text: &str) -> Result<Select, ExpressionError> {
    let mut reader = Reader { text, words: words(text), next: 0, depth: 0 };
    let select = reader.any()?;
    match reader.peek() {
        None if !contradiction::is_possible(&select) => {
            Err(reader.wrong_at(0, "no packet matches: remove a \"not\"".to_owned()))
        }
        None => Ok(select),
        Some(word) => {
            let what = format!("\"{word}\" is too much: write \"and\", \"or\", or nothing more");
            Err(reader.wrong(what))
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The words, each with the byte where it begins.
    words: Vec<(usize, &'a str)>,
    next: usize,
    depth: usize,
}

enum End {
    Either,
    Source,
    Destination,
}

/// The words of a condition, and those between conditions.
pub(in crate::config) const WORDS: [&str; 16] = [
    "tcp", "udp", "icmp", "icmp6", "sctp", "proto", "ip", "ip6", "port", "host", "net", "src", "dst", "not",
    "and", "or",
];

/// Words and brackets.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, letter) in text.char_indices().chain([(text.len(), ' ')]) {
        let is_bracket = letter == '(' || letter == ')';
        if is_bracket || letter.is_whitespace() {
            found.extend(start.take().map(|from| (from, &text[from..at])));
        } else if start.is_none() {
            start = Some(at);
        }
        if is_bracket {
            found.push((at, &text[at..=at]));
        }
    }
    found
}

/// Restricts `select` to the packets that `to` selects too; `to` is one condition of an expression. False if the two
/// contradict each other, so that no packet matches.
#[must_use]
pub fn narrow(select: &mut Select, to: &Select) -> bool {
    if select.is_any() {
        *select = to.clone();
    } else if !to.is_any() {
        select.except.push(not(to.clone()));
    }
    contradiction::is_possible(select)
}

/// A selection of all packets that `select` does not select.
fn not(select: Select) -> Select {
    Select { except: vec![select], ..Select::default() }
}

/// A selection of all packets that all of `parts` select.
fn both(mut parts: Vec<Select>) -> Select {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    Select { except: parts.into_iter().map(not).collect(), ..Select::default() }
}

impl<'a> Reader<'a> {
    fn any(&mut self) -> Result<Select, ExpressionError> {
        let first = self.all()?;
        let mut refused = vec![not(first.clone())];
        while self.take("or") {
            refused.push(not(self.all()?));
        }
        // One of several, written as: not (none of them).
        Ok(if refused.len() == 1 {
            first
        } else {
            not(Select {
                except: refused.into_iter().flat_map(|one| one.except).collect(),
                ..Select::default()
            })
        })
    }

    fn all(&mut self) -> Result<Select, ExpressionError> {
        let mut parts = vec![(self.next, self.one()?)];
        while self.take("and") || self.peek().is_some_and(|word| word != "or" && word != ")") {
            parts.push((self.next, self.one()?));
        }
        self.joined(parts)
    }

    fn one(&mut self) -> Result<Select, ExpressionError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(format!("too deep: at most {DEEPEST} brackets and \"not\"")));
        }
        let read = if self.take("not") {
            self.one().map(not)
        } else if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                return Err(self.wrong("a bracket is not closed".to_owned()));
            }
            Ok(inner)
        } else {
            self.primitive()
        };
        self.depth -= 1;
        read
    }

    /// Successive conditions without a word between them. They form one primitive, so a "not" before them applies to
    /// all of them.
    fn primitive(&mut self) -> Result<Select, ExpressionError> {
        let mut parts = vec![(self.next, self.condition()?)];
        while self.peek().is_some_and(|word| !["and", "or", "not", "(", ")"].contains(&word)) {
            parts.push((self.next, self.condition()?));
        }
        self.joined(parts)
    }

    /// The conjunction of `parts`, each with the number of its first word; refused if no packet can meet all of them.
    fn joined(&self, parts: Vec<(usize, Select)>) -> Result<Select, ExpressionError> {
        let (places, parts): (Vec<usize>, Vec<Select>) = parts.into_iter().unzip();
        let select = both(parts.clone());
        if places.len() == 1 || contradiction::is_possible(&select) {
            return Ok(select);
        }
        let first =
            (2..places.len()).find(|&count| !contradiction::is_possible(&both(parts[..count].to_vec())));
        let place = places[first.unwrap_or(places.len()) - 1];
        let what = "contradicts the conditions before it, so no packet matches: join alternatives by \"or\"";
        let word = self.words.get(place).map_or("", |(_, word)| word);
        Err(self.wrong_at(place, format!("\"{word}\" {what}")))
    }

    fn condition(&mut self) -> Result<Select, ExpressionError> {
        let any = Select::default();
        let protocol = |number: u8| Ok(Select { protocols: vec![number], ..Select::default() });
        let version = |prefix: &str| {
            let all: IpNet = prefix.parse().expect("a constant prefix");
            Ok(Select { addresses: vec![all], ..Select::default() })
        };
        let end = match self.peek() {
            Some("src") => End::Source,
            Some("dst") => End::Destination,
            _ => End::Either,
        };
        if !matches!(end, End::Either) {
            self.next += 1;
        }
        let at = self.next;
        self.next += 1;
        match (self.words.get(at).map(|(_, word)| *word), &end) {
            (Some("port"), _) => {
                let range = vec![self.value("a port or range, as 5432 or 8000-8100", ports)?];
                Ok(match end {
                    End::Either => Select { ports: range, ..any },
                    End::Source => Select { source_ports: range, ..any },
                    End::Destination => Select { destination_ports: range, ..any },
                })
            }
            (Some(word @ ("host" | "net")), _) => {
                let prefix = if word == "host" {
                    self.value("an address", |text| text.parse::<IpAddr>().ok().map(IpNet::from))?
                } else {
                    self.value("a prefix, as 10.0.0.0/8", |text| text.parse::<IpNet>().ok())?
                };
                let prefix = vec![prefix];
                Ok(match end {
                    End::Either => Select { addresses: prefix, ..any },
                    End::Source => Select { source: prefix, ..any },
                    End::Destination => Select { destination: prefix, ..any },
                })
            }
            (Some("tcp"), End::Either) => protocol(6),
            (Some("udp"), End::Either) => protocol(17),
            (Some("icmp"), End::Either) => protocol(1),
            (Some("icmp6"), End::Either) => protocol(58),
            (Some("sctp"), End::Either) => protocol(132),
            (Some("ip"), End::Either) => version("0.0.0.0/0"),
            (Some("ip6"), End::Either) => version("::/0"),
            (Some("proto"), End::Either) => {
                protocol(self.value("the number of a protocol, 0 to 255", |text| text.parse().ok())?)
            }
            (word, _) => {
                self.next = at;
                let found = word.map_or_else(|| "the end".to_owned(), |word| format!("\"{word}\""));
                let allowed = match end {
                    End::Either => {
                        "tcp, udp, icmp, icmp6, sctp, proto, ip, ip6, port, host, net, src, dst, not or ("
                    }
                    _ => "port, host or net",
                };
                Err(self.wrong(format!("{found} is not a condition: write {allowed}")))
            }
        }
    }

    fn value<T>(&mut self, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, ExpressionError> {
        match self.peek().and_then(read) {
            Some(value) => {
                self.next += 1;
                Ok(value)
            }
            None => Err(self.wrong(format!("here belongs {wanted}"))),
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.next += usize::from(found);
        found
    }

    fn wrong(&self, what: String) -> ExpressionError {
        self.wrong_at(self.next, what)
    }

    /// An error about the word with this number.
    fn wrong_at(&self, place: usize, what: String) -> ExpressionError {
        let end = self.text.trim_end().len();
        let at = self.words.get(place).map_or(end..end, |(at, word)| *at..at + word.len());
        ExpressionError { expression: self.text.to_owned(), at, what }
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
        None => (text.parse().ok()?, text.parse().ok()?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::{ImpairmentParams, StageParams};
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Instant;
    use proptest::prelude::*;

    /// Whether a datagram of UDP and a segment of TCP are taken, both from port 40000 to 443.
    fn takes(text: &str) -> [bool; 2] {
        let select = parse(text).unwrap_or_else(|error| panic!("{error}"));
        [Spec::udp(10), Spec::tcp(10)].map(|spec| {
            let mut run = Run::new(vec![StageParams {
                select: select.clone(),
                ..stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams))
            }]);
            run.feed(Instant::ZERO, &spec.frame());
            run.wires().is_empty()
        })
    }

    #[test]
    fn conditions_are_joined_as_written() {
        for (text, expected) in [
            ("udp", [true, false]),
            ("tcp or udp", [true, true]),
            ("not udp", [false, true]),
            ("not (tcp or udp)", [false, false]),
            ("not tcp port 443", [true, false]),
            ("not tcp port 81", [true, true]),
            ("not udp port 443", [false, true]),
            ("not not tcp port 443", [false, true]),
            ("not tcp and port 443", [true, false]),
            ("port 443 not tcp port 443", [true, false]),
            ("udp or not tcp port 81", [true, true]),
            ("not tcp and not udp", [false, false]),
            ("ip not tcp", [true, false]),
            ("ip6", [false, false]),
            ("ip6 or ip", [true, true]),
            ("tcp ip or udp", [true, true]),
            ("udp and (ip6 or not ip6)", [true, false]),
            ("proto 6", [false, true]),
            ("net 0.0.0.0/0 not port 0-65535", [false, false]),
        ] {
            assert_eq!(takes(text), expected, "{text}");
        }
    }

    #[test]
    fn ends_of_a_packet_are_told_apart() {
        let frame = Spec::tcp(10).frame();
        let [source, destination] =
            [12, 16].map(|at| IpAddr::from([0, 1, 2, 3].map(|byte| frame.bytes[at + byte])));
        let [from, to] = [20, 22].map(|at| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]));
        for (text, taken) in [
            (format!("src host {source}"), true),
            (format!("dst host {source}"), false),
            (format!("host {source} and host {destination}"), true),
            (format!("src port {from} dst port {to}"), true),
            (format!("src port {to}"), false),
            (format!("port {from} port {to}"), true),
            (format!("not host {destination}"), false),
        ] {
            assert_eq!(takes(&text)[1], taken, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        for (text, at, what) in [
            ("tcp prt 80", 4, "\"prt\" is not a condition"),
            ("tcp port x", 9, "here belongs a port"),
            ("port 9-1", 5, "here belongs a port"),
            ("src tcp", 4, "port, host or net"),
            ("(tcp", 4, "not closed"),
            ("tcp)", 3, "too much"),
            ("", 0, "the end is not a condition"),
            ("tcp or", 6, "the end is not a condition"),
            ("net 10.0.0.0/40", 4, "a prefix"),
            ("host é", 5, "an address"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(text[..error.at.start].chars().count(), at, "{text}");
            assert!(error.to_string().contains(what), "{error}");
        }
        assert!(parse(&"not ".repeat(10_000)).unwrap_err().what.contains("too deep"));
    }

    #[test]
    fn conditions_that_no_packet_meets_are_refused_where_they_clash() {
        for (text, at) in [
            ("tcp udp", 4),
            ("tcp port 80 and udp", 16),
            ("tcp udp or icmp", 4),
            ("ip ip6", 3),
            ("ip6 host 10.0.0.7", 4),
            ("host 10.0.0.7 host fd00::1", 14),
            ("src net 10.0.0.0/8 src host 192.0.2.1", 19),
            ("host 10.0.0.1 host 10.0.0.2 host 10.0.0.3", 28),
            ("port 1 port 2 port 3", 14),
            ("src port 80 src port 81", 12),
            ("icmp port 80", 5),
            ("port 80 icmp", 8),
            ("tcp not tcp", 4),
            ("tcp and not (tcp or udp)", 8),
            ("port 80-90 not port 70-100", 11),
            ("not (ip or ip6)", 0),
            ("udp not (ip or ip6)", 4),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.at.start, at, "{error}");
            assert!(error.what.contains("no packet matches"), "{error}");
        }
        for text in
            ["port 1 port 2", "tcp or udp", "host 10.0.0.1 host 10.0.0.2", "not port 80", "icmp not port 80"]
        {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(tcp|not|\\(|\\)|or|and|port|5|-|src| |é){0,30}") {
            if let Err(error) = parse(&text) {
                prop_assert!(text.get(error.at()).is_some(), "{error}");
            }
        }
    }
}
