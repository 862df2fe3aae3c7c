//! Pings: the host sends the echo requests of ICMP and ICMPv6 again, and their replies are passed back.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    SockaddrStorage, connect, recv, recvmsg, send, sendmsg, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::net::Netns;
use crate::pipeline::wire::checksum;
use crate::reach::socket::{family, may_have_any_address};
use crate::reach::{ReachError, Ways};

/// Replies that take longer are not passed back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Type, code and checksum, before the identifier and the number.
const HEADER: usize = 4;
/// Request and reply of ICMP and of ICMPv6.
const ECHO: [[u8; 2]; 2] = [[8, 0], [128, 129]];

/// The sender, the destination and the identifier of a request.
type Asked = (IpAddr, IpAddr, u16);

/// All pings.
#[derive(Debug)]
pub(super) struct Pings {
    near: [Arc<UdpSocket>; 2],
    relay: Arc<Relay>,
}

#[derive(Debug)]
struct Relay {
    ways: Arc<Ways>,
    flows: Mutex<HashMap<Asked, Arc<Far>>>,
    /// Maximum number of pings under way, each with a socket of its own; further ones are dropped.
    most: usize,
}

/// The host's socket for one pinging process and its destination.
#[derive(Debug)]
struct Far {
    socket: UdpSocket,
    /// The identifier on the host's side, if the kernel does not choose one.
    id: Option<u16>,
}

impl Pings {
    /// Opens the sockets that receive pings in `netns`; `None` if this user may not send pings on the host.
    pub(super) fn new(netns: &Netns, ways: &Arc<Ways>, most: usize) -> Result<Option<Self>, ReachError> {
        if open_far(Ipv4Addr::LOCALHOST.into()).is_err() {
            return Ok(None);
        }
        let [v4, v6] = netns.run(|| Ok::<_, io::Error>([near(true)?, near(false)?]))??;
        let near = [Arc::new(waited_for(v4)?), Arc::new(waited_for(v6)?)];
        let relay = Arc::new(Relay { ways: Arc::clone(ways), flows: Mutex::default(), most });
        Ok(Some(Self { near, relay }))
    }

    /// Accepts pings until the task is ended.
    pub(super) fn take(self) {
        for near in self.near {
            tokio::spawn(Arc::clone(&self.relay).requests(near));
        }
    }
}

impl Relay {
    async fn requests(self: Arc<Self>, near: Arc<UdpSocket>) {
        let mut buffer = vec![0; 65_535];
        while near.readable().await.is_ok() {
            let heard = near.try_io(Interest::READABLE, || request(&near, &mut buffer));
            let Ok(Some((client, wanted, length))) = heard else { continue };
            let message = &mut buffer[..length];
            let asked = (client, wanted, u16::from_be_bytes([message[HEADER], message[HEADER + 1]]));
            // A request that cannot be sent gets no reply.
            if let Ok(far) = self.far(asked, &near) {
                seal(message, client.is_ipv4(), 0, far.id.unwrap_or(asked.2));
                let _ = send(far.socket.as_raw_fd(), message, MsgFlags::empty());
            }
        }
    }

