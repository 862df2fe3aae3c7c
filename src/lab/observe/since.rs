//! Observations that some supported kernels do not offer, and the version that introduced each.

use crate::lab::value::Observations;

/// Counters newer than Linux 5.15 that cases use, and the version that introduced each.
const COUNTERS: [(&str, (u32, u32)); 1] = [("TcpExt.PAWSTimewait", (6, 15))];

/// Why `observed` has no value for `name`, if only this kernel's version is the cause.
pub fn why_missing(name: &str, observed: &Observations) -> Option<String> {
    if let Some(listener) = name.strip_suffix(".limit").filter(|name| name.starts_with("socket.")) {
        // The listener itself was found: /proc/net/tcp shows how many connections wait, but not how many may.
        let there = observed.value(&format!("{listener}.waiting")).is_some();
        return there.then(|| "this kernel has no sock_diag for TCP".to_owned());
    }
    let (_, counter) = name.strip_prefix("kernel.")?.split_once('.')?;
    missing_counter(counter)
}

fn missing_counter(name: &str) -> Option<String> {
    let (_, since) = COUNTERS.iter().find(|(counter, _)| *counter == name)?;
    let release = nix::sys::utsname::uname().ok()?;
    let running = version(release.release().to_str()?)?;
    too_old(name, *since, running)
}

fn too_old(name: &str, since: (u32, u32), running: (u32, u32)) -> Option<String> {
    let text = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let why = || format!("Linux {} has no {name} (needs Linux {})", text(running), text(since));
    (running < since).then(why)
}

/// `6.18.44-something`: the first two numbers.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_kernel_is_excused() {
        let why = too_old("TcpExt.PAWSTimewait", (6, 15), version("5.15.0-91-generic").unwrap());
        assert_eq!(why.unwrap(), "Linux 5.15 has no TcpExt.PAWSTimewait (needs Linux 6.15)");
        assert_eq!(too_old("TcpExt.PAWSTimewait", (6, 15), version("6.15.1").unwrap()), None);
        let nothing = Observations::default();
        assert_eq!(why_missing("kernel.server.TcpExt.NoSuchCounter", &nothing), None);
    }
}
