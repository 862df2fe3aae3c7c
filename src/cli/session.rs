//! Protects the SSH session in which a command is typed: faults on this host's own device may cut it.

use std::fs;
use std::net::IpAddr;

use crate::net::lookup::Device;
use crate::net::target::Target;
use crate::net::{NetError, link};
use crate::pipeline::params::{Opened, Select, StageParams};

/// Whether faults of these lists on a device of `target` may cut the session.
///
/// # Errors
/// If the addresses of the device cannot be read.
pub(super) fn may_be_cut(
    target: &Target,
    device: &Device,
    stages: [&[StageParams]; 2],
) -> Result<bool, NetError> {
    if !target.is_own || !stages.iter().any(|stages| stages.iter().any(is_unaimed)) {
        return Ok(false);
    }
    let Some(server) = connection().as_deref().and_then(server) else { return Ok(false) };
    let on_device = link::addresses_of(&target.netns, device.index)?;
    Ok(on_device.iter().any(|net| net.addr() == server))
}

/// The warning about such a device.
pub(super) fn danger(device: &Device) -> String {
    format!("{} carries your SSH session: the faults may cut it", device.name)
}

/// Whether a stage hits every connection, or every connection that is open already, such as the session.
fn is_unaimed(stage: &StageParams) -> bool {
    let selected = match stage.select.opened {
        Some(Opened::Before) => Select { opened: None, ..stage.select.clone() },
        _ => stage.select.clone(),
    };
    selected.is_any()
}

/// The variable in which sshd gives the session's connection.
const CONNECTION: &str = "SSH_CONNECTION";

/// The session's connection: from the environment of this process or of the nearest ancestor that has it. `sudo` and
/// `su` remove the variable, but the shell in which they were typed has it.
/// but the shell in which they were typed has it.
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

/// The server's address in `SSH_CONNECTION`, which is the client's address and port, and the server's.
fn server(session: &str) -> Option<IpAddr> {
    // A link-local address is followed by a percent sign and its device.
    session.split(' ').nth(2)?.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{expression, spec};

    #[test]
    fn the_server_s_address_is_the_third_word() {
        assert_eq!(server("10.0.0.2 40000 10.0.0.1 22"), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(server("fe80::2%eth0 40000 fe80::1%eth0 22"), "fe80::1".parse().ok());
        assert_eq!(server(""), None);
        assert_eq!(server("a b c d"), None);
    }

    #[test]
    fn only_what_is_aimed_elsewhere_spares_open_connections() {
        let mut stage = spec::parse("delay 1ms").unwrap().stages.remove(0);
        for (opened, expected) in [(None, true), (Some(Opened::Before), true), (Some(Opened::After), false)] {
            stage.select.opened = opened;
            assert_eq!(is_unaimed(&stage), expected, "{opened:?}");
        }
        stage.select = expression::parse("not tcp port 22").unwrap();
        assert!(!is_unaimed(&stage));
    }
}
