//! Finds containers by the beginning of their ID in the control groups of processes, whatever engine runs them. Names
//! are looked up in the monitors of podman and CRI-O, or asked from the engine's socket (Docker's HTTP API, which
//! podman serves too).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Sockets that engines listen on.
const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/podman/podman.sock", "/run/docker.sock"];
/// Bytes of a container's ID in hexadecimal.
const ID: usize = 64;
/// A shorter beginning would match too much.
const SHORTEST: usize = 4;
/// How long to wait for the answer of an engine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// No engine knows it.
    #[error(
        "there is no running container {name}: no control group of a process has an ID that begins so, no monitor (conmon) has that name, and {asked} \
         (`docker ps` or `podman ps` shows names and IDs; --pid takes the process ID of any process inside)"
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The answers of the engines.
        asked: String,
    },
    /// The beginning of several IDs.
    #[error("{name} is the beginning of several containers' IDs: {ids}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The IDs.
        ids: String,
    },
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// A process inside.
    pub pid: u32,
    /// Its name for messages: as the user gave it, with the short ID.
    pub label: String,
}

/// Finds a running container by its name or the beginning of its ID.
///
/// # Errors
/// If there is none, or several.
pub fn find(name: &str) -> Result<Container, ContainerError> {
    let is_id =
        name.len() >= SHORTEST && name.len() <= ID && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id {
        let found = by_prefix(Path::new("/proc"), &name.to_lowercase());
        if found.len() > 1 {
            let ids: Vec<_> = found.keys().map(|id| &id[..12]).collect();
            return Err(ContainerError::Ambiguous { name: name.to_owned(), ids: ids.join(", ") });
        }
        if let Some((id, pid)) = found.into_iter().next() {
            return Ok(Container { pid, label: id[..12].to_owned() });
        }
    }
    if let Some(pid) = by_monitor(Path::new("/proc"), name) {
        return Ok(Container { pid, label: name.to_owned() });
    }
    let mut asked = Vec::new();
    for socket in sockets() {
        match ask(&socket, name) {
            Ok(Some(pid)) => return Ok(Container { pid, label: name.to_owned() }),
            Ok(None) => asked.push(format!("{} does not run it", socket.display())),
            Err(error) => asked.push(format!("{} says: {error}", socket.display())),
        }
    }
    if asked.is_empty() {
        asked.push("no socket of a container engine was found to look up names".to_owned());
    }
    Err(ContainerError::NotFound { name: name.to_owned(), asked: asked.join(", ") })
}

/// Engines' sockets that exist.
pub fn sockets() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for socket in SOCKETS.map(Path::new).into_iter().filter(|socket| socket.exists()) {
        // /var/run is a link to /run.
        let real = socket.canonicalize().unwrap_or_else(|_| socket.to_owned());
        if !found.contains(&real) {
            found.push(real);
        }
    }
    found
}

/// The process of the container with this name, as its monitor knows it. podman and CRI-O start a `conmon` for each
/// container, with the name and the ID in its command line, so no service has to be asked.
fn by_monitor(proc: &Path, name: &str) -> Option<u32> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let after = |option: &[u8]| words.windows(2).find(|two| two[0] == option).map(|two| two[1]);
        let is_monitor = words.first()?.ends_with(b"conmon") && after(b"-n")? == name.as_bytes();
        let id = after(b"-c").filter(|id| is_monitor && id.len() == ID)?;
        Some(String::from_utf8_lossy(id).into_owned())
    });
    ids.into_iter().find_map(|id| by_prefix(proc, &id).into_values().next())
}

/// For each container whose ID begins so, its oldest process.
fn by_prefix(proc: &Path, prefix: &str) -> BTreeMap<String, u32> {
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    let pids = fs::read_dir(proc).into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(groups) = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")) else { continue };
        // The engine's own monitor of a container has a group with the ID in its name, too, outside of the container.
        for id in ids(&groups).filter(|id| id.starts_with(prefix)) {
            let oldest = found.entry(id.to_owned()).or_insert(pid);
            *oldest = pid.min(*oldest);
        }
    }
    found
}

/// The IDs of containers in a `/proc/PID/cgroup`: `/docker/ID`, `docker-ID.scope`, `cri-containerd-ID.scope`,
/// `libpod-ID.scope`, `crio-ID.scope`, `/kubepods/…/ID`. A group of the monitor (`libpod-conmon-ID`, `crio-conmon-ID`) is not
/// the container's.
fn ids(groups: &str) -> impl Iterator<Item = &str> {
    let parts = groups.lines().flat_map(|line| line.split('/'));
    parts.filter(|part| !part.contains("conmon")).filter_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.get(part.len().checked_sub(ID)?..)?;
        let before = part.len() - ID;
        let is_bounded = before == 0 || part.as_bytes()[before - 1] == b'-';
        (is_bounded && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    })
}

