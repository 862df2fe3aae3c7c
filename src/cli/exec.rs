//! `faultwire exec`: a command in a fresh namespace behind a link with faults, once or under seed after seed.

mod around;
mod series;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::capture::live::{LiveLog, check_folder};
use crate::cli::args::Exec;
use crate::cli::exec::around::Around;
use crate::cli::faults::Faults;
use crate::cli::json;
use crate::cli::log::start_log;
use crate::cli::out::Stream;
use crate::cli::serving::{self, Served};
use crate::cli::signals::Signals;
use crate::cli::subnets::Subnets;
use crate::cli::summary::{self, Names};
use crate::cli::watching::Opened;
use crate::cli::{WRONG, fail, out, reasons};
use crate::config::plan::{NetnsRef, PathPlan, PortKind, PortPlan, RoutePlan, RouteTarget, WorkerCount};
use crate::config::spec::{Files, Spec};
use crate::config::{Aim, Plan};
use crate::control::VARIABLE;
use crate::engine::Watch;
use crate::engine::network::{Network, NetworkError, Summary, router_params};
use crate::journal;
use crate::lab::observe::sockets::{TcpSocket, tcp_sockets};
use crate::net::{NetError, Netns, link};
use crate::pipeline::time::Duration;
use crate::veth::VethError;

/// The network could not be made, or what was asked for beside the command not be written.
pub(super) const NO_NETWORK: u8 = 125;
/// The command was found but could not be run.
const NOT_RUN: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;
/// Address blocks that are tried if another process takes one at the same time.
const TRIES: usize = 16;
/// Time between two looks at what is still under way, in milliseconds.
const LOOK_MILLIS: u16 = 2;
/// Ports in the plan.
const HOST: usize = 0;
const INNER: usize = 1;

/// Runs the command and returns its exit code.
pub(super) fn exec(args: &Exec) -> ExitCode {
    if let Some(error) = args.log.as_deref().and_then(|folder| check_folder(folder).err()) {
        return fail(WRONG, error);
    }
    let [up, down, both] = [&args.up, &args.down, &args.both].map(Option::as_deref);
    let parsed = Faults::parse(up, down, both, args.mode.into(), Files::Any);
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

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    args: &'a Exec,
    faults: &'a Faults,
    opened: &'a Opened<'a>,
}

fn single(asked: Asked<'_>) -> anyhow::Result<ExitCode> {
    let around = Around::find()?;
    let signals = Signals::watch()?;
    let args = asked.args;
    let ended = run(asked, &around, &signals, asked.faults.seed(args.seed))?;
    // From here on a signal ends faultwire, whatever its output waits for.
    drop(signals);
    if args.summary {
        out::note(ended.table());
    } else if let Some(line) = ended.line() {
        out::note_line(format_args!("faultwire: {line}; run it again with --seed {}", ended.names.seed()));
    }
    for drop in ended.drops.iter().filter(|_| ended.unstarted.is_none() && (ended.code != 0 || args.summary))
    {
        out::note_line(format_args!("faultwire:   {drop}"));
    }
    ended.write(ended.json())?;
    Ok(ExitCode::from(ended.exit_code()))
}

/// What failed once the command had ended: nothing of that may hide how it ended.
#[derive(Debug, thiserror::Error)]
#[error("{}", reasons(what))]
struct After {
    /// The command's.
    code: u8,
    what: anyhow::Error,
}

impl After {
    /// Of a command that ended with `code`.
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
    /// What was to be recorded could not all be written.
    lacks_records: bool,
    /// What came to end faultwire itself meanwhile.
    interrupted: Option<Signal>,
    summary: Summary,
    names: Names,
    /// The most important drops.
    drops: Vec<String>,
}

impl Ended {
    /// The command's, unless it succeeded and something that it does not know of failed.
    const fn exit_code(&self) -> u8 {
        if self.code == 0 && self.lacks_records { NO_NETWORK } else { self.code }
    }

    fn table(&self) -> String {
        summary::table(&self.summary, &self.names, Stream::Stderr.columns())
    }

    fn json(&self) -> serde_json::Value {
        let mut json = summary::json(&self.summary, &self.names);
        json["exit_code"] = self.code.into();
        json
    }

    /// Writes the summary where it belongs, if anywhere; or that the command never ran.
    fn write(&self, json: serde_json::Value) -> Result<(), After> {
        let written = match &self.unstarted {
            Some(why) => json::failure(self.code, why),
            None => json::result(json),
        };
        written.context("cannot write the summary").map_err(After::of(self.code))
    }

