//! Trace files that a configuration names.

mod faults;
mod models;
mod theaterq;

use std::path::Path;
use std::sync::Arc;

use crate::config::reader::Value;
use crate::pipeline::link::capacity::{NoTrace, Opportunities};
use crate::pipeline::params::{
    BottleneckParams, Discipline, ImpairmentParams, ReplayRow, ServiceParams, Timetable,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

/// Bytes of one delivery opportunity of Mahimahi: an Ethernet payload and the four bytes that its devices put before it.
const OPPORTUNITY: u64 = 1_504;
/// Bytes that Mahimahi adds to the IP length of each packet.
pub(super) const MAHIMAHI_OVERHEAD: i32 = 4;

/// An error in a trace: the line, counted from 1, if one line is wrong, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Flaw {
    line: Option<usize>,
    what: String,
}

/// The trace in the file that `value` names, relative to the configuration's directory. Problems are reported.
fn mahimahi(value: &Value<'_>, repeats: bool) -> Option<Opportunities> {
    let path = value.directory().join(value.text()?);
    let hint = "a trace has one time in whole milliseconds a line, none before the one above it";
    read(&path, repeats).map_err(|what| value.problem(what, hint)).ok()
}

/// The service in the file that `value` names: a bandwidth model if its name ends in .json, otherwise a Mahimahi
/// trace, which repeats by default.
pub(super) fn service(value: &Value<'_>, repeats: Option<bool>) -> Option<ServiceParams> {
    let path = value.directory().join(value.text()?);
    if path.extension().is_none_or(|end| end != "json") {
        let times = mahimahi(value, repeats.unwrap_or(true))?;
        return Some(ServiceParams::Opportunities(Arc::new(times)));
    }
    let text = crate::config::text::read(&path).map_err(|error| format!("cannot be read: {error}"));
    let steps = text.and_then(|text| models::steps(&text, repeats));
    let told = |what: String| {
        let hint =
            "a model of netem-trace, such as {\"StaticBwConfig\":{\"bw\":\"12Mbps\",\"duration\":\"1s\"}}";
        value.problem(format!("{} {what}", path.display()), hint);
    };
    steps.map_err(told).ok().map(|steps| ServiceParams::Steps(Arc::new(steps)))
}

/// The delays of the model in the file that `value` names; repeated if the model or `repeats` says so.
pub(super) fn delays(value: &Value<'_>, repeats: Option<bool>) -> Option<Timetable<Duration>> {
    model(value, "{\"StaticDelayConfig\":{\"delay\":\"10ms\",\"duration\":\"1s\"}}", |text| {
        faults::delays(text, repeats)
    })
}

/// The patterns of a model of loss, as [`delays`].
pub(super) fn losses(value: &Value<'_>, repeats: Option<bool>) -> Option<Timetable<Vec<Probability>>> {
    model(value, "{\"StaticLossConfig\":{\"loss\":[0.1,0.2],\"duration\":\"1s\"}}", |text| {
        faults::losses(text, repeats)
    })
}

/// The patterns of a model of copies, as [`delays`].
pub(super) fn copies(value: &Value<'_>, repeats: Option<bool>) -> Option<Timetable<Vec<Probability>>> {
    let example = "{\"StaticDuplicateConfig\":{\"duplicate\":[0.1,0.2],\"duration\":\"1s\"}}";
    model(value, example, |text| faults::copies(text, repeats))
}

/// The result of `read` for the file that `value` names. Problems are reported.
fn model<T>(value: &Value<'_>, example: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    let path = value.directory().join(value.text()?);
    let text = crate::config::text::read(&path).map_err(|error| format!("cannot be read: {error}"));
    let told = |what: String| {
        value.problem(
            format!("{} {what}", path.display()),
            format!("a model of netem-trace, such as {example}"),
        );
    };
    text.and_then(|text| read(&text)).map_err(told).ok()
}

/// The table of TheaterQ's in the file that `value` names, and how long it lasts.
pub(super) fn table(value: &Value<'_>) -> Option<(Vec<ReplayRow>, Duration)> {
    let path = value.directory().join(value.text()?);
    let text = match crate::config::text::read(&path) {
        Ok(text) => text,
        Err(error) => {
            value.problem(format!("{} cannot be read: {error}", path.display()), "give the path of a table");
            return None;
        }
    };
    let told = |(line, what): (usize, String)| {
        let hint = "a row is KEEP,LATENCY,RATE,LOSS,LIMIT, or with JITTER, DUP_PROB, DUP_DELAY and ROUTE_ID";
        value.problem(format!("{}:{line}: {what}", path.display()), hint);
    };
    theaterq::parse(&text).map_err(told).ok()
}

/// The trace in the file at `path`, or what is wrong with it, with its name and line.
pub(super) fn read(path: &Path, repeats: bool) -> Result<Opportunities, String> {
    let text = crate::config::text::read(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    parse_mahimahi(&text, repeats).map_err(|flaw| {
        let place = flaw.line.map_or(String::new(), |line| format!(":{line}"));
        format!("{}{place}: {}", path.display(), flaw.what)
    })
}

/// A link by a trace with a queue without limit, as Mahimahi's own default.
pub(super) fn unlimited(times: Opportunities) -> ImpairmentParams {
    ImpairmentParams::Bottleneck(Box::new(BottleneckParams {
        service: ServiceParams::Opportunities(Arc::new(times)),
        overhead: MAHIMAHI_OVERHEAD,
        packets: None,
        bytes: None,
        discipline: Discipline::TailDrop,
        share: None,
    }))
}

/// One line for each delivery opportunity, in milliseconds from the start.
fn parse_mahimahi(text: &str, repeats: bool) -> Result<Opportunities, Flaw> {
    let time = |(index, line): (usize, &str)| {
        let flaw = |what: String| Flaw { line: Some(index + 1), what };
        match line.trim_end_matches('\r') {
            "" => Err(flaw("is empty".to_owned())),
            line => match line.parse::<u32>() {
                Ok(millis) => Ok(Duration::from_millis(millis.into())),
                Err(_) => Err(flaw(format!("{line:?} is not a time in whole milliseconds"))),
            },
        }
    };
    let times = text.lines().enumerate().map(time).collect::<Result<Vec<_>, _>>()?;
    Opportunities::new(times, OPPORTUNITY, repeats).map_err(|error| match error {
        NoTrace::Backwards(index) => Flaw { line: Some(index + 1), what: error.to_string() },
        NoTrace::Empty | NoTrace::NoTime => Flaw { line: None, what: error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_a_time_a_line() {
        let trace = parse_mahimahi("1\n2\n2\n5\n", true).unwrap();
        assert_eq!((trace.count(), trace.period()), (4, Duration::from_millis(5)));
        assert_eq!(trace, parse_mahimahi("1\r\n2\r\n2\r\n5", true).unwrap());
    }

    #[test]
    fn a_flaw_has_its_line() {
        for (text, line, word) in [
            ("", None, "no delivery opportunity"),
            ("0\n", None, "ends at time 0"),
            ("1\n\n3\n", Some(2), "empty"),
            ("1\n5\n4\n", Some(3), "back in time"),
            ("1\n2.5\n", Some(2), "whole milliseconds"),
            ("-1\n", Some(1), "whole milliseconds"),
            ("1 2\n", Some(1), "whole milliseconds"),
        ] {
            let flaw = parse_mahimahi(text, true).unwrap_err();
            assert!(flaw.line == line && flaw.what.contains(word), "{text:?}: {flaw:?}");
        }
    }
}
