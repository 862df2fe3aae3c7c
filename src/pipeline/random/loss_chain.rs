//! Loss in bursts: netem's four-state chain and the two states of Gilbert and Elliott, with one 64-bit draw for each
//! decision.
//!
//! Each flow has its own state. A transition is drawn for each packet by its index in the flow, so that the same
//! traffic gives the same losses whatever else is on the path. The first state of a chain is drawn from its
//! stationary distribution, so that flows of a few packets lose the same share as long ones. Only mode netem begins
//! in the first state, as the kernel does.

use crate::pipeline::params::{GilbertElliott, StateLoss};
use crate::pipeline::units::Probability;

/// The number of a state. In state 0 packets are received in a gap, or the state is "good".
pub(in crate::pipeline) type State = u8;

/// The four states of `loss state`, less one.
const GAP: State = 0;
const BURST: State = 1;
const LOST: State = 2;
const LONE: State = 3;

/// Moves `state` on by `word`, a uniform number; true if the packet is lost.
pub(in crate::pipeline) fn four_states(chain: &StateLoss, state: &mut State, word: u64) -> bool {
    let [p13, p31, p32, p23, p14] =
        [chain.p13, chain.p31, chain.p32, chain.p23, chain.p14].map(Probability::bits);
    let below = |p: u64| hits(p, word);
    *state = match *state {
        GAP if below(p14) => LONE,
        GAP if below(sum(p14, p13)) => LOST,
        BURST if below(p23) => LOST,
        BURST => BURST,
        LOST if below(p32) => BURST,
        LOST if below(sum(p32, p31)) => GAP,
        LOST => LOST,
        // A gap continues; a single loss is followed by a received packet.
        _ => GAP,
    };
    matches!(*state, LOST | LONE)
}

/// Advances `bad` by the first word and decides by the second, for the state before the transition; true if the
/// packet is lost.
pub(in crate::pipeline) fn two_states(chain: &GilbertElliott, bad: &mut State, words: [u64; 2]) -> bool {
    let was_bad = *bad != 0;
    let (turn, loss) = if was_bad { (chain.r, chain.bad) } else { (chain.p, chain.good) };
    if hits(turn.bits(), words[0]) {
        *bad = State::from(!was_bad);
    }
    hits(loss.bits(), words[1])
}

/// The state that `word`, a uniform number, selects from the stationary distribution of the four states.
pub(in crate::pipeline) fn any_of_four(chain: &StateLoss, word: u64) -> State {
    pick(&chain.shares(), word)
}

/// As [`any_of_four`], for the two states.
pub(in crate::pipeline) fn any_of_two(chain: &GilbertElliott, word: u64) -> State {
    pick(&[1.0 - chain.bad_share(), chain.bad_share()], word)
}

/// The index of the share, of `shares` that add up to 1, in which `word` falls.
fn pick(shares: &[f64], word: u64) -> State {
    let mut left = word as f64 / 18_446_744_073_709_551_616.0;
    let found = shares.iter().position(|share| {
        left -= share;
        left < 0.0
    });
    // Rounding may leave a little at the end.
    let last = || shares.iter().rposition(|&share| share > 0.0).unwrap_or(0);
    found.unwrap_or_else(last) as State
}

/// A word is a number in [0, 1); all ones is certainty.
const fn hits(p: u64, word: u64) -> bool {
    p == u64::MAX || word < p
}

