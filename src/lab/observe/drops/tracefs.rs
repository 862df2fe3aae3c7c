//! An instance of the kernel's trace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::lab::observe::drops::NotTraced;

/// Where tracefs is mounted, if it is.
const TRACING: &str = "/sys/kernel/tracing";
/// Prefix of the names of our instances; the process ID and a unique number follow.
const NAME: &str = "faultwire-";

/// A separate trace, removed when dropped.
#[derive(Debug)]
pub(super) struct Instance(PathBuf);

impl Instance {
    /// Removes the instances of dead processes, and makes a new one.
    pub(super) fn make() -> Result<Self, NotTraced> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let instances = root()?.join("instances");
        sweep(&instances);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = instances.join(format!("{NAME}{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| NotTraced::closed("make an instance", &error))?;
        Ok(Self(path))
    }

    pub(super) fn read(&self, file: &str) -> Result<String, NotTraced> {
        fs::read_to_string(self.0.join(file))
            .map_err(|error| NotTraced::closed(format!("read {file}"), &error))
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Result<(), NotTraced> {
        fs::write(self.0.join(file), text).map_err(|error| NotTraced::closed(format!("write {file}"), &error))
    }

    /// The events as text, each read once; a read never waits.
    pub(super) fn pipe(&self) -> Result<File, NotTraced> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.0.join("trace_pipe"))
            .map_err(|error| NotTraced::closed("open trace_pipe", &error))
    }

    /// Events overwritten before they were read.
    pub(super) fn lost(&self) -> Result<u64, NotTraced> {
        let closed = |error| NotTraced::closed("read per_cpu", &error);
        let mut lost = 0;
        for cpu in self.0.join("per_cpu").read_dir().map_err(closed)?.flatten() {
            let stats = fs::read_to_string(cpu.path().join("stats")).map_err(closed)?;
            let overrun = stats.lines().find_map(|line| line.strip_prefix("overrun: "));
            lost += overrun.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(lost)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Refused while the pipe is open: the next start sweeps it then.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the instances of processes that are gone. One in use is refused by the kernel: its owner holds its pipe open.
fn sweep(instances: &Path) {
    for entry in instances.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The root of tracefs: where it is mounted, or a mount that only this process sees.
fn root() -> Result<PathBuf, NotTraced> {
    static OURS: OnceLock<Result<OwnedFd, NotTraced>> = OnceLock::new();
    let mounted = Path::new(TRACING);
    if mounted.join("instances").exists() {
        return Ok(mounted.to_owned());
    }
    let fd = OURS.get_or_init(|| {
        // The mount is made in a mount namespace of a thread that ends at once; the descriptor alone keeps it.
        std::thread::scope(|scope| {
            let thread = scope.spawn(mount_apart);
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
        .map_err(|error| NotTraced::closed("mount tracefs", &error))
    });
    fd.as_ref().map(|fd| Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())).map_err(Clone::clone)
}

fn mount_apart() -> io::Result<OwnedFd> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    mount(Some("tracefs"), TRACING, Some("tracefs"), MsFlags::empty(), NOTHING)?;
    Ok(File::open(TRACING)?.into())
}
