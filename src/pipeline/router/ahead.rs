//! What the router knows about a flow's next packets, and how it counts packets that were carried past it.

use std::net::IpAddr;

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::aim::gate::Outlook;
use crate::pipeline::counters::Amount;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::router::{Route, Router};
use crate::pipeline::stage::Stage;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::FlowKey;

impl Router {
    /// How many of the next plain packets ([`crate::pipeline::router::quiet`]) of `flow`, which was injected into `path`, would pass
    /// all its stages untouched and at once.
    pub fn quiet(&self, flow: FlowRef, path: u16, now: Instant) -> Quiet {
        let Some((&key, index)) = self.flows.ahead(flow) else { return Quiet::NO_MORE };
        if self.is_released {
            return Quiet::FOREVER;
        }
        // Packets that wait in front of the path must not be overtaken.
        if self.paths[usize::from(path)].entry.is_closed() {
            return Quiet::NO_MORE;
        }
        let ahead = Ahead { flow, key, index, now };
        let to = self.paths[usize::from(path)].to;
        let mut quiet = Quiet { longest: self.ports[usize::from(to)].mtu, ..Quiet::FOREVER };
        for seat in &self.paths[usize::from(path)].seats {
            quiet = quiet.and(match (seat.gate.outlook(&ahead), seat.occupant.stage()) {
                (Outlook::Shut(quiet), _) => quiet,
                (Outlook::Open, Some(stage)) => stage.quiet(&ahead),
                (Outlook::Open, None) | (Outlook::Unknown, _) => Quiet::NO_MORE,
            });
            if quiet == Quiet::NO_MORE {
                break;
            }
        }
        quiet
    }

    /// Reports that plain packets of `flow` (with the key `key`) have been carried past the router: at most as many
    /// as [`Self::quiet`] allowed, and before any other packet of the flow. They count as if they had been injected
    /// into `path` and had left.
    pub fn passed(&mut self, flow: FlowRef, key: &FlowKey, path: u16, amount: Amount, now: Instant) {
        self.carried += amount;
        self.counters.received += amount;
        self.counters.sent += amount;
        let index = self.flows.ahead(flow).map(|(_, index)| index);
        // If the flow has been forgotten meanwhile, its index and per-flow counts are not updated.
        let ahead = Ahead { flow, key: *key, index: index.unwrap_or(0), now };
        let seats = if self.is_released { &mut [][..] } else { &mut self.paths[usize::from(path)].seats };
        for seat in seats {
            seat.counters.seen += amount;
            let is_asked = match index {
                Some(_) => seat.gate.passed(&ahead, amount.packets),
                None => seat.gate.takes(key),
            };
            if !is_asked {
                seat.counters.spared += amount;
            } else if index.is_some()
                && amount.packets > 0
                && let Some(stage) = seat.occupant.stage_mut()
            {
                stage.passed(&ahead, amount.packets);
            }
        }
        if index.is_some() {
            self.flows.pass(flow, amount.packets);
        }
    }

    /// What was received and sent without passing through the router: the sum of the amounts reported to
    /// [`Self::passed`].
    pub const fn carried(&self) -> Amount {
        self.carried
    }

    /// The key of a flow and the index of its next packet; `None` if it has been forgotten.
    pub fn flow(&self, flow: FlowRef) -> Option<(FlowKey, u64)> {
        self.flows.ahead(flow).map(|(key, index)| (*key, index))
    }

    /// The path of `flow` and the port to which it leads; `None` if packets of the flow are not forwarded or are
    /// translated, or if the flow has been forgotten.
    pub fn path_of(&self, flow: FlowRef) -> Option<(u16, u16)> {
        self.flows.ahead(flow)?;
        self.leads(self.flows.route(flow.slot))
    }

    /// The port by which packets from port `ingress` to `destination` leave; `None` if they are not forwarded.
    pub fn way_out(&self, ingress: u16, destination: IpAddr) -> Option<u16> {
        self.leads(self.way().route(ingress, destination)).map(|(_, port)| port)
    }

    fn leads(&self, route: Route) -> Option<(u16, u16)> {
        match route {
            Route::Path(path) => Some((path, self.paths[usize::from(path)].to)),
            _ => None,
        }
    }

