//! Whether an observation is what a case expects.

use crate::lab::value::{Observations, Value};

/// Probability that a correct implementation fails one side of a statistical check: that a normal variable is more
/// than five standard deviations above its mean.
const FIVE_SIGMA: f64 = 2.866_515_7e-7;

/// One expectation: what to look at, what it must be, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Name of the observation.
    pub see: String,
    /// The condition on its value.
    pub check: Check,
    /// One sentence for the reader of the report.
    pub because: String,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// It is this value.
    Equals(Value),
    /// It is any but this value.
    Differs(Value),
    /// It is the value of another observation.
    SameAs(String),
    /// It is a number not below the operand.
    AtLeast(Operand),
    /// It is a number not above the operand.
    AtMost(Operand),
    /// It is a number from the first to the second, both included.
    Between(Operand, Operand),
    /// It is a count that `trials` independent trials of probability `p` give, within five sigma on each side.
    Binomial {
        /// Probability of one trial.
        p: f64,
        /// How many trials there were.
        trials: Operand,
    },
}

/// A number, or the observation that holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// The number itself.
    Number(f64),
    /// Name of the observation.
    Observed(String),
}

/// As the end of a sentence about the value: "is at least 5".
impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equals(value) => write!(f, "is {value}"),
            Self::Differs(value) => write!(f, "is not {value}"),
            Self::SameAs(name) => write!(f, "is that of `{name}`"),
            Self::AtLeast(low) => write!(f, "is at least {low}"),
            Self::AtMost(high) => write!(f, "is at most {high}"),
            Self::Between(low, high) => write!(f, "is from {low} to {high}"),
            Self::Binomial { p, trials } => {
                write!(f, "is {} % of {trials}, within five standard deviations", Value::Number(p * 100.0))
            }
        }
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => Value::Number(*number).fmt(f),
            Self::Observed(name) => write!(f, "`{name}`"),
        }
    }
}

/// The result of an expectation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// It is met, or it cannot be judged here.
    pub pass: bool,
    /// Why it cannot be judged: the kernel or the privileges of this process do not give the evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_observable: Option<String>,
    /// Name of the observation.
    pub see: String,
    /// The value seen, or why there is none.
    pub seen: String,
    /// What was expected, operands filled in.
    pub expected: String,
    /// The sentence of the expectation.
    pub because: String,
}

impl Expectation {
    /// Compares with what was observed.
    pub fn judge(&self, observed: &Observations) -> Verdict {
        let not_observable = self.names().find_map(|name| observed.why_missing(name)).map(str::to_owned);
        if not_observable.is_some() {
            let (see, because) = (self.see.clone(), self.because.clone());
            let (seen, expected) = ("not observable here".to_owned(), self.check.to_string());
            return Verdict { pass: true, not_observable, see, seen, expected, because };
        }
        let (pass, seen, expected) = match (observed.value(&self.see), self.check.resolve(observed)) {
            (_, Err(missing)) => (false, missing, "an operand that was observed".to_owned()),
            (None, Ok(bound)) => (false, no_such(&self.see, observed), bound.to_string()),
            (Some(value), Ok(bound)) => (bound.holds(value), value.to_string(), bound.to_string()),
        };
        let (see, because) = (self.see.clone(), self.because.clone());
        Verdict { pass, not_observable: None, see, seen, expected, because }
    }

    /// Every observation that it needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let operands: [Option<&str>; 2] = match &self.check {
            Check::Equals(_) | Check::Differs(_) => [None, None],
            Check::SameAs(name) => [Some(name), None],
            Check::AtLeast(operand) | Check::AtMost(operand) => [operand.observed(), None],
            Check::Between(low, high) => [low.observed(), high.observed()],
            Check::Binomial { trials, .. } => [trials.observed(), None],
        };
        std::iter::once(self.see.as_str()).chain(operands.into_iter().flatten())
    }
}

/// A check with its operands filled in.
#[derive(Debug, Clone, PartialEq)]
enum Bound {
    Is(Value),
    Not(Value),
    Range { low: f64, high: f64, note: String },
    Never(String),
}

