//! Counters of what happened to wire packets: plain numbers, each with one owner.

use std::ops::AddAssign;

use crate::pipeline::time::Duration;

/// Wire packets and their bytes (IP total lengths).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Amount {
    /// Wire packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl AddAssign for Amount {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// Random loss of a stage.
    Loss,
    /// By a drop stage that selected it.
    Drop,
    /// The queue of a rate limit was full.
    QueueFull,
    /// Dropped early by the queue discipline (CoDel, PIE, RED).
    Aqm,
    /// Above the rate of a policer.
    Policed,
    /// Larger than a stage's MTU, without an ICMP error.
    MtuSilent,
    /// Larger than a stage's MTU; the sender was told by ICMP (or would have been, but for the rate limit).
    MtuIcmp,
    /// Dropped by a fragment filter.
    Fragment,
    /// The link was down.
    Blackout,
    /// A SYN whose timestamp is behind the one remembered of its host.
    PawsPerHost,
    /// A translator's table was full.
    NatTableFull,
    /// No port outside was free.
    NatPortsExhausted,
    /// To an address outside, without a session for it.
    NatNoMapping,
    /// To a port outside that is mapped, but from a sender that the filter does not allow.
    NatFiltered,
    /// TCP without SYN that belongs to no session.
    NatNoSession,
    /// A later fragment whose first fragment had not come.
    NatFragment,
    /// A packet that a translator cannot handle.
    NatUnsupported,
    /// More packets held than a `limit` allows.
    Limit,
    /// Replaced by its fragments (not lost: the fragments are counted as created).
    Fragmented,
    /// The packet could not be handled by a stage that rewrites (for example copies of a copy without end).
    Unrewritable,
    /// No route to its destination.
    NoRoute,
    /// Its route says blackhole.
    Blackhole,
    /// TTL or hop limit ran out.
    TtlExpired,
    /// Larger than the MTU of the port it was to leave by.
    PortMtu,
    /// Not IP, or its length fields are wrong.
    Malformed,
    /// Addressed to the router itself, which does not answer such packets.
    ToRouter,
    /// Answered by the router itself (echo).
    Answered,
    /// The device would not take it.
    DeviceRefused,
    /// Still held when the router stopped.
    Shutdown,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in order.
    pub const ALL: [Self; 29] = [
        Self::Loss,
        Self::Drop,
        Self::QueueFull,
        Self::Aqm,
        Self::Policed,
        Self::MtuSilent,
        Self::MtuIcmp,
        Self::Fragment,
        Self::Blackout,
        Self::PawsPerHost,
        Self::NatTableFull,
        Self::NatPortsExhausted,
        Self::NatNoMapping,
        Self::NatFiltered,
        Self::NatNoSession,
        Self::NatFragment,
        Self::NatUnsupported,
        Self::Limit,
        Self::Fragmented,
        Self::Unrewritable,
        Self::NoRoute,
        Self::Blackhole,
        Self::TtlExpired,
        Self::PortMtu,
        Self::Malformed,
        Self::ToRouter,
        Self::Answered,
        Self::DeviceRefused,
        Self::Shutdown,
    ];

    /// Its name in reports: `loss`, `queue_full` ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Drop => "drop",
            Self::QueueFull => "queue_full",
            Self::Aqm => "aqm",
            Self::Policed => "policed",
            Self::MtuSilent => "mtu_silent",
            Self::MtuIcmp => "mtu_icmp",
            Self::Fragment => "fragment",
            Self::Blackout => "blackout",
            Self::PawsPerHost => "paws_per_host",
            Self::NatTableFull => "nat_table_full",
            Self::NatPortsExhausted => "nat_ports_exhausted",
            Self::NatNoMapping => "nat_no_mapping",
            Self::NatFiltered => "nat_filtered",
            Self::NatNoSession => "nat_no_session",
            Self::NatFragment => "nat_fragment",
            Self::NatUnsupported => "nat_unsupported",
            Self::Limit => "limit",
            Self::Fragmented => "fragmented",
            Self::Unrewritable => "unrewritable",
            Self::NoRoute => "no_route",
            Self::Blackhole => "blackhole",
            Self::TtlExpired => "ttl_expired",
            Self::PortMtu => "port_mtu",
            Self::Malformed => "malformed",
            Self::ToRouter => "to_router",
            Self::Answered => "answered",
            Self::DeviceRefused => "device_refused",
            Self::Shutdown => "shutdown",
        }
    }

    /// True for faults that the configuration asks for; false for drops that happen without one.
    pub const fn is_ordered(self) -> bool {
        matches!(
            self,
            Self::Loss
                | Self::Drop
                | Self::QueueFull
                | Self::Aqm
                | Self::Policed
                | Self::MtuSilent
                | Self::MtuIcmp
                | Self::Fragment
                | Self::Blackout
                | Self::PawsPerHost
                | Self::NatTableFull
                | Self::NatPortsExhausted
                | Self::NatNoMapping
                | Self::NatFiltered
                | Self::NatNoSession
                | Self::Limit
                | Self::Fragmented
                | Self::Blackhole
        )
    }
}

