//! Devices over rtnetlink: MTU, queue length, addresses, routes, counters.
//!
//! Each call opens a netlink socket inside the namespace and waits for the kernel's answer: this is set-up work, never
//! the fast path.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, Stats64};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::net::error::NetError;
use crate::net::netns::Netns;
use crate::net::sysctl;

/// `RTAX_CC_ALGO` of `linux/rtnetlink.h`: the name of a congestion control, which ends with a zero byte.
const CONGESTION_CONTROL: u16 = 16;

/// The alias (`ip link show`) of every device that faultwire made.
pub const ALIAS: &str = "made by faultwire";

/// What a device gets before traffic flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSetup {
    /// Largest packet in bytes, 68 to 65535. Below 1280 the kernel switches IPv6 off on the device.
    pub mtu: u32,
    /// Packets that the queue towards faultwire holds, per queue; a TUN device has 500 unless told.
    pub tx_queue_len: Option<u32>,
    /// The host side's addresses, with the prefix they are on. IPv6 ones are usable at once (no DAD).
    pub addresses: Vec<IpNet>,
    /// Prefixes to send out of this device; `0.0.0.0/0` and `::/0` are the default routes.
    pub routes: Vec<IpNet>,
}

/// The kernel's counters of a device, seen from the host: `tx` is what it sent into the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says, as in `ip -s link`")]
pub struct LinkStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Dropped on the way into the host's stack, or written with a virtio header that does not fit the packet.
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// For a TUN device: lost because its queue was full or its reader gone.
    pub tx_dropped: u64,
    pub tx_errors: u64,
}

/// Sets a device of faultwire's up: MTU, queue length and alias first, then addresses, up, and routes.
///
/// The kernel's own chatter (link-local address, router solicitations) is switched off on it, so that the device
/// carries what applications send. Nothing that exists is replaced: an address or route that is there already is an
/// error. All of it goes when the device goes.
///
/// # Errors
/// The first request that the kernel refused, with its reason.
pub fn configure(netns: &Netns, name: &str, setup: &LinkSetup) -> Result<(), NetError> {
    in_netns(netns, async |netlink: Netlink| {
        quieten(name)?;
        let index = netlink.index(name).await?;
        let alias = LinkAttribute::IfAlias(ALIAS.to_owned());
        let mut link = LinkUnspec::new_with_index(index).mtu(setup.mtu).append_extra_attribute(alias);
        if let Some(packets) = setup.tx_queue_len {
            link = link.txqueuelen(packets);
        }
        let what =
            || format!("set the MTU of {name} to {} and its queue to {:?}", setup.mtu, setup.tx_queue_len);
        netlink.set(link.build(), what).await?;
        for address in &setup.addresses {
            netlink.add_address(index, name, *address).await?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        netlink.set(up, || format!("set {name} up")).await?;
        for route in &setup.routes {
            netlink.add_route(index, name, *route, netns.congestion_control()).await?;
        }
        Ok(())
    })
}

/// Sets a device up (`ip link set NAME up`).
///
/// # Errors
/// If there is no such device or it may not be changed.
pub fn up(netns: &Netns, name: &str) -> Result<(), NetError> {
    netns.run(|| up_here(netns.label(), name))?
}

/// As [`up`], in the namespace of the calling thread, which is called `label` in messages.
pub(super) fn up_here(label: &str, name: &str) -> Result<(), NetError> {
    here(label, async |netlink: Netlink| {
        let index = netlink.index(name).await?;
        netlink.set(LinkUnspec::new_with_index(index).up().build(), || format!("set {name} up")).await
    })
}

/// Sets a device down: what it held in its queue is lost.
///
/// # Errors
/// If there is no such device or it may not be changed.
pub fn down(netns: &Netns, name: &str) -> Result<(), NetError> {
    in_netns(netns, async |netlink: Netlink| {
        let index = netlink.index(name).await?;
        netlink.set(LinkUnspec::new_with_index(index).down().build(), || format!("set {name} down")).await
    })
}

/// Sets the MTU of a device, in bytes.
///
/// # Errors
/// If there is no such device or the MTU is out of its range.
pub fn set_mtu(netns: &Netns, name: &str, mtu: u32) -> Result<(), NetError> {
    in_netns(netns, async |netlink: Netlink| {
        let index = netlink.index(name).await?;
        let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
        netlink.set(link, || format!("set the MTU of {name} to {mtu}")).await
    })
}

/// Lets the kernel hand packets to a device one by one: trains are segmented before it.
///
/// # Errors
/// If there is no such device or it may not be changed.
pub fn segment_trains(netns: &Netns, name: &str) -> Result<(), NetError> {
    in_netns(netns, async |netlink: Netlink| {
        let index = netlink.index(name).await?;
        let link =
            LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::GsoMaxSegs(1)).build();
        netlink.set(link, || format!("have trains segmented before {name}")).await
    })
}

