//! The state of one session: both its ends, and the state of its connection.

use crate::pipeline::params::NatTimeouts;
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{FlowKey, protocol};

/// Time in steps of 2^20 ns, about a millisecond: wraps after 52 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    /// The first.
    pub(super) const ZERO: Self = Self(0);

    /// The tick that is this many ticks later.
    pub(super) const fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    pub(super) const fn of(now: Instant) -> Self {
        Self((now.as_nanos() >> 20) as u32)
    }

    /// The time after `now` at which the tick begins that is `ticks` later.
    pub(super) const fn instant_after(now: Instant, ticks: u32) -> Instant {
        Instant::from_nanos(((now.as_nanos() >> 20) + ticks as u64) << 20)
    }

    /// Ticks since `before`.
    pub(super) const fn since(self, before: Self) -> u32 {
        self.0.wrapping_sub(before.0)
    }
}

/// A number of ticks after which `duration` has passed for certain.
const fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_nanos().div_ceil(1 << 20) + 1;
    // Half of the number circle: a longer silence would look like a time in the future.
    if ticks > i32::MAX as u64 { i32::MAX as u32 } else { ticks as u32 }
}

/// The state of a TCP connection, as far as it was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TcpSeen(u8);

impl TcpSeen {
    const SYN_OUT: u8 = 1;
    const SYN_IN: u8 = 2;
    const FIN_OUT: u8 = 4;
    const FIN_IN: u8 = 8;
    const RST: u8 = 16;
    /// The first observed segment was in the middle: treated as established.
    const MIDDLE: u8 = 32;

    const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    const fn is_over(self) -> bool {
        self.has(Self::RST) || self.has(Self::FIN_OUT | Self::FIN_IN)
    }

    /// Whether a segment with these flags begins another connection between the same ports.
    pub(super) const fn begins_anew(self, flags: u8) -> bool {
        flags & (flag::SYN | flag::ACK) == flag::SYN && self.is_over()
    }

    /// Whether a SYN from inside was seen.
    pub(super) const fn has_clock(self) -> bool {
        self.has(Self::SYN_OUT)
    }

    /// The state after a segment with these flags.
    pub(super) const fn after(self, flags: u8, outward: bool) -> Self {
        let (syn, fin) = if outward { (Self::SYN_OUT, Self::FIN_OUT) } else { (Self::SYN_IN, Self::FIN_IN) };
        let before = if self.begins_anew(flags) { 0 } else { self.0 };
        if flags & flag::RST != 0 {
            return Self(before | Self::RST);
        }
        // A host that continues to send has not accepted the RST.
        let mut bits = before & !Self::RST;
        if flags & flag::SYN != 0 {
            bits |= syn;
        } else if bits & (Self::SYN_OUT | Self::SYN_IN) == 0 {
            bits |= Self::MIDDLE;
        }
        if flags & flag::FIN != 0 {
            bits |= fin;
        }
        Self(bits)
    }
}

/// Number of timeouts.
pub(super) const CLASSES: usize = 6;

/// Timeouts in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes([u32; CLASSES]);

impl Lifetimes {
    const UDP: usize = 0;
    const ICMP: usize = 1;
    const OPENING: usize = 2;
    const ESTABLISHED: usize = 3;
    const CLOSING: usize = 4;
    const RESET: usize = 5;

    pub(super) const fn new(timeouts: &NatTimeouts) -> Self {
        let mut all = [0; CLASSES];
        all[Self::UDP] = ticks(timeouts.udp);
        all[Self::ICMP] = ticks(timeouts.icmp);
        all[Self::OPENING] = ticks(timeouts.tcp_opening);
        all[Self::ESTABLISHED] = ticks(timeouts.tcp_established);
        all[Self::CLOSING] = ticks(timeouts.tcp_closing);
        all[Self::RESET] = ticks(timeouts.tcp_reset);
        Self(all)
    }

    /// All of them, by class.
    pub(super) const fn all(&self) -> [u32; CLASSES] {
        self.0
    }

    /// The timeout class of a session of this protocol.
    #[inline]
    pub(super) const fn of(&self, protocol: u8, seen: TcpSeen) -> u32 {
        self.0[Self::class(protocol, seen)]
    }

