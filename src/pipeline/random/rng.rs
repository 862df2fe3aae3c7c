//! Counter-based random draws: every decision is a function of (seed, stage, flow, index of the packet), never the next
//! value of a shared stream.
//!
//! The generator is `SplitMix64`'s output function (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators",
//! OOPSLA 2014; finaliser by Stafford, variant 13) at an addressable position: position `n` of a stream is the mix of
//! `key + n * GAMMA`. It is random access, needs no state, and uses only integer arithmetic, so that a run gives the same
//! verdicts on every machine.
//!
//! ```
//! use faultwire::pipeline::random::rng::{Chance, StageKey};
//! use faultwire::pipeline::units::Probability;
//!
//! let chance = Chance::new(Probability::new(0.1).unwrap());
//! let stream = StageKey::new(7, "uplink-loss").stream(0xfeed, 0);
//! // The same packets fare the same whether they are asked one by one or as a train.
//! let alone: Vec<bool> = (0..100).map(|index| chance.hit(stream, index)).collect();
//! let (run, hit) = chance.run(stream, 0, 100);
//! assert!(alone[..run as usize].iter().all(|&one| one == hit));
//! ```

use std::convert::Infallible;

use rand::TryRng;

use crate::pipeline::units::Probability;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A full-avalanche mix of 64 bits.
#[inline]
pub(in crate::pipeline) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of one stage (or trigger): from the seed of the run and the stage's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageKey(u64);

impl StageKey {
    /// The key of the stage called `name`, unique within the run, in a run seeded with `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let fold = |state: u64, byte: &u8| mix(state.wrapping_add(GAMMA) ^ u64::from(*byte));
        Self(name.as_bytes().iter().fold(mix(seed ^ 0x6661_756c_7477_6972), fold))
    }

    /// The key of decision `number` of a stage that makes several.
    #[must_use]
    pub const fn part(self, number: u64) -> Self {
        Self(mix(self.0.wrapping_add((number + 1).wrapping_mul(GAMMA))))
    }

    /// A salt for copy `number` of a packet, different for each stage.
    pub const fn salt(self, number: u32) -> u64 {
        self.0 ^ number as u64
    }

    /// The draws for one flow. `lineage` tells copies of a packet from the original (zero).
    #[inline]
    pub const fn stream(self, flow: u64, lineage: u32) -> Stream {
        // Both are mixed already; what is drawn is mixed again.
        let mut key = self.0 ^ flow;
        if lineage != 0 {
            key = mix(key ^ (lineage as u64).wrapping_mul(GAMMA));
        }
        Stream(key)
    }
}

