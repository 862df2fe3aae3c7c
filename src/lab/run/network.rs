//! The hosts of a run, and the router between them.

use std::num::NonZeroUsize;

use crate::config::Plan;
use crate::config::plan::{PortPlan, WorkerCount};
use crate::engine::Network;
use crate::engine::network::router_params;
use crate::journal::Taps;
use crate::lab::case::{Host, Run};
use crate::lab::check::Expectation;
use crate::lab::observe::counters::Counters;
use crate::lab::observe::pmtu::path_mtu;
use crate::lab::observe::since::why_missing;
use crate::lab::observe::sockets::{by_state, tcp_sockets};
use crate::lab::report::Record;
use crate::lab::run::RunError;
use crate::lab::run::drops::Drops;
use crate::lab::run::evidence::Evidence;
use crate::lab::run::step::set;
use crate::lab::value::Observations;
use crate::net::Netns;
use crate::net::defaults::{CONGESTION_CONTROL, Refused};
use crate::pipeline::params::RouterParams;

/// A running network.
pub(super) struct Lab {
    pub(super) hosts: Vec<(String, Netns)>,
    network: Network,
    evidence: Evidence,
    drops: Drops,
    /// Every address of every host, and whose it is.
    addresses: Vec<(usize, std::net::IpAddr)>,
}

impl Lab {
    /// Makes the namespaces and starts the router.
    pub(super) fn start(
        run: &Run,
        seed: u64,
        expect: &[Expectation],
        prepare: impl FnOnce(&RouterParams) -> Result<Vec<Taps>, String>,
    ) -> Result<Self, RunError> {
        let drops = Drops::start(run, expect);
        let hosts = run.network.hosts.iter().map(make_host).collect::<Result<Vec<_>, _>>()?;
        let plan = plan(run, seed);
        let collect = |error: std::io::Error| RunError::Record(format!("the records of packets: {error}"));
        let (evidence, collected) = Evidence::collect(&plan).map_err(collect)?;
        let netns = |index: usize, _: &PortPlan| Ok((hosts[index].1.clone(), None));
        let mut taps = prepare(&router_params(&plan, seed)).map_err(RunError::Record)?;
        taps.push(collected);
        let network = Network::start(&plan, seed, taps, netns)?;
        let addresses = run
            .network
            .hosts
            .iter()
            .enumerate()
            .flat_map(|(index, host)| host.port.addresses.iter().map(move |net| (index, net.addr())));
        Ok(Self { addresses: addresses.collect(), hosts, network, evidence, drops })
    }

    /// Requested features that this host did not grant.
    pub(super) fn notices(&self) -> Vec<String> {
        [&self.network.notices[..], &self.network.refused].concat()
    }

    /// The kernels' counters now.
    pub(super) fn counters(&self) -> Result<Vec<Counters>, RunError> {
        self.hosts.iter().map(|(name, netns)| inside(name, netns, Counters::read)).collect()
    }

    /// Everything that the kernels and the router report now, and the observations that `expect` asks for but that
    /// are not available here.
    pub(super) fn observe(
        &mut self,
        before: &[Counters],
        expect: &[Expectation],
        observed: &mut Observations,
    ) -> Result<(), RunError> {
        for (index, ((name, netns), before)) in self.hosts.iter().zip(before).enumerate() {
            let counters = inside(name, netns, Counters::read)?;
            observed.add(&format!("kernel.{name}"), counters.since(before));
            let sockets = inside(name, netns, tcp_sockets)?;
            observed.add(&format!("socket.{name}"), by_state(&sockets));
            for (_, address) in self.addresses.iter().filter(|(owner, _)| *owner != index) {
                // No route, no path MTU.
                if let Ok(mtu) = inside(name, netns, || path_mtu(*address)) {
                    observed.set(format!("pmtu.{name}.{address}"), mtu);
                }
            }
        }
        self.drops.observe(observed);
        for name in expect.iter().flat_map(Expectation::names) {
            let missing = observed.value(name).is_none() && observed.why_missing(name).is_none();
            if let Some(why) = missing.then(|| why_missing(name, observed)).flatten() {
                observed.miss(name, why);
            }
        }
        self.evidence.observe(&self.network.summary()?, observed);
        Ok(())
    }

    /// Stops the router and removes the network; returns what happened to the packets.
    pub(super) fn stop(self, observed: &mut Observations) -> Result<Vec<Record>, RunError> {
        let summary = self.network.stop()?;
        Ok(self.evidence.finish(&summary, observed))
    }
}

/// Calls `work` in the namespace of a host.
fn inside<R: Send>(
    name: &str,
    netns: &Netns,
    work: impl FnOnce() -> std::io::Result<R> + Send,
) -> Result<R, RunError> {
    let host = |source| RunError::Host { host: name.to_owned(), source };
    let observe = |source| RunError::Observe { host: name.to_owned(), source };
    netns.run(work).map_err(host)?.map_err(observe)
}

fn make_host(host: &Host) -> Result<(String, Netns), RunError> {
    let name = host.port.name.clone();
    let error = |source| RunError::Host { host: host.port.name.clone(), source };
    let netns = Netns::anonymous().map_err(error)?;
    set(&netns, &host.sysctl).map_err(error)?;
    let chosen = host.sysctl.iter().any(|(key, _)| key == "net.ipv4.tcp_congestion_control");
    let refused = netns.refused().iter().any(Refused::is_congestion_control);
    let netns = if refused && !chosen { netns.with_congestion_control(CONGESTION_CONTROL) } else { netns };
    Ok((name, netns))
}

fn plan(run: &Run, seed: u64) -> Plan {
    let network = &run.network;
    let ports = network.hosts.iter().map(|host| host.port.clone()).collect();
    let mut plan = Plan::new(ports, network.paths.clone());
    plan.seed = Some(seed);
    plan.routes.clone_from(&network.routes);
    plan.nats.clone_from(&network.nats);
    plan.icmp = network.icmp;
    plan.workers = WorkerCount::Exactly(NonZeroUsize::MIN);
    plan
}
