//! The link of a proxy: two namespaces, and a router with one worker between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::device::tun::{Offload, Tun, TunOptions};
use crate::device::{DeviceError, Queue};
use crate::engine::{Engine, EngineError, EngineOptions, Port};
use crate::net::defaults::{CONGESTION_CONTROL, Refused};
use crate::net::{LinkSetup, NetError, Netns, link};
use crate::pipeline::params::{IcmpParams, Identity, PathParams, PortParams, RouterParams, StageParams};
use crate::pipeline::router::{Change, ChangeError, Router};
use crate::toxiproxy::class;
use crate::toxiproxy::stages::MARK;

/// The address of the far end.
const FAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 1);
/// MTU of the link.
const MTU: u32 = 1500;
/// Packets that a device's queue holds.
const QUEUE: u32 = 1000;
/// Flows that the router remembers.
const FLOWS: usize = 16_384;

/// Why a link cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("no socket at the far end of the link: {0}")]
    Socket(#[from] std::io::Error),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the router of the link has ended")]
    Ended,
}

/// A link. All of it is removed when it is dropped, and when the process ends in any way.
#[derive(Debug)]
pub(super) struct Link {
    // Dropped in this order: the worker, which holds the devices, then the namespaces.
    engine: Engine,
    near: Netns,
    _far: Netns,
    /// The current parameters of the router.
    params: Mutex<RouterParams>,
}

impl Link {
    /// Creates a link with these stages in each direction, and a listener at its far end.
    pub(super) fn start(seed: u64, stages: [Vec<StageParams>; 2]) -> Result<(Self, TcpListener), LinkError> {
        let (near, near_queue) = end("near", &[])?;
        // The whole prefix of an address of the loopback device is local.
        let local = LinkSetup {
            mtu: 65_536,
            tx_queue_len: None,
            addresses: vec![class::PREFIX.into()],
            routes: Vec::new(),
        };
        link::configure(&near, "lo", &local)?;
        let (far, far_queue) = end("far", &[FAR.ip().into()])?;
        let params = params(seed, stages);
        let ports = vec![Port::Routed(near_queue), Port::Routed(far_queue)];
        let options = EngineOptions::default();
        let engine = Engine::start(&params, vec![ports], &options)?;
        let listener = far.run(|| listener(FAR))??;
        Ok((Self { engine, near, _far: far, params: Mutex::new(params) }, listener))
    }

    /// Replaces the stages. Packets that the old stages held leave at once.
    pub(super) fn replace(&self, stages: [Vec<StageParams>; 2]) -> Result<(), LinkError> {
        let mut params = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = params.clone();
        for (path, stages) in new.paths.iter_mut().zip(stages) {
            path.set_stages(stages);
        }
        let change = Change::new(&params, &new, &Router::shared(&new))?;
        self.engine.workers().replace(vec![change]).map_err(|_| LinkError::Ended)?;
        *params = new;
        Ok(())
    }

    /// A socket at the near end, bound to the address of `class`, and the address to which it must connect.
    pub(super) fn socket(&self, class: u16) -> Result<(TcpStream, SocketAddr), LinkError> {
        let bound = || {
            let socket = socket_of(FAR)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(class::address(class), 0)))?;
            Ok::<_, std::io::Error>(socket)
        };
        Ok((self.near.run(bound)??.into(), FAR))
    }
}

/// Marks the packets of this socket: from now on toxics act on them.
pub(super) fn mark(socket: &impl std::os::fd::AsFd) -> std::io::Result<()> {
    Ok(setsockopt(socket, sockopt::Ipv4Tos, &(i32::from(MARK) << 2))?)
}

fn socket_of(address: SocketAddr) -> std::io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?)
}

fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket_of(address)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// A namespace with a device that leads to the router.
fn end(name: &str, addresses: &[IpNet]) -> Result<(Netns, Queue), LinkError> {
    let netns = Netns::anonymous()?;
    let is_refused = netns.refused().iter().any(Refused::is_congestion_control);
    let netns = if is_refused { netns.with_congestion_control(CONGESTION_CONTROL) } else { netns };
    let options = TunOptions { name, netns: &netns, queues: 1, offload: Offload::Tso };
    let (mut queues, _) = Tun::open(&options)?;
    let setup = LinkSetup {
        mtu: MTU,
        tx_queue_len: Some(QUEUE),
        addresses: addresses.to_vec(),
        routes: vec![IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)],
    };
    link::configure(&netns, name, &setup)?;
    Ok((netns, queues.remove(0)))
}

fn params(seed: u64, [up, down]: [Vec<StageParams>; 2]) -> RouterParams {
    let port = |name: &str, prefix: IpNet| PortParams {
        name: name.to_owned(),
        mtu: MTU,
        addresses: vec![prefix],
        router: Vec::new(),
    };
    RouterParams {
        seed,
        flows: FLOWS,
        identity: Identity::Service,
        icmp: IcmpParams::default(),
        ports: vec![port("near", class::PREFIX.into()), port("far", FAR.ip().into())],
        routes: Vec::new(),
        paths: vec![PathParams::new(0, 1, up), PathParams::new(1, 0, down)],
        nats: Vec::new(),
    }
}
