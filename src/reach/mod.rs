//! A way out of a namespace through the host's own sockets.
//!
//! Beside the command's namespace there is a second one, in which every address is local
//! ([`crate::net::transparent`]). All connections, datagrams and pings of the command end there. For each connection,
//! each pair of datagram addresses and each ping, a thread of the host opens a socket to the wanted destination and
//! relays the data in both directions. The host's settings are not changed, and everything ends with the process.
//!
//! - `tcp`, `udp`, `ping`: the relays.
//! - `socket`: sockets with the addresses of others.

mod ping;
mod socket;
mod tcp;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use crate::net::{NetError, Netns, sysctl, transparent};
use crate::reach::ping::Pings;
use crate::reach::udp::Datagrams;

/// Why there is no way out of the namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReachError {
    /// The namespace could not be set up.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A socket or a thread could not be made.
    #[error("cannot relay to the host's networks: {0}")]
    Io(#[from] io::Error),
}

/// Descriptors that the rest of the process needs.
const RESERVE: u64 = 192;
/// Maximum number of connections, of flows of datagrams and of pings at a time, however many descriptors there are.
const MOST: u64 = 4_096;

/// How many connections, flows of datagrams and pings (each) a process with this limit of descriptors may have at a
/// time. Each needs two descriptors.
fn room(limit: u64) -> usize {
    (limit.saturating_sub(RESERVE) / 6).clamp(8, MOST) as usize
}

/// Where connections go.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// Addresses that stand for the host itself: traffic to them goes to the host's loopback address.
    pub host: Vec<IpAddr>,
    /// Traffic to port 53 of the host goes to this address, if it is set.
    pub resolver: Option<SocketAddr>,
}

impl Ways {
    /// The address and port in the host's networks to which `wanted` leads.
    pub fn target(&self, wanted: SocketAddr) -> SocketAddr {
        if !self.host.contains(&wanted.ip()) {
            return wanted;
        }
        match self.resolver {
            Some(resolver) if wanted.port() == 53 => resolver,
            _ => SocketAddr::new(loopback(wanted.ip()), wanted.port()),
        }
    }
}

const fn loopback(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// A running relay. When it is dropped, its connections are reset.
#[derive(Debug)]
pub struct Reach {
    netns: Netns,
    /// Connections on which data of the command has not been passed on completely.
    unsent: Arc<AtomicUsize>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    answers_pings: bool,
}

impl Reach {
    /// Relays the traffic that comes into `netns` to the networks of the calling thread's namespace. `files` is the
    /// number of descriptors that this whole process may have.
    ///
    /// # Errors
    /// If the namespace, a socket or the thread cannot be made.
    pub fn start(netns: &Netns, ways: Ways, files: u64) -> Result<Self, ReachError> {
        for key in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            // An answer must come from the address to which the request went.
            sysctl::write(netns, key, "1")?;
        }
        let (listeners, first) = netns.run(socket::listeners)??;
        transparent::take_all(netns, first)?;
        let room = room(files);
        let (unsent, ways) = (Arc::new(AtomicUsize::new(0)), Arc::new(ways));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let datagrams = Arc::new(Datagrams::new(netns.clone(), Arc::clone(&ways), room));
        let udp =
            listeners.udp.into_iter().map(tokio::net::UdpSocket::from_std).collect::<io::Result<Vec<_>>>()?;
        let tcp = listeners
            .tcp
            .into_iter()
            .map(tokio::net::TcpListener::from_std)
            .collect::<io::Result<Vec<_>>>()?;
        let pings = Pings::new(netns, &ways, room)?;
        let answers_pings = pings.is_some();
        drop(guard);
        let (end, ends) = oneshot::channel();
        let counted = Arc::clone(&unsent);
        let free = Arc::new(Semaphore::new(room));
        let work = async move {
            let udp: Vec<_> = udp.into_iter().map(Arc::new).collect();
            for listener in tcp {
                tokio::spawn(tcp::accept(
                    listener,
                    Arc::clone(&ways),
                    Arc::clone(&counted),
                    Arc::clone(&free),
                ));
            }
            for listener in &udp {
                tokio::spawn(Arc::clone(&datagrams).take(Arc::clone(listener)));
            }
            if let Some(pings) = pings {
                pings.take();
            }
            // If the owner is gone, the relay ends too.
            let _ = ends.await;
            datagrams.drain(&udp);
        };
        let thread =
            std::thread::Builder::new().name("reach".into()).spawn(move || runtime.block_on(work))?;
        Ok(Self { netns: netns.clone(), unsent, end: Some(end), thread: Some(thread), answers_pings })
    }

    /// Whether data that the relay has received from the command has not been passed on yet.
    pub fn is_busy(&self) -> bool {
        self.unsent.load(Ordering::Acquire) > 0
    }

    /// The namespace in which the relay listens.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Whether this user may open sockets for pings on the host.
    pub const fn answers_pings(&self) -> bool {
        self.answers_pings
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_descriptors_for_all_that_is_under_way() {
        for (limit, each) in [(0, 8), (256, 10), (1_024, 138), (u64::MAX, 4_096)] {
            assert_eq!(room(limit), each, "{limit}");
            assert!(limit < 256 || 6 * each as u64 + RESERVE <= limit);
        }
    }

    #[test]
    fn the_host_s_own_address_leads_to_its_loopback_and_its_resolver() {
        let ways = Ways {
            host: vec!["198.18.0.2".parse().unwrap(), "fd66::2".parse().unwrap()],
            resolver: Some("127.0.0.53:53".parse().unwrap()),
        };
        for (wanted, target) in [
            ("198.18.0.2:80", "127.0.0.1:80"),
            ("[fd66::2]:80", "[::1]:80"),
            ("198.18.0.2:53", "127.0.0.53:53"),
            ("192.0.2.1:53", "192.0.2.1:53"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            assert_eq!(ways.target(wanted.parse().unwrap()), target.parse().unwrap(), "{wanted}");
        }
        let plain = Ways { resolver: None, ..ways };
        assert_eq!(plain.target("198.18.0.2:53".parse().unwrap()), "127.0.0.1:53".parse().unwrap());
    }
}
