//! Why the kernel dropped what a host received: the `reason` of the `skb:kfree_skb` tracepoint (Linux 5.17).
//!
//! The trace is a separate *instance* of tracefs that no other program uses. It is removed with its owner; an instance that a
//! killed owner left is removed at the next start.
//!
//! Limits. The tracepoint reports every packet on the machine, without its owner. A packet belongs to a host if it was received
//! on the host's device (`net:netif_receive_skb`) by a thread of the router's process, which writes to the device, and if its
//! memory has not been freed since (`skb:consume_skb`, which not every function that frees memory calls). So only received
//! packets count, and not their copies. If other packets are dropped on the machine at the same time, a few of them may be
//! counted as a host's.

mod format;
mod tracefs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::Path;

use crate::lab::observe::drops::format::{Event, parse_line, reasons};
use crate::lab::observe::drops::tracefs::Instance;

/// Kilobytes of trace that each CPU keeps until it is read.
const BUFFER: u32 = 4_096;

/// Why drops cannot be observed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTraced {
    /// There is no tracefs, or this process may not mount or write it.
    #[error("the kernel's trace cannot be used: {what}: {why} (needs root outside a user namespace)")]
    Closed {
        /// What was tried.
        what: String,
        /// The system's reason.
        why: String,
    },
    /// The tracepoint has no `reason`.
    #[error("this kernel gives no reasons for drops (needs Linux 5.17)")]
    TooOld,
    /// The kernel has no drop reason of this name.
    #[error("this kernel knows no drop reason {0}")]
    NoSuchReason(String),
    /// Events were overwritten before they were read.
    #[error("{0} events of the kernel's trace were lost")]
    Lost(u64),
}

impl NotTraced {
    fn closed(what: impl Into<String>, error: &io::Error) -> Self {
        Self::Closed { what: what.into(), why: error.to_string() }
    }
}

/// Drops of the hosts of one run, from its start on.
#[derive(Debug)]
pub struct DropTrace {
    /// Before the instance: with its pipe open it could not be removed.
    pipe: std::fs::File,
    instance: Instance,
    /// Text read and not yet ended by a line feed.
    rest: Vec<u8>,
    /// Every reason that the kernel can give.
    reasons: BTreeMap<u64, String>,
    /// Device of each host.
    devices: Vec<String>,
    /// The process ID of the router.
    process: u32,
    /// Host that received the packet at an address.
    received: HashMap<u64, usize>,
    counts: BTreeMap<(usize, String), u64>,
}

impl DropTrace {
    /// Starts to record drops of packets that `process`, in which the router is, writes to `devices`, one of each host.
    ///
    /// # Errors
    /// Why it cannot be done here.
    pub fn start(process: u32, devices: Vec<String>) -> Result<Self, NotTraced> {
        let instance = Instance::make()?;
        let format = instance.read("events/skb/kfree_skb/format")?;
        let reasons = reasons(&format).ok_or(NotTraced::TooOld)?;
        let named: Vec<String> = devices.iter().map(|device| format!("name == \"{device}\"")).collect();
        for (file, text) in [
            ("buffer_size_kb", BUFFER.to_string()),
            // IPv4 and IPv6; sockets of other families are dropped by the same function.
            ("events/skb/kfree_skb/filter", format!("protocol == {} || protocol == {}", 0x0800, 0x86dd)),
            ("events/net/netif_receive_skb/filter", named.join(" || ")),
            ("events/skb/consume_skb/enable", "1".to_owned()),
            ("events/net/netif_receive_skb/enable", "1".to_owned()),
            ("events/skb/kfree_skb/enable", "1".to_owned()),
        ] {
            instance.write(file, &text)?;
        }
        let pipe = instance.pipe()?;
        Ok(Self {
            pipe,
            instance,
            rest: Vec::new(),
            reasons,
            devices,
            process,
            received: HashMap::new(),
            counts: BTreeMap::new(),
        })
    }

    /// Takes what was recorded since the last call.
    ///
    /// # Errors
    /// The trace cannot be read, or the process is gone.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16_384];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => self.rest.extend_from_slice(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return Ok(()) };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let ours = tasks(self.process)?;
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some((task, event)) = parse_line(line) {
                self.take(ours.contains(&task), event);
            }
        }
        Ok(())
    }

    fn take(&mut self, ours: bool, event: Event<'_>) {
        match event {
            Event::Received { address, device } => {
                let host = self.devices.iter().position(|name| name == device).filter(|_| ours);
                match host {
                    Some(host) => self.received.insert(address, host),
                    // The same memory address, but received by another device of the same name.
                    None => self.received.remove(&address),
                };
            }
            Event::Consumed { address } => {
                self.received.remove(&address);
            }
            Event::Dropped { address, reason } => {
                let Some(host) = self.received.remove(&address) else { return };
                *self.counts.entry((host, self.name_of(reason))).or_default() += 1;
            }
        }
    }

    /// The kernel prints the name where it has one, else the number.
    fn name_of(&self, reason: &str) -> String {
        let number = reason
            .strip_prefix("0x")
            .map_or_else(|| reason.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
        number.and_then(|number| self.reasons.get(&number)).map_or(reason, String::as_str).to_owned()
    }

    /// What was counted: index of the host, reason, packets.
    pub fn counts(&self) -> impl Iterator<Item = (usize, &str, u64)> {
        self.counts.iter().map(|((host, reason), count)| (*host, reason.as_str(), *count))
    }

    /// Packets received by the host that the kernel dropped for `reason`.
    ///
    /// # Errors
    /// Why that is not known: this kernel has no such reason, or part of the trace was lost.
    pub fn count(&self, host: usize, reason: &str) -> Result<u64, NotTraced> {
        let known: BTreeSet<&str> = self.reasons.values().map(String::as_str).collect();
        if !known.contains(reason) {
            return Err(NotTraced::NoSuchReason(reason.to_owned()));
        }
        match self.instance.lost()? {
            0 => Ok(self.counts.get(&(host, reason.to_owned())).copied().unwrap_or(0)),
            lost => Err(NotTraced::Lost(lost)),
        }
    }
}

/// Ids of the threads of `process`.
fn tasks(process: u32) -> io::Result<BTreeSet<u32>> {
    let entries = Path::new(&format!("/proc/{process}/task")).read_dir()?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}
