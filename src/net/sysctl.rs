//! Settings under `/proc/sys/net`: each namespace has its own, seen by the threads inside it.
//!
//! A key is a name, not a path: a key that leads out of `/proc/sys/net` is refused before anything is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::net::error::NetError;
use crate::net::netns::Netns;

/// Where they are.
const ROOT: &str = "/proc/sys/net";

/// Sets `/proc/sys/net/KEY` in the namespace, e.g. `ipv4/tcp_mtu_probing` to `"1"`.
///
/// # Errors
/// If the key is no name, there is no such setting in the namespace, it may not be written, or the value is refused.
pub fn write(netns: &Netns, key: &str, value: &str) -> Result<(), NetError> {
    let path = path_of(key)?;
    netns.run(|| fs::write(&path, value))?.map_err(NetError::file("write", &path))
}

/// As [`write`], in the namespace of the calling thread; nothing where there is no such setting, as in a kernel without IPv6.
pub(super) fn write_here_if_there(key: &str, value: &str) -> Result<(), NetError> {
    let path = path_of(key)?;
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(NetError::file("write", path)),
    }
}

/// Reads `/proc/sys/net/KEY` in the namespace, without the newline.
///
/// # Errors
/// If the key is no name, or there is no such setting in the namespace.
pub fn read(netns: &Netns, key: &str) -> Result<String, NetError> {
    let path = path_of(key)?;
    let text = netns.run(|| fs::read_to_string(&path))?.map_err(NetError::file("read", &path))?;
    Ok(text.trim_end().to_owned())
}

/// The key of a setting that is written as `sysctl(8)` writes it: `net.ipv4.tcp_syn_retries` is
/// `ipv4/tcp_syn_retries`. `None` if it is not the name of a setting of a network namespace: `net.` and at least one
/// more word, of letters, digits, `_` and `-`, with one dot between words.
pub fn key_of(name: &str) -> Option<String> {
    let word = |word: &str| {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        !word.is_empty() && word.chars().all(fits)
    };
    let words = name.strip_prefix("net.")?;
    words.split('.').all(word).then(|| words.replace('.', "/"))
}

/// The name of a key as `sysctl(8)` writes it.
pub(crate) fn dotted(key: &str) -> String {
    format!("net.{}", key.replace('/', "."))
}

/// The file of a key.
pub(super) fn path_of(key: &str) -> Result<PathBuf, NetError> {
    // A device may have a dot in its name, and is one component then.
    let component = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if key.split('/').all(component) {
        Ok(Path::new(ROOT).join(key))
    } else {
        Err(NetError::BadSetting(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_name_and_never_a_path() {
        assert_eq!(key_of("net.ipv4.tcp_syn_retries").as_deref(), Some("ipv4/tcp_syn_retries"));
        assert_eq!(
            key_of("net.ipv4.conf.fw-client.rp_filter").as_deref(),
            Some("ipv4/conf/fw-client/rp_filter")
        );
        for name in [
            "",
            "net",
            "net.",
            "net..ipv4",
            "net.ipv4.",
            "net./tmp/victim",
            "net.ipv4/tcp_ecn",
            "net.ipv4.../../../tmp/victim",
            "net.\u{2024}",
            "net.ipv4.tcp ecn",
            "net.ipv4.tcp_ecn\0",
            "kernel.hostname",
            "NET.ipv4.tcp_ecn",
        ] {
            assert_eq!(key_of(name), None, "{name:?}");
        }
    }

    #[test]
    fn no_file_outside_of_the_folder_is_opened() {
        for key in
            ["", "/etc/passwd", "../kernel/hostname", "ipv4/../../kernel/hostname", "ipv4//x", "ipv4/."]
        {
            assert!(matches!(path_of(key), Err(NetError::BadSetting(_))), "{key:?}");
        }
        assert_eq!(path_of("ipv6/conf/eth0.7/mtu").unwrap(), Path::new("/proc/sys/net/ipv6/conf/eth0.7/mtu"));
    }
}
