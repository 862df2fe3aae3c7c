//! The Unix socket: its path, its permissions, and the removal of sockets of killed instances.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Pid, geteuid};

/// The ending of the names of sockets.
pub(super) const ENDING: &str = ".sock";
/// The ending of the names of token files beside them.
const TOKEN: &str = ".token";
/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The socket cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// There is no folder for sockets with a name.
    #[error(
        "there is no folder for control sockets: XDG_RUNTIME_DIR is not set; give a path (--control ./faultwire.sock)"
    )]
    NoFolder,
    /// Other users can write to the folder.
    #[error("{0} cannot hold control sockets: {1}")]
    Folder(PathBuf, String),
    /// Something is at the path.
    #[error("{path}: {what}")]
    Taken {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: String,
    },
    /// The system refused it.
    #[error("cannot make the control socket {path}: {source}")]
    Refused {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Which socket is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// None.
    None,
    /// In this user's folder, with this name.
    Name(String),
    /// At this path.
    Path(PathBuf),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        match text {
            "none" => Ok(Self::None),
            _ if text.contains('/') => Ok(Self::Path(text.into())),
            _ if !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain) => {
                Ok(Self::Name(text.to_owned()))
            }
            _ => Err("it is a name of letters, digits, - _ . or a path with a /, or none".to_owned()),
        }
    }
}

impl Choice {
    /// The path of the socket; `None` if no socket is requested.
    ///
    /// # Errors
    /// If there is no folder for a name.
    pub fn path(&self) -> Result<Option<PathBuf>, SocketError> {
        match self {
            Self::None => Ok(None),
            Self::Path(path) => Ok(Some(path.clone())),
            Self::Name(name) => {
                let folder = folder().ok_or(SocketError::NoFolder)?;
                Ok(Some(folder.join(format!("{name}{ENDING}"))))
            }
        }
    }
}

/// The folder of this user's sockets: `/run/faultwire` for root, otherwise `$XDG_RUNTIME_DIR/faultwire`.
pub fn folder() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/run/faultwire".into());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    runtime.map(|folder| Path::new(&folder).join("faultwire"))
}

/// A listening socket. When it is dropped, its file is removed.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Socket {
    pub(super) fn open(choice: &Choice) -> Result<Option<Self>, SocketError> {
        let Some(path) = choice.path()? else { return Ok(None) };
        if let (Choice::Name(_), Some(folder)) = (choice, path.parent()) {
            own_folder(folder)?;
            sweep(folder);
        }
        make_way(&path)?;
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => {
                let what = "something else was made there just now".to_owned();
                SocketError::Taken { path: path.clone(), what }
            }
            _ => SocketError::Refused { path: path.clone(), source },
        };
        let listener = listen_at(&path).map_err(refused)?;
        let found = fs::symlink_metadata(&path).map_err(refused)?;
        Ok(Some(Self { listener, identity: (found.dev(), found.ino()), path }))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If another file is at the path now, it is not removed.
        let is_own = |found: Metadata| (found.dev(), found.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The token file of a socket: the socket's path with another ending, so that no two sockets share one.
pub(super) fn beside(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(TOKEN);
    name.into()
}

/// Creates the folder, and checks that no other user can write to it.
fn own_folder(folder: &Path) -> Result<(), SocketError> {
    let refused = |what: String| SocketError::Folder(folder.to_owned(), what);
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(refused(format!("it cannot be made: {error}"))),
    }
    let found = match fs::symlink_metadata(folder) {
        Ok(found) => found,
        // It has just been removed: binding will tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error.to_string())),
    };
    if !found.is_dir() {
        return Err(refused("it is no folder".to_owned()));
    }
    if found.uid() != geteuid().as_raw() {
        return Err(refused("it belongs to somebody else".to_owned()));
    }
    if found.permissions().mode() & 0o022 != 0 {
        return Err(refused("others may write into it; chmod it to 0700".to_owned()));
    }
    Ok(())
}

