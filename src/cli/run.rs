//! `faultwire run`.

mod ordinary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::attach;
use crate::capture::live::{LiveLog, LogError, Wanted, check_folder};
use crate::cli::json::{self, Json};
use crate::cli::kind;
use crate::cli::out::{LiveLine, Stream};
use crate::cli::ready::{self, Ready};
use crate::cli::run::ordinary::Ordinary;
use crate::cli::serving::{self, Served, Serving};
use crate::cli::session;
use crate::cli::signals::{Signals, ends, millis_until};
use crate::cli::summary::{self, Names};
use crate::cli::watching::{Opened, Watching};
use crate::cli::{WRONG, fail, out, random_seed, reasons};
use crate::config::plan::{AttachedPort, PathPlan, PortPlan};
use crate::config::{self, Aim, Kind, Plan};
use crate::control::Door;
use crate::engine::network::{Network, Summary, open_netns, router_params};
use crate::journal::{self, Finished, Taps};
use crate::net::cleanup;
use crate::net::target::{Target, TargetRef};
use crate::pipeline::time::{Duration, Instant};

/// Milliseconds between two live lines.
const REFRESH: u16 = 1000;
/// Milliseconds between two checks of held packets, at the end.
const LOOK: u16 = 5;

/// Options of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  faultwire run configs/lossy-uplink.toml --seed 7 --json > result.json
  faultwire run configs/dsl.toml --ready-fd 3 --die-with-parent 3>ready &
  read -r _ <ready
  ./test.sh; kill $!

An ordinary user can run configurations whose ports all have namespaces of their
own (netns with create = true), if user namespaces are allowed and /dev/net/tun
can be opened; how commands get into them is printed. Ports of this host itself,
of namespaces that are there already, attach and several workers need root.

SIGUSR1 prints the summary so far on standard error. Under systemd, Type=notify
works.")]
pub(super) struct Run {
    /// Configuration file (TOML); see configs/reference.toml for every key
    pub(super) config: PathBuf,
    /// Seed of all random decisions [default: that of the file, or random and printed]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// End after this time [default: `duration` in the file, or on Ctrl-C]
    #[arg(long, value_name = "TIME")]
    pub(super) duration: Option<Duration>,
    /// At the end, wait at most this long for held packets to leave; 0s drops them (attached ports: they leave at once)
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(super) drain: Duration,
    /// When packets are forwarded, write a line to this file descriptor and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(super) ready_fd: Option<i32>,
    /// End when the thread that started faultwire ends
    #[arg(long)]
    pub(super) die_with_parent: bool,
    /// Attach to this host's own device even if this may cut your SSH session
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) json: Json,
    /// Write a log of each path for Mahimahi's plotting scripts into this folder, as FROM:TO.log
    #[arg(long, value_name = "DIR")]
    pub(super) log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) watching: Watching,
    #[command(flatten)]
    pub(super) serving: Serving,
}

