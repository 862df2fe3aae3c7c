//! A network namespace as an open file descriptor.
//!
//! A namespace lives as long as a process, a file descriptor or a mount refers to it. Holding the descriptor is thus
//! both the handle and the lifetime: an anonymous namespace is gone with its last clone, even after SIGKILL.

#![expect(unsafe_code, reason = "nix has no SO_NETNS_COOKIE and no way to add a socket option")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::{panic, thread};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::net::defaults::{self, Refused};
use crate::net::error::NetError;
use crate::net::link;
use crate::net::named::{self, NamedNetns};
use crate::net::sysctl;

/// The namespace of the thread that reads it.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// `SO_NETNS_COOKIE` of `asm-generic/socket.h` (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A network namespace, kept open. Clones refer to the same namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    label: Arc<str>,
    /// Settings of [`defaults`] that the kernel did not take.
    refused: Arc<[Refused]>,
    /// Congestion control that routes made here name.
    congestion_control: Option<&'static str>,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn own() -> Result<Self, NetError> {
        Self::open(Path::new(OF_THIS_THREAD), "of this process")
    }

    /// The namespace `/run/netns/NAME`, as `ip netns add NAME` makes it.
    ///
    /// # Errors
    /// If there is none, or it cannot be entered.
    pub fn named(name: &str) -> Result<Self, NetError> {
        let path = named::path_of(name)?;
        let netns = Self::open(&path, name)?;
        netns.probe(&path)?;
        Ok(netns)
    }

    /// The namespace at a path such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    ///
    /// # Errors
    /// If there is none, or it cannot be entered.
    pub fn path(path: impl AsRef<Path>) -> Result<Self, NetError> {
        let path = path.as_ref();
        let netns = Self::open(path, &path.display().to_string())?;
        netns.probe(path)?;
        Ok(netns)
    }

    /// A new namespace without a name, its `lo` up, with the settings of [`defaults`]. It is gone with the last clone,
    /// process and socket in it.
    ///
    /// # Errors
    /// If the process may not make one.
    pub fn anonymous() -> Result<Self, NetError> {
        on_thread("anonymous", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetError::Create(e.into()))?;
            // Before there is any device but `lo`: later ones start with what is the default then.
            let refused = defaults::apply()?.into();
            let netns = Self { refused, ..Self::open(Path::new(OF_THIS_THREAD), "anonymous")? };
            link::up_here(netns.label(), "lo")?;
            Ok(netns)
        })
    }

    /// As [`Self::anonymous`], for devices alone: with the kernel's own settings, `lo` down, and no IPv6 on the devices.
    ///
    /// # Errors
    /// If the process may not make one.
    pub fn of_devices(label: &str) -> Result<Self, NetError> {
        on_thread(label, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetError::Create(e.into()))?;
            sysctl::write_here_if_there("ipv6/conf/default/disable_ipv6", "1")?;
            Self::open(Path::new(OF_THIS_THREAD), label)
        })
    }

    /// A new namespace at `/run/netns/NAME`, its `lo` up, removed when the returned owner is dropped.
    ///
    /// # Errors
    /// If the name is taken or the process may not mount there.
    pub fn create_named(name: &str) -> Result<NamedNetns, NetError> {
        NamedNetns::create(name)
    }

    /// Runs `work` inside the namespace, on a thread made for it: the calling thread never changes its namespace.
    ///
    /// What `work` opens there (sockets, devices) stays in the namespace. A panic of `work` is passed on.
    ///
    /// # Errors
    /// If the namespace cannot be entered: that needs `CAP_SYS_ADMIN`, except for the namespace one is in.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, NetError> {
        on_thread(&self.label, || {
            self.enter()?;
            Ok(work())
        })
    }

    /// As [`Netns::run`], but the thread does not end before the second part of the result is dropped: what concerns the thread that
    /// started a process (`PR_SET_PDEATHSIG`) then concerns this one.
    ///
    /// # Errors
    /// As [`Netns::run`].
    pub fn run_and_stay<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<(R, Stay), NetError> {
        let (give, take) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let netns = self.clone();
        let stay = move || {
            // The caller waits for the result.
            let _ = give.send(netns.enter().map(|()| work()));
            let _ = ends.recv();
        };
        let broken = |source| NetError::Thread { netns: self.label.to_string(), source };
        thread::Builder::new().name("netns".to_owned()).spawn(stay).map_err(broken)?;
        let done = take.recv().map_err(|_| broken(io::Error::other("it panicked")))??;
        Ok((done, Stay(end)))
    }

    /// The name of this namespace in messages: its name or path, or "of this process" or "anonymous".
    pub fn label(&self) -> &str {
        &self.label
    }

    /// An identity that no other namespace has or will have until the next boot.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the kernel is older than Linux 5.14.
    pub fn cookie(&self) -> Result<u64, NetError> {
        let read = || {
            let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            cookie_of(any.as_fd())
        };
        self.run(read)?.map_err(|e| NetError::Cookie { netns: self.label.to_string(), source: e.into() })
    }

    /// The number of the file that stands for it (`/proc/PID/ns/net`): unique among namespaces that live at the same time.
    ///
    /// # Errors
    /// Never with the descriptors that there are.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(self.as_fd())?.st_ino)
    }

    /// What the kernel refused of the settings of a namespace that was made here; empty for all others.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The same namespace; routes that [`link::configure`] makes in it name this congestion control.
    ///
    /// A host can refuse one as the default of a namespace (`net.ipv4.tcp_allowed_congestion_control`), but not as that
    /// of a route. Programs' own choices have no effect then.
    #[must_use]
    pub fn with_congestion_control(self, name: &'static str) -> Self {
        Self { congestion_control: Some(name), ..self }
    }

    /// Whether its routes name a congestion control.
    pub fn names_congestion_control(&self) -> bool {
        self.congestion_control.is_some()
    }

    /// See [`Self::with_congestion_control`].
    pub(super) fn congestion_control(&self) -> Option<&'static str> {
        self.congestion_control
    }

    /// The same namespace with another name in messages.
    pub(crate) fn labelled(self, label: &str) -> Self {
        Self { label: label.into(), ..self }
    }

    fn open(path: &Path, label: &str) -> Result<Self, NetError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetError::NotFound(path.to_owned()),
            _ => NetError::File { action: "open", path: path.to_owned(), source },
        })?;
        Ok(Self {
            fd: Arc::new(file.into()),
            label: label.into(),
            refused: Arc::new([]),
            congestion_control: None,
        })
    }

    /// Enters the namespace once, so that a wrong file or a missing privilege is reported early and with its path.
    fn probe(&self, path: &Path) -> Result<(), NetError> {
        match self.run(|| ()) {
            Err(NetError::Enter { source, .. }) if source.raw_os_error() == Some(Errno::EINVAL as i32) => {
                Err(NetError::NotANamespace(path.to_owned()))
            }
            other => other,
        }
    }

    /// Moves the calling thread into the namespace. Entering the one it is in already needs no privilege.
    fn enter(&self) -> Result<(), NetError> {
        let here = Self::own()?;
        if identity(self.as_fd()).is_some_and(|id| identity(here.as_fd()) == Some(id)) {
            return Ok(());
        }
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|e| NetError::Enter { netns: self.label.to_string(), source: e.into() })
    }
}

/// Keeps the thread of [`Netns::run_and_stay`].
#[derive(Debug)]
pub struct Stay(#[expect(dead_code, reason = "the thread ends with it")] mpsc::Sender<()>);

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Device and inode: unique among namespaces that live at the same time.
fn identity(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let stat = nix::sys::stat::fstat(fd).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// The cookie of the namespace that a socket is in.
fn cookie_of(socket: BorrowedFd<'_>) -> nix::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the kernel writes at most `length` bytes to `cookie`, and both live through the
    // call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| cookie)
}

/// Runs `work` on a short-lived thread, whose namespace no other thread shares.
fn on_thread<R: Send>(label: &str, work: impl FnOnce() -> Result<R, NetError> + Send) -> Result<R, NetError> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| NetError::Thread { netns: label.to_owned(), source })?;
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