/// Drops by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops([Amount; Reason::COUNT]);

impl Drops {
    /// Counts one drop.
    #[inline]
    pub fn add(&mut self, reason: Reason, amount: Amount) {
        self.0[reason as usize] += amount;
    }

    /// What was dropped for `reason`.
    pub const fn of(&self, reason: Reason) -> Amount {
        self.0[reason as usize]
    }

    /// The reasons that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, Amount)> + '_ {
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
            .filter(|(_, amount)| amount.packets > 0)
    }

    /// All drops.
    pub fn total(&self) -> Amount {
        self.iter().fold(Amount::default(), |mut sum, (_, amount)| {
            sum += amount;
            sum
        })
    }
}

impl AddAssign<&Self> for Drops {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// What one stage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageCounters {
    /// Packets that reached the stage.
    pub seen: Amount,
    /// Of those, packets that were not selected or not triggered. On most stages these are few, and counting what is
    /// rare costs little.
    pub spared: Amount,
    /// Dropped, by reason.
    pub drops: Drops,
    /// Made by the stage: copies, fragments.
    pub created: Amount,
    /// Made by the stage and sent back towards the sender of the path's packets.
    pub answered: Amount,
    /// Bytes changed.
    pub rewritten: Amount,
    /// Made to wait.
    pub delayed: Amount,
    /// The longest wait, for stages that decide when a packet comes until when they hold it.
    pub longest_wait: Duration,
    /// Wire packets that were delayed until their predecessor left, to keep the order under jitter; filled in by
    /// reports.
    pub clamped: u64,
}

impl StageCounters {
    /// Counts packets that will wait for this time.
    pub(super) fn held(&mut self, amount: Amount, wait: Duration) {
        self.delayed += amount;
        self.longest_wait = self.longest_wait.max(wait);
    }

    /// Packets that were selected and triggered: the stage acted on them, or decided about them.
    pub const fn acted(&self) -> Amount {
        Amount {
            packets: self.seen.packets - self.spared.packets,
            bytes: self.seen.bytes - self.spared.bytes,
        }
    }

    /// Packets to which the stage did something: dropped, delayed, changed, copied or answered. One that was delayed and changed
    /// counts once.
    pub fn hit(&self) -> u64 {
        // Fragments replace a packet that is among the dropped ones.
        let is_fragmenting = self.drops.of(Reason::Fragmented).packets > 0;
        let copied = if is_fragmenting { 0 } else { self.created.packets };
        let altered = self.delayed.packets.max(self.rewritten.packets).max(copied);
        // An answer mostly stands for a drop. A queue drops some of those that it delayed.
        (self.drops.total().packets + altered).max(self.answered.packets).min(self.acted().packets)
    }
}

