//! `faultwire attach`: faults on an existing device.

mod wanted;

use std::process::ExitCode;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::attach;
use crate::bpf::HookCounters;
use crate::capture::live::{LiveLog, check_folder};
use crate::cli::args::Attach;
use crate::cli::attach::wanted::Wanted;
use crate::cli::json::{self, Json};
use crate::cli::log::start_log;
use crate::cli::out::{LiveLine, Stream};
use crate::cli::serving::{self, Served};
use crate::cli::session;
use crate::cli::signals::{Received, Signals, millis_until};
use crate::cli::summary::{self, Names};
use crate::cli::watching::Opened;
use crate::cli::{WRONG, fail, out, reasons};
use crate::config::plan::PathPlan;
use crate::control::{Attachment, Device as Tap, Door};
use crate::engine::network::Summary;
use crate::engine::wire::{NETWORK, TARGET, Wire, WirePlan};
use crate::journal;
use crate::net::lookup::Device;
use crate::net::target::{Target, TargetRef};
use crate::net::{link, privilege};
use crate::pipeline::time::{Duration, Instant};

/// Fewer packets were hit than expected.
const MISSED: u8 = 3;
/// Milliseconds between two checks of the target and the device.
const LOOK: u16 = 200;
/// Time between two live lines.
const REFRESH: Duration = Duration::from_millis(1000);
/// Milliseconds for which `--dry-run` counts.
const COUNT: u16 = 1_000;

/// Why an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Signal,
    Time,
    Target,
    Device,
    Worker,
}

