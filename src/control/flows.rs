//! `GET /v1/flows`: the flows that the workers know; those with the most packets come first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::answer::Refusal;
use crate::control::instance::Instance;
use crate::journal::text::tell_ends;
use crate::pipeline::aim::flow::FlowSeen;

/// Maximum number of flows in an answer.
const MOST: usize = 1_000;
/// Default number of flows in an answer.
const USUAL: usize = 100;

/// The flows that a request wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// This many flows, those with the most packets.
    limit: Option<usize>,
}

impl Wanted {
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let limit = self.limit.unwrap_or(USUAL);
        let is_right = (1..=MOST).contains(&limit);
        is_right.then_some(limit).ok_or_else(|| Refusal::bad("limit", format!("it is 1 to {MOST}")))
    }
}

/// The flows with the most packets, and the number of all flows. Waits for the workers.
pub(super) fn most(instance: &Instance, limit: usize) -> Result<Value, Refusal> {
    let mut all = Most { limit, heap: BinaryHeap::with_capacity(limit + 1), flows: Vec::new(), count: 0 };
    instance.workers.flows(|flow| all.take(flow)).map_err(|_| Refusal::ended())?;
    let known = all.count;
    let flow = |flow: FlowSeen| {
        let port = instance.names.port(flow.port);
        let mut value =
            json!({ "port": port, "packets": flow.packets, "flow_id": format!("{:016x}", flow.identity) });
        tell_ends(&mut value, &flow.key);
        value
    };
    let flows: Vec<Value> = all.sorted().into_iter().map(flow).collect();
    Ok(json!({ "known": known, "flows": flows }))
}

/// The largest of many.
struct Most {
    limit: usize,
    /// Packets, and the index in `flows`; the flow with the fewest packets first.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    flows: Vec<FlowSeen>,
    count: usize,
}

impl Most {
    fn take(&mut self, flow: &FlowSeen) {
        self.count += 1;
        if self.flows.len() < self.limit {
            self.heap.push(Reverse((flow.packets, self.flows.len())));
            self.flows.push(*flow);
        } else if let Some(mut least) = self.heap.peek_mut()
            && least.0.0 < flow.packets
        {
            let place = least.0.1;
            self.flows[place] = *flow;
            *least = Reverse((flow.packets, place));
        }
    }

    fn sorted(mut self) -> Vec<FlowSeen> {
        self.flows.sort_by_key(|flow| Reverse(flow.packets));
        self.flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::wire::FlowKey;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_most_are_those_of_a_whole_sort(packets in proptest::collection::vec(0..50_u64, 0..200), limit in 1..20_usize) {
            let mut most = Most { limit, heap: BinaryHeap::new(), flows: Vec::new(), count: 0 };
            let key = FlowKey::of(
                17, crate::pipeline::wire::Version::V4, (std::net::IpAddr::from([10, 0, 0, 1]).into(), 1),
                (std::net::IpAddr::from([10, 0, 0, 2]).into(), 2),
            );
            for &packets in &packets {
                most.take(&FlowSeen { key, port: 0, identity: 1, packets });
            }
            let mut sorted = packets.clone();
            sorted.sort_by_key(|packets| Reverse(*packets));
            sorted.truncate(limit);
            prop_assert_eq!(most.count, packets.len());
            prop_assert_eq!(most.sorted().iter().map(|flow| flow.packets).collect::<Vec<_>>(), sorted);
        }
    }
}
