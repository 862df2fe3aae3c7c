//! The report of a case, for people and as JSON.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::lab::check::Verdict;
use crate::lab::report::Diagram;
use crate::lab::report::layout::{COLUMNS, fill, wrap};
use crate::lab::value::{Observations, Value};

/// A case that was run, with its controls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseStory {
    /// Its name.
    pub name: String,
    /// One line.
    pub title: String,
    /// What happened.
    pub story: String,
    /// Seed of every random decision.
    pub seed: u64,
    /// The case itself, then each control.
    pub trials: Vec<TrialStory>,
}

/// The case itself, or a control, as it was run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialStory {
    /// Name of the control; `None`: the case itself.
    pub control: Option<String>,
    /// Hosts and paths.
    #[serde(skip)]
    pub network: String,
    /// What was sent, a line for each step.
    pub traffic: Vec<String>,
    /// Features that this host did not grant, which may have changed the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Which host sent which packet when, and where packets were dropped.
    #[serde(skip)]
    pub diagram: Diagram,
    /// The most important drops, in the format of the journal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drops: Vec<String>,
    /// Each expectation, and what was seen.
    pub verdicts: Vec<Verdict>,
    /// Everything that was observed.
    pub observed: Observations,
}

impl CaseStory {
    /// Whether everything was as expected.
    pub fn pass(&self) -> bool {
        self.trials.iter().all(TrialStory::pass)
    }

    /// How many expectations cannot be judged here.
    pub fn not_observable(&self) -> usize {
        let verdicts = self.trials.iter().flat_map(|trial| &trial.verdicts);
        verdicts.filter(|verdict| verdict.not_observable.is_some()).count()
    }
}

impl TrialStory {
    /// Whether everything was as expected, and something could be judged at all.
    pub fn pass(&self) -> bool {
        let mut judged = self.verdicts.iter().filter(|verdict| verdict.not_observable.is_none()).peekable();
        judged.peek().is_some() && judged.all(|verdict| verdict.pass)
    }

    fn name(&self) -> String {
        self.control.as_ref().map_or_else(|| "the case".to_owned(), |name| format!("control: {name}"))
    }
}

impl fmt::Display for CaseStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(COLUMNS))
    }
}

impl CaseStory {
    /// The whole story in lines of at most so many columns, but for single words.
    pub fn text(&self, columns: usize) -> String {
        let title = wrap(&format!("{}: {}", self.name, self.title), columns);
        let mut text = format!("{title}\n\n");
        for line in fill(&self.story, columns.saturating_sub(2)).lines() {
            line_of(&mut text, format_args!("{}{line}", if line.is_empty() { "" } else { "  " }));
        }
        for trial in &self.trials {
            line_of(&mut text, format_args!("\n{}", trial.text(columns).trim_end_matches('\n')));
        }
        line_of(&mut text, format_args!("\n{} {} (seed {})", mark(self.pass()), self.name, self.seed));
        text.push_str(&wrap(&self.failures(), columns));
        text
    }

    /// The failed expectations of all trials, which stand far above the end of a long report.
    fn failures(&self) -> String {
        let mut text = String::new();
        for trial in &self.trials {
            for Verdict { see, seen, expected, .. } in trial.verdicts.iter().filter(|verdict| !verdict.pass) {
                line_of(&mut text, format_args!("  {}: {see} = {seen}, expected {expected}", trial.name()));
            }
        }
        text
    }
}

impl TrialStory {
    /// The trial in lines of at most so many columns, but for single words.
    fn text(&self, columns: usize) -> String {
        let mut text = format!("── {} ──\n\nnetwork\n{}\nsent\n", self.name(), self.network);
        for line in &self.traffic {
            line_of(&mut text, format_args!("  {line}"));
        }
        let mut text = wrap(&text, columns);
        line_of(&mut text, format_args!("\npackets\n{}", self.diagram.draw(columns)));
        text.push_str(&wrap(&self.counted(columns), columns));
        text
    }

