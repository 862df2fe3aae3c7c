//! What happens to the packets of one direction of a link, as a value: from a spec, from Rust, or from both.
//!
//! ```
//! use std::time::Duration;
//!
//! use faultwire::faults::Faults;
//!
//! // tc-netem's words and faultwire's own.
//! let spec: Faults = "mtu 1400 delay 50ms loss 5%".parse()?;
//! // The same, built. Stages act in the order in which they are added.
//! let built = Faults::new().mtu(1400).loss(0.05).delay(Duration::from_millis(50));
//! assert_eq!(built.stages().len(), 3);
//! // Both.
//! let both = spec.rate(10_000_000, 64_000);
//! # Ok::<(), faultwire::spec::SpecError>(())
//! ```

use std::str::FromStr;
use std::time::Duration;

use crate::config::spec::{self, SpecError, SpecProblem};
use crate::pipeline::impair::{CustomParams, CustomStage};
use crate::pipeline::params::{
    BlackoutParams, CorruptArea, CorruptParams, DelayParams, Distribution, DuplicateParams, Excess,
    ImpairmentParams, LossParams, MtuAction, MtuParams, RateParams, Select, StageParams, Trigger,
};
use crate::pipeline::time;
use crate::pipeline::units::{Probability, Rate};

/// The stages that the packets of one direction go through, in order. None, by default: packets pass unharmed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    stages: Vec<StageParams>,
    warnings: Vec<String>,
}

impl FromStr for Faults {
    type Err = SpecError;

    /// Reads a spec such as `loss 5% delay 50ms`, as `faultwire exec` takes it. The word `seed` is refused: the seed belongs to
    /// the link.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let spec = spec::parse(text)?;
        if spec.seed.is_some() {
            let start = text.find("seed").unwrap_or_default();
            let problem = SpecProblem {
                at: start..start + "seed".len(),
                what: "\"seed\" belongs to the link, not to one of its directions".to_owned(),
                hint: "give the seed to what the faults are handed to".to_owned(),
            };
            return Err(SpecError { spec: text.to_owned(), problems: vec![problem] });
        }
        Ok(Self { stages: spec.stages, warnings: spec.warnings })
    }
}

impl Faults {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stages, in the order in which they act.
    pub fn stages(&self) -> &[StageParams] {
        &self.stages
    }

    /// What of a spec was probably not meant, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Each packet is lost with this probability, independently of all others.
    ///
    /// # Panics
    /// If `probability` is not within 0 to 1.
    #[must_use]
    pub fn loss(self, probability: f64) -> Self {
        let params = LossParams { probability: chance(probability), ecn: false };
        self.add("loss", ImpairmentParams::Loss(params))
    }

