//! Measures between two hosts in namespaces, with the kernel's sockets at both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration as Span;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::bench::short;
use crate::engine::Clock;
use crate::faults::Faults;
use crate::hosts::Lab;
use crate::pipeline::params::StageParams;
use crate::pipeline::time::{Duration, Instant};

/// The port of the service, as in memory.
const PORT: u16 = 443;
/// How long a receiver waits before it checks whether the sender has ended.
const PATIENCE: Span = Span::from_millis(50);

/// The result for one kind of traffic.
pub(super) struct Row {
    name: &'static str,
    /// Packets and payload bytes that arrived, and in which time.
    packets: Option<u64>,
    bytes: u64,
    seconds: f64,
}

/// TCP as fast as it goes, and datagrams of 64 bytes, through `stages`.
pub(super) fn measure<'a>(
    stages: impl Iterator<Item = &'a StageParams>,
    time: Duration,
) -> anyhow::Result<Vec<Row>> {
    let mut lab = Lab::start(&["left", "right"], 1)?;
    let faults = stages.cloned().fold(Faults::new(), Faults::stage);
    lab.set_faults("left", "right", &faults)?;
    Ok(vec![tcp(&lab, time).context("TCP on devices")?, udp(&lab, time).context("UDP on devices")?])
}

fn tcp(lab: &Lab, time: Duration) -> anyhow::Result<Row> {
    let span = Span::from_nanos(time.as_nanos());
    let address = SocketAddr::new(lab.host("right").address(), PORT);
    let listener = lab.host("right").run(|| TcpListener::bind(address))??;
    let clock = Clock::start();
    let row = |bytes| Row { name: "TCP", packets: None, bytes, seconds: seconds(clock) };
    // The kernel completes handshakes before `accept`. A link may let nothing through.
    let stream = match lab.host("left").run(|| TcpStream::connect_timeout(&address, span))? {
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(row(0)),
        stream => stream?,
    };
    let (incoming, _) = listener.accept()?;
    let (came, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            // If a stream breaks, the bytes that arrived before count.
            let _ = receive_stream(incoming, &came, &ended);
        });
        let sent = send_stream(stream, clock, Instant::ZERO + time);
        ended.store(true, Ordering::Release);
        sent
    })?;
    Ok(row(came.load(Ordering::Acquire)))
}

fn seconds(clock: Clock) -> f64 {
    clock.now().since(Instant::ZERO).as_secs_f64()
}

fn receive_stream(mut stream: TcpStream, came: &AtomicU64, ended: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                came.fetch_add(length as u64, Ordering::AcqRel);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !ended.load(Ordering::Acquire) => {}
            Err(error) => return Err(error),
        }
    }
}

fn send_stream(mut stream: TcpStream, clock: Clock, end: Instant) -> std::io::Result<()> {
    let data = vec![0x5a; 1 << 18];
    loop {
        let now = clock.now();
        if now >= end {
            return Ok(());
        }
        stream.set_write_timeout(Some(Span::from_nanos(end.since(now).as_nanos())))?;
        match stream.write(&data) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn udp(lab: &Lab, time: Duration) -> anyhow::Result<Row> {
    let address = SocketAddr::new(lab.host("right").address(), PORT);
    let server = lab.host("right").run(|| UdpSocket::bind(address))??;
    server.set_read_timeout(Some(PATIENCE))?;
    let from = SocketAddr::new(lab.host("left").address(), 0);
    let client = lab.host("left").run(|| UdpSocket::bind(from))??;
    client.connect(address)?;
    let (came, ended, clock) = (AtomicU64::new(0), AtomicBool::new(false), Clock::start());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut buffer = [0; 64];
            loop {
                let is_over = ended.load(Ordering::Acquire);
                match server.recv(&mut buffer) {
                    Ok(_) => {
                        came.fetch_add(1, Ordering::AcqRel);
                    }
                    Err(_) if is_over => return,
                    Err(_) => {}
                }
            }
        });
        // 64 bytes with the IP header. The device drops packets for which it has no room.
        while clock.now() < Instant::ZERO + time {
            for _ in 0..64 {
                let _ = client.send(&[0x5a; 36]);
            }
        }
        ended.store(true, Ordering::Release);
    });
    let packets = came.load(Ordering::Acquire);
    Ok(Row {
        name: "UDP, 64 bytes",
        packets: Some(packets),
        bytes: packets * 36,
        seconds: time.as_secs_f64(),
    })
}

impl Row {
    fn rates(&self) -> (Option<f64>, f64) {
        let seconds = self.seconds.max(1e-9);
        (self.packets.map(|packets| packets as f64 / seconds), self.bytes as f64 / seconds)
    }

    pub(super) fn line(&self) -> String {
        let (packets, bytes) = self.rates();
        let packets = packets.map_or_else(String::new, |packets| format!("{}pkt/s", short(packets)));
        format!("    {:<26}{packets:>15}{:>10}byte/s of payload", self.name, short(bytes))
    }

    pub(super) fn json(&self) -> Value {
        let (packets, bytes) = self.rates();
        json!({ "traffic": self.name, "packets_per_second": packets, "payload_bytes_per_second": bytes })
    }
}
