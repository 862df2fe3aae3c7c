//! Probes that only connect, as health checks do.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::clock::{self, Pace};
use crate::lab::traffic::client;
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::{facts, quantile, share};
use crate::lab::value::{Facts, Value};

/// Connection attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Number of attempts.
    pub count: u64,
    /// How many at the same time, at least 1.
    pub concurrent: u64,
    /// Timeout of each attempt. Below 1 s, there is no retry of a SYN: the attempt stands for one round trip.
    pub timeout: Duration,
    /// Closes by RST instead of FIN.
    pub reset: bool,
    /// One source port for all attempts, one after the other; `None`: any port.
    pub source_port: Option<u16>,
    /// Time from the start of one attempt to that of the next; zero: no pause.
    pub interval: Duration,
}

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

impl Connect {
    /// Makes all attempts.
    pub fn run(&self, server: SocketAddr) -> Vec<Attempt> {
        let next = AtomicU64::new(0);
        let all = Mutex::new(Vec::new());
        let pace = Pace::start(self.interval);
        std::thread::scope(|scope| {
            for _ in 0..self.concurrent.clamp(1, self.count.max(1)) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.count {
                            break;
                        }
                        pace.wait(number);
                        let attempt = self.attempt(server);
                        all.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                    }
                });
            }
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self, server: SocketAddr) -> Attempt {
        let start = clock::now();
        let result = client::open(server, self.source_port, self.timeout);
        let took = clock::now().duration_since(start);
        let outcome = match result {
            Ok(stream) => {
                if self.reset {
                    // Lingering for 0 s means a RST on close; where that is refused the close is a FIN.
                    let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
                }
                Outcome::Ok
            }
            Err(error) => Outcome::of(&error),
        };
        Attempt { outcome, took }
    }
}

/// Summary under the names of case files.
pub fn summary(attempts: &[Attempt]) -> Facts {
    let count = |outcome| attempts.iter().filter(|attempt| attempt.outcome == outcome).count() as u64;
    let total = attempts.len() as u64;
    let ok = count(Outcome::Ok);
    let mut times: Vec<u64> = attempts
        .iter()
        .filter(|attempt| attempt.outcome == Outcome::Ok)
        .map(|attempt| attempt.took.as_nanos() as u64)
        .collect();
    times.sort_unstable();
    let millis = |nanos: u64| Value::Number(nanos as f64 / 1e6);
    facts([
        ("attempts", total.into()),
        ("succeeded", ok.into()),
        ("failed", (total - ok).into()),
        ("failed_share", share(total - ok, total)),
        ("timeouts", count(Outcome::Timeout).into()),
        ("refused", count(Outcome::Refused).into()),
        ("unreachable", count(Outcome::Unreachable).into()),
        ("connect_ms_p50", millis(quantile(&times, 500))),
        ("connect_ms_max", millis(quantile(&times, 1000))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn every_attempt_is_made_once_and_counted_by_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probes = Connect {
            count: 20,
            concurrent: 4,
            timeout: Duration::from_secs(1),
            reset: true,
            source_port: None,
            interval: Duration::ZERO,
        };
        let attempts = probes.run(listener.local_addr().unwrap());
        let seen: std::collections::BTreeMap<_, _> = summary(&attempts).into_iter().collect();
        assert_eq!(
            (seen["attempts"].clone(), seen["succeeded"].clone()),
            (Value::Count(20), Value::Count(20))
        );
    }

    #[test]
    fn attempts_at_a_closed_port_are_refused() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let probes = Connect {
            count: 3,
            concurrent: 9,
            timeout: Duration::from_secs(1),
            reset: false,
            source_port: None,
            interval: Duration::ZERO,
        };
        assert!(probes.run(closed).iter().all(|attempt| attempt.outcome == Outcome::Refused));
    }
}
