//! Warnings: where a netem line will do something unexpected.

use crate::pipeline::impair::netem::{Mode, NetemParams, TC_LIMIT};
use crate::pipeline::impair::text::{PACKET_BITS, mbit, millis, percent};
use crate::pipeline::params::{Correlated, Distribution, LossModel};
use crate::pipeline::random::kernel::realised_share;
use crate::pipeline::units::Probability;

/// A sentence for each trap, in the order in which the line acts.
pub(super) fn of(netem: &NetemParams) -> Vec<String> {
    let loss = match netem.loss {
        LossModel::Random(chance) => share(netem, "loss", chance),
        LossModel::State(chain) => nothing(chain.loss_rate()),
        LossModel::GilbertElliott(chain) => nothing(chain.loss_rate()),
    };
    let chances = [share(netem, "duplicate", netem.duplicate), loss, share(netem, "corrupt", netem.corrupt)];
    chances.into_iter().flatten().chain(jitter(netem)).chain(absorbed(netem)).chain(limit(netem)).collect()
}

/// A correlation that changes the share of packets that are hit.
fn share(netem: &NetemParams, word: &str, chance: Correlated) -> Option<String> {
    if netem.mode == Mode::Exact || chance.correlation == Probability::ZERO {
        return None;
    }
    let real = realised_share(chance.probability, chance.correlation);
    (real < 0.95 * chance.probability.as_f64()).then(|| {
        format!(
            "{word} {} with {} correlation is {} in netem: its correlation averages random numbers, so that extreme ones \
             become rare. Mode exact keeps the share, and so does netem without correlation",
            chance.probability,
            chance.correlation,
            percent(real)
        )
    })
}

/// A loss chain that loses nothing.
fn nothing(rate: f64) -> Option<String> {
    (rate == 0.0).then(|| "this loss model loses nothing in the long run".to_owned())
}

fn jitter(netem: &NetemParams) -> Vec<String> {
    let Some(delay) = netem.delay.as_ref().filter(|delay| !delay.jitter.is_zero()) else { return Vec::new() };
    let mut traps = Vec::new();
    if netem.mode == Mode::Netem {
        traps.push(format!(
            "jitter reorders in netem: packets that follow within {} of each other may arrive in another order, which TCP \
             interprets as loss. Mode exact keeps the order",
            delay.jitter
        ));
    }
    let (mean, jitter) = (delay.delay.as_secs_f64(), delay.jitter.as_secs_f64());
    let reach = if delay.distribution == Distribution::Uniform { jitter } else { 3.0 * jitter };
    if reach > mean {
        traps.push(format!(
            "a jitter of {} around {} gives many negative delays: they become 0, so the mean is longer than {}",
            delay.jitter, delay.delay, delay.delay
        ));
    }
    if netem.delay_correlation > Probability::ZERO && netem.mode == Mode::Netem {
        traps.push(format!(
            "{} correlation of the jitter has almost no effect in netem: netem takes the correlated number modulo the size of \
             the table (or twice the jitter), and the result is practically independent",
            netem.delay_correlation
        ));
    }
    traps
}

fn absorbed(netem: &NetemParams) -> Option<String> {
    (netem.mode == Mode::Netem && netem.rate.is_some() && netem.delay.is_some()).then(|| {
        "a rate absorbs the delay in netem: the time in the queue counts as delay, so that under load packets take less \
         than delay and queue together. Mode exact adds the two"
            .to_owned()
    })
}

/// The limit counts the delay line too, so a small one cuts the throughput.
fn limit(netem: &NetemParams) -> Option<String> {
    let implied = (netem.mode == Mode::Netem).then_some(TC_LIMIT);
    let limit = netem.limit.or(implied)? as f64;
    let given = if netem.limit.is_some() { "" } else { " (netem's default)" };
    let delay = netem.delay.as_ref().map_or(0.0, |delay| (delay.delay + delay.jitter).as_secs_f64());
    if delay == 0.0 {
        return None;
    }
    let carried = limit * PACKET_BITS / delay;
    match netem.rate.map(|rate| rate.rate.bits_per_sec() as f64) {
        Some(rate) if rate > carried => Some(format!(
            "limit {limit}{given} counts the delay line too: over {} it lets through {}, less than the rate; at \
             least {} packets are needed",
            millis(delay),
            mbit(carried),
            (rate * delay / PACKET_BITS).ceil()
        )),
        Some(_) => None,
        None => Some(format!(
            "limit {limit}{given} counts the delay line: over {} it lets through at most {} of full-sized packets",
            millis(delay),
            mbit(carried)
        )),
    }
}
