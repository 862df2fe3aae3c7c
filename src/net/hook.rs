//! Programs at the ingress of devices: filters of the kind `bpf` at the qdisc `clsact`.
//!
//! A filter ends with its device. For devices that faultwire made this takes less time than a tcx link: the kernel waits for an RCU grace
//! period whenever a link is attached or closed.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use crate::net::error::NetError;
use crate::net::link::{Netlink, in_netns};
use crate::net::netns::Netns;

/// A program at the ingress of a device.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    /// Index of the device.
    pub device: u32,
    /// The program; its result is what becomes of the packet.
    pub program: BorrowedFd<'a>,
    /// Its name, as `tc filter show` prints it.
    pub name: &'a str,
}

/// Adds a program to each of these devices, which have none yet.
///
/// # Errors
/// If a device is gone, or the kernel has no `clsact` or no `cls_bpf`.
pub fn add(netns: &Netns, hooks: &[Hook<'_>]) -> Result<(), NetError> {
    in_netns(netns, async |mut netlink| {
        for hook in hooks {
            netlink.create(hook, RouteNetlinkMessage::NewQueueDiscipline(qdisc(hook))).await?;
            netlink.create(hook, RouteNetlinkMessage::NewTrafficFilter(filter(hook))).await?;
        }
        Ok(())
    })
}

impl Netlink {
    async fn create(&mut self, hook: &Hook<'_>, message: RouteNetlinkMessage) -> Result<(), NetError> {
        let what =
            || format!("add the program {} to the device {} (by clsact and cls_bpf)", hook.name, hook.device);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut answers = self.handle.request(request).map_err(|error| self.refused(what, error))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(self.refused(what, rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }
}

fn message(hook: &Hook<'_>, parent: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(hook.device.cast_signed());
    message.header.parent = parent;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

fn qdisc(hook: &Hook<'_>) -> TcMessage {
    let mut message = message(hook, TcHandle::CLSACT, "clsact");
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message
}

fn filter(hook: &Hook<'_>) -> TcMessage {
    /// `ETH_P_ALL` of `linux/if_ether.h`.
    const EVERY_PROTOCOL: u16 = 3;
    const PRIORITY: u16 = 1;
    let parent = TcHandle { minor: TcHandle::MIN_INGRESS, ..TcHandle::CLSACT };
    let mut message = message(hook, parent, TcFilterBpf::KIND);
    message.header.info = TcHandle { major: PRIORITY, minor: EVERY_PROTOCOL.to_be() }.into();
    let options = [
        TcFilterBpfOption::ProgFd(hook.program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(hook.name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
    message
}
