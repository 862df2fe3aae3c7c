//! The impairments, one file each. They do not depend on each other.
//!
//! `for_each_stage!` lists them. A stage's own file has its parameters, its description, its traps, the directions in
//! which it works, and how the property tests generate it ([`Blueprint`], `laws::Lawful`). The function with the
//! stage's name in `config::impairment` reads it, and a block in `configs/reference.toml` shows it. If one of these
//! is forgotten, the build or a test that names it fails.

mod blackout;
mod blueprint;
mod bottleneck;
mod corrupt;
mod custom;
mod delay;
mod delay_model;
mod dispatch;
mod drop;
mod dualpi2;
mod duplicate;
mod fragment_filter;
mod inject;
mod line;
mod listed_loss;
mod loss;
mod mss;
mod mtu;
mod netem;
mod pattern;
mod paws_per_host;
mod rate;
mod reorder;
mod replay;
mod rst_order;
mod tcp_rewrite;
pub(crate) mod text;
mod timestamps;

use std::fmt;

pub use blackout::BlackoutParams;
pub use blueprint::{Blueprint, Directions, Place, Setting};
pub use bottleneck::{
    BottleneckParams, CoDelParams, Discipline, PeakParams, PieParams, RedParams, ServiceParams,
};
pub use corrupt::{CorruptArea, CorruptParams};
pub use custom::{CustomParams, CustomStage, Fate, WirePacket};
pub use delay::DelayParams;
pub use delay_model::DelayModelParams;
pub use drop::DropParams;
pub use dualpi2::DualPi2Params;
pub use duplicate::DuplicateParams;
pub use fragment_filter::FragmentFilterParams;
pub use inject::{InjectParams, InjectTo, Injected, RstSequence};
pub use listed_loss::ListedLossParams;
pub use loss::LossParams;
pub use mss::MssParams;
pub use mtu::{MtuAction, MtuParams};
pub use netem::{LinkLayer, Mode, NetemParams, NetemRate, Slot, SlotGap, TC_LIMIT};
pub use pattern::{PatternFault, PatternParams};
pub use paws_per_host::PawsPerHostParams;
pub use rate::{Excess, RateParams};
pub use reorder::ReorderParams;
pub use replay::{ReplayEnd, ReplayParams, ReplayRow};
pub use rst_order::{HeldAcks, RstOrderParams, RstPlace};
pub use tcp_rewrite::{STRIPPABLE, TcpParams, WindowRewrite};
pub use timestamps::{TimestampSet, TimestampsParams};

/// The list of stages. Gives `$then` a line for each type of configuration files: its name as a word of Rust and as it is
/// written in a file, and the forms of parameters that its keys may make.
macro_rules! for_each_stage {
    ($then:ident) => {
        $then! {
            loss "loss" { Loss(LossParams), ListedLoss(ListedLossParams), Pattern(PatternParams) }
            drop "drop" { Drop(DropParams) }
            delay "delay" { Delay(DelayParams), DelayModel(DelayModelParams) }
            rate "rate" { Rate(RateParams), Bottleneck(Box<BottleneckParams>) }
            dualpi2 "dualpi2" { DualPi2(DualPi2Params) }
            mtu "mtu" { Mtu(MtuParams) }
            mss "mss" { Mss(MssParams) }
            duplicate "duplicate" { Duplicate(DuplicateParams) }
            corrupt "corrupt" { Corrupt(CorruptParams) }
            reorder "reorder" { Reorder(ReorderParams) }
            fragment_filter "fragment-filter" { FragmentFilter(FragmentFilterParams) }
            blackout "blackout" { Blackout(BlackoutParams) }
            replay "replay" { Replay(ReplayParams) }
            paws_per_host "paws-per-host" { PawsPerHost(PawsPerHostParams) }
            timestamps "timestamps" { Timestamps(TimestampsParams) }
            rst_order "rst-order" { RstOrder(RstOrderParams) }
            tcp "tcp" { Tcp(TcpParams) }
            inject "inject" { Inject(InjectParams) }
            netem "netem" { Netem(Box<NetemParams>) }
        }
    };
}

pub(crate) use for_each_stage;

macro_rules! define {
    ($($kind:ident $name:literal { $($form:ident($params:ty)),* $(,)? })*) => {
        /// Every type of stage, as configuration files name it.
        pub const TYPES: &[&str] = &[$($name),*];

        /// A fault or rewrite.
        #[derive(Debug, Clone, PartialEq)]
        pub enum ImpairmentParams {
            $($(#[doc = concat!("Of the type `", $name, "`.")] $form($params),)*)*
            /// A stage of the program that uses the library; configuration files cannot name it.
            Custom(CustomParams),
        }

        /// Any impairment: a closed set, dispatched by `match`.
        #[derive(Debug)]
        pub enum Impairment {
            $($(#[doc = concat!("Of the type `", $name, "`.")] $form(<$params as Blueprint>::Stage),)*)*
            /// A stage of the program that uses the library.
            Custom(custom::Custom),
        }

        dispatch::dispatch!(Impairment, Plan {
            $($($form(<$params as Blueprint>::Stage),)*)* Custom(custom::Custom)
        });

        impl Impairment {
            /// Builds the stage that `params` describe.
            pub fn new(params: &ImpairmentParams, setting: &Setting) -> Self {
                match params {
                    $($(ImpairmentParams::$form(params) => Self::$form(params.build(setting)),)*)*
                    ImpairmentParams::Custom(params) => Self::Custom(params.build(setting)),
                }
            }
        }

        impl ImpairmentParams {
            /// Its type, as configuration files name it; `custom` of a stage of the program that uses the library.
            pub const fn type_name(&self) -> &'static str {
                match self {
                    $($(Self::$form(_) => $name,)*)*
                    Self::Custom(_) => "custom",
                }
            }

            /// The directions whose packets the stage sees.
            pub fn directions(&self) -> Directions {
                match self {
                    $($(Self::$form(params) => params.directions(),)*)*
                    Self::Custom(params) => params.directions(),
                }
            }

            /// How many packets the stage makes on average from each packet that it acts on, beside that packet.
            pub fn extra_packets(&self) -> f64 {
                match self {
                    $($(Self::$form(params) => params.extra_packets(),)*)*
                    Self::Custom(params) => params.extra_packets(),
                }
            }

            /// Whether the stage plays the host behind the port to which its path leads.
            pub fn plays_host(&self) -> bool {
                match self {
                    $($(Self::$form(params) => params.plays_host(),)*)*
                    Self::Custom(params) => params.plays_host(),
                }
            }

            /// Settings that are allowed at this place but probably not meant, a sentence for each.
            pub fn traps(&self, place: &Place) -> Vec<String> {
                match self {
                    $($(Self::$form(params) => params.traps(place),)*)*
                    Self::Custom(params) => params.traps(place),
                }
            }
        }

        impl fmt::Display for ImpairmentParams {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($(Self::$form(params) => params.fmt(f),)*)*
                    Self::Custom(params) => params.fmt(f),
                }
            }
        }
    };
}

for_each_stage!(define);
