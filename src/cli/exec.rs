//! `faultwire exec`: a command in a fresh namespace behind a link with faults.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::capture::live::{LiveLog, LogError, Wanted, check_folder};
use crate::cli::args::Exec;
use crate::cli::signals::Signals;
use crate::cli::subnets::Subnets;
use crate::cli::summary::{self, Names};
use crate::cli::{WRONG, fail, out, random_seed};
use crate::config::Plan;
use crate::config::plan::{NetnsRef, PathPlan, PortPlan, WorkerCount, set_mode};
use crate::config::spec::{self, Spec, SpecError};
use crate::engine::Watch;
use crate::engine::events::Events;
use crate::engine::network::{Network, NetworkError};
use crate::net::{NetError, Netns, link, privilege};
use crate::pipeline::time::Duration;

/// The network could not be made.
const NO_NETWORK: u8 = 125;
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
    // Once the command has run it is too late to say that its summary has no place.
    let json = match args.json.as_deref().map(open_json).transpose() {
        Ok(json) => json,
        Err(error) => return fail(WRONG, format!("{error:#}")),
    };
    let faults = match Faults::parse(args) {
        Ok(faults) => faults,
        Err(error) => return fail(WRONG, error),
    };
    match run(args, &faults, json) {
        Ok(code) => code,
        Err(error) => fail(NO_NETWORK, format!("{error:#}")),
    }
}

/// Opens the file of the summary; what is in it stays until there is something to write.
fn open_json(file: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(file);
    opened.with_context(|| format!("{} cannot be written", file.display()))
}

/// Puts the summary in place of what the file held. A device or a pipe has no length to cut.
fn write_json(mut file: File, text: &str) -> std::io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

/// The specs of both directions.
struct Faults {
    up: Spec,
    down: Spec,
}

impl Faults {
    fn parse(args: &Exec) -> Result<Self, SpecError> {
        let parse = |own: &Option<String>| match own.as_ref().or(args.both.as_ref()) {
            Some(text) => spec::parse(text).map(|mut spec| {
                set_mode(&mut spec.stages, args.mode.into());
                spec
            }),
            None => Ok(Spec { stages: Vec::new(), seed: None }),
        };
        Ok(Self { up: parse(&args.up)?, down: parse(&args.down)? })
    }
}

fn run(args: &Exec, faults: &Faults, json: Option<File>) -> anyhow::Result<ExitCode> {
    privilege::check()?;
    let signals = Signals::watch()?;
    let inner = Netns::anonymous()?;
    let (log, events) =
        args.log.as_deref().map(|folder| start_log(args, faults, folder)).transpose()?.unzip();
    let (network, subnets, plan) = build(args, faults, &inner, events)?;
    // The command's own streams are its own: what a namespace lacks is told with the summary.
    let refused = network.refused.iter().filter(|_| args.summary);
    for notice in network.notices.iter().chain(refused) {
        out::note_line(format_args!("faultwire: {notice}"));
    }
    let mut child = match spawn(args, &inner, &subnets)? {
        Ok(child) => child,
        Err(error) => {
            network.stop()?;
            let code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            return Ok(fail(code, format!("cannot run {}: {error}", args.command[0].display())));
        }
    };
    let status = wait(&mut child, &signals)?;
    let names = Names::of(&plan, network.seed);
    let told = tell(args, network, signals, &names, (log, json));
    Ok(exit_code(status, told))
}

/// What is done once the command has ended: nothing that fails here may hide how it ended.
fn tell(
    args: &Exec,
    network: Network,
    signals: Signals,
    names: &Names,
    (log, json): (Option<LiveLog>, Option<File>),
) -> anyhow::Result<()> {
    linger(&network, &signals, args.linger)?;
    let summary = network.stop()?;
    // From here on a signal ends faultwire, whatever its output waits for.
    drop(signals);
    if args.summary {
        out::note(summary::table(&summary, names));
    }
    if let (Some(file), Some(name)) = (json, &args.json) {
        write_json(file, &format!("{:#}\n", summary::json(&summary, names)))
            .with_context(|| format!("cannot write the summary to {}", name.display()))?;
    }
    Ok(log.map_or(Ok(()), LiveLog::finish)?)
}

