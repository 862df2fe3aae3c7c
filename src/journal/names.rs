//! Names for the numbers in records: the first block of a journal file.

use serde::{Deserialize, Serialize};

use crate::journal::record::{NO_REASON, NONE, Record};
use crate::pipeline::counters::Reason;
use crate::pipeline::params::PathParams;

/// The version of the format.
pub const VERSION: u32 = 1;

/// What the records of a run are about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Version of the format.
    pub version: u32,
    /// Seed of the run.
    pub seed: u64,
    /// When the router's clock was zero, in nanoseconds since 1970.
    pub started_ns: u64,
    /// The ports.
    pub ports: Vec<String>,
    /// The paths that the configuration has; others have no name.
    pub paths: Vec<PathNames>,
    /// Names of the reasons, by their number.
    pub reasons: Vec<String>,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNames {
    /// What the path is called: `FROM>TO` or, of `exec` and `attach`, `up` and `down`.
    pub name: String,
    /// Its stages, in order.
    pub stages: Vec<String>,
}

impl Names {
    /// Names for a router of `paths`, which are called `labels` where there are some, whose clock began now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of day is for the reader of the file, no packet sees it"
    )]
    pub fn new(seed: u64, ports: Vec<String>, paths: &[PathParams], labels: &[&str]) -> Self {
        let path = |(number, path): (usize, &PathParams)| PathNames {
            name: labels.get(number).map_or_else(
                || format!("{}>{}", ports[path.from], ports[path.to]),
                |label| (*label).to_owned(),
            ),
            stages: path.stages.iter().map(|stage| stage.name.clone()).collect(),
        };
        let paths = paths.iter().enumerate().map(path).collect();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let reasons = Reason::ALL.map(|reason| reason.name().to_owned()).into();
        Self { version: VERSION, seed, started_ns: since.as_nanos() as u64, ports, paths, reasons }
    }

    /// Name of a port.
    pub fn port(&self, port: u16) -> &str {
        self.ports.get(usize::from(port)).map_or("?", String::as_str)
    }

    /// The number of the path that is called `name`.
    pub fn path(&self, name: &str) -> Option<u16> {
        self.paths.iter().position(|path| path.name == name).map(|at| at as u16)
    }

    /// `PATH/STAGE`, `PATH`, or `router` for what happened on no path.
    pub fn place(&self, record: &Record<'_>) -> String {
        if record.path == NONE {
            return "router".to_owned();
        }
        let path = self.paths.get(usize::from(record.path));
        let name = path.map_or_else(|| format!("path {}", record.path), |path| path.name.clone());
        if record.stage == NONE {
            return name;
        }
        match path.and_then(|path| path.stages.get(usize::from(record.stage))) {
            Some(stage) => format!("{name}/{stage}"),
            None => format!("{name}/stage {}", record.stage),
        }
    }

    /// Name of the reason of a record.
    pub fn reason(&self, record: &Record<'_>) -> Option<&str> {
        (record.reason != NO_REASON)
            .then(|| self.reasons.get(usize::from(record.reason)).map_or("unknown", String::as_str))
    }

    /// What happened, in a few words: `up/loss: dropped, 0.0031 < 0.01`.
    pub fn verdict(&self, record: &Record<'_>) -> String {
        let (place, what) = (self.place(record), record.kind.name());
        match (record.draw, self.reason(record)) {
            (Some(draw), _) => {
                let value = short(draw.value());
                format!("{place}: {what}, {value} < {}", short(draw.threshold()))
            }
            (None, Some(reason)) => format!("{place}: {what}, {reason}"),
            (None, None) => format!("{place}: {what}"),
        }
    }
}

/// Four significant digits.
fn short(number: f64) -> String {
    if number <= 0.0 {
        return "0".to_owned();
    }
    let digits = (3 - number.log10().floor() as i32).clamp(0, 15) as usize;
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::tests::record;

    #[test]
    fn a_verdict_says_where_what_and_why() {
        let mut names = Names::new(1, vec!["a".into(), "b".into()], &[], &[]);
        names.paths.push(PathNames { name: "up".into(), stages: vec!["loss".into()] });
        assert_eq!(names.verdict(&record()), "up/loss: dropped, 0.001953 < 0.007812");
        assert_eq!(names.verdict(&Record { draw: None, ..record() }), "up/loss: dropped, loss");
        assert_eq!(
            names.verdict(&Record { draw: None, stage: 9, reason: 200, ..record() }),
            "up/stage 9: dropped, unknown"
        );
        assert_eq!(
            names.verdict(&Record { draw: None, path: NONE, reason: NO_REASON, ..record() }),
            "router: dropped"
        );
        assert_eq!([1.0, 0.01, 0.5, 0.003_123].map(short), ["1", "0.01", "0.5", "0.003123"]);
    }
}
