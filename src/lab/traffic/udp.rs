//! Numbered UDP datagrams with their times, so that loss, copies, order and one-way delay can be read from the data.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::clock::{self, Deadline};
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::sockopt::{IpMtuDiscover, Ipv6DontFrag, Ipv6MtuDiscover};
use crate::lab::traffic::wait::{Stop, Stopper, Wake, readable, stop_pair};
use crate::lab::traffic::{facts, pattern, quantile, share};
use crate::lab::value::{Facts, Value};

/// Bytes of a datagram's number, at its beginning; the smallest payload.
pub const NUMBER: usize = 8;

/// A series of datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// How many datagrams.
    pub count: u64,
    /// UDP payload of each in bytes, at least [`NUMBER`].
    pub size: u32,
    /// From one to the next; zero sends as fast as it goes.
    pub interval: Duration,
    /// DF is set (IPv6: the sender does not fragment); the sender heeds ICMP.
    pub df: bool,
    /// Datagrams per system call, by `UDP_SEGMENT`; 1 switches it off. At most 64 and 65,000 bytes.
    pub gso: u32,
    /// The receiver ends when nothing has come for so long after the last was sent.
    pub settle: Duration,
}

/// What the sender did.
#[derive(Debug, Default)]
pub struct Sent {
    /// When each datagram went, by its number, in [`clock::nanos`].
    pub times: Vec<u64>,
    /// Calls that failed, by outcome; their datagrams were not sent.
    pub refused: u64,
    /// As `refused`: unreachable.
    pub unreachable: u64,
    /// As `refused`: larger than the path MTU.
    pub too_big: u64,
    /// Any other error.
    pub failed: u64,
}

/// One datagram as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, from 0.
    pub number: u64,
    /// When, in [`clock::nanos`].
    pub at: u64,
    /// Its payload is what was sent.
    pub identical: bool,
}

/// A receiver at work.
#[derive(Debug)]
pub struct Receiver {
    stopper: Stopper,
    thread: JoinHandle<Vec<Arrival>>,
    address: SocketAddr,
}

impl Receiver {
    /// Receives on `port` of all addresses of the calling thread's namespace, until `finish`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16, settle: Duration) -> io::Result<Self> {
        let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
        // Room for bursts: what is lost must be lost on the path, not here. The kernel caps it unless we may force it.
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)))?;
        let address = socket.local_addr()?;
        let (stopper, stop) = stop_pair()?;
        let thread = std::thread::Builder::new()
            .name(format!("udp {port}"))
            .spawn(move || receive(&socket, &stop, settle))?;
        Ok(Self { stopper, thread, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what is still under way, until nothing comes for the settling time; then all that came, in order.
    pub fn finish(self) -> Vec<Arrival> {
        drop(self.stopper);
        self.thread.join().unwrap_or_default()
    }
}

fn receive(socket: &UdpSocket, stop: &Stop, settle: Duration) -> Vec<Arrival> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 65_536];
    while matches!(readable(socket, Some(stop), None), Ok(Wake::Ready)) {
        all.extend(arrival(socket, &mut buffer));
    }
    // The sender is done.
    while matches!(readable(socket, None, Some(Deadline::after(settle))), Ok(Wake::Ready)) {
        all.extend(arrival(socket, &mut buffer));
    }
    all
}

fn arrival(socket: &UdpSocket, buffer: &mut [u8]) -> Option<Arrival> {
    let size = socket.recv(buffer).ok()?;
    let at = clock::nanos();
    let (number, rest) = buffer[..size].split_first_chunk::<NUMBER>()?;
    let number = u64::from_be_bytes(*number);
    Some(Arrival { number, at, identical: pattern::matches(number, rest) })
}

impl Udp {
    /// Sends all datagrams to `to`.
    ///
    /// # Errors
    /// No socket, or an option that the kernel does not have (`UDP_SEGMENT` before Linux 4.18). Errors of sending are
    /// counted, not returned.
    pub fn send(&self, to: SocketAddr) -> io::Result<Sent> {
        let any =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let any: SocketAddr = any;
        let socket = UdpSocket::bind(any)?;
        dont_fragment(&socket, to.is_ipv4(), self.df)?;
        if self.gso > 1 {
            setsockopt(&socket, sockopt::UdpGsoSegment, &(self.size as i32))?;
        }
        let mut sent = Sent::default();
        match socket.connect(to) {
            Ok(()) => {}
            // Without a route not even the first datagram can go.
            Err(error) => {
                sent.fail(&error, self.count);
                return Ok(sent);
            }
        }
        let step = u64::from(self.gso.max(1));
        let start = clock::now();
        for (turn, first) in (0..self.count).step_by(step as usize).enumerate() {
            let due = start + self.interval * turn as u32;
            if let Some(early) = due.checked_duration_since(clock::now()).filter(|early| !early.is_zero()) {
                clock::pause(early);
            }
            self.send_some(&socket, first..(first + step).min(self.count), &mut sent);
        }
        Ok(sent)
    }

