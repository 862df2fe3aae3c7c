//! Pairs of veth devices between two namespaces.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::net::error::NetError;
use crate::net::link::in_netns;
use crate::net::netns::Netns;

/// MTU of the router's end, the maximum: what the host's end may send fits.
const MTU: u32 = 65_535;

/// One end of a pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Where it is.
    pub netns: &'a Netns,
    /// Its name, 1 to 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address.
    pub address: [u8; 6],
}

/// Makes a pair of devices, which are down. The host's end asks nobody for Ethernet addresses (`NOARP`): whatever it sends comes
/// out of the router's end. Each is gone when the other is, or its namespace.
///
/// # Errors
/// If a name is taken or the kernel refuses.
pub fn create(router: End<'_>, host: End<'_>) -> Result<(), NetError> {
    in_netns(router.netns, async |netlink| {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(host.name)
            .address(host.address.to_vec())
            .arp(false)
            .setns_by_fd(host.netns.as_fd().as_raw_fd())
            .build();
        let pair = LinkVeth::new(router.name, host.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(router.address.to_vec())
            .mtu(MTU)
            .build();
        let what = || {
            let (name, netns) = (host.name, host.netns.label());
            format!("make the veth device {name} of the network namespace {netns}")
        };
        netlink.handle.link().add(pair).execute().await.map_err(|error| netlink.refused(what, error))
    })
}

/// Removes a device, of a pair both ends.
///
/// # Errors
/// If there is no such device.
pub fn remove(netns: &Netns, name: &str) -> Result<(), NetError> {
    in_netns(netns, async |netlink| {
        let index = netlink.link(name).await?.header.index;
        let what = || format!("remove the device {name}");
        netlink.handle.link().del(index).execute().await.map_err(|error| netlink.refused(what, error))
    })
}
