//! The text of the kernel's trace: event formats and lines.

use std::collections::BTreeMap;

/// An event of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A device handed a packet to the stack.
    Received {
        /// The address of the packet in memory, which the kernel hashes; the hash of an address is always the same.
        address: u64,
        /// Name of the device.
        device: &'a str,
    },
    /// The kernel was done with a packet.
    Consumed {
        /// The address, as above.
        address: u64,
    },
    /// The kernel dropped a packet.
    Dropped {
        /// The address, as above.
        address: u64,
        /// The kernel's name for the reason, or its number.
        reason: &'a str,
    },
}

/// The names of the drop reasons by number, from the format of `kfree_skb`; `None` if it has none.
///
/// `print fmt: "... reason: %s", ..., __print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, { 3, "NO_SOCKET" }, ...)`
pub(super) fn reasons(format: &str) -> Option<BTreeMap<u64, String>> {
    let (_, table) = format.split_once("__print_symbolic(REC->reason,")?;
    let pairs = table.split('{').skip(1).filter_map(|entry| {
        let (number, rest) = entry.split_once(',')?;
        let name = rest.split('"').nth(1)?;
        Some((number.trim().parse().ok()?, name.to_owned()))
    });
    Some(pairs.collect())
}

/// The thread that was running when the event happened, and the event. `None` for lines of any other kind.
///
/// `  client-1234   [001] b..1.  12.345678: kfree_skb: skbaddr=00000000c0ffee00 protocol=2048 reason: TCP_FLAGS`
pub(super) fn parse_line(line: &str) -> Option<(u32, Event<'_>)> {
    // The name of a thread may hold blanks and hyphens; the CPU in brackets comes after it.
    let (who, rest) = line.split_once(" [")?;
    let task = who.trim_end().rsplit('-').next()?.parse().ok()?;
    let (_, what) = rest.split_once(": ")?;
    let (event, fields) = what.split_once(": ")?;
    let address = || u64::from_str_radix(value(fields, "skbaddr=")?.trim_start_matches("0x"), 16).ok();
    let event = match event {
        "netif_receive_skb" => Event::Received { address: address()?, device: value(fields, "dev=")? },
        "consume_skb" => Event::Consumed { address: address()? },
        "kfree_skb" => Event::Dropped { address: address()?, reason: value(fields, "reason: ")? },
        _ => return None,
    };
    Some((task, event))
}

/// The word after `key`.
fn value<'a>(fields: &'a str, key: &str) -> Option<&'a str> {
    fields.split_once(key)?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_the_table_of_the_format() {
        let format = "print fmt: \"skbaddr=%p reason: %s\", REC->skbaddr, __print_symbolic(REC->reason, \
                      { 2, \"NOT_SPECIFIED\" }, { 36, \"TCP_RFC7323_PAWS\" })";
        let table = reasons(format).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(table[&36], "TCP_RFC7323_PAWS");
        // Linux 5.16 and before.
        assert_eq!(reasons("print fmt: \"skbaddr=%p protocol=%u location=%p\", REC->skbaddr"), None);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let received = " faultwire 0-45-2211    [001] b..2.  7021.104427: netif_receive_skb: dev=fw-server skbaddr=00000000a81b2c3d len=52";
        assert_eq!(
            parse_line(received),
            Some((2_211, Event::Received { address: 0xa81b_2c3d, device: "fw-server" }))
        );
        let dropped = "          <idle>-0       [000] ..s1.  7021.104428: kfree_skb: skbaddr=00000000a81b2c3d rx_sk=0000000000000000 \
                       protocol=2048 location=tcp_v4_rcv+0x8f/0xf10 reason: TCP_RFC7323_PAWS";
        assert_eq!(
            parse_line(dropped),
            Some((0, Event::Dropped { address: 0xa81b_2c3d, reason: "TCP_RFC7323_PAWS" }))
        );
        let consumed = "  client-77  [000] ..s1.  1.2: consume_skb: skbaddr=00000000000000ff location=packet_rcv+0x1/0x2";
        assert_eq!(parse_line(consumed), Some((77, Event::Consumed { address: 255 })));
        assert_eq!(parse_line("CPU:1 [LOST 12 EVENTS]"), None);
    }
}
