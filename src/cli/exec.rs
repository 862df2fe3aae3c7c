//! `faultwire exec`: a command in a fresh namespace behind a link with faults, once or under seed after seed.

mod around;
mod link;
mod outside;
mod series;
mod start;

use std::io::{ErrorKind, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capture::live::{LiveLog, check_folder};
use crate::cli::args::Exec;
use crate::cli::exec::around::Around;
use crate::cli::exec::link::{Link, paths, recorded};
use crate::cli::faults::Faults;
use crate::cli::json;
use crate::cli::log::start_log;
use crate::cli::out::Stream;
use crate::cli::serving::{self, Served};
use crate::cli::signals::{Signals, ends};
use crate::cli::summary::{self, Names};
use crate::cli::watching::Opened;
use crate::cli::{WRONG, fail, out, reasons};
use crate::config::spec::Files;
use crate::engine::network::{Summary, router_params};
use crate::lab::observe::sockets::{TcpSocket, tcp_sockets};
use crate::net::Netns;
use crate::pipeline::counters::Reason;
use crate::pipeline::time::Duration;
use crate::reach::Reach;

/// The network could not be created, or requested output could not be written.
pub(super) const NO_NETWORK: u8 = 125;
/// The command was found but could not be run.
const NOT_RUN: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;
/// Milliseconds between two checks of what is still on the way.
const LOOK_MILLIS: u16 = 2;

/// Runs the command and returns its exit code.
pub(super) fn exec(args: &Exec) -> ExitCode {
    if let Some(error) = args.log.as_deref().and_then(|folder| check_folder(folder).err()) {
        return fail(WRONG, error);
    }
    let [up, down, both] = [&args.up, &args.down, &args.both].map(Option::as_deref);
    let parsed = Faults::parse(up, down, both, args.mode.into(), Files::Any, false);
    let faults = match parsed {
        Ok(faults) => faults,
        Err(error) => return fail(WRONG, error),
    };
    let opened = match args.watching.open(&recorded(&faults, 0)) {
        Ok(opened) => opened,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    let asked = Asked { args, faults: &faults, opened: &opened };
    let done = if args.seeds.is_some() || args.until_failure { series::series(asked) } else { single(asked) };
    done.unwrap_or_else(|error| match error.downcast::<After>() {
        Ok(After { code: 0, what }) => {
            fail(NO_NETWORK, format!("{}; the command ended with exit code 0", reasons(&what)))
        }
        Ok(After { code, what }) => fail(code, reasons(&what)),
        Err(error) => fail(NO_NETWORK, reasons(&error)),
    })
}

/// The parsed command line.
#[derive(Clone, Copy)]
struct Asked<'a> {
    args: &'a Exec,
    faults: &'a Faults,
    opened: &'a Opened<'a>,
}

fn single(asked: Asked<'_>) -> anyhow::Result<ExitCode> {
    let around = Around::find(asked.args)?;
    let signals = Signals::watch()?;
    let args = asked.args;
    let ended = run(asked, &around, &signals, asked.faults.seed(args.seed))?;
    // From here on, a signal ends faultwire even if its output is blocked.
    drop(signals);
    if args.summary {
        ended.tell()?;
    } else if let Some(line) = ended.line() {
        out::note_line(format_args!("faultwire: {line}; run it again with --seed {}", ended.names.seed()));
    }
    for drop in ended.drops.iter().filter(|_| ended.unstarted.is_none() && (ended.code != 0 || args.summary))
    {
        out::note_line(format_args!("faultwire:   {drop}"));
    }
    ended.advise(args);
    ended.write(ended.json())?;
    Ok(ExitCode::from(ended.exit_code()))
}

/// An error after the command had ended. It must not hide how the command ended.
#[derive(Debug, thiserror::Error)]
#[error("{}", reasons(what))]
struct After {
    /// The exit code of the command.
    code: u8,
    what: anyhow::Error,
}

impl After {
    /// The result of a command that ended with `code`.
    fn of<E: Into<anyhow::Error>>(code: u8) -> impl Fn(E) -> Self {
        move |error| Self { code, what: error.into() }
    }
}

/// A command that has ended, or could not be started.
struct Ended {
    /// Exit code for it.
    code: u8,
    /// Why it could not be started.
    unstarted: Option<String>,
    /// Requested recordings could not be written completely.
    lacks_records: bool,
    /// The signal that came to end faultwire itself meanwhile.
    interrupted: Option<Signal>,
    summary: Summary,
    names: Names,
    /// The most important drops.
    drops: Vec<String>,
}

impl Ended {
    /// The exit code of the command, unless the command succeeded and something else failed.
    const fn exit_code(&self) -> u8 {
        if self.code == 0 && self.lacks_records { NO_NETWORK } else { self.code }
    }

    /// Says what is probably wrong, if the command missed the link or wanted to reach more than it leads to.
    fn advise(&self, args: &Exec) {
        let stages = || self.summary.total.paths.iter().flat_map(|path| &path.stages);
        let has_missed = stages().next().is_some()
            && stages().all(|stage| stage.counters.seen.packets == 0)
            && self.summary.total.counters.sent.packets == 0;
        let is_beyond = self.drops.iter().any(|drop| drop.contains(Reason::NoRoute.name()));
        if self.unstarted.is_some() {
            return;
        }
        if is_beyond && self.code != 0 && args.reach.is_none() {
            out::note_line(
                "faultwire: the link leads to this host only ($FAULTWIRE_HOST); --reach internet lets the command reach other \
                 hosts",
            );
        } else if has_missed {
            out::note_line(
                "faultwire: no packet passed the link: the command reaches this host at $FAULTWIRE_HOST, not at localhost",
            );
        }
    }

    /// Prints the summary.
    fn tell(&self) -> Result<(), After> {
        let table = summary::table(&self.summary, &self.names, Stream::Stderr.columns());
        out::report(table).context("cannot write the summary to standard error").map_err(After::of(self.code))
    }

    fn json(&self) -> serde_json::Value {
        let mut json = summary::json(&self.summary, &self.names);
        json["exit_code"] = self.code.into();
        json
    }

    /// Writes the summary, if one is wanted; or that the command never ran.
    fn write(&self, json: serde_json::Value) -> Result<(), After> {
        let written = match &self.unstarted {
            Some(why) => json::failure(self.code, why),
            None => json::result(json),
        };
        let shown = || out::failure().map_or(Ok(()), |error| Err(error.into()));
        written.and_then(|()| shown()).context("cannot write the summary").map_err(After::of(self.code))
    }

    /// Prints the seed and what happened, if the command failed or a fault acted. A command that never ran needs no
    /// seed.
    fn line(&self) -> Option<String> {
        let acted = summary::acted(&self.summary);
        if self.unstarted.is_some() || self.code == 0 && acted.is_none() {
            return None;
        }
        let failed = (self.code != 0).then(|| format!("the command failed (exit code {})", self.code));
        let all: Vec<String> = failed.into_iter().chain(acted).collect();
        Some(format!("seed {}: {}", self.names.seed(), all.join(", ")))
    }
}

/// Runs the command once, on a link of its own.
fn run(asked: Asked<'_>, around: &Around, signals: &Signals, seed: u64) -> anyhow::Result<Ended> {
    let Asked { args, faults, opened } = asked;
    let inner = Netns::anonymous()?;
    let told = |text: &str| out::note_line(format_args!("faultwire: {text}"));
    let door = args.serving.open(|text| {
        if args.summary {
            told(text);
        }
    })?;
    let socket = door.path().map(std::path::absolute).transpose()?;
    let start = |folder| start_log(folder, &command_line(args), &paths(faults));
    let (log, logged) = args.log.as_deref().map(start).transpose()?.unzip();
    let (watcher, mut taps) = opened.start_with_drops(&recorded(faults, seed))?;
    taps.extend(logged);
    let link = Link::make(args, faults, (&inner, around), (taps, seed))?;
    let Link { network, subnets, plan, .. } = &link;
    watcher.begin();
    // The command's own streams belong to the command: missing features of a namespace are reported with the summary.
    let refused = network.refused.iter().filter(|_| args.summary);
    for notice in network.notices.iter().chain(refused) {
        out::note_line(format_args!("faultwire: {notice}"));
    }
    if link.reach.as_ref().is_some_and(|reach| !reach.answers_pings()) {
        out::note_line(
            "faultwire: pings to other hosts are not answered: this user may not ping on this host (`sudo sysctl \
             net.ipv4.ping_group_range=\"0 2147483647\"` allows it to all)",
        );
    }
    let names = Names::of(plan, network.seed);
    let served = Served {
        command: "exec",
        config: None,
        params: router_params(plan, network.seed),
        names: &recorded(faults, network.seed),
        aim: link.aim.clone(),
        devices: serving::devices(&network.ports, &[]),
        attachments: Vec::new(),
        is_recorded: args.watching.journal.is_some() || args.watching.pcap.is_some(),
        notes: watcher.notes(),
    };
    let control = serving::serve(door, network.engine(), served)?;
    let around_it = start::Surroundings {
        variables: around.variables(subnets, &inner)?,
        socket,
        resolv_conf: around.outside.as_ref().and_then(|outside| outside.resolv_conf(subnets)),
        files: around.files,
    };
    if args.command.is_empty() && std::io::stderr().is_terminal() {
        out::note_line("faultwire: a shell behind the link; this host is $FAULTWIRE_HOST; `exit` ends it");
    }
    let (spawned, stay) = start::spawn(args, &inner, around_it)?;
    let mut unstarted = None;
    let (code, interrupted) = match spawned {
        Ok(mut child) => {
            let (status, interrupted) = wait(&mut child, signals)?;
            drop(stay);
            (exit_code(status), interrupted)
        }
        Err(error) => {
            let program = start::program(args);
            let is_line = error.kind() == ErrorKind::NotFound && program.to_string_lossy().contains(' ');
            let cure =
                if is_line { " (a whole command line in quotes: remove them, or use sh -c)" } else { "" };
            let why = format!("cannot run {}: {error}{cure}", program.display());
            out::note_line(format_args!("faultwire: {why}"));
            unstarted = Some(why);
            (if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }, None)
        }
    };
    let (summary, also) = settle(args, link, (&inner, signals), log).map_err(After::of(code))?;
    drop(control);
    let (recorded, drops) = watcher.finish_or(signals);
    for sentence in recorded.said {
        out::note_line(format_args!("faultwire: {sentence}"));
    }
    let lacks_records = recorded.has_failed;
    Ok(Ended { code, unstarted, lacks_records, interrupted: interrupted.or(also), summary, names, drops })
}

