//! `--reach`: a way out of the command's namespace, through this host.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::cli::args::ReachName;
use crate::cli::subnets::Subnets;
use crate::config::{Aim, expression};
use crate::net::files::OpenFiles;
use crate::net::{Netns, link};
use crate::reach::{Reach, ReachError, Ways};

/// Where names are resolved.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the command reaches beside the host itself.
#[derive(Debug)]
pub(super) struct Outside {
    prefixes: Vec<IpNet>,
    /// Text of the host's resolv.conf, and its nameserver that only the host can reach.
    names: Option<(String, SocketAddr)>,
    /// Faults do not apply to traffic with the host itself.
    spares_host: bool,
}

impl Outside {
    /// Finds the ways that this host has.
    pub(super) fn find(reach: ReachName, spares_host: bool) -> anyhow::Result<Self> {
        let routes = link::unicast_routes(&Netns::own()?)?;
        let prefixes = match reach {
            ReachName::Internet => everything(routes),
            ReachName::HostNetworks => networks(routes),
        };
        if prefixes.is_empty() {
            anyhow::bail!(match reach {
                ReachName::Internet =>
                    "--reach internet: this host has no way out, since it has no default route; add one (`ip route add \
                     default via GATEWAY`), or write --reach host-networks",
                ReachName::HostNetworks =>
                    "--reach host-networks: this host is in no network, since it has no route; bring a device up and give it \
                     an address, or leave --reach out",
            });
        }
        let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let names = own_nameserver(&text).map(|own| (text, own));
        Ok(Self { prefixes, names, spares_host })
    }

    /// The destinations of the relay.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.iter().copied()
    }

    /// The packets at which all faults are aimed.
    pub(super) fn aim(&self, subnets: &Subnets) -> anyhow::Result<Aim> {
        if !self.spares_host {
            return Ok(Aim::default());
        }
        let hosts: Vec<String> = subnets.host.iter().map(|net| format!("not host {}", net.addr())).collect();
        let select = expression::parse(&hosts.join(" and ")).context("the link has no address")?;
        Ok(Aim { select: Some(select), opened: None })
    }

    /// Starts the relay at the far end of the link, which is in `netns`.
    pub(super) fn start(
        &self,
        netns: &Netns,
        subnets: &Subnets,
        files: Option<OpenFiles>,
    ) -> Result<Reach, ReachError> {
        /// Linux's default limit for a process.
        const USUAL: u64 = 1_024;
        let host = subnets.host.iter().map(IpNet::addr).collect();
        let resolver = self.names.as_ref().map(|(_, resolver)| *resolver);
        Reach::start(netns, Ways { host, resolver }, files.map_or(USUAL, |files| files.limit))
    }

    /// The resolv.conf for the command, if the host's own would not work there.
    pub(super) fn resolv_conf(&self, subnets: &Subnets) -> Option<String> {
        let (text, _) = self.names.as_ref()?;
        let host = subnets.host_address(true).or_else(|| subnets.host_address(false))?;
        let others = text.lines().filter(|line| nameserver(line).is_none_or(|(_, is_own)| !is_own));
        let first = format!("nameserver {host}");
        let lines: Vec<&str> = std::iter::once(first.as_str()).chain(others).collect();
        Some(lines.join("\n") + "\n")
    }
}

/// Whether a route covers a whole address family, or half of it, as VPN routes do.
fn is_default(net: &IpNet) -> bool {
    net.prefix_len() <= 1
}

/// Everything that the host reaches; nothing if there is no default route.
fn everything(routes: Vec<IpNet>) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = routes.iter().copied().filter(is_default).collect();
    if !all.is_empty() {
        // For a family without a default route, only its networks are reachable.
        all.extend(networks(routes));
    }
    all
}