    /// Each packet takes this long.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.jitter(delay, Duration::ZERO)
    }

    /// Each packet takes `delay` on average, and at most `jitter` more or less (uniform). The order of packets stays.
    #[must_use]
    pub fn jitter(self, delay: Duration, jitter: Duration) -> Self {
        let params = DelayParams {
            delay: span(delay),
            jitter: span(jitter),
            distribution: Distribution::Uniform,
            reorder: false,
            half_life: None,
        };
        self.add("delay", ImpairmentParams::Delay(params))
    }

    /// The link sends `bits` per second; a packet that would make the queue longer than `queue` bytes is dropped.
    ///
    /// # Panics
    /// If `bits` is 0.
    #[must_use]
    pub fn rate(self, bits: u64, queue: u64) -> Self {
        let rate = Rate::from_bits_per_sec(bits).expect("a rate above 0 bit/s");
        let excess = Excess::Queue { packets: None, bytes: Some(queue), time: None };
        self.add("rate", ImpairmentParams::Rate(RateParams { rate, excess, overhead: 0, share: None }))
    }

    /// Packets of more than `bytes` are dropped, and nobody is told.
    ///
    /// # Panics
    /// If `bytes` is below 68, the least that IPv4 allows.
    #[must_use]
    pub fn mtu(self, bytes: u32) -> Self {
        assert!(bytes >= 68, "an MTU of at least 68 bytes, not {bytes}");
        let params = MtuParams { mtu: bytes, overhead: 0, action: MtuAction::Drop };
        self.add("mtu", ImpairmentParams::Mtu(params))
    }

    /// Each packet comes twice with this probability.
    ///
    /// # Panics
    /// If `probability` is not within 0 to 1.
    #[must_use]
    pub fn duplicate(self, probability: f64) -> Self {
        let params = DuplicateParams { probability: chance(probability), copies: 1 };
        self.add("duplicate", ImpairmentParams::Duplicate(params))
    }

    /// One bit of the transport header or payload is flipped with this probability; the checksum is wrong then.
    ///
    /// # Panics
    /// If `probability` is not within 0 to 1.
    #[must_use]
    pub fn corrupt(self, probability: f64) -> Self {
        let (probability, area) = (chance(probability), CorruptArea::Transport);
        let params = CorruptParams { probability, bits: 1, area, fix_checksum: false };
        self.add("corrupt", ImpairmentParams::Corrupt(params))
    }

    /// The link is down from `start`, counted from the start of the run, for `down`; packets are dropped then.
    #[must_use]
    pub fn blackout(self, start: Duration, down: Duration) -> Self {
        let params = BlackoutParams { start: span(start), down: span(down), up: None, hold: false };
        self.add("blackout", ImpairmentParams::Blackout(params))
    }

    /// A stage of one's own, made anew by `make` wherever the faults are used. `name` appears in counters, and the stage's draws
    /// depend on it. See [`crate::stage`].
    #[must_use]
    pub fn custom<S: CustomStage + 'static>(
        self,
        name: &str,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        self.add(name, ImpairmentParams::Custom(CustomParams::new(make)))
    }

    /// Any stage; see [`crate::params`]. If its name is taken, it gets a number.
    #[must_use]
    pub fn stage(mut self, mut stage: StageParams) -> Self {
        let is_taken = |name: &str| self.stages.iter().any(|other| other.name == name);
        if is_taken(&stage.name) {
            let numbered = (2_u32..).map(|number| format!("{}-{number}", stage.name));
            stage.name = numbered.into_iter().find(|name| !is_taken(name)).unwrap_or_default();
        }
        self.stages.push(stage);
        self
    }

    fn add(self, name: &str, impairment: ImpairmentParams) -> Self {
        let (select, trigger) = (Select::default(), Trigger::default());
        self.stage(StageParams { name: name.to_owned(), select, trigger, impairment })
    }
}

fn chance(probability: f64) -> Probability {
    Probability::new(probability)
        .unwrap_or_else(|| panic!("a probability is within 0 to 1, but this is {probability}"))
}

fn span(duration: Duration) -> time::Duration {
    time::Duration::from_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(faults: &Faults) -> Vec<&str> {
        faults.stages().iter().map(|stage| stage.name.as_str()).collect()
    }

    #[test]
    fn stages_keep_their_order_and_get_names_of_their_own() {
        let faults = Faults::new().loss(0.1).delay(Duration::from_millis(1)).loss(0.2).loss(0.3);
        assert_eq!(names(&faults), ["loss", "delay", "loss-2", "loss-3"]);
        let more = "mtu 1400 loss 1%".parse::<Faults>().unwrap().mtu(1300);
        assert_eq!(names(&more).last(), Some(&"mtu-2"));
    }

    #[test]
    fn a_seed_in_a_spec_is_refused_where_it_stands() {
        let error = "loss 1% seed 7".parse::<Faults>().unwrap_err();
        assert_eq!(error.problems[0].at, 8..12);
        assert!(error.to_string().contains("belongs to the link"), "{error}");
    }

    #[test]
    #[should_panic(expected = "a probability is within 0 to 1")]
    fn percentages_are_no_probabilities() {
        let _ = Faults::new().loss(5.0);
    }
}