/// The device's counters.
///
/// # Errors
/// If there is no such device.
pub fn stats(netns: &Netns, name: &str) -> Result<LinkStats, NetError> {
    let link = in_netns(netns, async |netlink: Netlink| netlink.link(name).await)?;
    let stats = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(LinkStats::from(*stats)),
        _ => None,
    });
    Ok(stats.unwrap_or_default())
}

/// All addresses of the namespace, with their prefixes: what an unused subnet must not overlap.
///
/// # Errors
/// If netlink fails.
pub fn addresses(netns: &Netns) -> Result<Vec<IpNet>, NetError> {
    Ok(numbered_addresses(netns)?.into_iter().map(|(_, address)| address).collect())
}

/// Addresses of the namespace whose prefixes overlap one of `prefixes`: that one, the address, the name of its device.
///
/// # Errors
/// If netlink fails.
pub fn overlapping(netns: &Netns, prefixes: &[IpNet]) -> Result<Vec<(IpNet, IpNet, String)>, NetError> {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(&b.network()) || b.contains(&a.network());
    let mut found = Vec::new();
    for (index, address) in numbered_addresses(netns)? {
        let Some(prefix) = prefixes.iter().find(|prefix| overlap(prefix, &address)) else { continue };
        // A device that has gone meanwhile is in nobody's way.
        let name = netns.run(|| nix::net::if_::if_indextoname(index))?;
        let name = name.ok().and_then(|name| name.into_string().ok());
        found.extend(name.map(|name| (*prefix, address, name)));
    }
    Ok(found)
}

/// All addresses, each with the index of its device.
pub(super) fn numbered_addresses(netns: &Netns) -> Result<Vec<(u32, IpNet)>, NetError> {
    in_netns(netns, async |netlink: Netlink| {
        let listed = netlink.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|e| netlink.refused(|| "list the addresses".to_owned(), e))?;
        Ok(listed
            .iter()
            .filter_map(|message| {
                let ip = local_address(&message.attributes)?;
                Some((message.header.index, IpNet::new(ip, message.header.prefix_len).ok()?))
            })
            .collect())
    })
}

/// All destinations that the main routing table of the namespace knows, default routes and refusals (`unreachable`) included.
///
/// # Errors
/// If netlink fails.
pub fn routes(netns: &Netns) -> Result<Vec<IpNet>, NetError> {
    listed_routes(netns, |_| true)
}

/// The destinations of its main routing table that packets are sent to.
///
/// # Errors
/// If netlink fails.
pub fn unicast_routes(netns: &Netns) -> Result<Vec<IpNet>, NetError> {
    listed_routes(netns, |message| message.header.kind == RouteType::Unicast)
}

fn listed_routes(netns: &Netns, is_wanted: fn(&RouteMessage) -> bool) -> Result<Vec<IpNet>, NetError> {
    let queries = [
        (RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(), IpAddr::from([0; 4])),
        (RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(), IpAddr::from([0; 16])),
    ];
    in_netns(netns, async |netlink: Netlink| {
        let mut found = Vec::new();
        for (query, any) in queries {
            let listed = netlink.handle.route().get(query).execute().try_collect::<Vec<_>>().await;
            let listed = listed.map_err(|e| netlink.refused(|| "list the routes".to_owned(), e))?;
            let wanted = listed.iter().filter(|message| is_wanted(message));
            found.extend(wanted.filter_map(|message| destination(message, any)));
        }
        Ok(found)
    })
}

