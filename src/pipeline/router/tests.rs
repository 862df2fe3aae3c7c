use super::*;
use crate::config::spec;
use crate::pipeline::counters::StageCounters;
use crate::pipeline::params::{
    DuplicateParams, ImpairmentParams, PortParams, StageParams, TimestampSet, TimestampsParams, Trigger,
    limits,
};
use crate::pipeline::testing::{Run, Spec, stage};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

/// A router with this number of ports, each with its own prefix: port `i` is 10.x.y.2/24 with `i = 256x + y`.
fn ports(count: usize) -> RouterParams {
    let port = |i: usize| PortParams {
        name: format!("p{i}"),
        mtu: 1_500,
        addresses: vec![format!("10.{}.{}.2/24", i / 256, i % 256).parse().unwrap()],
        router: Vec::new(),
    };
    let paths = [(count - 1, count - 2), (0, count - 1)].map(|(from, to)| {
        let stages = spec::parse("loss 100%").unwrap().stages;
        PathParams::new(from, to, stages)
    });
    let ports = (0..count).map(port).collect();
    RouterParams { ports, paths: paths.to_vec(), ..Run::params(1, Vec::new()) }
}

/// Where a packet to port `to` goes that came in by `from`; `None` if it was dropped.
fn way(router: &mut Router, from: usize, to: usize) -> Option<usize> {
    struct Out(Option<usize>);
    impl Egress for Out {
        fn send(&mut self, port: u16, _packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
            self.0 = Some(port.into());
            Ok(())
        }
    }
    let mut frame = Spec::udp(10).frame().bytes;
    frame[12..16].copy_from_slice(&[10, (from / 256) as u8, (from % 256) as u8, 2]);
    frame[16..20].copy_from_slice(&[10, (to / 256) as u8, (to % 256) as u8, 2]);
    let mut buffer = router.pool.scratch();
    let headroom = crate::pipeline::pool::HEADROOM;
    buffer[headroom..headroom + frame.len()].copy_from_slice(&frame);
    let mut out = Out(None);
    router.receive(from as u16, &mut buffer, frame.len(), Offload::default(), Instant::ZERO, &mut out);
    out.0
}

/// Every pair of ports has only its own faults, up to the largest router. The memory grows with the number of ports, not of
/// pairs.
#[test]
fn faults_are_those_of_the_pair_of_ports_however_many_there_are() {
    for count in [2, 255, 256, 257, 300, limits::PORTS] {
        let params = ports(count);
        let mut router = Router::new(&params, &Router::shared(&params));
        assert_eq!(router.paths().len(), 2 + count);
        let last = count - 1;
        assert_eq!([way(&mut router, last, last - 1), way(&mut router, 0, last)], [None, None]);
        // All pairs of a small router; of a large one some from and to every port.
        for from in 0..count {
            for to in (from % 61..count).step_by(61) {
                if from != to && ![(last, last - 1), (0, last)].contains(&(from, to)) {
                    assert_eq!(way(&mut router, from, to), Some(to), "{from} to {to} of {count}");
                }
            }
        }
    }
}

/// Every stage of the longest path hands the packet on from within a call of its own.
#[test]
fn the_longest_path_fits_the_stack_of_a_worker() {
    let stages: Vec<_> = (0..limits::STAGES)
        .map(|number| {
            let copy =
                ImpairmentParams::Duplicate(DuplicateParams { probability: Probability::ONE, copies: 1 });
            let mut stage = stage(copy);
            stage.name = format!("s{number}");
            stage.trigger = Trigger { times: Some(1), ..Trigger::default() };
            stage
        })
        .collect();
    let run = move || {
        let mut run = Run::new(stages);
        run.feed(Instant::ZERO, &Spec::tcp(60_000).train(1_000).frame());
        run.finish();
        assert_eq!(run.wires().len(), 60 + limits::STAGES);
    };
    // The default stack size of a thread.
    let stack = 2 << 20;
    std::thread::Builder::new().stack_size(stack).spawn(run).unwrap().join().unwrap();
}

/// The last stage on the way out is the first on the way back, and both are counted.
#[test]
fn the_way_back_meets_stages_in_reverse() {
    let stages = ["a", "b"].map(|name| {
        let params = TimestampsParams { set: TimestampSet::RandomOffset, translate: true };
        StageParams { name: name.to_owned(), ..stage(ImpairmentParams::Timestamps(params)) }
    });
    let mut run = Run::new(stages.to_vec());
    run.feed_by(1, Instant::ZERO, &Spec { back: true, ..Spec::tcp(10) }.frame());
    let back = run.router.paths().iter().find(|path| (path.from, path.to) == (1, 0)).unwrap();
    let seen: Vec<_> = back.seats.iter().map(|seat| (&*seat.name, seat.counters.seen.packets)).collect();
    assert_eq!(seen, [("b/back", 1), ("a/back", 1)]);
}

