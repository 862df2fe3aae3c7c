use super::*;
use crate::config::spec;
use crate::pipeline::counters::Amount;
use crate::pipeline::params::{StageParams, Trigger};
use crate::pipeline::testing::{Run, Spec, Wire};
use crate::pipeline::time::Duration;
use proptest::prelude::*;

fn params(text: &str) -> RouterParams {
    Run::params(1, named(text))
}

/// Stages of several specs, named after their place.
fn named(text: &str) -> Vec<StageParams> {
    let parse = |(at, text): (usize, &str)| {
        let mut stages = spec::parse(text).unwrap_or_else(|error| panic!("{error}")).stages;
        for (number, stage) in stages.iter_mut().enumerate() {
            stage.name = format!("s{at}.{number}");
        }
        stages
    };
    text.split('|').enumerate().flat_map(parse).collect()
}

fn ms(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// Packet `number` of one of three connections: its payload says which.
fn packet(number: u32) -> Spec {
    let payload = number.to_be_bytes().repeat(25);
    Spec { source_port: 4000 + (number % 3) as u16, payload, ..Spec::udp(0) }
}

fn number(wire: &Wire) -> u32 {
    let end = wire.bytes.len();
    u32::from_be_bytes(wire.bytes[end - 4..].try_into().unwrap())
}

/// A packet every 300 us, and before each `change` with its number.
fn load(run: &mut Run, packets: u32, mut change: impl FnMut(&mut Run, u32)) {
    for at in 0..packets {
        let now = Instant::ZERO + Duration::from_micros(300 * u64::from(at));
        run.advance(now);
        change(run, at);
        run.feed(now, &packet(at).frame());
    }
    run.finish();
    assert_eq!(run.router.held(), Amount::default());
}

/// Packets of each connection leave in the order in which they came.
fn assert_in_order(wires: &[Wire]) {
    let mut last = [None; 3];
    for wire in wires {
        let number = number(wire);
        let last = &mut last[number as usize % 3];
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        *last = Some(number);
    }
}

const PATHS: [&str; 12] = [
    "delay 5ms",
    "delay 20ms",
    "delay 5ms 2ms",
    "rate 3mbit|delay 2ms",
    "rate 30mbit limit 10000|delay 2ms",
    "delay 3ms loss 20%",
    "loss 20% 50%|delay 2ms|mtu 1400 icmp",
    "delay 2ms duplicate 10%",
    "mss 1360|delay 5ms",
    "",
    "delay 1ms rate 5mbit",
    "loss gemodel 5% 20%|delay 4ms|delay 1ms",
];

proptest! {
    // Each case is some hundred packets.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A change of nothing changes nothing: the same bytes at the same times, and the same counters.
    #[test]
    fn a_change_of_nothing_changes_nothing(path in 0..PATHS.len(), every in 1..40_u32) {
        let params = params(PATHS[path]);
        let mut plain = Run::built(&params);
        load(&mut plain, 250, |_, _| {});
        let mut changed = Run::built(&params);
        load(&mut changed, 250, |run, at| {
            if at % every == 0 {
                run.change(&params, &params);
            }
        });
        prop_assert_eq!(plain.wires(), changed.wires());
        prop_assert_eq!(plain.router.counters(), changed.router.counters());
        let seats = |run: &Run| run.router.paths()[0].seats.iter().map(|seat| seat.counters).collect::<Vec<_>>();
        prop_assert_eq!(seats(&plain), seats(&changed));
    }

    /// Whatever is changed into whatever, again and again under load: nothing is lost but by loss that is asked for, nothing
    /// overtakes, and all is accounted for (which `Run` checks at each step).
    #[test]
    fn changes_lose_and_reorder_nothing(steps in proptest::collection::vec(0..PATHS.len(), 1..60), every in 1..20_u32) {
        let mut current = params(PATHS[0]);
        let mut run = Run::built(&current);
        let mut steps = steps.into_iter().cycle();
        let mut lossy = false;
        load(&mut run, 400, |run, at| {
            if at % every == 0 {
                let text = PATHS[steps.next().unwrap()];
                lossy |= text.contains("loss");
                let next = params(text);
                run.change(&current, &next);
                current = next;
            }
        });
        let drops = run.router.counters().drops;
        prop_assert_eq!(drops.total(), drops.of(Reason::Loss), "{:?}", drops);
        prop_assert!(lossy || drops.total().packets == 0);
        let mut seen = std::collections::HashSet::new();
        let originals: Vec<Wire> = run.wires().into_iter().filter(|wire| seen.insert(number(wire))).collect();
        assert_in_order(&originals);
    }
}

/// A thousand changes of the stage before it shift no draw of a loss.
#[test]
fn a_stage_that_stays_draws_the_same() {
    let paths = ["delay 1ms|loss 10%", "delay 2ms|loss 10%"].map(params);
    let left = |change: bool| {
        let mut run = Run::built(&paths[0]);
        load(&mut run, 1000, |run, at| {
            if change {
                let at = at as usize;
                run.change(&paths[at % 2], &paths[(at + 1) % 2]);
            }
        });
        assert_in_order(&run.wires());
        run.wires().iter().map(number).collect::<Vec<_>>()
    };
    let plain = left(false);
    assert!((850..950).contains(&plain.len()), "{}", plain.len());
    assert_eq!(plain, left(true));
}

/// What is held has met its stages: not again, and not those that were put before it.
#[test]
fn what_is_held_meets_no_stage_twice() {
    let mut run = Run::built(&params("|delay 50ms"));
    run.feed(ms(0), &packet(0).frame());
    run.change(&params("|delay 50ms"), &params("loss 100%|delay 80ms"));
    run.feed(ms(1), &packet(1).frame());
    assert_eq!(run.router.held().packets, 2);
    run.finish();
    assert_eq!(run.times(), [50_000_000]);
    assert_eq!(run.dropped(Reason::Loss), 1);
}

/// A shorter delay is that of new packets, which do not overtake the old ones.
#[test]
fn counters_go_on_and_new_packets_meet_the_new_stage() {
    let (old, new) = (params("delay 50ms"), params("delay 10ms"));
    let mut run = Run::built(&old);
    run.feed(ms(0), &packet(0).frame());
    run.change(&old, &new);
    run.feed(ms(1), &packet(1).frame());
    run.feed(ms(200), &packet(2).frame());
    run.finish();
    assert_eq!(run.times(), [50_000_000, 60_000_000, 210_000_000]);
    assert_eq!(run.stage(0).seen.packets, 3);
    assert_eq!(run.stage(0).delayed.packets, 3);
}

/// A change and its reverse, of which one worker makes both at once and the other, whose stages hold packets, later: they share
/// the clock of one link afterwards as before.
#[test]
fn workers_share_a_link_after_a_change_and_back() {
    for between in ["delay 50ms|mtu 1400", "delay 50ms|rate 4mbit limit 100"] {
        let (with, without) = (params("delay 50ms|rate 8mbit limit 100"), params(between));
        let shared = Router::shared(&with);
        let [mut idle, mut busy] = [(); 2].map(|()| Run::worker(&with, &shared));
        busy.feed(ms(0), &packet(0).frame());
        busy.advance(ms(50));
        assert_eq!(busy.router.held().packets, 1, "on the link");
        for (old, new) in [(&with, &without), (&without, &with)] {
            let shared = Router::shared(new);
            for run in [&mut idle, &mut busy] {
                run.advance(ms(50));
                run.change_to(Change::new(old, new, &shared).unwrap());
            }
        }
        for run in [&mut idle, &mut busy] {
            run.feed(ms(100), &packet(3).frame());
            run.finish();
        }
        let [one, other] = [idle.times(), busy.times()].map(|times| *times.last().unwrap());
        assert_eq!(other - one, u64::from(packet(3).frame().bytes.len() as u32) * 1_000, "{between}");
    }
}

#[test]
fn a_frozen_path_holds_and_releases_in_order() {
    let params = params("delay 5ms");
    let mut run = Run::built(&params);
    run.feed(ms(0), &packet(0).frame());
    run.freeze(true);
    for at in 1..50 {
        run.feed(ms(u64::from(at)), &packet(at).frame());
    }
    // Also across a change.
    run.change(&params, &params);
    assert_eq!((run.times(), run.router.held().packets), (vec![5_000_000], 49));
    run.advance(ms(100));
    run.freeze(false);
    run.feed(ms(101), &packet(50).frame());
    run.finish();
    assert_in_order(&run.wires());
    assert_eq!(run.wires().len(), 51);
    assert_eq!(run.times()[1..3], [105_000_000; 2]);
    // What waits at the end is accounted for.
    run.freeze(true);
    run.feed(ms(300), &packet(51).frame());
    run.shut_down();
    assert_eq!(run.dropped(Reason::Shutdown), 1);
}

#[test]
fn what_cannot_change_is_refused() {
    let old = params("delay 1ms");
    let refused = |new: &RouterParams| Change::new(&old, new, &Router::shared(new)).unwrap_err();
    for new in [
        RouterParams { seed: 2, ..old.clone() },
        RouterParams { paths: Vec::new(), ..old.clone() },
        RouterParams { ports: old.ports[..1].to_vec(), ..old.clone() },
    ] {
        assert_eq!(refused(&new), ChangeError::Fixed);
    }
    let many = (0..=limits::STAGES).map(|at| StageParams {
        name: format!("s{at}"),
        trigger: Trigger::default(),
        ..old.paths[0].stages().next().unwrap().clone()
    });
    let mut long = old.clone();
    long.paths[0].set_stages(many.collect());
    assert_eq!(refused(&long), ChangeError::Long);
    // Two to the power of 14.
    assert_eq!(refused(&params(&["duplicate 100%"; 14].join("|"))), ChangeError::Copies);
}
