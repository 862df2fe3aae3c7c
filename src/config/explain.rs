//! Explains what a spec really does, in words and numbers, and warns of surprising effects.

use serde::Serialize;

use crate::config::describe::{self, describe};
use crate::config::spec::Spec;
use crate::pipeline::Pace;
use crate::pipeline::impair::text::{PACKET_BITS, mbit, millis, percent};
use crate::pipeline::impair::{Blueprint, Place};
use crate::pipeline::params::{
    Correlated, Distribution, ImpairmentParams, LossModel, Mode, NetemParams, SlotGap, TC_LIMIT,
};
use crate::pipeline::random::kernel::realised_share;
use crate::pipeline::units::Probability;

/// The explanation of a spec.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Explanation {
    /// Sentences about what is done to each packet, in the order in which it is done.
    pub does: Vec<String>,
    /// Warnings of surprising effects.
    pub warnings: Vec<String>,
    /// The numbers behind the sentences.
    pub numbers: Numbers,
}

/// Numbers of a spec; `None` if the spec does not determine them, or if several clauses differ.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Numbers {
    /// Share of packets that are lost at random.
    pub loss: Option<f64>,
    /// Mean number of packets lost in a row, once one is lost.
    pub mean_loss_run: Option<f64>,
    /// Share of packets that are sent twice.
    pub duplicate: Option<f64>,
    /// Share of packets that are damaged.
    pub corrupt: Option<f64>,
    /// Share of packets that overtake, if earlier packets are still on the way.
    pub reorder: Option<f64>,
    /// Mean delay in seconds, including jitter but not queueing.
    pub mean_delay_seconds: Option<f64>,
    /// The time in seconds after which the correlation of a jitter that keeps the order has fallen to a half, unless
    /// a correlation from packet to packet keeps it higher.
    pub jitter_half_life_seconds: Option<f64>,
    /// The rate in bits per second.
    pub rate_bits_per_second: Option<u64>,
    /// The throughput that the limit allows, in bits per second of full-sized packets.
    pub limit_ceiling_bits_per_second: Option<f64>,
    /// The longest wait in a full queue, in seconds.
    pub worst_queue_seconds: Option<f64>,
}

/// Explains `spec`; netem words are taken as `mode` says.
pub fn explain(spec: &Spec, mode: Mode) -> Explanation {
    let mut explanation = Explanation { warnings: spec.warnings.clone(), ..Explanation::default() };
    for stage in &spec.stages {
        match &stage.impairment {
            ImpairmentParams::Netem(netem) => {
                let netem = NetemParams { mode, ..NetemParams::clone(netem) };
                let before = explanation.does.len();
                Explainer { to: &mut explanation, mode }.netem(&netem);
                let only = describe::conditions(&stage.select).join(", ");
                for line in explanation.does[before..].iter_mut().filter(|_| !only.is_empty()) {
                    *line = format!("{line}; only {only}");
                }
                explanation.warnings.extend(netem.traps(&Place::default()));
            }
            other => {
                explanation.does.push(describe(stage).to_string());
                explanation.warnings.extend(other.traps(&Place::default()));
            }
        }
    }
    let netems = spec.stages.iter().filter(|stage| matches!(stage.impairment, ImpairmentParams::Netem(_)));
    if netems.count() > 1 {
        explanation.numbers = Numbers::default();
    }
    if explanation.does.is_empty() {
        explanation.does.push("nothing: every packet passes unchanged".to_owned());
    }
    explanation
}

struct Explainer<'a> {
    to: &'a mut Explanation,
    mode: Mode,
}