    /// Says whether packets of `flow` are carried past the router. If so, other flows are forgotten before it when
    /// room is needed.
    pub fn keep(&mut self, flow: FlowRef, is_kept: bool) {
        self.flows.keep(flow, is_kept);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::config::spec;
    use crate::pipeline::counters::{Reason, RouterCounters, StageCounters};
    use crate::pipeline::impair::{DropParams, ImpairmentParams, LossParams, NetemParams};
    use crate::pipeline::packet::Packet;
    use crate::pipeline::params::{Correlated, GilbertElliott, LossModel, Opened, StageParams, Trigger};
    use crate::pipeline::testing::laws;
    use crate::pipeline::testing::{Run, Spec, Wire, stage};
    use crate::pipeline::time::Duration;
    use crate::pipeline::units::Probability;
    use crate::pipeline::wire::{Version, tcp::flag};

    /// The key, the amount and the length of the first wire packet, if the frame may be carried past the router.
    fn plain(packet: &Packet) -> Option<(FlowKey, Amount, u32)> {
        let shown = flag::SYN | flag::FIN | flag::RST;
        let layout = packet.layout;
        let is_bare = layout.version() == Version::V4 || layout.transport_offset() == 40;
        let is_plain =
            layout.is_plain() && is_bare && packet.tcp_flags().is_none_or(|flags| flags & shown == 0);
        is_plain.then(|| (FlowKey::new(packet.bytes(), layout), packet.amount(), packet.wire_length(0)))
    }

    /// A flow that is carried past the router: what may still pass, and what has and is not counted yet.
    struct Armed {
        flow: FlowRef,
        left: Quiet,
        passed: Amount,
    }

    /// What leaves, what was counted, and how many frames were carried past the router.
    type Result = (Vec<Wire>, RouterCounters, Vec<StageCounters>, usize);

    fn run(stages: &[StageParams], traffic: &[(u64, Spec)], is_cached: bool) -> Result {
        let mut run = Run::new(stages.to_vec());
        let mut armed: HashMap<FlowKey, Armed> = HashMap::new();
        let (mut now, mut carried) = (Instant::ZERO, 0);
        for (gap, spec) in traffic {
            now += Duration::from_nanos(*gap);
            for frame in spec.frames() {
                let packet = frame.parse().ok();
                let plain = packet.as_ref().and_then(plain);
                if let Some((key, amount, longest)) = plain
                    && let Some(armed) = armed.get_mut(&key)
                    && amount.packets <= armed.left.count
                    && longest <= armed.left.longest
                {
                    armed.left.count -= amount.packets;
                    armed.passed += amount;
                    run.carry(now, &frame);
                    carried += 1;
                    continue;
                }
                // Every other packet goes through the router; packets that passed before it are reported first.
                for (key, Armed { flow, passed, .. }) in armed.drain() {
                    run.router.passed(flow, &key, 0, passed, now);
                }
                let flow = run.inject(now, &frame);
                if let (true, Some(flow), Some(packet)) = (is_cached, flow, &packet) {
                    let key = FlowKey::new(packet.bytes(), packet.layout);
                    let left = run.router.quiet(flow, 0, now);
                    armed.insert(key, Armed { flow, left, passed: Amount::default() });
                }
            }
        }
        for (key, Armed { flow, passed, .. }) in armed.drain() {
            run.router.passed(flow, &key, 0, passed, now);
        }
        run.finish();
        let stages = run.router.paths()[0].seats.iter().map(|seat| seat.counters).collect();
        (run.wires(), *run.router.counters(), stages, carried)
    }

    fn assert_same(stages: &[StageParams], traffic: &[(u64, Spec)]) -> usize {
        let (shown, cached) = (run(stages, traffic, false), run(stages, traffic, true));
        assert_eq!(cached.0, shown.0, "what leaves");
        assert_eq!(cached.1, shown.1, "counters");
        assert_eq!(cached.2, shown.2, "counters of stages");
        cached.3
    }

    fn probability(value: f64) -> Probability {
        Probability::new(value).unwrap()
    }

    /// Two segments are held before a stage that acts on the first three of a connection, and two others pass it. Then a SYN opens
    /// the connection anew and is held too: what is asked about the new connection meanwhile changes nothing for the old one.
    #[test]
    fn a_question_about_a_reopened_connection_leaves_the_counts_of_the_former() {
        let stage_of = |spec: &str| spec::parse(spec).unwrap().stages.remove(0);
        let first = |count| Trigger { first: Some(count), ..Trigger::default() };
        let stages = [
            StageParams { trigger: first(2), ..stage_of("delay 10ms") },
            StageParams { trigger: first(3), ..stage(ImpairmentParams::Drop(DropParams)) },
        ];
        let segment = |flags| Spec { flags, ..Spec::tcp(9) };
        let mut traffic = vec![(0, segment(flag::ACK)); 4];
        traffic.push((1_000_000, segment(flag::SYN)));
        assert_same(&stages, &traffic);
        let dropped = run(&stages, &traffic, true).2[1].drops.of(Reason::Drop).packets;
        assert_eq!(dropped, 4, "three of the former, and the SYN");
    }

    /// Long runs of one flow through stages that let most of it pass.
    fn calm() -> impl Strategy<Value = StageParams> {
        let netem = |loss| NetemParams { loss, ..NetemParams::default() };
        let chain = GilbertElliott {
            p: probability(0.02),
            r: probability(0.3),
            bad: probability(0.9),
            good: probability(0.001),
        };
        let correlated = Correlated { probability: probability(0.02), correlation: probability(0.5) };
        let lines = [LossModel::GilbertElliott(chain), LossModel::Random(correlated)];
        let netem = proptest::sample::select(lines.map(netem).to_vec())
            .prop_map(|params| ImpairmentParams::Netem(Box::new(params)));
        let loss = LossParams { probability: probability(0.01), ecn: false };
        let kind =
            prop_oneof![Just(ImpairmentParams::Loss(loss)), netem, Just(ImpairmentParams::Drop(DropParams))];
        let triggers = [
            Trigger::default(),
            Trigger { nth: vec![3, 70], ..Trigger::default() },
            Trigger { every: Some(40), ..Trigger::default() },
            Trigger { probability: Some(probability(0.02)), times: Some(2), ..Trigger::default() },
            Trigger { after: Some(30), probability: Some(probability(0.02)), ..Trigger::default() },
            Trigger { first: Some(2), ..Trigger::default() },
        ];
        (kind, proptest::sample::select(triggers.to_vec()))
            .prop_filter("it drops everything", |(kind, trigger)| {
                *kind != ImpairmentParams::Drop(DropParams) || *trigger != Trigger::default()
            })
            .prop_map(|(kind, trigger)| StageParams { trigger, ..stage(kind) })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

        /// For any stages and traffic.
        #[test]
        fn what_is_carried_past_fares_and_counts_as_if_shown(stages in laws::stages(), traffic in laws::traffic()) {
            assert_same(&stages, &traffic);
        }

        #[test]
        fn long_flows_pass_up_to_their_next_hit(
            stages in vec(calm(), 1..4),
            sends in vec((0..2_u16, 1..40_u16), 50..150),
        ) {
            let names = ["one", "two", "three"];
            let named = |(stage, name): (StageParams, &str)| StageParams { name: name.to_owned(), ..stage };
            let stages: Vec<_> = stages.into_iter().zip(names).map(named).collect();
            let send = |&(flow, wires): &(u16, u16)| {
                let spec = Spec::udp(usize::from(wires) * 10).with_source_port(flow + 1);
                (1_000, if wires > 1 { spec.train(10) } else { spec })
            };
            let traffic: Vec<_> = sends.iter().map(send).collect();
            assert_same(&stages, &traffic);
        }
    }

    /// A connection's first packet shows whether it was opened before. Packets of other connections pass.
    #[test]
    fn connections_of_the_other_age_are_carried_past() {
        let segment = |flags, at: u32| {
            (1_000, Spec { flags, sequence: at * 10, ..Spec::tcp(if flags == flag::SYN { 0 } else { 10 }) })
        };
        let plain = (1..100).map(|at| segment(flag::ACK, at));
        let opened: Vec<_> = std::iter::once(segment(flag::SYN, 0)).chain(plain.clone()).collect();
        for (traffic, wanted, carried) in [
            (opened.clone(), Opened::Before, 99),
            (opened, Opened::After, 0),
            (plain.clone().collect(), Opened::After, 98),
            (plain.collect(), Opened::Before, 0),
        ] {
            let mut drops = stage(ImpairmentParams::Drop(DropParams));
            drops.select.opened = Some(wanted);
            assert_eq!(assert_same(&[drops], &traffic), carried, "{wanted:?}");
        }
    }

    /// A loss of 1 % lets whole trains pass; of the flows that a selection excludes only the first packet is shown.
    #[test]
    fn most_packets_are_carried_past() {
        let loss = |p| ImpairmentParams::Loss(LossParams { probability: probability(p), ecn: false });
        let traffic = vec![(1_000, Spec::udp(100).train(10)); 500];
        let carried = assert_same(&[stage(loss(0.01))], &traffic);
        // A train of 10 is hit with 9.6 %, and the one behind a hit is asked about: five standard deviations.
        assert!((400..=499).contains(&carried), "{carried}");
        let mut other = stage(loss(1.0));
        other.select.protocols = vec![6];
        assert_eq!(assert_same(&[other], &traffic), 499);
    }
}