impl Bound {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Is(wanted) => value.same(wanted),
            Self::Not(unwanted) => !value.same(unwanted),
            Self::Range { low, high, .. } => {
                value.number().is_some_and(|seen| (*low..=*high).contains(&seen))
            }
            Self::Never(_) => false,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value}"),
            Self::Not(value) => write!(f, "not {value}"),
            Self::Range { low, high, note } if high.is_infinite() => write!(f, "at least {low}{note}"),
            Self::Range { low, high, note } if low.is_infinite() => write!(f, "at most {high}{note}"),
            Self::Range { low, high, note } => write!(f, "{low} to {high}{note}"),
            Self::Never(why) => f.write_str(why),
        }
    }
}

impl Check {
    fn resolve(&self, observed: &Observations) -> Result<Bound, String> {
        let range = |low, high| Bound::Range { low, high, note: String::new() };
        Ok(match self {
            Self::Equals(value) => Bound::Is(value.clone()),
            Self::Differs(value) => Bound::Not(value.clone()),
            Self::SameAs(name) => {
                Bound::Is(observed.value(name).ok_or_else(|| no_such(name, observed))?.clone())
            }
            Self::AtLeast(low) => range(low.resolve(observed)?, f64::INFINITY),
            Self::AtMost(high) => range(f64::NEG_INFINITY, high.resolve(observed)?),
            Self::Between(low, high) => range(low.resolve(observed)?, high.resolve(observed)?),
            Self::Binomial { p, trials } => {
                let trials = trials.resolve(observed)?;
                binomial_bound(trials.max(0.0) as u64, *p)
            }
        })
    }
}

impl Operand {
    fn observed(&self) -> Option<&str> {
        match self {
            Self::Number(_) => None,
            Self::Observed(name) => Some(name),
        }
    }

    fn resolve(&self, observed: &Observations) -> Result<f64, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Observed(name) => observed
                .value(name)
                .ok_or_else(|| no_such(name, observed))?
                .number()
                .ok_or_else(|| format!("`{name}` is not a number")),
        }
    }
}

fn no_such(name: &str, observed: &Observations) -> String {
    let near = observed.near(name);
    if near.is_empty() {
        return format!("nothing was observed under `{name}`");
    }
    format!("nothing was observed under `{name}`; there is `{}`", near.join("`, `"))
}

fn binomial_bound(trials: u64, p: f64) -> Bound {
    let (low, high) = binomial_interval(trials, p);
    if low == 0 && high == trials && p > 0.0 && p < 1.0 {
        return Bound::Never(format!("more than {trials} trials: with so few, any count would pass"));
    }
    Bound::Range { low: low as f64, high: high as f64, note: format!(" of {trials} at {} %", p * 100.0) }
}

/// The range of counts that `trials` independent trials of probability `p` give, without a tail of five sigma
/// (2.9e-7) on each side. The probabilities are summed exactly: in the tails of a rare event the normal approximation
/// is wrong by orders of magnitude.
pub fn binomial_interval(trials: u64, p: f64) -> (u64, u64) {
    if p <= 0.0 || trials == 0 {
        return (0, 0);
    }
    if p >= 1.0 {
        return (trials, trials);
    }
    // The upper tail of a count of hits is the lower tail of the count of misses.
    (lower_quantile(trials, p), trials - lower_quantile(trials, 1.0 - p))
}

