//! The most important drops: repeated losses and lost SYNs first, for the end of a run.

use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::hub::{Finished, Sink};
use crate::journal::names::Names;
use crate::journal::record::{Record, id};
use crate::journal::text::{ends, headers};
use crate::pipeline::counters::Reason;
use crate::pipeline::wire::tcp::flag;

/// Number of drops that are printed.
const TOLD: usize = 5;
/// Ranges of TCP data whose losses are counted. If two share a place, the earlier one is forgotten.
const COUNTED: usize = 4096;

/// Keeps the first drops, and the drops of packets that open a connection or carry data that was lost before.
#[derive(Debug)]
pub struct Recent {
    names: Names,
    kept: Vec<Kept>,
    lost: Box<[Loss]>,
    out: Arc<Mutex<Vec<String>>>,
}

/// A drop that may be printed.
#[derive(Debug)]
struct Kept {
    weight: u16,
    data: Option<Data>,
    line: String,
}

/// TCP data: flow and sequence number.
type Data = (u64, u32);

#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    data: Data,
    times: u16,
}

impl Recent {
    /// Keeps the drops of a run with these names. The receiver gets the lines when the run ends.
    pub fn new(names: Names) -> (Self, Arc<Mutex<Vec<String>>>) {
        let out = Arc::new(Mutex::new(Vec::new()));
        let lost = vec![Loss::default(); COUNTED].into();
        (Self { names, kept: Vec::with_capacity(TOLD), lost, out: Arc::clone(&out) }, out)
    }

    /// How often this data has been lost.
    fn count(&mut self, data: Data) -> u16 {
        let place = id(data.0, u64::from(data.1), 0) % COUNTED as u64;
        let loss = &mut self.lost[place as usize];
        if loss.data != data {
            *loss = Loss { data, times: 0 };
        }
        loss.times = loss.times.saturating_add(1);
        loss.times
    }

    fn line(&self, record: &Record<'_>, times: u16) -> String {
        let ends = headers(record.bytes).map_or_else(String::new, |(key, _)| ends(&key) + ", ");
        let number = if record.flow == 0 {
            format!("{} B", record.last)
        } else {
            format!("packet {}", record.index.saturating_add(1))
        };
        let again = if times > 1 { format!("; lost {times} times") } else { String::new() };
        format!("{} ({ends}{number}{again})", self.names.verdict(record))
    }
}

/// Whether the packet goes to a multicast address.
fn is_for_many(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(16).is_some_and(|first| first >> 4 == 0xe),
        Some(6) => packet.get(24) == Some(&0xff),
        _ => false,
    }
}

impl Sink for Recent {
    fn record(&mut self, record: &Record<'_>) {
        if self.names.reason(record) == Some(Reason::NoRoute.name()) && is_for_many(record.bytes) {
            // Messages of a kernel to its neighbours; no router forwards them.
            return;
        }
        let opens = headers(record.bytes).is_some_and(|(_, flags)| flags & flag::SYN != 0);
        // A copy is not another transmission.
        let counted =
            record.tcp.filter(|tcp| record.flow != 0 && record.lineage == 0 && (opens || tcp.payload > 0));
        let data = counted.map(|tcp| (record.flow, tcp.sequence));
        let times = data.map_or(1, |data| self.count(data));
        // A segment that is lost again and again stalls its connection; so does a SYN.
        let weight = times.saturating_add(u16::from(opens));
        if let Some(data) = data
            && let Some(at) = self.kept.iter().position(|kept| kept.data == Some(data))
        {
            self.kept.remove(at);
        }
        let least = self.kept.iter().map(|kept| kept.weight).min().unwrap_or(0);
        if self.kept.len() >= TOLD {
            if weight <= least {
                return;
            }
            if let Some(at) = self.kept.iter().rposition(|kept| kept.weight == least) {
                self.kept.remove(at);
            }
        }
        let line = self.line(record, times);
        self.kept.push(Kept { weight, data, line });
    }

    fn finish(mut self: Box<Self>, _lost: u64) -> Finished {
        self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.weight));
        let lines = self.kept.into_iter().map(|kept| kept.line).collect();
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        Finished::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::names::tests::names;
    use crate::journal::record::TcpRange;
    use crate::journal::record::tests::record;
    use crate::pipeline::testing::Spec;

    fn drop_of(recent: &mut Recent, spec: &Spec, index: u64) {
        let frame = spec.frame().bytes;
        let tcp = (!spec.udp).then_some(TcpRange {
            sequence: spec.sequence,
            payload: spec.payload.len() as u32,
            transmission: 0,
        });
        recent.record(&Record { index, tcp, draw: None, before: &[], bytes: &frame, ..record() });
    }

    /// Flows are named by their addresses: numbers have a meaning only in a file.
    #[test]
    fn repeated_losses_and_syns_come_first_with_addresses() {
        let (mut recent, out) = Recent::new(names());
        for index in 0..20 {
            drop_of(&mut recent, &Spec::udp(10), index);
        }
        let segment = |sequence| Spec { sequence, ..Spec::tcp(100) };
        for (index, sequence) in [700, 800, 700, 900, 700, 900].into_iter().enumerate() {
            drop_of(&mut recent, &segment(sequence), 100 + index as u64);
        }
        drop_of(&mut recent, &Spec { flags: flag::SYN, ..Spec::tcp(0) }, 200);
        assert_eq!(Box::new(recent).finish(0), Finished::default());
        let lines = out.lock().unwrap().clone();
        assert_eq!(lines.len(), TOLD, "{lines:#?}");
        assert!(lines[0].contains("packet 105; lost 3 times"), "{lines:#?}");
        assert!(lines[1].contains("packet 106; lost 2 times"), "{lines:#?}");
        assert!(lines[2].contains("packet 201)"), "{lines:#?}");
        assert!(lines[3].contains("UDP 10.0.1.2:") && lines[3].contains(" > 10.0.2.2:"), "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains("flow")), "{lines:#?}");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut recent, _) = Recent::new(names());
        for flow in 1..20_000 {
            recent.record(&Record { flow, ..record() });
        }
        assert_eq!((recent.kept.len(), recent.lost.len()), (TOLD, COUNTED));
    }
}
