//! The timestamps that a translator makes its own.

use super::*;

/// Value and echo of the timestamps of what left last.
fn clock(run: &Run) -> (u32, u32) {
    let bytes = run.wires().last().unwrap().bytes.clone();
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(42), word(46))
}

#[test]
fn one_clock_for_all_connections_and_its_own_for_each_host() {
    let (syn, ack) = (2, 16);
    let mut run = run(NaptParams { clock: NatClock::One, ..napt() });
    let server = "10.0.2.2:80";
    let sent = |run: &mut Run, time: u64, port: u16, frame: &Frame| {
        run.feed_by(port, at(time), frame);
        clock(run)
    };
    // Two hosts with clocks far apart.
    let one = sent(&mut run, 0, 0, &tcp("10.0.1.2:5000", server, syn, (u32::MAX - 5, 0)));
    let two = sent(&mut run, 100, 0, &tcp("10.0.1.3:6000", server, syn, (4_000, 0)));
    assert_eq!(two.0.wrapping_sub(one.0), 100);
    // A SYN that is sent again has moved on by its host's clock, not begun anew.
    let again = sent(&mut run, 1_000, 0, &tcp("10.0.1.2:5000", server, syn, (u32::MAX - 5 + 3, 0)));
    assert_eq!(again.0.wrapping_sub(one.0), 3);
    // What the server echoes is what each had sent.
    let echo = sent(&mut run, 1_001, 1, &tcp(server, "10.0.2.1:5000", syn | ack, (9, again.0)));
    assert_eq!(echo, (9, u32::MAX - 2));
    let echo = sent(&mut run, 1_001, 1, &tcp(server, "10.0.2.1:6000", ack, (9, two.0)));
    assert_eq!(echo, (9, 4_000));
    // Its own clock is not the translator's business.
    assert_eq!(sent(&mut run, 1_002, 0, &tcp("10.0.1.2:5000", server, ack, (10, 9))).1, 9);
}

/// A SYN that came late starts its connection at a late reading; what follows in time is ahead of the translator's own clock. The
/// next connection must not start behind that.
#[test]
fn one_clock_never_goes_back_after_a_late_syn() {
    let (syn, fin) = (2, 17);
    let mut run = run(NaptParams { clock: NatClock::One, ..napt() });
    // Sent at 1,000 ms by its host's clock and 9 ms under way; its FIN, of 1,012 ms, takes no time.
    run.feed(at(9), &tcp("10.0.1.2:5000", "10.0.2.2:80", syn, (1_000, 0)));
    run.feed(at(12), &tcp("10.0.1.2:5000", "10.0.2.2:80", fin, (1_012, 9)));
    let last = clock(&run).0;
    run.feed(at(13), &tcp("10.0.1.3:6000", "10.0.2.2:80", syn, (4_000, 0)));
    let next = clock(&run).0;
    assert!(next.wrapping_sub(last).cast_signed() >= 0, "{next} after {last}");
}

#[test]
fn by_default_clocks_pass() {
    let mut run = run(napt());
    run.feed(at(5), &tcp("10.0.1.2:5000", "10.0.2.2:80", 2, (123, 0)));
    assert_eq!(clock(&run), (123, 0));
}
