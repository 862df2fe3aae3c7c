//! `run` as an ordinary user: it creates all of its namespaces inside a user namespace.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use crate::config::Plan;
use crate::config::plan::{NetnsRef, PortPlan};
use crate::net::privilege::{self, Privilege, PrivilegeError};
use crate::net::{NamedNetns, NetError, Netns};

/// The namespaces that were created, by their names in the configuration.
#[derive(Debug, Default)]
pub(super) struct Ordinary(RefCell<Vec<(String, Netns)>>);

/// Why this run is not possible.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPossible {
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(
        "port {port}: an ordinary user may use no {what}: give the port a namespace of its own (`netns = \"NAME\"` and \
         `create = true`), or run as root"
    )]
    Port { port: String, what: &'static str },
}

impl Ordinary {
    /// Gets the privileges that the plan needs. `None` if the process has them already; otherwise the process is in a
    /// user namespace from now on.
    ///
    /// Call it before any thread is started.
    ///
    /// # Errors
    /// If no user namespace is available, or the plan needs something outside of it. Nothing has changed then.
    pub(super) fn enter(plan: &Plan) -> Result<Option<Self>, NotPossible> {
        if privilege::capabilities().is_err()
            && let Some((port, what)) = outside(plan)
        {
            return Err(NotPossible::Port { port: port.to_owned(), what });
        }
        Ok(match privilege::acquire()? {
            Privilege::Held => None,
            Privilege::UserNamespace => Some(Self::default()),
        })
    }

    /// The namespace of a port; created for the first port that needs it.
    pub(super) fn open(&self, port: &PortPlan) -> Result<(Netns, Option<NamedNetns>), NetError> {
        let name = name(port).ok_or_else(|| NetError::NotFound(PathBuf::from("own")))?;
        let mut made = self.0.borrow_mut();
        let known = made.iter().find(|(known, _)| known == name).map(|(_, netns)| netns.clone());
        let netns = match known {
            Some(_) if port.create => return Err(NetError::Exists(Path::new("/run/netns").join(name))),
            Some(netns) => netns,
            None => {
                let netns = Netns::anonymous()?;
                made.push((name.to_owned(), netns.clone()));
                netns
            }
        };
        Ok((netns, None))
    }

    /// How to enter each namespace.
    pub(super) fn doors(&self) -> Vec<String> {
        let pid = std::process::id();
        let door = |(name, netns): &(String, Netns)| {
            let fd = netns.as_fd().as_raw_fd();
            format!("{name}: nsenter --preserve-credentials --user --target {pid} --net=/proc/{pid}/fd/{fd}")
        };
        self.0.borrow().iter().map(door).collect()
    }
}

fn name(port: &PortPlan) -> Option<&str> {
    match &port.netns {
        NetnsRef::Named(name) => Some(name),
        NetnsRef::Own | NetnsRef::Path(_) => None,
    }
}

/// The first port that needs something that is not possible in a user namespace.
fn outside(plan: &Plan) -> Option<(&str, &'static str)> {
    let is_made = |name: &str| plan.ports.iter().any(|port| port.create && self::name(port) == Some(name));
    let port = plan.ports.iter().find_map(|port| {
        let what = match &port.netns {
            NetnsRef::Own => "device in this host's own network",
            NetnsRef::Path(_) => "namespace that is there already",
            NetnsRef::Named(name) if !is_made(name) => "namespace that is there already",
            NetnsRef::Named(_) => return None,
        };
        Some((port.name.as_str(), what))
    });
    port.or_else(|| {
        plan.attached.first().map(|port| (port.name.as_str(), "device that is there already (`attach`)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn only_namespaces_that_the_run_makes_are_in_reach() {
        for (keys, what) in [
            ("netns = \"a\"\ncreate = true", None),
            ("netns = \"a\"", Some("namespace that is there already")),
            ("netns = \"/proc/1/ns/net\"", Some("namespace that is there already")),
            ("", Some("device in this host's own network")),
        ] {
            let text = format!("[[port]]\nname = \"p\"\naddresses = \"10.1.0.1/24\"\n{keys}\n");
            let plan = config::parse(&text, "x.toml").unwrap();
            assert_eq!(outside(&plan), what.map(|what| ("p", what)), "{keys}");
        }
        let shared = "[[port]]\nname = \"p\"\nnetns = \"a\"\ncreate = true\naddresses = \"10.1.0.1/24\"\n\
                      [[port]]\nname = \"q\"\nnetns = \"a\"\naddresses = \"10.2.0.1/24\"\n";
        assert_eq!(outside(&config::parse(shared, "x.toml").unwrap()), None);
    }
}
