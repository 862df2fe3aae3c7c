//! The target that a user names: a namespace by name or path, a process, a container, or this namespace itself.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::config::plan::{AttachTarget, NetnsRef};
use crate::net::container::{self, ContainerError};
use crate::net::process::Process;
use crate::net::{NetError, Netns};

/// How a user names a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TargetRef {
    /// The namespace in which faultwire was started.
    #[default]
    Own,
    /// A namespace's name in `/run/netns`, or the path of a namespace file.
    Netns(String),
    /// The namespace of a process.
    Pid(u32),
    /// The namespace of a container, by its name or the beginning of its ID.
    Container(String),
}

impl From<&AttachTarget> for TargetRef {
    fn from(target: &AttachTarget) -> Self {
        match target {
            AttachTarget::Netns(NetnsRef::Own) => Self::Own,
            AttachTarget::Netns(NetnsRef::Named(name)) => Self::Netns(name.clone()),
            AttachTarget::Netns(NetnsRef::Path(path)) => Self::Netns(path.display().to_string()),
            AttachTarget::Pid(pid) => Self::Pid(*pid),
            AttachTarget::Container(name) => Self::Container(name.clone()),
        }
    }
}

/// A target cannot be found or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// The process, or the container, ended while it was looked up.
    #[error("{0} has ended")]
    Ended(String),
    /// A container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A namespace.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The kernel has no `pidfd_open` (Linux 5.3).
    #[error("cannot watch process {pid}: {source}")]
    Watch {
        /// Which.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// A target that was found.
#[derive(Debug)]
pub struct Target {
    /// Its namespace.
    pub netns: Netns,
    /// How to call it in a message.
    pub label: String,
    /// It is the namespace in which faultwire itself runs.
    pub is_own: bool,
    life: Life,
}

/// How the end of a target is detected.
#[derive(Debug)]
enum Life {
    /// It outlives us.
    Forever,
    /// A process ends.
    Process(Process),
    /// The file of the namespace disappears, or becomes that of another namespace.
    File(PathBuf, u64),
}

impl Target {
    /// Finds a target.
    ///
    /// # Errors
    /// If there is none, or it cannot be entered.
    pub fn find(target: &TargetRef) -> Result<Self, TargetError> {
        match target {
            TargetRef::Own => Ok(Self {
                netns: Netns::own()?,
                label: "this host".to_owned(),
                is_own: true,
                life: Life::Forever,
            }),
            TargetRef::Netns(name) => Self::of_file(name),
            TargetRef::Pid(pid) => Self::of_process(*pid, format!("process {pid}")),
            TargetRef::Container(name) => {
                let found = container::find(name)?;
                let label = format!("container {}", found.label);
                Self::of_process(found.pid, label.clone()).map_err(|error| match error {
                    TargetError::NoProcess(_) => TargetError::Ended(label),
                    other => other,
                })
            }
        }
    }

    fn of_file(name: &str) -> Result<Self, TargetError> {
        let (netns, path) = if name.contains('/') {
            (Netns::path(name)?, PathBuf::from(name))
        } else {
            (Netns::named(name)?, Path::new("/run/netns").join(name))
        };
        let life = inode(&path).map_or(Life::Forever, |inode| Life::File(path, inode));
        Ok(Self { is_own: is_own(&netns)?, netns, label: format!("namespace {name}"), life })
    }

    fn of_process(pid: u32, label: String) -> Result<Self, TargetError> {
        let process = match Process::open(pid) {
            Ok(process) => process.ok_or(TargetError::NoProcess(pid))?,
            Err(source) => {
                // The number of a thread: EINVAL before Linux 6.15.
                let threads = [Errno::EINVAL, Errno::ENOENT].map(|errno| Some(errno as i32));
                let is_thread = threads.contains(&source.raw_os_error());
                return Err(if is_thread {
                    TargetError::NoProcess(pid)
                } else {
                    TargetError::Watch { pid, source }
                });
            }
        };
        let netns = match Netns::path(format!("/proc/{pid}/ns/net")) {
            // A process that has ended has no namespace any more, even if nobody has waited for it yet. Its number may have been given
            // to another one.
            Err(NetError::NotFound(_)) => return Err(TargetError::Ended(label)),
            Ok(_) if process.has_ended() => return Err(TargetError::Ended(label)),
            other => other?.labelled(&format!("of {label}")),
        };
        Ok(Self { is_own: is_own(&netns)?, netns, label, life: Life::Process(process) })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        match &self.life {
            Life::Forever => false,
            Life::Process(process) => process.has_ended(),
            Life::File(path, was) => inode(path) != Some(*was),
        }
    }

    /// Becomes readable when the target ends, if it is a process.
    pub fn end(&self) -> Option<BorrowedFd<'_>> {
        match &self.life {
            Life::Process(process) => Some(process.end()),
            Life::Forever | Life::File(..) => None,
        }
    }
}

fn is_own(netns: &Netns) -> Result<bool, NetError> {
    Ok(netns.cookie()? == Netns::own()?.cookie()?)
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| file.ino())
}
