//! TCP sockets of a namespace: by `sock_diag`, or from `/proc/net/tcp` and `tcp6` where the kernel has no `sock_diag`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::lab::observe::{PROC_NET, sock_diag};
use crate::lab::value::{Facts, Value};

/// States by the kernel's number, from 1.
const STATES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// One TCP socket as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address; IPv4 in IPv6 notation is shown as IPv4.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// The kernel's name of its state.
    pub state: &'static str,
    /// Bytes sent and not acknowledged.
    pub send_queue: u32,
    /// Bytes received and not read; for a listener, connections not accepted.
    pub receive_queue: u32,
    /// For a listener, the backlog: one more than this may wait. Unknown without `sock_diag`.
    pub accept_limit: Option<u32>,
}

/// The kernel's name of a state by its number.
pub(super) fn state_name(number: usize) -> Option<&'static str> {
    STATES.get(number.checked_sub(1)?).copied()
}

/// The TCP sockets of the calling thread's namespace, IPv4 and IPv6.
///
/// # Errors
/// Those of reading `/proc`, where there is no `sock_diag`.
pub fn tcp_sockets() -> io::Result<Vec<TcpSocket>> {
    sock_diag::tcp_sockets().or_else(|_| from_proc())
}

impl TcpSocket {
    /// Whether its owner has closed it while its last bytes or its FIN are not acknowledged: the kernel still sends
    /// for it.
    pub fn is_closing(&self) -> bool {
        ["FIN_WAIT1", "CLOSING", "LAST_ACK"].contains(&self.state)
    }
}

fn from_proc() -> io::Result<Vec<TcpSocket>> {
    let mut all = Vec::new();
    for file in ["tcp", "tcp6"] {
        match std::fs::read_to_string(Path::new(PROC_NET).join(file)) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(parse_line)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// How many sockets are in each state, every state named; the connections waiting at all listeners (`backlog`), and at
/// each of them (`listen.PORT.waiting`) with its limit (`listen.PORT.limit`).
pub fn by_state(sockets: &[TcpSocket]) -> Facts {
    let count = |state| sockets.iter().filter(|socket| socket.state == state).count() as u64;
    let waiting = sockets
        .iter()
        .filter(|socket| socket.state == "LISTEN")
        .map(|socket| u64::from(socket.receive_queue));
    let mut facts: Facts =
        STATES.iter().map(|&state| (state.to_owned(), Value::Count(count(state)))).collect();
    facts.push(("backlog".to_owned(), Value::Count(waiting.sum())));
    for socket in sockets.iter().filter(|socket| socket.state == "LISTEN") {
        let name = |what: &str| format!("listen.{}.{what}", socket.local.port());
        facts.push((name("waiting"), Value::Count(socket.receive_queue.into())));
        facts.extend(socket.accept_limit.map(|limit| (name("limit"), Value::Count(limit.into()))));
    }
    facts
}

/// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 ...`
fn parse_line(line: &str) -> Option<TcpSocket> {
    let mut words = line.split_whitespace().skip(1);
    let local = parse_address(words.next()?)?;
    let remote = parse_address(words.next()?)?;
    let state = usize::from_str_radix(words.next()?, 16).ok()?;
    let (send, receive) = words.next()?.split_once(':')?;
    Some(TcpSocket {
        local,
        remote,
        state: state_name(state)?,
        send_queue: u32::from_str_radix(send, 16).ok()?,
        receive_queue: u32::from_str_radix(receive, 16).ok()?,
        accept_limit: None,
    })
}

/// The address is printed as 32-bit words in host order, each holding network-order bytes.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line =
            "   1: 0100007F:1F90 0200007F:C350 01 00000010:0000004B 00:00000000 00000000     0        0 1 1";
        let socket = parse_line(line).unwrap();
        assert_eq!(socket.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(socket.remote, "127.0.0.2:50000".parse().unwrap());
        assert_eq!((socket.state, socket.send_queue, socket.receive_queue), ("ESTABLISHED", 16, 75));
    }

    #[test]
    fn mapped_ipv4_reads_as_ipv4() {
        let text = "0000000000000000FFFF00000100007F:0050";
        assert_eq!(parse_address(text), Some("127.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_connection_of_ours_is_listed_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for sockets in [tcp_sockets().unwrap(), from_proc().unwrap()] {
            for (local, remote) in [
                (client.local_addr().unwrap(), server.local_addr().unwrap()),
                (server.local_addr().unwrap(), client.local_addr().unwrap()),
            ] {
                let socket =
                    sockets.iter().find(|socket| socket.local == local && socket.remote == remote).unwrap();
                assert_eq!(socket.state, "ESTABLISHED");
            }
        }
    }
}
