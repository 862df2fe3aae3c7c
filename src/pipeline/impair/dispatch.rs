//! An enum of stages that is itself a stage.

use crate::pipeline::packet::Packet;
use crate::pipeline::random::rng::Draw;
use crate::pipeline::router::quiet::{Ahead, Quiet};
use crate::pipeline::stage::{Kept, Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Implements [`Stage`] for an enum of stages by `match`. Its plans are those of its stages, in the enum that `plan` names.
macro_rules! dispatch {
    ($set:ident, $plan:ident { $($name:ident($stage:ty)),* $(,)? }) => {
        /// What the decision of a stage of the set passes on to the method that carries it out.
        #[derive(Debug, Clone, Copy)]
        pub enum $plan {
            $(#[doc = concat!("Of `", stringify!($name), "`.")] $name(<$stage as $crate::pipeline::stage::Stage>::Plan)),*
        }

        impl $crate::pipeline::stage::Stage for $set {
            type Plan = $plan;

            #[inline]
            fn decide(
                &mut self,
                packet: &$crate::pipeline::packet::Packet,
                limit: u32,
                now: $crate::pipeline::time::Instant,
            ) -> $crate::pipeline::stage::Verdict<$plan> {
                match self { $(Self::$name(stage) => stage.decide(packet, limit, now).map($plan::$name)),* }
            }
            fn rewrite(
                &mut self,
                packet: &mut $crate::pipeline::packet::Packet,
                plan: $plan,
                now: $crate::pipeline::time::Instant,
            ) -> bool {
                match (self, plan) {
                    $((Self::$name(stage), $plan::$name(plan)) => stage.rewrite(packet, plan, now),)*
                    // A plan goes to the stage that made it.
                    _ => unreachable!(),
                }
            }
            fn take(
                &mut self,
                packet: &mut $crate::pipeline::packet::Packet,
                plan: $plan,
                now: $crate::pipeline::time::Instant,
                out: &mut $crate::pipeline::stage::Outlet<'_>,
            ) {
                match (self, plan) {
                    $((Self::$name(stage), $plan::$name(plan)) => stage.take(packet, plan, now, out),)*
                    _ => unreachable!(),
                }
            }
            fn released(
                &mut self,
                packet: &$crate::pipeline::packet::Packet,
                now: $crate::pipeline::time::Instant,
            ) {
                match self { $(Self::$name(stage) => stage.released(packet, now)),* }
            }
            fn wake(
                &mut self,
                now: $crate::pipeline::time::Instant,
                out: &mut $crate::pipeline::stage::Outlet<'_>,
            ) {
                match self { $(Self::$name(stage) => stage.wake(now, out)),* }
            }
            fn drawn(
                &self,
                packet: &$crate::pipeline::packet::Packet,
            ) -> Option<$crate::pipeline::random::rng::Draw> {
                match self { $(Self::$name(stage) => stage.drawn(packet)),* }
            }
            fn quiet(&self, ahead: &$crate::pipeline::router::quiet::Ahead) -> $crate::pipeline::router::quiet::Quiet {
                match self { $(Self::$name(stage) => stage.quiet(ahead)),* }
            }
            fn passed(&mut self, ahead: &$crate::pipeline::router::quiet::Ahead, count: u64) {
                match self { $(Self::$name(stage) => stage.passed(ahead, count)),* }
            }
            fn clamped(&self) -> u64 {
                match self { $(Self::$name(stage) => stage.clamped()),* }
            }
            fn relinquish(&mut self) -> Option<$crate::pipeline::stage::Kept> {
                match self { $(Self::$name(stage) => stage.relinquish()),* }
            }
        }
    };
}

pub(crate) use dispatch;

/// A large stage is boxed, so that the enum stays small.
impl<S: Stage> Stage for Box<S> {
    type Plan = S::Plan;

    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict<S::Plan> {
        (**self).decide(packet, limit, now)
    }
    fn rewrite(&mut self, packet: &mut Packet, plan: S::Plan, now: Instant) -> bool {
        (**self).rewrite(packet, plan, now)
    }
    fn take(&mut self, packet: &mut Packet, plan: S::Plan, now: Instant, out: &mut Outlet<'_>) {
        (**self).take(packet, plan, now, out);
    }
    fn released(&mut self, packet: &Packet, now: Instant) {
        (**self).released(packet, now);
    }
    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        (**self).wake(now, out);
    }
    fn drawn(&self, packet: &Packet) -> Option<Draw> {
        (**self).drawn(packet)
    }
    fn quiet(&self, ahead: &Ahead) -> Quiet {
        (**self).quiet(ahead)
    }
    fn passed(&mut self, ahead: &Ahead, count: u64) {
        (**self).passed(ahead, count);
    }
    fn clamped(&self) -> u64 {
        (**self).clamped()
    }
    fn relinquish(&mut self) -> Option<Kept> {
        (**self).relinquish()
    }
}