impl Explainer<'_> {
    fn says(&mut self, text: String) {
        self.to.does.push(text);
    }

    fn netem(&mut self, netem: &NetemParams) {
        let duplicate = self.chance("duplicate", "sends a copy of", netem.duplicate);
        self.to.numbers.duplicate = duplicate;
        self.loss(netem);
        self.to.numbers.corrupt = self.chance("corrupt", "flips one bit of", netem.corrupt);
        self.reorder(netem);
        self.delay(netem);
        self.rate_and_limit(netem);
        if let Some(slot) = &netem.slot {
            let gap = match slot.gap {
                SlotGap::Uniform(least, most) => f64::midpoint(least.as_secs_f64(), most.as_secs_f64()),
                SlotGap::Distribution(_, delay, _) => delay.as_secs_f64(),
            };
            let bits = slot.packets.map(|packets| packets as f64 * PACKET_BITS);
            let bits =
                [bits, slot.bytes.map(|bytes| bytes as f64 * 8.0)].into_iter().flatten().reduce(f64::min);
            let most = match bits {
                Some(bits) if gap > 0.0 => format!(", {} of full-sized packets at most", mbit(bits / gap)),
                _ => String::new(),
            };
            self.says(format!("slot: packets leave in bursts, {} apart on average{most}", millis(gap)));
        }
    }

    /// The share of packets that is hit; `None` if none can be hit.
    fn chance(&mut self, word: &str, does: &str, chance: Correlated) -> Option<f64> {
        let asked = chance.probability.as_f64();
        if asked == 0.0 {
            return None;
        }
        let share = self.share(chance);
        self.says(format!("{word}: {does} {} of the packets{}", percent(share), alike(chance)));
        Some(share)
    }

    /// The share of packets that is hit in reality.
    fn share(&self, chance: Correlated) -> f64 {
        if self.mode == Mode::Exact || chance.correlation == Probability::ZERO {
            return chance.probability.as_f64();
        }
        realised_share(chance.probability, chance.correlation)
    }

    fn loss(&mut self, netem: &NetemParams) {
        let (share, run, how) = match &netem.loss {
            LossModel::Random(chance) => {
                let (p, rho) = (chance.probability.as_f64(), chance.correlation.as_f64());
                if p == 0.0 {
                    return;
                }
                let share = self.share(*chance);
                // After a loss the next packet is lost with p + ρ(1 - p).
                let run = (self.mode == Mode::Exact).then(|| 1.0 / ((1.0 - p) * (1.0 - rho)));
                (share, run, alike(*chance))
            }
            LossModel::State(chain) => {
                (chain.loss_rate(), Some(chain.mean_run()), " (four states: gaps and bursts)".to_owned())
            }
            LossModel::GilbertElliott(chain) => {
                let how = format!(
                    " (good and bad times; a bad one lasts {:.2} packets on average and loses {})",
                    chain.mean_bad(),
                    chain.bad
                );
                // Within a bad state, a run of losses ends with the state, or with a packet that passes.
                let stays = (1.0 - chain.r.as_f64()) * chain.bad.as_f64();
                (chain.loss_rate(), Some(1.0 / (1.0 - stays)), how)
            }
        };
        self.to.numbers.loss = Some(share);
        self.to.numbers.mean_loss_run = run.filter(|run| run.is_finite());
        let does = if netem.ecn { "marks (where ECN allows, else drops)" } else { "drops" };
        let runs = match run {
            Some(run) if run.is_finite() => format!("; {run:.2} in a row on average"),
            Some(_) => "; once begun, it never ends".to_owned(),
            None => String::new(),
        };
        self.says(format!("loss: {does} {} of the packets{how}{runs}", percent(share)));
    }

    fn reorder(&mut self, netem: &NetemParams) {
        if netem.gap == 0 {
            return;
        }
        let p = netem.reorder.probability.as_f64();
        // gap - 1 packets wait, then each further one is a candidate until one overtakes.
        let share = if p == 0.0 { 0.0 } else { 1.0 / (f64::from(netem.gap) - 1.0 + 1.0 / p) };
        self.to.numbers.reorder = Some(share);
        self.says(format!(
            "reorder: lets {} of the packets leave at once, before packets that wait for their delay; this has an effect only if \
             packets follow each other within the delay ({})",
            percent(share),
            netem.delay.as_ref().map_or_else(String::new, |delay| delay.delay.to_string())
        ));
    }

    fn delay(&mut self, netem: &NetemParams) {
        let Some(delay) = &netem.delay else { return };
        let (mean, jitter) = (delay.delay.as_secs_f64(), delay.jitter.as_secs_f64());
        let shape = match &delay.distribution {
            Distribution::Uniform => "uniform".to_owned(),
            Distribution::Normal => "normal, by standard deviation".to_owned(),
            Distribution::Table(table) => table.name().to_owned(),
        };
        self.to.numbers.mean_delay_seconds = Some(mean);
        if jitter == 0.0 {
            return self.says(format!("delay: holds each packet for {}", delay.delay));
        }
        let order = match (self.mode, delay.reorder) {
            (Mode::Exact, false) => "; the order within a flow is kept",
            _ => "; packets overtake each other",
        };
        self.says(format!(
            "delay: holds each packet for {} ± {} ({shape}){order}",
            delay.delay, delay.jitter
        ));
        if self.mode == Mode::Exact && !delay.reorder {
            self.wander(Pace::new(delay, netem.delay_correlation));
        }
    }

    /// How similar the delays of packets near each other are, which is the price of keeping the order.
    fn wander(&mut self, pace: Pace) {
        let alike = [0.001, 0.01, 0.1, 1.0].map(|apart| pace.correlation(apart));
        let [first, second, third, last] = alike.map(|correlation| format!("{correlation:.3}"));
        self.to.numbers.jitter_half_life_seconds = Some(pace.half_life());
        self.says(format!(
            "jitter: changes slowly to keep the order, so delays of close packets are correlated: {first} for packets \
             1 ms apart, {second} for 10 ms, {third} for 100 ms, {last} for 1 s (half-life {})",
            millis(pace.half_life())
        ));
    }

    fn rate_and_limit(&mut self, netem: &NetemParams) {
        if let Some(rate) = &netem.rate {
            let bits = rate.rate.bits_per_sec();
            self.to.numbers.rate_bits_per_second = Some(bits);
            let full = (PACKET_BITS + 8.0 * f64::from(netem.link_header())) / bits as f64;
            let header = netem.link_header();
            let counts = if header > 0 {
                format!(", counting {header} bytes of Ethernet each")
            } else {
                String::new()
            };
            self.says(format!("rate: {}; a full-sized packet takes {}{counts}", rate.rate, millis(full)));
        }
        if let (None, Some(rate), Mode::Exact) = (netem.limit, &netem.rate, self.mode) {
            let wait = TC_LIMIT as f64 * PACKET_BITS / rate.rate.bits_per_sec() as f64;
            self.to.numbers.worst_queue_seconds = Some(wait);
            self.says(format!(
                "queue: {TC_LIMIT} packets may wait for the rate, not counting the delay line; a full queue of full-sized packets \
                 takes {}",
                millis(wait)
            ));
        }
        let implied = (self.mode == Mode::Netem).then_some(TC_LIMIT);
        let Some(limit) = netem.limit.or(implied).map(|limit| limit as f64) else { return };
        let given = if netem.limit.is_some() { "" } else { " (netem's default)" };
        let delay = netem.delay.as_ref().map_or(0.0, |delay| (delay.delay + delay.jitter).as_secs_f64());
        let rate = netem.rate.map(|rate| rate.rate.bits_per_sec() as f64);
        if let Some(rate) = rate {
            let wait = limit * PACKET_BITS / rate;
            self.to.numbers.worst_queue_seconds = Some(wait);
            self.says(format!(
                "limit: {limit} packets{given}; a full queue of full-sized packets takes {}",
                millis(wait)
            ));
        }
        if delay > 0.0 {
            let ceiling = limit * PACKET_BITS / delay;
            self.to.numbers.limit_ceiling_bits_per_second = Some(ceiling);
        }
    }
}