    /// The seed and what happened, if the command failed or a fault acted. A command that never ran has no use for one.
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
    let (log, events) = args.log.as_deref().map(start).transpose()?.unzip();
    let (watcher, taps) = opened.start_with_drops(&recorded(faults, seed))?;
    let watch = Watch { records: None, events, journal: taps };
    let (network, subnets, plan) = build(args, faults, (&inner, around), (watch, seed))?;
    watcher.begin();
    // The command's own streams are its own: what a namespace lacks is told with the summary.
    let refused = network.refused.iter().filter(|_| args.summary);
    for notice in network.notices.iter().chain(refused) {
        out::note_line(format_args!("faultwire: {notice}"));
    }
    let names = Names::of(&plan, network.seed);
    let served = Served {
        command: "exec",
        config: None,
        params: router_params(&plan, network.seed),
        names: &recorded(faults, network.seed),
        aim: Aim::default(),
        devices: serving::devices(&network.ports, &[]),
        attachments: Vec::new(),
        is_recorded: args.watching.journal.is_some() || args.watching.pcap.is_some(),
        notes: watcher.notes(),
    };
    let control = serving::serve(door, network.engine(), served)?;
    let spawned = spawn(args, &inner, (around.variables(&subnets, &inner)?, socket.as_deref()))?;
    let mut unstarted = None;
    let (code, interrupted) = match spawned {
        Ok(mut child) => {
            let (status, interrupted) = wait(&mut child, signals)?;
            (exit_code(status), interrupted)
        }
        Err(error) => {
            let why = format!("cannot run {}: {error}", program(args).display());
            out::note_line(format_args!("faultwire: {why}"));
            unstarted = Some(why);
            (if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }, None)
        }
    };
    let (summary, also) = settle(args, network, (&inner, signals), log).map_err(After::of(code))?;
    drop(control);
    let (recorded, drops) = watcher.finish();
    for sentence in recorded.said {
        out::note_line(format_args!("faultwire: {sentence}"));
    }
    let lacks_records = recorded.has_failed;
    Ok(Ended { code, unstarted, lacks_records, interrupted: interrupted.or(also), summary, names, drops })
}

/// What is done once the command has ended.
fn settle(
    args: &Exec,
    network: Network,
    (inner, signals): (&Netns, &Signals),
    log: Option<LiveLog>,
) -> anyhow::Result<(Summary, Option<Signal>)> {
    let interrupted = linger(&network, inner, signals, args.linger)?;
    let summary = network.stop()?;
    log.map_or(Ok(()), LiveLog::finish)?;
    Ok((summary, interrupted))
}

