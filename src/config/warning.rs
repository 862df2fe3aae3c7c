//! What is allowed, but probably not meant.

use ipnet::IpNet;

use crate::config::plan::{PathPlan, Plan};
use crate::pipeline::params::{Excess, ImpairmentParams, Mode, NetemParams, RateParams, TC_LIMIT};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Bytes;

/// Bits of a full-sized Ethernet packet, to compare packets with times.
const PACKET_BITS: f64 = 1_500.0 * 8.0;

/// What looks wrong about the paths of `plan`, each with its path and stage. [`crate::config::parse`] has put them into
/// [`Plan::warnings`]; for a plan made in code, ask here.
pub fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in &plan.paths {
        for (stage, warning) in path_warnings(path, plan) {
            let (from, to) = (&plan.ports[path.from].name, &plan.ports[path.to].name);
            warnings.push(format!("path {from} -> {to}, stage {stage}: {warning}"));
        }
    }
    warnings
}

fn path_warnings<'a>(path: &'a PathPlan, plan: &'a Plan) -> impl Iterator<Item = (&'a str, String)> {
    let (from, to) = (&plan.ports[path.from], &plan.ports[path.to]);
    let smallest_mtu = from.mtu.min(to.mtu);
    let ipv6 = from.addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
    path.stages.iter().filter_map(move |stage| {
        let warning = match &stage.impairment {
            ImpairmentParams::Netem(netem) => limit_warning(netem),
            ImpairmentParams::Rate(rate) => burst_warning(rate, smallest_mtu),
            ImpairmentParams::Mtu(mtu) if ipv6 && mtu.mtu - mtu.overhead < 1_280 => {
                Some(format!("{} bytes are less than IPv6 can work with (1280)", mtu.mtu - mtu.overhead))
            }
            _ => None,
        };
        warning.map(|warning| (stage.name.as_str(), warning))
    })
}

/// netem's limit counts delayed packets too, so a small one cuts the throughput.
fn limit_warning(netem: &NetemParams) -> Option<String> {
    let implied = (netem.mode == Mode::Netem).then_some(TC_LIMIT);
    let limit = netem.limit.or(implied)? as f64;
    let delay = netem.delay.map_or(Duration::ZERO, |delay| delay.delay + delay.jitter);
    if delay.is_zero() {
        return None;
    }
    let carried = limit * PACKET_BITS / delay.as_secs_f64();
    match netem.rate {
        Some(rate) if rate.rate.bits_per_sec() as f64 > carried => {
            let needed = (rate.rate.bits_per_sec() as f64 * delay.as_secs_f64() / PACKET_BITS).ceil();
            Some(format!(
                "limit {limit} is full before {} is reached over {delay}: at least {needed} packets are needed",
                rate.rate
            ))
        }
        Some(_) => None,
        None => Some(format!(
            "limit {limit} over {delay} carries at most {:.0} Mbit/s of full-sized packets; without a limit it \
             carries all",
            carried / 1e6
        )),
    }
}

fn burst_warning(rate: &RateParams, mtu: u32) -> Option<String> {
    match rate.excess {
        Excess::Police { burst } if i64::from(mtu) + i64::from(rate.overhead) > burst as i64 => {
            Some(format!("a burst of {} never passes a full packet of {mtu} bytes", Bytes(burst)))
        }
        Excess::Queue { bytes: Some(bytes), .. } if bytes < u64::from(mtu) => {
            Some(format!("a queue of {} never takes a full packet of {mtu} bytes", Bytes(bytes)))
        }
        _ => None,
    }
}
