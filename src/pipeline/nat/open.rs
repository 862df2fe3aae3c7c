//! New sessions and mappings: which ones a translator creates, and which it refuses.

use crate::pipeline::counters::Reason;
use crate::pipeline::nat::napt::Napt;
use crate::pipeline::nat::session::Tick;
use crate::pipeline::nat::table::Outer;
use crate::pipeline::params::Dependence;
use crate::pipeline::wire::{FlowKey, Host};

impl Napt {
    /// A session for a flow from inside that has none; `None` if it needs none.
    #[cold]
    pub(super) fn open_outward(
        &mut self,
        key: FlowKey,
        may_begin: bool,
        tick: Tick,
    ) -> Result<Option<u32>, Reason> {
        if self.address(key.source_host(), key.version()).is_some() {
            return Ok(None);
        }
        if !may_begin {
            return Err(Reason::NatNoSession);
        }
        if !self.table.has_room(tick) {
            return Err(Reason::NatTableFull);
        }
        let forward = || {
            let key = for_remote(key, Dependence::Independent);
            self.table.mapping(&key).filter(|mapping| self.table.is_forward(*mapping))
        };
        let mapped = for_remote(key, self.mapping);
        let known = self.has_forwards.then(forward).flatten().or_else(|| self.table.mapping(&mapped));
        let mapping = match known {
            Some(mapping) if self.table.is_alive(mapping, tick) => mapping,
            _ => self.map(mapped, tick)?,
        };
        self.table.open(key, mapping, tick).map(Some).ok_or(Reason::NatTableFull)
    }

    /// A new mapping, with a free port.
    fn map(&mut self, key: FlowKey, tick: Tick) -> Result<u32, Reason> {
        // "Paired": the address depends on the host alone.
        let of_host = FlowKey::of(0, key.version(), (key.source_host(), 0), (Host::NONE, 0)).hash();
        let address = self.address_of(of_host, key.version());
        let draw = self.draw(key.hash());
        // After a rebinding a port must be another one.
        let wanted = (self.rebinds == 0).then_some(key.source_port());
        let port = self.table.choose(&key, address, wanted, draw, tick).ok_or(Reason::NatPortsExhausted)?;
        self.table.map(key, Outer { address, port }, false).ok_or(Reason::NatTableFull)
    }

    /// The mapping for a packet from outside that has no session.
    pub(super) fn mapping_of(&mut self, outer: &FlowKey, tick: Tick) -> Result<u32, Reason> {
        let address = self.address(outer.source_host(), outer.version()).ok_or(Reason::NatNoMapping)?;
        let known = self.table.mapping_outside(outer, Outer { address, port: outer.source_port() });
        let mapping = known.ok_or(Reason::NatNoMapping)?;
        if !self.table.is_alive(mapping, tick) {
            return Err(Reason::NatNoMapping);
        }
        Ok(mapping)
    }

    /// Opens a session for a packet from outside, if it may enter.
    #[cold]
    pub(super) fn open_inward(
        &mut self,
        outer: &FlowKey,
        may_begin: bool,
        tick: Tick,
    ) -> Result<u32, Reason> {
        let mapping = self.mapping_of(outer, tick)?;
        let allowed = self.table.is_forward(mapping)
            || match self.filtering {
                Dependence::Independent => true,
                Dependence::Address => self.table.knows(mapping, outer.destination_host(), tick),
                Dependence::AddressAndPort => false,
            };
        // A host that talks to this endpoint from another port would use this session from now on. Its answers in the
        // old connection would then come from a port that the remote host does not expect.
        // where no host expects them.
        if !allowed || self.table.find_inside(&self.inner_key(outer, mapping), tick).is_some() {
            return Err(Reason::NatFiltered);
        }
        if !may_begin {
            return Err(Reason::NatNoSession);
        }
        if !self.table.has_room(tick) {
            return Err(Reason::NatTableFull);
        }
        // Making room may have removed the last session of the mapping.
        let mapping = self.mapping_of(outer, tick)?;
        let key = self.inner_key(outer, mapping);
        self.table.open(key, mapping, tick).ok_or(Reason::NatTableFull)
    }

    /// The flow of the answers that the host behind the mapping sends.
    fn inner_key(&self, outer: &FlowKey, mapping: u32) -> FlowKey {
        let inside = self.table.inside(mapping);
        outer.from(inside.source_host(), inside.source_port())
    }
}

/// The key without those fields of the remote endpoint that do not matter.
fn for_remote(key: FlowKey, dependence: Dependence) -> FlowKey {
    match dependence {
        Dependence::Independent => key.to(Host::NONE, 0),
        Dependence::Address => key.to(key.destination_host(), 0),
        Dependence::AddressAndPort => key,
    }
}