impl AddAssign<&Self> for StageCounters {
    fn add_assign(&mut self, other: &Self) {
        self.seen += other.seen;
        self.spared += other.spared;
        self.drops += &other.drops;
        self.created += other.created;
        self.answered += other.answered;
        self.rewritten += other.rewritten;
        self.delayed += other.delayed;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.clamped += other.clamped;
    }
}

/// What one worker's router did outside its stages, and the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterCounters {
    /// Read from devices.
    pub received: Amount,
    /// Made here: copies, fragments, ICMP.
    pub created: Amount,
    /// Written to devices.
    pub sent: Amount,
    /// Dropped, including by stages.
    pub drops: Drops,
    /// ICMP errors sent.
    pub icmp_sent: u64,
    /// ICMP errors withheld by their rate limit or by configuration.
    pub icmp_withheld: u64,
}

impl AddAssign<&Self> for RouterCounters {
    fn add_assign(&mut self, other: &Self) {
        self.received += other.received;
        self.created += other.created;
        self.sent += other.sent;
        self.drops += &other.drops;
        self.icmp_sent += other.icmp_sent;
        self.icmp_withheld += other.icmp_withheld;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn amount(packets: u64) -> Amount {
        Amount { packets, bytes: packets * 100 }
    }

    #[test]
    fn a_hit_is_a_packet_to_which_something_was_done() {
        let with = |fill: &dyn Fn(&mut StageCounters)| {
            let mut counters =
                StageCounters { seen: amount(10), spared: amount(2), ..StageCounters::default() };
            fill(&mut counters);
            counters.hit()
        };
        assert_eq!(with(&|_| {}), 0, "the stage decided, and did nothing");
        assert_eq!(with(&|c| c.drops.add(Reason::Loss, amount(3))), 3);
        assert_eq!(with(&|c| c.rewritten = amount(3)), 3);
        assert_eq!(with(&|c| c.created = amount(3)), 3);
        assert_eq!(with(&|c| c.answered = amount(3)), 3);
        let delayed_and_changed = |c: &mut StageCounters| {
            c.drops.add(Reason::Loss, amount(1));
            (c.delayed, c.rewritten) = (amount(4), amount(2));
        };
        assert_eq!(with(&delayed_and_changed), 5);
        let answered = |c: &mut StageCounters| {
            c.drops.add(Reason::MtuIcmp, amount(3));
            c.answered = amount(2);
        };
        assert_eq!(with(&answered), 3);
        let fragmented = |c: &mut StageCounters| {
            c.drops.add(Reason::Fragmented, amount(2));
            c.created = amount(5);
        };
        assert_eq!(with(&fragmented), 2);
        let queue = |c: &mut StageCounters| {
            c.drops.add(Reason::Aqm, amount(3));
            c.delayed = amount(8);
        };
        assert_eq!(with(&queue), 8, "not more than there were");
    }

    #[test]
    fn the_counters_of_two_are_summed_in_every_field() {
        let stage = |unit: u64| {
            let mut drops = Drops::default();
            drops.add(Reason::Loss, amount(unit));
            StageCounters {
                seen: amount(2 * unit),
                spared: amount(3 * unit),
                drops,
                created: amount(4 * unit),
                answered: amount(5 * unit),
                rewritten: amount(6 * unit),
                delayed: amount(7 * unit),
                longest_wait: Duration::from_nanos(unit),
                clamped: 8 * unit,
            }
        };
        let mut sum = stage(1);
        sum += &stage(10);
        assert_eq!(sum, StageCounters { longest_wait: Duration::from_nanos(10), ..stage(11) });
        let router = |unit: u64| RouterCounters {
            received: amount(unit),
            created: amount(2 * unit),
            sent: amount(3 * unit),
            drops: stage(unit).drops,
            icmp_sent: 4 * unit,
            icmp_withheld: 5 * unit,
        };
        let mut sum = router(1);
        sum += &router(10);
        assert_eq!(sum, router(11));
    }
}
