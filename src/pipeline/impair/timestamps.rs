//! Changes the clock of one side of a TCP connection.
//!
//! Model: the `TSval` (RFC 7323 section 3) of a segment is replaced by a constant, shifted by an offset (of the
//! stage, or drawn for each connection), or stays at the value of the first segment; or the whole option becomes "no
//! operation", in a SYN so that timestamps are not negotiated. With `translate`, the `TSecr` of returning segments is
//! changed back to what the sender had sent, so that the connection continues. For this, four runs of values with one
//! offset each are remembered; a `TSecr` that is in none of them is not changed.
//!
//! All wire packets of a train have the same timestamps. Checksums are kept right. Options that are malformed, or not
//! of length 10, are not changed.
//!
//! A forgotten connection (see [`crate::pipeline::conn::table`]) is not translated until its next segment.
//!
//! Never drops, delays, reorders or copies a packet.

use std::fmt;

use crate::pipeline::conn::{self, ConnKey, Table, change};
use crate::pipeline::impair::Setting;
use crate::pipeline::impair::blueprint::{Blueprint, Directions, Place};
use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::StageKey;
use crate::pipeline::stage::{Action, Stage, Verdict};
use crate::pipeline::time::Instant;
use crate::pipeline::wire::serial::is_before;
use crate::pipeline::wire::tcp::{flag, option};

/// See [`crate::pipeline::params::ImpairmentParams::Timestamps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampsParams {
    /// What is done with `TSval`.
    pub set: TimestampSet,
    /// Whether `TSecr` of the other direction is translated back, so that the sender sees its own clock.
    pub translate: bool,
}

impl TimestampsParams {
    /// Whether `TSecr` is translated back.
    pub const fn translates(&self) -> bool {
        self.translate && !matches!(self.set, TimestampSet::Strip)
    }
}

/// What is done with the `TSval` of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSet {
    /// This value; 0 as Linux 3.18 to 4.9 sent it in some RSTs.
    Constant(u32),
    /// So much later (or, wrapping, earlier), in the sender's ticks.
    Offset(u32),
    /// An offset drawn for each connection, all 32 bits of it.
    RandomOffset,
    /// The `TSval` of the connection's first segment that the stage acted on.
    Freeze,
    /// No timestamps: the option becomes "no operation".
    Strip,
}

impl fmt::Display for TimestampsParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.set {
            TimestampSet::Constant(value) => format!("TSval set to {value}"),
            TimestampSet::Offset(offset) => format!("TSval shifted by {}", offset.cast_signed()),
            TimestampSet::RandomOffset => "TSval shifted by an offset drawn for each connection".to_owned(),
            TimestampSet::Freeze => "TSval stays at the connection's first".to_owned(),
            TimestampSet::Strip => "the option replaced by NOPs".to_owned(),
        };
        let back = if self.translates() { ", TSecr translated back" } else { "" };
        write!(f, "timestamps: {what}{back}")
    }
}

impl Blueprint for TimestampsParams {
    type Stage = Timestamps;

    fn build(&self, setting: &Setting) -> Self::Stage {
        Timestamps::new(*self, setting)
    }

    fn directions(&self) -> Directions {
        if self.translates() { Directions::Both } else { Directions::Forward }
    }

    fn traps(&self, _place: &Place) -> Vec<String> {
        Vec::new()
    }
}

/// How many runs of one offset are remembered for a connection.
const PIECES: usize = 4;

/// Rewrites timestamps.
#[derive(Debug)]
pub struct Timestamps {
    params: TimestampsParams,
    /// The index of the stage's own path.
    path: u16,
    key: StageKey,
    connections: Table<Clock>,
}

/// How the clock of one side was changed.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// The value at which it was stopped.
    frozen: Option<u32>,
    /// The most recent one first.
    pieces: [Option<Piece>; PIECES],
}

/// Values that were sent from `first` to `last`, each `behind` less than the sender's own value.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: u32,
    last: u32,
    behind: u32,
}

impl Timestamps {
    /// A rewrite that `params` describe, with the draws of `setting`.
    pub fn new(params: TimestampsParams, setting: &Setting) -> Self {
        // Only a stage that remembers something needs a table.
        let remembers = params.translates() || params.set == TimestampSet::Freeze;
        let capacity = if remembers { setting.flows } else { 0 };
        Self { params, path: setting.path, key: setting.key, connections: Table::new(capacity) }
    }