    fn send_some(&self, socket: &UdpSocket, numbers: std::ops::Range<u64>, sent: &mut Sent) {
        let mut data = Vec::new();
        for number in numbers.clone() {
            data.extend(number.to_be_bytes());
            data.extend(pattern::bytes(number, (self.size as usize).saturating_sub(NUMBER)));
        }
        let at = clock::nanos();
        let mut result = socket.send(&data);
        // An ICMP error about an earlier datagram is reported by the next call, which then sends nothing.
        if let Err(error) = &result
            && Outcome::of(error) != Outcome::TooBig
        {
            sent.fail(error, 0);
            result = socket.send(&data);
        }
        sent.times.extend(numbers.clone().map(|_| at));
        if let Err(error) = &result {
            sent.fail(error, numbers.end - numbers.start);
        }
    }
}

impl Sent {
    /// Counts an error: `lost` datagrams were not sent for it; where it told of earlier ones it counts once.
    fn fail(&mut self, error: &io::Error, lost: u64) {
        let counter = match Outcome::of(error) {
            Outcome::Refused => &mut self.refused,
            Outcome::Unreachable => &mut self.unreachable,
            Outcome::TooBig => &mut self.too_big,
            _ => &mut self.failed,
        };
        *counter += lost.max(1);
    }
}

/// Sets or clears DF on what `socket` sends.
fn dont_fragment(socket: &impl AsFd, ipv4: bool, df: bool) -> io::Result<()> {
    if ipv4 {
        let mode = if df { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        setsockopt(socket, IpMtuDiscover, &mode)?;
    } else {
        let mode = if df { libc::IPV6_PMTUDISC_DO } else { libc::IPV6_PMTUDISC_DONT };
        setsockopt(socket, Ipv6MtuDiscover, &mode)?;
        setsockopt(socket, Ipv6DontFrag, &i32::from(df))?;
    }
    Ok(())
}

/// Both ends' view under the names of case files.
pub fn summary(count: u64, sent: &Sent, arrivals: &[Arrival]) -> Facts {
    let mut first_at: HashMap<u64, u64> = HashMap::new();
    let (mut overtaken, mut highest) = (0_u64, None);
    for arrival in arrivals {
        if first_at.contains_key(&arrival.number) {
            continue;
        }
        first_at.insert(arrival.number, arrival.at);
        overtaken += u64::from(highest.is_some_and(|highest| arrival.number < highest));
        highest = highest.max(Some(arrival.number));
    }
    let received = first_at.len() as u64;
    let lost = count.saturating_sub(received);
    let mut delays: Vec<u64> = first_at
        .iter()
        .filter_map(|(&number, &at)| Some(at.saturating_sub(*sent.times.get(number as usize)?)))
        .collect();
    delays.sort_unstable();
    let millis = |permille| Value::Number(quantile(&delays, permille) as f64 / 1e6);
    let mut all = facts([
        ("sent", count.into()),
        ("received", received.into()),
        ("lost", lost.into()),
        ("lost_share", share(lost, count)),
        ("duplicates", (arrivals.len() as u64 - received).into()),
        ("overtaken", overtaken.into()),
        ("identical", arrivals.iter().all(|arrival| arrival.identical).into()),
        ("longest_loss", longest_gap(count, &first_at).into()),
    ]);
    all.extend(facts([
        ("delay_ms_min", millis(0)),
        ("delay_ms_p50", millis(500)),
        ("delay_ms_p99", millis(990)),
        ("delay_ms_max", millis(1000)),
        ("refused", sent.refused.into()),
        ("unreachable", sent.unreachable.into()),
        ("too_big", sent.too_big.into()),
        ("errors", sent.failed.into()),
    ]));
    all
}

/// Most datagrams lost in a row.
fn longest_gap(count: u64, arrived: &HashMap<u64, u64>) -> u64 {
    let (mut run, mut longest) = (0, 0);
    for number in 0..count {
        run = if arrived.contains_key(&number) { 0 } else { run + 1 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn arrived(numbers: &[u64]) -> Vec<Arrival> {
        numbers.iter().map(|&number| Arrival { number, at: 5_000_000, identical: true }).collect()
    }

    fn read(facts: Facts) -> BTreeMap<String, Value> {
        facts.into_iter().collect()
    }

    #[test]
    fn loss_copies_and_order_are_read_from_the_numbers() {
        let sent = Sent { times: vec![1_000_000; 8], ..Sent::default() };
        let seen = read(summary(8, &sent, &arrived(&[0, 2, 1, 1, 6, 5])));
        for (name, value) in
            [("received", 5), ("lost", 3), ("duplicates", 1), ("overtaken", 2), ("longest_loss", 2)]
        {
            assert_eq!(seen[name], Value::Count(value), "{name}");
        }
        assert_eq!(seen["delay_ms_p50"], Value::Number(4.0));
    }

    #[test]
    fn datagrams_arrive_whole_with_and_without_segmentation_offload() {
        for (to, gso) in [("127.0.0.1", 1), ("127.0.0.1", 40), ("::1", 7)] {
            let settle = Duration::from_millis(100);
            let receiver = Receiver::start(0, settle).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), receiver.address().port());
            let series = Udp { count: 100, size: 1_000, interval: Duration::ZERO, df: true, gso, settle };
            let sent = series.send(to).unwrap();
            let arrivals = receiver.finish();
            assert_eq!(arrivals.len(), 100, "{to} by {gso}");
            assert!(arrivals.iter().all(|arrival| arrival.identical));
            assert!(arrivals.iter().all(|arrival| arrival.at >= sent.times[arrival.number as usize]));
        }
    }
}
