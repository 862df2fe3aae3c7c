//! One clock for the timestamps of all connections that a translator lets out (RFC 7323), so that a server sees those of one
//! host, which never go back.

use crate::pipeline::nat::session::{Session, TcpSeen};
use crate::pipeline::packet::Packet;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::Tcp;
use crate::pipeline::wire::serial::later;
use crate::pipeline::wire::tcp::flag;

/// Where the clock begins: not at zero, which some take for "no timestamp".
const START: u32 = 1_000_000;

/// The clock, in milliseconds.
#[derive(Debug)]
pub(super) struct SharedClock {
    /// The latest timestamp that was sent. It may be ahead of the time: a connection goes on by the clock of its host, from
    /// when its SYN came here, and a SYN that was late is followed by segments that are not.
    latest: u32,
}

impl Default for SharedClock {
    fn default() -> Self {
        Self { latest: START }
    }
}

impl SharedClock {
    /// Makes the timestamps of `packet` those of this clock. `before` is what was seen of the connection.
    pub(super) fn translate(
        &mut self,
        session: &mut Session,
        before: TcpSeen,
        packet: &mut Packet,
        (flags, outward): (u8, bool),
        now: Instant,
    ) {
        let (at, update) = (packet.layout.transport_offset(), packet.checksum_update());
        let Ok(mut tcp) = Tcp::new(&mut packet.bytes_mut()[at..]) else { return };
        let Some((value, echo)) = tcp.timestamps() else { return };
        if outward {
            let is_new = !before.has_clock() || before.begins_anew(flags);
            if flags & flag::SYN != 0 && is_new {
                session.clock = self.reading(now).wrapping_sub(value);
            }
            let sent = value.wrapping_add(session.clock);
            self.latest = later(self.latest, sent);
            tcp.set_timestamps(sent, echo, update);
        } else if flags & flag::ACK != 0 {
            tcp.set_timestamps(value, echo.wrapping_sub(session.clock), update);
        }
    }

    /// What a connection starts at.
    fn reading(&self, now: Instant) -> u32 {
        later(self.latest, START.wrapping_add((now.as_nanos() / 1_000_000) as u32))
    }
}