    /// The new `TSval`; it is remembered for the connection.
    fn reading(&mut self, packet: &Packet, flags: u8, meant: u32, now: Instant) -> u32 {
        let conn = ConnKey::home(packet);
        let fixed = match self.params.set {
            TimestampSet::Constant(value) => Some(value),
            TimestampSet::Offset(offset) => Some(meant.wrapping_add(offset)),
            TimestampSet::RandomOffset => {
                Some(meant.wrapping_add(self.key.stream(conn.hash, 0).word(0, 0) as u32))
            }
            TimestampSet::Freeze | TimestampSet::Strip => None,
        };
        if let Some(sent) = fixed
            && !self.params.translate
        {
            return sent;
        }
        let entry = self.connections.entry(&conn, now);
        entry.standing = entry.standing.after(flags);
        if flags & (flag::SYN | flag::ACK) == flag::SYN && !entry.value.repeats(meant) {
            // This is another connection between the same ports.
            entry.value = Clock::default();
        }
        let sent = fixed.unwrap_or_else(|| *entry.value.frozen.get_or_insert(meant));
        entry.value.learn(sent, meant);
        sent
    }

    /// The sender's own value for the `TSecr` of a returning packet.
    fn meant(&mut self, packet: &Packet, now: Instant) -> Option<(u32, u32)> {
        let tcp = conn::tcp(packet).filter(|tcp| tcp.flags() & flag::ACK != 0)?;
        let (value, echo) = tcp.timestamps()?;
        let entry = self.connections.find(&ConnKey::back(packet), now)?;
        entry.standing = entry.standing.after(tcp.flags() & !flag::SYN);
        Some((value, entry.value.meant(echo).filter(|&meant| meant != echo)?))
    }
}

/// Which field is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `TSval` of a segment on the stage's own path.
    Value,
    /// `TSecr` of a returning segment.
    Echo {
        /// The `TSval` beside it, which is not changed.
        value: u32,
        /// The sender's own value.
        meant: u32,
    },
}

impl Stage for Timestamps {
    type Plan = Side;

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<Side> {
        if packet.path != self.path {
            let echo = self.meant(packet, now);
            let rewrite = |(value, meant)| Action::Rewrite(Side::Echo { value, meant });
            return Verdict::new(limit, echo.map_or(Action::PASS, rewrite));
        }
        let has = conn::tcp(packet).is_some_and(|tcp| tcp.timestamps().is_some());
        Verdict::new(limit, if has { Action::Rewrite(Side::Value) } else { Action::PASS })
    }

    fn rewrite(&mut self, packet: &mut Packet, side: Side, now: Instant) -> bool {
        if let Side::Echo { value, meant } = side {
            return change(packet, |tcp, update| tcp.set_timestamps(value, meant, update));
        }
        let Some((flags, (meant, echo))) =
            conn::tcp(packet).and_then(|tcp| Some((tcp.flags(), tcp.timestamps()?)))
        else {
            return false;
        };
        if self.params.set == TimestampSet::Strip {
            return change(packet, |tcp, update| tcp.blank_option(option::TIMESTAMPS, update));
        }
        let sent = self.reading(packet, flags, meant, now);
        sent != meant && change(packet, |tcp, update| tcp.set_timestamps(sent, echo, update))
    }
}

impl Clock {
    /// Whether a SYN with this reading may be one that was sent before: its clock has not gone on by much.
    fn repeats(&self, meant: u32) -> bool {
        /// A minute of milliseconds: longer than SYNs are repeated.
        const CLOSE: u32 = 60_000;
        self.pieces[0].is_some_and(|piece| meant.wrapping_sub(piece.last.wrapping_add(piece.behind)) <= CLOSE)
    }

    /// Remembers that `sent` went out for `meant`.
    fn learn(&mut self, sent: u32, meant: u32) {
        let behind = meant.wrapping_sub(sent);
        if let Some(piece) = &mut self.pieces[0] {
            if piece.behind == behind {
                if is_before(piece.last, sent) {
                    piece.last = sent;
                }
                if is_before(sent, piece.first) {
                    piece.first = sent;
                }
                return;
            }
            // A clock that stands: the latest that was meant by it counts.
            if piece.first == sent && piece.last == sent {
                if is_before(piece.behind.wrapping_add(sent), meant) {
                    piece.behind = behind;
                }
                return;
            }
        }
        self.pieces.rotate_right(1);
        self.pieces[0] = Some(Piece { first: sent, last: sent, behind });
    }

