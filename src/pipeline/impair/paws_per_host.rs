//! A peer that keeps one timestamp per source address.
//!
//! Model: the drops of Linux before 4.12 with `net.ipv4.tcp_tw_recycle=1`. A segment with FIN stores its `TSval` T1
//! and the time under its source address. A SYN (without ACK) from that address within `window` is dropped silently
//! if its `TSval` T2 has (s32)(T1 - T2) > 1. With `require_timestamp`, a SYN without the option is dropped too.
//! Parameters: [`PawsPerHostParams`]. A FIN without timestamps changes nothing. IPv4 and IPv6 alike.
//! It plays the host behind the port to which its path leads: all workers and all paths to that port share one table of
//! [`Hosts::CAPACITY`] addresses; when the eight places of an address are taken, the one
//! that was silent longest is forgotten. Addresses of IPv6 are told apart by 64 bits of a hash.
//! Never delays, reorders, copies or alters a packet.
//! Differs from the kernel: the kernel remembers the timestamp when its own side enters TIME-WAIT; here every FIN
//! that passes counts.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::pipeline::counters::Reason;
use crate::pipeline::hosts::Hosts;
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Duration;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::tcp::flag::{ACK, FIN, SYN};
use crate::pipeline::wire::{Tcp, serial};

/// See [`crate::pipeline::params::ImpairmentParams::PawsPerHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PawsPerHostParams {
    /// For how long a timestamp is remembered: 60 s (`TCP_PAWS_MSL`) in Linux.
    pub window: Duration,
    /// While a timestamp is remembered, a SYN without timestamps is dropped too.
    pub require_timestamp: bool,
}

impl fmt::Display for PawsPerHostParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = if self.require_timestamp { " or without one" } else { "" };
        write!(
            f,
            "paws-per-host: drop SYNs behind the timestamp of the host's last FIN{without}, for {}",
            self.window
        )
    }
}

impl Blueprint for PawsPerHostParams {
    type Stage = PawsPerHost;

    fn build(&self, setting: &Setting) -> Self::Stage {
        PawsPerHost::new(*self, &setting.shared)
    }

    fn directions(&self) -> Directions {
        Directions::Forward
    }

