//! Opens the devices of a plan's ports.

use std::time::Duration;

use crate::attach::{self, AttachError, Attachment};
use crate::bpf::CacheParams;
use crate::config::Plan;
use crate::config::plan::{AttachedPort, PortKind, PortPlan};
use crate::device::steer::Steering;
use crate::device::{DeviceError, Offload, Queue, Tun, TunOptions};
use crate::engine::network::{Attached, NetworkError, path_number};
use crate::engine::tun::Port as End;
use crate::engine::wire;
use crate::net::target::{Target, TargetRef};
use crate::net::{NetError, Netns, link, lookup};
use crate::veth::{HostEnd, VethError, VethPorts};

/// Opens a port's device; tries again if a device of that name is just being removed.
pub(super) fn again<T>(
    port: &PortPlan,
    netns: &Netns,
    mut open: impl FnMut() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    /// How long the kernel may take to remove a killed instance's devices.
    const GOING: Duration = Duration::from_secs(3);
    let opened = open();
    let is_taken = matches!(
        &opened,
        Err(NetworkError::Device { source: DeviceError::Exists { .. }, .. }
            | NetworkError::Veth { source: VethError::Device(DeviceError::Exists { .. }), .. })
    );
    let net = |source| NetworkError::Net { port: port.name.clone(), source };
    if is_taken && lookup::goes(netns, &port.device, GOING).map_err(net)? { open() } else { opened }
}

pub(super) fn open_device(
    port: &PortPlan,
    netns: &Netns,
    workers: usize,
    steering: Option<&Steering>,
    notices: &mut Vec<String>,
) -> Result<Vec<Queue>, NetworkError> {
    let device = |source| NetworkError::Device { port: port.name.clone(), source };
    let offload = if port.offload { Offload::Uso } else { Offload::None };
    let options = TunOptions { name: &port.device, netns, queues: workers, offload };
    let (queues, granted) = Tun::open(&options).map_err(device)?;
    if granted.offload != offload {
        notices.push(format!(
            "port {}: this kernel grants {} offload where {offload} was asked for; bulk transfers will be slower",
            port.name, granted.offload
        ));
    }
    if let (Some(steering), Some(queue)) = (steering, queues.first()) {
        steering
            .attach(queue)
            .map_err(|error| NetworkError::Steer { port: port.name.clone(), source: error })?;
    }
    Ok(queues)
}

/// Warns if an address of the port is also on another device of the namespace: then the namespace's routes lead to
/// that device.
pub(super) fn rivals(port: &PortPlan, netns: &Netns, notices: &mut Vec<String>) -> Result<(), NetError> {
    if port.create {
        return Ok(());
    }
    for (address, known, device) in link::overlapping(netns, &port.addresses)? {
        notices.push(format!(
            "port {}: {address} overlaps {known} on device {device} of the same namespace, and packets may be sent there \
             instead: take a prefix that is free, or a namespace of its own (`netns = \"NAME\"` and `create = true`)",
            port.name
        ));
    }
    Ok(())
}

/// What all veth ports of a plan need; `None` if it has none.
pub(super) fn veths(plan: &Plan, cache: Option<CacheParams>) -> Result<Option<Box<VethPorts>>, NetworkError> {
    let mut ports = plan.ports.iter().filter(|port| port.kind == PortKind::Veth);
    let Some(first) = ports.next() else { return Ok(None) };
    let count = u16::try_from(1 + ports.count()).unwrap_or(u16::MAX);
    let veth = |source: NetError| NetworkError::Veth { port: first.name.clone(), source: source.into() };
    Ok(Some(Box::new(VethPorts::new(count, cache).map_err(veth)?)))
}

/// Makes a veth port.
pub(super) fn open_veth(
    port: &PortPlan,
    netns: &Netns,
    veths: &mut VethPorts,
    notices: &mut Vec<String>,
) -> Result<Queue, NetworkError> {
    let veth = |source| NetworkError::Veth { port: port.name.clone(), source };
    let host = HostEnd { name: &port.device, netns, queue: port.txqueuelen, offload: port.offload };
    let (queue, granted) = veths.add(host).map_err(veth)?;
    if port.offload && granted.offload != Offload::Uso {
        notices.push(format!(
            "port {}: this kernel grants TAP devices {} offload only; bulk transfers will be slower",
            port.name, granted.offload
        ));
    }
    Ok(queue)
}

/// Finds an attached port's device and prepares its attachment, with the path `first` and the next one.
pub(super) fn open_attached(
    port: &AttachedPort,
    first: usize,
    cache: Option<CacheParams>,
    notices: &mut Vec<String>,
) -> Result<(Attached, [End; 2]), NetworkError> {
    let target = TargetRef::from(&port.target);
    let attach = |source| NetworkError::Attach { port: port.name.clone(), source };
    let target =
        Target::find(&target).map_err(|source| NetworkError::Target { port: port.name.clone(), source })?;
    let device = attach::find(&target.netns, port.device.as_deref()).map_err(attach)?;
    let (mut attachment, taps) = Attachment::prepare(&target.netns, &device, 1, cache).map_err(attach)?;
    notices.extend(attachment.notices.drain(..).map(|notice| format!("port {}: {notice}", port.name)));
    let flows = attachment.flows().cloned();
    let ends =
        wire::ends(taps, flows, path_number(first)?).map_err(|error| attach(AttachError::Keep(error)))?;
    Ok((Attached { name: port.name.clone(), target, attachment }, ends))
}
