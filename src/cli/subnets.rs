//! Addresses for `exec`: blocks that nothing on this host uses.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host's end and the command's end of a link with a router between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subnets {
    /// Addresses of the host.
    pub(super) host: Vec<IpNet>,
    /// Addresses of the command's namespace.
    pub(super) inner: Vec<IpNet>,
}

/// Blocks to choose from.
const BLOCKS: u16 = 1 << 14;

impl Subnets {
    /// Block `number`: two /30 of 198.18.0.0/15 (set aside for benchmarks by RFC 2544) and two /64 of a unique local
    /// prefix (RFC 4193).
    fn block(number: u16) -> Self {
        let v4 = |offset: u32| {
            let address = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + u32::from(number) * 8 + offset;
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(address), 30))
        };
        let v6 = |side: u16| {
            let address = Ipv6Addr::new(0xfd66, 0x6177, 0x6972, number * 2 + side, 0, 0, 0, 2);
            IpNet::V6(Ipv6Net::new_assert(address, 64))
        };
        Self { host: vec![v4(2), v6(0)], inner: vec![v4(6), v6(1)] }
    }

    /// Blocks that overlap none of `taken`, where default routes do not count: the same first one whenever it is free, so
    /// that addresses are the same in every run.
    pub(super) fn free(taken: &[IpNet]) -> impl Iterator<Item = Self> + '_ {
        let overlaps = |net: &IpNet, other: &IpNet| {
            other.prefix_len() > 0
                && (net.trunc().contains(&other.trunc()) || other.trunc().contains(&net.trunc()))
        };
        (0..BLOCKS).map(Self::block).filter(move |block| {
            block.host.iter().chain(&block.inner).all(|net| taken.iter().all(|other| !overlaps(net, other)))
        })
    }

    /// The host's address of one family.
    pub(super) fn host_address(&self, v4: bool) -> Option<IpAddr> {
        self.host.iter().map(IpNet::addr).find(|address| address.is_ipv4() == v4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_each_other_or_what_is_taken() {
        let taken: Vec<IpNet> =
            ["0.0.0.0/0", "198.18.0.0/16", "fd66:6177:6972:8001::/64"].map(|net| net.parse().unwrap()).into();
        let mut seen: Vec<IpNet> = Vec::new();
        for block in Subnets::free(&taken).take(100) {
            for net in block.host.iter().chain(&block.inner) {
                assert!(seen.iter().all(|other| !other.contains(net)), "{net} twice");
                assert!(taken[1..].iter().all(|other| !other.contains(net)), "{net} is taken");
                seen.push(*net);
            }
        }
        assert_eq!(seen.len(), 400);
    }

    #[test]
    fn a_host_that_uses_all_of_it_leaves_none() {
        let all = ["198.18.0.0/15".parse().unwrap()];
        assert_eq!(Subnets::free(&all).next(), None);
    }
}
