//! A stage of one's own: a middlebox that forgets UDP flows which were silent for too long, as a translator does.
//!
//! `cargo run --example stage`, no privilege needed.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use faultwire::counters::Reason;
use faultwire::faults::Faults;
use faultwire::sim::{Datagram, End, Link};
use faultwire::stage::{CustomStage, Fate, WirePacket};

/// Lets a flow pass as long as it is never silent for longer than `timeout`; then it is dead.
struct Forgetful {
    timeout: Duration,
    last: HashMap<Vec<u8>, Duration>,
}

impl CustomStage for Forgetful {
    fn packet(&mut self, packet: &mut WirePacket<'_>) -> Fate {
        let now = packet.now();
        // Addresses and ports of an IPv4 packet without options.
        let Some(flow) = packet.bytes().get(12..24) else { return Fate::Pass };
        match self.last.get_mut(flow) {
            Some(last) if now.saturating_sub(*last) > self.timeout => Fate::Drop,
            Some(last) => {
                *last = now;
                Fate::Pass
            }
            None => {
                self.last.insert(flow.to_vec(), now);
                Fate::Pass
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = Duration::from_secs;
    let make = move || Forgetful { timeout: seconds(30), last: HashMap::new() };
    let faults = Faults::new().custom("forgetful", make).delay(Duration::from_millis(10));
    let mut link = Link::new(&faults, 1);
    let server: SocketAddr = "10.0.0.2:4433".parse()?;
    let (lively, silent): (SocketAddr, SocketAddr) = ("10.0.0.1:4000".parse()?, "10.0.0.1:4001".parse()?);
    // One flow sends every 20 seconds, the other every 40.
    for second in 0..=80 {
        let at = seconds(second);
        for (client, interval) in [(lively, 20), (silent, 40)] {
            if second % interval == 0 {
                link.send(End::Left, at, &Datagram::new(client, server, b"still here"))?;
            }
        }
    }
    let arrivals: Vec<_> = std::iter::from_fn(|| link.pull(seconds(100))).collect();
    let of = |client| {
        let times =
            arrivals.iter().filter(|arrival| arrival.datagram().is_some_and(|it| it.source == client));
        times.map(|arrival| arrival.at.as_millis()).collect::<Vec<_>>()
    };
    assert_eq!(of(lively), [10, 20_010, 40_010, 60_010, 80_010]);
    assert_eq!(of(silent), [10]);
    let (name, counters) = link.stages(End::Left).next().ok_or("no stage")?;
    assert_eq!((name, counters.drops.of(Reason::Drop).packets), ("forgetful", 2));
    Ok(())
}
