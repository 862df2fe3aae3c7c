//! The impairments, one file each. They do not know each other.
//!
//! To add one: its file, a variant of [`ImpairmentParams`], a variant of [`Impairment`] here, a block in
//! `configs/reference.toml`; the compiler and the tests find what is forgotten.

mod back;
mod blackout;
mod bottleneck;
mod corrupt;
mod delay;
mod delay_model;
mod drop;
mod duplicate;
mod fragment_filter;
mod inject;
mod listed_loss;
mod loss;
mod mss;
mod mtu;
mod nat;
mod netem;
mod netem_kernel;
mod pattern;
mod paws_per_host;
mod rate;
mod reorder;
mod replay;
mod rst_order;
mod tcp_rewrite;
mod timestamps;

pub use back::Back;

use crate::pipeline::packet::Packet;
use crate::pipeline::params::{ImpairmentParams, Mode, NatPlace};
use crate::pipeline::rng::StageKey;
use crate::pipeline::shared::Shared;
use crate::pipeline::stage::{Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

/// What a stage is built with besides its parameters.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Key of its draws.
    pub key: StageKey,
    /// What the copies of the stage on all workers share.
    pub shared: Shared,
    /// Number of flows for [`crate::pipeline::flow::PerFlow`].
    pub flows: usize,
}

