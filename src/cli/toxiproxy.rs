//! `faultwire toxiproxy`: Toxiproxy's HTTP API, with faults of packets.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use nix::unistd::Pid;

use crate::cli::ready::{self, Ready};
use crate::cli::serving::address;
use crate::cli::signals::Signals;
use crate::cli::{WRONG, fail, out, random_seed, reasons};
use crate::net::privilege;
use crate::toxiproxy::Server;

/// Milliseconds of one wait for a signal.
const WAIT: u16 = 60_000;

/// Options of `toxiproxy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  faultwire toxiproxy
  faultwire toxiproxy --listen 127.0.0.1:8474 --config toxiproxy.json --seed 7
  curl localhost:8474/proxies -d '{\"name\": \"db\",
      \"listen\": \"127.0.0.1:5433\", \"upstream\": \"127.0.0.1:5432\"}'
  curl localhost:8474/proxies/db/toxics \\
      -d '{\"type\": \"latency\", \"attributes\": {\"latency\": 200}}'

Clients of Toxiproxy work unmodified. docs/toxiproxy.md says what each toxic
does to packets.")]
pub(super) struct Toxiproxy {
    /// Serve the API at this address; a port alone is one of the loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8474", value_parser = address)]
    listen: SocketAddr,
    /// Proxies to begin with: a JSON file as toxiproxy-server's -config takes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seed of all random decisions [default: random and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Write a line to this file descriptor, and close it, once the API is served
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    ready_fd: Option<i32>,
    /// End when the thread that started faultwire ends, and its process with it
    #[arg(long)]
    die_with_parent: bool,
}

/// Serves until told to stop.
pub(super) fn toxiproxy(args: &Toxiproxy, parent: Pid) -> ExitCode {
    // Done first: a descriptor that is opened here could get the number.
    let ready = match Ready::new(args.ready_fd) {
        Ok(ready) => ready,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let proxies = match args.config.as_ref().map(read).transpose() {
        Ok(proxies) => proxies,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    match serve(args, proxies, ready, parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, reasons(&error)),
    }
}

fn serve(args: &Toxiproxy, proxies: Option<Vec<u8>>, ready: Ready, parent: Pid) -> anyhow::Result<()> {
    privilege::acquire_beside_network()?;
    let signals = Signals::watch()?;
    if args.die_with_parent && ready::die_with_parent(parent)? {
        anyhow::bail!("the process that started faultwire has ended already");
    }
    let seed = args.seed.unwrap_or_else(random_seed);
    let starting = Server::start(args.listen, seed, proxies)?;
    // Creating the proxies may wait for name resolution.
    while let Some(received) = signals.before(starting.as_fd())? {
        if received.ends() {
            return Ok(());
        }
    }
    let of = |path: &PathBuf| path.display().to_string();
    let server = starting.wait().with_context(|| args.config.as_ref().map(of).unwrap_or_default())?;
    out::note_line(format_args!(
        "Toxiproxy's API at http://{}, seed {seed}; Ctrl-C ends it",
        server.address()
    ));
    ready.say()?;
    while signals.wait(WAIT)?.is_none_or(|received| !received.ends()) {}
    drop(server);
    Ok(())
}
