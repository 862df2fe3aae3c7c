//! The routing table: longest prefix match over connected and configured routes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pipeline::params::{PortParams, RouteParams, RouteTarget};

/// Routes of both families, longest prefix first. The table is searched once for each flow: a list is fast enough and
/// simple.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    sorted: Vec<RouteParams>,
}

impl Routes {
    /// The connected routes of `ports` and the configured ones. If two have the same prefix, the configured one wins.
    pub fn new(ports: &[PortParams], configured: &[RouteParams]) -> Self {
        let connected = ports.iter().enumerate().flat_map(|(index, port)| {
            port.addresses
                .iter()
                .map(move |net| RouteParams { prefix: net.trunc(), target: RouteTarget::Port(index) })
        });
        let mut sorted: Vec<_> = configured
            .iter()
            .map(|route| RouteParams { prefix: route.prefix.trunc(), ..*route })
            .chain(connected)
            .collect();
        sorted.sort_by_key(|route| std::cmp::Reverse(route.prefix.prefix_len()));
        Self { sorted }
    }

    /// The target of packets to `destination`, if there is a route.
    pub fn find(&self, destination: IpAddr) -> Option<RouteTarget> {
        self.route(destination).map(|route| route.target)
    }

    /// The prefix of the route to `destination`, if there is one.
    pub fn prefix_of(&self, destination: IpAddr) -> Option<IpNet> {
        self.route(destination).map(|route| route.prefix)
    }

    fn route(&self, destination: IpAddr) -> Option<&RouteParams> {
        self.sorted.iter().find(|route| contains(&route.prefix, destination))
    }
}

fn contains(prefix: &IpNet, address: IpAddr) -> bool {
    prefix.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(addresses: &[&str]) -> PortParams {
        PortParams {
            name: String::new(),
            mtu: 1500,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            router: Vec::new(),
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let ports = [port(&["10.0.1.2/24", "fd00:1::2/64"]), port(&["10.0.2.2/24"])];
        let route = |prefix: &str, target| RouteParams { prefix: prefix.parse().unwrap(), target };
        let routes = Routes::new(
            &ports,
            &[
                route("0.0.0.0/0", RouteTarget::Port(1)),
                route("10.0.1.128/25", RouteTarget::Blackhole),
                route("10.0.2.0/24", RouteTarget::Unreachable),
            ],
        );
        let find = |address: &str| routes.find(address.parse().unwrap());
        assert_eq!(find("10.0.1.9"), Some(RouteTarget::Port(0)));
        assert_eq!(find("10.0.1.200"), Some(RouteTarget::Blackhole));
        assert_eq!(find("10.0.2.7"), Some(RouteTarget::Unreachable));
        assert_eq!(find("8.8.8.8"), Some(RouteTarget::Port(1)));
        assert_eq!(find("fd00:1::77"), Some(RouteTarget::Port(0)));
        assert_eq!(find("fd00:2::77"), None);
    }
}