/// Asks an engine for the process of a container; `None` if it does not run one of that name.
fn ask(socket: &Path, name: &str) -> io::Result<Option<u32>> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !name.bytes().all(is_plain) {
        return Err(io::Error::other("that cannot be the name of a container"));
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP 1.0: the answer ends with the connection and comes in one piece.
    write!(stream, "GET /v1.24/containers/{name}/json HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 24).read_to_end(&mut answer)?;
    pid_in(&String::from_utf8_lossy(&answer))
}

/// The process in an engine's answer.
fn pid_in(answer: &str) -> io::Result<Option<u32>> {
    let bad = || io::Error::other("an answer that cannot be parsed");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "404" {
        return Ok(None);
    }
    // An engine that insists on chunks puts their sizes on lines of their own.
    let start = body.find('{').ok_or_else(bad)?;
    let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Value>();
    let value = values.next().and_then(Result::ok).ok_or_else(bad)?;
    if status != "200" {
        let said = value["message"].as_str().unwrap_or("no reason").to_owned();
        return Err(io::Error::other(said));
    }
    let pid = value["State"]["Pid"].as_u64().unwrap_or(0) as u32;
    Ok((pid > 0).then_some(pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    const A: &str = "3f2a00000000000000000000000000000000000000000000000000000000beef";

    #[test]
    fn every_engine_s_groups_are_known_and_monitors_are_not() {
        for group in [
            format!("0::/system.slice/docker-{A}.scope"),
            format!("12:cpu:/docker/{A}"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{A}.scope"),
            format!("0::/machine.slice/libpod-{A}.scope/container"),
            format!("0::/libpod_parent/libpod-{A}"),
            format!("0::/kubepods/besteffort/pod7/crio-{A}.scope"),
        ] {
            assert_eq!(ids(&group).collect::<Vec<_>>(), [A], "{group}");
        }
        for group in
            [format!("0::/machine.slice/libpod-conmon-{A}.scope"), format!("0::/x{A}"), "0::/".into()]
        {
            assert_eq!(ids(&group).next(), None, "{group}");
        }
    }

    #[test]
    fn the_oldest_process_stands_for_its_container() {
        let Folder(folder) = &Folder::new();
        for (pid, group) in [(90, "libpod-"), (17, "libpod-conmon-"), (1000, "libpod-")] {
            fs::create_dir_all(folder.join(pid.to_string())).unwrap();
            fs::write(folder.join(format!("{pid}/cgroup")), format!("0::/{group}{A}.scope\n")).unwrap();
        }
        let found = by_prefix(folder, "3f2a");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(A.to_owned(), 90)]);
        assert!(by_prefix(folder, "ffff").is_empty());
    }

    #[test]
    fn a_monitor_knows_the_name_of_its_container() {
        let Folder(folder) = &Folder::new();
        for (pid, group, words) in [
            (90, format!("0::/libpod-{A}.scope"), vec!["/usr/sbin/nginx", "-n", "web", "-c", A]),
            (
                17,
                "0::/".to_owned(),
                vec![
                    "/usr/bin/conmon",
                    "--api-version",
                    "1",
                    "-c",
                    A,
                    "-u",
                    A,
                    "-n",
                    "web",
                    "--exit-command-arg",
                    "-n",
                ],
            ),
        ] {
            fs::create_dir_all(folder.join(pid.to_string())).unwrap();
            fs::write(folder.join(format!("{pid}/cgroup")), group).unwrap();
            fs::write(folder.join(format!("{pid}/cmdline")), words.join("\0")).unwrap();
        }
        assert_eq!(by_monitor(folder, "web"), Some(90));
        assert_eq!(by_monitor(folder, "we"), None);
        assert_eq!(by_monitor(folder, "-n"), None);
    }

    #[test]
    fn answers_of_engines_are_read() {
        let answer = |status: &str, body: &str| pid_in(&format!("HTTP/1.0 {status} X\r\nA: b\r\n\r\n{body}"));
        assert_eq!(answer("200", "{\"State\":{\"Pid\":71}}").unwrap(), Some(71));
        assert_eq!(answer("200", "1c\r\n{\"State\":{\"Pid\":71}}\r\n0\r\n\r\n").unwrap(), Some(71));
        assert_eq!(answer("200", "{\"State\":{\"Pid\":0}}").unwrap(), None, "it has stopped");
        assert_eq!(answer("404", "{\"message\":\"no such container\"}").unwrap(), None);
        assert!(answer("500", "{\"message\":\"broken\"}").unwrap_err().to_string().contains("broken"));
        assert!(answer("200", "hello").is_err());
    }
}