/// Attaches until told to stop.
pub(super) fn attach(args: &Attach) -> ExitCode {
    if let Some(error) = args.log.as_deref().and_then(|folder| check_folder(folder).err()) {
        return fail(WRONG, error);
    }
    let wanted = match Wanted::read(args) {
        Ok(wanted) => wanted,
        Err(error) => return fail(WRONG, error),
    };
    let recorded = journal::Names::of(&wanted.plan.router(), &["up", "down"]);
    let opened = match args.watching.open(&recorded) {
        Ok(opened) => opened,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    if let Err(error) = privilege::check() {
        return fail(1, error);
    }
    let (target, device) = match find(args, &wanted) {
        Ok(found) => found,
        Err(error) => return fail(WRONG, error),
    };
    if args.dry_run {
        return dry_run(&target, &device, &args.json).unwrap_or_else(|error| fail(1, reasons(&error)));
    }
    let door = match args.serving.open(|text| out::note_line(format_args!("notice: {text}"))) {
        Ok(door) => door,
        Err(error) => return fail(WRONG, error),
    };
    let done = run(args, &wanted, (&opened, &recorded, door), &target, &device);
    done.unwrap_or_else(|error| fail(1, reasons(&error)))
}

/// The target and its device, if faultwire can attach to them.
fn find(args: &Attach, wanted: &Wanted) -> anyhow::Result<(Target, Device)> {
    let target = match args {
        Attach { netns: Some(name), .. } => TargetRef::Netns(name.clone()),
        Attach { pid: Some(pid), .. } => TargetRef::Pid(*pid),
        Attach { container: Some(name), .. } => TargetRef::Container(name.clone()),
        _ => TargetRef::Own,
    };
    let target = Target::find(&target)?;
    if target.is_own && args.dev.is_none() {
        anyhow::bail!(
            "the target, {}, is in this host's own network namespace: choose the device with --dev, or another target with --netns, \
             --pid or --container",
            target.label
        );
    }
    let device = attach::find(&target.netns, args.dev.as_deref())?;
    let stages = [&wanted.plan.up[..], &wanted.plan.down];
    if !device.is_up {
        out::note_line(format_args!(
            "notice: {} is down; no packet passes it until it is set up",
            device.name
        ));
    }
    if !args.yes && !args.dry_run && session::may_be_cut(&target, &device, stages)? {
        anyhow::bail!(
            "{}. Aim them by --match (as 'not tcp port 22'), or add --yes if that is meant, and --for TIME so that it ends \
             by itself",
            session::danger(&device)
        );
    }
    Ok((target, device))
}

/// Prints the device that would be used, and its traffic during one second.
fn dry_run(target: &Target, device: &Device, json: &Json) -> anyhow::Result<ExitCode> {
    let before = link::stats(&target.netns, &device.name)?;
    // The result is the traffic in a time, so that time has to pass.
    Signals::only(&[Signal::SIGINT, Signal::SIGTERM])?.wait(COUNT)?;
    let after = link::stats(&target.netns, &device.name)?;
    let [sent, received] = [
        (after.tx_packets - before.tx_packets, after.tx_bytes - before.tx_bytes),
        (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes),
    ];
    let amount = |(packets, bytes): (u64, u64)| json!({ "packets": packets, "bytes": bytes });
    json::result(json!({
        "would_attach": {
            "device": device.name, "target": target.label,
            "sent_in_a_second": amount(sent), "received_in_a_second": amount(received),
        }
    }))?;
    if !json.is_on_stdout() {
        out::line(format_args!(
            "would attach to {} of {}: programs at its ingress and egress (tcx, before all others), two TAP devices beside it\n\
             in a second: {} packets sent, {} received ({} and {} bytes)",
            device.name, target.label, sent.0, received.0, sent.1, received.1
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn run(
    args: &Attach,
    wanted: &Wanted,
    (opened, recorded, door): (&Opened<'_>, &journal::Names, Door),
    target: &Target,
    device: &Device,
) -> anyhow::Result<ExitCode> {
    let signals = Signals::watch()?;
    let plan = &wanted.plan;
    let paths = paths(plan);
    let start = |folder| start_log(folder, "attach", &paths);
    let (log, logged) = args.log.as_deref().map(start).transpose()?.unzip();
    let (watcher, mut taps) = opened.start(recorded)?;
    taps.extend(logged);
    let wire = Wire::start(&target.netns, device, plan, taps)?;
    watcher.begin();
    for notice in &wire.notices {
        out::note_line(format_args!("notice: {notice}"));
    }
    let names = Names::of_wire(wire.taps(), plan.seed);
    out::note_line(format_args!(
        "attached to {} of {}, seed {}; Ctrl-C detaches",
        device.name, target.label, plan.seed
    ));
    let device_of = |(port, tap): (&str, &String)| Tap {
        port: port.to_owned(),
        name: tap.clone(),
        netns: wire.netns().clone(),
    };
    let served = Served {
        command: "attach",
        config: args.config.as_deref(),
        params: plan.router(),
        names: recorded,
        devices: ["target", "network"].into_iter().zip(wire.taps()).map(device_of).collect(),
        attachments: vec![Attachment {
            port: "target".to_owned(),
            device: device.name.clone(),
            target: target.label.clone(),
        }],
        aim: wanted.aim.clone(),
        is_recorded: args.watching.journal.is_some() || args.watching.pcap.is_some(),
        notes: watcher.notes(),
    };
    let control = serving::serve(door, wire.engine(), served)?;
    let end = watch(&wire, target, (&signals, &names), wanted.duration)?;
    match end {
        End::Target => out::note_line(format_args!("{} has ended", target.label)),
        End::Device | End::Signal | End::Time | End::Worker => {}
    }
    let (mut summary, hooks) = wire.stop()?;
    drop(control);
    summary.unlogged = log.map_or(Ok(0), LiveLog::finish)?;
    let (recorded, _) = watcher.finish_or(&signals);
    for sentence in &recorded.said {
        out::note_line(format_args!("notice: {sentence}"));
    }
    // From here on, a signal ends faultwire even if its output is blocked.
    drop(signals);
    let code = finish(args, (&summary, &hooks, &names), end, &device.name);
    Ok(if recorded.has_failed { ExitCode::FAILURE } else { code })
}

/// Up and down.
fn paths(plan: &WirePlan) -> [PathPlan; 2] {
    let up = PathPlan::new(TARGET, NETWORK, plan.up.clone());
    let down = PathPlan::new(NETWORK, TARGET, plan.down.clone());
    [up, down]
}

/// Shows a live line until a signal comes, the time is over, or the target, its device or the worker ends.
fn watch(
    wire: &Wire,
    target: &Target,
    (signals, names): (&Signals, &Names),
    duration: Option<Duration>,
) -> anyhow::Result<End> {
    let mut live = LiveLine::open();
    let clock = wire.engine().clock();
    let over = duration.map_or(Instant::FAR, |duration| clock.now() + duration);
    let mut before: Option<(Instant, Summary)> = None;
    let end = loop {
        let now = clock.now();
        let left = millis_until(over, now).min(LOOK);
        match signals.wait_or(target.end(), left)? {
            Some(Received { signal: Signal::SIGUSR1, .. }) => {
                if let Some(live) = &mut live {
                    live.clear();
                }
                out::note(summary::table(&wire.summary()?, names, Stream::Stderr.columns()));
            }
            Some(received) if received.signal != Signal::SIGCHLD => break End::Signal,
            _ => {}
        }
        if clock.now() >= over {
            break End::Time;
        }
        if wire.engine().has_failed() {
            break End::Worker;
        }
        if target.has_ended() {
            break End::Target;
        }
        if !wire.is_attached() {
            break End::Device;
        }
        let now = clock.now();
        let is_due = before.as_ref().is_none_or(|(at, _)| now.since(*at) >= REFRESH);
        if let Some(live) = live.as_mut().filter(|_| is_due) {
            let summary = wire.summary()?;
            live.show(summary::live_line(&summary, now, before.as_ref()));
            before = Some((now, summary));
        }
    };
    if let Some(live) = &mut live {
        live.clear();
    }
    Ok(end)
}

fn finish(
    args: &Attach,
    (summary, hooks, names): (&Summary, &[HookCounters; 2], &Names),
    end: End,
    device: &str,
) -> ExitCode {
    let hit = hits(summary);
    let mut value = summary::json(summary, names);
    value["ended_by"] = format!("{end:?}").to_lowercase().into();
    value["hit"] = hit.into();
    value["hooks"] = json!({ "up": hook_json(&hooks[0]), "down": hook_json(&hooks[1]) });
    if let Err(error) = json::result(value) {
        return fail(1, reasons(&error));
    }
    if !args.json.is_on_stdout() {
        out::print(summary::table(summary, names, Stream::Stdout.columns()));
        for (direction, hook) in ["up", "down"].iter().zip(hooks) {
            out::line(format_args!(
                "{direction}: {} packets or trains went through faultwire, {} passed in the kernel",
                hook.detoured, hook.passed
            ));
            if hook.foreign > 0 {
                out::line(format_args!(
                    "notice: {direction}: {} packets or trains carried the mark of another program of this host and passed \
                     untouched",
                    hook.foreign
                ));
            }
        }
        out::line(format_args!(
            "{hit} hits: packets that a stage dropped, delayed, changed, copied or answered"
        ));
    }
    if !summary.total.is_conserved() {
        return fail(1, "packets are unaccounted for; this is a bug in faultwire");
    }
    if end == End::Device {
        return fail(
            1,
            format!("the device {device} is gone: it was removed, or moved to another network namespace"),
        );
    }
    match args.expect_hit {
        Some(expected) if hit < expected => {
            fail(MISSED, format!("the faults hit {hit} packets, and at least {expected} were expected"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Wire packets to which stages did something; a packet that several stages hit counts for each.
fn hits(summary: &Summary) -> u64 {
    let stages = summary.total.paths.iter().flat_map(|path| &path.stages);
    stages.map(|stage| stage.counters.hit()).sum()
}

fn hook_json(hook: &HookCounters) -> Value {
    json!({
        "detoured": hook.detoured, "passed": hook.passed, "returned": hook.returned, "foreign": hook.foreign,
    })
}