/// Smallest count whose cumulative probability exceeds the tail.
fn lower_quantile(trials: u64, p: f64) -> u64 {
    let odds = (p / (1.0 - p)).ln();
    let mut log_mass = trials as f64 * (-p).ln_1p();
    let mut cumulative = 0.0;
    for count in 0..trials {
        cumulative += log_mass.exp();
        if cumulative > FIVE_SIGMA {
            return count;
        }
        log_mass += ((trials - count) as f64 / (count + 1) as f64).ln() + odds;
    }
    trials
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(check: Check) -> Expectation {
        Expectation { see: "router.lost".into(), check, because: "it must".into() }
    }

    fn observed(lost: u64) -> Observations {
        let mut seen = Observations::default();
        seen.set("router.lost", lost);
        seen.set("router.seen", 10_000_u64);
        seen.set("traffic.outcome", "ok");
        seen
    }

    #[test]
    fn for_many_trials_the_interval_is_five_standard_deviations_wide() {
        let (low, high) = binomial_interval(1_000_000, 0.3);
        let sigma = (1_000_000.0_f64 * 0.3 * 0.7).sqrt();
        assert!((low as f64 - (300_000.0 - 5.0 * sigma)).abs() < 0.02 * 5.0 * sigma, "{low}");
        assert!((high as f64 - (300_000.0 + 5.0 * sigma)).abs() < 0.02 * 5.0 * sigma, "{high}");
    }

    #[test]
    fn for_rare_events_the_upper_end_is_that_of_poisson() {
        // P(X > 9) = 1.1e-7 and P(X > 8) = 1.1e-6 for a Poisson variable of mean 1 (sum of the series by hand).
        assert_eq!(binomial_interval(100_000, 1e-5), (0, 9));
    }

    #[test]
    fn certain_trials_leave_no_room() {
        assert_eq!(binomial_interval(50, 0.0), (0, 0));
        assert_eq!(binomial_interval(50, 1.0), (50, 50));
        assert_eq!(binomial_interval(0, 0.5), (0, 0));
    }

    #[test]
    fn a_share_outside_the_bound_fails() {
        let check = Check::Binomial { p: 0.3, trials: Operand::Observed("router.seen".into()) };
        assert!(expect(check.clone()).judge(&observed(3_100)).pass);
        assert!(!expect(check).judge(&observed(3_300)).pass);
    }

    #[test]
    fn too_few_trials_fail_whatever_was_seen() {
        let check = Check::Binomial { p: 0.3, trials: Operand::Number(8.0) };
        let verdict = expect(check).judge(&observed(3));
        assert!(!verdict.pass);
        assert!(verdict.expected.contains("any count would pass"), "{}", verdict.expected);
    }

    #[test]
    fn bounds_include_their_ends_and_a_word_is_never_in_them() {
        for (check, pass) in [
            (Check::AtLeast(Operand::Number(5.0)), true),
            (Check::AtMost(Operand::Number(5.0)), true),
            (Check::Between(Operand::Number(6.0), Operand::Number(9.0)), false),
            (Check::Equals(Value::Count(5)), true),
            (Check::Differs(Value::Count(5)), false),
            (Check::SameAs("router.seen".into()), false),
        ] {
            assert_eq!(expect(check.clone()).judge(&observed(5)).pass, pass, "{check:?}");
        }
        let word =
            Expectation { see: "traffic.outcome".into(), ..expect(Check::AtLeast(Operand::Number(0.0))) };
        assert!(!word.judge(&observed(5)).pass);
    }

    #[test]
    fn a_name_that_was_not_observed_fails_and_says_which_there_are() {
        let wrong = Expectation { see: "router.losst".into(), ..expect(Check::Equals(Value::Count(5))) };
        let verdict = wrong.judge(&observed(5));
        assert!(!verdict.pass);
        assert!(verdict.seen.contains("`router.lost`"), "{}", verdict.seen);
    }

    #[test]
    fn what_cannot_be_observed_here_is_said_and_does_not_fail() {
        let mut seen = observed(5);
        seen.miss("drops.server.TCP_FLAGS", "no tracefs");
        for (see, check) in [
            ("drops.server.TCP_FLAGS", Check::Equals(Value::Count(1))),
            ("router.lost", Check::SameAs("drops.server.TCP_FLAGS".into())),
            ("router.lost", Check::AtLeast(Operand::Observed("drops.server.TCP_FLAGS".into()))),
        ] {
            let verdict = Expectation { see: see.into(), ..expect(check) }.judge(&seen);
            assert!(verdict.pass, "{verdict:?}");
            assert_eq!(verdict.not_observable.as_deref(), Some("no tracefs"));
        }
        let other =
            Expectation { see: "drops.server.TCP_CSUM".into(), ..expect(Check::Equals(Value::Count(0))) };
        assert!(!other.judge(&seen).pass, "only what is known to be missing is excused");
    }
}
