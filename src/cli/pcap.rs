//! `faultwire pcap`: a capture through a path.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail};
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::capture::mahimahi::Log;
use crate::capture::{Format, LinkType, Outcome, Outputs, Replay, Sink, Source};
use crate::cli::args::Pcap;
use crate::cli::json;
use crate::cli::out::Stream;
use crate::cli::signals::{Received, Signals};
use crate::cli::summary::{self, Names};
use crate::cli::{WRONG, fail, faults, is_same, kind, out, reasons};
use crate::config::plan::{NetnsRef, PathPlan, PortPlan};
use crate::config::{self, Kind, Plan};
use crate::engine::Clock;
use crate::engine::network::{Summary, router_params};
use crate::journal::names::is_called;
use crate::pipeline::time::{Duration, Instant};

/// The capture is broken, or an output failed.
const FAILED: u8 = 1;
/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// If a signal has not been read after this many milliseconds, it ends the process.
const GRACE: u16 = 800;

type Output = BufWriter<Box<dyn Write>>;

/// The checked arguments.
struct Ready {
    replay: Replay,
    names: Names,
    source: Source<Input>,
    watch: Rc<Watch>,
    /// Link type of the first packet, and how long its frame check sequence is.
    link: (LinkType, u8),
}

/// Reads the bytes of the capture, until they end or Ctrl-C is pressed.
struct Input {
    file: File,
    watch: Rc<Watch>,
}

/// Waits for a signal to end.
struct Watch {
    signals: Signals,
    /// The first Ctrl-C also ends the program that writes into our pipe; we read its last output.
    waits: Cell<bool>,
}

impl Watch {
    /// Why to stop, if this signal was received.
    fn reason(&self, received: Option<Received>) -> Option<String> {
        let received = received?;
        if received.by_terminal && self.waits.take() {
            return None;
        }
        // Little work is left; the next Ctrl-C need not wait for it.
        Signals::end_watch();
        Some(format!("ended by {}", received.signal))
    }

    /// Why to stop, if a signal has come.
    fn stopped(&self) -> Option<String> {
        match self.signals.came() {
            Ok(received) => self.reason(received),
            Err(error) => Some(format!("signals cannot be read: {error}")),
        }
    }
}

impl Input {
    fn open(path: &Path) -> std::io::Result<Self> {
        let signals = Signals::only(&[Signal::SIGINT, Signal::SIGTERM])?;
        signals.insist(PollTimeout::from(GRACE))?;
        let waits = is_stream(path);
        let file = if waits { stdin().as_fd().try_clone_to_owned()?.into() } else { File::open(path)? };
        Ok(Self { file, watch: Rc::new(Watch { signals, waits: Cell::new(waits) }) })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(received) = self.watch.signals.before(self.file.as_fd())? {
            if let Some(reason) = self.watch.reason(Some(received)) {
                return Err(std::io::Error::other(reason));
            }
        }
        let length = self.file.read(buffer)?;
        if length == 0 {
            // The writer has written everything.
            self.watch.waits.set(false);
        }
        Ok(length)
    }
}

/// Sends the capture through the path, and reports the result.
pub(super) fn pcap(args: &Pcap) -> ExitCode {
    if is_stream(&args.output) {
        json::spare_stdout();
    }
    let mut ready = match prepare(args) {
        Ok(ready) => ready,
        Err(error) => return fail(WRONG, reasons(&error)),
    };
    let clock = Clock::start();
    let outcome = match run(args, &mut ready) {
        Ok(outcome) => outcome,
        Err(error) => return fail(FAILED, reasons(&error)),
    };
    let took = clock.now().since(Instant::ZERO);
    let Ready { names, source, .. } = ready;
    // From here on, a signal ends the process even if its output is blocked.
    drop(source);
    if let Err(error) = report(args, &outcome, &names, took) {
        return fail(FAILED, reasons(&error));
    }
    match &outcome.broken {
        Some(error) => fail(FAILED, format!("{} {error}; what was read was processed", args.input.display())),
        None => ExitCode::SUCCESS,
    }
}

