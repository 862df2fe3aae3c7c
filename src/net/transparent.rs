//! A namespace that accepts every connection: one listener gets it, whatever address and port it is for.
//!
//! Two settings of the namespace do this. Routes make every address local. An nftables rule (`tproxy`) passes TCP and
//! UDP of every port to the listeners on one port; accepted sockets keep the address and port that the peer wanted.
//! Both settings end with the namespace and affect no other one. They may only be applied to namespaces that
//! faultwire created.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::net::error::NetError;
use crate::net::link;
use crate::net::netns::Netns;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NFNL_SUBSYS_NFTABLES`, above the number of a message.
const NFTABLES: u16 = 10 << 8;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH: [u16; 2] = [16, 17];
/// `NFPROTO_INET`: both families.
const INET: u8 = 1;
/// Marks an attribute that has attributes.
const NESTED: u16 = 1 << 15;
/// The name of the table and of its chain.
const NAME: &[u8] = b"faultwire\0";
/// The hook for incoming packets, and the priority behind connection tracking (`NF_IP_PRI_MANGLE`).
const PREROUTING: u32 = 0;
const MANGLE: i32 = -150;
/// `NFT_META_L4PROTO`.
const PROTOCOL: u32 = 16;
/// `NFT_REG_1` and `NFT_REG_2`.
const REGISTERS: [u32; 2] = [1, 2];

/// Makes every address local, and passes all incoming TCP and UDP to the listeners on `port`. These need
/// `IP_TRANSPARENT`.
///
/// # Errors
/// If a route or the rule is refused, for example because the kernel has no nftables `tproxy`.
pub fn take_all(netns: &Netns, port: u16) -> Result<(), NetError> {
    link::make_all_local(netns)?;
    let refused = |source| NetError::Netlink {
        action: "hand all connections to one listener (it needs nftables with tproxy: CONFIG_NFT_TPROXY)"
            .to_owned(),
        netns: netns.label().to_owned(),
        source,
    };
    netns.run(|| commit(&rules(port)))?.map_err(refused)
}

/// The whole change, as one transaction: a table, a chain, and a rule for each protocol.
fn rules(port: u16) -> Vec<u8> {
    let name = |kind| attribute(kind, NAME);
    let hook = [attribute(1, &PREROUTING.to_be_bytes()), attribute(2, &MANGLE.to_be_bytes())].concat();
    let chain = [name(1), name(3), attribute(4 | NESTED, &hook), attribute(7, b"filter\0")].concat();
    let mut all = message(BATCH[0], 0, 0, &[]);
    all.extend(message(NFTABLES, INET, libc::NLM_F_CREATE, &name(1)));
    all.extend(message(NFTABLES | 3, INET, libc::NLM_F_CREATE, &chain));
    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
        let expressions = attribute(4 | NESTED, &hand_over(protocol as u8, port));
        let rule = [name(1), name(2), expressions].concat();
        all.extend(message(NFTABLES | 6, INET, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &rule));
    }
    all.extend(message(BATCH[1], 0, 0, &[]));
    all
}

/// `meta l4proto PROTOCOL tproxy to :PORT`.
fn hand_over(protocol: u8, port: u16) -> Vec<u8> {
    let [first, second] = REGISTERS.map(u32::to_be_bytes);
    let load = [attribute(1, &first), attribute(2, &PROTOCOL.to_be_bytes())].concat();
    // NFT_CMP_EQ is 0.
    let compare =
        [attribute(1, &first), attribute(2, &[0; 4]), attribute(3 | NESTED, &attribute(1, &[protocol]))]
            .concat();
    let to = attribute(2 | NESTED, &attribute(1, &port.to_be_bytes()));
    let immediate = [attribute(1, &second), to].concat();
    // For both families.
    let proxy = [attribute(1, &[0; 4]), attribute(3, &second)].concat();
    let expression = |name: &[u8], data: &[u8]| {
        attribute(1 | NESTED, &[attribute(1, name), attribute(2 | NESTED, data)].concat())
    };
    [
        expression(b"meta\0", &load),
        expression(b"cmp\0", &compare),
        expression(b"immediate\0", &immediate),
        expression(b"tproxy\0", &proxy),
    ]
    .concat()
}

/// `struct nlattr` and its value, padded to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(4 + value.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr`, `struct nfgenmsg` and attributes. The kernel answers all messages but those that begin and end
/// the transaction.
fn message(kind: u16, family: u8, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let is_frame = BATCH.contains(&kind);
    let flags = libc::NLM_F_REQUEST | flags | if is_frame { 0 } else { libc::NLM_F_ACK };
    let subsystem = if is_frame { NFTABLES >> 8 } else { 0 };
    let mut bytes = Vec::with_capacity(HEADER + 4 + attributes.len());
    bytes.extend(((HEADER + 4 + attributes.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(subsystem.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// Sends a transaction and reads the answers to its four messages.
fn commit(transaction: &[u8]) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    sendto(netlink.as_raw_fd(), transaction, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    for _ in 0..4 {
        answer(&netlink)?;
    }
    Ok(())
}

/// Reads one `NLMSG_ERROR`, whose code is 0 if nothing went wrong.
fn answer(netlink: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let size = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let code =
        buffer[..size].get(HEADER..).and_then(<[u8]>::first_chunk).map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
