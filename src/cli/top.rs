//! `faultwire top`: a live view of a running instance.

mod drops;
mod screen;
mod view;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cli::signals::{Signals, millis_until};
use crate::cli::top::drops::Drops;
use crate::cli::top::screen::Screen;
use crate::cli::top::view::{Sample, Size};
use crate::cli::{WRONG, fail, out};
use crate::control::{Choice, Client, ClientError};
use crate::engine::Clock;
use crate::pipeline::time::Duration;

/// Options of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Rates are of the last interval, all else since the start. Key q and Ctrl-C end
it. Without a terminal it prints a frame after each interval. NO_COLOR in the
environment switches colour off.

Examples:
  faultwire top
  faultwire top --control dsl --interval 200ms
  faultwire top --once

Exit code: 0 also if the instance ends meanwhile; 1 there is none that can be
asked; 2 the command line is wrong.")]
pub(super) struct Top {
    /// Name or path of the instance's control socket [default: `$FAULTWIRE_CONTROL`, or the only instance that runs]
    #[arg(long, value_name = "NAME|PATH")]
    pub(super) control: Option<Choice>,
    /// Time between two frames
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(super) interval: Duration,
    /// Print one frame, after one interval, and end
    #[arg(long)]
    pub(super) once: bool,
}

/// Shows frames until it is told to stop, or nobody answers any more.
pub(super) fn top(args: &Top) -> ExitCode {
    if args.interval.as_nanos() == 0 {
        return fail(WRONG, "--interval must be longer than 0s");
    }
    match show(args) {
        Ok(code) => code,
        Err(error) => fail(1, format!("{error:#}")),
    }
}

fn show(args: &Top) -> anyhow::Result<ExitCode> {
    let client = Client::find(args.control.as_ref())?;
    let state = client.get("/v1/state")?;
    let signals = Signals::only(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let clock = Clock::start();
    let drops = Arc::new(Drops::default());
    drops.follow(client.events("kinds=dropped")?)?;
    let mut screen = Screen::open(args.once);
    let mut before = sample(&client)?;
    let mut due = clock.now() + args.interval;
    loop {
        // At least once, also if the numbers take longer to come than an interval: keys and signals must be heard.
        loop {
            let left = millis_until(due, clock.now());
            let came = signals.wait_or(screen.keys().map(|keys| keys.as_fd()), left)?;
            if came.is_some() || screen.wants_to_end() {
                return Ok(ExitCode::SUCCESS);
            }
            if clock.now() >= due {
                break;
            }
        }
        due = clock.now() + args.interval;
        let now = match sample(&client) {
            Ok(now) => now,
            // It has ended.
            Err(ClientError::Lost { .. } | ClientError::Refused { status: 503, .. }) => {
                drop(screen);
                out::note_line(format_args!("faultwire: {} has ended", client.name()));
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        };
        let size = screen.size();
        let frame = view::frame(&state, &now, &before, &drops.latest(size.rows), size);
        screen.show(&frame);
        if args.once || out::is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

fn sample(client: &Client) -> Result<Sample, ClientError> {
    let counters: Value = client.get("/v1/counters")?;
    let ports: Value = client.get("/v1/ports")?;
    Ok(Sample { counters, ports })
}

/// Where there is no terminal to ask.
const USUAL: Size = Size { columns: 80, rows: 24 };