/// Two probabilities that together are at most one.
const fn sum(one: u64, other: u64) -> u64 {
    one.saturating_add(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::random::rng::StageKey;

    fn p(value: f64) -> Probability {
        Probability::new(value).unwrap()
    }

    fn losses(n: u64, mut decide: impl FnMut([u64; 2]) -> bool) -> Vec<bool> {
        let stream = StageKey::new(3, "chain").stream(1, 0);
        (0..n).map(|index| decide([stream.word(index, 0), stream.word(index, 1)])).collect()
    }

    fn state(values: [f64; 5]) -> StateLoss {
        let [p13, p31, p32, p23, p14] = values.map(p);
        StateLoss { p13, p31, p32, p23, p14 }
    }

    /// The share of losses; its error is that of the mean of a chain, estimated from the means of a hundred parts of the
    /// run, which are as good as independent: 6 standard deviations of those.
    fn assert_share(hits: &[bool], expected: f64, name: &str) {
        let share = |hits: &[bool]| hits.iter().filter(|&&hit| hit).count() as f64 / hits.len() as f64;
        let parts: Vec<f64> = hits.chunks(hits.len() / 100).map(share).collect();
        let mean = parts.iter().sum::<f64>() / 100.0;
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / 99.0;
        let bound = 6.0 * (variance / 100.0).sqrt() + 1e-9;
        assert!((mean - expected).abs() <= bound, "{name}: {mean} and not {expected} ± {bound}");
    }

    /// Lengths of runs of `wanted`, the first and last of the sequence left out.
    fn runs(hits: &[bool], wanted: bool) -> Vec<u64> {
        let mut runs: Vec<(bool, u64)> = Vec::new();
        for &hit in hits {
            match runs.last_mut() {
                Some(last) if last.0 == hit => last.1 += 1,
                _ => runs.push((hit, 1)),
            }
        }
        let inner = runs.len().saturating_sub(1).max(1);
        runs[1.min(inner)..inner].iter().filter(|run| run.0 == wanted).map(|run| run.1).collect()
    }

    /// Runs that end with probability `end` at each step are geometric: chi square over the lengths 1 to 10 and longer.
    fn assert_geometric(runs: &[u64], end: f64, name: &str) {
        let n = runs.len() as f64;
        let mut chi = 0.0;
        for length in 1..=10_u64 {
            let tail = length == 10;
            let share = (1.0 - end).powi(length as i32 - 1) * if tail { 1.0 } else { end };
            let seen = runs.iter().filter(|&&run| run == length || tail && run > length).count() as f64;
            if n * share > 5.0 {
                chi += (seen - n * share).powi(2) / (n * share);
            }
        }
        // 9 degrees of freedom at the most: exceeds 45 once in a million.
        assert!(chi < 45.0, "{name}: chi square {chi} of {n} runs");
    }

    #[test]
    fn the_four_states_lose_what_the_formula_says_over_a_grid() {
        for values in [
            [0.01, 0.3, 0.0, 1.0, 0.0],
            [0.02, 0.2, 0.1, 0.5, 0.001],
            [0.1, 0.9, 0.1, 0.05, 0.05],
            [0.3, 0.3, 0.7, 1.0, 0.7],
            [0.0, 0.5, 0.0, 1.0, 0.1],
            [0.5, 0.0, 0.4, 0.1, 0.0],
            [0.01, 1.0, 0.0, 1.0, 0.0],
            [1.0, 1.0, 0.0, 1.0, 0.0],
        ] {
            let chain = state(values);
            let mut memory = GAP;
            let hits = losses(1_000_000, |words| four_states(&chain, &mut memory, words[0]));
            assert_share(&hits, chain.loss_rate(), &format!("{values:?}"));
        }
    }

    /// Without lone losses a run of losses ends with p31 + p32 at each packet; without state 2 a gap ends with p13.
    #[test]
    fn bursts_and_gaps_of_the_four_states_are_geometric() {
        for values in [[0.05, 0.3, 0.0, 1.0, 0.0], [0.2, 0.25, 0.35, 0.4, 0.0]] {
            let chain = state(values);
            let mut memory = GAP;
            let hits = losses(500_000, |words| four_states(&chain, &mut memory, words[0]));
            assert_geometric(&runs(&hits, true), values[1] + values[2], &format!("bursts of {values:?}"));
            if values[2] == 0.0 {
                assert_geometric(&runs(&hits, false), values[0], &format!("gaps of {values:?}"));
            }
        }
    }

    #[test]
    fn the_ends_of_the_four_states_are_exact() {
        let count = |values| {
            let chain = state(values);
            let mut memory = GAP;
            losses(1_000, |words| four_states(&chain, &mut memory, words[0]))
                .iter()
                .filter(|&&hit| hit)
                .count()
        };
        assert_eq!(count([0.0, 1.0, 0.0, 1.0, 0.0]), 0);
        assert_eq!(count([1.0, 0.0, 0.0, 1.0, 0.0]), 1_000);
        assert_eq!(count([1.0, 0.0, 1.0, 0.0, 0.0]), 1, "into state 2, for ever");
        assert_eq!(count([0.0, 1.0, 0.0, 1.0, 1.0]), 500, "every second");
    }

    #[test]
    fn gilbert_elliott_loses_what_the_formula_says_over_a_grid() {
        for [to_bad, to_good, bad, good] in [
            [0.01, 0.1, 1.0, 0.0],
            [0.05, 0.5, 0.7, 0.01],
            [0.3, 0.7, 0.2, 0.1],
            [0.0, 0.5, 1.0, 0.02],
            [0.01, 0.99, 1.0, 0.0],
            [0.5, 1.0, 0.5, 0.5],
            [1.0, 1.0, 1.0, 0.0],
        ] {
            let chain = GilbertElliott { p: p(to_bad), r: p(to_good), bad: p(bad), good: p(good) };
            let mut memory = 0;
            let hits = losses(1_000_000, |words| two_states(&chain, &mut memory, words));
            assert_share(&hits, chain.loss_rate(), &format!("{chain:?}"));
        }
    }

    /// Simple Gilbert: bad is loss. A burst ends with r and a gap with p at each packet.
    #[test]
    fn bursts_and_gaps_of_gilbert_are_geometric() {
        for (to_bad, to_good) in [(0.02, 0.2), (0.1, 0.6)] {
            let chain = GilbertElliott { p: p(to_bad), r: p(to_good), bad: p(1.0), good: p(0.0) };
            let mut memory = 0;
            let hits = losses(500_000, |words| two_states(&chain, &mut memory, words));
            assert_geometric(&runs(&hits, true), to_good, "bursts");
            assert_geometric(&runs(&hits, false), to_bad, "gaps");
        }
    }

    #[test]
    fn it_never_leaves_bad_without_a_way_out() {
        let chain = GilbertElliott { p: p(1.0), r: p(0.0), bad: p(1.0), good: p(0.0) };
        let mut memory = 0;
        let hits = losses(100, |words| two_states(&chain, &mut memory, words));
        assert_eq!(hits.iter().filter(|&&hit| hit).count(), 99, "the first is decided before the move");
    }

    /// One step from a state drawn by the shares of the long run loses the share of the long run, whatever the chain: the
    /// shares are in balance. 6 standard deviations of a binomial count.
    #[test]
    fn the_first_packet_is_lost_as_often_as_any() {
        let n = 100_000;
        let assert_first = |name: String, expected: f64, lost: &dyn Fn([u64; 3]) -> bool| {
            let key = StageKey::new(4, "first");
            let words = |flow: u64| {
                let stream = key.stream(flow, 0);
                [stream.word(0, 0), stream.word(0, 1), stream.word(0, 2)]
            };
            let share = (0..n).filter(|&flow| lost(words(flow))).count() as f64 / n as f64;
            let bound = 6.0 * (expected * (1.0 - expected) / n as f64).sqrt() + 1e-9;
            assert!((share - expected).abs() <= bound, "{name}: {share}, not {expected} ± {bound}");
        };
        for values in [
            [0.01, 0.3, 0.0, 1.0, 0.0],
            [0.02, 0.2, 0.1, 0.5, 0.001],
            [0.1, 0.9, 0.1, 0.05, 0.05],
            [0.3, 0.3, 0.7, 1.0, 0.7],
            [0.0, 0.5, 0.0, 1.0, 0.1],
            [0.5, 0.0, 0.4, 0.1, 0.0],
            [0.5, 0.0, 0.0, 0.1, 0.0],
            [0.5, 0.3, 0.4, 0.0, 0.0],
            [0.01, 1.0, 0.0, 1.0, 0.0],
        ] {
            let chain = state(values);
            assert_first(format!("{values:?}"), chain.loss_rate(), &|words| {
                four_states(&chain, &mut any_of_four(&chain, words[2]), words[0])
            });
        }
        for [to_bad, to_good, bad, good] in
            [[0.01, 0.1, 1.0, 0.0], [0.05, 0.5, 0.7, 0.01], [0.0, 0.5, 1.0, 0.02], [0.3, 0.0, 0.4, 0.1]]
        {
            let chain = GilbertElliott { p: p(to_bad), r: p(to_good), bad: p(bad), good: p(good) };
            assert_first(format!("{chain:?}"), chain.loss_rate(), &|words| {
                two_states(&chain, &mut any_of_two(&chain, words[2]), [words[0], words[1]])
            });
        }
    }
}
