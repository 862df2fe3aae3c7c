//! Limits of the machine that a namespace cannot change: detected by their effects, and reported.

use crate::lab::case::Run;
use crate::lab::value::{Observations, Value};

/// Losses that this machine caused, and not the fault.
pub(super) fn notices(run: &Run, observed: &Observations) -> Vec<String> {
    let mut notices = Vec::new();
    for port in run.network.hosts.iter().map(|host| &host.port) {
        let count = |counter: &str| match observed.value(&format!("kernel.{}.{counter}", port.name)) {
            Some(Value::Count(count)) => *count,
            _ => 0,
        };
        let full = count("Udp.RcvbufErrors") + count("Udp6.RcvbufErrors");
        if full > 0 {
            notices.push(format!(
                "{full} datagrams were lost in the receive buffer of a socket of {}: its reader got too little time, or \
                 the host's net.core.rmem_max keeps its buffer small (as root it does not)",
                port.name
            ));
        }
        let unread = count(&format!("dev.{}.tx_dropped", port.device));
        if unread > 0 {
            notices.push(format!(
                "{unread} packets or trains of {} were lost before the router could read them: the queue of {} was \
                 full (a larger txqueuelen, or a host with less to do)",
                port.name, port.device
            ));
        }
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::case::Case;

    #[test]
    fn what_the_machine_lost_is_told_with_the_place() {
        let text = "title = \"t\"\n[[traffic]]\ntype = \"ping\"\n[[expect]]\nsee = \"traffic.ping.lost\"\nequals = 0\n";
        let case = Case::parse(text, "x", "x").unwrap();
        let run = &case.trials[0].runs[0];
        let mut observed = Observations::default();
        observed.set("kernel.server.Udp.RcvbufErrors", 0_u64);
        assert_eq!(notices(run, &observed), Vec::<String>::new());
        observed.set("kernel.server.Udp.RcvbufErrors", 7_u64);
        observed.set("kernel.client.dev.fw-client.tx_dropped", 3_u64);
        let told = notices(run, &observed);
        assert!(told[0].contains("3 packets") && told[0].contains("fw-client"), "{told:?}");
        assert!(told[1].contains("7 datagrams") && told[1].contains("rmem_max"), "{told:?}");
    }
}