/// Makes the link, with the first address block that is free.
fn build(
    args: &Exec,
    faults: &Faults,
    (inner, around): (&Netns, &Around),
    (watch, seed): (Watch, u64),
) -> anyhow::Result<(Network, Subnets, Plan)> {
    let own = Netns::own()?;
    let mut taken = link::addresses(&own)?;
    taken.extend(link::routes(&own)?);
    let mut refused = None;
    // Programs at veth pairs take more privileges than an ordinary user can have, and tcx.
    let wanted = args.device.map(PortKind::from);
    let mut kind = wanted.unwrap_or(if around.is_of_user { PortKind::Tun } else { PortKind::Veth });
    let mut blocks = Subnets::free(&taken, around.room).take(TRIES).peekable();
    while let Some(subnets) = blocks.peek() {
        let plan = plan(args, faults, (subnets, kind), around);
        let netns = |index: usize, _: &PortPlan| match index {
            HOST => Ok::<_, NetError>((own.clone(), None)),
            _ => Ok((inner.clone(), None)),
        };
        match Network::start(&plan, seed, watch.clone(), netns) {
            Ok(network) => return Ok((network, subnets.clone(), plan)),
            Err(error @ NetworkError::Net { .. }) => {
                refused = Some(error);
                blocks.next();
            }
            Err(NetworkError::Veth { source: VethError::Bpf(_), .. }) if wanted.is_none() => {
                kind = PortKind::Tun;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match refused {
        Some(error) => Err(error.into()),
        None if around.is_inside => anyhow::bail!("{}", around::FULL),
        None => anyhow::bail!("this host uses all of 198.18.0.0/16; free a part of it for the link"),
    }
}

fn plan(args: &Exec, faults: &Faults, (subnets, kind): (&Subnets, PortKind), around: &Around) -> Plan {
    let pid = std::process::id();
    let mut host = PortPlan::new("host", NetnsRef::Own, subnets.host.clone());
    host.device = format!("fw{pid}");
    host.routes = subnets.behind();
    let mut inner = PortPlan::new("cmd", NetnsRef::Own, subnets.inner.clone());
    inner.device = "fw0".into();
    inner.routes = subnets.inner.iter().map(|net| default_route(net.addr().is_ipv4())).collect();
    for port in [&mut host, &mut inner] {
        (port.mtu, port.kind) = (args.mtu, kind);
    }
    let mut plan = Plan::new(vec![host, inner], paths(faults).into());
    let room = subnets.behind().into_iter().skip(subnets.inner.len());
    plan.routes = room.map(|prefix| RoutePlan { prefix, target: RouteTarget::Port(INNER) }).collect();
    if around.is_inside {
        // The outermost host is behind the namespace around.
        plan.routes.extend(
            [true, false].map(|v4| RoutePlan { prefix: default_route(v4), target: RouteTarget::Port(HOST) }),
        );
    }
    plan.identity = args.identity.into();
    plan.workers = WorkerCount::Exactly(std::num::NonZeroUsize::MIN);
    plan.flow_cache = !args.no_flow_cache;
    plan
}

/// Names for what is recorded.
fn recorded(faults: &Faults, seed: u64) -> journal::Names {
    let ports = ["host", "cmd"].map(|name| PortPlan::new(name, NetnsRef::Own, Vec::new()));
    journal::Names::of(&router_params(&Plan::new(ports.into(), paths(faults).into()), seed), &["up", "down"])
}

/// Up and down.
fn paths(faults: &Faults) -> [PathPlan; 2] {
    let path = |from, to, spec: &Spec| PathPlan { from, to, stages: spec.stages.clone() };
    [path(INNER, HOST, &faults.up), path(HOST, INNER, &faults.down)]
}

/// The command line, for the heads of logs.
fn command_line(args: &Exec) -> String {
    let command: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
    format!("exec {}", command.join(" ").replace('\n', " "))
}

fn default_route(v4: bool) -> ipnet::IpNet {
    if v4 { ipnet::IpNet::V4(ipnet::Ipv4Net::default()) } else { ipnet::IpNet::V6(ipnet::Ipv6Net::default()) }
}

/// The command, or the shell of who typed it.
fn program(args: &Exec) -> OsString {
    let shell = || std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    args.command.first().cloned().or_else(shell).unwrap_or_else(|| "/bin/sh".into())
}

/// Starts the command inside; the inner error is the command's.
fn spawn(
    args: &Exec,
    inner: &Netns,
    (variables, socket): (Vec<(&'static str, String)>, Option<&Path>),
) -> Result<std::io::Result<Child>, NetError> {
    let mut command = Command::new(program(args));
    command.args(args.command.iter().skip(1)).env_remove(around::ROOM).envs(variables);
    // Never the instance around this one.
    command.env_remove(VARIABLE);
    if let Some(socket) = socket {
        command.env(VARIABLE, socket);
    }
    // A child starts in the namespace of the thread that makes it, and with its signal mask: the signals that faultwire
    // only reads must not be blocked in the command.
    inner.run(|| {
        SigSet::empty().thread_set_mask()?;
        command.spawn()
    })
}

/// Waits for the command, passing on to it what is sent to faultwire; also the first of it that is meant to end it.
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

/// Goes on forwarding, for `most` at most, until no packet is held and the kernel has nothing left to send for connections that
/// the command closed. Otherwise its last words would be lost in the delay of the link, or by one lost packet, and its peer
/// would wait for them.
fn linger(
    network: &Network,
    inner: &Netns,
    signals: &Signals,
    most: Duration,
) -> anyhow::Result<Option<Signal>> {
    let clock = network.engine().clock();
    let end = clock.now() + most;
    while clock.now() < end && (network.held()? > 0 || are_closing(inner)?) {
        let Some(received) = signals.wait(LOOK_MILLIS)? else { continue };
        if received.signal != Signal::SIGCHLD {
            return Ok(ending(received.signal));
        }
    }
    Ok(None)
}

/// Whether connections of the command are closed by it and not by its peer yet.
fn are_closing(inner: &Netns) -> anyhow::Result<bool> {
    let sockets = inner.run(tcp_sockets)?.context("cannot list the command's connections")?;
    Ok(sockets.iter().any(TcpSocket::is_closing))
}

/// The signal, if it is one that ends a run.
fn ending(signal: Signal) -> Option<Signal> {
    const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    ENDS.contains(&signal).then_some(signal)
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    // A process has no other than these 8 bits.
    u8::try_from(code & 0xff).unwrap_or(1)
}
