//! What is printed of a case, for people and as JSON.

use std::fmt;

use serde::Serialize;

use crate::lab::check::Verdict;
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
    /// What this host lacked, which may be why something came out otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Who sent what when, and where it was dropped.
    #[serde(skip)]
    pub diagram: String,
    /// The drops that mattered most, as a journal has them.
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

    /// How many expectations nobody can judge here.
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
        writeln!(f, "{}: {}\n", self.name, self.title)?;
        for line in self.story.lines() {
            writeln!(f, "  {line}")?;
        }
        for trial in &self.trials {
            write!(f, "\n{trial}")?;
        }
        writeln!(f, "\n{} {} (seed {})", mark(self.pass()), self.name, self.seed)
    }
}

impl fmt::Display for TrialStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── {} ──\n\nnetwork\n{}\nsent", self.name(), self.network)?;
        for line in &self.traffic {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "\npackets\n{}\ncounted by the kernels", self.diagram)?;
        for (name, value) in self.observed.iter() {
            if name.starts_with("kernel.") && *value != Value::Count(0) && is_telling(name) {
                writeln!(f, "  {name:<52} +{value}")?;
            }
        }
        self.kernel_drops(f)?;
        for (at, drop) in self.drops.iter().enumerate() {
            writeln!(
                f,
                "{}  {drop}",
                if at == 0 { "\ndropped by the router: what mattered most\n" } else { "" }
            )?;
        }
        for (at, notice) in self.notices.iter().enumerate() {
            writeln!(f, "{}notice: {notice}", if at == 0 { "\n" } else { "" })?;
        }
        writeln!(f, "\nexpected")?;
        for verdict in &self.verdicts {
            let Verdict { see, seen, expected, .. } = verdict;
            match &verdict.not_observable {
                Some(why) => writeln!(f, "  n/a  {see} is not observable here: {why}")?,
                None => writeln!(f, "  {} {see} = {seen}, expected {expected}", mark(verdict.pass))?,
            }
            if !verdict.because.is_empty() {
                writeln!(f, "         {}", verdict.because)?;
            }
        }
        Ok(())
    }
}

impl TrialStory {
    /// Why the kernels dropped what the hosts received, if that was recorded.
    fn kernel_drops(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drops = self
            .observed
            .iter()
            .filter(|(name, value)| name.starts_with("drops.") && **value != Value::Count(0));
        for (at, (name, value)) in drops.enumerate() {
            if at == 0 {
                writeln!(f, "\ndropped by the kernels, by reason")?;
            }
            writeln!(f, "  {name:<52} +{value}")?;
        }
        Ok(())
    }
}

fn mark(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

/// Counters that grow with any traffic say little; JSON has them all.
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
            diagram: "time\n".into(),
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
        assert!(text.ends_with("FAIL x (seed 7)\n"), "{text}");
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
        let text = half.to_string();
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