/// Builds the ports of a configuration and forwards until told to stop.
pub(super) fn run(args: &Run, parent: Pid) -> ExitCode {
    let mut plan = match kind::load(&args.config, Kind::Config, config::parse) {
        Ok(plan) => plan,
        Err(error) => return fail(WRONG, error),
    };
    plan.seed = args.seed.or(plan.seed);
    for warning in &plan.warnings {
        out::note_line(format_args!("warning: {warning}"));
    }
    if let Some(error) = args.log.as_deref().and_then(|folder| check_folder(folder).err()) {
        return fail(WRONG, error);
    }
    plan.duration = args.duration.or(plan.duration);
    // Done first: a descriptor that is opened here could get the number.
    let ready = match Ready::new(args.ready_fd) {
        Ok(ready) => ready,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    if let Some(danger) = plan.attached.iter().find_map(|port| danger(port).filter(|_| !args.yes)) {
        return fail(WRONG, danger);
    }
    // Before any thread is started.
    let ordinary = match Ordinary::enter(&plan) {
        Ok(ordinary) => ordinary,
        Err(error) => return fail(1, error),
    };
    let opened = match args.watching.open(&journal::Names::of(&router_params(&plan, 0), &[])) {
        Ok(opened) => opened,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    let door = match args.serving.open(|text| out::note_line(format_args!("notice: {text}"))) {
        Ok(door) => door,
        Err(error) => return fail(WRONG, error),
    };
    match forward((&plan, ordinary.as_ref()), args, (&opened, door), ready, parent) {
        Ok((summary, names, recorded)) => {
            let code = finish(&summary, &names, &args.json);
            if recorded.has_failed { ExitCode::FAILURE } else { code }
        }
        Err(error) => fail(1, error),
    }
}

/// Why the port's faults may cut the SSH session of this command. A missing target is reported when it is opened.
fn danger(port: &AttachedPort) -> Option<String> {
    let target = Target::find(&TargetRef::from(&port.target)).ok()?;
    let device = attach::find(&target.netns, port.device.as_deref()).ok()?;
    session::may_be_cut(&target, &device, [&port.up, &port.down]).ok()?.then(|| {
        format!(
            "port {}: {}. Aim them by match = \"not tcp port 22\" in the [[port]], or add --yes if that is meant, and \
             --duration TIME so that it ends by itself",
            port.name,
            session::danger(&device)
        )
    })
}

fn forward(
    (plan, ordinary): (&Plan, Option<&Ordinary>),
    args: &Run,
    (opened, door): (&Opened<'_>, Door),
    ready: Ready,
    parent: Pid,
) -> anyhow::Result<(Summary, Names, Finished)> {
    let signals = Signals::watch()?;
    if args.die_with_parent && ready::die_with_parent(parent)? {
        anyhow::bail!("the process that started faultwire has ended already");
    }
    for name in cleanup::sweep()? {
        out::note_line(format_args!("removed namespace {name}, left behind by a faultwire that was killed"));
    }
    let log = args.log.as_deref().map(|folder| start_log(plan, folder)).transpose()?;
    let (log, logged) = log.unzip();
    let seed = plan.seed.unwrap_or_else(random_seed);
    let recorded = journal::Names::of(&router_params(plan, seed), &[]);
    let (watcher, mut taps) = opened.start(&recorded)?;
    taps.extend(logged);
    let netns = |_: usize, port: &PortPlan| ordinary.map_or_else(|| open_netns(port), |user| user.open(port));
    let network = Network::start(plan, seed, taps, netns)?;
    watcher.begin();
    for notice in network.notices.iter().chain(&network.refused) {
        out::note_line(format_args!("notice: {notice}"));
    }
    out::note_line(format_args!(
        "forwarding between {} with {} worker(s), seed {}; Ctrl-C ends it",
        network
            .ports
            .iter()
            .map(|port| &port.name)
            .chain(network.attached.iter().map(|port| &port.name))
            .cloned()
            .collect::<Vec<_>>()
            .join(", "),
        network.workers,
        network.seed
    ));
    if let Some(ordinary) = ordinary {
        out::note_line(
            "notice: not root: the namespaces are in a user namespace of this process and have no names. A command gets into one \
             behind these words:",
        );
        for door in ordinary.doors() {
            out::note_raw(format_args!("{door}\n"));
        }
    }
    let names = Names::of(plan, network.seed).with_attached(&network.attached);
    let served = Served {
        command: "run",
        config: Some(&args.config),
        params: router_params(plan, seed),
        names: &recorded,
        aim: Aim::default(),
        devices: serving::devices(&network.ports, &network.attached),
        attachments: serving::attachments(&network.attached),
        is_recorded: args.watching.journal.is_some() || args.watching.pcap.is_some(),
        notes: watcher.notes(),
    };
    let control = serving::serve(door, network.engine(), served)?;
    ready.say()?;
    watch(&network, &signals, plan.duration, &names)?;
    drain(&network, &signals, args.drain)?;
    let mut summary = network.stop()?;
    drop(control);
    summary.unlogged = log.map_or(Ok(0), LiveLog::finish)?;
    let (recorded, _) = watcher.finish_or(&signals);
    for sentence in &recorded.said {
        out::note_line(format_args!("notice: {sentence}"));
    }
    Ok((summary, names, recorded))
}

/// A log of each path of the plan.
fn start_log(plan: &Plan, folder: &Path) -> Result<(LiveLog, Taps), LogError> {
    let wanted = |path| {
        let [from, to] = names_of(plan, path);
        Wanted { file: format!("{from}:{to}.log"), direction: format!("{from} to {to}"), path }
    };
    let paths: Vec<_> = plan.paths.iter().map(wanted).collect();
    if paths.is_empty() {
        out::note_line("notice: no log is written: there is no path in the configuration");
    }
    LiveLog::start(folder, "run", &paths)
}

fn names_of<'a>(plan: &'a Plan, path: &PathPlan) -> [&'a str; 2] {
    [path.from, path.to].map(|port| plan.ports[port].name.as_str())
}

/// Shows a live line until a signal comes, the time is over or a worker ends.
fn watch(
    network: &Network,
    signals: &Signals,
    duration: Option<Duration>,
    names: &Names,
) -> anyhow::Result<()> {
    let mut live = LiveLine::open();
    let end = duration.map_or(Instant::FAR, |duration| Instant::ZERO + duration);
    let mut before = None;
    let mut ended = vec![false; network.attached.len()];
    loop {
        for (port, ended) in network.attached.iter().zip(&mut ended).filter(|(_, ended)| !**ended) {
            *ended = port.has_ended();
            if *ended {
                out::note_line(format_args!("port {}: {} or its device has ended", port.name, port.label()));
            }
        }
        let now = network.engine().clock().now();
        if now >= end || network.engine().has_failed() {
            break;
        }
        let left = millis_until(end, now).min(REFRESH);
        match signals.wait(left)?.map(|received| received.signal) {
            Some(Signal::SIGUSR1) => {
                if let Some(live) = &mut live {
                    live.clear();
                }
                out::note(summary::table(&network.summary()?, names, Stream::Stderr.columns()));
            }
            Some(signal) if ends(signal) => break,
            _ => {}
        }
        if let Some(live) = live.as_mut().filter(|_| !network.engine().has_failed()) {
            let summary = network.summary()?;
            let now = network.engine().clock().now();
            live.show(summary::live_line(&summary, now, before.as_ref()));
            before = Some((now, summary));
        }
    }
    if let Some(live) = &mut live {
        live.clear();
    }
    Ok(())
}

/// Accepts no more packets, and continues until no packet is held, for at most `most`, or until another signal comes.
fn drain(network: &Network, signals: &Signals, most: Duration) -> anyhow::Result<()> {
    let clock = network.engine().clock();
    let end = clock.now() + most;
    // A failed worker reports its error when it is stopped.
    if network.engine().close().is_err() {
        return Ok(());
    }
    while clock.now() < end && network.held().is_ok_and(|held| held > 0) {
        if signals.wait(LOOK)?.is_some_and(|received| ends(received.signal)) {
            break;
        }
    }
    Ok(())
}

fn finish(summary: &Summary, names: &Names, json: &Json) -> ExitCode {
    if let Err(error) = json::result(summary::json(summary, names)) {
        return fail(1, reasons(&error));
    }
    if !json.is_on_stdout() {
        out::print(summary::table(summary, names, Stream::Stdout.columns()));
    }
    if summary.total.is_conserved() {
        ExitCode::SUCCESS
    } else {
        fail(1, "packets are unaccounted for; this is a bug in faultwire")
    }
}
