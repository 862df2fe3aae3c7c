//! `faultwire cni`: a chained plugin of the Container Network Interface (specification 1.0.0).
//!
//! It comes after the plugin that makes the interface, and does not change the interface. ADD starts a separate `faultwire
//! attach` for the interface, which continues after the plugin has ended. DEL ends it, and CHECK checks that it still runs. Its
//! process is recorded in a file under `/run/faultwire-cni`.

mod faults;
mod keeper;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::cni::faults::{Wanted, wanted};
use crate::cli::cni::keeper::{Keeper, Running};
use crate::cli::out;

/// Versions of the specification whose results are passed on as they are.
const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// Where records are.
const FOLDER: &str = "/run/faultwire-cni";

/// An error as the specification wants it: section "Error".
#[derive(Debug)]
struct Refusal {
    code: u16,
    message: String,
}

impl Refusal {
    /// The version is not known.
    const VERSION: u16 = 1;
    /// An environment variable is missing or wrong.
    const ENVIRONMENT: u16 = 4;
    /// Standard input is no JSON.
    const DECODE: u16 = 6;
    /// The network's configuration is wrong.
    const CONFIGURATION: u16 = 7;
    /// The faults cannot be attached, or are not attached any more.
    const FAULTS: u16 = 100;

    fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The faults could not be attached, looked for or detached.
    #[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
    fn faults(error: std::io::Error) -> Self {
        Self::new(Self::FAULTS, error.to_string())
    }
}

/// Whether this process was started as a plugin: runtimes give no arguments.
pub(super) fn is_plugin() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some()
}

/// Does what `CNI_COMMAND` says.
pub(super) fn cni() -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().take(1 << 20).read_to_string(&mut text);
    let config = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()));
    let version =
        config.as_ref().ok().and_then(|config| config["cniVersion"].as_str()).unwrap_or("1.0.0").to_owned();
    let done = config
        .map_err(|error| {
            Refusal::new(Refusal::DECODE, format!("the network's configuration on standard input: {error}"))
        })
        .and_then(|config| command(&config, &version));
    match done {
        Ok(answer) => {
            if let Some(answer) = answer {
                out::raw(format_args!("{answer}\n"));
            }
            ExitCode::SUCCESS
        }
        Err(Refusal { code, message }) => {
            out::raw(format_args!("{}\n", json!({ "cniVersion": version, "code": code, "msg": message })));
            ExitCode::FAILURE
        }
    }
}

fn command(config: &Value, version: &str) -> Result<Option<Value>, Refusal> {
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": "1.0.0", "supportedVersions": VERSIONS })));
    }
    if !VERSIONS.contains(&version) {
        let message = format!("cniVersion {version} is not supported: {}", VERSIONS.join(", "));
        return Err(Refusal::new(Refusal::VERSION, message));
    }
    let (container, device) = (variable("CNI_CONTAINERID")?, variable("CNI_IFNAME")?);
    let keeper = Keeper { record: record(Path::new(FOLDER), &container, &device)? };
    match command.as_str() {
        "ADD" => add(config, &keeper, &device).map(Some),
        "DEL" => keeper.end().map(|()| None).map_err(Refusal::faults),
        "CHECK" => check(config, &keeper).map(|()| None),
        other => Err(Refusal::new(
            Refusal::ENVIRONMENT,
            format!("CNI_COMMAND={other}: ADD, DEL, CHECK or VERSION"),
        )),
    }
}

fn add(config: &Value, keeper: &Keeper, device: &str) -> Result<Value, Refusal> {
    let Some(before) = config.get("prevResult") else {
        let message =
            "faultwire makes no interface: in \"plugins\" it stands behind one that does (bridge, ptp ...)";
        return Err(Refusal::new(Refusal::CONFIGURATION, message));
    };
    let netns = variable("CNI_NETNS")?;
    let wanted = read(config)?;
    // A repeated ADD replaces the first.
    keeper.end().map_err(Refusal::faults)?;
    if let Some(wanted) = wanted {
        keeper.start(&netns, device, &wanted).map_err(Refusal::faults)?;
    }
    Ok(before.clone())
}

fn check(config: &Value, keeper: &Keeper) -> Result<(), Refusal> {
    if read(config)?.is_none() {
        return Ok(());
    }
    match keeper.running().map_err(Refusal::faults)? {
        Running::Yes(_) => Ok(()),
        Running::Ended => {
            Err(Refusal::new(Refusal::FAULTS, "the faults are not attached any more: faultwire has ended"))
        }
        Running::Never => Err(Refusal::new(Refusal::FAULTS, "the faults were never attached")),
    }
}

fn read(config: &Value) -> Result<Option<Wanted>, Refusal> {
    wanted(config, &std::env::var("CNI_ARGS").unwrap_or_default())
        .map_err(|message| Refusal::new(Refusal::CONFIGURATION, message))
}

fn variable(name: &str) -> Result<String, Refusal> {
    std::env::var(name).map_err(|_| Refusal::new(Refusal::ENVIRONMENT, format!("{name} is not set")))
}

/// The file of an attachment. Both names become part of a path, so they must be plain.
fn record(folder: &Path, container: &str, device: &str) -> Result<PathBuf, Refusal> {
    let is_plain = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
    };
    for (name, value) in [("CNI_CONTAINERID", container), ("CNI_IFNAME", device)] {
        if !is_plain(value) {
            return Err(Refusal::new(
                Refusal::ENVIRONMENT,
                format!("{name}={value}: letters, digits, _ . -"),
            ));
        }
    }
    Ok(folder.join(format!("{container}@{device}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let folder = Path::new("/run/x");
        assert_eq!(record(folder, "abc", "eth0").unwrap(), folder.join("abc@eth0"));
        for (container, device) in [("../a", "eth0"), ("a", "../../etc"), ("", "eth0"), ("a", "")] {
            assert_eq!(record(folder, container, device).unwrap_err().code, Refusal::ENVIRONMENT);
        }
    }
}
