//! `faultwire doctor`: shows what works on this machine, and how to make the rest work.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::bpf;
use crate::cli::args::Doctor;
use crate::cli::json;
use crate::cli::{fail, out, reasons};
use crate::device::steer::Steering;
use crate::device::{Offload, Tun, TunOptions};
use crate::net::userns::closed_by;
use crate::net::{Netns, container, privilege};
use crate::veth::{HostEnd, VethError, VethPorts};

/// One feature that faultwire needs or uses.
struct Finding {
    name: &'static str,
    /// What it is for.
    needed_by: &'static str,
    /// The result; or why it does not work, and what to do.
    result: Result<String, String>,
}

/// Checks everything and prints the results.
pub(super) fn doctor(args: &Doctor) -> ExitCode {
    let findings = examine();
    {
        let list = findings.iter().map(|finding| {
            let (Ok(said) | Err(said)) = &finding.result;
            json!({
                "name": finding.name, "ok": finding.result.is_ok(), "needed_by": finding.needed_by, "found": said,
            })
        });
        if let Err(error) = json::result(json!({ "findings": list.collect::<Vec<_>>() })) {
            return fail(1, reasons(&error));
        }
    }
    if !args.json.is_on_stdout() {
        for Finding { name, needed_by, result } in &findings {
            let (mark, said) = match result {
                Ok(said) => ("ok", said),
                Err(said) => ("NO", said),
            };
            out::line(format_args!("{mark}  {name:<18} {said}"));
            if result.is_err() {
                out::line(format_args!("    {:<18} needed by: {needed_by}", ""));
            }
        }
    }
    match findings.iter().filter(|finding| finding.result.is_err()).count() {
        0 => ExitCode::SUCCESS,
        missing => fail(1, format!("{missing} of {} do not work here", findings.len())),
    }
}

fn examine() -> Vec<Finding> {
    let finding = |name, needed_by, result| Finding { name, needed_by, result };
    vec![
        finding(
            "capabilities",
            "run, exec, attach",
            yes(privilege::capabilities(), "CAP_NET_ADMIN, CAP_SYS_ADMIN"),
        ),
        finding("tun", "run, exec, case, attach", yes(privilege::tun(), "/dev/net/tun can be opened")),
        finding("offloads", "speed", offloads()),
        finding("steering", "several workers", yes(Steering::load(), "flows can be steered to workers")),
        finding("tcx", "attach", yes(bpf::probe(), "programs can be attached to devices")),
        finding("veth ports", "exec as root", yes(veth_ports(), "veth pairs can have programs")),
        finding("user namespaces", "case as an ordinary user", user_namespaces()),
        finding("tracefs", "drop reasons in cases", tracefs()),
        finding("container engines", "attach --container NAME", engines()),
    ]
}

fn yes<T, E: Display>(result: Result<T, E>, found: &str) -> Result<String, String> {
    result.map(|_| found.to_owned()).map_err(|error| error.to_string())
}

/// The offloads that are granted to a device in a namespace of its own.
fn offloads() -> Result<String, String> {
    let granted = || -> Result<Offload, String> {
        let netns = Netns::anonymous().map_err(|error| error.to_string())?;
        let options = TunOptions { name: "fw0", netns: &netns, queues: 1, offload: Offload::Uso };
        Tun::open(&options).map(|(_, granted)| granted.offload).map_err(|error| error.to_string())
    };
    match granted()? {
        Offload::Uso => Ok(Offload::Uso.to_string()),
        less => Err(format!("{less} only: bulk transfers are slower; Linux 6.2 has all of them")),
    }
}

/// A port whose host is a namespace of its own.
fn veth_ports() -> Result<(), VethError> {
    let netns = Netns::of_devices("of the check")?;
    let mut ports = VethPorts::new(1, None)?;
    ports.add(HostEnd { name: "fw0", netns: &netns, queue: 1, offload: true })?;
    ports.attach().map(drop)
}

fn user_namespaces() -> Result<String, String> {
    if !Path::new("/proc/self/ns/user").exists() {
        return Err("this kernel has none (CONFIG_USER_NS): run faultwire as root".to_owned());
    }
    closed_by().map_or_else(|| Ok("open to ordinary users".to_owned()), Err)
}

fn tracefs() -> Result<String, String> {
    let events = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let found = events.iter().find(|root| Path::new(root).join("events/skb/kfree_skb").exists());
    found.map(|root| format!("{root} tells why packets are dropped")).ok_or_else(|| {
        "no event kfree_skb is in reach: run `sudo mount -t tracefs nodev /sys/kernel/tracing`, as root"
            .to_owned()
    })
}

fn engines() -> Result<String, String> {
    let sockets: Vec<_> = container::sockets().iter().map(|socket| socket.display().to_string()).collect();
    if sockets.is_empty() {
        return Err(
            "no engine's socket: containers are found by their ID, those of podman and CRI-O by their name, too (docker's \
             socket is /var/run/docker.sock; for podman run `systemctl start podman.socket`)"
                .to_owned(),
        );
    }
    Ok(sockets.join(", "))
}
