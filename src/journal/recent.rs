//! The few drops that mattered, for the end of a run.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::hub::Sink;
use crate::journal::names::Names;
use crate::journal::record::{Record, id};
use crate::journal::text::Flows;

/// Drops that are told.
const TOLD: usize = 5;

/// Keeps the first drops that were ordered, and those of packets that open a connection or were sent before.
#[derive(Debug)]
pub struct Recent {
    names: Names,
    flows: Flows,
    kept: Vec<(u8, String)>,
    seen: HashSet<u64>,
    out: Arc<Mutex<Vec<String>>>,
}

impl Recent {
    /// Keeps the drops of a run with these names; its lines come to the other end when it finishes.
    pub fn new(names: Names) -> (Self, Arc<Mutex<Vec<String>>>) {
        let out = Arc::new(Mutex::new(Vec::new()));
        let kept = Vec::new();
        (Self { names, flows: Flows::default(), kept, seen: HashSet::new(), out: Arc::clone(&out) }, out)
    }
}

impl Sink for Recent {
    fn record(&mut self, record: &Record<'_>) {
        self.flows.learn(record);
        // A segment that is lost again and again stalls its connection; so does a SYN.
        let weight = match record.tcp {
            Some(tcp) if tcp.transmission > 1 => tcp.transmission.min(200),
            Some(tcp) if tcp.sequence == 0 => 2,
            _ => 1,
        };
        let least = self.kept.iter().map(|(weight, _)| *weight).min().unwrap_or(0);
        if self.kept.len() >= TOLD && weight <= least {
            return;
        }
        if !self.seen.insert(id(record.flow, record.index, record.lineage)) && record.flow != 0 {
            return;
        }
        if self.kept.len() >= TOLD
            && let Some(at) = self.kept.iter().rposition(|(weight, _)| *weight == least)
        {
            self.kept.remove(at);
        }
        self.kept.push((weight, self.flows.comment(&self.names, record, 0)));
    }

    fn finish(self: Box<Self>, _lost: u64) -> Vec<String> {
        let lines = self.kept.into_iter().map(|(_, line)| line).collect();
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        Vec::new()
    }
}