/// The packet passes in order and is not held anywhere: the next packet finds its slot free.
#[test]
fn a_packet_that_is_due_at_once_does_not_wait() {
    use crate::pipeline::params::{ReplayEnd, ReplayParams, ReplayRow};
    let row = ReplayRow {
        from: Duration::ZERO,
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        rate: None,
        loss: Probability::ZERO,
        limit: Some(1),
        duplicate: Probability::ZERO,
        duplicate_delay: Duration::ZERO,
        route: 0,
    };
    let params =
        ReplayParams { rows: vec![row].into(), period: Duration::from_secs(1), end: ReplayEnd::Hold };
    let mut replay = stage(ImpairmentParams::Replay(params));
    replay.select = crate::config::expression::parse("udp").unwrap();
    let mut run = Run::new(vec![replay]);
    for spec in [Spec::udp(1), Spec::tcp(1), Spec::udp(1)] {
        run.feed(Instant::ZERO, &spec.frame());
    }
    let protocols: Vec<u8> = run.wires().iter().map(|wire| wire.bytes[9]).collect();
    assert_eq!((protocols, run.stage(0).delayed.packets), (vec![17, 6, 17], 0));
}

/// Where its home path stands in the list makes no difference.
#[test]
fn a_stage_for_both_directions_knows_its_home_by_any_number() {
    let params = TimestampsParams { set: TimestampSet::RandomOffset, translate: true };
    let first = Run::params(1, vec![stage(ImpairmentParams::Timestamps(params))]);
    let back = PathParams::new(1, 0, Vec::new());
    let second = RouterParams { paths: vec![back, first.paths[0].clone()], ..first.clone() };
    let sent = |params: &RouterParams| {
        let mut run = Run::built(params);
        for (port, flags) in [(0, 0x02), (1, 0x12), (0, 0x10)] {
            let options = [&[1, 1, 8, 10][..], &[0, 0, 1, port], &[0, 0, 1, 1 - port]].concat();
            let spec = Spec { flags, options, back: port == 1, ..Spec::tcp(0) };
            run.feed_by(port.into(), Instant::ZERO, &spec.frame());
        }
        run.wires().into_iter().map(|wire| wire.bytes).collect::<Vec<_>>()
    };
    assert_eq!(sent(&first), sent(&second));
}

/// A train that is reported one wire packet at a time is counted once: only the transmission of its first packet is known.
#[test]
fn the_transmission_of_what_is_dropped_is_told_once() {
    struct Drops(Vec<u8>);
    impl Egress for Drops {
        const RECORDS: bool = true;
        fn send(&mut self, _port: u16, _packet: &mut Packet, _due: Instant) -> Result<(), Reason> {
            Ok(())
        }
        fn transmission(&mut self, _packet: &Packet) -> u8 {
            2
        }
        fn wants_draws(&self) -> bool {
            true
        }
        fn record(&mut self, what: What, packet: &Packet, _at: Instant) {
            if matches!(what, What::Dropped(..)) {
                self.0.push(packet.transmission);
            }
        }
    }
    let mut run = Run::new(spec::parse("loss 100%").unwrap().stages);
    let frame = Spec::tcp(3_000).train(1_000).frame();
    let (mut buffer, headroom) = (run.router.pool.scratch(), crate::pipeline::pool::HEADROOM);
    buffer[headroom..headroom + frame.bytes.len()].copy_from_slice(&frame.bytes);
    let mut drops = Drops(Vec::new());
    run.router.receive(0, &mut buffer, frame.bytes.len(), frame.offload, Instant::ZERO, &mut drops);
    assert_eq!(drops.0, [2, 0, 0]);
}

/// A packet that a device refuses is not counted as sent.
#[test]
fn a_refused_packet_is_told_as_dropped() {
    let mut run = Run::new(Vec::new());
    run.refuse();
    run.feed(Instant::ZERO, &Spec::tcp(3_000).train(1_000).frame());
    assert_eq!((run.dropped(Reason::DeviceRefused), run.router.counters().sent.packets), (3, 0));
}

/// A packet that waits in a bottleneck is reported when it begins to wait and when it continues.
#[test]
fn the_waits_of_a_bottleneck_are_told() {
    let mut run = Run::new(spec::parse("dualpi2 8mbit").unwrap().stages);
    for _ in 0..9 {
        run.feed(Instant::ZERO, &Spec::tcp(960).frame());
    }
    assert_eq!(run.kept(), run.router.held());
    assert_eq!(run.kept().packets, 9);
    run.finish();
    assert_eq!(run.kept(), Amount::default());
}

/// Packets of 1 ms each: the third waits longest, also in the sum of workers.
#[test]
fn the_longest_wait_is_kept() {
    let mut stages = spec::parse("rate 8mbit").unwrap().stages;
    let mut run = Run::new(std::mem::take(&mut stages));
    for millis in [0, 0, 0, 50] {
        run.feed(Instant::ZERO + Duration::from_millis(millis), &Spec::tcp(960).frame());
    }
    run.finish();
    let longest = Duration::from_millis(3);
    assert_eq!(run.stage(0).longest_wait, longest);
    let mut sum = StageCounters::default();
    sum += run.stage(0);
    sum += &StageCounters::default();
    assert_eq!(sum.longest_wait, longest);
}