/// Makes the link, with the first address block that is free.
fn build(
    args: &Exec,
    faults: &Faults,
    inner: &Netns,
    events: Option<Events>,
) -> anyhow::Result<(Network, Subnets, Plan)> {
    let watch = Watch { records: None, events };
    let own = Netns::own()?;
    let mut taken = link::addresses(&own)?;
    taken.extend(link::routes(&own)?);
    let mut refused = None;
    for subnets in Subnets::free(std::process::id(), &taken).take(TRIES) {
        let plan = plan(args, faults, &subnets);
        let netns = |index: usize, _: &PortPlan| match index {
            HOST => Ok::<_, NetError>((own.clone(), None)),
            _ => Ok((inner.clone(), None)),
        };
        match Network::start(&plan, random_seed(), watch.clone(), netns) {
            Ok(network) => return Ok((network, subnets, plan)),
            Err(error @ NetworkError::Net { .. }) => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match refused {
        Some(error) => Err(error.into()),
        None => anyhow::bail!("this host uses all of 198.18.0.0/15; free a part of it for the link"),
    }
}

fn plan(args: &Exec, faults: &Faults, subnets: &Subnets) -> Plan {
    let pid = std::process::id();
    let mut host = PortPlan::new("host", NetnsRef::Own, subnets.host.clone());
    host.device = format!("fw{pid}");
    host.routes = subnets.inner.iter().map(ipnet::IpNet::trunc).collect();
    let mut inner = PortPlan::new("cmd", NetnsRef::Own, subnets.inner.clone());
    inner.device = "fw0".into();
    inner.routes = subnets.inner.iter().map(|net| default_route(net.addr().is_ipv4())).collect();
    for port in [&mut host, &mut inner] {
        port.mtu = args.mtu;
    }
    let mut plan = Plan::new(vec![host, inner], paths(faults));
    plan.seed = args.seed.or(faults.up.seed).or(faults.down.seed);
    plan.workers = WorkerCount::Exactly(std::num::NonZeroUsize::MIN);
    plan
}

/// Up and down.
fn paths(faults: &Faults) -> Vec<PathPlan> {
    let path = |from, to, spec: &Spec| PathPlan { from, to, stages: spec.stages.clone() };
    vec![path(INNER, HOST, &faults.up), path(HOST, INNER, &faults.down)]
}

/// A log of each direction.
fn start_log(args: &Exec, faults: &Faults, folder: &Path) -> Result<(LiveLog, Events), LogError> {
    let paths = paths(faults);
    let wanted = [("up", "Uplink", &paths[0]), ("down", "Downlink", &paths[1])];
    let wanted = wanted.map(|(name, direction, path)| Wanted {
        file: format!("{name}.log"),
        direction: direction.into(),
        path,
    });
    let command: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
    LiveLog::start(folder, &format!("exec {}", command.join(" ").replace('\n', " ")), &wanted)
}

fn default_route(v4: bool) -> ipnet::IpNet {
    if v4 { ipnet::IpNet::V4(ipnet::Ipv4Net::default()) } else { ipnet::IpNet::V6(ipnet::Ipv6Net::default()) }
}

/// Starts the command inside; the inner error is the command's.
fn spawn(args: &Exec, inner: &Netns, subnets: &Subnets) -> Result<std::io::Result<Child>, NetError> {
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    for (variable, v4) in [("FAULTWIRE_HOST", true), ("FAULTWIRE_HOST6", false)] {
        if let Some(address) = subnets.host_address(v4) {
            command.env(variable, address.to_string());
        }
    }
    // A child starts in the namespace of the thread that makes it, and with its signal mask: the signals that faultwire
    // only reads must not be blocked in the command.
    inner.run(|| {
        SigSet::empty().thread_set_mask()?;
        command.spawn()
    })
}

/// Waits for the command, passing on to it what is sent to faultwire.
fn wait(child: &mut Child, signals: &Signals) -> anyhow::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id() as i32);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let Some(received) = signals.wait(u16::MAX)? else { continue };
        if received.signal == Signal::SIGCHLD || received.by_terminal {
            continue;
        }
        match kill(pid, received.signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Goes on forwarding until nothing is under way, for `most` at most: else the last words of the command (the FIN of its
/// connection, say) would be lost in the delay of the link, and its peer would wait for them.
fn linger(network: &Network, signals: &Signals, most: Duration) -> anyhow::Result<()> {
    let clock = network.engine().clock();
    let end = clock.now() + most;
    while clock.now() < end && network.summary()?.total.held.packets > 0 {
        if signals.wait(LOOK_MILLIS)?.is_some_and(|received| received.signal != Signal::SIGCHLD) {
            break;
        }
    }
    Ok(())
}

/// The command's exit code. What failed after the command is told, and counts only if the command itself did not fail.
fn exit_code(status: ExitStatus, told: anyhow::Result<()>) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match (code, told) {
        (_, Ok(())) => ExitCode::from(code as u8),
        (0, Err(error)) => fail(NO_NETWORK, format!("{error:#}; the command ended with exit code 0")),
        (_, Err(error)) => fail(code as u8, format!("{error:#}")),
    }
}