/// The draws of one stage for one flow, addressed by the index of the wire packet.
#[derive(Debug, Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    /// Sixty-four random bits: draw `draw` for packet `index`.
    #[inline]
    pub const fn word(self, index: u64, draw: u32) -> u64 {
        // Two rounds: one makes a key of the packet, one draws from it.
        let packet = mix(self.0.wrapping_add(index.wrapping_mul(GAMMA)));
        mix(packet.wrapping_add((draw as u64 + 1).wrapping_mul(GAMMA)))
    }

    /// A number in [0, 1): draw `draw` for packet `index`.
    #[inline]
    pub const fn unit(self, index: u64, draw: u32) -> f64 {
        // 53 bits: all that an f64 holds.
        (self.word(index, draw) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A generator for packet `index`, for distributions that need an unknown number of draws.
    #[inline]
    pub const fn generator(self, index: u64) -> PacketRng {
        PacketRng { stream: self, index, draw: 0 }
    }

    /// The word for 64 packets together that [`Chance`] draws first.
    #[inline]
    const fn block(self, block: u64) -> u64 {
        mix(self.0.wrapping_add(block.wrapping_mul(GAMMA)) ^ 0xa076_1d64_78bd_642f)
    }

    /// The number for which [`Self::digits`] draws the binary digits, for `lane` of block `block`.
    const fn number(self, block: u64, lane: u32) -> u64 {
        let (mut number, mut digit) = (0, 0);
        while digit < 64 {
            let position = block.wrapping_mul(64).wrapping_add(digit);
            let word = mix(self.0.wrapping_add(position.wrapping_mul(GAMMA)) ^ 0x5bd1_e995_7b93_b8d5);
            number = number << 1 | (word >> lane & 1);
            digit += 1;
        }
        number
    }

    /// Among the `lanes` of block `block` (packet `64 * block + lane`), those that are hit with probability `p`.
    ///
    /// The binary digits of a uniform number are drawn for all lanes at once, a word a digit, and compared with those of
    /// `p`; a lane is decided at its first difference. So 64 packets cost eight words on average, one packet two.
    #[inline]
    const fn digits(self, block: u64, lanes: u64, p: Probability) -> u64 {
        let mut digits = p.bits();
        if digits == u64::MAX {
            return lanes;
        }
        let mut undecided = lanes;
        let mut hit = 0;
        let mut position = block.wrapping_mul(64);
        // Once p has no digits left, an undecided lane is equal to p or above it: no hit.
        while undecided != 0 && digits != 0 {
            let word = mix(self.0.wrapping_add(position.wrapping_mul(GAMMA)) ^ 0x5bd1_e995_7b93_b8d5);
            if digits >> 63 == 1 {
                hit |= undecided & !word;
                undecided &= word;
            } else {
                undecided &= !word;
            }
            digits <<= 1;
            position = position.wrapping_add(1);
        }
        hit
    }
}

/// A probability that is prepared for many decisions: each packet is hit independently.
///
/// The packets of a flow are taken in blocks of 64. For a small probability, one word says where the first hit of a
/// block is, if there is one: the word is compared with the distribution function of the geometric distribution. Only
/// packets after a first hit need more draws. So a packet, or a train, that is not hit costs one word. For a large
/// probability, each packet has its own draw.
#[derive(Debug, Clone)]
pub struct Chance {
    p: Probability,
    /// `first[i]`: probability, as a fraction of 2^64, that the first hit of a block is in lane `i` or before. Empty for
    /// a large `p`.
    first: Vec<u64>,
}

impl Chance {
    /// Above this probability most blocks have a hit, and the table does not pay off.
    const LARGE: u64 = u64::MAX / 64;

    /// Prepares `p`.
    pub fn new(p: Probability) -> Self {
        let miss = u128::from(!p.bits()) + 1;
        let not_by = std::iter::successors(Some(miss), |&none| Some((none * miss) >> 64));
        let first = not_by.map(|none| (0_u128.wrapping_sub(none)) as u64).take(64);
        let is_small = p.bits() > 0 && p.bits() < Self::LARGE;
        Self { p, first: if is_small { first.collect() } else { Vec::new() } }
    }

    /// The probability.
    pub const fn probability(&self) -> Probability {
        self.p
    }

    /// Whether packet `index` of `stream` is hit.
    #[inline]
    pub fn hit(&self, stream: Stream, index: u64) -> bool {
        self.hits(stream, index >> 6, 1 << (index & 63)) != 0
    }

    /// Among the `lanes` of block `block` (packet `64 * block + lane`), those that are hit.
    #[inline]
    fn hits(&self, stream: Stream, block: u64, lanes: u64) -> u64 {
        let Some(&any) = self.first.last() else { return stream.digits(block, lanes, self.p) };
        let word = stream.block(block);
        if word >= any {
            return 0;
        }
        self.hits_behind(stream, block, lanes, word)
    }

    #[cold]
    fn hits_behind(&self, stream: Stream, block: u64, lanes: u64, word: u64) -> u64 {
        let first = 1_u64 << self.first.partition_point(|&by| by <= word);
        let behind = !(first | (first - 1));
        lanes & first | stream.digits(block, lanes & behind, self.p)
    }

    /// How many packets from `first` on (at least one, at most `count`) get the same answer as packet `first`, and
    /// whether they are hit.
    /// are hit.
    #[inline]
    pub fn run(&self, stream: Stream, first: u64, count: u32) -> (u32, bool) {
        if count <= 1 {
            return (1, self.hit(stream, first));
        }
        let mut length = 0;
        let mut fate = None;
        while length < count {
            let at = first + u64::from(length);
            let lane = (at & 63) as u32;
            let lanes = (64 - lane).min(count - length);
            let mask = if lanes == 64 { u64::MAX } else { ((1 << lanes) - 1) << lane };
            let hits = self.hits(stream, at >> 6, mask) >> lane;
            let hit = *fate.get_or_insert(hits & 1 == 1);
            let same = if hit { hits.trailing_ones() } else { hits.trailing_zeros() };
            length += same.min(lanes);
            if same < lanes {
                break;
            }
        }
        (length, fate.unwrap_or(false))
    }
}

/// A random number and the threshold that it was compared with, as fractions of 2^64: a number below the threshold is
/// a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The number.
    pub value: u64,
    /// The probability.
    pub threshold: u64,
}

