//! Faults on a network device that exists already: of a container, a process, a namespace or this host.
//!
//! [`Attachment::start`] does what the command `faultwire attach` does. The programs of the target keep running and open connections
//! continue: when the faults start, while they act, and when they end. Traffic flows as before once the [`Attachment`] is
//! detached or dropped, also by a panic, and when the process is killed.
//!
//! This needs root and Linux 6.6. Packets that no fault hits stay in the kernel.
//!
//! ```no_run
//! use faultwire::faults::Faults;
//! use faultwire::running::{Attachment, Target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let database = Target::Container("database".to_owned());
//! let (up, down) = (Faults::new(), "tcp port 5432: delay 200ms".parse()?);
//! let attached = Attachment::start(&database, None, &up, &down, 7)?;
//! // Here the test runs its queries. Then it checks that the faults hit something:
//! let [_, down] = attached.stages()?;
//! assert!(down.iter().any(|(_, counters)| counters.hit() > 0));
//! attached.detach()?;
//! # Ok(())
//! # }
//! ```

use crate::attach;
use crate::config::Plan;
use crate::engine::wire::{NETWORK, TARGET, Wire, WireError, WirePlan};
use crate::faults::Faults;
use crate::net::privilege::{self, PrivilegeError};
use crate::net::target::{self, TargetError};
use crate::pipeline::counters::{Amount, RouterCounters, StageCounters};
use crate::pipeline::params::{IcmpParams, Identity};

#[doc(inline)]
pub use crate::net::target::TargetRef as Target;

/// Why faults cannot be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// The process may not do it.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// There is no such target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target is this host's own namespace, where the device has to be chosen.
    #[error("the target is in this host's own network namespace: name the device")]
    Own,
    /// The device is unsuitable, or the kernel refuses, or faultwire's worker has failed.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Faults on a device that exists already.
#[derive(Debug)]
pub struct Attachment {
    /// `None` only once it is detached.
    wire: Option<Wire>,
    target: target::Target,
}

impl Attachment {
    /// Puts faults on a device of the target: `up` on packets that the target sends, `down` on packets that it receives. Without a
    /// `device` it is that of the default route. All draws of the faults follow from `seed`.
    ///
    /// # Errors
    /// If there is no such target or device, it is unsuitable, or privileges are missing. Then nothing has changed.
    pub fn start(
        target: &Target,
        device: Option<&str>,
        up: &Faults,
        down: &Faults,
        seed: u64,
    ) -> Result<Self, AttachmentError> {
        privilege::check()?;
        let target = target::Target::find(target)?;
        if target.is_own && device.is_none() {
            return Err(AttachmentError::Own);
        }
        let device = attach::find(&target.netns, device).map_err(WireError::from)?;
        let plan = WirePlan {
            up: up.stages().to_vec(),
            down: down.stages().to_vec(),
            seed,
            flows: Plan::DEFAULT_FLOWS,
            identity: Identity::default(),
            icmp: IcmpParams::default(),
            flow_cache: true,
        };
        let wire = Wire::start(&target.netns, &device, &plan, Vec::new())?;
        Ok(Self { wire: Some(wire), target })
    }

    /// Whether the target has ended, or the device is gone: the faults hit nothing any more.
    pub fn has_ended(&self) -> bool {
        self.target.has_ended() || !self.wire.as_ref().is_some_and(Wire::is_attached)
    }

    /// What happened to all packets so far: received + created = sent + dropped + held. Packets that stayed in the kernel are
    /// included.
    ///
    /// # Errors
    /// If faultwire's worker has failed.
    pub fn counters(&self) -> Result<RouterCounters, AttachmentError> {
        Ok(self.wire().summary()?.total.counters)
    }

    /// Packets that stayed in the kernel, because no fault hit them.
    ///
    /// # Errors
    /// If faultwire's worker has failed.
    pub fn in_kernel(&self) -> Result<Amount, AttachmentError> {
        Ok(self.wire().summary()?.total.carried)
    }

    /// The stages up, and those down, by name, with what each has done so far.
    ///
    /// # Errors
    /// If faultwire's worker has failed.
    pub fn stages(&self) -> Result<[Vec<(String, StageCounters)>; 2], AttachmentError> {
        let paths = self.wire().summary()?.total.paths;
        Ok([TARGET, NETWORK].map(|from| {
            let stages = paths.iter().filter(|path| path.from == from).flat_map(|path| &path.stages);
            stages.map(|stage| (stage.name.to_string(), stage.counters)).collect()
        }))
    }

    /// Sends the packets that the faults hold, in order, and detaches; then what happened to all packets.
    ///
    /// # Errors
    /// If faultwire's worker had failed. It is detached even then.
    ///
    /// # Panics
    /// Never: it is attached until then.
    pub fn detach(mut self) -> Result<RouterCounters, AttachmentError> {
        let wire = self.wire.take().expect("it is attached until it is detached");
        Ok(wire.stop()?.0.total.counters)
    }

    fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("it is attached until it is detached")
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // There is nobody to tell of a failure.
        let _ = self.wire.take().map(Wire::stop);
    }
}
