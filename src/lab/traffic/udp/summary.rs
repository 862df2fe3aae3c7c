//! What both ends saw of numbered datagrams, under the names of case files.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::lab::traffic::udp::{Arrival, Sent};
use crate::lab::traffic::{facts, quantile, share};
use crate::lab::value::{Facts, Value};

/// Both ends' view under the names of case files.
pub fn summary(count: u64, sent: &Sent, arrivals: &[Arrival]) -> Facts {
    let mut first_at: HashMap<u64, u64> = HashMap::new();
    let (mut overtaken, mut highest) = (0_u64, None);
    for arrival in arrivals {
        if first_at.contains_key(&arrival.number) {
            continue;
        }
        first_at.insert(arrival.number, arrival.at);
        overtaken += u64::from(highest.is_some_and(|highest| arrival.number < highest));
        highest = highest.max(Some(arrival.number));
    }
    let received = first_at.len() as u64;
    let lost = count.saturating_sub(received);
    let mut delays: Vec<u64> = first_at
        .iter()
        .filter_map(|(&number, &at)| Some(at.saturating_sub(*sent.times.get(number as usize)?)))
        .collect();
    delays.sort_unstable();
    let millis = |permille| Value::Number(quantile(&delays, permille) as f64 / 1e6);
    let mut all = facts([
        ("sent", count.into()),
        ("received", received.into()),
        ("lost", lost.into()),
        ("lost_share", share(lost, count)),
        ("duplicates", (arrivals.len() as u64 - received).into()),
        ("overtaken", overtaken.into()),
        ("identical", arrivals.iter().all(|arrival| arrival.identical).into()),
        ("longest_loss", longest_gap(count, &first_at).into()),
    ]);
    all.extend(facts([
        ("delay_ms_min", millis(0)),
        ("delay_ms_p50", millis(500)),
        ("delay_ms_p99", millis(990)),
        ("delay_ms_max", millis(1000)),
        ("refused", sent.refused.into()),
        ("unreachable", sent.unreachable.into()),
        ("too_big", sent.too_big.into()),
        ("errors", sent.failed.into()),
        ("answered", (sent.answers.len() as u64).into()),
        ("answered_moved", (sent.answers.values().filter(|moved| **moved).count() as u64).into()),
    ]));
    all.extend(sources(arrivals));
    all
}

/// Most datagrams lost in a row.
fn longest_gap(count: u64, arrived: &HashMap<u64, u64>) -> u64 {
    let (mut run, mut longest) = (0, 0);
    for number in 0..count {
        run = if arrived.contains_key(&number) { 0 } else { run + 1 };
        longest = longest.max(run);
    }
    longest
}

/// Where the datagrams came from, as the receiver saw it.
fn sources(arrivals: &[Arrival]) -> Facts {
    let first = arrivals.first().map(|arrival| arrival.from);
    let text = |source: Option<SocketAddr>| source.map_or_else(String::new, |source| source.to_string());
    let ports: HashSet<SocketAddr> = arrivals.iter().map(|arrival| arrival.from).collect();
    let addresses: HashSet<IpAddr> = ports.iter().map(SocketAddr::ip).collect();
    let moved = arrivals.iter().filter(|arrival| Some(arrival.from) != first).count();
    facts([
        ("sources", (ports.len() as u64).into()),
        ("source_addresses", (addresses.len() as u64).into()),
        ("source_first", text(first).into()),
        ("source_last", text(arrivals.last().map(|arrival| arrival.from)).into()),
        ("moved", (moved as u64).into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn arrived(numbers: &[u64]) -> Vec<Arrival> {
        let from = "10.77.2.1:4000".parse().unwrap();
        numbers.iter().map(|&number| Arrival { number, at: 5_000_000, from, identical: true }).collect()
    }

    fn read(facts: Facts) -> BTreeMap<String, Value> {
        facts.into_iter().collect()
    }

    #[test]
    fn loss_copies_and_order_are_read_from_the_numbers() {
        let sent = Sent { times: vec![1_000_000; 8], ..Sent::default() };
        let seen = read(summary(8, &sent, &arrived(&[0, 2, 1, 1, 6, 5])));
        for (name, value) in
            [("received", 5), ("lost", 3), ("duplicates", 1), ("overtaken", 2), ("longest_loss", 2)]
        {
            assert_eq!(seen[name], Value::Count(value), "{name}");
        }
        assert_eq!(seen["delay_ms_p50"], Value::Number(4.0));
    }

    #[test]
    fn what_comes_from_another_source_than_the_first_has_moved() {
        let mut arrivals = arrived(&[0, 1, 2, 3]);
        arrivals[2].from.set_port(7);
        arrivals[3].from.set_ip("10.77.2.9".parse().unwrap());
        let seen = read(summary(4, &Sent::default(), &arrivals));
        for (name, value) in [("sources", 3), ("source_addresses", 2), ("moved", 2)] {
            assert_eq!(seen[name], Value::Count(value), "{name}");
        }
        assert_eq!(seen["source_first"], Value::from("10.77.2.1:4000"));
        assert_eq!(seen["source_last"], Value::from("10.77.2.9:4000"));
        assert_eq!(read(summary(4, &Sent::default(), &[]))["sources"], Value::Count(0));
    }
}