    fn meant(&self, echo: u32) -> Option<u32> {
        let holds = |piece: &&Piece| echo.wrapping_sub(piece.first) <= piece.last.wrapping_sub(piece.first);
        self.pieces.iter().flatten().find(holds).map(|piece| echo.wrapping_add(piece.behind))
    }
}

#[cfg(test)]
impl crate::pipeline::testing::laws::Lawful for TimestampsParams {
    fn strategy() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let set = prop_oneof![
            Just(TimestampSet::Constant(0)),
            any::<u32>().prop_map(TimestampSet::Offset),
            Just(TimestampSet::RandomOffset),
            Just(TimestampSet::Freeze),
            Just(TimestampSet::Strip),
        ];
        (set, any::<bool>()).prop_map(|(set, translate)| Self { set, translate }).boxed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::params::ImpairmentParams;
    use crate::pipeline::testing::{Run, Spec, flaw, stage};

    use crate::pipeline::wire::tcp::flag::{ACK, SYN};

    fn run(set: TimestampSet) -> Run {
        let params = TimestampsParams { set, translate: true };
        Run::new(vec![stage(ImpairmentParams::Timestamps(params))])
    }

    fn stamp(value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    fn there(flags: u8, value: u32, echo: u32) -> Spec {
        Spec { flags, options: stamp(value, echo), ..Spec::tcp(0) }
    }

    /// The timestamps of the packet that leaves, read by etherparse.
    fn after(run: &mut Run, spec: &Spec) -> Option<(u32, u32)> {
        let before = run.wires().len();
        run.feed_by(spec.back.into(), Instant::ZERO, &spec.frame());
        let wires = run.wires();
        assert_eq!(flaw(&wires[before].bytes), None, "{spec:?}");
        let sliced = etherparse::SlicedPacket::from_ip(&wires[before].bytes).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP came in") };
        tcp.options_iterator().find_map(|option| match option {
            Ok(etherparse::TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
            _ => None,
        })
    }

    #[test]
    fn an_offset_is_taken_back_from_the_echo() {
        for v6 in [false, true] {
            let family = |spec: Spec| if v6 { spec.v6() } else { spec };
            // 5000 back from 3000 wraps.
            let mut run = run(TimestampSet::Offset(5_000_u32.wrapping_neg()));
            assert_eq!(after(&mut run, &family(there(SYN, 3_000, 0))), Some((4_294_965_296, 0)));
            // The other side's own clock (77) is left alone.
            let echo = |run: &mut Run, echo| after(run, &family(there(SYN | ACK, 77, echo)).back());
            assert_eq!(echo(&mut run, 4_294_965_296), Some((77, 3_000)));
            // 6000 - 5000; both readings are known now, and what lies between them.
            assert_eq!(after(&mut run, &family(there(ACK, 6_000, 77))), Some((1_000, 77)));
            for (sent, meant) in [(1_000, 6_000), (0, 5_000), (4_294_965_296, 3_000), (1_001, 1_001)] {
                assert_eq!(echo(&mut run, sent), Some((77, meant)), "{sent}");
            }
            assert_eq!(run.stage(0).rewritten.packets, 2);
        }
    }

    #[test]
    fn a_constant_echoes_the_latest_reading() {
        let mut run = run(TimestampSet::Constant(0));
        for meant in [10, 20, 15] {
            assert_eq!(after(&mut run, &there(ACK, meant, 5)), Some((0, 5)));
        }
        assert_eq!(after(&mut run, &there(ACK, 9, 0).back()), Some((9, 20)));
    }

    #[test]
    fn a_frozen_clock_stands_at_its_connection_s_first_reading() {
        let mut run = run(TimestampSet::Freeze);
        let reading = |run: &mut Run, flags, port, meant| {
            after(run, &there(flags, meant, 0).with_source_port(port)).unwrap().0
        };
        assert_eq!(reading(&mut run, SYN, 1, 100), 100);
        assert_eq!(reading(&mut run, SYN, 2, 700), 700);
        // A SYN that is sent again a second later is of the same connection.
        assert_eq!(reading(&mut run, SYN, 1, 1_100), 100);
        assert_eq!(reading(&mut run, ACK, 1, 1_200), 100);
        assert_eq!(after(&mut run, &there(ACK, 9, 100).with_source_port(1).back()), Some((9, 1_200)));
        // A clock that went back is another's.
        assert_eq!(reading(&mut run, SYN, 1, 50), 50);
        assert_eq!(reading(&mut run, ACK, 2, 900), 700);
    }

    #[test]
    fn every_connection_has_an_offset_of_its_own() {
        let mut run = run(TimestampSet::RandomOffset);
        let mut offsets = Vec::new();
        for port in 0..100 {
            let of = |meant, flags| there(flags, meant, 0).with_source_port(1_000 + port);
            let sent = after(&mut run, &of(1_000, SYN)).unwrap().0;
            assert_eq!(after(&mut run, &of(1_500, ACK)).unwrap().0, sent.wrapping_add(500));
            assert_eq!(after(&mut run, &Spec { back: true, ..of(7, ACK) }), Some((7, 0)));
            let back = Spec { back: true, options: stamp(7, sent), ..of(7, ACK) };
            assert_eq!(after(&mut run, &back), Some((7, 1_000)));
            offsets.push(sent.wrapping_sub(1_000));
        }
        offsets.sort_unstable();
        offsets.dedup();
        // The chance that two of 100 numbers of 32 bits are the same is about 1e-6, and the seed is fixed.
        assert_eq!(offsets.len(), 100);
        // Half of them above half of the numbers, within 5 sigma.
        let high = offsets.iter().filter(|&&offset| offset > u32::MAX / 2).count();
        assert!((25..=75).contains(&high), "{high}");
    }

    #[test]
    fn stripped_options_leave_no_trace() {
        let mut run = run(TimestampSet::Strip);
        // MSS 1460, SACK permitted, timestamps, NOP, window scale 7: what Linux sends.
        let linux = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let syn = Spec { flags: SYN, options: linux.to_vec(), ..Spec::tcp(0) };
        assert_eq!(after(&mut run, &syn), None);
        let mut stripped = linux;
        stripped[6..16].fill(1);
        assert_eq!(run.wires()[0].bytes[40..], stripped);
        assert_eq!(run.stage(0).rewritten.packets, 1);
    }

    /// Of the wrong length, beyond the header, behind an option without length.
    #[test]
    fn malformed_options_are_left_alone() {
        for options in [
            &[8, 9, 1, 2, 3, 4, 5, 6, 7, 1, 1, 1][..],
            &[8, 10, 0, 0],
            &[1, 1, 1, 8],
            &[3, 0, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            let mut run = run(TimestampSet::Constant(0));
            run.feed(Instant::ZERO, &Spec { options: options.to_vec(), ..Spec::tcp(3) }.frame());
            assert_eq!(
                (&run.wires()[0].bytes[40..40 + options.len()], run.stage(0).acted().packets),
                (options, 1)
            );
            assert_eq!(run.stage(0).rewritten.packets, 0);
        }
    }

    #[test]
    fn without_translation_the_way_back_is_not_looked_at() {
        let params = TimestampsParams { set: TimestampSet::Offset(9), translate: false };
        let mut run = Run::new(vec![stage(ImpairmentParams::Timestamps(params))]);
        assert_eq!(after(&mut run, &there(ACK, 1, 0)), Some((10, 0)));
        assert_eq!(after(&mut run, &there(ACK, 1, 10).back()), Some((1, 10)));
        assert_eq!(run.router.paths().iter().map(|path| path.seats.len()).sum::<usize>(), 1);
    }

    proptest! {
        /// Wherever the option stands, whatever the checksum's state, in trains too, the sender gets its own clock back.
        #[test]
        fn the_sender_sees_its_own_clock(
            before in 0..4_usize, v6: bool, partial: bool, start: u32, steps in proptest::collection::vec(0..70_000_u32, 1..12),
            offset: u32, random: bool, train: bool,
        ) {
            let set = if random { TimestampSet::RandomOffset } else { TimestampSet::Offset(offset) };
            let mut run = run(set);
            let mut options = vec![1; before];
            options.extend([8, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
            options.resize(options.len().next_multiple_of(4), 1);
            let with = |value: u32, echo: u32| {
                let mut options = options.clone();
                options[before + 2..before + 6].copy_from_slice(&value.to_be_bytes());
                options[before + 6..before + 10].copy_from_slice(&echo.to_be_bytes());
                options
            };
            let mut meant = start;
            for step in steps {
                meant = meant.wrapping_add(step);
                let mut spec = Spec { v6, partial, options: with(meant, 3), ..Spec::tcp(900) };
                if train {
                    spec = spec.train(400);
                }
                let (sent, echo) = after(&mut run, &spec).unwrap();
                prop_assert_eq!(echo, 3);
                let back = Spec { v6, partial, options: with(8, sent), ..Spec::tcp(0) }.back();
                prop_assert_eq!(after(&mut run, &back), Some((8, meant)));
            }
        }
    }
}
