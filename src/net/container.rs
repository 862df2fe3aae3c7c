//! Finds containers. Names are looked up in the monitors of podman and CRI-O, or asked from the engine's socket (Docker's HTTP
//! API, which podman serves too). The beginning of an ID is found in the control groups of processes, whatever engine runs them. A name
//! comes first: it may look like the beginning of another container's ID.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Sockets that engines listen on.
const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/podman/podman.sock", "/run/docker.sock"];
/// Sockets of engines whose containers are found by their ID alone, without asking.
const BY_ID: [&str; 2] = ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];
/// Bytes of an ID in messages, as engines show it.
const SHOWN: usize = 12;
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
        "there is no running container {name:?}: no monitor (conmon) has that name, {asked}, and no control group of a process has \
         an ID that begins so, with {SHORTEST} digits or more (`docker ps` or `podman ps` shows names and IDs; --pid takes the process \
         ID of any process inside)"
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The answers of the engines.
        asked: String,
    },
    /// The name of several, or the beginning of several IDs.
    #[error(
        "several running containers are called {name:?} or have an ID that begins so: {ids} (give more of the ID)"
    )]
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
    let one = |found: BTreeMap<String, u32>| {
        if found.len() > 1 {
            let ids: Vec<_> = found.keys().map(|id| &id[..SHOWN]).collect();
            return Err(ContainerError::Ambiguous { name: name.to_owned(), ids: ids.join(", ") });
        }
        Ok(found.into_iter().next())
    };
    let named = |pid| Container { pid, label: name.to_owned() };
    if let Some((_, pid)) = one(by_monitor(Path::new("/proc"), name))? {
        return Ok(named(pid));
    }
    let (mut asked, mut by_engine) = (Vec::new(), None);
    for socket in sockets() {
        match ask(&socket, name) {
            Ok(Some(answer)) if answer.name == name => return Ok(named(answer.pid)),
            Ok(Some(answer)) => by_engine = by_engine.or(Some(answer.pid)),
            Ok(None) => asked.push(format!("{} does not run it", socket.display())),
            Err(error) => asked.push(format!("{} says: {error}", socket.display())),
        }
    }
    let is_id =
        name.len() >= SHORTEST && name.len() <= ID && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id && let Some((id, pid)) = one(by_prefix(Path::new("/proc"), &name.to_lowercase()))? {
        return Ok(Container { pid, label: id[..SHOWN].to_owned() });
    }
    // What the engine takes for the beginning of an ID, with fewer digits.
    if let Some(pid) = by_engine {
        return Ok(named(pid));
    }
    if asked.is_empty() {
        asked.push("no socket of a container engine was found to look up names".to_owned());
    }
    Err(ContainerError::NotFound { name: name.to_owned(), asked: asked.join(", ") })
}

/// Container engines that run here, and how they are asked for containers; empty if there is none.
pub fn engines() -> Vec<String> {
    let sockets = sockets().into_iter().map(|socket| format!("{} (names and IDs)", socket.display()));
    let monitors = monitors(Path::new("/proc")).count();
    let monitors =
        (monitors > 0).then(|| format!("{monitors} container(s) of podman or CRI-O (names and IDs)"));
    let by_id = BY_ID.iter().filter(|socket| Path::new(socket).exists());
    sockets.chain(monitors).chain(by_id.map(|socket| format!("{socket} (IDs)"))).collect()
}

/// Engines' sockets that exist.
fn sockets() -> Vec<PathBuf> {
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

/// The running containers of this name, as their monitors know it, each with its process.
fn by_monitor(proc: &Path, name: &str) -> BTreeMap<String, u32> {
    let ids = monitors(proc).filter(|(of, _)| of == name.as_bytes()).map(|(_, id)| id);
    ids.flat_map(|id| by_prefix(proc, &id)).collect()
}

/// Names and IDs in the monitors. podman and CRI-O start a `conmon` for each container, with both in its command line, so no service
/// has to be asked.
fn monitors(proc: &Path) -> impl Iterator<Item = (Vec<u8>, String)> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    processes.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let after = |option: &[u8]| words.windows(2).find(|two| two[0] == option).map(|two| two[1]);
        let (name, id) = (after(b"-n")?, after(b"-c")?);
        let is_monitor = words.first()?.ends_with(b"conmon") && id.len() == ID;
        is_monitor.then(|| (name.to_owned(), String::from_utf8_lossy(id).into_owned()))
    })
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
/// the container's. A container inside of another one (`/docker/ID/docker/ID`) is the last in the path.
fn ids(groups: &str) -> impl Iterator<Item = &str> {
    let id = |part: &'_ str| -> Option<usize> {
        let id = part.get(part.len().checked_sub(ID)?..)?;
        let before = part.len() - ID;
        let is_bounded = before == 0 || part.as_bytes()[before - 1] == b'-';
        let is_id = is_bounded && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && !part.contains("conmon");
        is_id.then_some(before)
    };
    groups.lines().filter_map(move |line| {
        let mut parts = line.rsplit('/').map(|part| part.strip_suffix(".scope").unwrap_or(part));
        parts.find_map(|part| id(part).map(|at| &part[at..]))
    })
}

/// A container as an engine knows it.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    name: String,
    pid: u32,
}

/// Asks an engine for a container; `None` if it does not run one of that name, and none whose ID begins so.
fn ask(socket: &Path, name: &str) -> io::Result<Option<Answer>> {
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
    read(&String::from_utf8_lossy(&answer))
}

/// The container in an engine's answer.
fn read(answer: &str) -> io::Result<Option<Answer>> {
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
    // Docker writes a slash before it.
    let name = value["Name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    Ok((pid > 0).then_some(Answer { name, pid }))
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
        let inside = A.replace('3', "4");
        let group = format!("0::/docker/{A}/kubepods/pod7/cri-containerd-{inside}.scope");
        assert_eq!(ids(&group).collect::<Vec<_>>(), [inside], "a container in a container");
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
        assert_eq!(by_monitor(folder, "web").into_iter().collect::<Vec<_>>(), [(A.to_owned(), 90)]);
        assert!(by_monitor(folder, "we").is_empty());
        assert!(by_monitor(folder, "-n").is_empty());
        assert_eq!(monitors(folder).collect::<Vec<_>>(), [(b"web".to_vec(), A.to_owned())]);
    }

    #[test]
    fn answers_of_engines_are_read() {
        let answer = |status: &str, body: &str| read(&format!("HTTP/1.0 {status} X\r\nA: b\r\n\r\n{body}"));
        let web = || Some(Answer { name: "web".to_owned(), pid: 71 });
        assert_eq!(answer("200", "{\"State\":{\"Pid\":71},\"Name\":\"/web\"}").unwrap(), web());
        let chunks = "1c\r\n{\"State\":{\"Pid\":71},\"Name\":\"web\"}\r\n0\r\n\r\n";
        assert_eq!(answer("200", chunks).unwrap(), web());
        assert_eq!(answer("200", "{\"State\":{\"Pid\":0}}").unwrap(), None, "it has stopped");
        assert_eq!(answer("404", "{\"message\":\"no such container\"}").unwrap(), None);
        assert!(answer("500", "{\"message\":\"broken\"}").unwrap_err().to_string().contains("broken"));
        assert!(answer("200", "hello").is_err());
    }
}
