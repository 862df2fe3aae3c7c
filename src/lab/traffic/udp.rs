//! Numbered UDP datagrams with their times, so that loss, copies, order and one-way delay can be read from the data.

mod receive;
mod summary;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::lab::clock::{self, Deadline, Pace};
use crate::lab::traffic::outcome::Outcome;
use crate::lab::traffic::pattern;
use crate::lab::traffic::sockopt::{IpMtuDiscover, Ipv6DontFrag, Ipv6MtuDiscover};
use crate::lab::traffic::wait::{Wake, readable};

pub use receive::{Answer, Arrival, Receiver};
pub use summary::summary;

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
    /// Either end stops when nothing has come for so long after the last was sent.
    pub settle: Duration,
    /// Whether the receiver answers each datagram, and to where.
    pub answer: Option<Answer>,
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
    /// Datagrams that were answered, by number; and whether the receiver saw each come from elsewhere than the first one.
    pub answers: BTreeMap<u64, bool>,
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
        if self.answer.is_some() {
            receive::make_room(&socket)?;
        }
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
        let pace = Pace::start(self.interval);
        for turn in 0..self.count.div_ceil(step) {
            pace.wait(turn);
            let first = turn * step;
            self.send_some(&socket, first..(first + step).min(self.count), &mut sent);
        }
        if self.answer.is_some() {
            self.hear(&socket, &mut sent);
        } else if self.df && sent.too_big == 0 {
            self.hear_of_mtu(&socket, &mut sent);
        }
        Ok(sent)
    }

    /// Waits for the ICMP error about a datagram that was too large: on a slow host it may come after the last one was sent.
    fn hear_of_mtu(&self, socket: &UdpSocket, sent: &mut Sent) {
        if matches!(readable(socket, None, Some(Deadline::after(self.settle))), Ok(Wake::Ready))
            && let Err(errno) = recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)
        {
            sent.fail(&errno.into(), 0);
        }
    }

    /// Takes the answers, of which the socket holds all that came, until all are there or nothing comes any more.
    fn hear(&self, socket: &UdpSocket, sent: &mut Sent) {
        let mut answer = [0; receive::ANSWER];
        while (sent.answers.len() as u64) < self.count
            && matches!(readable(socket, None, Some(Deadline::after(self.settle))), Ok(Wake::Ready))
        {
            // An ICMP error is read here, too: it answers nothing.
            if let Ok(receive::ANSWER) = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)
                && let Some((number, [moved])) = answer.split_first_chunk()
            {
                sent.answers.insert(u64::from_be_bytes(*number), *moved != 0);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_whole_with_and_without_segmentation_offload() {
        for (to, gso) in [("127.0.0.1", 1), ("127.0.0.1", 40), ("::1", 7)] {
            let settle = Duration::from_millis(100);
            let receiver = Receiver::start(0, settle, None).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), receiver.address().port());
            let series = Udp {
                count: 100,
                size: 1_000,
                interval: Duration::ZERO,
                df: true,
                gso,
                settle,
                answer: None,
            };
            let sent = series.send(to).unwrap();
            let arrivals = receiver.finish();
            assert_eq!(arrivals.len(), 100, "{to} by {gso}");
            assert!(arrivals.iter().all(|arrival| arrival.identical));
            assert!(arrivals.iter().all(|arrival| arrival.at >= sent.times[arrival.number as usize]));
        }
    }

    #[test]
    fn answers_are_counted_over_both_families() {
        for (to, answer) in [("127.0.0.1", Answer::First), ("::1", Answer::Latest)] {
            let settle = Duration::from_secs(5);
            let receiver = Receiver::start(0, Duration::from_millis(10), Some(answer)).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), receiver.address().port());
            let (interval, answer) = (Duration::from_micros(10), Some(answer));
            let series = Udp { count: 50, size: 100, interval, df: false, gso: 1, settle, answer };
            let sent = series.send(to).unwrap();
            let seen = summary(50, &sent, &receiver.finish());
            let fact = |name: &str| seen.iter().find(|fact| fact.0 == name).unwrap().1.number();
            assert_eq!(
                (fact("answered"), fact("answered_moved"), fact("sources")),
                (Some(50.0), Some(0.0), Some(1.0))
            );
        }
    }
}
