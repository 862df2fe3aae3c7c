//! Counters of a namespace: `/proc/net/snmp`, `snmp6`, `netstat` and `dev`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::lab::observe::PROC_NET;
use crate::lab::value::{Facts, Value};

/// The counters at one moment, by name: `Tcp.RetransSegs`, `TcpExt.TCPTimeouts`, `Ip6.ReasmOKs`, `dev.eth0.rx_drop`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads the counters of the calling thread's namespace.
    ///
    /// # Errors
    /// Those of reading `/proc`. A file that the kernel does not have (`snmp6` without IPv6) reports nothing.
    pub fn read() -> io::Result<Self> {
        let mut all = BTreeMap::new();
        let net = Path::new(PROC_NET);
        parse_tables(&read_if_there(&net.join("snmp"))?, &mut all);
        parse_tables(&read_if_there(&net.join("netstat"))?, &mut all);
        parse_snmp6(&read_if_there(&net.join("snmp6"))?, &mut all);
        parse_devices(&read_if_there(&net.join("dev"))?, &mut all);
        Ok(Self(all))
    }

    /// The counter of this name.
    pub fn value(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// How much each counter grew since `earlier`; those that are not counters (`Tcp.CurrEstab`) may shrink, which
    /// reads as 0.
    pub fn since(&self, earlier: &Self) -> Facts {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or(0);
        self.0
            .iter()
            .map(|(name, &now)| (name.clone(), Value::Count(now.saturating_sub(before(name)))))
            .collect()
    }
}

fn read_if_there(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Pairs of lines: `Tcp: RtoAlgorithm RtoMin ...` and `Tcp: 1 200 ...`.
fn parse_tables(text: &str, all: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { continue };
        let Some((_, values)) = values.split_once(':') else { continue };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // Tcp.MaxConn is -1; it is no counter.
            if let Ok(value) = value.parse() {
                all.insert(format!("{group}.{name}"), value);
            }
        }
    }
}

/// Lines such as `Ip6ReasmOKs  3` and `Icmp6InPktTooBigs 1`: the group ends with its first 6.
fn parse_snmp6(text: &str, all: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else { continue };
        let end = name.find('6').map_or(0, |at| at + 1);
        let (group, name) = name.split_at(end);
        all.insert(format!("{group}.{name}"), value);
    }
}

/// `eth0: rx_bytes rx_packets rx_errs rx_drop ...`, after two lines of headings.
fn parse_devices(text: &str, all: &mut BTreeMap<String, u64>) {
    const COLUMNS: [&str; 16] = [
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "rx_fifo",
        "rx_frame",
        "rx_compressed",
        "rx_multicast",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
        "tx_fifo",
        "tx_collisions",
        "tx_carrier",
        "tx_compressed",
    ];
    for line in text.lines().skip(2) {
        let Some((name, values)) = line.split_once(':') else { continue };
        for (column, value) in COLUMNS.iter().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                all.insert(format!("dev.{}.{column}", name.trim()), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_pair_each_name_with_its_value() {
        let mut all = BTreeMap::new();
        parse_tables(
            "Tcp: MaxConn RetransSegs InErrs\nTcp: -1 7 0\nTcpExt: PAWSEstab\nTcpExt: 2\n",
            &mut all,
        );
        assert_eq!(all.get("Tcp.RetransSegs"), Some(&7));
        assert_eq!(all.get("TcpExt.PAWSEstab"), Some(&2));
        assert_eq!(all.get("Tcp.MaxConn"), None);
    }

    #[test]
    fn names_of_ipv6_split_after_the_group() {
        let mut all = BTreeMap::new();
        parse_snmp6(
            "Ip6ReasmOKs                     \t3\nIcmp6InPktTooBigs \t1\nUdp6InCsumErrors 4",
            &mut all,
        );
        assert_eq!(all.get("Ip6.ReasmOKs"), Some(&3));
        assert_eq!(all.get("Icmp6.InPktTooBigs"), Some(&1));
        assert_eq!(all.get("Udp6.InCsumErrors"), Some(&4));
    }

    #[test]
    fn devices_report_both_directions() {
        let mut all = BTreeMap::new();
        parse_devices("head\nhead\n  lo: 100 2 0 1 0 0 0 0 50 9 0 0 0 0 0 0\n", &mut all);
        assert_eq!(all.get("dev.lo.rx_dropped"), Some(&1));
        assert_eq!(all.get("dev.lo.tx_packets"), Some(&9));
    }

    #[test]
    fn growth_is_counted_from_the_snapshot() {
        let at = |value| Counters(BTreeMap::from([("Tcp.InSegs".to_owned(), value)]));
        assert_eq!(at(9).since(&at(4)), vec![("Tcp.InSegs".to_owned(), Value::Count(5))]);
        assert_eq!(at(2).since(&at(4)), vec![("Tcp.InSegs".to_owned(), Value::Count(0))]);
    }

    #[test]
    fn this_kernel_has_the_counters_that_cases_name() {
        let now = Counters::read().unwrap();
        for name in
            ["Tcp.RetransSegs", "TcpExt.TCPTimeouts", "Ip.ReasmFails", "Udp.InCsumErrors", "Icmp.InTimeExcds"]
        {
            assert!(now.value(name).is_some(), "{name}");
        }
    }
}