impl Draw {
    /// The number, in [0, 1).
    pub fn value(self) -> f64 {
        self.value as f64 / 2_f64.powi(64)
    }

    /// The probability.
    pub fn threshold(self) -> f64 {
        self.threshold as f64 / 2_f64.powi(64)
    }
}

impl Chance {
    /// The number that [`Self::hit`] compares with the probability for packet `index` of `stream`. It is for reports
    /// of a decision, not for deciding.
    ///
    /// A word that says where the first hit of a block is stands for a uniform number of each packet up to there: its
    /// position in the part of the distribution that the packet before had left.
    /// what was left of the distribution by the packet before.
    #[cold]
    pub fn draw(&self, stream: Stream, index: u64) -> Draw {
        let (block, lane) = (index >> 6, (index & 63) as usize);
        let threshold = self.p.bits();
        let word = stream.block(block);
        let first = self.first.partition_point(|&by| by <= word);
        if self.first.is_empty() || first < lane {
            return Draw { value: stream.number(block, lane as u32), threshold };
        }
        let by = lane.checked_sub(1).map_or(0, |before| self.first[before]);
        let (inside, left) = (u128::from(word - by), (1 << 64) - u128::from(by));
        // The table is rounded to 64 bits, and the hit is what counts.
        let value = ((inside << 64) / left) as u64;
        let value = if first == lane { value.min(threshold - 1) } else { value.max(threshold) };
        Draw { value, threshold }
    }
}

/// The draws of one packet in order, as a `rand` generator.
#[derive(Debug, Clone)]
pub struct PacketRng {
    stream: Stream,
    index: u64,
    draw: u32,
}

impl TryRng for PacketRng {
    type Error = Infallible;