/// Checks everything that can be refused, before anything is written.
fn prepare(args: &Pcap) -> anyhow::Result<Ready> {
    let (plan, path) = plan(args)?;
    let seed = args.seed.or(plan.seed).unwrap_or(0);
    let mut router = router_params(&plan, seed);
    for port in &mut router.ports {
        // The path has no port at its end, so no port MTU applies.
        port.mtu = u32::MAX;
    }
    let files = [Some(&args.output), args.dropped.as_ref(), args.answers.as_ref(), args.log.as_ref()];
    for (index, file) in files.iter().flatten().enumerate() {
        let others = files.iter().flatten().skip(index + 1);
        let is_input = is_same(&args.input, file);
        if is_input || others.into_iter().any(|other| is_same(file, other)) || json::goes_to(file) {
            bail!("{} is given twice: give every file a name of its own", file.display());
        }
    }
    if json::goes_to(&args.input) {
        bail!(
            "{} is read, and --json would replace it: give every file a name of its own",
            args.input.display()
        );
    }
    let input =
        Input::open(&args.input).with_context(|| format!("{} cannot be read", args.input.display()))?;
    let told = |error| anyhow::anyhow!("{} {error}", args.input.display());
    let watch = Rc::clone(&input.watch);
    let mut source = Source::new(input).map_err(told)?;
    let link = source.peek().map_err(told)?;
    let names = Names::of(&plan, seed);
    let replay = Replay { router, path, only_from: args.from.clone() };
    Ok(Ready { replay, names, source, watch, link })
}

/// The plan, and the number of the path that is meant.
fn plan(args: &Pcap) -> anyhow::Result<(Plan, usize)> {
    if let Some(text) = &args.spec {
        let spec = faults::read(text, args.mode.into())?;
        // The same names as in `exec`: the draws depend on them.
        let port = |name: &str| PortPlan::new(name, NetnsRef::Own, Vec::new());
        let path = PathPlan::new(1, 0, spec.stages);
        let mut plan = Plan::new(vec![port("host"), port("cmd")], vec![path]);
        plan.seed = spec.seed;
        plan.identity = args.identity.into();
        return Ok((plan, 0));
    }
    let file = args.config.as_deref().context("give --spec or --config")?;
    let plan = kind::load(file, Kind::Config, config::parse).map_err(anyhow::Error::msg)?;
    for warning in &plan.warnings {
        out::note_line(format_args!("warning: {warning}"));
    }
    let name = |path: &PathPlan| format!("{}>{}", plan.ports[path.from].name, plan.ports[path.to].name);
    let names: Vec<String> = plan.paths.iter().map(name).collect();
    let file = file.display();
    match (&args.path, &names[..]) {
        (_, []) => bail!("{file} has no path: nothing would be done to a packet"),
        (Some(wanted), _) => match names.iter().position(|name| is_called(name, wanted)) {
            Some(index) => Ok((plan, index)),
            None => bail!("--path: {file} has no path {wanted}; there are: {}", names.join(", ")),
        },
        (None, [_]) => Ok((plan, 0)),
        (None, _) => bail!("say which path of {file} is meant: --path '{}'", names.join("' or --path '")),
    }
}

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn run(args: &Pcap, ready: &mut Ready) -> anyhow::Result<Outcome> {
    let format = match args.output.extension().and_then(|extension| extension.to_str()) {
        Some("pcap") => Format::Pcap,
        Some("pcapng") => Format::PcapNg,
        _ if ready.source.is_pcapng() => Format::PcapNg,
        _ => Format::Pcap,
    };
    let create = |path: &Path, format: Format| -> anyhow::Result<Sink<Output>> {
        let output: Box<dyn Write> = if is_stream(path) {
            Box::new(stdout().lock())
        } else {
            Box::new(File::create(path).with_context(|| format!("{} cannot be written", path.display()))?)
        };
        let (number, fcs) = ready.link;
        Ok(Sink::new(BufWriter::with_capacity(BUFFER, output), format, number, fcs)?)
    };
    let extra = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map(|path| create(path, Format::PcapNg)).transpose()
    };
    let outputs = Outputs {
        sent: create(&args.output, format)?,
        dropped: extra(&args.dropped)?,
        answers: extra(&args.answers)?,
        log: args.log.as_deref().map(|path| log(path, &ready.replay)).transpose()?,
    };
    let watch = &ready.watch;
    Ok(ready.replay.run_until(&mut ready.source, outputs, || watch.stopped())?)
}

