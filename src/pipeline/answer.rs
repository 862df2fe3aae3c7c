//! What the router says itself: ICMP errors, within a rate, and echo replies.

use std::net::IpAddr;

use crate::pipeline::packet::Packet;
use crate::pipeline::params::IcmpParams;
use crate::pipeline::pool::Pool;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::IcmpError;

/// The router's own voice.
#[derive(Debug)]
pub(super) struct Answers {
    params: IcmpParams,
    /// Token bucket as a virtual clock (GCRA): the time at which the bucket is full again.
    full_at: Instant,
}

impl Answers {
    pub(super) const fn new(params: IcmpParams) -> Self {
        Self { params, full_at: Instant::ZERO }
    }

    pub(super) fn error(&mut self, _packet: &Packet, _error: IcmpError, _own: &[IpAddr], _pool: &mut Pool, _now: Instant) -> Option<Packet> {
        None
    }

    pub(super) fn echo(&self, _packet: &Packet, _pool: &mut Pool) -> Option<Packet> {
        None
    }
}
