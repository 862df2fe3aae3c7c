//! `faultwire ctl`: asks and changes a running instance.

mod change;

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

pub(super) use crate::cli::ctl::change::{Change, words};
use crate::cli::ctl::change::{Request, encoded};
use crate::cli::json::{self, Json};
use crate::cli::whom::Whom;
use crate::cli::{WRONG, completions, fail, out, reasons};
use crate::control::{Client, ClientError};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    /// Nobody was there to be asked, or said no.
    #[error(transparent)]
    Asked(#[from] ClientError),
    /// Nobody was asked: what is wanted makes no sense, or a file cannot be read.
    #[error("{0}")]
    Wrong(String),
    /// What there is to say cannot be written.
    #[error("{0}")]
    Unsaid(String),
}

/// Options of `ctl`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
STAGE is PATH/NAME as `ctl show` prints it, as up/netem or 'left>right/delay';
the name alone will do if only one path has it. Faults in tc-netem's words are
one stage, netem.

Examples:
  faultwire ctl show
  faultwire ctl set up/netem loss=5%
  faultwire ctl set up/netem 'loss 5% 25%'
  faultwire ctl add up 'delay 50ms'
  faultwire ctl pause up/netem
  faultwire ctl apply up='delay 20ms' down='delay 20ms loss 1%'
  faultwire ctl apply slower.toml
  faultwire ctl at +10s pause up/netem
  faultwire ctl mark 'the deployment begins'