/// A log for Mahimahi's scripts.
fn log(path: &Path, replay: &Replay) -> anyhow::Result<Log<Output>> {
    let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let output: Box<dyn Write> = Box::new(file);
    let output = BufWriter::with_capacity(BUFFER, output);
    Ok(Log::new(output, &replay.router.paths[replay.path], "Uplink", "pcap")?)
}

/// Prints the result; on standard error if the packets go to standard output.
fn report(args: &Pcap, outcome: &Outcome, names: &Names, took: Duration) -> anyhow::Result<()> {
    let total = outcome.report.clone();
    let summary = Summary { total, links: Vec::new(), workers: Vec::new(), unlogged: 0 };
    let stream = if is_stream(&args.output) { Stream::Stderr } else { Stream::Stdout };
    let mut json = summary::json(&summary, names);
    if let Some(fields) = json.as_object_mut() {
        for live in ["workers", "ports", "lateness_ns"] {
            fields.remove(live);
        }
    }
    json["capture"] = json!({
        "packets": outcome.packets,
        "not_ip": outcome.not_ip,
        "unknown_link": outcome.unknown_link,
        "from_elsewhere": outcome.elsewhere,
        "too_long": outcome.too_long,
        "cut": outcome.cut,
        "backwards": outcome.backwards,
        "blocks_copied": outcome.copied,
        "blocks_left_out": outcome.private,
        "unsaid": outcome.unsaid,
        "span_seconds": outcome.span.as_secs_f64(),
        "broken": outcome.broken.as_ref().map(ToString::to_string),
    });
    json::result(json)?;
    if args.json.is_on_stdout() {
        return Ok(());
    }
    let speed = outcome.packets as f64 / took.as_secs_f64().max(1e-9);
    let (lines, table) = (capture_lines(outcome), summary::table(&summary, names, stream.columns()));
    let text = format!("{lines}\ntaken through at {speed:.0} packets/s\n{table}");
    match stream {
        Stream::Stderr => out::note(text),
        Stream::Stdout => out::print(text),
    }
    Ok(())
}

fn capture_lines(outcome: &Outcome) -> String {
    let mut lines = vec![format!("{} packets in {:.6} s", outcome.packets, outcome.span.as_secs_f64())];
    for (count, what) in [
        (outcome.not_ip, "are not IP and passed at their own time"),
        (outcome.unknown_link, "have a link type that cannot be read and passed at their own time"),
        (outcome.elsewhere, "come from elsewhere and passed at their own time"),
        (outcome.too_long, "are longer than any IP packet and passed at their own time"),
        (outcome.cut, "were cut off in the capture: the missing bytes count as zeros"),
        (outcome.backwards, "have a time before that of an earlier one, and were taken at that one's"),
    ] {
        if count > 0 {
            lines.push(format!("  {count} {what}"));
        }
    }
    for (count, what) in [
        (outcome.copied, "other blocks of the capture were copied"),
        (
            outcome.private,
            "custom blocks were left out: they are not to be copied by programs that do not know them",
        ),
        (
            outcome.unsaid,
            "packets or blocks have names, comments or secrets that a pcap file cannot hold: name it .pcapng",
        ),
    ] {
        if count > 0 {
            lines.push(format!("{count} {what}"));
        }
    }
    lines.join("\n")
}
