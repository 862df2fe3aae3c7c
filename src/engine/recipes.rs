//! Tests of the TOML blocks in the documentation: every block is read, built and run in virtual time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::engine::network::router_params;
use crate::pipeline::counters::Reason;
use crate::pipeline::testing::{Frame, Run, Spec};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::tcp::flag::{ACK, SYN};

/// The blocks of TOML of a page.
fn blocks(page: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let of = |part: &str| part.split("\n```").next().unwrap().to_owned();
    text.split("```toml\n").skip(1).map(of).collect()
}

/// A router of a block, which is completed by the ports of the translators' page where it has none.
fn run(block: &str) -> Run {
    let ports = blocks("nat.md").remove(0);
    let ports = ports.split("[[nat]]").next().unwrap();
    let path = if block.contains("[[path.stage]]") && !block.contains("[[path]]") {
        "[[path]]\nfrom = \"left\"\nto = \"right\"\n"
    } else {
        ""
    };
    let text = if block.contains("[[port]]") { block.to_owned() } else { format!("{ports}{path}{block}") };
    let plan = crate::config::parse(&text, "recipe").unwrap_or_else(|error| panic!("{error}\n{text}"));
    Run::built(&router_params(&plan, 1))
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn tcp(port: u16, flags: u8) -> Spec {
    Spec { flags, source_port: port, destination_port: 80, ..Spec::tcp(0) }
}

fn udp(port: u16) -> Spec {
    Spec { source_port: port, destination_port: 53, ..Spec::udp(9) }
}

/// Who a packet from inside seems to be, outside.
fn public(run: &mut Run, time: Instant, spec: &Spec) -> Option<SocketAddr> {
    let before = run.frames().len();
    run.feed(time, &spec.frame());
    let (_, frame) = *run.frames().get(before)?;
    let bytes = &frame.bytes;
    let address: [u8; 4] = bytes[12..16].try_into().unwrap();
    Some((address, u16::from_be_bytes([bytes[20], bytes[21]])).into())
}

/// The answer from outside to that endpoint.
fn answer(spec: &Spec, to: SocketAddr, flags: u8) -> Frame {
    let mut frame = Spec { flags, ..spec.clone() }.back().frame();
    let SocketAddr::V4(to) = to else { panic!("IPv4") };
    frame.bytes[16..20].copy_from_slice(&to.ip().octets());
    frame.bytes[22..24].copy_from_slice(&to.port().to_be_bytes());
    frame
}

fn from_inside(run: &Run) -> usize {
    run.wires().iter().filter(|wire| wire.port == 0).count()
}

#[test]
fn recipes_of_translators_do_what_their_page_says() {
    let [masquerade, placed, idle_udp, idle_tcp, few_ports, rebinding]: [String; 6] =
        blocks("nat.md").try_into().expect("a test for each recipe");
    let spec = udp(5_000);

    let mut run = run(&masquerade);
    let seen = public(&mut run, at(0), &spec).unwrap();
    assert_eq!(seen, "10.0.2.1:5000".parse().unwrap());
    run.feed_by(1, at(1), &answer(&spec, seen, 0));
    assert_eq!(from_inside(&run), 1);

    // Behind the delay, and before what takes it for one host.
    let ports = masquerade.split("[[nat]]").next().unwrap();
    let mut run = self::run(&format!("{ports}{placed}"));
    run.feed(at(0), &tcp(5_000, SYN).frame());
    assert!(run.frames().is_empty());
    run.finish();
    assert_eq!(run.frames().len(), 1);
    let stages = &run.router.paths()[0].seats;
    assert_eq!(stages.iter().map(|stage| stage.counters.seen.packets).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(stages[1].counters.rewritten.packets, 1);

    let mut run = self::run(&idle_udp);
    let first = public(&mut run, at(0), &spec).unwrap();
    assert_eq!(public(&mut run, at(29), &spec), Some(first), "kept alive");
    let second = public(&mut run, at(60), &spec).unwrap();
    assert_ne!(second, first);
    run.feed_by(1, at(61), &answer(&spec, first, 0));
    assert_eq!(from_inside(&run), 0, "what still goes to the former port is lost");

    for (gap, forgotten) in [(349, false), (351, true)] {
        let mut run = self::run(&idle_tcp);
        let seen = public(&mut run, at(0), &tcp(5_000, SYN)).unwrap();
        run.feed_by(1, at(0), &answer(&tcp(5_000, SYN), seen, SYN | ACK));
        run.feed(at(1), &tcp(5_000, ACK).frame());
        run.feed(at(1 + gap), &tcp(5_000, ACK).frame());
        assert_eq!(run.dropped(Reason::NatNoSession), u64::from(forgotten));
        assert_eq!(from_inside(&run), 1 + usize::from(forgotten), "a RST for the client");
    }

    let mut run = self::run(&few_ports);
    let ports: BTreeSet<Option<u16>> =
        (0..101).map(|port| public(&mut run, at(0), &tcp(5_000 + port, SYN)).map(|end| end.port())).collect();
    let all: BTreeSet<Option<u16>> = (2_000..2_100).map(Some).chain([None]).collect();
    assert_eq!((ports, run.dropped(Reason::NatPortsExhausted)), (all, 1));

    let mut run = self::run(&rebinding);
    let seen: Vec<SocketAddr> =
        (0..20).map(|round| public(&mut run, at(29 + 30 * round), &spec).unwrap()).collect();
    assert!(seen.windows(2).all(|two| two[0].ip() != two[1].ip()), "{seen:?}");
}

/// Recipes of stages: a connection and some datagrams pass through each, in both directions.
#[test]
fn recipes_of_stages_are_read_and_run() {
    for (page, count) in [("tcp.md", 6), ("config.md", 1)] {
        let (blocks, whole): (Vec<_>, Vec<_>) =
            blocks(page).into_iter().partition(|block| block.contains("[[path.stage]]"));
        assert_eq!(blocks.len(), count, "{page}");
        for block in whole {
            crate::config::parse(&block, page).unwrap_or_else(|error| panic!("{error}\n{block}"));
        }
        for block in blocks {
            let mut run = run(&block);
            let data = |round: u64| Spec {
                sequence: 2 + round as u32 * 1_000,
                options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 3],
                ..Spec { source_port: 5_000, destination_port: 80, ..Spec::tcp(1_000) }
            };
            let syn =
                Spec { options: vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0], ..tcp(5_000, SYN) };
            run.feed(at(0), &syn.frame());
            run.feed_by(1, at(0), &syn.back().frame());
            for round in 0..150 {
                run.feed(at(1), &data(round).frame());
                run.feed(at(1), &udp(5_001).frame());
                run.feed_by(1, at(1), &data(round).back().frame());
            }
            for _ in 0..20 {
                run.feed(at(11), &tcp(5_000, ACK).frame());
            }
            run.feed(at(12), &tcp(5_000, 4).frame());
            // Two SYN-ACKs of a connection that the other side opened.
            for _ in 0..2 {
                run.feed(at(12), &tcp(5_002, SYN | ACK).frame());
            }
            run.finish();
            // Each stage but one that waits for QUIC has done something.
            for stage in &run.router.paths()[0].seats {
                let counters = &stage.counters;
                let acted = counters.seen.packets - counters.spared.packets;
                assert!(acted > 0 || block.contains("quic"), "{}: {block}", stage.name);
            }
            run.shut_down();
        }
    }
}