/// Makes every address of both families a local one, unless a route says otherwise. For namespaces that faultwire made.
pub(super) fn make_all_local(netns: &Netns) -> Result<(), NetError> {
    in_netns(netns, async |netlink: Netlink| {
        let lo = netlink.index("lo").await?;
        let mut routes = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .scope(RouteScope::Host)
                .output_interface(lo)
                .build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().output_interface(lo).build(),
        ];
        for route in &mut routes {
            // Of the main table, where a longer prefix wins: the local table would win over all others.
            route.header.kind = RouteType::Local;
            let added = netlink.handle.route().add(route.clone()).execute().await;
            added.map_err(|e| netlink.refused(|| "make every address local".to_owned(), e))?;
        }
        Ok(())
    })
}

/// Switches off the link-local address and router solicitations, in the namespace of this thread: no host on the link
/// would answer.
fn quieten(name: &str) -> Result<(), NetError> {
    for (key, value) in [("addr_gen_mode", "1"), ("router_solicitations", "0"), ("accept_ra", "0")] {
        sysctl::write_here_if_there(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    Ok(())
}

/// A netlink conversation inside one namespace.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    netns: String,
}

impl Netlink {
    pub(super) async fn link(&self, name: &str) -> Result<LinkMessage, NetError> {
        let found = self.handle.link().get().match_name(name).execute().try_collect::<Vec<_>>().await;
        let found = found.map_err(|e| self.refused(|| format!("find the device {name}"), e))?;
        found.into_iter().next().ok_or_else(|| NetError::Netlink {
            action: format!("find the device {name}"),
            netns: self.netns.clone(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    async fn index(&self, name: &str) -> Result<u32, NetError> {
        Ok(self.link(name).await?.header.index)
    }

    async fn set(&self, link: LinkMessage, what: impl FnOnce() -> String) -> Result<(), NetError> {
        self.handle.link().set(link).execute().await.map_err(|e| self.refused(what, e))
    }

    async fn add_address(&self, index: u32, name: &str, address: IpNet) -> Result<(), NetError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if matches!(address, IpNet::V6(_)) {
            // Duplicate address detection would delay the address by a second, and there can be no duplicate.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .map_err(|e| self.refused(|| format!("add the address {address} to {name}"), e))
    }

    async fn add_route(
        &self,
        index: u32,
        name: &str,
        prefix: IpNet,
        congestion_control: Option<&str>,
    ) -> Result<(), NetError> {
        let mut route = match prefix.trunc() {
            IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .scope(RouteScope::Link)
                .output_interface(index)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .output_interface(index)
                .build(),
        };
        if let Some(algorithm) = congestion_control {
            let name = [algorithm.as_bytes(), &[0]].concat();
            let metric = RouteMetric::Other(DefaultNla::new(CONGESTION_CONTROL, name));
            route.attributes.push(RouteAttribute::Metrics(vec![metric]));
        }
        let added = self.handle.route().add(route).execute().await;
        added.map_err(|e| self.refused(|| format!("add the route {prefix} out of {name}"), e))
    }

    pub(super) fn refused(&self, what: impl FnOnce() -> String, error: rtnetlink::Error) -> NetError {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        NetError::Netlink { action: what(), netns: self.netns.clone(), source }
    }
}

/// Runs a netlink conversation in the namespace to its end.
pub(super) fn in_netns<R: Send>(
    netns: &Netns,
    talk: impl AsyncFnOnce(Netlink) -> Result<R, NetError> + Send,
) -> Result<R, NetError> {
    netns.run(|| here(netns.label(), talk))?
}

/// As [`in_netns`], in the namespace of the calling thread.
fn here<R>(label: &str, talk: impl AsyncFnOnce(Netlink) -> Result<R, NetError>) -> Result<R, NetError> {
    let broken = |source| NetError::Netlink {
        action: "open a netlink socket".to_owned(),
        netns: label.to_owned(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(broken)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(broken)?;
        tokio::spawn(connection);
        talk(Netlink { handle, netns: label.to_owned() }).await
    })
}

/// On a point-to-point link, `IFA_LOCAL` is the own address and `IFA_ADDRESS` that of the other end.
fn local_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// The destination of a route of the main table; `any` is used for a route without a destination.
fn destination(message: &RouteMessage, any: IpAddr) -> Option<IpNet> {
    if message.header.table != rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    IpNet::new(address.unwrap_or(any), message.header.destination_prefix_length).ok()
}

impl From<Stats64> for LinkStats {
    fn from(stats: Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_dropped: stats.rx_dropped,
            rx_errors: stats.rx_errors,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
            tx_errors: stats.tx_errors,
        }
    }
}
