//! Names for the numbers in records; they are the first block of a journal file.

use serde::{Deserialize, Serialize};

use crate::journal::record::{NO_REASON, NONE, Record};
use crate::pipeline::counters::Reason;
use crate::pipeline::params::RouterParams;
use crate::pipeline::router::Router;
use crate::pipeline::router::path::Path;

/// The version of the format.
pub const VERSION: u32 = 2;

/// Size of the flow table of the router that is built only for its names.
const FEWEST: usize = 8;

/// The names of a run's ports, paths, stages and reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Version of the format.
    pub version: u32,
    /// Seed of the run.
    pub seed: u64,
    /// The time at which the router's clock was zero, in nanoseconds since 1970.
    pub started_ns: u64,
    /// The ports.
    pub ports: Vec<String>,
    /// All paths of the router; those of the configuration first.
    pub paths: Vec<PathNames>,
    /// Names of the reasons, by their number.
    pub reasons: Vec<String>,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNames {
    /// The name of the path: `FROM>TO`, or for `exec` and `attach` `up` and `down`.
    pub name: String,
    /// Its seats, in order: the stages, and `STAGE/back` for the other direction of one that works in both.
    pub stages: Vec<String>,
}

impl Names {
    /// Names for the router that is built from `params`, with the seats that it adds to the paths itself. Its clock starts now. The
    /// first paths have the names `labels`, the others those of their ports.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of day is for the reader of the file, no packet sees it"
    )]
    pub fn of(params: &RouterParams, labels: &[&str]) -> Self {
        let params = RouterParams { flows: FEWEST, ..params.clone() };
        let router = Router::new(&params, &Router::shared(&params));
        let port = |port: u16| params.ports[usize::from(port)].name.as_str();
        let path = |(number, path): (usize, &Path)| PathNames {
            name: match labels.get(number) {
                Some(label) => (*label).to_owned(),
                // All pairs of ports without stages share one.
                None if path.from == path.to && number >= params.paths.len() => {
                    format!("*>{}", port(path.to))
                }
                None => format!("{}>{}", port(path.from), port(path.to)),
            },
            stages: path.seats.iter().map(|seat| seat.name.to_string()).collect(),
        };
        let paths = router.paths().iter().enumerate().map(path).collect();
        let ports = params.ports.iter().map(|port| port.name.clone()).collect();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let reasons = Reason::ALL.map(|reason| reason.name().to_owned()).into();
        let (version, seed) = (VERSION, params.seed);
        Self { version, seed, started_ns: since.as_nanos() as u64, ports, paths, reasons }
    }

    /// The same with control characters escaped: a file may come from an untrusted source, and a terminal obeys them.
    pub(super) fn escaped(mut self) -> Self {
        let paths = self.paths.iter_mut().flat_map(|path| path.stages.iter_mut().chain([&mut path.name]));
        for name in paths.chain(&mut self.ports).chain(&mut self.reasons) {
            if name.contains(char::is_control) {
                let letter = |letter: char| {
                    if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() }
                };
                *name = name.chars().map(letter).collect();
            }
        }
        self
    }

    /// Name of a port.
    pub fn port(&self, port: u16) -> &str {
        self.ports.get(usize::from(port)).map_or("?", String::as_str)
    }

    /// The number of the path with the name `name`, see [`is_called`].
    pub fn path(&self, name: &str) -> Option<u16> {
        self.paths.iter().position(|path| is_called(&path.name, name)).map(|at| at as u16)
    }

    /// `PATH/STAGE`, `PATH`, or `router` for an event on no path.
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

    /// All results that [`Self::place`] can give for a file.
    pub fn places(&self) -> Vec<String> {
        let of_path = |path: &PathNames| {
            let stages = path.stages.iter().map(|stage| format!("{}/{stage}", path.name));
            std::iter::once(path.name.clone()).chain(stages).collect::<Vec<_>>()
        };
        self.paths.iter().flat_map(of_path).chain(["router".to_owned()]).collect()
    }

    /// Name of the reason of a record.
    pub fn reason(&self, record: &Record<'_>) -> Option<&str> {
        (record.reason != NO_REASON)
            .then(|| self.reasons.get(usize::from(record.reason)).map_or("unknown", String::as_str))
    }

    /// The event in a few words: `up/loss: dropped, 0.0031 < 0.01`.
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

/// Whether `text` means the path `name`. A path `FROM>TO` can also be written `FROM:TO`, which needs no quotes in a shell.
pub fn is_called(name: &str, text: &str) -> bool {
    let with_colon = |at: usize| {
        let (name, text) = (name.as_bytes(), text.as_bytes());
        text[at] == b':' && name[..at] == text[..at] && name[at + 1..] == text[at + 1..]
    };
    name == text || name.len() == text.len() && name.match_indices('>').any(|(at, _)| with_colon(at))
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
pub(crate) mod tests {
    use super::*;
    use crate::config::spec;
    use crate::journal::record::tests::record;
    use crate::pipeline::impair::{TimestampSet, TimestampsParams};
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, stage};

    /// Of a router with a stage `loss` from port a to port b; that path is called "up".
    pub(crate) fn names() -> Names {
        let mut stages = spec::parse("loss 1%").unwrap().stages;
        stages[0].name = "loss".into();
        Names::of(&Run::params(1, stages), &["up"])
    }

    #[test]
    fn a_verdict_says_where_what_and_why() {
        let names = names();
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

    #[test]
    fn a_path_has_two_spellings() {
        for text in ["a>b", "a:b"] {
            assert!(is_called("a>b", text), "{text}");
        }
        for text in ["a", "a>c", "a:c", "a-b", "a::b", "", "ab:", ":ab"] {
            assert!(!is_called("a>b", text), "{text}");
        }
        assert!(
            is_called("x:y>z", "x:y:z") && !is_called("x:y>z", "x>y>z") && !is_called("\u{e9}>b", "\u{e8}:b")
        );
    }

    /// The names have every path and seat that a record of the router can have.
    #[test]
    fn every_seat_of_the_router_has_a_name() {
        let both = TimestampsParams { set: TimestampSet::Constant(0), translate: true };
        let params = Run::params(1, vec![stage(ImpairmentParams::Timestamps(both))]);
        let router = Router::new(&params, &Router::shared(&params));
        let names = Names::of(&params, &[]);
        assert_eq!(names.paths.len(), router.paths().len());
        for (path, named) in router.paths().iter().zip(&names.paths) {
            let seats: Vec<&str> = path.seats.iter().map(|seat| &*seat.name).collect();
            assert_eq!(named.stages, seats);
        }
        let back = names.path("b>a").unwrap();
        let places =
            [(0, 0), (back, 0)].map(|(path, stage)| names.place(&Record { path, stage, ..record() }));
        assert_eq!(places, ["a>b/under-test", "b>a/under-test/back"]);
        assert!(names.path("*>b").is_some(), "{names:?}");
    }
}
