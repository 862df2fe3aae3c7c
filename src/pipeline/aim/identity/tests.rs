use std::collections::BTreeSet;
use std::sync::Arc;

use etherparse::PacketBuilder;

use crate::pipeline::aim::flow::{FlowTable, Name};
use crate::pipeline::params::{
    Identity, ImpairmentParams, LossParams, NatKind, NatParams, PathParams, PatternFault, PatternParams,
    RouterParams, Scope, StageParams, Timetable, Trigger,
};
use crate::pipeline::router::{Route, Router};
use crate::pipeline::testing::frame::{ACK, FIN};
use crate::pipeline::testing::{Frame, Run, Spec, napt, stage, translator};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Probability;
use crate::pipeline::wire::{FlowKey, Host, Version};

use crate::pipeline::wire::tcp::flag::SYN;

fn half() -> StageParams {
    stage(ImpairmentParams::Loss(LossParams { probability: Probability::new(0.5).unwrap(), ecn: false }))
}

fn params() -> RouterParams {
    let mut params = Run::params(1, vec![half()]);
    params.paths.push(PathParams::new(1, 0, vec![half()]));
    params
}

/// Which of these packets come through, each by worker and port; a millisecond and more apart.
fn verdicts(params: &RouterParams, packets: &[(usize, u8, Frame)]) -> Vec<bool> {
    let shared = Router::shared(params);
    let mut workers = [0, 1].map(|_| Run::worker(params, &shared));
    let mut at = Instant::ZERO;
    let come_through = |(worker, port, frame): &(usize, u8, Frame)| {
        at += Duration::from_millis(2);
        let before = workers[*worker].wires().len();
        workers[*worker].feed_by((*port).into(), at, frame);
        workers[*worker].wires().len() > before
    };
    packets.iter().map(come_through).collect()
}

/// Twenty-four packets each way of a connection from `port`, which a SYN of number `first` opens if it is TCP.
fn connection(kind: &Spec, port: u16, first: u32) -> Vec<Frame> {
    let spec = |turn: u32| {
        let flags = match turn {
            0 => SYN,
            1 => SYN | ACK,
            46 | 47 => FIN | ACK,
            _ => ACK,
        };
        Spec { flags, sequence: first + turn, back: turn % 2 == 1, ..kind.clone() }
            .with_source_port(port)
            .frame()
    };
    (0..48).map(spec).collect()
}

fn on(worker: usize, frames: Vec<Frame>) -> Vec<(usize, u8, Frame)> {
    frames.into_iter().enumerate().map(|(turn, frame)| (worker, turn as u8 % 2, frame)).collect()
}

/// Three connections to each of two services, by these client ports and first sequence numbers, on these workers.
fn traffic(kind: &Spec, ports: [u16; 6], firsts: [u32; 6], workers: [usize; 6]) -> Vec<(usize, u8, Frame)> {
    let of = |number: usize| {
        let kind = Spec { destination_port: [443, 8_080][number % 2], ..kind.clone() };
        on(workers[number], connection(&kind, ports[number], firsts[number]))
    };
    (0..6).flat_map(of).collect()
}

fn kinds() -> [Spec; 4] {
    [Spec::tcp(40), Spec::udp(40), Spec::tcp(40).v6(), Spec::udp(40).v6()]
}

#[test]
fn ephemeral_ports_sequence_numbers_and_workers_do_not_matter() {
    let ports = [40_000, 40_002, 40_004, 40_006, 40_008, 40_010];
    let others = [50_001, 33_333, 60_999, 50_002, 45_454, 32_768];
    for kind in kinds() {
        let first = verdicts(&params(), &traffic(&kind, ports, [1; 6], [0; 6]));
        let again = verdicts(&params(), &traffic(&kind, others, [9, 8, 7, 6, 5, 4], [0; 6]));
        let spread = verdicts(&params(), &traffic(&kind, others, [2; 6], [1, 0, 0, 1, 1, 0]));
        assert_eq!(first, again, "{kind:?}");
        assert_eq!(first, spread, "{kind:?}");
        // Every connection and direction has draws of its own: of 24 packets each, twelve times.
        let each: BTreeSet<Vec<bool>> = (first.chunks(48))
            .flat_map(|one| [0, 1].map(|way| one[way..].iter().step_by(2).copied().collect()))
            .collect();
        assert_eq!(each.len(), 12);
        let tuple = RouterParams { identity: Identity::Tuple, ..params() };
        let by_tuple = [ports, others].map(|ports| verdicts(&tuple, &traffic(&kind, ports, [1; 6], [0; 6])));
        assert_ne!(by_tuple[0], by_tuple[1], "tuples have the ports in them");
        assert_eq!(by_tuple[0], verdicts(&tuple, &traffic(&kind, ports, [5; 6], [1, 0, 0, 1, 1, 0])));
    }
}

