//! What one packet costs, in steps: bounded, however large the table is, however full, and whatever has expired in it.

use super::*;

/// Most steps of one packet: a passing look, two pressing ones with all slots that are open, and the mapping's own.
const MOST: u64 = 16 + 2 * (64 + 6 * 64) + 3 * 64;

fn steps(run: &Run) -> u64 {
    let super::super::Kind::Napt(napt) = &run.router.nats()[0].kind else { panic!("no table") };
    napt.steps()
}

/// A router whose steps are watched.
struct Watched {
    run: Run,
    most: u64,
    packets: u64,
    before: u64,
}

impl Watched {
    fn new(napt: NaptParams) -> Self {
        Self { run: run(napt), most: 0, packets: 0, before: 0 }
    }

    fn feed(&mut self, port: u16, time: Instant, frame: &Frame) {
        self.run.feed_by(port, time, frame);
        let now = steps(&self.run);
        self.most = self.most.max(now - self.before);
        self.before = now;
        self.packets += 1;
    }
}

/// Template, with other ends.
fn with_ends(frame: &Frame, host: u8, ports: (u16, u16)) -> Frame {
    let mut frame = frame.clone();
    frame.bytes[15] = host;
    frame.bytes[20..22].copy_from_slice(&ports.0.to_be_bytes());
    frame.bytes[22..24].copy_from_slice(&ports.1.to_be_bytes());
    // A datagram without checksum.
    frame.bytes[26..28].fill(0);
    fix_header(&mut frame.bytes);
    frame
}

fn fix_header(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let sum =
        bytes[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!(sum as u16 + (sum >> 16) as u16)).to_be_bytes());
}

/// New endpoints that want ports at random, more at once than an address has; all of them expire.
#[test]
fn churn_costs_a_bounded_number_of_steps() {
    for allocation in [PortAllocation::Preserve, PortAllocation::Random, PortAllocation::Smallest] {
        let timeouts = NatTimeouts { udp: Duration::from_secs(4), ..NatTimeouts::default() };
        let mut run = Watched::new(NaptParams {
            timeouts,
            allocation,
            ports: 1_024..=5_023,
            table_size: 6_000,
            ..napt()
        });
        let frame = udp("10.0.1.2:5000", "10.0.2.2:53");
        let mut state = 1_u32;
        for number in 0..40_000_u64 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = 1_024 + (state >> 16) as u16 % 8_000;
            let host = 2 + (state >> 8) as u8 % 200;
            // 1,100 a second for 4 s are 4,400, and there are 4,000 ports. Once, a long silence.
            let time = number * 10_000 / 11 + if number > 20_000 { 600_000_000 } else { 0 };
            run.feed(0, Instant::ZERO + Duration::from_micros(time), &with_ends(&frame, host, (port, 53)));
        }
        assert!(run.most <= MOST, "{allocation:?}: {} steps for one packet", run.most);
        let exhausted = run.run.dropped(Reason::NatPortsExhausted);
        assert!((1..20_000).contains(&exhausted), "{exhausted}");
        // Only packets that find no port look about for one.
        let bound = exhausted * (64 + 6 * 64) + run.packets * 5;
        assert!(steps(&run.run) < bound, "{allocation:?}: {} steps in all", steps(&run.run));
        check(&run.run);
    }
}

/// One endpoint talks with thousands, and strangers knock.
#[test]
fn unasked_packets_cost_a_bounded_number_of_steps() {
    for filtering in [Dependence::Independent, Dependence::Address, Dependence::AddressAndPort] {
        let timeouts = NatTimeouts { udp: Duration::from_secs(60), ..NatTimeouts::default() };
        let mut run = Watched::new(NaptParams { timeouts, filtering, table_size: 20_000, ..napt() });
        let (out, inward) = (udp("10.0.1.2:5000", "10.0.2.2:53"), udp("10.0.2.2:53", "10.0.2.1:5000"));
        for remote in 0..10_000 {
            run.feed(0, at(remote / 100), &with_ends(&out, 2, (5_000, 1_000 + remote as u16)));
        }
        for (time, allowed) in [(1_000, true), (200_000, false)] {
            for number in 0..200_u16 {
                let mut knock = with_ends(&inward, 2, (60_000 + number, 5_000));
                if number % 2 == 1 {
                    // From a host without a session.
                    knock.bytes[15] = 200;
                    fix_header(&mut knock.bytes);
                }
                run.feed(1, at(time), &knock);
            }
            let passed = run.run.wires().iter().filter(|wire| wire.port == 0).count();
            let expected = match filtering {
                Dependence::Independent => 200,
                Dependence::Address => 100,
                Dependence::AddressAndPort => 0,
            };
            if allowed {
                assert_eq!(passed, expected, "{filtering:?}");
            }
        }
        assert!(run.most <= MOST, "{filtering:?}: {} steps for one packet", run.most);
        check(&run.run);
    }
}

/// A table that is full of expired sessions gives each newcomer a place at once, whatever its size.
#[test]
fn a_full_table_that_expired_takes_newcomers_at_once() {
    let timeouts = NatTimeouts { udp: Duration::from_secs(10), ..NatTimeouts::default() };
    let mut run = Watched::new(NaptParams { timeouts, table_size: 5_000, ..napt() });
    let frame = udp("10.0.1.2:5000", "10.0.2.2:53");
    for round in 0..4_u64 {
        for number in 0..5_000_u64 {
            let time = at(round * 30_000 + number / 50);
            run.feed(0, time, &with_ends(&frame, 2 + round as u8, (10_000 + number as u16, 53)));
        }
    }
    assert_eq!(run.run.dropped(Reason::NatTableFull), 0);
    assert!(run.most <= MOST, "{} steps for one packet", run.most);
    check(&run.run);
}
