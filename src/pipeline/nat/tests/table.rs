//! How long sessions stay, and how many there are.

use super::*;

/// RFC 4787 REQ-5 and REQ-6.
#[test]
fn silence_forgets_a_session_and_talking_keeps_it() {
    let timeouts = NatTimeouts { udp: Duration::from_secs(10), ..NatTimeouts::default() };
    for inbound_refresh in [true, false] {
        let mut run = run(NaptParams { timeouts, inbound_refresh, ..napt() });
        let (host, server, public) = ("10.0.1.2:5000", "10.0.2.2:53", "10.0.2.1:5000");
        outer(&mut run, at(0), host, server).unwrap();
        outer(&mut run, at(9_000), host, server).unwrap();
        assert!(inner(&mut run, at(18_000), server, public).is_some(), "kept from inside");
        let kept = inner(&mut run, at(27_000), server, public).is_some();
        assert_eq!(kept, inbound_refresh, "from outside only if it may");
        assert_eq!(inner(&mut run, at(40_000), server, public), None);
        assert_eq!(run.router.nats()[0].sessions(), 0);
    }
}

#[test]
fn a_full_table_refuses_new_sessions_keeps_the_old_and_heals() {
    let timeouts = NatTimeouts { udp: Duration::from_secs(10), ..NatTimeouts::default() };
    let mut run = run(NaptParams { timeouts, table_size: 3, ..napt() });
    let from = |host: u8| format!("10.0.1.{host}:5000");
    for host in 2..5 {
        assert!(outer(&mut run, at(0), &from(host), "10.0.2.2:53").is_some());
    }
    for host in 5..9 {
        assert_eq!(outer(&mut run, at(1_000), &from(host), "10.0.2.2:53"), None);
    }
    assert_eq!(run.dropped(Reason::NatTableFull), 4);
    assert_eq!(run.stage(0).drops.of(Reason::NatTableFull).packets, 4);
    let fill = run.router.nats()[0].fill().unwrap();
    assert_eq!((fill.sessions, fill.peak, fill.places, fill.refused), (3, 3, 3, 4));
    assert!(outer(&mut run, at(9_000), &from(2), "10.0.2.2:53").is_some());
    // The other two have expired.
    assert!(outer(&mut run, at(11_000), &from(5), "10.0.2.2:53").is_some());
    assert!(outer(&mut run, at(11_000), &from(6), "10.0.2.2:53").is_some());
    assert_eq!(outer(&mut run, at(11_000), &from(7), "10.0.2.2:53"), None);
    check(&run);
}

#[test]
fn ports_run_out_and_come_back() {
    for allocation in [PortAllocation::Preserve, PortAllocation::Random, PortAllocation::Smallest] {
        let timeouts = NatTimeouts { udp: Duration::from_secs(10), ..NatTimeouts::default() };
        let mut run = run(NaptParams { timeouts, ports: 2_000..=2_002, allocation, ..napt() });
        let mut got =
            |time: u64, host: u8| outer(&mut run, at(time), &format!("10.0.1.{host}:5000"), "10.0.2.2:53");
        let ports: BTreeSet<u16> = (2..5).map(|host| got(0, host).unwrap().port()).collect();
        assert_eq!(ports, BTreeSet::from([2_000, 2_001, 2_002]), "{allocation:?}");
        assert_eq!(got(0, 5), None);
        assert!(got(20_000, 5).is_some());
        assert_eq!(run.dropped(Reason::NatPortsExhausted), 1);
        // TCP has ports of its own.
        assert!(after(&mut run, 0, at(20_000), &tcp("10.0.1.2:5000", "10.0.2.2:53", 2, (1, 0))).is_some());
    }
}

#[test]
fn the_smallest_port_is_given_out_first() {
    let mut run = run(NaptParams { allocation: PortAllocation::Smallest, ..napt() });
    let mut port =
        |host: u8| outer(&mut run, at(0), &format!("10.0.1.{host}:5000"), "10.0.2.2:53").unwrap().port();
    assert_eq!([port(2), port(3), port(4)], [1_024, 1_025, 1_026]);
}