/// Removes the sockets that killed instances left. Such a socket has the number of a process that has ended as its
/// name, and no process listens on it. A process of another PID namespace seems to have ended too, but it listens.
fn sweep(folder: &Path) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(ENDING)?.parse().ok());
        let is_gone = |pid: i32| pid > 0 && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH);
        let is_socket = |found: Metadata| found.file_type().is_socket();
        if name.is_some_and(is_gone)
            && fs::symlink_metadata(&path).is_ok_and(is_socket)
            && UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            // Another instance may have removed it at the same time.
            let _ = fs::remove_file(beside(&path));
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the socket of a killed instance; anything else at the path is an error.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let taken = |what: &str| SocketError::Taken { path: path.to_owned(), what: what.to_owned() };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Refused { path: path.to_owned(), source }),
    };
    if found.is_symlink() {
        return Err(taken("a symbolic link is there, which a control socket does not follow"));
    }
    if !found.file_type().is_socket() {
        return Err(taken("something is there already that is no socket"));
    }
    if found.uid() != geteuid().as_raw() {
        return Err(taken("a socket of somebody else is there"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| SocketError::Refused { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(taken("a running program listens there; give another name (--control NAME)")),
    }
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Set before the file exists, so that it never has another mode.
    fchmod(fd.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::folder::Folder;

    fn open(folder: &Folder, name: &str) -> Result<Socket, SocketError> {
        Socket::open(&Choice::Path(folder.file(name))).map(Option::unwrap)
    }

    #[test]
    fn only_the_owner_may_connect_and_nothing_is_left() {
        let folder = Folder::new();
        let socket = open(&folder, "a").unwrap();
        let path = socket.path.clone();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_exists_is_refused_and_stays() {
        let folder = Folder::new();
        let path = |name: &str| folder.file(name);
        fs::write(path("file"), "x").unwrap();
        symlink(path("nowhere"), path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let running = open(&folder, "running").unwrap();
        for (name, words) in [
            ("file", "no socket"),
            ("link", "symbolic link"),
            ("folder", "no socket"),
            ("running", "listens"),
        ] {
            let error = open(&folder, name).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(fs::symlink_metadata(path(name)).is_ok());
        }
        assert_eq!(fs::read(path("file")).unwrap(), b"x");
        drop(running);
        let error = open(&folder, "no/such").unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn the_socket_of_a_killed_instance_is_taken_over() {
        let folder = Folder::new();
        let mut socket = open(&folder, "a").unwrap();
        // As SIGKILL does: nobody listens any more, and the file stays.
        let path = std::mem::replace(&mut socket.path, folder.file("elsewhere"));
        drop(socket);
        assert!(path.exists());
        let again = open(&folder, "a").unwrap();
        assert!(UnixStream::connect(&again.path).is_ok());
    }

    /// Somebody else's file at the path is not taken away at the end.
    #[test]
    fn only_the_own_socket_is_removed() {
        let folder = Folder::new();
        let socket = open(&folder, "a").unwrap();
        let path = socket.path.clone();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn folders_of_others_are_refused() {
        let folder = Folder::new();
        let path = folder.file("sockets");
        own_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own_folder(&path).unwrap_err().to_string().contains("chmod"));
        let link = folder.file("link");
        symlink(&path, &link).unwrap();
        assert!(own_folder(&link).unwrap_err().to_string().contains("no folder"));
    }

    /// Those of processes that run, those of other PID namespaces at which somebody listens, those of names and what is no socket
    /// stay.
    #[test]
    fn only_sockets_of_processes_that_are_gone_are_swept() {
        let folder = Folder::new();
        // No process has so large a number (PID_MAX_LIMIT is 2^22).
        let gone = folder.file("4194999.sock");
        drop(UnixListener::bind(&gone).unwrap());
        let (far, named) = (open(&folder, "4194997.sock").unwrap(), open(&folder, "name.sock").unwrap());
        let own = open(&folder, &format!("{}.sock", std::process::id())).unwrap();
        fs::write(folder.file("4194998.sock"), "x").unwrap();
        sweep(&folder.0);
        assert!(!gone.exists());
        let stay = [&far.path, &named.path, &own.path, &folder.file("4194998.sock")];
        assert!(stay.iter().all(|path| path.exists()));
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        assert_eq!("none".parse(), Ok(Choice::None));
        assert_eq!("web-1".parse(), Ok(Choice::Name("web-1".into())));
        assert_eq!("./a".parse(), Ok(Choice::Path("./a".into())));
        for wrong in ["", ".", ".hidden", "a b", "a\n"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong:?}");
        }
    }
}
