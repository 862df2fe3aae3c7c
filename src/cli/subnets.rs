//! Addresses for `exec`: blocks that nothing on this host uses.
//!
//! A command can itself be an `exec`. Its link takes its addresses out of the *room* of the surrounding link: a
//! prefix that leads into the command's namespace and that is unused there. So no address is translated, and every
//! link knows the return route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The host's end and the command's end of a link with a router between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subnets {
    /// Addresses of the host.
    pub(super) host: Vec<IpNet>,
    /// Addresses of the command's namespace.
    pub(super) inner: Vec<IpNet>,
    /// The prefix from which an `exec` inside takes its addresses.
    pub(super) room: Option<Room>,
}

/// Addresses for links inside a link: of IPv4, part of 198.19.0.0/16; each /30 of them has a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room(Ipv4Net);

/// Blocks to choose from.
const BLOCKS: u16 = 1 << 13;
/// The first blocks have room for links inside.
const ROOMS: u16 = 1 << 8;
/// Size of a block, and of the room of an outermost link, as prefix lengths.
const BLOCK: u8 = 29;
const WHOLE: u8 = 24;

impl Subnets {
    /// Block `number`: two /30 of 198.18.0.0/16 (set aside for benchmarks by RFC 2544) and two /64 of a unique local
    /// prefix (RFC 4193).
    fn block(number: u16) -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::from(u32::from(OUTER) + u32::from(number) * 8), BLOCK);
        let room = (number < ROOMS).then(|| {
            let first = u32::from(INNER) + u32::from(number) * 256;
            Room(Ipv4Net::new_assert(Ipv4Addr::from(first), WHOLE))
        });
        Self::at(v4, room)
    }

    /// The two ends of a link that has the prefix `v4` of eight addresses.
    fn at(v4: Ipv4Net, room: Option<Room>) -> Self {
        let end = |offset: u32| {
            let address = Ipv4Addr::from(u32::from(v4.network()) + offset);
            let mut parts = beside(address).segments();
            parts[7] = 2;
            let v6 = Ipv6Net::new_assert(Ipv6Addr::from(parts), 64);
            vec![IpNet::V4(Ipv4Net::new_assert(address, 30)), IpNet::V6(v6)]
        };
        Self { host: end(2), inner: end(6), room }
    }

    /// Blocks that overlap none of `taken`, not counting default routes. The first one is the same whenever it is
    /// free, so that addresses are the same in every run. Inside another link, the blocks of its room.
    pub(super) fn free(taken: &[IpNet], inside: Option<Room>) -> impl Iterator<Item = Self> + '_ {
        let overlaps = |net: &IpNet, other: &IpNet| {
            other.prefix_len() > 0
                && (net.trunc().contains(&other.trunc()) || other.trunc().contains(&net.trunc()))
        };
        let outer = if inside.is_some() { 0 } else { BLOCKS };
        let inner = inside.into_iter().flat_map(Room::blocks);
        inner.chain((0..outer).map(Self::block)).filter(move |block| {
            block.host.iter().chain(&block.inner).all(|net| taken.iter().all(|other| !overlaps(net, other)))
        })
    }

    /// The host's address of one family.
    pub(super) fn host_address(&self, v4: bool) -> Option<IpAddr> {
        self.host.iter().map(IpNet::addr).find(|address| address.is_ipv4() == v4)
    }

    /// Prefixes that lead to the command: its end of the link, and the room.
    pub(super) fn behind(&self) -> Vec<IpNet> {
        let room = self.room.iter().flat_map(|room| room.prefixes());
        self.inner.iter().map(IpNet::trunc).chain(room).collect()
    }
}

/// The ranges of the addresses of links, and of links inside them.
const OUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const INNER: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// The /64 that belongs to the /30 of an address of 198.18.0.0/15.
fn beside(address: Ipv4Addr) -> Ipv6Addr {
    let number = (u32::from(address) - u32::from(OUTER)) / 4;
    // 2^17 addresses have 2^15 such prefixes.
    Ipv6Addr::new(0xfd66, 0x6177, 0x6972, u16::try_from(number).unwrap_or(u16::MAX), 0, 0, 0, 0)
}

impl Room {
    /// As [`Self::to_string`] writes it; `None` if it is not one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let net: Ipv4Net = text.parse().ok()?;
        let all = Ipv4Net::new_assert(INNER, 16);
        (net == net.trunc() && all.contains(&net) && (WHOLE..=BLOCK).contains(&net.prefix_len()))
            .then_some(Self(net))
    }

    /// Each takes a quarter of an outermost room, or half of a smaller one: eight addresses for the link, and the
    /// second half as the room of the next.
    fn blocks(self) -> impl Iterator<Item = Subnets> {
        let parts = if self.0.prefix_len() == WHOLE { 2 } else { 1 };
        let share = (self.0.prefix_len() + parts).min(BLOCK);
        let shares = self.0.subnets(share).into_iter().flatten();
        shares.map(|share| {
            let room = share.subnets(share.prefix_len() + 1).ok().and_then(Iterator::last);
            let room = room.filter(|room| room.prefix_len() <= BLOCK).map(Self);
            Subnets::at(Ipv4Net::new_assert(share.network(), BLOCK), room)
        })
    }

    /// Of both families.
    fn prefixes(self) -> [IpNet; 2] {
        // A /30 has a /64.
        let v6 = Ipv6Net::new_assert(beside(self.0.network()), self.0.prefix_len() + 34);
        [IpNet::V4(self.0), IpNet::V6(v6)]
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_each_other_or_what_is_taken() {
        let taken: Vec<IpNet> =
            ["0.0.0.0/0", "198.18.0.0/17", "fd66:6177:6972:2001::/64"].map(|net| net.parse().unwrap()).into();
        let mut seen: Vec<IpNet> = Vec::new();
        for block in Subnets::free(&taken, None).take(100) {
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
        assert_eq!(Subnets::free(&all, None).next(), None);
    }

    /// Links inside links: each finds addresses in the room around it, several side by side, and none twice.
    #[test]
    fn links_inside_links_share_no_address() {
        let mut seen: Vec<IpNet> = Vec::new();
        let mut level: Vec<Subnets> = Subnets::free(&[], None).take(2).collect();
        for depth in 0..4 {
            assert!(!level.is_empty(), "{depth} links inside each other and no more");
            for net in level.iter().flat_map(|link| link.host.iter().chain(&link.inner)) {
                assert!(seen.iter().all(|other| !other.contains(&net.trunc())), "{net} twice");
                seen.push(net.trunc());
            }
            for link in &level {
                let room: Vec<IpNet> = link.room.iter().flat_map(|room| room.prefixes()).collect();
                let inside =
                    link.room.into_iter().flat_map(|room| Subnets::free(&[], Some(room)).collect::<Vec<_>>());
                for net in inside.flat_map(|inside| [inside.host, inside.inner].concat()) {
                    assert!(room.iter().any(|room| room.contains(&net)), "{net} is not in {room:?}");
                }
            }
            level = level.iter().filter_map(|link| link.room).flat_map(Room::blocks).collect();
        }
        assert!(level.is_empty());
    }

    #[test]
    fn a_room_is_read_as_it_is_written() {
        let room = Subnets::free(&[], None).next().unwrap().room.unwrap();
        assert_eq!(Room::parse(&room.to_string()), Some(room));
        for wrong in ["", "198.19.0.0", "198.19.0.1/24", "10.0.0.0/24", "198.19.0.0/16", "198.19.0.0/30"] {
            assert_eq!(Room::parse(wrong), None, "{wrong}");
        }
    }
}
