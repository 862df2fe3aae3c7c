//! Clients with one address, each with its own clock, one after another. A server sees such clients behind a NAT, on
//! two paths from one client, or from a client that gives each connection its own clock.
//!
//! They are built packet by packet, so that the case can choose their clocks. Each sends a request, waits until the
//! server closes, and closes by FIN.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::lab::clock::Deadline;
use crate::lab::traffic::raw::Wire;
use crate::lab::traffic::{facts, share};
use crate::lab::value::Facts;
use crate::pipeline::hosts::Hosts;

/// Port of the first connection; each takes the next.
const FIRST_PORT: u16 = 30_000;
/// Time of the first connection on a clock without offset, and how far it goes on until the next, in ms.
const TIME: (u32, u32) = (100_000_000, 10);

/// A series of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// How many connections.
    pub count: u16,
    /// The address of all clients. No host has it, so no kernel answers for it, but it is behind the port of this
    /// host.
    pub source: Ipv4Addr,
    /// Which clock each connection uses.
    pub clocks: Clocks,
    /// How long each connection waits for the answer to its only SYN. It waits less if the answer to an echo request,
    /// sent after the SYN, shows that the SYN was lost.
    pub timeout: Duration,
}

/// The clocks behind the timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clocks {
    /// One for each client, used in turn: how far each is ahead (or behind, if negative), in ms. Not empty.
    Turns(Vec<i32>),
    /// A random one for each connection.
    PerConnection,
}

impl Clocks {
    /// The timestamp in the SYN of connection `number`.
    fn time(&self, number: u16) -> u32 {
        let time = TIME.0 + TIME.1 * u32::from(number);
        match self {
            Self::Turns(offsets) => time.wrapping_add_signed(offsets[usize::from(number) % offsets.len()]),
            Self::PerConnection => Hosts::mix(u64::from(number) + 1) as u32,
        }
    }

    /// How many clients take turns; 0 if this is not known.
    fn turns(&self) -> usize {
        match self {
            Self::Turns(offsets) => offsets.len(),
            Self::PerConnection => 0,
        }
    }
}

impl Clients {
    /// Opens all connections; returns whether each got an answer.
    ///
    /// # Errors
    /// No raw sockets, no route to the server, or a connection breaks off.
    pub fn run(&self, server: SocketAddrV4) -> io::Result<Vec<bool>> {
        let wire = Wire::open(self.source, server)?;
        (0..self.count)
            .map(|number| {
                let clock = self.clocks.time(number);
                let seq = 0x0100_0000_u32.wrapping_mul(u32::from(number) + 1);
                let deadline = Deadline::after(self.timeout);
                Ok(wire.request(FIRST_PORT.wrapping_add(number), (clock, seq), deadline)?.is_some())
            })
            .collect()
    }

    /// The results under the names of case files; also for each client, counted from 1.
    pub fn summary(&self, answered: &[bool]) -> Facts {
        let total = answered.len() as u64;
        let ok = answered.iter().filter(|&&ok| ok).count() as u64;
        let mut all = facts([
            ("attempts", total.into()),
            ("succeeded", ok.into()),
            ("timeouts", (total - ok).into()),
            ("failed_share", share(total - ok, total)),
        ]);
        let turns = self.clocks.turns();
        for client in 0..turns {
            let own = || answered.iter().skip(client).step_by(turns);
            let ok = own().filter(|&&ok| ok).count() as u64;
            all.push((format!("client{}.succeeded", client + 1), ok.into()));
            all.push((format!("client{}.timeouts", client + 1), (own().count() as u64 - ok).into()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::value::Value;

    fn clients(clocks: Clocks) -> Clients {
        let source = Ipv4Addr::new(10, 77, 1, 254);
        Clients { count: 5, source, clocks, timeout: Duration::from_millis(100) }
    }

    #[test]
    fn clients_take_turns_and_are_counted_each_by_itself() {
        let two = clients(Clocks::Turns(vec![0, -500]));
        let times: Vec<u32> = (0..4).map(|number| two.clocks.time(number)).collect();
        assert_eq!(times, [100_000_000, 99_999_510, 100_000_020, 99_999_530]);
        let seen: std::collections::BTreeMap<_, _> =
            two.summary(&[true, false, true, true, true]).into_iter().collect();
        for (name, count) in
            [("succeeded", 4), ("client1.succeeded", 3), ("client2.succeeded", 1), ("client2.timeouts", 1)]
        {
            assert_eq!(seen[name], Value::Count(count), "{name}");
        }
    }

    #[test]
    fn clocks_of_their_own_are_behind_the_last_one_half_of_the_time() {
        let random = clients(Clocks::PerConnection).clocks;
        let behind = (1..4_000)
            .filter(|&number| random.time(number - 1).wrapping_sub(random.time(number)).cast_signed() > 1)
            .count();
        // Five standard deviations of 3,999 throws of a coin.
        assert!((1_842..=2_157).contains(&behind), "{behind}");
    }
}
