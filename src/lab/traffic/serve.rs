//! TCP servers: one answers HTTP/1.1 requests, one reads everything, and one sends everything back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{Backlog, listen};

use crate::lab::clock;
use crate::lab::traffic::facts;
use crate::lab::traffic::pattern::{self, Sum};
use crate::lab::traffic::request::TcpFacts;
use crate::lab::traffic::wait::{Stop, Stopper, Wake, readable, stop_pair, writable};
use crate::lab::value::{Facts, Value};

/// A TCP server that runs until it is stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Serve {
    /// TCP port, on all addresses of the host.
    pub port: u16,
    /// What it does with a connection.
    pub service: Service,
    /// Length of the accept queue.
    pub backlog: u16,
    /// Connections that are served at the same time, others wait to be accepted; `None`: no limit.
    pub workers: Option<u16>,
}

/// What a server does with a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Service {
    /// Reads a request up to its empty line and answers with writes of these sizes in bytes, HTTP header included, each
    /// pushed by itself; then closes.
    Http(Vec<u32>),
    /// Reads until the peer closes.
    Sink,
    /// Sends back what it reads, until the peer closes.
    Echo,
}

/// A server at work.
#[derive(Debug)]
pub struct Server {
    stopper: Stopper,
    thread: JoinHandle<()>,
    tally: Arc<Mutex<Tally>>,
    address: SocketAddr,
}

/// What a server has seen.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Connections accepted.
    pub accepted: u64,
    /// Requests read to their end.
    pub requests: u64,
    /// Bytes that its application has read.
    pub bytes_read: u64,
    /// Bytes that its application has written.
    pub bytes_written: u64,
    /// Connections that ended by an error.
    pub errors: u64,
    /// Sum of the bytes of the last connection.
    pub sum: Sum,
    /// All bytes read by a sink were those of the pattern.
    pub damaged: bool,
    /// When the first and the last byte were read, in [`clock::nanos`].
    pub busy: Option<(u64, u64)>,
    /// The last connection as its kernel saw it.
    pub tcp: Option<TcpFacts>,
}

impl Tally {
    fn took(&mut self, bytes: usize) {
        let now = clock::nanos();
        self.bytes_read += bytes as u64;
        self.busy = Some((self.busy.map_or(now, |(first, _)| first), now));
    }

    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        let mut all = facts([
            ("accepted", self.accepted.into()),
            ("requests", self.requests.into()),
            ("bytes_read", self.bytes_read.into()),
            ("bytes_written", self.bytes_written.into()),
            ("errors", self.errors.into()),
            ("sum", self.sum.hex().into()),
        ]);
        all.extend(self.tcp.iter().flat_map(TcpFacts::facts));
        all
    }

    /// Received bits per second between the first and the last byte.
    pub fn rate(&self) -> f64 {
        match self.busy {
            Some((first, last)) if last > first => self.bytes_read as f64 * 8e9 / (last - first) as f64,
            _ => 0.0,
        }
    }
}

impl Serve {
    /// Listens at once and serves on threads of its own, in the namespace of the calling thread.
    ///
    /// # Errors
    /// The port is taken, or threads or descriptors run out.
    pub fn start(&self) -> io::Result<Server> {
        let listener =
            TcpListener::bind(("::", self.port)).or_else(|_| TcpListener::bind(("0.0.0.0", self.port)))?;
        // Listening again on a listening socket only changes its backlog.
        listen(&listener, Backlog::new(i32::from(self.backlog))?)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stopper, stop) = stop_pair()?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (service, workers, shared) = (self.service.clone(), self.workers, Arc::clone(&tally));
        let thread =
            std::thread::Builder::new().name(format!("serve {}", self.port)).spawn(
                move || match workers {
                    None => accept_loop(&listener, &service, &stop, &shared),
                    Some(workers) => work(workers, &listener, &service, &stop, &shared),
                },
            )?;
        Ok(Server { stopper, thread, tally, address })
    }
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// Closes the listener and all connections, and says what it saw.
    pub fn stop(self) -> Tally {
        drop(self.stopper);
        // A thread that panicked has printed why; what it counted until then still holds.
        let _ = self.thread.join();
        locked(&self.tally).clone()
    }
}

fn locked(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many threads, each with one connection at a time, as servers of a fixed number of workers do.
fn work(workers: u16, listener: &TcpListener, service: &Service, stop: &Stop, tally: &Mutex<Tally>) {
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while matches!(readable(listener, Some(stop), None), Ok(Wake::Ready)) {
                    // Another worker may have been faster.
                    let Ok((stream, _)) = listener.accept() else { continue };
                    locked(tally).accepted += 1;
                    if converse(stream, service, stop, tally).is_err() {
                        locked(tally).errors += 1;
                    }
                }
            });
        }
    });
}

fn accept_loop(listener: &TcpListener, service: &Service, stop: &Stop, tally: &Mutex<Tally>) {
    std::thread::scope(|scope| {
        while matches!(readable(listener, Some(stop), None), Ok(Wake::Ready)) {
            let Ok((stream, _)) = listener.accept() else { continue };
            locked(tally).accepted += 1;
            scope.spawn(move || {
                if converse(stream, service, stop, tally).is_err() {
                    locked(tally).errors += 1;
                }
            });
        }
    });
}

