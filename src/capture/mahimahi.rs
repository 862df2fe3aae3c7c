//! A log in the format of Mahimahi's mm-link, which its plotting scripts read.
//!
//! After a header of lines that begin with #, a line an event, in milliseconds since the start: `T # BYTES` an opportunity to
//! deliver, `T + BYTES` a packet came, `T - BYTES DELAY` one left after DELAY milliseconds, `T d PACKETS BYTES` a drop. A
//! packet counts four bytes more than its IP length, as in Mahimahi.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use crate::pipeline::packet::Packet;
use crate::pipeline::router::What;
use crate::pipeline::service::Opportunities;
use crate::pipeline::time::Instant;

/// What Mahimahi's devices put before each packet.
const HEADER: u64 = 4;

/// A log that is being written.
pub struct Log<W: Write> {
    out: W,
    /// When each packet came that is still under way, by its flow and number.
    came: HashMap<(u64, u64), Instant>,
    /// The trace of the link, and its next opportunity.
    trace: Option<(Arc<Opportunities>, u64)>,
    /// Port at the far end of the path.
    far: u16,
    failed: Option<std::io::Error>,
}

impl<W: Write> std::fmt::Debug for Log<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("under way", &self.came.len()).finish_non_exhaustive()
    }
}

impl<W: Write> Log<W> {
    /// A log into `out` of a link that `name` describes, whose packets leave by port `far`, with the opportunities of its
    /// `trace` if it has one.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn new(mut out: W, name: &str, far: u16, trace: Option<Arc<Opportunities>>) -> std::io::Result<Self> {
        writeln!(out, "# mahimahi mm-link (Uplink) [{name}]")?;
        writeln!(out, "# command line: faultwire pcap")?;
        writeln!(out, "# queue: {name}")?;
        writeln!(out, "# init timestamp: 0\n# base timestamp: 0")?;
        Ok(Self { out, came: HashMap::new(), trace: trace.map(|trace| (trace, 0)), far, failed: None })
    }

    /// Something happened to `packet` at `at`; times do not go back.
    pub(super) fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        let bytes = packet.amount().bytes + HEADER;
        let (millis, key) = (millis(at), (packet.flow.hash, packet.index));
        match what {
            What::Received(_) | What::Rewritten(..) | What::Created(_) => {}
            What::Entered => {
                self.came.insert(key, at);
                self.line(at, format_args!("{millis} + {bytes}"));
            }
            What::Sent(port) if port != self.far => {}
            What::Sent(_) => {
                let came = self.came.remove(&key).unwrap_or(at);
                let delay = at.since(came).as_nanos() / 1_000_000;
                self.line(at, format_args!("{millis} - {bytes} {delay}"));
            }
            What::Dropped(..) => {
                self.came.remove(&key);
                self.line(at, format_args!("{millis} d {} {bytes}", packet.wires()));
            }
        }
    }

    fn line(&mut self, at: Instant, line: std::fmt::Arguments<'_>) {
        self.opportunities(at);
        self.write(line);
    }

    /// Those up to `at`.
    fn opportunities(&mut self, at: Instant) {
        let Some((trace, next)) = self.trace.clone() else { return };
        let mut next = next;
        while trace.nth(next) <= at {
            let bytes = trace.bytes();
            self.write(format_args!("{} # {bytes}", millis(trace.nth(next))));
            next += 1;
        }
        self.trace = Some((trace, next));
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        if let Err(error) = writeln!(self.out, "{line}") {
            self.failed.get_or_insert(error);
        }
    }

    /// Ends the log.
    ///
    /// # Errors
    /// If a line could not be written.
    pub fn finish(mut self) -> std::io::Result<W> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush().map(|()| self.out),
        }
    }
}

const fn millis(at: Instant) -> u64 {
    at.as_nanos() / 1_000_000
}
