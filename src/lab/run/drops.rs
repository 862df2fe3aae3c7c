//! The kernel's drop reasons in a run, recorded if an expectation asks for them: following every packet costs time.

use crate::lab::case::Run;
use crate::lab::check::Expectation;
use crate::lab::observe::drops::{DropTrace, NotTraced};
use crate::lab::value::Observations;

/// How the names of these observations begin: `drops.HOST.REASON`.
const FAMILY: &str = "drops.";

/// The reasons that expectations use, and the trace that records them.
pub(super) struct Drops {
    hosts: Vec<String>,
    /// Names that an expectation asks for.
    asked: Vec<String>,
    trace: Option<Result<DropTrace, NotTraced>>,
}

impl Drops {
    /// Records from now on, if `expect` asks for it.
    pub(super) fn start(run: &Run, expect: &[Expectation]) -> Self {
        let names = expect.iter().flat_map(Expectation::names);
        let asked: Vec<String> = names.filter(|name| name.starts_with(FAMILY)).map(str::to_owned).collect();
        let ports = || run.network.hosts.iter().map(|host| &host.port);
        let devices = || ports().map(|port| port.device.clone()).collect();
        let trace = (!asked.is_empty()).then(|| DropTrace::start(std::process::id(), devices()));
        Self { hosts: ports().map(|port| port.name.clone()).collect(), asked, trace }
    }

    /// All drops so far. Reasons that expectations use and that did not occur are zero, or not observable.
    pub(super) fn observe(&mut self, observed: &mut Observations) {
        let Some(trace) = &mut self.trace else { return };
        if let Ok(open) = trace
            && let Err(error) = open.drain()
        {
            *trace = Err(NotTraced::Closed { what: "read trace_pipe".to_owned(), why: error.to_string() });
        }
        if let Ok(trace) = trace {
            for (host, reason, count) in trace.counts() {
                observed.set(format!("{FAMILY}{}.{reason}", self.hosts[host]), count);
            }
        }
        for name in &self.asked {
            let host_and_reason = name.strip_prefix(FAMILY).and_then(|rest| rest.split_once('.'));
            let Some((host, reason)) = host_and_reason else { continue };
            // A host that does not exist is a mistake in the file, and fails as such.
            let Some(host) = self.hosts.iter().position(|known| known == host) else { continue };
            let count = trace.as_ref().map_err(Clone::clone).and_then(|trace| trace.count(host, reason));
            match count {
                Ok(count) => observed.set(name, count),
                Err(why) => observed.miss(name, why.to_string()),
            }
        }
    }
}