fn converse(mut stream: TcpStream, service: &Service, stop: &Stop, tally: &Mutex<Tally>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let result = match service {
        Service::Http(segments) => answer(&mut stream, segments, stop, tally),
        Service::Sink => drain(&mut stream, stop, tally),
        Service::Echo => echo(&mut stream, stop, tally),
    };
    locked(tally).tcp = TcpFacts::of(&stream).ok();
    result
}

/// Reads one request, writes the answer, then waits for the peer to close.
fn answer(stream: &mut TcpStream, segments: &[u32], stop: &Stop, tally: &Mutex<Tally>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if !take(stream, stop, tally, |data| request.extend_from_slice(data))? {
            return Ok(());
        }
    }
    locked(tally).requests += 1;
    let total: u64 = segments.iter().map(|&size| u64::from(size)).sum();
    let mut content = response(total);
    for &size in segments {
        let rest = content.split_off((size as usize).min(content.len()));
        if !put(stream, &content, stop, tally)? {
            return Ok(());
        }
        content = rest;
    }
    // Taken while the peer still listens: the counts of retransmissions are final only in what `converse` takes.
    locked(tally).tcp = TcpFacts::of(stream).ok();
    stream.shutdown(std::net::Shutdown::Write)?;
    while take(stream, stop, tally, |_| ())? {}
    Ok(())
}

/// A response of `total` bytes, header included; the header alone where `total` is less.
fn response(total: u64) -> Vec<u8> {
    let header = |length: u64| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    };
    // The length of the header depends on the digits of the length of the content.
    let length = (0..=total).rev().find(|&length| header(length).len() as u64 + length <= total).unwrap_or(0);
    let mut content = header(length);
    content.extend(pattern::bytes(0, length as usize));
    content
}

/// Reads all there is until the peer closes.
fn drain(stream: &mut TcpStream, stop: &Stop, tally: &Mutex<Tally>) -> io::Result<()> {
    let (mut sum, mut at, mut damaged) = (Sum::default(), 0, false);
    let result = loop {
        let more = take(stream, stop, tally, |data| {
            sum.update(data);
            damaged |= !pattern::matches(at, data);
            at += data.len() as u64;
        });
        match more {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut tally = locked(tally);
    tally.sum = sum;
    tally.damaged |= damaged;
    result
}

/// Sends everything back until the peer closes.
fn echo(stream: &mut TcpStream, stop: &Stop, tally: &Mutex<Tally>) -> io::Result<()> {
    let mut heard = Vec::new();
    while take(stream, stop, tally, |data| heard.extend_from_slice(data))? {
        if !put(stream, &std::mem::take(&mut heard), stop, tally)? {
            break;
        }
    }
    Ok(())
}

/// Reads once and hands the bytes on; false at the end of the stream or of the step.
fn take(
    stream: &mut TcpStream,
    stop: &Stop,
    tally: &Mutex<Tally>,
    mut eat: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let mut buffer = [0; 16_384];
    if readable(&*stream, Some(stop), None)? != Wake::Ready {
        return Ok(false);
    }
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(size) => {
            locked(tally).took(size);
            eat(&buffer[..size]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes all of `data`; false if the step ended before.
fn put(stream: &mut TcpStream, mut data: &[u8], stop: &Stop, tally: &Mutex<Tally>) -> io::Result<bool> {
    while !data.is_empty() {
        if writable(&*stream, Some(stop), None)? != Wake::Ready {
            return Ok(false);
        }
        match stream.write(data) {
            Ok(size) => {
                locked(tally).bytes_written += size as u64;
                data = &data[size..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a sink reports besides [`Tally::facts`].
pub(crate) fn sink_facts(tally: &Tally) -> Facts {
    let rate = Value::Number(tally.rate() / 1e6);
    let mut all = facts([("received", tally.bytes_read.into()), ("mbit_per_s", rate)]);
    all.extend(facts([("received_sum", tally.sum.hex().into()), ("identical", (!tally.damaged).into())]));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_the_size_asked_for_and_a_true_length() {
        for total in [70, 165, 166, 167, 1_388, 10_081, 100_000] {
            let response = response(total);
            let text = String::from_utf8_lossy(&response);
            let (header, _) = text.split_once("\r\n\r\n").unwrap();
            let length: usize = header.rsplit(' ').next().unwrap().parse().unwrap();
            assert_eq!(header.len() + 4 + length, response.len());
            // One byte may be missing where the number of digits changes.
            assert!((total - 1..=total).contains(&(response.len() as u64)), "{total}: {}", response.len());
        }
    }

    #[test]
    fn who_finds_all_workers_busy_waits_to_be_accepted() {
        let serve = Serve { port: 0, service: Service::Http(vec![200]), backlog: 8, workers: Some(1) };
        let server = serve.start().unwrap();
        let address = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, server.address().port()));
        let idle = TcpStream::connect(address).unwrap();
        while server.tally().accepted == 0 {
            std::thread::yield_now();
        }
        let mut next = TcpStream::connect(address).unwrap();
        next.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((server.tally().accepted, server.tally().requests), (1, 0));
        drop(idle);
        let mut answer = Vec::new();
        next.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 200);
        assert_eq!(server.stop().accepted, 2);
    }
}
