//! `--control` and `--metrics`: the interfaces of a running instance.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::cli::out;
use crate::config::Aim;
use crate::control::{Attachment, Choice, Control, ControlError, Device, Door, Instance, Remote};
use crate::engine::Engine;
use crate::engine::network::{Attached, Port};
use crate::journal::{Names, Notes};
use crate::pipeline::params::RouterParams;

/// Where a running instance can be asked.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Asking a running instance")]
pub(super) struct Serving {
    /// Name or path of the control socket, or none; see docs/control.md [default: the number of the process]
    #[arg(long, value_name = "NAME|PATH")]
    pub(super) control: Option<Choice>,
    /// Serve Prometheus metrics (/metrics) at this address; a port alone is one of the loopback address
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) metrics: Option<SocketAddr>,
    /// Serve the control socket's interface over TCP, too, to those who show a token; a port alone is one of the loopback address
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) control_listen: Option<SocketAddr>,
    /// File with that token; made if it is not there [default: beside the control socket, for this run]
    #[arg(long, value_name = "FILE", requires = "control_listen")]
    pub(super) control_token: Option<PathBuf>,
}

/// An address with a port, or a port. An address may be a name, of which an IPv4 address is taken if it has one.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse();
    if let Ok(port) = port {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let is_right = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok());
    if !is_right {
        return Err("try a port or an address with a port, such as 9464 or 127.0.0.1:9464".to_owned());
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or_else(|| found.first());
    first.copied().ok_or_else(|| "the name has no address".to_owned())
}

/// What is served.
pub(super) struct Served<'a> {
    pub(super) command: &'static str,
    pub(super) config: Option<&'a Path>,
    pub(super) params: RouterParams,
    pub(super) names: &'a Names,
    pub(super) devices: Vec<Device>,
    /// The packets at which all faults are aimed.
    pub(super) aim: Aim,
    pub(super) attachments: Vec<Attachment>,
    /// A journal or a capture is being written.
    pub(super) is_recorded: bool,
    pub(super) notes: Vec<Notes>,
}

impl Serving {
    /// Opens what is requested, before anything else is created. The default control socket is not worth a failure:
    /// if it cannot be opened, the reason is given to `notice`.
    pub(super) fn open(&self, notice: impl Fn(&str)) -> Result<Door, ControlError> {
        let remote =
            self.control_listen.map(|address| Remote { address, token: self.control_token.as_deref() });
        if let Some(choice) = &self.control {
            return Door::open(choice, self.metrics, remote);
        }
        let own = Choice::Name(std::process::id().to_string());
        match Door::open(&own, self.metrics, remote) {
            Err(ControlError::Socket(error)) => {
                notice(&format!("the control socket is not available: {error}"));
                Door::open(&Choice::None, self.metrics, remote)
            }
            opened => opened,
        }
    }
}

/// Serves a run from now on.
pub(super) fn serve(
    door: Door,
    engine: &Engine,
    served: Served<'_>,
) -> Result<Option<Control>, ControlError> {
    if let Some(address) = door.metrics() {
        out::note_line(format_args!("metrics at http://{address}/metrics"));
    }
    if let Some((address, token)) = door.remote() {
        out::note_line(format_args!("control at http://{address}/v1, token in {}", token.display()));
    }
    door.serve(Instance {
        command: served.command,
        config: served.config.map(|path| path.display().to_string()),
        params: served.params,
        names: served.names.clone(),
        workers: engine.workers(),
        devices: served.devices,
        attachments: served.attachments,
        aim: served.aim,
        is_recorded: served.is_recorded,
        notes: served.notes,
        version: 1,
        paused: Vec::new(),
        frozen: Vec::new(),
    })
}

/// The devices that a network is attached to.
pub(super) fn attachments(attached: &[Attached]) -> Vec<Attachment> {
    let attachment = |port: &Attached| Attachment {
        port: port.name.clone(),
        device: port.device().to_owned(),
        target: port.label().to_owned(),
    };
    attached.iter().map(attachment).collect()
}

/// The devices of a network's ports.
pub(super) fn devices(ports: &[Port], attached: &[Attached]) -> Vec<Device> {
    let own = ports.iter().map(|port| Device {
        port: port.name.clone(),
        name: port.device.clone(),
        netns: port.netns.clone(),
    });
    let taps = attached.iter().flat_map(|port| {
        let names = [port.name.clone(), format!("{}/network", port.name)];
        let tap = |(port_name, tap): (String, &String)| Device {
            port: port_name,
            name: tap.clone(),
            netns: port.netns().clone(),
        };
        names.into_iter().zip(port.taps()).map(tap).collect::<Vec<_>>()
    });
    own.chain(taps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_the_loopback_address() {
        for text in ["9464", ":9464", "127.0.0.1:9464"] {
            assert_eq!(address(text), Ok("127.0.0.1:9464".parse().unwrap()), "{text}");
        }
        assert_eq!(address("[::]:1"), Ok("[::]:1".parse().unwrap()));
        assert_eq!(address("localhost:1"), Ok("127.0.0.1:1".parse().unwrap()));
        for wrong in ["", "x", "localhost:", "localhost:70000", "::1", "1.2.3.4", "70000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