    /// The counters and the expectations.
    fn counted(&self, columns: usize) -> String {
        let mut text = "counted by the kernels\n".to_owned();
        // The longest names have 52 characters; numbers get the rest of the line.
        let width = columns.saturating_sub(28).clamp(20, 52);
        for (name, value) in self.observed.iter() {
            if name.starts_with("kernel.") && *value != Value::Count(0) && is_telling(name) {
                line_of(&mut text, format_args!("  {name:<width$} +{value}"));
            }
        }
        self.kernel_drops(&mut text, width);
        for (at, drop) in self.drops.iter().enumerate() {
            let head = if at == 0 { "\ndropped by the router: what mattered most\n" } else { "" };
            line_of(&mut text, format_args!("{head}  {drop}"));
        }
        for (at, notice) in self.notices.iter().enumerate() {
            line_of(&mut text, format_args!("{}notice: {notice}", if at == 0 { "\n" } else { "" }));
        }
        line_of(&mut text, format_args!("\nexpected"));
        for verdict in &self.verdicts {
            let Verdict { see, seen, expected, because, .. } = verdict;
            if let Some(why) = &verdict.not_observable {
                line_of(&mut text, format_args!("  n/a  {see} is not observable here: {why}"));
            } else {
                let mark = mark(verdict.pass);
                line_of(&mut text, format_args!("  {mark} {see} = {seen}, expected {expected}"));
            }
            if !because.is_empty() {
                let because = wrap(because, columns.saturating_sub(9).max(20));
                because
                    .lines()
                    .for_each(|line| line_of(&mut text, format_args!("         {}", line.trim_start())));
            }
        }
        text
    }

    /// Why the kernels dropped what the hosts received, if that was recorded.
    fn kernel_drops(&self, text: &mut String, width: usize) {
        let drops = self
            .observed
            .iter()
            .filter(|(name, value)| name.starts_with("drops.") && **value != Value::Count(0));
        for (at, (name, value)) in drops.enumerate() {
            let head = if at == 0 { "\ndropped by the kernels, by reason\n" } else { "" };
            line_of(text, format_args!("{head}  {name:<width$} +{value}"));
        }
    }
}

fn line_of(text: &mut String, line: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn mark(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

/// Whether a counter is informative: counters that grow with any traffic are left out here; JSON has all of them.
fn is_telling(name: &str) -> bool {
    const DULL: [&str; 8] =
        [".dev.lo.", ".IpExt.", ".Ip6.", "Delivered", "Octets", "_bytes", "TCPHPHits", "TCPPureAcks"];
    !DULL.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(pass: bool) -> TrialStory {
        let mut observed = Observations::default();
        observed.set("kernel.client.TcpExt.TCPTimeouts", 3_u64);
        observed.set("kernel.client.Tcp.InErrs", 0_u64);
        let verdict = Verdict {
            pass,
            not_observable: None,
            see: "traffic.get.outcome".into(),
            seen: "timeout".into(),
            expected: "ok".into(),
            because: "it fits".into(),
        };
        TrialStory {
            control: Some("no loss".into()),
            network: "  a ──► b\n".into(),
            traffic: vec!["get: 75 bytes".into()],
            notices: Vec::new(),
            diagram: Diagram::default(),
            drops: Vec::new(),
            verdicts: vec![verdict],
            observed,
        }
    }

    fn story(trials: Vec<TrialStory>) -> CaseStory {
        CaseStory { name: "x".into(), title: "t".into(), story: "s".into(), seed: 7, trials }
    }

    #[test]
    fn one_failed_expectation_fails_the_case_and_is_shown_with_what_was_seen() {
        let story = story(vec![trial(true), trial(false)]);
        let text = story.to_string();
        assert!(text.contains("FAIL traffic.get.outcome = timeout, expected ok\n         it fits"), "{text}");
        let end = "FAIL x (seed 7)\n  control: no loss: traffic.get.outcome = timeout, expected ok\n";
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains("TCPTimeouts") && !text.contains("InErrs"), "{text}");
    }

    #[test]
    fn a_trial_without_expectations_does_not_pass() {
        let silent = TrialStory { verdicts: Vec::new(), ..trial(true) };
        assert!(!story(vec![silent]).pass());
        assert!(story(vec![trial(true)]).pass());
    }

    #[test]
    fn what_is_not_observable_is_said_and_alone_is_no_pass() {
        let mut half = trial(true);
        let blind = Verdict { not_observable: Some("no tracefs".into()), ..half.verdicts[0].clone() };
        half.verdicts.push(blind.clone());
        let text = half.text(COLUMNS);
        assert!(text.contains("n/a  traffic.get.outcome is not observable here: no tracefs"), "{text}");
        assert!(half.pass());
        assert_eq!(story(vec![half]).not_observable(), 1);
        assert!(!TrialStory { verdicts: vec![blind], ..trial(true) }.pass());
    }

    #[test]
    fn json_has_every_observation_under_its_name() {
        let json: serde_json::Value = serde_json::to_value(story(vec![trial(true)])).unwrap();
        assert_eq!(json["trials"][0]["observed"]["kernel.client.Tcp.InErrs"], 0);
        assert_eq!(json["trials"][0]["verdicts"][0]["pass"], true);
    }
}
