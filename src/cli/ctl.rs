//! `faultwire ctl`: asks and changes a running instance.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::{WRONG, fail, out};
use crate::control::{Choice, Client, ClientError};

/// Options of `ctl`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
STAGE is PATH/NAME as `ctl show` prints it, as up/loss or 'left>right/delay'; the name alone will
do if only one path has it.

Examples:
  faultwire ctl show
  faultwire ctl set up/loss 'loss 5%'
  faultwire ctl add up 'delay 50ms'
  faultwire ctl pause up/loss
  faultwire ctl apply up='delay 20ms' down='delay 20ms loss 1%'

Packets that wait go on: none is lost, overtaken or decided about again because of a change.")]
pub(super) struct Ctl {
    /// Name or path of its control socket [default: that of the variable `FAULTWIRE_CONTROL`, or the only instance that runs]
    #[arg(long, value_name = "NAME|PATH", global = true)]
    pub(super) control: Option<Choice>,
    /// Print what is answered as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Subcommands of `ctl`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the instances that run
    Ls,
    /// Show paths and stages, and what they did
    Show,
    /// Change what a stage does; to which packets and when stays
    Set {
        /// Which
        #[arg(value_name = "STAGE")]
        stage: String,
        /// What it does from now on, as for `exec`
        #[arg(value_name = "SPEC")]
        spec: String,
    },
    /// Add stages to a path
    Add {
        /// Path, as up
        #[arg(value_name = "PATH")]
        path: String,
        /// What they do, as for `exec`
        #[arg(value_name = "SPEC")]
        spec: String,
        /// In front of this stage of the path [default: at the end]
        #[arg(long, value_name = "NAME")]
        before: Option<String>,
    },
    /// Remove a stage
    Rm {
        /// Which
        #[arg(value_name = "STAGE")]
        stage: String,
    },
    /// Let a stage act on nothing
    Pause {
        /// Which
        #[arg(value_name = "STAGE")]
        stage: String,
    },
    /// Let a paused stage act again
    Resume {
        /// Which
        #[arg(value_name = "STAGE")]
        stage: String,
    },
    /// Hold what comes to a path
    Freeze {
        /// Path, as up
        #[arg(value_name = "PATH")]
        path: String,
    },
    /// Let what waits in front of a frozen path go on
    Release {
        /// Path, as up
        #[arg(value_name = "PATH")]
        path: String,
    },
    /// Replace all stages of paths at once, or none
    Apply {
        /// What packets meet on a path from now on; nothing for an empty SPEC
        #[arg(value_name = "PATH=SPEC", required = true)]
        paths: Vec<String>,
    },
    /// Print what happens to packets, a line each, until Ctrl-C or the end of the run
    Watch {
        /// Kinds of events: received, held, rewritten, created, sent, dropped
        #[arg(long, value_name = "KINDS", default_value = "dropped")]
        kinds: String,
        /// Only what happens on this path
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        /// Only packets like these, in the words of `attach --match`
        #[arg(long = "match", value_name = "EXPRESSION")]
        select: Option<String>,
    },
}

/// Asks or changes an instance.
pub(super) fn ctl(args: &Ctl) -> ExitCode {
    if matches!(args.command, Command::Ls) {
        return list(args.json);
    }
    let done = Client::find(args.control.as_ref()).and_then(|client| run(args, &client));
    match done {
        Ok(text) => {
            out::print(text);
            ExitCode::SUCCESS
        }
        Err(error @ ClientError::Refused { status: 400..500, .. }) => fail(WRONG, error),
        Err(error) => fail(1, error),
    }
}

fn list(as_json: bool) -> ExitCode {
    for client in Client::all() {
        // One that ends meanwhile is none.
        let Ok(state) = client.get("/v1/state") else { continue };
        if as_json {
            out::line(json!({ "name": client.name(), "socket": client.path(), "state": state }));
        } else {
            let (command, pid, seed) = (&state["command"], &state["pid"], &state["seed"]);
            let command = command.as_str().unwrap_or("?");
            out::line(format_args!("{:<20} {command:<7} pid {pid}, seed {seed}", client.name()));
        }
    }
    ExitCode::SUCCESS
}

