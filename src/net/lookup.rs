//! Looks up devices: the kind of a device, and the device of the default route.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use crate::net::error::NetError;
use crate::net::link::{self, ALIAS, in_netns};
use crate::net::netns::Netns;

/// Bytes of the longest train that other devices take, TAP devices among them: `GSO_LEGACY_MAX_SIZE` of the kernel.
const LARGEST_TRAIN: u32 = 65_536;

/// A device that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Device {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its frames have an Ethernet header.
    pub is_ethernet: bool,
    /// It leads back to the namespace itself.
    pub is_loopback: bool,
    /// It is up.
    pub is_up: bool,
    /// It has the alias that faultwire gives to its own devices.
    pub is_ours: bool,
    /// Its trains may be longer than 64 KiB (BIG TCP).
    pub is_big: bool,
    /// The device of the same namespace that its packets leave by (of a VLAN or macvlan device), or the other end of a pair.
    lower: Option<u32>,
    /// The bridge or bond of which it is a part.
    controller: Option<u32>,
}

/// Tells cheaply whether a device is still in its namespace, under whatever name.
#[derive(Debug)]
pub struct Presence(OwnedFd);

impl Presence {
    /// Of the device of that name.
    ///
    /// # Errors
    /// If there is no such device, or no socket can be opened.
    pub fn of(netns: &Netns, name: &str) -> Result<Self, NetError> {
        let bound = || {
            let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, BindToDevice, &name.into())?;
            Ok(Self(socket))
        };
        netns.run(bound)?.map_err(|errno: Errno| NetError::Netlink {
            action: format!("watch the device {name}"),
            netns: netns.label().to_owned(),
            source: errno.into(),
        })
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        // The socket is bound to the device's number. The kernel looks up the name, which the device may have changed, in the namespace
        // of the socket.
        getsockopt(&self.0, BindToDevice) != Err(Errno::ENODEV)
    }
}

/// The device of that name; `None` if there is none.
///
/// # Errors
/// If netlink fails.
pub fn device(netns: &Netns, name: &str) -> Result<Option<Device>, NetError> {
    Ok(devices(netns)?.into_iter().find(|device| device.name == name))
}

/// Waits until the device of that name, one of faultwire's own, is gone: the kernel removes veth pairs of a killed process a moment
/// after its end. False if it stays for `most`, or is not ours.
///
/// # Errors
/// If netlink fails.
#[expect(
    clippy::disallowed_methods,
    reason = "set-up work: a device that is refused is looked at a few times more"
)]
pub fn goes(netns: &Netns, name: &str, most: Duration) -> Result<bool, NetError> {
    const LOOK: Duration = Duration::from_millis(10);
    for _ in 0..most.as_millis() / LOOK.as_millis() {
        match device(netns, name)? {
            None => return Ok(true),
            Some(found) if !found.is_ours => return Ok(false),
            Some(_) => std::thread::sleep(LOOK),
        }
    }
    Ok(false)
}

/// All devices of the namespace.
///
/// # Errors
/// If netlink fails.
pub fn devices(netns: &Netns) -> Result<Vec<Device>, NetError> {
    let links = in_netns(netns, async |netlink| {
        let listed = netlink.handle.link().get().execute().try_collect::<Vec<_>>().await;
        listed.map_err(|error| netlink.refused(|| "list the devices".to_owned(), error))
    })?;
    let is_elsewhere = |link: &LinkMessage| {
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
    };
    let device = |link: LinkMessage| {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        Some(Device {
            index: link.header.index,
            name: name?,
            is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
            is_loopback: link.header.flags.contains(LinkFlags::Loopback),
            is_up: link.header.flags.contains(LinkFlags::Up),
            is_ours: link
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == ALIAS)),
            is_big: link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::GsoMaxSize(bytes)
                | LinkAttribute::GroMaxSize(bytes)
                | LinkAttribute::GsoIpv4MaxSize(bytes)
                | LinkAttribute::GroIpv4MaxSize(bytes) => *bytes > LARGEST_TRAIN,
                _ => false,
            }),
            lower: link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Link(index) if !is_elsewhere(&link) => Some(*index),
                _ => None,
            }),
            controller: link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Controller(index) => Some(*index),
                _ => None,
            }),
        })
    };
    Ok(links.into_iter().filter_map(device).collect())
}

/// Name of the device that the default route of the main table leads to: that of IPv4, or if there is none, of IPv6.
///
/// # Errors
/// If netlink fails.
pub fn default_device(netns: &Netns) -> Result<Option<String>, NetError> {
    let queries =
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    let found = in_netns(netns, async |netlink| {
        for query in queries {
            let routes = netlink.handle.route().get(query).execute().try_collect::<Vec<_>>().await;
            let routes = routes.map_err(|error| netlink.refused(|| "list the routes".to_owned(), error))?;
            let defaults = routes.iter().filter(|route| is_default(route));
            let best = defaults.filter_map(|route| Some((metric(route), output(route)?))).min();
            if let Some((_, index)) = best {
                return Ok(Some(index));
            }
        }
        Ok(None)
    })?;
    let Some(index) = found else { return Ok(None) };
    Ok(devices(netns)?.into_iter().find(|device| device.index == index).map(|device| device.name))
}

/// Numbers of the devices that packets between a `local` address and a `remote` one may pass: the device of the address, the one that
/// the route leads to, and those below them (ports of a bridge, parts of a bond, the device of a VLAN).
///
/// # Errors
/// If netlink fails.
pub fn carriers(netns: &Netns, local: IpAddr, remote: IpAddr) -> Result<BTreeSet<u32>, NetError> {
    let all = devices(netns)?;
    let addressed = link::numbered_addresses(netns)?;
    let with_address = addressed.into_iter().filter(|(_, net)| net.addr() == local).map(|(index, _)| index);
    let mut found: BTreeSet<u32> = with_address.chain(route_to(netns, remote)?).collect();
    loop {
        let is_below = |device: &&Device| {
            let is_lower =
                || all.iter().any(|upper| found.contains(&upper.index) && upper.lower == Some(device.index));
            device.controller.is_some_and(|upper| found.contains(&upper)) || is_lower()
        };
        let below: Vec<u32> = all.iter().filter(is_below).map(|device| device.index).collect();
        let known = found.len();
        found.extend(below);
        if found.len() == known {
            return Ok(found);
        }
    }
}

/// The device by which packets to an address leave; `None` if they leave by none.
fn route_to(netns: &Netns, address: IpAddr) -> Result<Option<u32>, NetError> {
    let query = match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
        IpAddr::V6(address) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build()
        }
    };
    in_netns(netns, async |netlink| {
        let found = netlink.handle.route().get(query).execute().try_collect::<Vec<_>>().await;
        // The kernel answers with an error if there is no route.
        Ok(found.ok().and_then(|routes| routes.iter().find_map(output)))
    })
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.destination_prefix_length == 0
}

fn metric(route: &RouteMessage) -> u32 {
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// The device that a route leads to, if it leads to one alone.
fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => {
            let [first, others @ ..] = &hops[..] else { return None };
            let is_one = others.iter().all(|hop| hop.interface_index == first.interface_index);
            is_one.then_some(first.interface_index)
        }
        _ => None,
    })
}
