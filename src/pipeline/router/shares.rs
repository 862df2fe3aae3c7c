//! One queue for several paths that share a link.

use std::collections::BTreeMap;

use crate::pipeline::params::{ImpairmentParams, RouterParams, Share};
use crate::pipeline::router::path::{Occupant, Path, SeatId};

/// Gives the stages that wait for one link a common queue: the first stage stays at its seat, and the others become
/// its guests. A link that books its departures in advance has no queue of packets: there the shared clock is enough.
pub(super) fn share_queues(params: &RouterParams, paths: &mut [Path]) {
    let mut homes: BTreeMap<Share, SeatId> = BTreeMap::new();
    for (path, of) in params.paths.iter().enumerate() {
        for (seat, params) in of.seats.iter().enumerate() {
            let Some(stage) = params.stage() else { continue };
            let has_queue = matches!(stage.impairment, ImpairmentParams::Bottleneck(_));
            let Some(share) = stage.share().filter(|_| has_queue) else { continue };
            let here = SeatId { path: path as u16, seat: seat as u16 };
            let home = *homes.entry(share).or_insert(here);
            if home != here {
                paths[path].seats[seat].occupant = Occupant::Guest(home);
                paths[usize::from(home.path)].seats[usize::from(home.seat)].has_guests = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::config::spec;
    use crate::pipeline::counters::{Reason, StageCounters};
    use crate::pipeline::params::{ImpairmentParams, PathParams, RouterParams, Share, StageParams, Way};
    use crate::pipeline::router::Router;
    use crate::pipeline::testing::{Run, Spec};
    use crate::pipeline::time::{Duration, Instant};

    /// A link of 8 Mbit/s, a byte a microsecond, in both directions at once, or from port 0 to port 1 only.
    fn params(queue: &str, share: bool) -> RouterParams {
        let mut stage = spec::parse(&format!("rate 8mbit queue {queue}")).unwrap().stages.remove(0);
        let link = Share::new("trunk", Way::Only).filter(|_| share);
        match &mut stage.impairment {
            ImpairmentParams::Rate(rate) => rate.share = link,
            ImpairmentParams::Bottleneck(queue) => queue.share = link,
            other => panic!("{other}"),
        }
        let mut params = Run::params(1, vec![stage.clone()]);
        if share {
            let behind = spec::parse("mtu 60000").unwrap().stages.remove(0);
            params.paths.push(PathParams::new(1, 0, vec![behind, stage]));
        }
        params
    }

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    fn left(run: &Run) -> Vec<(Instant, usize)> {
        run.wires().iter().map(|wire| (wire.at, wire.bytes.len())).collect()
    }

    /// The link's seat in either path.
    fn seats(run: &Run) -> [&StageCounters; 2] {
        let paths = run.router.paths();
        [&paths[0].seats[0].counters, &paths[1].seats[1].counters]
    }

    proptest! {
        /// Two paths through one link give the same result as the same packets on one path: the same times and order, and the
        /// same numbers of drops and marks.
        #[test]
        fn one_link_is_one_queue_whoever_comes(
            packets in prop::collection::vec((0_u64..400, any::<bool>(), 1_usize..500, any::<bool>()), 1..120),
            queue in prop::sample::select(vec!["5", "3kb", "2ms", "5 head-drop", "50 codel target 1ms interval 2ms ecn"]),
        ) {
            let (mut both, mut one) = (Run::built(&params(queue, true)), Run::built(&params(queue, false)));
            let mut now = 0;
            for (gap, back, size, ecn) in packets {
                now += gap;
                let spec = Spec { traffic_class: u8::from(ecn) * 2, ..Spec::tcp(size) };
                one.feed(at(now), &spec.frame());
                both.feed_by(u16::from(back), at(now), &Spec { back, ..spec }.frame());
            }
            one.finish();
            both.finish();
            prop_assert_eq!(left(&both), left(&one));
            for reason in [Reason::QueueFull, Reason::Aqm] {
                prop_assert_eq!(both.dropped(reason), one.dropped(reason));
            }
            let [there, back] = seats(&both);
            prop_assert_eq!(there.rewritten.packets + back.rewritten.packets, one.stage(0).rewritten.packets);
            prop_assert_eq!(there.delayed.packets + back.delayed.packets, one.stage(0).delayed.packets);
            prop_assert_eq!(there.seen.packets + back.seen.packets, one.stage(0).seen.packets);
        }
    }

    /// Each path counts its own packets.
    #[test]
    fn what_happens_in_a_shared_queue_is_counted_where_the_packet_is_from() {
        for queue in ["3", "3 head-drop", "3 codel", "3 pie", "3 red 1 2"] {
            let mut run = Run::built(&params(queue, true));
            for _ in 0..6 {
                run.feed_by(1, at(0), &Spec { back: true, ..Spec::tcp(60) }.frame());
            }
            run.feed(at(1_000), &Spec::tcp(60).frame());
            run.finish();
            let [there, back] = seats(&run);
            assert_eq!((there.seen.packets, there.drops.total().packets), (1, 0), "{queue}");
            assert!(back.seen.packets == 6 && back.drops.total().packets >= 3, "{queue}");
            assert_eq!(run.wires().iter().filter(|wire| wire.port == 1).count(), 1, "{queue}");
        }
    }

    /// What still waits at the end is dropped, and nothing is counted twice.
    #[test]
    fn a_shared_queue_is_given_up_at_the_end() {
        let mut run = Run::built(&params("10 codel", true));
        for back in [false, true, true, false] {
            run.feed_by(u16::from(back), at(0), &Spec { back, ..Spec::tcp(960) }.frame());
        }
        run.advance(at(1_000));
        run.shut_down();
        assert_eq!((run.wires().len(), run.dropped(Reason::Shutdown)), (1, 3));
    }

    /// Two workers that take turns get the rate of the link together, not each for itself.
    #[test]
    fn workers_share_a_link_that_paths_share() {
        let params = params("10", true);
        let shared = Router::shared(&params);
        let mut workers = [Run::worker(&params, &shared), Run::worker(&params, &shared)];
        for turn in 0..4_000_u64 {
            let back = turn % 4 > 1;
            let worker = &mut workers[(turn % 2) as usize];
            worker.feed_by(u16::from(back), at(turn * 50), &Spec { back, ..Spec::tcp(60) }.frame());
        }
        let sent: u64 = workers
            .iter_mut()
            .map(|worker| {
                worker.finish();
                worker.router.counters().sent.packets
            })
            .sum();
        // 200 ms of a packet each 100 us, and what the queue held.
        assert!((2_000..=2_010).contains(&sent), "{sent}");
    }

    /// A trigger that counts over a path counts only that path's packets, although other paths share the link.
    #[test]
    fn the_gate_of_a_shared_link_is_its_paths_own() {
        let mut params = params("10", true);
        let first = crate::pipeline::params::Trigger {
            first: Some(1),
            scope: crate::pipeline::params::Scope::Path,
            ..Default::default()
        };
        for path in &mut params.paths {
            let stage: &mut StageParams = path.stages_mut().last().unwrap();
            stage.trigger = first.clone();
        }
        let mut run = Run::built(&params);
        for back in [false, false, true, true] {
            run.feed_by(u16::from(back), at(0), &Spec { back, ..Spec::tcp(60) }.frame());
        }
        run.finish();
        let [there, back] = seats(&run);
        assert_eq!([there.delayed.packets, back.delayed.packets], [1, 1]);
    }
}