fn run(args: &Ctl, client: &Client) -> Result<String, ClientError> {
    let send = |method: &str, resource: &str, body: Option<&Value>| {
        let answer = client.send(method, resource, body, None)?;
        Ok(if args.json { format!("{:#}\n", answer.body) } else { String::new() })
    };
    let of = |stage: &str| resource_of(client, stage);
    match &args.command {
        Command::Ls => Ok(String::new()),
        Command::Show => show(args.json, client),
        Command::Set { stage, spec } => send("PATCH", &of(stage)?, Some(&json!({ "spec": spec }))),
        Command::Add { path, spec, before } => {
            let mut body = json!({ "spec": spec });
            if let Some(before) = before {
                body["before"] = before.as_str().into();
            }
            send("POST", &format!("/v1/paths/{}/stages", encoded(path)), Some(&body))
        }
        Command::Rm { stage } => send("DELETE", &of(stage)?, None),
        Command::Pause { stage } => send("PATCH", &of(stage)?, Some(&json!({ "paused": true }))),
        Command::Resume { stage } => send("PATCH", &of(stage)?, Some(&json!({ "paused": false }))),
        Command::Freeze { path } => freeze(&send, path, true),
        Command::Release { path } => freeze(&send, path, false),
        Command::Apply { paths } => {
            let mut body = json!({});
            for assignment in paths {
                let Some((path, spec)) = assignment.split_once('=') else {
                    let what = format!("{assignment}: write PATH=SPEC, as up='delay 20ms'");
                    return Err(ClientError::Refused { status: 400, field: String::new(), what });
                };
                body[path] = json!({ "spec": spec });
            }
            send("PUT", "/v1/paths", Some(&body))
        }
        Command::Watch { kinds, path, select } => watch(client, kinds, path.as_deref(), select.as_deref()),
    }
}

fn freeze(
    send: &impl Fn(&str, &str, Option<&Value>) -> Result<String, ClientError>,
    path: &str,
    frozen: bool,
) -> Result<String, ClientError> {
    send("PATCH", &format!("/v1/paths/{}", encoded(path)), Some(&json!({ "frozen": frozen })))
}

/// Where the stage is that is called `PATH/NAME` or `NAME`.
fn resource_of(client: &Client, stage: &str) -> Result<String, ClientError> {
    let resource = |path: &str, name: &str| format!("/v1/paths/{}/stages/{}", encoded(path), encoded(name));
    if let Some((path, name)) = stage.rsplit_once('/') {
        return Ok(resource(path, name));
    }
    let stages = client.get("/v1/stages")?;
    let stages = stages.as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let named: Vec<&Value> = stages.iter().filter(|one| one["name"] == stage).collect();
    let ids = |stages: &mut dyn Iterator<Item = &Value>| {
        stages.map(|one| text(one, "id")).collect::<Vec<_>>().join(", ")
    };
    let what = match &named[..] {
        [only] => return Ok(resource(&text(only, "path"), stage)),
        [] => format!("there is no stage {stage}; there are: {}", ids(&mut stages.iter())),
        several => format!("several stages are called {stage}: {}", ids(&mut several.iter().copied())),
    };
    Err(ClientError::Refused { status: 404, field: "stage".to_owned(), what })
}

/// What has a meaning in a URL is written by its number.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn show(as_json: bool, client: &Client) -> Result<String, ClientError> {
    let (paths, stages) = (client.get("/v1/paths")?, client.get("/v1/stages")?);
    if as_json {
        return Ok(format!("{:#}\n", json!({ "paths": paths, "stages": stages })));
    }
    let (mut text, none) = (String::new(), Vec::new());
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_else(|| none.clone());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for path in list(&paths) {
        let frozen = if path["frozen"] == true { "  (frozen)" } else { "" };
        let (name, from, to) = (word(&path["name"]), word(&path["from"]), word(&path["to"]));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {from} -> {to}{frozen}");
        for stage in list(&stages).iter().filter(|stage| stage["path"] == path["name"]) {
            let paused = if stage["paused"] == true { "  (paused)" } else { "" };
            let dropped = stage["dropped"].as_object().into_iter().flatten();
            let dropped: u64 = dropped.filter_map(|(_, amount)| amount["packets"].as_u64()).sum();
            let _ = writeln!(text, "  {:<24} {}{paused}", word(&stage["id"]), word(&stage["text"]));
            let _ = writeln!(
                text,
                "  {:<24} seen {}, acted on {}, dropped {dropped}, delayed {}",
                "", stage["seen"]["packets"], stage["acted"]["packets"], stage["delayed"]["packets"]
            );
        }
    }
    Ok(text)
}

fn watch(
    client: &Client,
    kinds: &str,
    path: Option<&str>,
    select: Option<&str>,
) -> Result<String, ClientError> {
    let mut query = format!("kinds={}", encoded(kinds));
    for (key, value) in [("path", path), ("match", select)] {
        if let Some(value) = value {
            let _ = write!(query, "&{key}={}", encoded(value));
        }
    }
    for event in client.events(&query)? {
        out::line(event?);
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_urls() {
        assert_eq!(encoded("left>right"), "left%3Eright");
        assert_eq!(encoded("a b/ü?&=#-_.~"), "a%20b%2F%C3%BC%3F%26%3D%23-_.~");
    }
}