    /// Which of them counts for a session of this protocol.
    #[inline]
    pub(super) const fn class(protocol: u8, seen: TcpSeen) -> usize {
        match protocol {
            protocol::UDP => Self::UDP,
            protocol::TCP => {
                if seen.has(TcpSeen::RST) {
                    Self::RESET
                } else if seen.has(TcpSeen::FIN_OUT | TcpSeen::FIN_IN) {
                    Self::CLOSING
                } else if seen.has(TcpSeen::SYN_OUT | TcpSeen::SYN_IN) || seen.has(TcpSeen::MIDDLE) {
                    Self::ESTABLISHED
                } else {
                    Self::OPENING
                }
            }
            _ => Self::ICMP,
        }
    }
}

/// One session, in one line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Session {
    /// From the host inside to the remote one.
    pub(super) key: FlowKey,
    /// Port or identifier outside.
    pub(super) port: u16,
    /// Index of the address outside.
    pub(super) address: u8,
    /// The state of TCP.
    pub(super) seen: TcpSeen,
    /// The offset that is added to the timestamps of the host inside.
    pub(super) clock: u32,
    /// When it was last used.
    pub(super) used: Tick,
    /// Its mapping.
    pub(super) mapping: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::pipeline::wire::tcp::flag::{ACK, FIN, RST, SYN};

    fn lifetime(segments: &[(u8, bool)]) -> u32 {
        let second = |seconds: u64| Duration::from_nanos(seconds << 20);
        let lifetimes = Lifetimes::new(&NatTimeouts {
            udp: second(1),
            icmp: second(2),
            tcp_opening: second(3),
            tcp_established: second(4),
            tcp_closing: second(5),
            tcp_reset: second(6),
        });
        let seen = segments.iter().fold(TcpSeen::default(), |seen, &(flags, out)| seen.after(flags, out));
        lifetimes.of(protocol::TCP, seen) - 1
    }

    #[test]
    fn a_connection_lives_by_what_was_seen_of_it() {
        let open = [(SYN, true), (SYN | ACK, false), (ACK, true)];
        let with = |more: &[(u8, bool)]| lifetime(&[&open[..], more].concat());
        assert_eq!(lifetime(&[(SYN, true)]), 3);
        assert_eq!(lifetime(&[(SYN, false)]), 3);
        assert_eq!(with(&[]), 4);
        assert_eq!(lifetime(&[(ACK, true)]), 4, "picked up in the middle");
        assert_eq!(lifetime(&[(SYN, true), (SYN, false)]), 4, "opened from both sides");
        assert_eq!(with(&[(FIN | ACK, true)]), 4, "half-closed");
        assert_eq!(with(&[(FIN | ACK, true), (FIN | ACK, false)]), 5);
        assert_eq!(with(&[(RST, false)]), 6);
        assert_eq!(with(&[(RST, false), (RST, true)]), 6);
        assert_eq!(with(&[(RST, false), (ACK, true)]), 4, "the RST was not taken");
        assert_eq!(with(&[(RST, false), (SYN, true)]), 3, "the ports are used again");
        assert_eq!(with(&[(FIN, true), (FIN, false), (SYN, true), (SYN | ACK, false)]), 4);
    }

    /// From every place in a tick, also around where ticks wrap: never before `duration` has passed, and at most two ticks
    /// later.
    #[test]
    fn ticks_are_never_early_and_wrap() {
        const TICK: u64 = 1 << 20;
        let at = |nanos| Tick::of(Instant::from_nanos(nanos));
        for duration in [1, TICK - 1, TICK, TICK + 1, 1_000_000, 50_000_000, 48 * TICK] {
            let ticks = ticks(Duration::from_nanos(duration));
            for tick in [0, TICK, (1 << 52) - TICK, 1 << 52] {
                for start in [tick, tick + 1, tick + 77_777, tick + TICK - 1] {
                    let after = |passed| at(start + passed).since(at(start));
                    assert!(after(duration - 1) < ticks, "{duration} from {start}: early");
                    assert!(after(duration + 2 * TICK) >= ticks, "{duration} from {start}: late");
                }
            }
        }
        assert_eq!(at(1 << 52).since(at((1 << 52) - 1)), 1);
        assert_eq!(size_of::<Session>(), 64);
    }
}
