//! Errors of namespaces, links and sysctls.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// An operation on a namespace, a link in it or a setting of it failed; the message says which and on what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The name cannot be a file name under `/run/netns`.
    #[error(
        "\"{0}\" cannot name a network namespace: use 1 to 255 bytes without '/', and not \".\" or \"..\""
    )]
    BadName(String),
    /// The name cannot be that of a setting.
    #[error("\"{0}\" is not the name of a setting under /proc/sys/net, such as ipv4/tcp_ecn")]
    BadSetting(String),
    /// There is no such namespace.
    #[error("there is no network namespace {0}: create it first (`ip netns add NAME` makes /run/netns/NAME)")]
    NotFound(PathBuf),
    /// The file exists but is not a network namespace.
    #[error("{0} is not a network namespace")]
    NotANamespace(PathBuf),
    /// A namespace of that name exists; faultwire never takes over what it did not make.
    #[error("the network namespace {0} exists already: choose another name, or remove it if nobody uses it")]
    Exists(PathBuf),
    /// A file could not be opened, written, locked or mounted.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried: "open", "lock", …
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `unshare(2)` refused a new namespace.
    #[error("cannot make a network namespace: {0} (it needs CAP_SYS_ADMIN; see `unshare -Urn`)")]
    Create(io::Error),
    /// `setns(2)` refused.
    #[error("cannot enter the network namespace {netns}: {source}")]
    Enter {
        /// Which namespace.
        netns: String,
        /// Why not.
        source: io::Error,
    },
    /// No thread could be started to work in the namespace.
    #[error("cannot start a thread for the network namespace {netns}: {source}")]
    Thread {
        /// Which namespace.
        netns: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel has no `SO_NETNS_COOKIE` (Linux 5.14), by which a namespace is known for certain.
    #[error("cannot identify the network namespace {netns}: {source} (needs Linux 5.14)")]
    Cookie {
        /// Which namespace.
        netns: String,
        /// Why not.
        source: io::Error,
    },
    /// Netlink refused a request.
    #[error("cannot {action} in the network namespace {netns}: {source}{}", cure(source))]
    Netlink {
        /// What was tried, on which link, with which value.
        action: String,
        /// Which namespace.
        netns: String,
        /// Why not.
        source: io::Error,
    },
}

/// What to do about a refusal of netlink's.
fn cure(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EEXIST) => {
            " (the namespace has it already, and what faultwire did not make it does not replace: use another prefix, or a \
             namespace of its own with `create = true`)"
        }
        _ => "",
    }
}

impl NetError {
    /// For `map_err` after an operation on `path`.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source: source.into() }
    }
}
