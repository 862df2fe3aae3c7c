//! The surroundings of the command: the host, or another `exec`.

use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;

use crate::cli::args::{Exec, FaultsOn};
use crate::cli::exec::outside::Outside;
use crate::cli::out;
use crate::cli::subnets::{Room, Subnets};
use crate::config::plan::PortKind;
use crate::net::files::OpenFiles;
use crate::net::privilege::{self, Privilege};
use crate::net::{Netns, link, sysctl};

/// The environment variable for addresses of links inside, and the namespace in which they may be used:
/// `198.19.0.0/24@4026532000`.
pub(super) const ROOM: &str = "FAULTWIRE_ROOM";
/// No addresses are left.
pub(super) const FULL: &str = "there are no addresses left for a link inside this one: four can be inside each other; of the \
                               second four stand side by side, of the third two";
/// The host's addresses.
const HOST: [(&str, bool); 2] = [("FAULTWIRE_HOST", true), ("FAULTWIRE_HOST6", false)];
/// The addresses of the namespace in which `exec` was called; those of the host, unless it was called inside another
/// `exec`.
const PARENT: [(&str, bool); 2] = [("FAULTWIRE_PARENT", true), ("FAULTWIRE_PARENT6", false)];

/// The namespace in which `exec` was called.
#[derive(Debug)]
pub(super) struct Around {
    /// The namespace belongs to a user namespace that was created for an ordinary user.
    pub(super) is_of_user: bool,
    /// The namespace belongs to another `exec`.
    pub(super) is_inside: bool,
    /// In this case the addresses for links inside, if any are left.
    pub(super) room: Option<Room>,
    /// What the command reaches beside the host.
    pub(super) outside: Option<Outside>,
    /// The relay needs many files; the command gets the original limit.
    pub(super) files: Option<OpenFiles>,
}

impl Around {
    /// Determines the surroundings, and gets the required privileges: an ordinary user gets a user namespace.
    ///
    /// Call it before any thread is started.
    pub(super) fn find(args: &Exec) -> anyhow::Result<Self> {
        let outside = |reach| Outside::find(reach, args.faults_on == FaultsOn::Outside);
        let outside = args.reach.map(outside).transpose()?;
        let files = outside.as_ref().map(|_| OpenFiles::raise()).transpose()?;
        // The relay's sockets are the host's, which needs no privilege.
        let privilege =
            if outside.is_some() { privilege::acquire_beside_network()? } else { privilege::acquire()? };
        if privilege == Privilege::UserNamespace && outside.is_some() {
            return Ok(Self { is_of_user: true, is_inside: false, room: None, outside, files });
        }
        if privilege == Privilege::UserNamespace {
            // Only the command will be able to reach it.
            link::up(&Netns::own()?, "lo")?;
            out::note_line(
                "faultwire: not root: the link is in a user namespace of its own, with an empty host at its other end. This \
                 machine and its networks cannot be reached through it; add --reach internet, start servers inside as well \
                 (see faultwire exec --help), or run as root",
            );
            return Ok(Self { is_of_user: true, is_inside: false, room: None, outside, files });
        }
        let told = std::env::var(ROOM).unwrap_or_default();
        let (net, namespace) = told.split_once('@').unwrap_or_default();
        // A process may have left the namespace for which the variable was set.
        let is_inside = namespace
            .parse()
            .is_ok_and(|told: u64| Netns::own().is_ok_and(|own| own.inode().is_ok_and(|own| own == told)));
        let room = Room::parse(net).filter(|_| is_inside);
        anyhow::ensure!(room.is_some() || !is_inside, "{FULL}");
        if is_inside {
            // faultwire created this namespace: packets of the links inside pass through it.
            let own = Netns::own()?;
            for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                sysctl::write(&own, key, "1").context("links inside this one cannot be reached")?;
            }
        }
        Ok(Self { is_of_user: false, is_inside, room, outside, files })
    }

    /// The default devices of a link here. Programs at veth pairs need more privileges than an ordinary user can
    /// have, and they do not know the routes of a relay.
    pub(super) const fn device(&self) -> PortKind {
        if self.is_of_user || self.outside.is_some() { PortKind::Tun } else { PortKind::Veth }
    }

    /// The host outside of all links, if this is inside of one.
    pub(super) fn outermost(&self) -> Vec<IpNet> {
        let address = |name: &str| std::env::var(name).ok()?.parse::<IpAddr>().ok();
        let known = HOST.iter().filter_map(|&(name, _)| address(name));
        known.filter(|_| self.is_inside).map(IpNet::from).collect()
    }

    /// Variables for the command, which is in the namespace `inner`.
    pub(super) fn variables(
        &self,
        subnets: &Subnets,
        inner: &Netns,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let address = |v4| subnets.host_address(v4).map(|address: IpAddr| address.to_string());
        let near = PARENT.iter().filter_map(|&(name, v4)| Some((name, address(v4)?)));
        let mut all: Vec<_> = near.collect();
        if !self.is_inside {
            // Inside another link, the outermost host is meant; its address is in the environment already.
            all.extend(HOST.iter().filter_map(|&(name, v4)| Some((name, address(v4)?))));
        }
        let namespace = inner.inode()?;
        let room = subnets.room.map_or_else(|| "none".to_owned(), |room| room.to_string());
        all.push((ROOM, format!("{room}@{namespace}")));
        Ok(all)
    }
}
