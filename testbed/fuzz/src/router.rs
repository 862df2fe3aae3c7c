//! Any packets through any chain of stages, with translators between: what comes in is accounted for, and what leaves
//! has the length that it says.

mod network;
mod traffic;

use faultwire::engine::Report;
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::Packet;
use faultwire::pipeline::pool::HEADROOM;
use faultwire::pipeline::router::{Egress, Router};
use faultwire::pipeline::time::{Duration, Instant};

use super::input::Input;

/// Packets of one input. More would only make it slow.
const MOST: u32 = 200;

/// What left, as numbers that two runs can be compared by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    wires: u64,
    bytes: u64,
    /// Of times and bytes, in order.
    digest: u64,
    /// A device that takes nothing, by turns.
    full: bool,
}

impl Egress for Left {
    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        if self.full {
            return Err(Reason::DeviceRefused);
        }
        let bytes = packet.bytes();
        assert!(bytes.len() >= 20, "{} bytes are no packet", bytes.len());
        self.wires += u64::from(packet.wires());
        self.bytes += bytes.len() as u64;
        let mixed = bytes.iter().copied().fold(u64::from(port) ^ due.since(Instant::ZERO).as_nanos(), mix);
        self.digest = mix(self.digest, 0).wrapping_add(mixed);
        Ok(())
    }
}

fn mix(sum: u64, byte: u8) -> u64 {
    (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The first bytes choose the network, the rest the packets.
pub(crate) fn run(bytes: &[u8]) {
    let once = play(bytes);
    // Every eighth: the same again must come out the same.
    if bytes.len().is_multiple_of(8) {
        assert_eq!(once, play(bytes), "two runs differ");
    }
}

fn play(bytes: &[u8]) -> Option<Left> {
    let mut input = Input::new(bytes);
    let params = network::choose(&mut input)?;
    let mut router = Router::new(&params, &Router::shared(&params));
    let mut left = Left::default();
    let mut buffer = router.pool.scratch();
    let mut now = Instant::ZERO;
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let choice = input.byte();
        // From a nanosecond to four minutes; often nothing at all.
        let gap = if choice & 0x40 == 0 { 0 } else { 1 << (choice & 0x3f).min(38) };
        now += Duration::from_nanos(gap);
        left.full = choice & 0x80 != 0 && choice & 1 != 0;
        router.poll(now, &mut left);
        let frame = traffic::choose(&mut input);
        let length = frame.bytes.len();
        buffer[HEADROOM..HEADROOM + length].copy_from_slice(&frame.bytes);
        router.receive(frame.port, &mut buffer, length, frame.offload, now, &mut left);
        conserved(&router);
    }
    left.full = false;
    // What waits leaves at its time; what comes back for ever (a loop of answers) need not end.
    for _ in 0..100_000 {
        let Some(due) = router.next_due() else { break };
        assert!(due >= now || due.since(now).is_zero(), "time goes backwards");
        now = due.max(now);
        router.poll(now, &mut left);
    }
    router.shut_down(now, &mut left);
    conserved(&router);
    Some(left)
}

fn conserved(router: &Router) {
    let report = Report::offline(router);
    assert!(report.is_conserved(), "received + created = sent + dropped + held does not hold: {report:?}");
}
