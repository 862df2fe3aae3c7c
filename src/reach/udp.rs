//! Relays datagrams: a pair of sockets for each pair of addresses.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recv, recvmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::net::Netns;
use crate::reach::{Ways, socket};

/// A flow without datagrams for this long is forgotten (RFC 4787 section 4.3 requires at least two minutes).
const IDLE: Duration = Duration::from_mins(2);
/// The same for queries to nameservers, each of which has a socket and one answer (section 4.3 allows less for
/// well-known ports).
const IDLE_NAMES: Duration = Duration::from_secs(15);
/// The port of nameservers.
const NAMES: u16 = 53;
/// Maximum number of datagrams that are passed on after the command has ended: processes that it left behind may
/// continue to send.
const LAST: usize = 10_000;
/// The largest datagram.
const LARGEST: usize = 65_535;

/// The command's address, and the destination that it wanted.
type Pair = (SocketAddr, SocketAddr);

/// One pair of addresses.
#[derive(Debug)]
struct Flow {
    /// The socket towards the command.
    near: UdpSocket,
    /// The socket towards the destination.
    far: UdpSocket,
    /// When the last datagram came.
    heard: Mutex<Instant>,
    /// Notified when another flow has taken the place of this one.
    gone: Notify,
}

/// All flows.
#[derive(Debug)]
pub(super) struct Datagrams {
    netns: Netns,
    ways: Arc<Ways>,
    flows: Mutex<HashMap<Pair, Arc<Flow>>>,
    /// Maximum number of flows; after that, a new flow replaces the one that was idle longest.
    most: usize,
    /// Buffer for the datagram that is being passed on.
    buffer: Mutex<Vec<u8>>,
}

impl Datagrams {
    pub(super) fn new(netns: Netns, ways: Arc<Ways>, most: usize) -> Self {
        Self { netns, ways, flows: Mutex::default(), most, buffer: Mutex::new(vec![0; LARGEST]) }
    }

    /// Accepts the first datagrams of flows until the task is ended.
    pub(super) async fn take(self: Arc<Self>, listener: Arc<UdpSocket>) {
        loop {
            let ready = listener.readable().await;
            let took = ready.and_then(|()| listener.try_io(Interest::READABLE, || self.first(&listener)));
            match took {
                Ok(Some((pair, flow))) => drop(tokio::spawn(Arc::clone(&self).carry(pair, flow))),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Too many files are open, for example. The datagram is lost, as datagrams may be.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Takes one datagram from the listener and passes it on. Returns the flow, if it is a new one.
    fn first(&self, listener: &UdpSocket) -> io::Result<Option<(Pair, Arc<Flow>)>> {
        let mut buffer = lock(&self.buffer);
        let (length, pair) = receive(listener, &mut buffer)?;
        let known = lock(&self.flows).get(&pair).cloned();
        let flow = known.clone().map_or_else(|| self.open(pair), Ok)?;
        *lock(&flow.heard) = Instant::now();
        // A datagram that cannot be sent is lost.
        let _ = nix::sys::socket::send(flow.far.as_raw_fd(), &buffer[..length], MsgFlags::empty());
        Ok(known.is_none().then_some((pair, flow)))
    }

    fn open(&self, pair: Pair) -> io::Result<Arc<Flow>> {
        let (client, wanted) = pair;
        let near = self.netns.run(|| socket::udp_between(wanted, client)).map_err(io::Error::other)??;
        let target = self.ways.target(wanted);
        let any = match target.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let far = std::net::UdpSocket::bind((any, 0))?;
        far.connect(target)?;
        far.set_nonblocking(true)?;
        let flow = Flow {
            near: UdpSocket::from_std(near)?,
            far: UdpSocket::from_std(far)?,
            heard: Mutex::new(Instant::now()),
            gone: Notify::new(),
        };
        let flow = Arc::new(flow);
        let mut flows = lock(&self.flows);
        if flows.len() >= self.most {
            let oldest = flows.iter().min_by_key(|(_, flow)| *lock(&flow.heard)).map(|(pair, _)| *pair);
            if let Some(oldest) = oldest.and_then(|pair| flows.remove(&pair)) {
                oldest.gone.notify_one();
            }
        }
        flows.insert(pair, Arc::clone(&flow));
        Ok(flow)
    }

    /// Relays the datagrams of a flow in both directions until it is idle or has been replaced.
    async fn carry(self: Arc<Self>, pair: Pair, flow: Arc<Flow>) {
        let idle = if pair.1.port() == NAMES { IDLE_NAMES } else { IDLE };
        loop {
            let until = *lock(&flow.heard) + idle;
            let comes = async {
                tokio::select! {
                    () = flow.gone.notified() => None,
                    ready = flow.near.readable() => ready.ok().map(|()| (&flow.near, &flow.far)),
                    ready = flow.far.readable() => ready.ok().map(|()| (&flow.far, &flow.near)),
                }
            };
            match timeout_at(until, comes).await {
                Ok(Some((from, to))) => {
                    self.pass(from, to);
                    *lock(&flow.heard) = Instant::now();
                }
                Ok(None) => break,
                Err(_) if *lock(&flow.heard) + idle <= Instant::now() => break,
                Err(_) => {}
            }
        }
        let mut flows = lock(&self.flows);
        // Does not remove a new flow that has taken its place.
        if flows.get(&pair).is_some_and(|kept| Arc::ptr_eq(kept, &flow)) {
            flows.remove(&pair);
        }
    }

    /// Passes on one datagram, if there is one. Errors that the network reports (a closed port) do not end the flow.
    fn pass(&self, from: &UdpSocket, to: &UdpSocket) {
        let mut buffer = lock(&self.buffer);
        let took = from.try_recv(&mut buffer);
        if let Ok(length) = took {
            let _ = nix::sys::socket::send(to.as_raw_fd(), &buffer[..length], MsgFlags::empty());
        }
    }

    /// Passes on the datagrams that the command has sent and that still wait.
    pub(super) fn drain(&self, listeners: &[Arc<UdpSocket>]) {
        let is_empty = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        for listener in listeners {
            // A datagram that cannot be passed on is lost; later ones are still passed on.
            (0..LAST).map(|_| self.first(listener)).find(|took| took.as_ref().is_err_and(is_empty));
        }
        for flow in lock(&self.flows).values() {
            let mut buffer = lock(&self.buffer);
            for _ in 0..LAST {
                let Ok(length) = recv(flow.near.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { break };
                let _ = nix::sys::socket::send(flow.far.as_raw_fd(), &buffer[..length], MsgFlags::empty());
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives a datagram, with its sender and destination.
fn receive(listener: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Pair)> {
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let got =
        recvmsg::<SockaddrStorage>(listener.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let from = got.address.as_ref().and_then(address);
    let wanted = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::V4(SockaddrIn::from(to).into())),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => Some(SocketAddr::V6(SockaddrIn6::from(to).into())),
        _ => None,
    });
    let pair = from.zip(wanted).ok_or(io::ErrorKind::InvalidData)?;
    Ok((got.bytes, pair))
}

fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = of.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| of.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