/// Prefixes of other hosts that are reached without the default gateway.
fn networks(routes: Vec<IpNet>) -> Vec<IpNet> {
    let is_other = |net: &IpNet| match net.addr() {
        _ if is_default(net) => false,
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_multicast() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    let mut all: Vec<IpNet> = routes.into_iter().filter(is_other).map(|net| net.trunc()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The nameserver of a line, as the host reaches it; and whether only the host can reach it.
fn nameserver(line: &str) -> Option<(SocketAddr, bool)> {
    const PORT: u16 = 53;
    let mut words = line.split_whitespace();
    let text = (words.next()? == "nameserver").then(|| words.next()).flatten()?;
    let (address, device) = text.split_once('%').map_or((text, None), |(ip, device)| (ip, Some(device)));
    let ip: IpAddr = address.parse().ok()?;
    let (ip, is_own) = match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST.into(), true),
        IpAddr::V4(v4) => (ip, v4.is_loopback()),
        IpAddr::V6(v6) => (ip, v6.is_loopback() || v6.is_unicast_link_local()),
    };
    let scope = device.and_then(|name| nix::net::if_::if_nametoindex(name).ok()).unwrap_or(0);
    Some(match ip {
        IpAddr::V6(v6) => (SocketAddrV6::new(v6, PORT, 0, scope).into(), is_own),
        IpAddr::V4(_) => (SocketAddr::new(ip, PORT), is_own),
    })
}

/// The first nameserver of a resolv.conf that only the host can reach: one on its loopback device or of link-local
/// scope.
fn own_nameserver(text: &str) -> Option<SocketAddr> {
    text.lines().filter_map(nameserver).find_map(|(address, is_own)| is_own.then_some(address))
}

/// Gives the calling thread, and processes that it starts, a mount namespace in which resolv.conf has this text.
/// Nothing is written to a disk.
pub(super) fn cover_resolv_conf(text: &str) -> std::io::Result<()> {
    const NONE: Option<&str> = None;
    // Temporarily mounted over: a folder that every system has.
    const PLACE: &str = "/proc";
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Later mounts of the host are visible inside, but not the other way round.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    let target = fs::canonicalize(RESOLV_CONF)?;
    mount(Some("faultwire"), PLACE, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755"))?;
    let file = Path::new(PLACE).join("resolv.conf");
    let covered =
        fs::write(&file, text).and_then(|()| Ok(mount(Some(&file), &target, NONE, MsFlags::MS_BIND, NONE)?));
    umount2(PLACE, MntFlags::MNT_DETACH)?;
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nameserver_of_the_host_alone_is_replaced_and_others_stay() {
        let text =
            "# by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(own_nameserver(text), Some("127.0.0.53:53".parse().unwrap()));
        let own = own_nameserver(text).unwrap();
        let outside = Outside { prefixes: Vec::new(), names: Some((text.into(), own)), spares_host: false };
        let subnets = Subnets::free(&[], None).next().unwrap();
        let covered = outside.resolv_conf(&subnets).unwrap();
        assert_eq!(
            covered,
            "nameserver 198.18.0.2\n# by hand\nsearch example.org\nnameserver 192.0.2.1\noptions edns0\n"
        );
        for (line, own) in [
            ("nameserver 192.0.2.1", None),
            ("nameserver 2001:db8::1", None),
            ("nameserver", None),
            ("#nameserver 127.0.0.1", None),
            ("nameserver ::1", Some("[::1]:53")),
            ("nameserver\t0.0.0.0", Some("127.0.0.1:53")),
            ("nameserver fe80::1", Some("[fe80::1]:53")),
        ] {
            assert_eq!(own_nameserver(line), own.map(|own| own.parse().unwrap()), "{line}");
        }
        let here = own_nameserver("nameserver fe80::1%lo").unwrap();
        assert!(matches!(here, SocketAddr::V6(v6) if v6.scope_id() == 1), "{here}");
    }

    #[test]
    fn networks_are_those_of_other_hosts() {
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let routes = [
            "0.0.0.0/0",
            "192.0.2.0/24",
            "169.254.0.0/16",
            "fe80::/64",
            "::/0",
            "fd00::/64",
            "fd00::/64",
            "ff00::/8",
        ];
        assert_eq!(networks(nets(&routes)), nets(&["192.0.2.0/24", "fd00::/64"]));
        let halves = ["0.0.0.0/1", "128.0.0.0/1", "fd00::/64", "fe80::/64"];
        assert_eq!(networks(nets(&halves)), nets(&["fd00::/64"]));
        assert_eq!(everything(nets(&halves)), nets(&["0.0.0.0/1", "128.0.0.0/1", "fd00::/64"]));
        assert_eq!(everything(nets(&["192.0.2.0/24"])), []);
    }
}