/// A client that gets the same port again is another connection, to TCP; a SYN that is sent again is not.
#[test]
fn a_port_that_is_used_again_is_another_connection() {
    let kind = Spec::tcp(40);
    let twice = |ports: [u16; 2]| {
        let one = on(0, connection(&kind, ports[0], 100));
        verdicts(&params(), &[one, on(0, connection(&kind, ports[1], 7_000))].concat())
    };
    assert_eq!(twice([40_000, 40_000]), twice([40_000, 41_000]));
    let repeated = |port: u16| {
        let mut frames = on(0, connection(&kind, port, 100));
        frames.insert(1, frames[0].clone());
        verdicts(&params(), &[on(0, connection(&kind, 39_999, 3)), frames].concat())[48..].to_vec()
    };
    let once = twice([39_999, 40_000])[48..].to_vec();
    let repeated = repeated(40_000);
    // The repetition has the second draw of its direction, and all later ones of this direction move on by one.
    let way = |all: &[bool], first: usize| all[first..].iter().step_by(2).copied().collect::<Vec<_>>();
    assert_eq!(repeated[0], once[0]);
    assert_eq!(way(&repeated, 1)[..23], way(&once, 0)[1..]);
    assert_eq!(way(&repeated, 2), way(&once, 1));
}

/// A capture that begins in the middle: whichever direction is seen first, the end with the lower port is the service.
#[test]
fn the_lower_port_is_the_service_if_nobody_saw_the_beginning() {
    let middle = |port, from: usize| on(0, connection(&Spec::tcp(40), port, 1))[from..40].to_vec();
    let first = verdicts(&params(), &middle(40_000, 2));
    let other = verdicts(
        &params(),
        &[vec![middle(50_000, 3)[0].clone()], middle(50_000, 2)[..1].to_vec(), middle(50_000, 4)].concat(),
    );
    assert_eq!([other[1], other[0]], first[..2]);
    assert_eq!(other[2..], first[2..]);
    // A SYN-ACK tells as well as a SYN.
    let synack = verdicts(&params(), &middle(50_000, 1));
    let opened = verdicts(&params(), &middle(40_000, 0));
    assert_eq!(synack[0], opened[1]);
}

/// A segment that the server still owes to an earlier connection comes first, from its port to one that nobody has now.
#[test]
fn leftovers_of_an_earlier_run_do_not_matter() {
    let kind = Spec::tcp(10);
    let packets = on(0, connection(&kind, 40_000, 7));
    let leftover =
        Spec { flags: ACK, sequence: 9, back: true, ..kind.clone() }.with_source_port(51_000).frame();
    let clean = verdicts(&params(), &packets);
    let mut after = vec![(0, 1, leftover)];
    after.extend(packets);
    assert_eq!(verdicts(&params(), &after)[1..], clean);
}

/// Echo requests by their order, not by the identifier that the kernel or ping has chosen.
#[test]
fn an_echo_identifier_does_not_matter() {
    let pings = |ids: [u16; 2]| {
        let echo = |id: u16, number: u16| {
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64);
            builder.icmpv4_echo_request(id, number).write(&mut bytes, &[7; 8]).unwrap();
            let mut reply = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 2, 2], [10, 0, 1, 2], 64);
            builder.icmpv4_echo_reply(id, number).write(&mut reply, &[7; 8]).unwrap();
            [Frame::plain(bytes), Frame::plain(reply)]
        };
        let all = ids.map(|id| on(0, (0..24).flat_map(|number| echo(id, number)).collect()));
        verdicts(&params(), &all.concat())
    };
    assert_eq!(pings([1, 2]), pings([999, 77]));
    assert_ne!(pings([1, 2])[..48], pings([1, 2])[48..]);
}

fn behind_nat() -> RouterParams {
    let loss = || StageParams { name: "loss".to_owned(), ..half() }.into();
    let mut params = params();
    params.paths[0].seats = vec![loss(), translator(true)];
    params.paths[1].seats = vec![translator(false), loss()];
    params.nats = vec![NatParams { name: "nat".to_owned(), kind: NatKind::Napt(Box::new(napt())) }];
    params
}

