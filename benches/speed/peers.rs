//! The same stream through faultwire and through other emulators, where they are installed.
//!
//! Each is used as its manual says: a command runs inside, the host outside. The command is this program again, sending
//! one TCP stream to a server on the host, so that all carry the same load between the same two kernels.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use faultwire::lab::clock::Deadline;
use nix::sys::socket::{setsockopt, sockopt};

use crate::traffic::{Congestion, WARM_UP, meter};

/// Room for 10 Gbit/s over 20 ms and the queues on the way.
const BUFFER: usize = 64 << 20;
/// How long a peer may take to make its network, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that puts faults between a command and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Faultwire,
    Rattan,
}

/// What it does to packets, in each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Faults {
    /// 0.01 % loss.
    Loss,
    /// 10 ms.
    Delay,
}

impl Peer {
    /// The program's command line up to the command inside, and the variable that tells that command the host.
    fn command(self, faults: Faults) -> (Command, &'static str) {
        let (program, arguments, host): (String, &[&str], _) = match (self, faults) {
            (Self::Faultwire, Faults::Loss) => {
                (own(), &["exec", "--both", "loss 0.01%", "--"], "FAULTWIRE_HOST")
            }
            (Self::Faultwire, Faults::Delay) => {
                (own(), &["exec", "--both", "delay 10ms", "--"], "FAULTWIRE_HOST")
            }
            (Self::Rattan, Faults::Loss) => (
                rattan(),
                &["link", "--uplink-loss", "0.0001", "--downlink-loss", "0.0001", "--"],
                "RATTAN_BASE",
            ),
            (Self::Rattan, Faults::Delay) => (
                rattan(),
                &["link", "--uplink-delay", "10ms", "--downlink-delay", "10ms", "--"],
                "RATTAN_BASE",
            ),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        (command, host)
    }

    /// Whether it is installed, which is asked by running it.
    pub(crate) fn is_here(self) -> bool {
        let program = match self {
            Self::Faultwire => own(),
            Self::Rattan => rattan(),
        };
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Faultwire => "faultwire",
            Self::Rattan => "rattan",
        }
    }
}

fn own() -> String {
    env!("CARGO_BIN_EXE_faultwire").into()
}

/// `cargo install rattan` puts it where `$RATTAN` or `$PATH` finds it.
fn rattan() -> String {
    std::env::var("RATTAN").unwrap_or_else(|_| "rattan".into())
}

/// Bytes a second that the host reads of a stream out of `peer`.
pub(crate) fn measure(
    peer: Peer,
    faults: Faults,
    congestion: Congestion,
    span: Duration,
) -> Result<f64, String> {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    setsockopt(&listener, sockopt::RcvBufForce, &BUFFER).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut command, host) = peer.command(faults);
    let this = std::env::current_exe().unwrap();
    let seconds = span.as_secs_f64() * (1.0 + WARM_UP) + 1.0;
    let script = format!(
        "exec '{}' --stream ${host}:{port} --congestion {} --seconds {seconds}",
        this.display(),
        congestion.name()
    );
    command.args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Inside(command.spawn().map_err(|error| error.to_string())?);
    let mut stream = child.accept(&listener)?;
    let read = AtomicU64::new(0);
    let rate = std::thread::scope(|scope| {
        let meter = scope.spawn(|| meter(&read, span));
        let mut buffer = vec![0; 1 << 18];
        while !meter.is_finished() {
            match stream.read(&mut buffer) {
                Ok(length @ 1..) => read.fetch_add(length as u64, Ordering::Relaxed),
                Ok(_) | Err(_) => break,
            };
        }
        meter.join().unwrap()
    });
    Ok(rate)
}

/// A peer that runs; ended with this.
struct Inside(Child);

impl Inside {
    fn accept(&mut self, listener: &TcpListener) -> Result<TcpStream, String> {
        listener.set_nonblocking(true).unwrap();
        let deadline = Deadline::after(PATIENCE);
        while deadline.left().is_some() {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return Ok(stream);
            }
            if let Some(status) = self.0.try_wait().unwrap() {
                return Err(format!("ended with {status} before its stream began"));
            }
            faultwire::lab::clock::pause(Duration::from_millis(5));
        }
        Err("no stream came".into())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The client inside ends by itself, its peer gone; then so does the program around it, or it is made to.
        let deadline = Deadline::after(PATIENCE);
        while deadline.left().is_some() {
            if self.0.try_wait().unwrap().is_some() {
                return;
            }
            faultwire::lab::clock::pause(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command inside: one stream to `to` for that long, or until the other side has had enough.
pub(crate) fn stream(to: SocketAddr, congestion: Congestion, seconds: f64) {
    let mut stream = TcpStream::connect(to).unwrap();
    congestion.set(&stream);
    // Only root may have that much; without, the kernel's own tuning does what it can.
    let _ = setsockopt(&stream, sockopt::SndBufForce, &BUFFER);
    let data = vec![0x5a; 1 << 18];
    let deadline = Deadline::after(Duration::from_secs_f64(seconds));
    while deadline.left().is_some() && stream.write_all(&data).is_ok() {}
}
