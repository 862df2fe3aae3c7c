//! The description of a netem line: in netem's own words, so that readers who know them can compare.

use std::fmt;

use crate::pipeline::impair::netem::kernel::KernelNetem;
use crate::pipeline::impair::netem::{LinkLayer, Mode, Netem, NetemLine, NetemParams, SlotGap, traps};
use crate::pipeline::impair::{Blueprint, Directions, Place, Setting};
use crate::pipeline::params::{Correlated, GilbertElliott, LossModel, StateLoss};
use crate::pipeline::units::Probability;

impl fmt::Display for NetemParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words(self).join(" "))
    }
}

fn words(netem: &NetemParams) -> Vec<String> {
    let mut words = vec!["netem".to_owned()];
    if let Some(delay) = &netem.delay {
        words.push(delay.to_string());
        words.extend(correlation(netem.delay_correlation));
    }
    words.extend(loss(&netem.loss));
    let chances = [("duplicate", netem.duplicate), ("corrupt", netem.corrupt), ("reorder", netem.reorder)];
    for (word, chance) in chances.into_iter().filter(|(_, chance)| *chance != Correlated::default()) {
        words.push(format!("{word} {}", chance.probability));
        words.extend(correlation(chance.correlation));
    }
    words.extend((netem.gap > 1).then(|| format!("gap {}", netem.gap)));
    words.extend(netem.ecn.then(|| "ecn".to_owned()));
    if let Some(rate) = &netem.rate {
        words.push(format!("rate {}", rate.rate));
        if (rate.packet_overhead, rate.cell_size, rate.cell_overhead) != (0, 0, 0) {
            let (packet, size, cell) = (rate.packet_overhead, rate.cell_size, rate.cell_overhead);
            words.push(format!("({packet:+} bytes per packet, cells of {size} {cell:+})"));
        }
    }
    words.extend(netem.link_layer.map(|layer| match layer {
        LinkLayer::Ethernet => "linklayer ethernet".to_owned(),
        LinkLayer::Ip => "linklayer ip".to_owned(),
    }));
    words.extend(netem.slot.as_ref().map(|slot| {
        let gap = match slot.gap {
            SlotGap::Uniform(least, most) => format!("{least} to {most}"),
            SlotGap::Distribution(_, delay, jitter) => format!("{delay} ± {jitter}"),
        };
        let most = [(slot.packets, "packets"), (slot.bytes, "bytes")];
        let most: Vec<String> =
            most.iter().filter_map(|(most, what)| Some(format!(", {} {what}", (*most)?))).collect();
        format!("slots {gap} apart{}", most.concat())
    }));
    words.extend(netem.limit.map(|limit| format!("limit {limit}")));
    words.extend(netem.queue().map(|queue| format!("queue of {queue} packets")));
    words
}

fn loss(loss: &LossModel) -> Vec<String> {
    match loss {
        LossModel::Random(chance) if *chance == Correlated::default() => Vec::new(),
        LossModel::Random(chance) => {
            let mut words = vec![format!("loss {}", chance.probability)];
            words.extend(correlation(chance.correlation));
            words
        }
        LossModel::State(StateLoss { p13, p31, p32, p23, p14 }) => {
            vec![format!("loss state {p13} {p31} {p32} {p23} {p14}")]
        }
        LossModel::GilbertElliott(GilbertElliott { p, r, bad, good }) => {
            vec![format!("loss gemodel {p} {r} {bad} {good}")]
        }
    }
}

fn correlation(correlation: Probability) -> Option<String> {
    (correlation != Probability::ZERO).then(|| format!("(correlation {correlation})"))
}

impl Blueprint for NetemParams {
    type Stage = NetemLine;

    fn build(&self, setting: &Setting) -> Self::Stage {
        match self.mode {
            Mode::Exact => NetemLine::Exact(Box::new(Netem::new(self, setting))),
            Mode::Netem => NetemLine::Kernel(Box::new(KernelNetem::new(self, setting))),
        }
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        traps::of(self)
    }