    /// The socket for a ping, opened if it is the first of its process.
    fn far(self: &Arc<Self>, asked: Asked, near: &Arc<UdpSocket>) -> io::Result<Arc<Far>> {
        let mut flows = self.flows();
        if let Some(far) = flows.get(&asked) {
            return Ok(Arc::clone(far));
        }
        if flows.len() >= self.most {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (_, wanted, id) = asked;
        let target = self.ways.target(SocketAddr::new(wanted, 0));
        let (socket, is_raw) = open_far(target.ip())?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
        // Most probably different from the identifier of the host's own pings.
        let far = Far { socket: waited_for(socket)?, id: is_raw.then_some(id ^ 0x5555) };
        let far = Arc::new(far);
        flows.insert(asked, Arc::clone(&far));
        tokio::spawn(Arc::clone(self).replies(asked, Arc::clone(&far), Arc::clone(near)));
        Ok(far)
    }

    /// Passes the replies back to the sender, until no more come.
    async fn replies(self: Arc<Self>, asked: Asked, far: Arc<Far>, near: Arc<UdpSocket>) {
        let (client, wanted, id) = asked;
        let mut buffer = vec![0; 65_535];
        while let Ok(Ok(())) = timeout(PATIENCE, far.socket.readable()).await {
            let take = || Ok(recv(far.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?);
            let Ok(length) = far.socket.try_io(Interest::READABLE, take) else { continue };
            if let Some(reply) = reply(&mut buffer[..length], client.is_ipv4(), far.id) {
                seal(reply, client.is_ipv4(), 1, id);
                let _ = answer(&near, reply, wanted, client);
            }
        }
        self.flows().remove(&asked);
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Asked, Arc<Far>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's socket for one pinging process; true if it is a raw socket. Ordinary users get the other kind, if
/// `net.ipv4.ping_group_range` includes one of their groups.
fn open_far(to: IpAddr) -> io::Result<(OwnedFd, bool)> {
    match icmp(to.is_ipv4(), SockType::Raw) {
        Err(Errno::EPERM | Errno::EACCES) => Ok((icmp(to.is_ipv4(), SockType::Datagram)?, false)),
        opened => Ok((opened?, true)),
    }
}

/// Registers an ICMP socket with tokio as a `UdpSocket`, which works because both carry datagrams.
fn waited_for(socket: OwnedFd) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

/// A socket that receives all pings of its namespace, with their destination addresses.
fn near(is_v4: bool) -> io::Result<OwnedFd> {
    let socket = icmp(is_v4, SockType::Raw)?;
    if is_v4 {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        may_have_any_address(&socket)?;
    }
    Ok(socket)
}

fn icmp(is_v4: bool, kind: SockType) -> nix::Result<OwnedFd> {
    let protocol = if is_v4 { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let any = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket(family(any), kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)
}

/// An echo request at the front of `buffer`: its sender, its destination, and its length; `None` if it is something
/// else.
fn request(near: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(IpAddr, IpAddr, usize)>> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let got =
        recvmsg::<SockaddrStorage>(near.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let client = got.address.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let wanted = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(to) => Some(IpAddr::from(to.ipi_addr.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(to) => Some(IpAddr::from(to.ipi6_addr.s6_addr)),
        _ => None,
    });
    let length = got.bytes;
    let Some((client, wanted)) = client.zip(wanted) else { return Ok(None) };
    let from = headers(&buffer[..length], client.is_ipv4());
    buffer.copy_within(from..length, 0);
    let message = &buffer[..length - from];
    let is_echo = message.len() >= HEADER + 4 && message[0] == ECHO[usize::from(client.is_ipv6())][0];
    Ok(is_echo.then_some((client, wanted, message.len())))
}

/// Length of the IP header, which raw IPv4 sockets also return.
fn headers(bytes: &[u8], is_v4: bool) -> usize {
    let length = bytes.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    if is_v4 { length.min(bytes.len()) } else { 0 }
}

/// The echo reply in a message from the host's socket, if it is ours; `id` is the identifier of a raw socket.
fn reply(bytes: &mut [u8], is_v4: bool, id: Option<u16>) -> Option<&mut [u8]> {
    let from = if id.is_some() { headers(bytes, is_v4) } else { 0 };
    let message = &mut bytes[from..];
    let is_reply = message.len() >= HEADER + 4 && message[0] == ECHO[usize::from(!is_v4)][1];
    let is_ours = is_reply && id.is_none_or(|id| message[HEADER..HEADER + 2] == id.to_be_bytes());
    is_ours.then_some(message)
}

/// Makes it a request (0) or a reply (1) with this identifier. The kernel computes the checksum of ICMPv6.
fn seal(message: &mut [u8], is_v4: bool, kind: usize, id: u16) {
    message[0] = ECHO[usize::from(!is_v4)][kind];
    message[2..4].fill(0);
    message[HEADER..HEADER + 2].copy_from_slice(&id.to_be_bytes());
    if is_v4 {
        let sum = !checksum::sum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Sends a reply to `client` that comes from `wanted`.
fn answer(near: &UdpSocket, reply: &[u8], wanted: IpAddr, client: IpAddr) -> io::Result<()> {
    let parts = [IoSlice::new(reply)];
    let to = SockaddrStorage::from(SocketAddr::new(client, 0));
    let send_with = |message: ControlMessage<'_>| {
        sendmsg(near.as_raw_fd(), &parts, &[message], MsgFlags::empty(), Some(&to)).map(drop)
    };
    match wanted {
        IpAddr::V4(own) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(own.octets()) };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send_with(ControlMessage::Ipv4PacketInfo(&info))?;
        }
        IpAddr::V6(own) => {
            let address: libc::sockaddr_in6 =
                *SockaddrIn6::from(std::net::SocketAddrV6::new(own, 0, 0, 0)).as_ref();
            let info = libc::in6_pktinfo { ipi6_addr: address.sin6_addr, ipi6_ifindex: 0 };
            send_with(ControlMessage::Ipv6PacketInfo(&info))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_ours_by_its_type_and_identifier() {
        let mut bare = [0, 0, 0, 0, 0x12, 0x34, 0, 1, 9];
        assert!(reply(&mut bare, true, None).is_some());
        let mut with_header = [&[0x45][..], &[0; 19], &bare].concat();
        assert_eq!(reply(&mut with_header, true, Some(0x1234)).map(|reply| reply.len()), Some(9));
        assert!(reply(&mut with_header, true, Some(0x1235)).is_none());
        assert!(reply(&mut bare, false, None).is_none(), "0 is no reply of ICMPv6");
        assert!(reply(&mut bare[..7], true, None).is_none());
    }

    #[test]
    fn a_sealed_message_of_icmp_has_a_right_checksum() {
        let mut message = [8, 0, 1, 2, 3, 4, 0, 1, 9, 9, 9];
        seal(&mut message, true, 1, 0xabcd);
        assert_eq!((message[0], &message[4..6]), (0, &[0xab, 0xcd][..]));
        assert_eq!(checksum::sum(&message), 0xffff);
    }
}
