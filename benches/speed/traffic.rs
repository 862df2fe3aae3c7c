//! The load: one TCP stream, or 64-byte datagrams as fast as they go.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use faultwire::lab::clock::{self, Deadline};
use nix::sys::socket::{setsockopt, sockopt};

use crate::subject::Hosts;

const RECEIVER: &str = "10.66.2.2:5201";
/// Share of the time that is not counted: windows open meanwhile.
pub(crate) const WARM_UP: f64 = 0.5;

/// Who decides how fast a TCP stream sends. It is chosen for each socket, since hosts differ in their default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Congestion {
    /// What nearly every host uses: takes each loss for congestion, and slows down.
    Cubic,
    /// Sends by the bandwidth it measured; hardly minds single losses.
    Bbr,
}

impl Congestion {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// Those that this kernel has.
    ///
    /// # Panics
    /// If it has no cubic.
    pub(crate) fn available() -> Vec<Self> {
        let list = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        let has = |congestion: &Self| list.split_whitespace().any(|name| name == congestion.name());
        assert!(has(&Self::Cubic), "this kernel has no cubic, only: {list}");
        [Self::Cubic, Self::Bbr].into_iter().filter(has).collect()
    }

    /// Makes `stream` send by it.
    pub(crate) fn set(self, stream: &TcpStream) {
        setsockopt(stream, sockopt::TcpCongestion, &OsString::from(self.name())).unwrap();
    }
}

/// Bytes a second that the receiver reads of one stream.
pub(crate) fn tcp(hosts: &Hosts, congestion: Congestion, span: Duration) -> f64 {
    let listener = hosts.right.run(|| TcpListener::bind(RECEIVER).unwrap()).unwrap();
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 18];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                read.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        let mut stream = hosts.left.run(|| TcpStream::connect(RECEIVER).unwrap()).unwrap();
        congestion.set(&stream);
        let deadline = Deadline::after(span.mul_f64(1.0 + WARM_UP));
        let meter = scope.spawn(|| meter(&read, span));
        let data = vec![0x5a; 1 << 18];
        while deadline.left().is_some() {
            stream.write_all(&data).unwrap();
        }
        drop(stream);
        meter.join().unwrap()
    })
}

/// Datagrams a second that the receiver reads.
pub(crate) fn udp(hosts: &Hosts, span: Duration) -> f64 {
    let receiver = hosts.right.run(|| UdpSocket::bind(RECEIVER).unwrap()).unwrap();
    setsockopt(&receiver, sockopt::RcvBufForce, &(32 << 20)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (read, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    read.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let sender = hosts.left.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        sender.connect(RECEIVER).unwrap();
        let deadline = Deadline::after(span.mul_f64(1.0 + WARM_UP));
        let meter = scope.spawn(|| meter(&read, span));
        while deadline.left().is_some() {
            for _ in 0..64 {
                // A full queue is no error for UDP; what is lost is not received.
                let _ = sender.send(&[0x5a; 64]);
            }
        }
        over.store(true, Ordering::Relaxed);
        meter.join().unwrap()
    })
}

/// Counts for `span` after the warm-up; what came a second.
pub(crate) fn meter(read: &AtomicU64, span: Duration) -> f64 {
    clock::pause(span.mul_f64(WARM_UP));
    let (start, before) = (clock::nanos(), read.load(Ordering::Relaxed));
    clock::pause(span);
    let (end, after) = (clock::nanos(), read.load(Ordering::Relaxed));
    (after - before) as f64 * 1e9 / (end - start) as f64
}