    fn plays_host(&self) -> bool {
        true
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// Drops SYNs whose clock is behind that of their host.
#[derive(Debug)]
pub struct PawsPerHost {
    params: PawsPerHostParams,
    hosts: Arc<Hosts>,
}

impl PawsPerHost {
    /// A peer with `params`; it has one state on all workers.
    pub fn new(params: PawsPerHostParams, shared: &Shared) -> Self {
        Self { params, hosts: shared.state() }
    }

    fn rejects(&self, packet: &Packet, now: Instant) -> bool {
        let Some((stamp, at)) = self.hosts.find(key(packet.source())) else { return false };
        if now.as_nanos().saturating_sub(at) >= self.params.window.as_nanos() {
            return false;
        }
        match timestamp(packet) {
            Some(new) => serial::distance(new, stamp) > 1,
            None => self.params.require_timestamp,
        }
    }
}

impl Stage for PawsPerHost {
    type Plan = ();

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        // Only the last wire packet of a train can have the FIN.
        let Some(flags) = packet.wire_flags(limit - 1) else { return Verdict::new(limit, Action::PASS) };
        if flags & FIN != 0
            && let Some(stamp) = timestamp(packet)
        {
            self.hosts.put(key(packet.source()), stamp, now.as_nanos());
        }
        let rejected = flags & (SYN | ACK) == SYN && self.rejects(packet, now);
        let action = if rejected { Action::drop(Reason::PawsPerHost) } else { Action::PASS };
        Verdict::new(limit, action)
    }
}

fn timestamp(packet: &Packet) -> Option<u32> {
    let tcp = Tcp::new(&packet.bytes()[packet.layout.transport_offset()..]).ok()?;
    tcp.timestamps().map(|(value, _)| value)
}

/// Never 0, which marks an empty place.
fn key(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()) | 1 << 32,
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            Hosts::mix((bits >> 64) as u64 ^ Hosts::mix(bits as u64)) | 1 << 63
        }
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for PawsPerHostParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;

        use crate::pipeline::testing::strategy::duration;
        (duration(), any::<bool>())
            .prop_map(|(window, require_timestamp)| Self { window, require_timestamp })
            .boxed()
    }

    /// That of the flows of one host.
    fn shares_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, stage};
    use crate::pipeline::time::Duration;

    fn run(require_timestamp: bool) -> Run {
        let params = PawsPerHostParams { window: Duration::from_secs(60), require_timestamp };
        Run::new(vec![stage(ImpairmentParams::PawsPerHost(params))])
    }

    fn segment(port: u16, flags: u8, stamp: Option<u32>) -> Spec {
        let options =
            stamp.map_or_else(Vec::new, |stamp| [&[1, 1, 8, 10][..], &stamp.to_be_bytes(), &[0; 4]].concat());
        Spec { flags, source_port: port, options, ..Spec::tcp(0) }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// Whether a SYN with this timestamp, so many ms after a FIN with T1, passes.
    fn passes(require: bool, v6: bool, t1: u32, t2: Option<u32>, after: u64) -> bool {
        let mut run = run(require);
        let family = |spec: Spec| if v6 { spec.v6() } else { spec };
        run.feed(at(5), &family(segment(1_000, FIN | ACK, Some(t1))).frame());
        run.feed(at(5 + after), &family(segment(2_000, SYN, t2)).frame());
        assert_eq!(run.wires().len() as u64 + run.dropped(Reason::PawsPerHost), 2);
        run.wires().len() == 2
    }

    #[test]
    fn a_syn_that_is_more_than_one_behind_is_dropped_for_a_minute() {
        for v6 in [false, true] {
            for (t1, t2, after, pass) in [
                (1_000, 998, 100, false),
                (1_000, 999, 100, true),
                (1_000, 1_000, 100, true),
                (1_000, 5_000, 100, true),
                (1_000, 0, 59_999, false),
                (1_000, 0, 60_000, true),
                // Around the end of the numbers: 3 is 5 after, u32::MAX - 1 is 5 before.
                (u32::MAX - 1, 3, 100, true),
                (3, u32::MAX - 1, 100, false),
                // Half the circle away, which (s32) takes for negative.
                (0x8000_0000, 0, 100, true),
                (0x7fff_ffff, 0, 100, false),
            ] {
                assert_eq!(passes(false, v6, t1, Some(t2), after), pass, "{t1} {t2} {after}");
            }
        }
    }

    #[test]
    fn a_syn_without_timestamps_is_dropped_only_by_the_stricter_kernels() {
        assert!(passes(false, false, 1_000, None, 10));
        assert!(!passes(true, false, 1_000, None, 10));
        assert!(passes(true, false, 1_000, None, 60_000));
    }

    #[test]
    fn only_fins_are_remembered_and_only_syns_dropped() {
        let mut run = run(true);
        // Nothing known: neither a RST nor data leaves anything.
        run.feed(at(0), &segment(1, 0x14, Some(9_000)).frame());
        run.feed(at(0), &segment(1, ACK, Some(9_000)).frame());
        run.feed(at(1), &segment(2, SYN, Some(5)).frame());
        run.feed(at(2), &segment(2, FIN | ACK, Some(9_000)).frame());
        // A FIN without timestamps does not forget it.
        run.feed(at(3), &segment(2, FIN | ACK, None).frame());
        for flags in [ACK, SYN | ACK, 0x14, FIN | ACK] {
            run.feed(at(4), &segment(3, flags, Some(5)).frame());
        }
        assert_eq!(run.dropped(Reason::PawsPerHost), 0);
        run.feed(at(5), &segment(2, FIN | ACK, Some(9_000)).frame());
        run.feed(at(6), &segment(4, SYN, Some(5)).frame());
        assert_eq!(run.dropped(Reason::PawsPerHost), 1);
    }

    #[test]
    fn the_fin_of_a_train_counts_once_and_is_its_last_packet_s() {
        let mut run = run(false);
        let fin = Spec { flags: FIN | ACK, options: segment(1, 0, Some(9_000)).options, ..Spec::tcp(5_000) };
        run.feed(at(0), &fin.train(1_000).frame());
        run.feed(at(1), &segment(7, SYN, Some(5)).frame());
        assert_eq!((run.wires().len(), run.dropped(Reason::PawsPerHost)), (5, 1));
    }

    #[test]
    fn hosts_are_told_apart() {
        for v6 in [false, true] {
            let mut run = run(false);
            let frame = |spec: Spec, host: u8| {
                let mut frame = if v6 { spec.v6() } else { spec }.frame();
                frame.bytes[if v6 { 23 } else { 15 }] = host;
                crate::pipeline::testing::frame::fix_checksums(&mut frame.bytes);
                frame
            };
            run.feed(at(0), &frame(segment(1, FIN | ACK, Some(1_000)), 2));
            run.feed(at(1), &frame(segment(2, SYN, Some(5)), 3));
            assert_eq!(run.dropped(Reason::PawsPerHost), 0);
            run.feed(at(2), &frame(segment(3, SYN, Some(5)), 2));
            assert_eq!(run.dropped(Reason::PawsPerHost), 1);
        }
    }
}