macro_rules! impairments {
    ($($(#[$doc:meta])* $name:ident($stage:ty)),* $(,)?) => {
        /// Any impairment: a closed set, dispatched by `match`.
        #[derive(Debug)]
        pub enum Impairment {
            $($(#[$doc])* $name($stage)),*
        }

        impl Stage for Impairment {
            #[inline]
            fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
                match self { $(Self::$name(stage) => stage.decide(packet, limit, now)),* }
            }
            fn rewrite(&mut self, packet: &mut Packet, now: Instant) -> bool {
                match self { $(Self::$name(stage) => stage.rewrite(packet, now)),* }
            }
            fn take(&mut self, packet: &mut Packet, now: Instant, out: &mut Outlet<'_>) {
                match self { $(Self::$name(stage) => stage.take(packet, now, out)),* }
            }
            fn released(&mut self, packet: &Packet, now: Instant) {
                match self { $(Self::$name(stage) => stage.released(packet, now)),* }
            }
            fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
                match self { $(Self::$name(stage) => stage.wake(now, out)),* }
            }
            fn decide_back(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
                match self { $(Self::$name(stage) => stage.decide_back(packet, limit, now)),* }
            }
            fn rewrite_back(&mut self, packet: &mut Packet, now: Instant) -> bool {
                match self { $(Self::$name(stage) => stage.rewrite_back(packet, now)),* }
            }
            fn clamped(&self) -> u64 {
                match self { $(Self::$name(stage) => stage.clamped()),* }
            }
            fn relinquish(&mut self) -> Option<Packet> {
                match self { $(Self::$name(stage) => stage.relinquish()),* }
            }
        }
    };
}

impairments! {
    /// Independent random loss.
    Loss(loss::Loss),
    /// Loss of the packets of a list.
    ListedLoss(listed_loss::ListedLoss),
    /// Drops what it is aimed at.
    Drop(drop::Discard),
    /// Losses or copies by what was before.
    Pattern(pattern::Pattern),
    /// Propagation delay by a timetable.
    DelayModel(delay_model::DelayModel),
    /// Propagation delay.
    Delay(delay::Delay),
    /// Serialiser or policer.
    Rate(rate::RateLimit),
    /// A link with a queue of its own.
    Bottleneck(Box<bottleneck::Bottleneck>),
    /// A link by a table.
    Replay(Box<replay::Replay>),
    /// Small-MTU hop.
    Mtu(mtu::Mtu),
    /// MSS rewriting.
    Mss(mss::Mss),
    /// Extra copies.
    Duplicate(duplicate::Duplicate),
    /// Damaged bits.
    Corrupt(corrupt::Corrupt),
    /// Packets out of order.
    Reorder(reorder::Reorder),
    /// A firewall that drops later fragments.
    FragmentFilter(fragment_filter::FragmentFilter),
    /// A link that is down by a schedule.
    Blackout(blackout::Blackout),
    /// A peer that keeps one timestamp per host.
    PawsPerHost(paws_per_host::PawsPerHost),
    /// A line of tc-netem.
    Netem(Box<netem::Netem>),
    /// A line of tc-netem as the kernel makes it.
    KernelNetem(Box<netem_kernel::KernelNetem>),
    /// TCP timestamps changed.
    Timestamps(timestamps::Timestamps),
    /// RSTs that overtake.
    RstOrder(rst_order::RstOrder),
    /// Where a translator stands.
    Nat(NatPlace),
    /// Windows, options and ECN of TCP changed.
    Tcp(tcp_rewrite::TcpRewrite),
    /// Segments that nobody sent.
    Inject(inject::Inject),
    /// The other direction of a stage that works in both.
    Back(Back),
}

impl Impairment {
    /// Builds the stage that `params` describe.
    pub fn new(params: &ImpairmentParams, setting: &Setting) -> Self {
        match params {
            ImpairmentParams::Loss(params) => Self::Loss(loss::Loss::new(*params, setting)),
            ImpairmentParams::ListedLoss(params) => {
                Self::ListedLoss(listed_loss::ListedLoss::new(params, setting))
            }
            ImpairmentParams::Drop => Self::Drop(drop::Discard),
            ImpairmentParams::Pattern(params) => Self::Pattern(pattern::Pattern::new(params, setting)),
            ImpairmentParams::DelayModel(params) => {
                Self::DelayModel(delay_model::DelayModel::new(params, setting))
            }
            ImpairmentParams::Delay(params) => Self::Delay(delay::Delay::new(*params, setting)),
            ImpairmentParams::Rate(params) => Self::Rate(rate::RateLimit::new(*params, setting)),
            ImpairmentParams::Bottleneck(params) => {
                Self::Bottleneck(Box::new(bottleneck::Bottleneck::new(params, setting)))
            }
            ImpairmentParams::Replay(params) => Self::Replay(Box::new(replay::Replay::new(params, setting))),
            ImpairmentParams::Mtu(params) => Self::Mtu(mtu::Mtu::new(*params)),
            ImpairmentParams::Mss(params) => Self::Mss(mss::Mss::new(*params)),
            ImpairmentParams::Duplicate(params) => {
                Self::Duplicate(duplicate::Duplicate::new(*params, setting))
            }
            ImpairmentParams::Corrupt(params) => Self::Corrupt(corrupt::Corrupt::new(*params, setting)),
            ImpairmentParams::Reorder(params) => Self::Reorder(reorder::Reorder::new(*params, setting)),
            ImpairmentParams::FragmentFilter => Self::FragmentFilter(fragment_filter::FragmentFilter),
            ImpairmentParams::Blackout(params) => Self::Blackout(blackout::Blackout::new(*params)),
            ImpairmentParams::PawsPerHost(params) => {
                Self::PawsPerHost(paws_per_host::PawsPerHost::new(*params, Shared::clone(&setting.shared)))
            }
            ImpairmentParams::Timestamps(params) => {
                Self::Timestamps(timestamps::Timestamps::new(*params, setting))
            }
            ImpairmentParams::RstOrder(params) => Self::RstOrder(rst_order::RstOrder::new(*params, setting)),
            ImpairmentParams::Nat(place) => Self::Nat(*place),
            ImpairmentParams::Tcp(params) => Self::Tcp(tcp_rewrite::TcpRewrite::new(params)),
            ImpairmentParams::Inject(params) => Self::Inject(inject::Inject::new(*params, setting)),
            ImpairmentParams::Netem(params) if params.mode == Mode::Netem => {
                Self::KernelNetem(Box::new(netem_kernel::KernelNetem::new(params, setting)))
            }
            ImpairmentParams::Netem(params) => Self::Netem(Box::new(netem::Netem::new(params, setting))),
        }
    }
}
