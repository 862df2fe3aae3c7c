use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::pipeline::testing::{Spec, flaw};

const MS: Duration = Duration::from_millis(1);

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let ends = if v6 { ["[fd00::1]:4000", "[fd00::2]:443"] } else { ["10.0.0.1:4000", "10.0.0.2:443"] };
    (ends[0].parse().unwrap(), ends[1].parse().unwrap())
}

fn link(spec: &str, seed: u64) -> Link {
    Link::new(&spec.parse().unwrap(), seed)
}

/// Everything that arrives until nothing is on the way.
fn rest(link: &mut Link) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    while let Some(due) = link.next_due() {
        let due = due.max(Duration::from_nanos(link.now.as_nanos()));
        arrivals.extend(std::iter::from_fn(|| link.pull(due)));
    }
    let counters = link.counters();
    let mut came = counters.received;
    came += counters.created;
    let mut went = counters.sent;
    went += counters.drops.total();
    assert_eq!(came, went, "{counters:?}");
    assert_eq!(link.held(), 0);
    arrivals
}

/// The packets are judged by etherparse, which shares no code with what made them.
#[test]
fn datagrams_are_valid_packets_and_come_out_as_they_went_in() {
    for v6 in [false, true] {
        let (left, right) = ends(v6);
        for (length, ecn) in [(0, 0), (1, 1), (1200, 2), (65_000, 3)] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let sent = Datagram { ecn, ..Datagram::new(left, right, &payload) };
            let mut link = link("", 1);
            link.send(End::Left, MS, &sent).unwrap();
            let arrival = link.pull(MS).unwrap();
            assert_eq!(flaw(&arrival.packet), None);
            assert_eq!((arrival.to, arrival.at, arrival.datagram()), (End::Right, MS, Some(sent)));
        }
    }
}

#[test]
fn packets_of_others_pass_byte_for_byte() {
    for spec in [Spec::tcp(100), Spec::udp(100), Spec::tcp(0).v6(), Spec::udp(3).v6()] {
        let mut link = link("delay 5ms", 1);
        link.push(End::Right, 2 * MS, &spec.frame().bytes).unwrap();
        let arrivals = rest(&mut link);
        let expected = Arrival { at: 7 * MS, to: End::Left, packet: spec.frame().bytes };
        assert_eq!(arrivals, [expected]);
    }
}

#[test]
fn the_directions_have_faults_of_their_own() {
    let (left, right) = ends(false);
    let slow = Faults::new().delay(10 * MS);
    let mut link = Link::directed(&slow, &Faults::new().loss(1.0), 1);
    link.send(End::Left, MS, &Datagram::new(left, right, b"up")).unwrap();
    link.send(End::Right, MS, &Datagram::new(right, left, b"down")).unwrap();
    let arrivals = rest(&mut link);
    assert_eq!(arrivals.len(), 1);
    assert_eq!((arrivals[0].at, arrivals[0].to), (11 * MS, End::Right));
    let drops =
        |end| link.stages(end).map(|(_, counters)| counters.drops.of(Reason::Loss).packets).sum::<u64>();
    assert_eq!((drops(End::Left), drops(End::Right)), (0, 1));
}

fn run(seed: u64, v6: bool) -> Vec<Arrival> {
    let (left, right) = ends(v6);
    let mut link = link("loss 10% duplicate 5% corrupt 5% reorder 20% delay 20ms 5ms rate 10mbit", seed);
    let mut arrivals = Vec::new();
    for number in 0..500_u32 {
        let (from, datagram) = match number % 3 {
            0 => (End::Right, Datagram::new(right, left, &[7; 500])),
            _ => (End::Left, Datagram::new(left, right, &[8; 1000])),
        };
        link.send(from, MS * number, &datagram).unwrap();
        arrivals.extend(link.pull(MS * number));
    }
    arrivals.extend(rest(&mut link));
    arrivals
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_another() {
    for v6 in [false, true] {
        assert_eq!(run(1, v6), run(1, v6));
        assert_ne!(run(1, v6), run(2, v6));
    }
}

#[test]
fn nothing_arrives_early_or_out_of_time() {
    let arrivals = run(3, false);
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
    assert!(arrivals.len() > 400, "{}", arrivals.len());
}

/// As a host's kernel would do.
#[test]
fn a_damaged_datagram_is_a_packet_but_no_datagram() {
    for v6 in [false, true] {
        let (left, right) = ends(v6);
        let mut link = Link::new(&Faults::new().corrupt(1.0), 1);
        for number in 0..200 {
            link.send(End::Left, MS * number, &Datagram::new(left, right, &[1; 30])).unwrap();
            let arrival = link.pull(MS * number).unwrap();
            assert!(arrival.datagram().is_none());
        }
    }
}

#[test]
fn an_icmp_error_goes_back_to_the_sender() {
    let (left, right) = ends(false);
    let mut link = link("mtu 500 icmp", 1);
    link.send(End::Left, MS, &Datagram::new(left, right, &[0; 600])).unwrap();
    let arrivals = rest(&mut link);
    assert_eq!((arrivals.len(), arrivals[0].to), (1, End::Left));
    // Fragmentation needed (RFC 792, RFC 1191).
    assert_eq!((arrivals[0].packet[9], arrivals[0].packet[20..22].to_vec()), (1, vec![3, 4]));
    assert!(arrivals[0].datagram().is_none());
}

#[test]
fn what_is_no_packet_is_refused_and_not_counted() {
    let mut link = link("", 1);
    let refused = |result| matches!(result, Err(PushError::NotIp(_)));
    for bytes in [&b"hello"[..], &[], &[0x45; 10]] {
        assert!(refused(link.push(End::Left, MS, bytes)));
    }
    assert_eq!(link.push(End::Left, MS, &vec![0x45; 70_000]), Err(PushError::TooLong(70_000)));
    let (v4, v6) = (ends(false).0, ends(true).0);
    let mixed = Datagram::new(v4, v6, b"");
    assert_eq!(link.send(End::Left, MS, &mixed), Err(PushError::MixedFamilies));
    for (ends, length, whole) in [(ends(false), 65_508, 65_536), (ends(true), 65_528, 65_576)] {
        let long = vec![0; length];
        let datagram = Datagram::new(ends.0, ends.1, &long);
        assert_eq!(link.send(End::Left, MS, &datagram), Err(PushError::TooLong(whole)));
        link.send(End::Left, MS, &Datagram { payload: &long[1..], ..datagram }).unwrap();
    }
    assert_eq!(link.counters().received.packets, 2);
}

#[test]
#[should_panic(expected = "time does not go back")]
fn time_does_not_go_back() {
    let mut link = link("", 1);
    assert_eq!(link.pull(2 * MS), None);
    let _ = link.pull(MS);
}
