//! Which packets a stage acts on, and when.

use ipnet::IpNet;

use crate::pipeline::params::{QuicSelect, Segments, Transmission};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::units::Probability;

/// Which packets: every condition that is set must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Select {
    /// IP protocols (6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6 ...); empty means any.
    pub protocols: Vec<u8>,
    /// Source prefixes; empty means any.
    pub source: Vec<IpNet>,
    /// Destination prefixes; empty means any.
    pub destination: Vec<IpNet>,
    /// Source ports, inclusive ranges; a packet without ports never matches a non-empty list.
    pub source_ports: Vec<(u16, u16)>,
    /// Destination ports, inclusive ranges.
    pub destination_ports: Vec<(u16, u16)>,
    /// Source or destination port, inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// TCP flags that must all be set (bits as on the wire: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128).
    pub tcp_flags_set: u8,
    /// TCP flags that must all be clear. Any TCP flag condition implies TCP.
    pub tcp_flags_unset: u8,
    /// IP total length of the wire packet in bytes, inclusive.
    pub ip_length: Option<(u32, u32)>,
    /// Length of the transport payload of the wire packet in bytes, inclusive.
    pub payload_length: Option<(u32, u32)>,
    /// Whether the packet is a fragment.
    pub fragment: Option<FragmentSelect>,
    /// DSCP (0..=63) values; empty means any.
    pub dscp: Vec<u8>,
    /// ECN codepoints (0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE); empty means any.
    pub ecn: Vec<u8>,
    /// What a TCP segment is, any of these. This and the next imply TCP and a whole packet, not a fragment.
    pub segments: Segments,
    /// Which data it carries.
    pub transmission: Option<Transmission>,
    /// Which QUIC packets are in the datagram. Implies UDP and a whole packet, not a fragment.
    pub quic: Option<QuicSelect>,
    /// Whether the packet's TCP connection was opened while it was watched. Implies TCP and a whole packet.
    pub opened: Option<Opened>,
    /// Source or destination prefixes; empty means any.
    pub addresses: Vec<IpNet>,
    /// Packets that one of these selections matches are excluded; only fields count that the wire packets of a train
    /// have in common.
    pub except: Vec<Self>,
}

/// When a TCP connection was opened, by what the router has seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Before the router saw the connection: the first packet seen was not a SYN.
    Before,
    /// While the router was running: a SYN, or in the other direction a SYN-ACK, has passed.
    After,
}

/// Which fragments a selection wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentSelect {
    /// Not a fragment.
    None,
    /// Any fragment.
    Any,
    /// The first fragment only.
    First,
    /// Every fragment but the first.
    Later,
}

/// Among which packets a count runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Each flow (one direction of a 5-tuple) by itself.
    #[default]
    Flow,
    /// All packets of the path in arrival order.
    Path,
}

/// When a stage acts on a selected packet: every condition that is set must hold, counted over selected packets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trigger {
    /// Acts with this probability, drawn for each wire packet.
    pub probability: Option<Probability>,
    /// Acts on these selected packets only, counted from 1. Sorted, no repeats; empty means any.
    pub nth: Vec<u64>,
    /// Acts on each packet whose number is a multiple of this.
    pub every: Option<u64>,
    /// Acts on the first this many selected packets.
    pub first: Option<u64>,
    /// Skips this many selected packets, then acts.
    pub after: Option<u64>,
    /// Acts at most this many times.
    pub times: Option<u64>,
    /// Acts on the selected packets that begin within the first this many bytes of selected packets, IP headers included.
    pub first_bytes: Option<u64>,
    /// Acts on the selected packets that begin after this many bytes.
    pub after_bytes: Option<u64>,
    /// Acts from this time since the start of the run.
    pub from: Option<Duration>,
    /// Acts until (not at) this time since the start of the run.
    pub until: Option<Duration>,
    /// Whether nth, every, first, after, times, `first_bytes` and `after_bytes` count per flow or over the path. Over the path packets
    /// (a probability counts them too) and bytes are not counted together: where both are set, packets are not counted.
    pub scope: Scope,
    /// Acts only on packets that came to the path in this phase.
    pub phase: Option<Phase>,
}

/// A part of the time of a path, counted from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Its number in its path, 1 to 63.
    pub number: u8,
    /// When it begins, and when the next one does; `None`: never.
    pub from: Duration,
    /// The end.
    pub until: Option<Duration>,
    /// The duration of all phases together, if they start again; the times above count within it.
    pub period: Option<Duration>,
}

impl Trigger {
    /// Whether it counts packets.
    pub const fn counts_packets(&self) -> bool {
        !self.nth.is_empty()
            || self.every.is_some()
            || self.first.is_some()
            || self.after.is_some()
            || self.times.is_some()
    }

    /// Whether it counts bytes.
    pub const fn counts_bytes(&self) -> bool {
        self.first_bytes.is_some() || self.after_bytes.is_some()
    }
}

impl Phase {
    /// Whether it is this phase now.
    pub fn is_at(&self, now: Instant) -> bool {
        let since = now.since(Instant::ZERO).as_nanos();
        let since = self.period.map_or(since, |period| since % period.as_nanos().max(1));
        since >= self.from.as_nanos() && self.until.is_none_or(|until| since < until.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_where_the_next_one_begins() {
        let ms = Duration::from_millis;
        let phase = |until, period| Phase { number: 1, from: ms(10), until, period };
        let is_at = |phase: &Phase, millis| phase.is_at(Instant::ZERO + ms(millis));
        let once = phase(Some(ms(20)), None);
        assert_eq!([9, 10, 19, 20, 40].map(|millis| is_at(&once, millis)), [false, true, true, false, false]);
        let again = phase(Some(ms(20)), Some(ms(30)));
        assert_eq!(
            [19, 20, 39, 40, 49, 50].map(|millis| is_at(&again, millis)),
            [true, false, false, true, true, false]
        );
        assert!(is_at(&phase(None, None), 1_000_000));
    }
}
