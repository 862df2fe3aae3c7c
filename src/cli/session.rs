//! Protects the SSH session in which a command is typed: faults on this host's own device may cut it.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::net::NetError;
use crate::net::lookup::{self, Device};
use crate::net::target::Target;
use crate::pipeline::aim::OfFlow;
use crate::pipeline::params::{Opened, StageParams};
use crate::pipeline::wire::{FlowKey, Version, protocol};

/// Whether faults of these lists (up, down) on a device of `target` may cut the session.
///
/// # Errors
/// If the devices or addresses cannot be read.
pub(super) fn may_be_cut(
    target: &Target,
    device: &Device,
    stages: [&[StageParams]; 2],
) -> Result<bool, NetError> {
    let Some(session) = connection().as_deref().and_then(Session::parse).filter(|_| target.is_own) else {
        return Ok(false);
    };
    if !session.is_hit(stages) {
        return Ok(false);
    }
    let carriers = lookup::carriers(&target.netns, session.server.ip(), session.client.ip())?;
    Ok(carriers.contains(&device.index))
}

/// The warning about such a device.
pub(super) fn danger(device: &Device) -> String {
    format!("{} may carry your SSH session, and the faults may cut it", device.name)
}

/// The connection of an SSH session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    client: SocketAddr,
    server: SocketAddr,
}

impl Session {
    /// From `SSH_CONNECTION`: the client's address and port, and the server's.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [client, client_port, server, server_port] = words[..] else { return None };
        // A link-local address is followed by a percent sign and its device.
        let address = |word: &str| word.split('%').next()?.parse::<IpAddr>().ok();
        let end =
            |word: &str, port: &str| Some(SocketAddr::new(address(word)?.to_canonical(), port.parse().ok()?));
        let session = Self { client: end(client, client_port)?, server: end(server, server_port)? };
        (session.client.is_ipv4() == session.server.is_ipv4()).then_some(session)
    }

    /// Whether a stage for what the server sends, or for what it receives, may hit the connection, which is open already.
    fn is_hit(self, [up, down]: [&[StageParams]; 2]) -> bool {
        let version = if self.server.is_ipv4() { Version::V4 } else { Version::V6 };
        let [server, client] = [self.server, self.client].map(|end| (end.ip().into(), end.port()));
        let flow = FlowKey::of(protocol::TCP, version, server, client);
        let hits = |stages: &[StageParams], flow: &FlowKey| {
            stages.iter().any(|stage| stage.select.of_flow(flow, Some(Opened::Before)) != OfFlow::No)
        };
        hits(up, &flow) || hits(down, &flow.reversed())
    }
}

/// The variable in which sshd gives the session's connection.
const CONNECTION: &str = "SSH_CONNECTION";

/// The session's connection: from the environment of this process or of the nearest ancestor that has it. `sudo` and
/// `su` remove the variable, but the shell in which they were typed has it.
fn connection() -> Option<String> {
    /// Maximum number of processes that are examined.
    const MOST: usize = 64;
    if let Ok(own) = std::env::var(CONNECTION) {
        return Some(own);
    }
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..MOST {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let variables =
            environment.split(|&byte| byte == 0).filter_map(|variable| str::from_utf8(variable).ok());
        let mut named = variables.filter_map(|variable| variable.strip_prefix(CONNECTION)?.strip_prefix('='));
        if let Some(value) = named.next() {
            return Some(value.to_owned());
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{expression, spec};

    #[test]
    fn both_ends_are_in_the_variable() {
        let ends = |text: &str| Session::parse(text).map(|session| (session.client, session.server));
        let expected = |client: &str, server: &str| Some((client.parse().unwrap(), server.parse().unwrap()));
        assert_eq!(ends("10.0.0.2 40000 10.0.0.1 22"), expected("10.0.0.2:40000", "10.0.0.1:22"));
        assert_eq!(ends("fe80::2%eth0 40000 fe80::1%eth0 22"), expected("[fe80::2]:40000", "[fe80::1]:22"));
        assert_eq!(ends("::ffff:10.0.0.2 40000 10.0.0.1 22"), expected("10.0.0.2:40000", "10.0.0.1:22"));
        for text in ["", "a b c d", "10.0.0.2 40000 10.0.0.1", "10.0.0.2 40000 fd00::1 22"] {
            assert_eq!(ends(text), None, "{text}");
        }
    }

    #[test]
    fn faults_that_are_aimed_at_other_packets_spare_the_session() {
        let session = Session::parse("10.0.0.2 40000 10.0.0.1 22").unwrap();
        let stage = |text: &str| {
            let mut stage = spec::parse("delay 1ms").unwrap().stages.remove(0);
            if !text.is_empty() {
                stage.select = expression::parse(text).unwrap();
            }
            stage
        };
        for (text, [up, down]) in [
            ("", [true, true]),
            ("not tcp port 22", [false, false]),
            ("tcp", [true, true]),
            ("port 22", [true, true]),
            ("src port 22", [true, false]),
            ("host 10.0.0.2", [true, true]),
            ("dst host 10.0.0.1", [false, true]),
            ("not host 10.0.0.2", [false, false]),
            ("udp", [false, false]),
            ("tcp port 5432", [false, false]),
            ("ip6", [false, false]),
        ] {
            let stage = [stage(text)];
            assert_eq!([session.is_hit([&stage, &[]]), session.is_hit([&[], &stage])], [up, down], "{text}");
        }
        for (opened, expected) in [(Opened::Before, true), (Opened::After, false)] {
            let mut stage = stage("");
            stage.select.opened = Some(opened);
            assert_eq!(session.is_hit([&[stage], &[]]), expected, "{opened:?}");
        }
    }
}
