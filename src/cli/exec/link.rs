//! The link of a command: its router, and the relay to other hosts, if one is wanted.

use std::num::NonZeroUsize;

use ipnet::IpNet;

use crate::cli::args::Exec;
use crate::cli::exec::around::{self, Around};
use crate::cli::exec::outside::Outside;
use crate::cli::faults::Faults;
use crate::cli::subnets::Subnets;
use crate::config::plan::{NetnsRef, PathPlan, PortKind, PortPlan, RoutePlan, RouteTarget, WorkerCount};
use crate::config::spec::Spec;
use crate::config::{Aim, Plan};
use crate::engine::network::{Network, NetworkError, router_params};
use crate::journal::{self, Taps};
use crate::net::{NetError, Netns, link};
use crate::reach::Reach;

/// Address blocks that are tried if another process takes one at the same time.
const TRIES: usize = 16;
/// Ports in the plan.
const HOST: usize = 0;
const INNER: usize = 1;

/// A running link.
#[derive(Debug)]
pub(super) struct Link {
    /// The relay; it must end before the namespaces of the router do.
    pub(super) reach: Option<Reach>,
    pub(super) network: Network,
    pub(super) subnets: Subnets,
    pub(super) plan: Plan,
    /// The packets at which all faults are aimed.
    pub(super) aim: Aim,
}

impl Link {
    /// Creates the link, with the first address block that is free.
    pub(super) fn make(
        args: &Exec,
        faults: &Faults,
        (inner, around): (&Netns, &Around),
        (taps, seed): (Vec<Taps>, u64),
    ) -> anyhow::Result<Self> {
        let own = Netns::own()?;
        let mut taken = link::addresses(&own)?;
        taken.extend(link::routes(&own)?);
        // If all traffic is relayed, the host itself needs no device.
        let far = around.outside.is_some().then(Netns::anonymous).transpose()?;
        let mut refused = None;
        let wanted = args.device.map(PortKind::from);
        let mut kind = wanted.unwrap_or_else(|| around.device());
        let mut blocks = Subnets::free(&taken, around.room).take(TRIES).peekable();
        while let Some(subnets) = blocks.peek() {
            let (plan, aim) = plan(args, faults, (subnets, kind), around)?;
            let netns = |index: usize, _: &PortPlan| match index {
                HOST => Ok::<_, NetError>((far.as_ref().unwrap_or(&own).clone(), None)),
                _ => Ok((inner.clone(), None)),
            };
            match Network::start(&plan, seed, taps.clone(), netns) {
                Ok(network) => {
                    let outside = around.outside.as_ref().zip(far.as_ref());
                    let reach = outside
                        .map(|(outside, far)| outside.start(far, subnets, around.files))
                        .transpose()?;
                    return Ok(Self { reach, network, subnets: subnets.clone(), plan, aim });
                }
                Err(error @ NetworkError::Net { .. }) => {
                    refused = Some(error);
                    blocks.next();
                }
                // There is no tcx, no veth, or no privilege to use them.
                Err(NetworkError::Veth { .. }) if wanted.is_none() => kind = PortKind::Tun,
                Err(error) => return Err(error.into()),
            }
        }
        match refused {
            Some(error) => Err(error.into()),
            None if around.is_inside => anyhow::bail!("{}", around::FULL),
            None => anyhow::bail!("this host uses all of 198.18.0.0/16; free a part of it for the link"),
        }
    }
}

fn plan(
    args: &Exec,
    faults: &Faults,
    (subnets, kind): (&Subnets, PortKind),
    around: &Around,
) -> anyhow::Result<(Plan, Aim)> {
    let mut host = PortPlan::new("host", NetnsRef::Own, subnets.host.clone());
    host.device = format!("fw{}", std::process::id());
    host.routes = subnets.behind();
    let mut inner = PortPlan::new("cmd", NetnsRef::Own, subnets.inner.clone());
    inner.device = "fw0".into();
    inner.routes = subnets.inner.iter().map(|net| default_route(net.addr().is_ipv4())).collect();
    for port in [&mut host, &mut inner] {
        (port.mtu, port.kind) = (args.mtu, kind);
    }
    let aim = around.outside.as_ref().map_or_else(|| Ok(Aim::default()), |outside| outside.aim(subnets))?;
    let mut paths = paths(faults);
    for path in &mut paths {
        aim.narrow(path.stages_mut()).map_err(|stage| {
            anyhow::anyhow!("\"{stage}\" acts on no traffic with other hosts: change its condition, or leave --faults-on out")
        })?;
    }
    let mut plan = Plan::new(vec![host, inner], paths.into());
    let room = subnets.behind().into_iter().skip(subnets.inner.len());
    plan.routes = room.map(|prefix| RoutePlan { prefix, target: RouteTarget::Port(INNER) }).collect();
    let mut beyond: Vec<IpNet> = around.outside.iter().flat_map(Outside::prefixes).collect();
    match &around.outside {
        // The outermost host is behind the surrounding namespace.
        None if around.is_inside => beyond.extend([true, false].map(default_route)),
        None => {}
        // The outermost host is reached as before; for everything else, `--reach` decides.
        Some(_) => beyond.extend(around.outermost()),
    }
    beyond.sort_unstable();
    beyond.dedup();
    plan.routes
        .extend(beyond.into_iter().map(|prefix| RoutePlan { prefix, target: RouteTarget::Port(HOST) }));
    plan.identity = args.identity.into();
    plan.workers = WorkerCount::Exactly(NonZeroUsize::MIN);
    plan.flow_cache = !args.no_flow_cache;
    Ok((plan, aim))
}

/// Names for records.
pub(super) fn recorded(faults: &Faults, seed: u64) -> journal::Names {
    let ports = ["host", "cmd"].map(|name| PortPlan::new(name, NetnsRef::Own, Vec::new()));
    journal::Names::of(&router_params(&Plan::new(ports.into(), paths(faults).into()), seed), &["up", "down"])
}

/// Up and down.
pub(super) fn paths(faults: &Faults) -> [PathPlan; 2] {
    let path = |from, to, spec: &Spec| PathPlan::new(from, to, spec.stages.clone());
    [path(INNER, HOST, &faults.up), path(HOST, INNER, &faults.down)]
}

fn default_route(v4: bool) -> IpNet {
    if v4 { IpNet::V4(ipnet::Ipv4Net::default()) } else { IpNet::V6(ipnet::Ipv6Net::default()) }
}