    fn extra_packets(&self) -> f64 {
        self.duplicate.probability.as_f64()
    }
}

#[cfg(test)]
mod lawful {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::pipeline::impair::netem::{NetemRate, Slot};
    use crate::pipeline::params::{DelayParams, Distribution};
    use crate::pipeline::testing::laws::Lawful;
    use crate::pipeline::testing::strategy::{correlated, duration, probability, rate};
    use crate::pipeline::time::Duration;

    fn loss() -> impl Strategy<Value = LossModel> {
        // Two that leave one state, half of the probability for each.
        let half = || probability().prop_map(|p| Probability::new(p.as_f64() / 2.0).expect("half of one"));
        let state = (half(), half(), half(), probability(), half())
            .prop_map(|(p13, p31, p32, p23, p14)| LossModel::State(StateLoss { p13, p31, p32, p23, p14 }));
        let two = (probability(), probability(), probability(), probability())
            .prop_map(|(p, r, bad, good)| LossModel::GilbertElliott(GilbertElliott { p, r, bad, good }));
        prop_oneof![correlated().prop_map(LossModel::Random), state, two]
    }

    fn slot() -> impl Strategy<Value = Slot> {
        let gap = prop_oneof![
            (duration(), duration()).prop_map(|(least, more)| SlotGap::Uniform(least, least + more)),
            (duration(), duration()).prop_map(|(delay, jitter)| SlotGap::Distribution(
                Distribution::Normal,
                delay,
                jitter
            )),
        ];
        let packets = prop::option::of(1..5_u64);
        (gap, packets, prop::option::of(1..5_000_u64)).prop_map(|(gap, packets, bytes)| Slot {
            gap,
            packets,
            bytes,
        })
    }

    fn link() -> impl Strategy<Value = NetemRate> {
        (rate(), -20..60_i32, select(vec![0_u32, 48]), 0..8_i32).prop_map(
            |(rate, packet_overhead, cell_size, cell_overhead)| NetemRate {
                rate,
                packet_overhead,
                cell_size,
                cell_overhead,
            },
        )
    }

    impl Lawful for NetemParams {
        fn strategy() -> BoxedStrategy<Self> {
            let chances = (loss(), correlated(), correlated(), correlated());
            let rest = (
                prop::option::of(1..60_u64),
                prop::option::of(DelayParams::strategy()),
                probability(),
                any::<bool>(),
                0..4_u32,
                prop::option::of(link()),
                select(vec![Mode::Exact, Mode::Netem]),
                prop::option::of(slot()),
                prop::option::of(select(vec![LinkLayer::Ip, LinkLayer::Ethernet])),
            );
            (chances, rest)
                .prop_map(|((loss, duplicate, corrupt, reorder), rest)| {
                    let (limit, delay, delay_correlation, ecn, gap, rate, mode, slot, link_layer) = rest;
                    Self {
                        mode,
                        limit,
                        delay,
                        delay_correlation,
                        loss,
                        ecn,
                        duplicate,
                        corrupt,
                        reorder,
                        gap,
                        rate,
                        slot,
                        link_layer,
                    }
                })
                .boxed()
        }

        fn tame(self) -> Option<Self> {
            let delay = self.delay.map(|delay| {
                // In the kernel's way jitter reorders.
                let jitter = if self.mode == Mode::Netem { Duration::ZERO } else { delay.jitter };
                DelayParams { reorder: false, jitter, ..delay }
            });
            Some(Self { gap: 0, corrupt: Correlated::default(), delay, ..self })
        }

        fn damages(&self) -> bool {
            self.corrupt.probability > Probability::ZERO
        }

        fn shares_state(&self) -> bool {
            self.rate.is_some() || self.limit.is_some() || self.slot.is_some() || self.mode == Mode::Netem
        }
    }
}
