//! Runs a case: creates its network, sends its traffic, and compares observations with expectations.
//!
//! The router runs in this process; every host is a separate namespace that exists as long as the run.

mod drops;
mod evidence;
mod limits;
mod network;
mod recording;
mod step;

pub use recording::{Recorded, Recorder, RunId};

use std::time::Duration;

use crate::engine::{EngineError, NetworkError};
use crate::lab::case::{Case, Kind, Run, Step, Sweep, Target, Trial};
use crate::lab::check::{Expectation, Verdict};
use crate::lab::clock::{self, Deadline};
use crate::lab::report::{self, CaseStory, TrialStory};
use crate::lab::run::network::Lab;
use crate::lab::traffic::clients::Clocks;
use crate::lab::traffic::probe::Place;
use crate::lab::traffic::udp::Answer;
use crate::lab::value::Observations;
use crate::net::NetError;

/// Time between two reads of counters, while expectations are not met yet.
const LOOK: Duration = Duration::from_millis(20);

/// Why a case could not be run. A case that runs and fails is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A namespace or a kernel setting.
    #[error("host {host}: {source}")]
    Host {
        /// Its name.
        host: String,
        /// What.
        source: NetError,
    },
    /// The router's devices or workers.
    #[error("the router: {0}")]
    Network(#[from] NetworkError),
    /// The router stopped by itself.
    #[error("the router: {0}")]
    Engine(#[from] EngineError),
    /// The requested recording is not possible.
    #[error("{0}")]
    Record(String),
    /// Traffic that could not be started.
    #[error("traffic {step}: {source}")]
    Traffic {
        /// Name of the step.
        step: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Counters that could not be read.
    #[error("observing {host}: {source}")]
    Observe {
        /// Name of the host.
        host: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Runs the case and its controls; `progress` is called with the name of each before it starts.
///
/// # Errors
/// The first thing that could not be made or done. Nothing is left behind.
pub fn run_case(case: &Case, progress: impl FnMut(&str)) -> Result<CaseStory, RunError> {
    record_case(case, progress, &mut recording::Nobody)
}

/// As [`run_case`], recorded by `recorder`.
///
/// # Errors
/// As there, or if the recording is not possible.
pub fn record_case(
    case: &Case,
    mut progress: impl FnMut(&str),
    recorder: &mut dyn Recorder,
) -> Result<CaseStory, RunError> {
    let trials = (0..)
        .zip(&case.trials)
        .map(|(number, trial)| {
            progress(trial.control.as_deref().unwrap_or("the case itself"));
            let control = trial.control.as_ref().map(|_| number);
            run_trial(trial, control, case.seed, recorder)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (name, title, story) = (case.name.clone(), case.title.clone(), case.story.clone());
    Ok(CaseStory { name, title, story, seed: case.seed, trials })
}

/// The observations of one run.
struct Outcome {
    observed: Observations,
    verdicts: Vec<Verdict>,
    diagram: report::Diagram,
    drops: Vec<String>,
    notices: Vec<String>,
}

fn run_trial(
    trial: &Trial,
    control: Option<usize>,
    seed: u64,
    recorder: &mut dyn Recorder,
) -> Result<TrialStory, RunError> {
    let first = trial.runs.first();
    let mut worked = Vec::new();
    let mut last = None;
    for run in &trial.runs {
        // In a sweep, each run is only judged by whether it works; the trial's expectations apply to all runs
        // together.
        let expect: &[Expectation] = if trial.sweep.is_some() { &[] } else { &trial.expect };
        let id = RunId { control, value: run.value };
        let outcome = run_once(run, seed, expect, (id, recorder))?;
        if let Some(Sweep { works, .. }) = &trial.sweep {
            worked.push((run.value.unwrap_or_default(), works.judge(&outcome.observed).pass));
        }
        last = Some(outcome);
    }
    let Outcome { mut observed, mut verdicts, diagram, drops, notices } = last.unwrap_or_else(|| Outcome {
        observed: Observations::default(),
        verdicts: Vec::new(),
        diagram: report::Diagram::default(),
        drops: Vec::new(),
        notices: Vec::new(),
    });
    if trial.sweep.is_some() {
        observe_sweep(&worked, &mut observed);
        verdicts = trial.expect.iter().map(|expectation| expectation.judge(&observed)).collect();
    }
    Ok(TrialStory {
        control: trial.control.clone(),
        network: first.map(|run| report::network::drawing(&run.network)).unwrap_or_default(),
        traffic: first
            .map(|run| run.traffic.iter().map(|step| describe(step, run)).collect())
            .unwrap_or_default(),
        diagram,
        drops,
        notices,
        verdicts,
        observed,
    })
}

/// The threshold is the smallest value from which on everything works.
fn observe_sweep(worked: &[(i64, bool)], observed: &mut Observations) {
    let threshold = worked.iter().rev().take_while(|(_, works)| *works).last();
    let (count, tried) = (worked.iter().filter(|(_, works)| *works).count(), worked.len());
    observed.set("sweep.worked", count as u64);
    observed.set("sweep.tried", tried as u64);
    match threshold {
        Some(&(value, _)) if count < tried => observed.set("sweep.threshold", value.unsigned_abs()),
        _ => observed.set("sweep.threshold", "none"),
    }
}

fn run_once(
    run: &Run,
    seed: u64,
    expect: &[Expectation],
    (id, recorder): (RunId, &mut dyn Recorder),
) -> Result<Outcome, RunError> {
    let mut lab = Lab::start(run, seed, expect, |params| recorder.prepare(id, params))?;
    recorder.begin();
    let before = lab.counters()?;
    let mut observed = Observations::default();
    let servers = step::play(run, &lab, &mut observed)?;
    let deadline = Deadline::after(run.settle.into());
    let verdicts = loop {
        lab.observe(&before, expect, &mut observed)?;
        servers.observe(&mut observed);
        let verdicts: Vec<_> = expect.iter().map(|expectation| expectation.judge(&observed)).collect();
        let settled = verdicts.iter().all(|verdict| verdict.pass);
        let Some(left) = deadline.left().filter(|_| !settled) else { break verdicts };
        clock::pause(LOOK.min(left));
    };
    servers.stop(&mut observed)?;
    let mut notices = lab.notices();
    let records = lab.stop(&mut observed)?;
    let Recorded { drops, notices: unrecorded } = recorder.finish();
    notices.extend(unrecorded);
    notices.extend(limits::notices(run, &observed));
    let diagram = draw(run, &records);
    Ok(Outcome { observed, verdicts, diagram, drops, notices })
}

/// Draws the diagram: the server, or else the second host, is on the right, and all others are on the left.
fn draw(run: &Run, records: &[report::Record]) -> report::Diagram {
    let names: Vec<&str> = run.network.hosts.iter().map(|host| host.port.name.as_str()).collect();
    let right =
        names.iter().position(|name| *name == "server").unwrap_or(1).min(names.len().saturating_sub(1));
    let left: Vec<&str> =
        names.iter().enumerate().filter(|(at, _)| *at != right).map(|(_, name)| *name).collect();
    report::diagram(records, &left, names.get(right).copied().unwrap_or_default())
}

/// A line for the story.
fn describe(step: &Step, run: &Run) -> String {
    let host = |index: usize| run.network.hosts[index].port.name.clone();
    let to = |target: &Target| match target.host {
        Some(index) => format!("{} ({})", host(index), target.address),
        None => target.address.to_string(),
    };
    let what = match &step.kind {
        Kind::Serve(serve) => format!("listens on port {}", serve.port),
        Kind::Request { to: target, request, count } => {
            format!(
                "{count} request(s) of {} bytes to {}, within {:?}",
                request.size,
                to(target),
                request.timeout
            )
        }
        Kind::Connect(target, connect) => {
            format!("{} connection(s) to {}, within {:?} each", connect.count, to(target), connect.timeout)
        }
        Kind::Probe(target, probe) => format!(
            "{} probe(s) of {} to {}: RST {}, timestamp {}{}",
            probe.count,
            probe.source,
            to(target),
            if probe.place == Place::BeforeAck { "before the last ACK" } else { "after the last ACK" },
            probe.timestamp.name(),
            if probe.stale { ", sequence number stale" } else { "" }
        ),
        Kind::Clients(target, clients) => {
            let clocks = match &clients.clocks {
                Clocks::PerConnection => "each connection has a clock of its own".to_owned(),
                Clocks::Turns(offsets) => format!("clocks in turn, ahead by ms: {offsets:?}"),
            };
            format!("{} connection(s) of {} to {}, {clocks}", clients.count, clients.source, to(target))
        }
        Kind::Reuse(target, reuse) => format!(
            "two clients of {} to {}, from port {} and then {}: the second one's clock {}, sequence number {}",
            reuse.source,
            to(target),
            reuse.source_port,
            reuse.second_port,
            reuse.clock.name(),
            if reuse.ahead { "ahead" } else { "behind" }
        ),
        Kind::Stream(target, stream) => match (stream.bytes, stream.duration) {
            (Some(bytes), _) => format!("TCP stream of {bytes} bytes to {}", to(target)),
            (None, duration) => {
                format!("TCP stream to {} for {:?}", to(target), duration.unwrap_or_default())
            }
        },
        Kind::Talk(target, talk) => {
            let keepalive = talk.keepalive.map(|seconds| format!(", keepalives after {seconds}s"));
            format!(
                "{} message(s) on one connection to {}, {:?} of silence between them{}",
                talk.count,
                to(target),
                talk.silence,
                keepalive.unwrap_or_default()
            )
        }
        Kind::Udp(target, udp) => {
            let answered = match udp.answer {
                None => "",
                Some(Answer::First) => ", answered to where the first one came from",
                Some(Answer::Latest) => ", answered to where each came from",
            };
            format!(
                "{} datagrams of {} bytes to {}, one in {:?}{answered}",
                udp.count,
                udp.size,
                to(target),
                udp.interval
            )
        }
        Kind::Ping(target, ping) => format!("{} echo request(s) to {}", ping.count, to(target)),
        Kind::Trace(target, _) => format!("traces the hops to {}", to(target)),
        Kind::Sysctl(settings) => {
            let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("sets {}", settings.join(", "))
        }
        Kind::Wait(span) => format!("waits {span:?}"),
        Kind::Exec(exec) => format!("runs {}", exec.command.join(" ")),
    };
    format!("{}: {} {what}", step.name, host(step.host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::value::Value;

    fn threshold(worked: &[(i64, bool)]) -> Value {
        let mut observed = Observations::default();
        observe_sweep(worked, &mut observed);
        observed.value("sweep.threshold").unwrap().clone()
    }

    #[test]
    fn a_threshold_is_where_it_starts_to_work_for_good() {
        assert_eq!(threshold(&[(1, false), (2, false), (3, true), (4, true)]), Value::Count(3));
        assert_eq!(threshold(&[(1, true), (2, false), (3, true)]), Value::Count(3));
        assert_eq!(threshold(&[(1, true), (2, true)]), Value::from("none"));
        assert_eq!(threshold(&[(1, true), (2, false)]), Value::from("none"));
    }
}
