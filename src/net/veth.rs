//! Pairs of veth devices between two namespaces.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkDelRequest, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::net::error::NetError;
use crate::net::link::in_netns;
use crate::net::netns::Netns;

/// MTU of the router's end, the maximum: every packet that the host's end may send fits.
const MTU: u32 = 65_535;

/// The group of the router's ends.
const GROUP: u32 = 1;

/// One end of a pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its namespace.
    pub netns: &'a Netns,
    /// Its name, 1 to 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address.
    pub address: [u8; 6],
}

/// Creates a pair of devices; the host's end is down. The host's end does not resolve Ethernet addresses (`NOARP`):
/// whatever it sends comes out of the router's end. When one end or its namespace is removed, the other end is removed
/// too.
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
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .up()
            .build();
        let what = || {
            let (name, netns) = (host.name, host.netns.label());
            format!("make the veth device {name} of the network namespace {netns}")
        };
        netlink.handle.link().add(pair).execute().await.map_err(|error| netlink.refused(what, error))
    })
}

/// Removes all pairs with the router's end in this namespace. One request removes all: the kernel waits several
/// milliseconds for each request.
///
/// # Errors
/// If there is none.
pub fn remove_all(netns: &Netns) -> Result<(), NetError> {
    in_netns(netns, async |netlink| {
        let mut of_group = LinkMessage::default();
        of_group.attributes.push(LinkAttribute::Group(GROUP));
        let what = || "remove the veth pairs".to_owned();
        let request = LinkDelRequest::new_with_message(netlink.handle.clone(), of_group);
        request.execute().await.map_err(|error| netlink.refused(what, error))
    })
}