/// The work after the command has ended.
fn settle(
    args: &Exec,
    link: Link,
    (inner, signals): (&Netns, &Signals),
    log: Option<LiveLog>,
) -> anyhow::Result<(Summary, Option<Signal>)> {
    let interrupted = linger(&link, inner, signals, args.linger)?;
    drop(link.reach);
    let mut summary = link.network.stop()?;
    summary.unlogged = log.map_or(Ok(0), LiveLog::finish)?;
    Ok((summary, interrupted))
}

/// The command line, for the heads of logs.
fn command_line(args: &Exec) -> String {
    let command: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
    format!("exec {}", command.join(" ").replace('\n', " "))
}

/// Waits for the command, and passes on to it signals that are sent to faultwire. Also returns the first signal that
/// is meant to end the run.
fn wait(child: &mut Child, signals: &Signals) -> anyhow::Result<(ExitStatus, Option<Signal>)> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut interrupted = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, interrupted));
        }
        let Some(received) = signals.wait(u16::MAX)? else { continue };
        interrupted = interrupted.or_else(|| ending(received.signal));
        if received.signal == Signal::SIGCHLD || received.by_terminal {
            continue;
        }
        match kill(pid, received.signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Continues to forward, for at most `most`, until no packet is held, the kernel has nothing left to send for
/// connections that the command closed, and the relay has passed on what it received. Otherwise the last data would
/// be lost in the delay of the link, or by one lost packet, and the peer would wait for it.
fn linger(link: &Link, inner: &Netns, signals: &Signals, most: Duration) -> anyhow::Result<Option<Signal>> {
    let clock = link.network.engine().clock();
    let end = clock.now() + most;
    let relays = || link.reach.as_ref().map_or(Ok(false), is_relaying);
    while clock.now() < end && (link.network.held()? > 0 || are_closing(inner)? || relays()?) {
        let Some(received) = signals.wait(LOOK_MILLIS)? else { continue };
        if received.signal != Signal::SIGCHLD {
            return Ok(ending(received.signal));
        }
    }
    Ok(None)
}

/// Whether there are connections that the command has closed but its peer has not.
fn are_closing(inner: &Netns) -> anyhow::Result<bool> {
    let sockets = inner.run(tcp_sockets)?.context("cannot list the command's connections")?;
    Ok(sockets.iter().any(TcpSocket::is_closing))
}

/// Whether the relay still has connections to accept or data to pass on.
fn is_relaying(reach: &Reach) -> anyhow::Result<bool> {
    let sockets = reach.netns().run(tcp_sockets)?.context("cannot list the relay's connections")?;
    Ok(sockets.iter().any(|socket| socket.state == "LISTEN" && socket.receive_queue > 0) || reach.is_busy())
}

/// The signal, if it is one that ends a run.
fn ending(signal: Signal) -> Option<Signal> {
    ends(signal).then_some(signal)
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    // A process has no other than these 8 bits.
    u8::try_from(code & 0xff).unwrap_or(1)
}