Packets that wait go on: none is lost, overtaken or decided about again because
of a change.")]
pub(super) struct Ctl {
    #[command(flatten)]
    pub(super) whom: Whom,
    #[command(flatten)]
    pub(super) json: Json,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Subcommands of `ctl`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the running instances, or only the one of --control
    Ls,
    /// Show paths and stages, and what they did
    Show,
    #[command(flatten)]
    Change(Change),
    /// Let the instance carry out a change later
    At {
        /// When: +10s is ten seconds from now, 10s ten seconds after the start of the run
        #[arg(value_name = "TIME")]
        time: String,
        /// The change
        #[command(subcommand)]
        change: Change,
    },
    /// List the flows that the instance knows, those with the most packets first
    Flows {
        /// Maximum number of flows, 1 to 1000
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
    /// List the scheduled changes: those that wait, and what came of the latest
    Schedule,
    /// Cancel a scheduled change
    Cancel {
        /// Its number, as `ctl schedule` prints it
        #[arg(value_name = "NUMBER")]
        number: u64,
    },
    /// Print what happens to packets and what is done to the run, a line each, until Ctrl-C or the end of the run
    Watch {
        /// Kinds of events, with commas: received, held, released, rewritten, created, sent, dropped, changed, marked, failed
        #[arg(long, value_name = "KINDS", default_value = "dropped,changed,marked,failed")]
        kinds: String,
        /// Only what happens on this path
        #[arg(long, value_name = "PATH", add = completions::of_paths())]
        path: Option<String>,
        /// Only packets that match, in the grammar of `attach --match`
        #[arg(long = "match", value_name = "EXPRESSION")]
        select: Option<String>,
    },
}

/// Asks or changes an instance.
pub(super) fn ctl(args: &Ctl) -> ExitCode {
    if matches!(args.command, Command::Ls) {
        return list(args);
    }
    let mut answer = json!({});
    let done = args.whom.client().map_err(CtlError::from).and_then(|client| run(args, &client, &mut answer));
    if done.is_ok()
        && !matches!(args.command, Command::Watch { .. })
        && let Err(error) = json::result(answer)
    {
        return fail(1, reasons(&error));
    }
    match done {
        Ok(text) => {
            if !args.json.is_on_stdout() {
                out::print(text);
            }
            ExitCode::SUCCESS
        }
        Err(
            error @ (CtlError::Wrong(_)
            | CtlError::Asked(ClientError::Refused { status: 400..500, .. } | ClientError::Unclear(_))),
        ) => fail(WRONG, error),
        Err(error) => fail(1, error),
    }
}

/// Lists all instances, or the one that `--control` names.
fn list(args: &Ctl) -> ExitCode {
    let (whom, json) = (&args.whom, &args.json);
    let is_named = whom.control.is_some() || whom.token_file.is_some();
    let clients = if is_named { whom.client().map(|client| vec![client]) } else { Ok(Client::all()) };
    let clients = match clients {
        Ok(clients) => clients,
        Err(error) => return fail(WRONG, error),
    };
    let mut instances = Vec::new();
    for client in clients {
        let state = match client.get("/v1/state") {
            Ok(state) => state,
            Err(error) if is_named => return fail(1, error),
            // It has ended since the list was made.
            Err(_) => continue,
        };
        if !json.is_on_stdout() {
            let (command, pid, seed) = (&state["command"], &state["pid"], &state["seed"]);
            let command = command.as_str().unwrap_or("?");
            out::line(format_args!("{:<20} {command:<7} pid {pid}, seed {seed}", client.name()));
        }
        instances.push(json!({ "name": client.name(), "socket": client.path(), "state": state }));
    }
    json::result(json!({ "instances": instances }))
        .map_or_else(|error| fail(1, reasons(&error)), |()| ExitCode::SUCCESS)
}

fn run(args: &Ctl, client: &Client, said: &mut Value) -> Result<String, CtlError> {
    let mut send = |request: &Request| {
        let answer = client.send(request.method, &request.resource, request.body.as_ref(), None)?;
        *said = json!({ "answer": answer.body });
        Ok(String::new())
    };
    match &args.command {
        Command::Ls => Ok(String::new()),
        Command::Show => show(client, said),
        Command::Change(change) => send(&change.request(client)?),
        Command::At { time, change } => at(client, said, time, &change.request(client)?),
        Command::Flows { limit } => flows(client, said, *limit),
        Command::Schedule => schedule(client, said),
        Command::Cancel { number } => {
            send(&Request { method: "DELETE", resource: format!("/v1/schedule/{number}"), body: None })
        }
        Command::Watch { kinds, path, select } => {
            watch((client, &args.json), kinds, path.as_deref(), select.as_deref())
        }
    }
}

/// Lets the instance carry out `request` later.
fn at(client: &Client, said: &mut Value, time: &str, request: &Request) -> Result<String, CtlError> {
    let (key, time) = time.strip_prefix('+').map_or(("at", time), |time| ("in", time));
    let mut change = json!({ "method": request.method, "resource": request.resource });
    if let Some(body) = &request.body {
        change["body"] = body.clone();
    }
    let answer = client.send("POST", "/v1/schedule", Some(&json!({ key: time, "change": change })), None)?;
    let text = planned(&answer.body);
    *said = json!({ "answer": answer.body });
    Ok(text)
}

fn flows(client: &Client, said: &mut Value, limit: u32) -> Result<String, CtlError> {
    let answer = client.get(&format!("/v1/flows?limit={limit}"))?;
    *said = json!({ "answer": answer });
    let mut text = String::new();
    let flows = answer["flows"].as_array().map_or(&[][..], Vec::as_slice);
    for flow in flows {
        let word = |key: &str| flow[key].as_str().unwrap_or_default();
        let ends = format!("{} {} > {}", word("protocol"), word("source"), word("destination"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>12} packets from {:<12} {ends}", flow["packets"], word("port"));
    }
    let known = answer["known"].as_u64().unwrap_or(0);
    if known > flows.len() as u64 {
        let _ = writeln!(text, "... the {} with the most packets of {known}", flows.len());
    }
    Ok(text)
}

fn schedule(client: &Client, said: &mut Value) -> Result<String, CtlError> {
    let plans = client.get("/v1/schedule")?;
    let text = plans.as_array().into_iter().flatten().map(planned).collect();
    *said = json!({ "answer": plans });
    Ok(text)
}

/// A line about a scheduled change.
fn planned(plan: &Value) -> String {
    let seconds = plan["due_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
    let text = |key: &str| plan[key].as_str().unwrap_or_default();
    let error = plan["error"]["error"].as_str().map_or_else(String::new, |error| format!(": {error}"));
    let number = &plan["number"];
    format!("{number:>4}  {:<8} {seconds:>11.3} s  {}{error}\n", text("state"), text("text"))
}

fn show(client: &Client, said: &mut Value) -> Result<String, CtlError> {
    let (paths, stages) = (client.get("/v1/paths")?, client.get("/v1/stages")?);
    *said = json!({ "paths": paths, "stages": stages });
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
    (client, json): (&Client, &Json),
    kinds: &str,
    path: Option<&str>,
    select: Option<&str>,
) -> Result<String, CtlError> {
    let mut query = format!("kinds={}", encoded(kinds));
    for (key, value) in [("path", path), ("match", select)] {
        if let Some(value) = value {
            let _ = write!(query, "&{key}={}", encoded(value));
        }
    }
    for event in client.events(&query)? {
        let event = event?;
        if json.is_wanted() {
            json::record(event).map_err(|error| CtlError::Unsaid(reasons(&error)))?;
        } else {
            out::raw(format_args!("{event}\n"));
        }
        if out::is_closed() {
            break;
        }
    }
    Ok(String::new())
}
