//! A closed set of stages that is one stage.

use crate::pipeline::packet::Packet;
use crate::pipeline::rng::Draw;
use crate::pipeline::stage::{Outlet, Stage, Verdict};
use crate::pipeline::time::Instant;

/// Implements [`Stage`] for an enum of stages by `match`.
macro_rules! dispatch {
    ($set:ident { $($name:ident),* $(,)? }) => {
        impl $crate::pipeline::stage::Stage for $set {
            #[inline]
            fn decide(
                &mut self,
                packet: &$crate::pipeline::packet::Packet,
                limit: u32,
                now: $crate::pipeline::time::Instant,
            ) -> $crate::pipeline::stage::Verdict {
                match self { $(Self::$name(stage) => stage.decide(packet, limit, now)),* }
            }
            fn rewrite(
                &mut self,
                packet: &mut $crate::pipeline::packet::Packet,
                now: $crate::pipeline::time::Instant,
            ) -> bool {
                match self { $(Self::$name(stage) => stage.rewrite(packet, now)),* }
            }
            fn take(
                &mut self,
                packet: &mut $crate::pipeline::packet::Packet,
                now: $crate::pipeline::time::Instant,
                out: &mut $crate::pipeline::stage::Outlet<'_>,
            ) {
                match self { $(Self::$name(stage) => stage.take(packet, now, out)),* }
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
            fn decide_back(
                &mut self,
                packet: &$crate::pipeline::packet::Packet,
                limit: u32,
                now: $crate::pipeline::time::Instant,
            ) -> $crate::pipeline::stage::Verdict {
                match self { $(Self::$name(stage) => stage.decide_back(packet, limit, now)),* }
            }
            fn rewrite_back(
                &mut self,
                packet: &mut $crate::pipeline::packet::Packet,
                now: $crate::pipeline::time::Instant,
            ) -> bool {
                match self { $(Self::$name(stage) => stage.rewrite_back(packet, now)),* }
            }
            fn drawn(
                &self,
                packet: &$crate::pipeline::packet::Packet,
                wire: u32,
            ) -> Option<$crate::pipeline::rng::Draw> {
                match self { $(Self::$name(stage) => stage.drawn(packet, wire)),* }
            }
            fn clamped(&self) -> u64 {
                match self { $(Self::$name(stage) => stage.clamped()),* }
            }
            fn relinquish(&mut self) -> Option<$crate::pipeline::packet::Packet> {
                match self { $(Self::$name(stage) => stage.relinquish()),* }
            }
        }
    };
}

pub(crate) use dispatch;

/// A large stage in a box, so that the others stay small.
impl<S: Stage> Stage for Box<S> {
    #[inline]
    fn decide(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        (**self).decide(packet, limit, now)
    }
    fn rewrite(&mut self, packet: &mut Packet, now: Instant) -> bool {
        (**self).rewrite(packet, now)
    }
    fn take(&mut self, packet: &mut Packet, now: Instant, out: &mut Outlet<'_>) {
        (**self).take(packet, now, out);
    }
    fn released(&mut self, packet: &Packet, now: Instant) {
        (**self).released(packet, now);
    }
    fn wake(&mut self, now: Instant, out: &mut Outlet<'_>) {
        (**self).wake(now, out);
    }
    fn decide_back(&mut self, packet: &Packet, limit: u32, now: Instant) -> Verdict {
        (**self).decide_back(packet, limit, now)
    }
    fn rewrite_back(&mut self, packet: &mut Packet, now: Instant) -> bool {
        (**self).rewrite_back(packet, now)
    }
    fn drawn(&self, packet: &Packet, wire: u32) -> Option<Draw> {
        (**self).drawn(packet, wire)
    }
    fn clamped(&self) -> u64 {
        (**self).clamped()
    }
    fn relinquish(&mut self) -> Option<Packet> {
        (**self).relinquish()
    }
}
