//! Settings under `/proc/sys/net`: each namespace has its own, seen by the threads inside it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::net::error::NetError;
use crate::net::netns::Netns;

/// Sets `/proc/sys/net/KEY` in the namespace, e.g. `ipv4/tcp_mtu_probing` to `"1"`.
///
/// # Errors
/// If there is no such setting in the namespace, it may not be written, or the value is refused.
pub fn write(netns: &Netns, key: &str, value: &str) -> Result<(), NetError> {
    let path = path_of(key);
    netns.run(|| fs::write(&path, value))?.map_err(NetError::file("write", &path))
}

/// Reads `/proc/sys/net/KEY` in the namespace, without the newline.
///
/// # Errors
/// If there is no such setting in the namespace.
pub fn read(netns: &Netns, key: &str) -> Result<String, NetError> {
    let path = path_of(key);
    let text = netns.run(|| fs::read_to_string(&path))?.map_err(NetError::file("read", &path))?;
    Ok(text.trim_end().to_owned())
}

fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}