/// What answers through a translator belongs to the connection that it answers.
#[test]
fn answers_are_recognised_behind_a_translator() {
    let through = |ports: [u16; 3], firsts: [u32; 3]| {
        let mut params = behind_nat();
        // All requests pass, so that the translator knows of them.
        params.paths[0].seats.remove(0);
        let answer = |frame: Frame| {
            let mut bytes = frame.bytes;
            if bytes[0] >> 4 == 4 {
                bytes[16..20].copy_from_slice(&[10, 0, 2, 1]);
            } else {
                bytes[24..40].copy_from_slice(&[0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
            crate::pipeline::testing::frame::fix_checksums(&mut bytes);
            Frame::plain(bytes)
        };
        let mut all = Vec::new();
        for kind in kinds() {
            for (port, first) in ports.into_iter().zip(firsts) {
                let frames = on(0, connection(&kind, port, first)).into_iter();
                all.extend(frames.map(|(worker, by, frame)| match by {
                    0 => (worker, by, frame),
                    _ => (worker, by, answer(frame)),
                }));
            }
        }
        verdicts(&params, &all)
    };
    let first = through([40_000, 40_001, 40_002], [1, 2, 3]);
    assert_eq!(first, through([50_000, 33_000, 61_000], [7, 7, 7]));
    assert!(first.iter().step_by(2).all(|passed| *passed));
    let lost = first.iter().filter(|passed| !**passed).count();
    // Half of 288 answers; 6 standard deviations.
    assert!(lost.abs_diff(144) < 51, "{lost}");
}

#[test]
fn what_was_named_is_counted() {
    let shared = Router::shared(&params());
    let mut run = Run::worker(&params(), &shared);
    for (number, at) in [0, 500, 5_000, 9_000].into_iter().enumerate() {
        let frame = Spec::udp(1).with_source_port(number as u16 + 1).frame();
        run.feed(Instant::ZERO + Duration::from_micros(at), &frame);
        run.feed_by(
            1,
            Instant::ZERO + Duration::from_micros(at),
            &Spec::udp(1).with_source_port(number as u16 + 1).back().frame(),
        );
    }
    let named = run.router.named();
    assert_eq!((named.connections, named.close, named.shared), (4, 1, 0));
}

/// As many flows as it was made for, whatever their hashes; one more costs one.
#[test]
fn a_table_is_full_at_its_size() {
    let key = |number: u32| {
        let host = |last: u32| Host::from(std::net::IpAddr::from((0x0a00_0000 + last).to_be_bytes()));
        FlowKey::of(17, Version::V4, (host(number >> 8), number as u16), (host(2), 53))
    };
    for capacity in [8, 1_000, 30_000] {
        let mut table = FlowTable::new(capacity);
        let mut visit = |number: u32| {
            let (key, hash) = (key(number), key(number).hash());
            let found = table.find(hash, 0, &key);
            let place = found.unwrap_or_else(|| table.insert(hash, 0, &key, Route::None, Name::default()));
            table.advance(place, 1);
            (found.is_some(), table.evicted())
        };
        for round in 0..3 {
            for number in 0..capacity as u32 {
                assert_eq!(visit(number), (round > 0, 0), "{number} of {capacity}");
            }
        }
        assert_eq!(visit(capacity as u32), (false, 1));
        // The first was the least recently used of the first eight.
        assert_eq!(visit(capacity as u32 - 1), (true, 1));
        assert_eq!(visit(0), (false, 2));
    }
}

/// With `scope = "path"` the n-th packet that arrives fares as the n-th, whatever flow it is of and on whatever worker.
#[test]
fn over_a_path_the_order_of_arrival_decides() {
    let probability = Probability::new(0.5).unwrap();
    let mut trigger = stage(ImpairmentParams::Drop(crate::pipeline::params::DropParams));
    trigger.trigger = Trigger { probability: Some(probability), scope: Scope::Path, ..Trigger::default() };
    let fault = PatternFault::Loss { ecn: false };
    let patterns = Arc::new(Timetable::constant(vec![probability]));
    let pattern = stage(ImpairmentParams::Pattern(PatternParams { patterns, fault, scope: Scope::Path }));
    for by_path in [trigger, pattern] {
        let lost = |flow: fn(u16) -> u16, worker: fn(u16) -> usize| {
            let frame = |turn| Spec::udp(1).with_source_port(flow(turn)).frame();
            let packets: Vec<_> = (0..200).map(|turn| (worker(turn), 0, frame(turn))).collect();
            verdicts(&Run::params(1, vec![by_path.clone()]), &packets)
        };
        let one = lost(|_| 7, |_| 0);
        // 200 fair coins: 6 standard deviations.
        assert!(one.iter().filter(|passed| **passed).count().abs_diff(100) < 43);
        assert_eq!(one, lost(|turn| turn, |_| 0));
        assert_eq!(one, lost(|turn| turn % 5, |turn| usize::from(turn % 3 == 0)));
    }
}