    #[inline]
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|word| (word >> 32) as u32)
    }

    #[inline]
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let word = self.stream.word(self.index, self.draw);
        self.draw = self.draw.wrapping_add(1);
        Ok(word)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chance(value: f64) -> Chance {
        Chance::new(Probability::new(value).unwrap())
    }

    /// Five standard deviations of a binomial count around its mean.
    fn assert_binomial(hits: u64, n: u64, p: f64) {
        let (mean, sigma) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
        assert!(
            (hits as f64 - mean).abs() <= 5.0 * sigma + 1.0,
            "{hits} of {n} at p = {p}: expected {mean} ± {sigma}"
        );
    }

    #[test]
    fn the_rate_of_hits_is_p() {
        for value in [0.0, 0.0001, 0.01, 0.0156, 0.0157, 0.1, 0.3, 0.5, 0.999, 1.0] {
            let n = 200_000;
            let stream = StageKey::new(1, "rate").stream(42, 0);
            let chance = chance(value);
            let hits = (0..n).filter(|&index| chance.hit(stream, index)).count();
            assert_binomial(hits as u64, n, value);
        }
    }

    /// A packet's fate tells nothing of its neighbour's, of another flow's, another stage's, another seed's.
    #[test]
    fn streams_are_independent() {
        let n = 200_000_u64;
        let base = StageKey::new(1, "a").stream(1, 0);
        let others = [
            (StageKey::new(1, "a").stream(1, 0), 1),
            (StageKey::new(1, "a").stream(1, 0), 64),
            (StageKey::new(1, "a").stream(2, 0), 0),
            (StageKey::new(1, "a").stream(1, 1), 0),
            (StageKey::new(1, "b").stream(1, 0), 0),
            (StageKey::new(2, "a").stream(1, 0), 0),
        ];
        for (other, shift) in others {
            for value in [0.3, 0.012] {
                let chance = chance(value);
                let both = (0..n).filter(|&i| chance.hit(base, i) && chance.hit(other, i + shift)).count();
                assert_binomial(both as u64, n, value * value);
            }
        }
    }

    /// Gaps between hits are geometric: of the gaps that reach `k`, a share p ends there, also across blocks.
    #[test]
    fn gaps_between_hits_have_no_memory() {
        let (chance, p, n) = (chance(0.01), 0.01, 2_000_000_u64);
        let stream = StageKey::new(5, "gaps").stream(3, 0);
        let hits: Vec<u64> = (0..n).filter(|&index| chance.hit(stream, index)).collect();
        let gaps: Vec<u64> = hits.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for k in [1, 2, 5, 20, 63, 64, 65, 100, 200] {
            let reach = gaps.iter().filter(|&&gap| gap >= k).count();
            let end = gaps.iter().filter(|&&gap| gap == k).count();
            assert_binomial(end as u64, reach as u64, p);
        }
    }

    #[test]
    fn words_fill_all_bits() {
        let stream = StageKey::new(3, "bits").stream(9, 0);
        let n = 20_000_u64;
        for bit in 0..64 {
            let ones = (0..n).filter(|&i| stream.word(i, 0) >> bit & 1 == 1).count();
            assert_binomial(ones as u64, n, 0.5);
        }
    }

    proptest! {
        /// Asking for a train and asking for each of its packets give the same verdicts.
        #[test]
        fn runs_agree_with_single_hits(flow: u64, first in 0..u64::MAX / 2, count in 1..300_u32, value in prop_oneof![0.0..=1.0, 0.0..0.02]) {
            let (stream, chance) = (StageKey::new(7, "run").stream(flow, 0), chance(value));
            let mut at = 0;
            while at < count {
                let (length, hit) = chance.run(stream, first + u64::from(at), count - at);
                prop_assert!(length >= 1 && at + length <= count);
                for i in at..at + length {
                    prop_assert_eq!(chance.hit(stream, first + u64::from(i)), hit);
                }
                if at + length < count {
                    prop_assert_ne!(chance.hit(stream, first + u64::from(at + length)), hit);
                }
                at += length;
            }
        }
    }

    /// What is told of a decision is what was decided: below the threshold is a hit, everything else is none.
    #[test]
    fn a_draw_is_below_its_threshold_where_it_hits() {
        for p in [0.0001, 0.01, 0.015_625, 0.02, 0.5, 0.999, 1.0] {
            let chance = chance(p);
            for flow in 0..20 {
                let stream = StageKey::new(5, "drawn").stream(flow, 0);
                for index in 0..2_000 {
                    let draw = chance.draw(stream, index);
                    assert_eq!(draw.value < draw.threshold, chance.hit(stream, index), "{p} {flow} {index}");
                }
            }
        }
    }

    /// The mean of n uniform numbers has the variance 1/(12 n); the 64 numbers of a block come from one word, and count as one. Five
    /// standard deviations.
    #[test]
    fn draws_are_uniform() {
        for p in [0.001, 0.01, 0.3] {
            let (chance, stream) = (chance(p), StageKey::new(5, "uniform").stream(1, 0));
            let n = 100_000;
            let mean = (0..n).map(|index| chance.draw(stream, index).value()).sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 5.0 / (12.0 * n as f64 / 64.0).sqrt(), "{p}: {mean}");
        }
    }

    /// `SplitMix64`, seeded with 1234567, as others print it: what a seed draws is the same on every machine and release.
    #[test]
    fn the_mix_is_that_of_splitmix() {
        let state = |number: u64| 1_234_567_u64.wrapping_add(GAMMA.wrapping_mul(number));
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([1, 2, 3].map(|number| mix(state(number))), expected);
        assert_eq!([1, 2, 3].map(|number| crate::pipeline::hosts::Hosts::mix(state(number))), expected);
    }

    #[test]
    fn stages_flows_and_lineages_draw_apart() {
        let mut words = Vec::new();
        for key in ["a", "b", "ab"].map(|name| StageKey::new(7, name)) {
            words.extend((0..4).map(|number| key.salt(number)));
            for (flow, lineage) in (0..4).flat_map(|flow| (0..4).map(move |lineage| (flow, lineage))) {
                let stream = key.stream(flow, lineage);
                words.extend((0..4).map(|index| stream.word(index, 0)));
            }
        }
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn a_draw_tells_its_numbers_as_shares() {
        let draw = Draw { value: 1 << 62, threshold: 1 << 63 };
        assert_eq!(
            (draw.value().to_bits(), draw.threshold().to_bits()),
            (0.25_f64.to_bits(), 0.5_f64.to_bits())
        );
    }
}
