//! One clock for the TCP timestamps of all outgoing connections of a translator (RFC 7323). So a server sees the
//! timestamps of a single host, which never go back.
//! host, which never go back.

use crate::pipeline::nat::session::{Session, TcpSeen};
use crate::pipeline::packet::Packet;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::Tcp;
use crate::pipeline::wire::serial::later;
use crate::pipeline::wire::tcp::flag;

/// The first value of the clock; not zero, which some hosts take for "no timestamp".
const START: u32 = 1_000_000;

/// The clock, in milliseconds.
#[derive(Debug)]
pub(super) struct SharedClock {
    /// The latest timestamp that was sent. It may be ahead of the clock: a connection follows the clock of its host
    /// from the arrival of its SYN here, and a late SYN may be followed by segments that are not late.
    /// when its SYN came here, and a SYN that was late is followed by segments that are not.
    latest: u32,
}

impl Default for SharedClock {
    fn default() -> Self {
        Self { latest: START }
    }
}

impl SharedClock {
    /// Changes the timestamps of `packet` to those of this clock. `before` is the state of the connection before the
    /// packet.
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

    /// The first timestamp of a connection.
    fn reading(&self, now: Instant) -> u32 {
        later(self.latest, START.wrapping_add((now.as_nanos() / 1_000_000) as u32))
    }
}
