//! `faultwire top`: a live view of a running instance.

mod drops;
mod keys;
mod number;
mod screen;
mod table;
mod totals;
mod view;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cli::ctl::{self, Change};
use crate::cli::signals::{Signals, millis_until};
use crate::cli::top::drops::Drops;
use crate::cli::top::keys::{Keys, Wish};
use crate::cli::top::screen::Screen;
use crate::cli::top::view::{Cursor, Sample, Size};
use crate::cli::whom::Whom;
use crate::cli::{WRONG, fail, out, reasons};
use crate::control::{Client, ClientError};
use crate::engine::Clock;
use crate::pipeline::time::Duration;

/// Options of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Rates are those of the last interval, all other numbers count from the start.
Without a terminal it prints a frame after each interval. NO_COLOR in the
environment switches colours off.

Keys: the arrows choose a stage, p pauses it or lets it act again, s sets its
faults (a spec, or KEY=VALUE as for `ctl set`), m marks this moment in the
journal, q and Ctrl-C end it.

Examples:
  faultwire top
  faultwire top --control dsl --interval 200ms
  faultwire top --once

Exit code: 0 done, also if the instance ends; 1 no instance answers; 2 the
command line is wrong.")]
pub(super) struct Top {
    #[command(flatten)]
    pub(super) whom: Whom,
    /// Time between two frames
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(super) interval: Duration,
    /// Print one frame after one interval, then end
    #[arg(long)]
    pub(super) once: bool,
}

/// Shows frames until a signal or key ends it, or the instance no longer answers.
pub(super) fn top(args: &Top) -> ExitCode {
    if args.interval.as_nanos() == 0 {
        return fail(WRONG, "--interval must be longer than 0s");
    }
    match show(args) {
        Ok(code) => code,
        Err(error) => fail(1, reasons(&error)),
    }
}

fn show(args: &Top) -> anyhow::Result<ExitCode> {
    let client = args.whom.client()?;
    let state = client.get("/v1/state")?;
    let signals = Signals::only(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let clock = Clock::start();
    let drops = Arc::new(Drops::default());
    drops.follow(client.events("kinds=dropped")?)?;
    let mut screen = Screen::open(args.once);
    let first = sample(&client)?;
    let mut view = View { client, state, drops, keys: Keys::default(), before: first.clone(), now: first };
    let mut due = clock.now() + args.interval;
    loop {
        // At least one wait, even if the numbers take longer than an interval: keys and signals must be read.
        loop {
            let left = millis_until(due, clock.now());
            if signals.wait_or(screen.keys().map(|keys| keys.as_fd()), left)?.is_some() {
                return Ok(ExitCode::SUCCESS);
            }
            let typed = screen.typed();
            if view.typed(&typed) {
                return Ok(ExitCode::SUCCESS);
            }
            if !typed.is_empty() {
                view.show(&mut screen);
            }
            if clock.now() >= due {
                break;
            }
        }
        due = clock.now() + args.interval;
        match sample(&view.client) {
            Ok(now) => view.before = std::mem::replace(&mut view.now, now),
            // The instance has ended.
            Err(ClientError::Lost { .. } | ClientError::Refused { status: 503, .. }) => {
                drop(screen);
                out::note_line(format_args!("faultwire: {} has ended", view.client.name()));
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        }
        view.show(&mut screen);
        if args.once || out::is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The view, and the instance that it shows.
struct View {
    client: Client,
    state: Value,
    drops: Arc<Drops>,
    keys: Keys,
    before: Sample,
    now: Sample,
}

impl View {
    fn show(&self, screen: &mut Screen) {
        let size = screen.size();
        let line = self.keys.line(self.chosen().as_deref().unwrap_or("?"));
        let cursor = screen.has_keys().then_some(Cursor { chosen: self.keys.chosen, line: &line });
        let drops = self.drops.latest(size.rows);
        screen.show(&view::frame(&self.state, (&self.now, &self.before), &drops, cursor, size));
    }

    /// The id of the chosen stage.
    fn chosen(&self) -> Option<String> {
        view::ids(&self.now).into_iter().nth(self.keys.chosen)
    }

    /// Handles what was typed; true if the view is to end.
    fn typed(&mut self, typed: &[u8]) -> bool {
        for wish in self.keys.typed(typed, view::ids(&self.now).len()) {
            let change = match wish {
                Wish::End => return true,
                Wish::Mark(text) => Change::Mark { text },
                Wish::Pause | Wish::Set(_) => {
                    let Some(stage) = self.chosen() else { continue };
                    match wish {
                        Wish::Set(what) => Change::Set { stage, what: ctl::words(&what) },
                        _ if self.now.paused.contains(&stage) => Change::Resume { stage },
                        _ => Change::Pause { stage },
                    }
                }
            };
            let done = change.send(&self.client);
            // Shows the current state.
            if let Ok(now) = sample(&self.client) {
                self.now.paused = now.paused;
            }
            self.keys.said = match done {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
        }
        false
    }
}

fn sample(client: &Client) -> Result<Sample, ClientError> {
    let (counters, ports) = (client.get("/v1/counters")?, client.get("/v1/ports")?);
    let stages: Value = client.get("/v1/stages")?;
    let paused = stages.as_array().into_iter().flatten().filter(|stage| stage["paused"] == true);
    let paused = paused.filter_map(|stage| stage["id"].as_str().map(str::to_owned)).collect();
    let flows = client.get(&format!("/v1/flows?limit={FLOWS}"))?;
    Ok(Sample { counters, ports, flows, paused })
}

/// Number of flows among which the busiest are searched: those with the most packets.
const FLOWS: usize = 200;

/// Default size if there is no terminal.
const USUAL: Size = Size { columns: 80, rows: 24 };