fn alike(chance: Correlated) -> String {
    if chance.correlation == Probability::ZERO {
        return ", independently".to_owned();
    }
    format!(", neighbours alike ({} correlation)", chance.correlation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;

    fn of(text: &str, mode: Mode) -> Explanation {
        explain(&spec::parse(text).unwrap(), mode)
    }

    fn warned(text: &str, mode: Mode, word: &str) -> bool {
        of(text, mode).warnings.iter().any(|warning| warning.contains(word))
    }

    #[test]
    fn each_famous_trap_is_warned_of_where_it_is_one() {
        let limit = "delay 100ms rate 1gbit limit 1000";
        assert!(warned(limit, Mode::Exact, "at least 8334 packets"), "{:?}", of(limit, Mode::Exact));
        assert!(!warned("delay 100ms rate 100mbit limit 1000", Mode::Exact, "at least"));
        assert!(of("delay 100ms rate 1gbit", Mode::Exact).warnings.is_empty());
        assert!(warned("delay 100ms rate 1gbit", Mode::Netem, "at least 8334 packets"));
        assert!(warned("delay 100ms", Mode::Netem, "at most 120.000 Mbit/s"));
        assert!(of("delay 100ms", Mode::Exact).warnings.is_empty());
        assert!(warned("loss 10% 25%", Mode::Netem, "1.7"), "{:?}", of("loss 10% 25%", Mode::Netem));
        assert!(of("loss 10% 25%", Mode::Exact).warnings.is_empty());
        assert!(warned("delay 10ms 5ms", Mode::Netem, "jitter reorders"));
        assert!(of("delay 10ms 5ms", Mode::Exact).warnings.is_empty());
        assert!(warned("delay 10ms 20ms", Mode::Exact, "the mean is longer"));
        assert!(warned("delay 10ms rate 1mbit limit 9", Mode::Netem, "absorbs"));
        assert!(
            warned("mtu 1400", Mode::Exact, "black hole")
                && !warned("mtu 1400 icmp", Mode::Exact, "black hole")
        );
    }

    /// (1 + λt) exp(-λt) with 1/λ = 5 · 10 ms, by hand: 0.99980, 0.98248, 0.40601, 4.3e-8. A correlation that is asked for
    /// is a lower bound.
    #[test]
    fn the_correlation_of_a_wandering_jitter_is_said() {
        let said = |text, mode| of(text, mode).does.join("\n");
        let text = said("delay 100ms 10ms distribution normal", Mode::Exact);
        let expected = "1.000 for packets 1 ms apart, 0.982 for 10 ms, 0.406 for 100 ms, 0.000 for 1 s (half-life 83.917 ms)";
        assert!(text.contains(expected), "{text}");
        let text = said("delay 100ms 10ms 50% distribution normal", Mode::Exact);
        assert!(text.contains("0.500 for 100 ms, 0.500 for 1 s"), "{text}");
        // Heavy tails need a slower one.
        let slow = of("delay 100ms 10ms distribution pareto", Mode::Exact).numbers.jitter_half_life_seconds;
        assert!(slow.unwrap() > 0.084, "{slow:?}");
        assert!(!said("delay 100ms 10ms", Mode::Netem).contains("wanders"));
        assert!(!said("delay 100ms", Mode::Exact).contains("wanders"));
    }

    #[test]
    fn numbers_are_those_of_the_formulas() {
        let numbers = |text| of(text, Mode::Exact).numbers;
        let close = |one: Option<f64>, other: f64| (one.unwrap() - other).abs() < 1e-9;
        assert!(close(numbers("loss 10% 50%").loss, 0.1));
        // After a loss 0.1 + 0.5 · 0.9 = 0.55: runs of 1 / 0.45.
        assert!(close(numbers("loss 10% 50%").mean_loss_run, 1.0 / 0.45));
        assert!(close(numbers("loss gemodel 1% 10%").loss, 1.0 / 11.0));
        assert!(close(numbers("loss gemodel 1% 10%").mean_loss_run, 10.0));
        assert!(close(numbers("loss state 1% 25%").mean_loss_run, 4.0));
        // Two that wait, then 2 tries on average: 1 in 4.
        assert!(close(numbers("delay 10ms reorder 50% gap 3").reorder, 0.25));
        assert!(close(numbers("delay 10ms reorder 25%").reorder, 0.25));
        assert_eq!(numbers("rate 8mbit").rate_bits_per_second, Some(8_000_000));
        assert!(close(numbers("rate 12mbit limit 10").worst_queue_seconds, 0.01));
        assert!(close(numbers("rate 12mbit").worst_queue_seconds, 1.0));
        assert_eq!(numbers(""), Numbers::default());
    }
}
